"""Short runs of the command line on a small store."""

from pathlib import Path

import pandas as pd

from longview.cli import main
from longview.labels import LabelSet

ROOT = Path(__file__).resolve().parents[1]

NAMES = LabelSet.load(ROOT / "configs/labels/nih.yaml").names
TINY = ["--config", str(ROOT / "configs/experiment/nih_1000.yaml"), "--data.image_size=32", "--data.batch_size=4",
        "--data.num_workers=0", "--model.network.init_args.encoder.init_args.name=test_resnet",
        "--trainer.num_sanity_val_steps=0", "--trainer.enable_progress_bar=false",
        "--trainer.enable_model_summary=false", "--trainer.log_every_n_steps=1"]  # fmt: skip


def fit(store, root, *extra):
    main(
        ["fit", *TINY, "--test_after_fit=false", f"--data.stores={store}", f"--trainer.default_root_dir={root}", *extra]
    )
    return root / "nih_1000" / "version_0"


def predict(run_folder, output, *extra, checkpoint="best"):
    main(["predict", f"--ckpt_path={run_folder}/checkpoints/{checkpoint}.ckpt", f"--output={output}",
          "--trainer.enable_progress_bar=false", *extra])  # fmt: skip
    return pd.read_parquet(output) if output.suffix == ".parquet" else pd.read_csv(output, dtype={"patient_id": str})
