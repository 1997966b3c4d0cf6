"""The table of methods: per label with the best in bold, means, and labels won against the centre."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts/localization_table.py"


def run(*arguments):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)], capture_output=True, text=True, check=False
    )
    return done.stdout.splitlines(), done.stderr.strip(), done.returncode


def row(name, label, value, films, **intervals):
    figures = dict.fromkeys(("pointing", "corloc_0.3", "iou", "dice", "ap_0.3"), value)
    return {"name": name, "label": label, "films": films, **figures, **intervals}


def test_methods_and_their_mean_stand_beside_the_centre(tmp_path):
    values = {"Mass": 3, "Edema": 9}
    rows = [row(name, label, value, films) for name, value in (("m/gradcam", 0.5), ("mean", 0.75), ("centre", 0.25))
            for label, films in values.items()]  # fmt: skip
    rows[0]["pointing"] = 0.25  # no better than the centre on Mass
    rows += [row("m/gradcam", "mean over labels", 0.5, 12, pointing_low=0.4, pointing_high=0.6)]
    rows += [row(name, "mean over labels", value, 12) for name, value in (("mean", 0.75), ("centre", 0.25))]
    (tmp_path / "metrics.json").write_text(json.dumps({"figures": rows}))
    out, _, code = run(tmp_path)
    assert code == 0
    assert out[0] == "| label | films | gradcam | mean | centre |"
    assert out[2] == "| Edema | 9 | 0.50 / 0.50 | **0.75** / **0.75** | 0.25 / 0.25 |"  # frequent labels first
    assert out[7].startswith("| gradcam | 0.500 [0.40, 0.60] | 0.500 |")
    assert out[7].endswith("| 1 of 2 | 2 of 2 |")
    assert out[9].endswith("|  |  |")


def test_an_output_without_figures_is_named(tmp_path):
    assert run(tmp_path)[1:] == (f"error: {tmp_path} has no metrics.json; give an output of localize that had true "
                                 "boxes", 1)  # fmt: skip


def test_the_best_threshold_is_that_of_the_highest_iou_of_the_methods(tmp_path):
    for threshold, ours in (("0.5", 0.2), ("0.7", 0.4), ("0.9", 0.3)):
        rows = [row("m/cam", "mean over labels", ours, 2), row("centre", "mean over labels", 1 - ours, 2)]
        folder = tmp_path / f"val_{threshold}"
        folder.mkdir()
        (folder / "metrics.json").write_text(json.dumps({"figures": rows, "boxes": {"threshold": threshold}}))
    assert run("--best", *sorted(tmp_path.iterdir()))[0] == ["0.7"]
