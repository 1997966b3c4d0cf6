"""Mixup and CutMix of packed studies."""

import pytest
import torch

from longview import InputError
from longview.mixing import Mixing, boxes, mix, partners


def batch(seed=0, counts=(2, 1, 3, 1)):
    generator = torch.Generator().manual_seed(seed)
    study = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    images = torch.randint(0, 256, (len(study), 1, 12, 10), generator=generator, dtype=torch.uint8)
    target = torch.randint(0, 2, (len(counts), 5), generator=generator).float()
    target[0, 0] = torch.nan
    view = torch.tensor([0, 2, 1, 0, 0, 2, 2])[: len(study)]
    return {"images": images, "study": study, "view": view, "target": target, "ids": list(range(len(counts)))}


def test_a_view_is_mixed_with_the_same_view_of_the_partner_else_with_that_at_its_place():
    study = torch.tensor([0, 0, 1, 2, 2, 2])
    view = torch.tensor([0, 2, 2, 1, 0, 2])
    assert partners(study, view, torch.tensor([2, 0, 1])).tolist() == [4, 5, 1, 2, 2, 2]
    assert partners(study, view, torch.tensor([1, 2, 0])).tolist() == [2, 2, 5, 0, 0, 1]
    assert partners(study, view, torch.tensor([0, 1, 2])).tolist() == list(range(6))
    assert partners(torch.tensor([0, 0, 0, 1, 1]), torch.tensor([0, 0, 0, 1, 1]), torch.tensor([1, 0])).tolist() == [
        3, 4, 3, 0, 1]  # fmt: skip


def test_mixup_mixes_films_and_targets_of_a_study_in_one_proportion(monkeypatch):
    torch.manual_seed(0)
    given = batch()
    drawn = {}
    monkeypatch.setattr(torch, "randperm", lambda n: drawn.setdefault("partner", torch.arange(n).roll(1)))
    mixed = mix(given, 1.0, cut=False)
    partner = drawn["partner"]
    other = given["images"][partners(given["study"], given["view"], partner)].float()
    films = given["images"].float()
    for study in range(4):
        mine = given["study"] == study
        y, y2, found = given["target"][study], given["target"][partner[study]], mixed["target"][study]
        unequal = (y != y2) & ~(y + y2).isnan()
        share = ((found - y2) / (y - y2))[unequal]
        assert share.min() > 0 and share.max() < 1 and share.std() < 1e-6
        expected = share[0] * films[mine] + (1 - share[0]) * other[mine]
        assert (mixed["images"][mine].float() - expected).abs().max() <= 0.51
    assert mixed["images"].dtype == torch.uint8


def test_cutmix_takes_a_rectangle_and_asks_for_labels_by_its_true_area():
    torch.manual_seed(1)
    inside, own = boxes(torch.tensor([0.75, 0.0, 1.0, 0.3]), 20, 16)
    assert inside.shape == (4, 20, 16)
    torch.testing.assert_close(own, 1 - inside.float().mean(dim=(1, 2)))
    assert not inside[2].any() and own[2] == 1
    for box in inside[[0, 1, 3]]:
        rows, columns = box.any(dim=1), box.any(dim=0)
        assert torch.equal(box, rows[:, None] & columns[None])
        assert rows.int().diff().abs().sum() <= 2 and columns.int().diff().abs().sum() <= 2


def test_cutmix_leaves_the_rest_of_a_film_as_it_is():
    torch.manual_seed(2)
    given = batch()
    mixed = mix(given, 1.0, cut=True)
    same = (mixed["images"] == given["images"]).float().mean(dim=(1, 2, 3))
    assert 0.2 < same.mean() < 1
    assert mixed["images"].dtype == torch.uint8


@pytest.mark.parametrize("cut", [False, True])
def test_a_label_that_either_study_does_not_know_is_unknown_and_the_others_stay_between_both(cut):
    torch.manual_seed(0)
    given = batch()
    mixed = mix(given, 0.4, cut)["target"]
    assert int(mixed[:, 0].isnan().sum()) in {1, 2} and mixed[0, 0].isnan()
    assert not mixed[:, 1:].isnan().any()
    assert mixed[:, 1:].min() >= 0 and mixed[:, 1:].max() <= 1


def test_a_share_of_the_batches_is_mixed_with_either_way():
    torch.manual_seed(0)
    callback = Mixing(0.4, 0.4, probability=0.5, switch=0.25)
    kinds = {"none": 0, "mixup": 0, "cutmix": 0}
    for seed in range(200):
        given = batch(seed)
        before = given["images"].clone()
        callback.on_train_batch_start(None, None, given, seed)
        if torch.equal(before, given["images"]):
            kinds["none"] += 1  # a partner may be the study itself
            continue
        assert given["target"].shape == (4, 5)
        copied = (given["images"][:, None] == before[None]).any(dim=1).float().mean()  # from one film or another
        kinds["cutmix" if copied > 0.99 else "mixup"] += 1
    assert 85 <= kinds["none"] <= 125
    assert 0.1 < kinds["cutmix"] / (kinds["cutmix"] + kinds["mixup"]) < 0.45


def test_one_way_alone_needs_no_switch():
    assert Mixing(0.2, 0).switch == 0
    assert Mixing(0, 1.0, switch=0.1).switch == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mixup": -1}, "mixup must be at least 0, found -1"),
        ({"probability": 2}, r"probability must be in \[0, 1\], found 2"),
        ({"mixup": 0, "cutmix": 0}, "both 0"),
    ],
)
def test_values_out_of_range_are_named(options, message):
    with pytest.raises(InputError, match=message):
        Mixing(**options)


def test_cached_features_cannot_be_mixed():
    with pytest.raises(InputError, match="leave out one of them"):
        Mixing().on_train_batch_start(None, None, batch() | {"features": torch.zeros(7, 3, 1, 1)}, 0)
