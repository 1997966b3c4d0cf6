"""A model card that was edited is never replaced, and none is ever removed."""

import logging
import shutil

import pytest

from longview import InputError
from longview.evaluate import evaluate
from longview.reporting.keeping import CARD, NEW_CARD, card_to_write, edited, sealed


def test_a_card_as_it_was_written_is_replaced_and_an_edited_one_is_not(evaluated, tmp_path, caplog):
    out = tmp_path / "out"
    out.mkdir()
    shutil.copy(evaluated.folder / CARD, out)
    options = {"bootstrap": 0, "thumbnails": False, "checkpoint": evaluated.checkpoint}
    evaluate(evaluated.predictions, evaluated.store, out, **options)
    fresh = (out / CARD).read_text()
    assert fresh != evaluated.card and not (out / NEW_CARD).exists()
    mine = fresh.replace("Research on chest X-rays", "Research on our hospital's X-rays")
    (out / CARD).write_text(mine)
    with caplog.at_level(logging.INFO, "longview"):
        evaluate(evaluated.predictions, evaluated.store, out, **options)
    assert (out / CARD).read_text() == mine and (out / NEW_CARD).read_text() == fresh
    assert f"{CARD} was edited, and stays; the new card is" in caplog.text
    with (out / NEW_CARD).open("a") as file:
        file.write("mine too")
    with pytest.raises(InputError, match="were both edited"):
        evaluate(evaluated.predictions, evaluated.store, out, **options)


@pytest.mark.parametrize(
    "change", [lambda text: text + "x", lambda text: "x" + text, lambda text: text.replace("<!--", "<!-- "),
               lambda _: "", lambda text: text.rpartition("\n<!--")[0]],
)  # fmt: skip
def test_every_change_is_an_edit(change):
    text = sealed("# Card\n\nwords\n")
    assert not edited(text) and edited(change(text))


def test_a_card_of_unknown_origin_keeps_its_place(tmp_path):
    assert card_to_write(tmp_path) == CARD
    (tmp_path / CARD).write_bytes(b"\xff of somebody")
    assert card_to_write(tmp_path) == NEW_CARD
