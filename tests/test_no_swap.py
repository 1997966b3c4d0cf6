"""A permuted, renamed or missing label column never swaps two labels, from the raw table to the submission."""

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from longview.cli import main
from longview.labels import LabelSet
from longview.submission import submit
from runs import ROOT

LABELS = LabelSet.load(ROOT / "configs/labels/nih.yaml")
NAMES = LABELS.names
OTHER = {"Effusion": "Pleural Effusion"}  # CXR-LT's name for it
PATIENTS = 30
# each label's prevalence is its own, so that a score says which label it belongs to
TRUTH = pd.DataFrame({name: (np.arange(PATIENTS) < 3 + index).astype(float) for index, name in enumerate(NAMES)})
SCORES = (TRUTH.sum() + 0.5) / (PATIENTS + 1)  # as ClassPrior smooths it


def table_of(order, renamed):
    """The raw table with its label columns in some order, some of them under the source's own names."""
    people = [f"{number:03d}" for number in range(PATIENTS)]
    ids = {"path": [f"{person}.png" for person in people], "patient_id": people, "split": "train"}
    labels = TRUTH[[NAMES[place] for place in order]].rename(columns=OTHER if renamed else {})
    return pd.concat([pd.DataFrame(ids), labels], axis=1)


@pytest.fixture(scope="module")
def journey(tmp_path_factory):
    """From a table in the given order to predictions of a model that scores each label with its prevalence."""
    root = tmp_path_factory.mktemp("swap")
    raw = root / "raw"
    raw.mkdir()
    for number in range(PATIENTS):
        Image.fromarray(np.full((16, 16), number, np.uint8)).save(raw / f"{number:03d}.png")

    def run(name, order, renamed):
        table_of(order, renamed).to_csv(root / f"{name}.csv", index=False)
        store = root / name
        main(["prepare", "--source", "table", "--root", str(raw), "--table", str(root / f"{name}.csv"),
              "--labels", str(ROOT / "configs/labels/nih.yaml"), "--val_fraction", "0", "--size", "16",
              "--output", str(store)])  # fmt: skip
        main(["fit", "--config", str(ROOT / "configs/experiment/nih_1000.yaml"), "--name", name,
              "--model", str(ROOT / "configs/model/class_prior.yaml"), f"--data.stores={store}", "--data.image_size=16",
              "--data.num_workers=0", "--test_after_fit=false", "--trainer.max_epochs=1",
              "--trainer.limit_val_batches=0", f"--trainer.default_root_dir={root}/runs",
              "--trainer.enable_progress_bar=false"])  # fmt: skip
        output = root / f"{name}.parquet"
        main(["predict", f"--ckpt_path={root}/runs/{name}/version_0/checkpoints/last.ckpt", f"--output={output}",
              "--data.predict_split=train", "--trainer.enable_progress_bar=false"])  # fmt: skip
        return pd.read_parquet(output)

    return run


@pytest.mark.parametrize(("seed", "renamed"), [(0, False), (1, True)])
def test_every_label_keeps_its_scores_whatever_the_order_and_names_of_the_columns(journey, seed, renamed):
    order = np.random.default_rng(seed).permutation(len(NAMES))
    predicted = journey(f"order{seed}", order, renamed)
    scores = predicted[NAMES].to_numpy()
    np.testing.assert_allclose(scores, np.tile(SCORES.to_numpy(), (len(scores), 1)), atol=1e-5)
    check_submissions(predicted)


def check_submissions(predicted):
    """Any order of the template's columns, and of the predictions', gives each column its own label's score."""

    @settings(max_examples=20, deadline=None, derandomize=True, database=None)
    @given(st.permutations(NAMES), st.permutations(NAMES), st.booleans())
    def check(columns, given_order, renamed):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            images = predicted["image_id"].sample(frac=1, random_state=len(columns[0]))
            template = pd.DataFrame({"dicom_id": images, **dict.fromkeys(columns, 0.5)})
            template.rename(columns=OTHER if renamed else {}).to_csv(folder / "sample.csv", index=False)
            ids = [name for name in predicted.columns if name not in NAMES]
            predicted[[*ids, *given_order]].to_csv(folder / "p.csv", index=False)
            submit(folder / "p.csv", folder / "sample.csv", folder / "out", labels=ROOT / "configs/labels/nih.yaml")
            written = pd.read_csv(folder / "out" / "submission.csv", dtype={"dicom_id": str})
        assert written["dicom_id"].tolist() == images.tolist()
        assert written.columns[1:].tolist() == [OTHER.get(name, name) if renamed else name for name in columns]
        for place, column in enumerate(columns):
            np.testing.assert_allclose(written.iloc[:, place + 1], SCORES[column], atol=1e-5)

    check()


def test_a_missing_label_column_is_an_error_not_the_next_column(tmp_path, journey):
    with pytest.raises(SystemExit):
        journey("missing", [place for place in range(len(NAMES)) if place != 4], renamed=False)
