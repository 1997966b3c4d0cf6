# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     notebook_metadata_filter: kernelspec,jupytext,-jupytext.text_representation.jupytext_version
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # From raw films to a trained model
#
# The commands of the README, called from Python: `main([...])` is `uv run main.py ...`. The raw films are drawn, in the
# layout of a real data set; for real ones leave out the first step and change `source` and `root`.

# %% tags=["parameters"]
studies, size, epochs = 1000, 96, 8
source, root, store, runs = "cxr-lt-2024", "data/raw/phantom-notebook", "data/phantom-notebook", "runs"

# %%
import os
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from longview.cli import main
from longview.data.store import Store

if Path.cwd().name == "notebooks":  # paths are those of the checkout
    os.chdir("..")

# %%
main(["phantom", "--layout", source, "--studies", str(studies), "--size", str(size), "--output", root])

# %% [markdown]
# ## Prepare
#
# All checks first, without writing anything; then the store: splits by patient, films resized once and packed.

# %%
prepare = ["prepare", "--source", source, "--root", root, "--labels", "phantom", "--size", str(size), "--output", store]
main([*prepare, "--dry-run"])

# %%
if not Path(store).exists():
    main(prepare)
Store(store)

# %% [markdown]
# ## Train
#
# `configs/demo.yaml` names a trainer, a data and a model file; any option can be overridden.

# %%
main(
    [
        "fit",
        *("--config", "configs/demo.yaml", "--name", "notebook", "--trainer.default_root_dir", runs),
        *("--data.stores", store, "--data.phantom", "null", "--data.image_size", str(size)),
        *("--trainer.max_epochs", str(epochs), "--trainer.log_every_n_steps", "1"),
        *("--trainer.enable_progress_bar", "false"),
    ]
)

# %% [markdown]
# ## How it went

# %%
newest = max(Path(runs, "notebook").glob("version_*"), key=lambda folder: int(folder.name.removeprefix("version_")))
figures = pd.read_csv(newest / "metrics.csv")
figure, axes = plt.subplots(1, 3, figsize=(13, 3.5), layout="constrained")
for axis, names in zip(axes, [["train/loss", "val/loss"], ["val/map", "val/auroc"], ["train/lr"]], strict=True):
    for name in names:
        figures[["step", name]].dropna().plot(x="step", y=name, ax=axis)

# %%
figures.filter(like="test/").dropna(how="all").T

# %% [markdown]
# `03_evaluate_and_explain` goes on with the best checkpoint:

# %%
newest / "checkpoints" / "best.ckpt"
