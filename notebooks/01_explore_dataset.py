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
# # What a data set holds
#
# Splits, views, labels and films of a prepared store, and the findings' boxes where the data set has them. It shows the
# phantom (chests drawn on the spot); set `store` to one that `main.py prepare` made of real films.

# %% tags=["parameters"]
store = "data/phantom"
studies = 2000  # drawn where the store does not exist
size = 96

# %%
import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from longview.data.phantom_store import PhantomSpec, make_phantom
from longview.data.store import Store
from longview.labels import LabelSet

if Path.cwd().name == "notebooks":  # paths are those of the checkout
    os.chdir("..")
if not Path(store).exists():
    make_phantom(PhantomSpec(studies=studies, size=size), Path(store), LabelSet.load("phantom"))

# %%
films = Store(store)
manifest = films.manifest
table, labels = manifest.table, manifest.labels
films

# %% [markdown]
# ## Who is in which split
#
# A patient is in one split only, with all studies and views.

# %%
table.groupby("split")[["patient_id", "study_id", "image_id"]].nunique()

# %%
pd.crosstab(table["split"], table["view"])

# %% [markdown]
# ## Labels
#
# 1 present, 0 absent, between: soft, empty: unknown. Each study counts once.

# %%
by_study = table.drop_duplicates(["source", "study_id"])
counts = pd.DataFrame(
    {
        "present": (by_study[labels] == 1).sum(),
        "absent": (by_study[labels] == 0).sum(),
        "soft": ((by_study[labels] > 0) & (by_study[labels] < 1)).sum(),
        "unknown": by_study[labels].isna().sum(),
        "prevalence": (by_study[labels] == 1).sum() / by_study[labels].notna().sum(),
    }
).sort_values("prevalence", ascending=False)
counts.style.format({"prevalence": "{:.3f}"})

# %%
axis = counts["prevalence"].iloc[::-1].plot.barh(figsize=(7, 0.3 * len(labels) + 1), logx=True)
axis.axvline(0.10, color="k", linewidth=0.8)  # head above, tail below
axis.axvline(0.01, color="k", linewidth=0.8)
axis.set(xlabel="prevalence (lines: head above 10 %, tail below 1 %)")

# %% [markdown]
# Which labels come together: the share of a row's studies that have the column's label too.

# %%
present = (by_study[labels] == 1).to_numpy(float)
shared = present.T @ present / np.maximum(present.sum(axis=0), 1)[:, None]
figure, axis = plt.subplots(figsize=(8, 7), layout="constrained")
picture = axis.imshow(shared, cmap="Blues", vmin=0, vmax=1)
axis.set_xticks(range(len(labels)), labels, rotation=90)
axis.set_yticks(range(len(labels)), labels)
figure.colorbar(picture, ax=axis)

# %% [markdown]
# What the reports said before any policy for uncertain and unmentioned labels, where the source tells.

# %%
codes = films.codes()
names = {1: "present", 0: "absent", -1: "uncertain", -2: "blank", -3: "not in source"}
None if codes is None else codes[[name for name in labels if name in codes]].apply(
    lambda column: column.value_counts()
).T.rename(columns=names).fillna(0).astype(int)

# %% [markdown]
# ## Films
#
# The studies with most views, one a row.

# %%
largest = table.groupby("study_id").size().sort_values(ascending=False).index[:3]
figure, axes = plt.subplots(3, 4, figsize=(11, 9), layout="constrained")
for row, study in zip(axes, largest, strict=True):
    places = np.flatnonzero(table["study_id"] == study)[:4]
    found = [name for name in labels if table[name].iloc[places[0]] == 1]
    for place, axis in zip(places, row, strict=False):
        axis.imshow(films.image(int(place)), cmap="gray", vmin=0, vmax=255)
        axis.set_title(table["view"].iloc[place], fontsize=9)
    row[0].set_ylabel("\n".join(found), fontsize=8)
    for axis in row:
        axis.set(xticks=[], yticks=[])
