"""The model card says what the checkpoint is, and is of no other model than the predictions."""

import json
import shutil

import pandas as pd
import pytest
import yaml

from longview import InputError
from longview.data.sources import SOURCES
from longview.evaluate import evaluate
from longview.outputs import sha256
from longview.reporting.card import model_card
from longview.reporting.model import data_sheet, read_model


def front(card):
    _, text, _ = card.split("---\n", 2)
    return yaml.safe_load(text)


def test_the_front_matter_is_that_of_a_hub_and_its_figures_are_the_evaluations(evaluated):
    found = front(evaluated.card)
    assert found["library_name"] == "longview" and "nih" in found["tags"]
    (entry,) = found["model-index"]
    (result,) = entry["results"]
    assert result["dataset"] == {"name": "nih", "type": "nih", "split": "test"}
    values = {metric["type"]: metric["value"] for metric in result["metrics"]}
    assert values["mean_average_precision"] == pytest.approx(evaluated.metrics["map"], abs=1e-4)
    assert values["roc_auc"] == pytest.approx(evaluated.metrics["auroc"], abs=1e-4)


def test_the_card_tells_model_data_licence_command_and_versions(evaluated):
    card, run = evaluated.card, evaluated.checkpoint.parent.parent
    for words in ("# nih_small", sha256(evaluated.checkpoint), "convnextv2_tiny", "| parameters | 40 |", "32 x 32 px",
                  "resize squash", "3 epochs, 30 optimizer steps", "Nodule/Mass, Effusion", "not on the machine",
                  f"uv run main.py fit --config {run / 'fit.yaml'}", "seed_everything: 7", "no restrictions on use",
                  "Wang et al.", "Not a medical device", "## Intended use", "## Limits", "## Training data",
                  "Lightning 2.6.6", "| train |", "Fewer than 30 positives", "Mean AUROC by view"):  # fmt: skip
        assert words in card, words


def test_the_page_tells_the_models_configuration(evaluated):
    for words in ("Evaluation of nih_small", "convnextv2_tiny", "seed_everything: 7", "--by view"):
        assert words in evaluated.page
    assert evaluated.metrics["model"]["data"][0]["splits"]["test"]["images"] == evaluated.metrics["rows"]


def test_a_checkpoint_that_did_not_make_the_predictions_is_refused_by_name(evaluated, tmp_path):
    other = tmp_path / "other.ckpt"
    shutil.copy(evaluated.checkpoint, other)
    assert read_model(other, evaluated.predictions, ["Effusion"])["name"] == "other"  # the same, elsewhere
    with other.open("ab") as file:
        file.write(b"\0")
    with pytest.raises(InputError, match=r"was made with .*best\.ckpt .*not with --checkpoint .*other\.ckpt"):
        evaluate(evaluated.predictions, evaluated.store, tmp_path / "out", bootstrap=0, checkpoint=other)
    assert not (tmp_path / "out").exists()


def test_predictions_that_do_not_tell_their_model_need_its_labels(evaluated, tmp_path, caplog):
    table = pd.read_parquet(evaluated.predictions)
    table.to_csv(tmp_path / "p.csv", index=False)
    read_model(evaluated.checkpoint, tmp_path / "p.csv", ["Effusion"])
    assert "does not say which model it is of" in caplog.text
    with pytest.raises(InputError, match=r"does not predict: Mass; it predicts Nodule/Mass"):
        read_model(evaluated.checkpoint, tmp_path / "p.csv", ["Effusion", "Mass"])


def test_without_the_option_the_checkpoint_is_named(evaluated, tmp_path, caplog):
    out = tmp_path / "out"
    out.mkdir()
    (out / "MODEL_CARD.md").write_text("of an earlier report")
    with caplog.at_level("INFO", "longview"):
        evaluate(evaluated.predictions, evaluated.store, out, bootstrap=0, thumbnails=False)
    assert f"give --checkpoint {evaluated.checkpoint} for a model card" in caplog.text
    assert json.loads((out / "metrics.json").read_text())["made_with"]["checkpoint"] == str(evaluated.checkpoint)
    assert f"--checkpoint {evaluated.checkpoint}</code>" in (out / "report.html").read_text()
    assert (out / "MODEL_CARD.md").read_text() == "of an earlier report"
    assert "MODEL_CARD.md is of an earlier report, and stays" in caplog.text


@pytest.mark.parametrize("source", [name for name in SOURCES if name not in {"phantom", "table", "folder"}])
def test_each_data_sheet_tells_the_licence(source):
    sheet = data_sheet(source)
    assert len(sheet["Licence"]) > 10 and sheet["about"] and ":data:" not in "".join(sheet.values())


def test_a_phantom_is_not_taken_for_the_data_set_whose_layout_it_has(evaluated):
    report = json.loads(json.dumps(evaluated.metrics))
    report["phantom"] = report["model"]["data"][0]["phantom"] = True
    card = model_card(report)
    assert "### phantom (nih)" in card and "Wang et al." not in card and "phantom" in front(card)["tags"]
