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
# # What a model finds, and where it errs
#
# Predictions by id, scores per label, curves, and films with their findings' boxes beside the model's probabilities. It
# goes on with the run of `02_prepare_and_train`; any checkpoint and store will do.

# %% tags=["parameters"]
store, root, runs, results = "data/phantom-notebook", "data/raw/phantom-notebook", "runs", "results/notebook"

# %%
import json
import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.patches import Rectangle

from longview.cli import main
from longview.data.store import Store
from longview.predictions import labels_of, read_predictions

if Path.cwd().name == "notebooks":  # paths are those of the checkout
    os.chdir("..")
newest = max(Path(runs, "notebook").glob("version_*"), key=lambda folder: int(folder.name.removeprefix("version_")))
checkpoint = newest / "checkpoints" / "best.ckpt"
Path(results).mkdir(parents=True, exist_ok=True)
checkpoint

# %% [markdown]
# ## Predict
#
# The checkpoint carries model and preprocessing; the test part is predicted.

# %%
main(
    [
        "predict",
        *("--ckpt_path", str(checkpoint), "--data.stores", store, "--output", f"{results}/predictions.parquet"),
        *("--trainer.enable_progress_bar", "false"),
    ]
)
predictions = read_predictions(f"{results}/predictions.parquet")
predictions.head()

# %% [markdown]
# ## Evaluate
#
# Joined by id and label name; labels that cannot be ranked count in no mean.

# %%
main(["evaluate", "--predictions", f"{results}/predictions.parquet", "--truth", store, "--output", results])
scores = json.loads(Path(results, "metrics.json").read_text(encoding="utf-8"))
{name: scores[name] for name in ("map", "auroc", "skipped")}

# %%
for name in ("roc.png", "pr.png", "per_label.png"):
    picture = plt.imread(Path(results, name))
    figure, axis = plt.subplots(figsize=(11, 11 * picture.shape[0] / picture.shape[1]))
    axis.imshow(picture)
    axis.axis("off")

# %% [markdown]
# ## How far probabilities can be believed
#
# Of all cells that got a probability of about p, the share that is true (dashed: as many as said).

# %%
films = Store(store)
truth = films.manifest.table.set_index("image_id")
labels = [name for name in labels_of(predictions) if name in truth]
said = predictions.set_index("image_id")[labels]
true = truth.loc[said.index, labels]
cells = pd.DataFrame({"said": said.to_numpy().ravel(), "true": true.to_numpy().ravel()}).dropna()
bins = cells.groupby((cells["said"] * 10).astype(int).clip(upper=9)).agg({"said": "mean", "true": "mean"})
figure, axis = plt.subplots(figsize=(4, 4))
axis.plot([0, 1], [0, 1], "k--", linewidth=0.8)
axis.plot(bins["said"], bins["true"], "o-")
axis.set(xlabel="predicted", ylabel="true", xlim=(0, 1), ylim=(0, 1))

# %% [markdown]
# ## Films and boxes
#
# The films whose finding the model was surest of, and those where it missed one by most. The phantom knows where each
# finding was drawn (red); the title gives the three highest probabilities.

# %%
boxes = pd.read_csv(Path(root, "boxes.csv"), dtype={"patient_id": str}).set_index("image_id")
found = said.where(true == 1)
surest = found.max(axis=1).dropna().sort_values()
shown = [*surest.index[::-1][:4], *surest.index[:4]]
places = {name: place for place, name in enumerate(films.manifest.table["image_id"])}
figure, axes = plt.subplots(2, 4, figsize=(13, 7.5), layout="constrained")
for axis, name in zip(axes.ravel(), shown, strict=False):
    film = films.image(places[name])
    axis.imshow(film, cmap="gray", vmin=0, vmax=255)
    scale = film.shape[0] / truth.loc[name, "meta_height"]
    for box in boxes.loc[boxes.index == name].itertuples():
        corner = (box.x * scale, box.y * scale)
        axis.add_patch(Rectangle(corner, box.width * scale, box.height * scale, fill=False, color="red"))
        axis.text(*corner, box.label, color="red", fontsize=7, va="bottom")
    top = said.loc[name].sort_values(ascending=False)[:3]
    axis.set_title("\n".join(f"{label} {value:.2f}" for label, value in top.items()), fontsize=8, loc="left")
    axis.axis("off")
for axis in axes.ravel()[len(shown) :]:
    axis.axis("off")

# %% [markdown]
# The same by label: how high the model rates what is there, and what is not.

# %%
means = pd.DataFrame({"present": said.where(true == 1).mean(), "absent": said.where(true == 0).mean()})
means.assign(difference=means["present"] - means["absent"]).sort_values("difference", ascending=False).map(
    lambda value: np.round(value, 3)
)

# %% [markdown]
# ## Where the score comes from
#
# Heat-maps of the three most probable labels of the films above, in the frame of each film. Boxes of these maps, and
# their scores against true boxes, are `main.py localize`.

# %%
pd.DataFrame({"path": [Path(root, truth.loc[name, "path"]).resolve() for name in shown[:4]]}).to_csv(
    Path(results, "surest.csv"), index=False
)
main(
    [
        "explain",
        *("--model", str(checkpoint), "--input", f"{results}/surest.csv"),
        *("--method", "gradcam++", "--labels", "top-3", "--output", f"{results}/maps"),
    ]
)
pictures = sorted(Path(results, "maps").glob("*/comparison.png"))
figure, axes = plt.subplots(len(pictures), 1, figsize=(12, 4 * len(pictures)), layout="constrained", squeeze=False)
for axis, picture in zip(axes.ravel(), pictures, strict=True):
    axis.imshow(plt.imread(picture))
    axis.axis("off")
