"""Explain's output folders, made up."""

import json

import cv2
import numpy as np


def bump(shape, box, spread=1.0):
    """(H, W) in [0, 1], highest in the middle of a box."""
    rows, columns = (np.arange(side) + 0.5 for side in shape)
    x, y, width, height = box
    far = ((columns[None] - x - width / 2) / (width / 2)) ** 2 + ((rows[:, None] - y - height / 2) / (height / 2)) ** 2
    heat = np.exp(-np.log(2) * far / spread)
    return np.asarray(heat / heat.max(), np.float32)


def explained(output, image, maps, shape=(40, 60), picture=True):
    """Write one film: `maps` has (model, method, label) -> map or (map, probability)."""
    folder = output / image
    folder.mkdir(parents=True)
    if picture:
        cv2.imwrite(str(folder / "input.png"), np.full(shape, 90, np.uint8))
    entries = []
    for (model, method, label), found in maps.items():
        heat, probability = found if isinstance(found, tuple) else (found, 0.5)
        name = f"{model}_{label.replace(' ', '_')}_{method}_P1.npy"
        np.save(folder / name, np.asarray(heat, np.float32))
        entries.append(
            {"model": model, "label": label, "method": method, "layer": "4", "probability": probability,
             "sha256": "0", "files": {"map": name}, "view_share": None}
        )  # fmt: skip
    image_entry = {"path": f"{image}.png", "image_id": image, "height": shape[0], "width": shape[1]}
    text = json.dumps({"image": image_entry, "threshold": 0.5, "maps": entries})
    (folder / "metadata.json").write_text(text)
    return output
