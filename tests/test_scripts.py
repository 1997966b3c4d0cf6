"""Tables over seeds: means, deviations, and what they say where a run is missing."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd

SCRIPTS = Path(__file__).parents[1] / "scripts"


def run(script, *arguments):
    """Output, error text and exit code of a script, run as its user does."""
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / script), *map(str, arguments)], capture_output=True, text=True, check=False
    )
    return done.stdout, done.stderr.strip(), done.returncode


def trained(folder, score, version=0):
    place = folder / f"version_{version}"
    place.mkdir(parents=True)
    columns = {f"test/{name}": [None, score] for name in ("map", "map_head", "map_medium", "map_tail", "auroc", "ece")}
    pd.DataFrame({"epoch": [0, 1], **columns}).to_csv(place / "metrics.csv", index=False)


def test_a_score_table_has_mean_and_deviation_of_the_newest_versions(tmp_path):
    trained(tmp_path / "mean_0", 0.9)
    trained(tmp_path / "mean_0", 0.5, version=10)
    trained(tmp_path / "mean_1", 0.7)
    trained(tmp_path / "max_0", 0.25)
    out, _, code = run("score_table.py", f"mean={tmp_path}/mean_*", f"max={tmp_path}/max_*")
    assert code == 0
    header, _, mean, maximum = out.splitlines()
    assert header == "| run | seeds | mAP | head | medium | tail | AUROC | ECE |"
    assert mean == "| mean | 2 |" + " 0.600 ± 0.141 |" * 6
    assert maximum == "| max | 1 |" + " 0.250 |" * 6


def test_a_run_that_was_not_tested_or_is_not_there_is_named(tmp_path):
    (tmp_path / "mean_0" / "version_0").mkdir(parents=True)
    out, error, code = run("score_table.py", f"mean={tmp_path}/mean_*")
    assert (out, code) == ("", 1)
    assert error.startswith(f"error: {tmp_path}/mean_0 has no test scores")
    _, error, code = run("score_table.py", f"mean={tmp_path}/none_*")
    assert code == 1
    assert "write NAME=GLOB with a glob that fits something" in error


def test_a_report_table_reads_any_figure_of_evaluations(tmp_path):
    for seed, rate in enumerate((0.02, 0.04)):
        (tmp_path / f"none_{seed}").mkdir()
        report = {"map": 0.5, "hierarchy": {"child_above_parent": {"before": rate}}}
        (tmp_path / f"none_{seed}" / "metrics.json").write_text(json.dumps(report))
    rate = "rate=hierarchy.child_above_parent.before"
    out, _, _ = run("report_table.py", "--figure", "mAP=map", "--figure", rate, f"none={tmp_path}/none_*")
    assert out.splitlines()[0] == "| run | seeds | mAP | rate |"
    assert out.splitlines()[2] == "| none | 2 | 0.500 ± 0.000 | 0.030 ± 0.014 |"
    _, error, code = run("report_table.py", "--figure", "mAP=macro.map", f"none={tmp_path}/none_*")
    assert (code, error) == (1, f"error: {tmp_path}/none_0/metrics.json has no macro.map")
