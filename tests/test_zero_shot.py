"""Labels that training never saw, from raw files to a submission: the challenge's task 3 on a phantom in its layout."""

import pandas as pd
import pytest

from longview.cli import main
from longview.labels import LabelSet

SMALL = ["--config", "configs/experiment/cxr_lt_2024_zero_shot.yaml", "--config", "configs/overlay/cpu.yaml",
         "--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.limit_val_batches=2",
         "--trainer.num_sanity_val_steps=0", "--trainer.val_check_interval=1.0", "--trainer.enable_progress_bar=false",
         "--trainer.precision=32-true", "--data.image_size=32", "--data.batch_size=4", "--data.num_workers=0",
         "--model.network.init_args.encoder.init_args.name=test_resnet",
         "--model.network.init_args.encoder.init_args.pretrained=false",
         "--model.network.init_args.encoder.init_args.drop_path=0",
         "--model.network.init_args.decoder.init_args.queries.init_args.text.init_args.encoder=random"]  # fmt: skip


@pytest.fixture(scope="module")
def task3(project_root):
    return LabelSet.load(project_root / "configs/labels/cxr_lt_2024_task3.yaml")


def test_task_3_goes_from_raw_files_to_a_submission_of_the_unseen_labels(task3, tmp_path, project_root, monkeypatch):
    monkeypatch.chdir(project_root)
    raw, store = tmp_path / "raw", tmp_path / "store"
    main(
        [
            "phantom",
            "--layout",
            "cxr-lt-2024",
            "--studies",
            "60",
            "--size",
            "32",
            "--output",
            str(raw),
            "--workers",
            "0",
        ]
    )
    # the phantom has none of the unseen labels: some are written into the evaluation tables, to have something to score
    for part in ("development", "test"):
        file = raw / f"{part}_labeled_task3.csv"
        table = pd.read_csv(file, dtype={"subject_id": str})
        table.loc[table["study_id"].isin(table["study_id"].unique()[::2]), task3.unseen_names] = 1
        table.to_csv(file, index=False)
    main(["prepare", "--source", "cxr-lt-2024", "--root", str(raw), "--labels", "cxr_lt_2024_task3", "--size", "32",
          "--output", str(store), "--workers", "0"])  # fmt: skip
    main(["fit", *SMALL, f"--data.stores={store}", f"--trainer.default_root_dir={tmp_path}/runs"])
    checkpoint = tmp_path / "runs/cxr_lt_2024_zero_shot/version_0/checkpoints/best.ckpt"
    main(["predict", f"--ckpt_path={checkpoint}", f"--output={tmp_path}/p.parquet", "--data.predict_split=val",
          "--trainer.enable_progress_bar=false"])  # fmt: skip
    predicted = pd.read_parquet(tmp_path / "p.parquet")
    assert list(predicted.columns[-45:]) == [*task3.names, *task3.unseen_names]
    main(
        [
            "evaluate",
            "--predictions",
            str(tmp_path / "p.parquet"),
            "--truth",
            str(store),
            "--output",
            str(tmp_path / "e"),
        ]
    )
    rows = pd.read_csv(tmp_path / "e/per_label.csv", keep_default_na=False).set_index("label")
    assert (rows.loc[task3.unseen_names, "group"] == "unseen").all()
    assert (rows.loc[task3.unseen_names, "auroc"] != "").all()
    template = raw / "development_labeled_task3.csv"
    main(
        [
            "submit",
            "--predictions",
            str(tmp_path / "p.parquet"),
            "--template",
            str(template),
            "--output",
            str(tmp_path / "s"),
        ]
    )
    (file,) = tmp_path.rglob("s/*.csv")
    submitted = pd.read_csv(file)
    assert set(task3.unseen_names) <= set(submitted.columns)
    assert sorted(submitted["dicom_id"]) == sorted(pd.read_csv(template)["dicom_id"])
