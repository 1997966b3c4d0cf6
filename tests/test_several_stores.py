"""Training on stores that know different labels: no label learns from films whose source does not know it."""

import numpy as np
import pandas as pd
import pytest
import torch

from longview.cli import main
from longview.data.store import Store
from longview.data.studies import StudyDataset
from longview.labels import Label, LabelSet
from longview.losses import (
    ASL,
    BCE,
    LDAM,
    RAL,
    ClassBalanced,
    Deferred,
    DistributionBalanced,
    Focal,
    LabelSmoothing,
    WeightedBCE,
)
from longview.models.decoder import LabelDecoder, LinearDecoder
from longview.models.encoder import Encoder
from longview.models.fusion import TransformerFusion
from longview.models.network import StudyNetwork
from longview.ranking import per_label, summarise
from runs import predict

ONLY_FIRST, ONLY_SECOND, BOTH = "Hernia", "Fracture", "Edema"
LABELS = LabelSet("three", [Label(ONLY_SECOND), Label(BOTH), Label(ONLY_FIRST)])
LOSSES = [
    BCE, Focal, ASL, lambda: ASL(weighted=True), RAL, WeightedBCE, ClassBalanced, DistributionBalanced, LDAM,
    lambda: LabelSmoothing(BCE(), 0.1), lambda: Deferred(LDAM(), ClassBalanced(), 0.5),
]  # fmt: skip


@pytest.fixture(scope="module")
def stores(make_store):
    """Single frontal films that know two labels, and studies of up to two views that know two; one is in both."""
    first = make_store([BOTH, ONLY_FIRST], source="nih", patients=32)
    second = make_store([ONLY_SECOND, BOTH], source="mimic", patients=32, seed=1)
    for folder, letter, keep in ((first, "n", "PA"), (second, "m", None)):
        table = pd.read_parquet(folder / "manifest.parquet")
        for column in ("patient_id", "study_id", "image_id"):
            table[column] = letter + table[column]
        if keep:
            table["view"] = keep
            table["study_id"] = table["image_id"]
        table.to_parquet(folder / "manifest.parquet")
    return first, second


@pytest.fixture(scope="module")
def batch(stores):
    """Half of the studies are of the first store, half of the second."""
    data = StudyDataset([Store(path) for path in stores], LABELS, split=["train"], level="study", image_size=32)
    first, total = data.sizes[0], len(data)
    return data, data.__getitems__([*range(6), *range(first, first + 6)]), data.__getitems__(range(first, total))


def told(loss, targets):
    """A loss that has been told all that a run tells it."""
    known = ~np.isnan(targets)
    loss.set_labels(LABELS)
    loss.set_counts(torch.tensor(np.nansum(targets, axis=0)), torch.tensor(known.sum(axis=0)))
    loss.set_targets(torch.tensor(targets))
    loss.set_progress(1.0)
    return loss


@pytest.mark.parametrize("make", LOSSES)
def test_no_loss_gives_a_logit_of_an_unknown_label_any_gradient_or_heed(make, batch):
    data, mixed, _ = batch
    loss = told(make(), data.targets)
    target = mixed["target"]
    unknown = target.isnan()
    assert unknown[:6, 0].all() and unknown[6:, 2].all() and not unknown[:, 1].any()
    logits = torch.randn(target.shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    value = loss(logits, target)
    value.backward()
    assert (logits.grad[unknown] == 0).all()
    assert (logits.grad[~unknown] != 0).any(dim=0)
    with torch.no_grad():
        assert loss(torch.where(unknown, 50.0, logits), target) == value


def network(decoder):
    torch.manual_seed(0)
    fusion = TransformerFusion(width=32, layers=1, heads=2, feedforward=32)
    made = StudyNetwork(Encoder("test_resnet"), decoder, fusion)
    made.build(LABELS, 32)
    return made.train()


def forward(net, batch):
    return net(batch["images"], batch["study"], batch["view"], len(batch["ids"]))


@pytest.mark.parametrize("make", [LinearDecoder, lambda: LabelDecoder(width=32, heads=2, feedforward=32)])
def test_a_label_known_to_one_source_gets_exactly_no_gradient_from_the_other(make, batch):
    data, mixed, second = batch
    net = network(make())
    loss = told(ASL(), data.targets)
    loss(forward(net, second), second["target"]).backward()
    own = {name: value for name, value in net.named_parameters() if name in net.per_label()}
    own |= {name: value for name, value in net.named_parameters() if "queries" in name and len(value) == 3}
    assert own
    for name, value in own.items():
        assert (value.grad[2] == 0).all(), name
        assert (value.grad[:2] != 0).flatten(1).any(dim=1).all() if value.ndim > 1 else (value.grad[:2] != 0).all()
    logits = forward(net, mixed)
    logits.retain_grad()
    loss(logits, mixed["target"]).backward()
    assert (logits.grad[6:, 2] == 0).all() and (logits.grad[:6, 0] == 0).all()
    assert (logits.grad[:6, 2] != 0).any() and (logits.grad[6:, 0] != 0).any()


# ---- the command line ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(stores, tmp_path_factory):
    """A run on both, at the level of studies, with weights and with rare labels shown more often."""
    root = tmp_path_factory.mktemp("several")
    names = root / "three.yaml"
    names.write_text("name: three\nlabels:\n" + "".join(f"  - {{name: {name}}}\n" for name in LABELS.names))
    passes = f"{{{stores[0]}: 1.0, {stores[1]}: 0.5}}"
    main(["fit", "--config", "configs/demo.yaml", "--trainer.max_epochs=2", "--trainer.num_sanity_val_steps=0",
          "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false",
          f"--trainer.default_root_dir={root}", f"--data.labels={names}", f"--data.stores={passes}",
          "--data.phantom=null", "--data.level=study", "--data.image_size=32", "--data.batch_size=4",
          "--data.num_workers=0", "--data.sampling=longview.data.sampling.SquareRoot",
          "--model.network.init_args.encoder.init_args.name=test_resnet"])  # fmt: skip
    return root / "demo" / "version_0"


def test_a_run_on_two_stores_has_figures_of_each(run):
    figures = pd.read_csv(run / "metrics.csv")
    for part, rows in (("val", 2), ("test", 1)):
        for key in ("map", "auroc", "map_nih", "auroc_nih", "map_mimic", "auroc_mimic"):
            assert figures[f"{part}/{key}"].notna().sum() == rows, key


def test_the_figures_of_a_store_are_those_of_predicting_it_alone(run, stores, tmp_path):
    figures = pd.read_csv(run / "metrics.csv")
    for name, folder in zip(("nih", "mimic"), stores, strict=True):
        scores = predict(run, tmp_path / f"{name}.parquet", f"--data.stores={folder}")
        data = StudyDataset([Store(folder)], LABELS, split=["test"], level="study", missing_labels="warn")
        keys = [data.key(place).study_id for place in range(len(data))]
        scores = scores.set_index("study_id").loc[keys, LABELS.names]
        expected = summarise(LABELS.names, per_label(scores.to_numpy(np.float32), data.targets))
        for key in ("map", "auroc"):
            assert figures[f"test/{key}_{name}"].dropna().item() == pytest.approx(expected[key], abs=1e-6)


def test_the_table_has_a_column_for_each_store(run, capsys):
    main(["validate", f"--ckpt_path={run}/checkpoints/best.ckpt", "--trainer.enable_progress_bar=false"])
    out = capsys.readouterr().out
    words = " ".join(out.split())
    assert "AP nih" in words and "AP mimic" in words
    cells = next(line for line in out.splitlines() if ONLY_FIRST in line).split("│")
    assert cells[-2].strip() == "-" and cells[-3].strip() != "-"  # mimic does not know it


def test_one_of_the_stores_may_be_scored_alone_without_the_labels_that_it_lacks(run, stores, capsys, caplog):
    main(["validate", f"--ckpt_path={run}/checkpoints/best.ckpt", "--trainer.enable_progress_bar=false",
          f"--data.stores={stores[1]}"])  # fmt: skip
    out = capsys.readouterr().out
    assert ONLY_FIRST in out and "AP mimic" not in " ".join(out.split())
    assert f"No store has the labels {ONLY_FIRST}" in caplog.text


def test_the_predictions_name_their_checkpoint(run, stores, tmp_path):
    from longview.predictions import checkpoint_of

    predict(run, tmp_path / "p.parquet", f"--data.stores={stores[1]}")
    assert checkpoint_of(tmp_path / "p.parquet") == f"{run}/checkpoints/best.ckpt"
    predict(run, tmp_path / "p.csv", f"--data.stores={stores[1]}")
    assert checkpoint_of(tmp_path / "p.csv") is None
