"""An evaluation of a small real store, with subgroups, thresholds and names that HTML and JSON pointers must escape."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from longview.calibration.calibrate import calibrate
from longview.data.store import Store
from longview.evaluate import evaluate
from longview.labels import LabelSet
from longview.outputs import sha256
from longview.predictions import MODEL
from longview.uncertainty.summary import METHOD, Uncertainty, companion, long_table, write_uncertainty

NAMES = ["Nodule/Mass", "Effusion", "A <b>&\"~' label", "Hernia", "Never"]


def guess(table, seed=0):
    """Probabilities that know something of the labels."""
    rng = np.random.default_rng(seed)
    keys = table[["patient_id", "study_id", "image_id"]].reset_index(drop=True)
    truth = table[NAMES].to_numpy()
    logits = 1.5 * truth - 1 + rng.normal(size=truth.shape)
    return keys.assign(**dict(zip(NAMES, (1 / (1 + np.exp(-logits))).T.astype(np.float32), strict=True)))


def doubt(table, path, seed=0):
    """Write a table of uncertainty of predictions, from samples about them."""
    rng = np.random.default_rng(seed)
    values = table[NAMES].to_numpy(np.float64)
    noise = rng.normal(scale=0.1, size=(4, *values.shape)) * (0.2 + values * (1 - values))
    ids = table[["patient_id", "study_id", "image_id"]]
    about = {METHOD: {"method": "mc-dropout", "samples": 4, "seed": 0}} | table.attrs
    write_uncertainty(long_table(ids, NAMES, Uncertainty.of((values + noise).clip(0, 1))), path, about)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """What a run leaves, but for the weights."""
    folder = tmp_path_factory.mktemp("runs") / "nih_small" / "version_0"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "fit.yaml").touch()
    labels = LabelSet.from_dict({"name": "small", "labels": [{"name": name} for name in NAMES]}).to_dict()
    encoder = {"class_path": "longview.models.encoder.Encoder", "init_args": {"name": "convnextv2_tiny"}}
    options = {"network": {"class_path": "x.StudyNetwork", "init_args": {"encoder": encoder}}}
    about = {"version": "0.1.0", "labels": labels, "image_size": 32, "preprocessing": {"size": 32, "resize": "squash"},
             "config": {"seed_everything": 7, "model": {"init_args": options},
                        "data": {"init_args": {"labels": labels, "stores": ["STORE", "gone"]}}}}  # fmt: skip
    file = folder / "checkpoints" / "best.ckpt"

    def write(store):
        about["config"]["data"]["init_args"]["stores"][0] = str(store)
        torch.save({"state_dict": {"network.head": torch.zeros(5, 8)}, "longview": about, "epoch": 2, "global_step": 30,
                    "pytorch-lightning_version": "2.6.6"}, file)  # fmt: skip
        return file

    return write


@pytest.fixture(scope="session")
def evaluated(tmp_path_factory, make_store, checkpoint):
    """Folder, page, metrics and files of an evaluation with everything switched on."""
    folder = tmp_path_factory.mktemp("evaluated")
    store = make_store(NAMES, patients=80, source="nih")
    manifest = Store(store).manifest.table.copy()
    manifest["Never"] = 0.0
    manifest.to_parquet(store / "manifest.parquet", index=False)
    file = checkpoint(store)
    for split in ("val", "test"):
        table = guess(manifest[manifest["split"] == split])
        table.attrs = {MODEL: sha256(file), "checkpoint": str(file)}
        table.to_parquet(folder / f"{split}.parquet", index=False)
    doubt(table.sample(frac=1, random_state=1), companion(folder / "test.parquet"))
    calibrate(folder / "val.parquet", store, folder / "calibration.json", method="temperature")
    (folder / "groups.yaml").write_text("lung: [Nodule/Mass, Effusion]\n")
    out = folder / "out"
    evaluate(folder / "test.parquet", store, out, by="view", bootstrap=50, checkpoint=file, preset="cxr-lt",
             calibration=folder / "calibration.json", groups=folder / "groups.yaml",
             uncertainty=folder / "test.uncertainty.parquet")  # fmt: skip
    return SimpleNamespace(
        names=NAMES, doubt=doubt, folder=out, store=store, predictions=folder / "test.parquet", checkpoint=file,
        page=(out / "report.html").read_text(encoding="utf-8"),
        metrics=json.loads((out / "metrics.json").read_text(encoding="utf-8")),
        card=(out / "MODEL_CARD.md").read_text(encoding="utf-8"),
    )  # fmt: skip
