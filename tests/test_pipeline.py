"""The pipeline's plan, and what Snakemake makes of it with commands that only touch files."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from longview import InputError, cli
from longview.pipeline import check, engine
from longview.pipeline.config import load
from longview.pipeline.plan import Plan, as_words, configuration

ROOT = Path(__file__).resolve().parents[1]
PIPELINES = sorted((ROOT / "configs/pipeline").glob("*.yaml"))

SMALL = {
    "output": "out",
    "labels": "cxr_lt_2024_task1",
    "target": {"store": "stores/target", "prepare": {"source": "cxr-lt-2024", "root": "raw/target"}},
    "externals": {"nih": {"prepare": {"source": "nih", "root": "raw/nih"}, "weight": 0.5, "pseudo": {"upper": 0.9}}},
    "teacher": {"config": ["fit.yaml"]},
    "student": {"config": ["fit.yaml"], "rounds": 2},
    "models": {"fusion": {"config": ["fit.yaml"], "options": {"trainer.max_epochs": 2}}},
    "calibrate": {"options": {"method": "platt"}},
    "tasks": {"one": {"model": "fusion", "labels": "cxr_lt_2024_task1",
                      "test": {"truth": "stores/target", "template": "raw/target/test.csv"}}},
}  # fmt: skip

# Writes what each command would, and a line for each call; dies where FAKE_DIES_AT is in its words
FAKE = r"""#!/bin/bash
words="$*"
echo "$words" >>calls.txt
value() { echo " $words " | grep -oP -- " --$1 \K[^ ]+" | tail -n 1; }
output=$(value output)
case $1 in
  prepare|pseudo)
    mkdir -p "$output"; echo "$1 of $output" >"$output/store.json"; echo rows >"$output/manifest.parquet" ;;
  fit)
    last=$(value ckpt_path)
    if [ -z "$last" ]; then
      home=$(value trainer.default_root_dir)/$(value name)
      last=$home/version_0/checkpoints/last.ckpt
      mkdir -p "$(dirname "$last")"; echo began >"$last"
    elif [ ! -e "$(dirname "$last")/best.ckpt" ]; then
      echo "went on" >>"$last"
    fi
    words="$words $last" ;;
  evaluate) mkdir -p "$output"; echo '{"map": 0.5, "auroc": null, "labels": 40, "rows": 3}' >"$output/metrics.json" ;;
  submit) mkdir -p "$output"; echo id >"$output/submission.csv" ;;
  *) mkdir -p "$(dirname "$output")"; echo "$words" >"$output" ;;
esac
if [ -n "$FAKE_DIES_AT" ] && echo "$words" | grep -q -- "$FAKE_DIES_AT"; then echo "error: no room" >&2; exit 1; fi
if [ -n "$FAKE_SLEEPS_AT" ] && echo "$words" | grep -q -- "$FAKE_SLEEPS_AT"; then sleep 30; fi
if [ "$1" = fit ]; then cp "$last" "$(dirname "$last")/best.ckpt"; fi
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty project with raw folders, one configuration file, and `longview` replaced by the fake."""
    monkeypatch.chdir(tmp_path)
    for name in ("raw/target", "raw/nih", "bin"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "raw/target/test.csv").touch()
    (tmp_path / "fit.yaml").write_text("trainer: {max_epochs: 3}\n")
    fake = tmp_path / "bin/longview"
    fake.write_text(FAKE)
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    path = f"{tmp_path}/bin{os.pathsep}{os.environ['PATH']}"
    monkeypatch.setattr(engine, "environment", lambda: {**os.environ, "PATH": path})
    monkeypatch.setattr(check, "_check_fits", lambda plan: None)
    write(SMALL)
    return tmp_path


def write(config):
    Path("pipeline.yaml").write_text(yaml.safe_dump(config))


def start(*words):
    """Exit code of `main.py pipeline`, and the calls that it made."""
    calls = Path("calls.txt")
    calls.unlink(missing_ok=True)
    try:
        cli.main(["pipeline", "--config", "pipeline.yaml", "--cores", "2", *words])
        code = 0
    except SystemExit as stop:
        code = stop.code
    return code, calls.read_text().splitlines() if calls.is_file() else []


def verbs(calls):
    return [call.split()[0] for call in calls]


def small(**changes):
    return Plan(load_text({**SMALL, **changes}), Path("pipeline.yaml"))


def load_text(config):
    write(config)
    return load(Path("pipeline.yaml"))


# ---- the plan --------------------------------------------------------------------------------------------------


def test_each_step_reads_what_an_earlier_one_made(place):
    made = set()
    for step in small().steps:
        assert set(step.inputs) <= made, step.name
        made.add(step.output)


def test_a_round_is_predict_pseudo_student_and_each_student_labels_for_the_next(place):
    plan = small()
    names = [step.name for step in plan.steps]
    assert names == [
        "prepare_target", "prepare_nih", "teacher",
        "predict_nih_1", "pseudo_nih_1", "student_1", "predict_nih_2", "pseudo_nih_2", "student_2",
        "fusion", "predict_fusion_val", "predict_fusion_test", "calibrate_fusion",
        "evaluate_one_test", "submit_one_test",
    ]  # fmt: skip
    words = {step.name: " ".join(step.words) for step in plan.steps}
    assert "--data.stores stores/target " in words["teacher"] and "pretrained" not in words["teacher"]
    assert "--ckpt_path out/checkpoints/teacher.ckpt" in words["predict_nih_1"]
    assert "--ckpt_path out/checkpoints/student_1.ckpt" in words["predict_nih_2"]
    assert "--model.pretrained out/checkpoints/student_1.ckpt" in words["student_2"]
    assert "--model.pretrained out/checkpoints/student_2.ckpt" in words["fusion"]
    assert '{"stores/target": 1.0, "out/pseudo/round_2/nih": 0.5}' in words["student_2"]
    assert "ckpt_path" not in "".join(words[name] for name in ("student_1", "student_2", "fusion"))  # fresh optimizer


@pytest.mark.parametrize(
    ("weights", "words"),
    [("scratch", ""), ("teacher", "--model.pretrained out/checkpoints/teacher.ckpt"),
     ("big.ckpt", "--model.pretrained big.ckpt")],
)  # fmt: skip
def test_a_student_begins_with_the_weights_that_are_asked_for(place, weights, words):
    step = small(student={"config": ["fit.yaml"], "weights": weights}).step("student_1")
    text = " ".join(step.words)
    assert words in text and ("pretrained" in text) == bool(words)


def test_calibration_changes_what_is_submitted_only_where_asked(place):
    assert "--calibration" not in small().step("submit_one_test").words
    asked = small(calibrate={"submit": True}).step("submit_one_test")
    assert "--calibration" in asked.words and "out/calibration/fusion/calibration.json" in asked.inputs
    without = small(calibrate=None)
    assert not [step.name for step in without.steps if "calibrate" in step.name or step.name.endswith("_val")]


def test_a_pipeline_without_students_uses_the_teacher(place):
    task = {"one": {"model": "student", "labels": "cxr_lt_2024_task1", "test": {"template": "raw/target/test.csv"}}}
    plan = small(student=None, externals={}, models={}, tasks=task)
    assert "out/checkpoints/teacher.ckpt" in plan.step("predict_student_test").inputs


def test_a_drawn_data_set_is_made_before_what_reads_it(place):
    target = {"prepare": {"source": "nih"}, "phantom": {"layout": "nih", "studies": 9}}
    task = {"one": {"model": "student", "labels": "nih", "test": {"template": "out/raw/target/test.csv"}}}
    plan = small(target=target, student=None, externals={}, models={}, tasks=task)
    assert plan.step("prepare_target").inputs == ("out/done/phantom_target.txt",)
    assert "out/done/phantom_target.txt" in plan.step("submit_one_test").inputs
    assert check._missing(plan) == []


def test_options_are_written_as_on_a_command_line():
    options = {"a": None, "b": True, "c": 1.5, "d": "x y", "e": ["nan", 1], "f": {"g": 2}}
    assert as_words(options) == ["--a", "null", "--b", "true", "--c", "1.5", "--d", "x y", "--e", '["nan", 1]',
                                 "--f", '{"g": 2}']  # fmt: skip


def test_a_configuration_is_what_its_files_say_and_not_how(tmp_path):
    (tmp_path / "part.yaml").write_text("size: 1\n")
    (tmp_path / "whole.yaml").write_text("model: part.yaml\n")
    before = configuration([str(tmp_path / "whole.yaml")])
    (tmp_path / "part.yaml").write_text("# said otherwise\nsize:   1\n")
    assert configuration([str(tmp_path / "whole.yaml")]) == before
    (tmp_path / "part.yaml").write_text("size: 2\n")
    assert configuration([str(tmp_path / "whole.yaml")]) != before


@pytest.mark.parametrize("file", PIPELINES, ids=lambda file: file.name)
def test_a_shipped_pipeline_is_one(file, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(check, "_check_fits", lambda plan: None)
    plan = Plan(load(file), file)
    check.check(plan)
    assert file.read_text().splitlines()[0].endswith(f"main.py pipeline --config configs/pipeline/{file.name}")
    assert {"predict", "pseudo", "calibrate", "submit"} <= {step.kind for step in plan.steps}
    assert {step.name for step in plan.steps} >= {f"submit_task{task}_test" for task in (1, 2, 3)}


# ---- mistakes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("techer", {}, "techer is no key; there are output, labels"),
        ("labels", 3, "labels is 3; give text"),
        ("student", {"config": ["fit.yaml"], "rounds": "two"}, "student.rounds is 'two'; give a whole number"),
        ("student", {"config": ["fit.yaml"], "rounds": 0}, "student.rounds is 0; give at least 1"),
        ("student", {"rounds": 1}, "student.config is missing; add it"),
        ("student", None, "externals without a student are not read"),
        ("externals", {}, "a student needs externals"),
        ("externals", {"n-h": {"store": "x"}}, "'n-h' is no name"),
        ("externals", {"student": {"store": "x"}}, "'student' is taken"),
        ("externals", {"nih": {"store": "x", "weight": 0}}, "externals.nih.weight is 0.0; give a number above 0"),
        ("externals", {"nih": {}}, "externals.nih needs `prepare:`"),
        ("target", {"prepare": {"root": "raw"}}, "target.prepare.source is missing"),
        ("target", {"prepare": {"source": "nih"}}, "target.prepare.root: give the raw data's folder"),
        ("teacher", {"config": "fit.yaml"}, "teacher.config is 'fit.yaml'; give a list"),
        ("tasks", {}, "tasks is empty"),
        ("tasks", {"one": {"model": "fuson", "labels": "nih"}}, "tasks.one.model is 'fuson'; give one of fusion"),
        ("tasks", {"one": {"model": "fusion", "labels": "nih", "test": {}}}, "tasks.one has nothing to do"),
        ("tasks", {"one": {"model": "fusion", "labels": "nih", "test": {"truth": "x", "split": "train"}}},
         "tasks.one.test.split is 'train'; give val or test"),
        ("models", {"a": {"config": []}, "fusion": {"config": []}}, "models.a answers no task"),
        ("resources", {"fti": {}}, "resources.fti is no command; give phantom, prepare, fit"),
        ("resources", {"fit": {"threads": 0}}, "resources.fit.threads is 0; give at least 1"),
        ("resources", {"fit": {"cpus": 1}}, "resources.fit.cpus is no key"),
    ],
)  # fmt: skip
def test_a_mistake_names_file_key_and_remedy(place, key, value, message):
    write({**SMALL, key: value})
    with pytest.raises(InputError) as error:
        load(Path("pipeline.yaml"))
    assert str(error.value).startswith(f"pipeline.yaml: {message}") or message in str(error.value)
    assert "pipeline.yaml" in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": "cxr_lt_2042"}, "cxr_lt_2042"),
        ({"calibrate": {"options": {"metod": "platt"}}},
         "calibrate.options.metod is no option of main.py calibrate; did you mean method?"),
        ({"calibrate": {"options": {"output": "x"}}}, "calibrate.options.output is given by the pipeline"),
        ({"externals": {"nih": {"store": "s", "pseudo": {"lowr": 1}}}}, "externals.nih.pseudo.lowr is no option"),
        ({"teacher": {"config": [], "options": {"data.init_args.stores": "x"}}},
         "teacher.options.data.init_args.stores is given by the pipeline"),
        ({"student": {"config": [], "options": {"model.pretrained": "x"}}}, "write student.weights"),
        ({"teacher": {"config": ["no.yaml"]}}, "no.yaml"),
    ],
)  # fmt: skip
def test_a_mistake_in_an_option_is_found_before_the_first_step(place, capsys, changes, message):
    write({**SMALL, **changes})
    assert start() == (2, [])
    assert message in capsys.readouterr().err


def test_raw_data_that_are_not_there_are_named(place, capsys):
    Path("raw/nih").rmdir()
    Path("raw/target/test.csv").unlink()
    assert start() == (2, [])
    assert "externals.nih.prepare.root raw/nih is no folder" in capsys.readouterr().err
    assert len(check._missing(small())) == 2


def test_a_step_that_does_not_exist_is_named_with_those_that_do(place, capsys):
    assert start("--until", "studnt_1") == (2, [])
    assert "'studnt_1'; there are prepare_target" in capsys.readouterr().err


# ---- with the engine -------------------------------------------------------------------------------------------


def test_what_is_done_is_not_done_again_and_what_changed_is(place, capsys):
    code, calls = start()
    assert code == 0 and len(calls) == 15
    assert "0.5000" in capsys.readouterr().out
    commands = [Path(f"out/logs/{step.name}.log").read_text() for step in small().steps]
    assert all("$ longview " in text for text in commands)

    assert start() == (0, [])

    # another option of a last stage: that stage anew, with its old run kept, and what comes of it
    write({**SMALL, "models": {"fusion": {"config": ["fit.yaml"], "options": {"trainer.max_epochs": 4}}}})
    code, calls = start()
    assert verbs(calls)[0] == "fit" and "ckpt_path" not in calls[0]
    assert sorted(verbs(calls)) == ["calibrate", "evaluate", "fit", "predict", "predict", "submit"]
    assert len([run for run in Path("out/runs").iterdir() if run.name.startswith("fusion.")]) == 1

    # a result that was deleted; words behind -- are Snakemake's
    Path("out/submissions/one_test/submission.csv").unlink()
    assert verbs(start("--", "--quiet", "all")[1]) == ["submit"]

    # prepare again, which makes the same store: what follows is repeated, but nothing is trained anew
    Path("out/done/prepare_nih.txt").unlink()
    calls = start()[1]
    assert verbs(calls)[0] == "prepare"
    assert [call.split()[1] for call in calls if call.startswith("fit")] == ["--ckpt_path"] * 3


def test_a_training_that_failed_goes_on_and_nothing_before_it_is_repeated(place, monkeypatch, capsys):
    monkeypatch.setenv("FAKE_DIES_AT", "runs/student_1/")
    code, calls = start()
    assert code == 1 and calls[-1].startswith("fit") and "predict_nih_2" not in "".join(calls)
    monkeypatch.delenv("FAKE_DIES_AT")

    assert start("--dry-run")[0] == 0
    out = capsys.readouterr().out
    assert (
        "[5/15] pseudo_nih_1: done" in out
        and "[6/15] student_1: goes on" in out
        and "[7/15] predict_nih_2: to do" in out
    )
    assert "9 to do" not in out and "10 to do" in out

    code, calls = start("--until", "student_1")
    assert (code, calls) == (0, ["fit --ckpt_path out/runs/student_1/version_0/checkpoints/last.ckpt"])
    assert Path("out/checkpoints/student_1.ckpt").read_text() == "began\nwent on\n"

    # its teacher is another one now: what was half-trained is worth nothing
    monkeypatch.setenv("FAKE_DIES_AT", "runs/student_2/")
    assert start()[0] == 1
    monkeypatch.delenv("FAKE_DIES_AT")
    write({**SMALL, "seed": 7})
    code, calls = start("--until", "student_2")
    assert code == 0 and not any("--ckpt_path out/runs" in call for call in calls)


def test_a_killed_pipeline_goes_on_when_its_orphans_are_done(place):
    path = engine.environment()["PATH"]
    code = (
        "import os; from longview import cli; from longview.pipeline import check, engine\n"
        "check._check_fits = lambda plan: None\n"
        f"engine.environment = lambda: {{**os.environ, 'PATH': {path!r}}}\n"
        "cli.main(['pipeline', '--config', 'pipeline.yaml', '--cores', '2'])"
    )
    command = [sys.executable, "-c", code]
    environment = {**os.environ, "FAKE_SLEEPS_AT": "runs/teacher/"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, start_new_session=True)
    last = Path("out/runs/teacher/version_0/checkpoints/last.ckpt")
    deadline = time.monotonic() + 60
    while not last.is_file() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert last.is_file()
    assert start()[0] == 2  # another one is at work

    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    code, calls = start("--until", "teacher")
    assert (code, verbs(calls)) == (0, ["fit"]) and "--ckpt_path" in calls[0]


def test_steps_say_to_slurm_what_they_need(place):
    prepare = {"threads": 4, "gpus": 2, "memory_gb": 64, "minutes": 90, "partition": "fast"}
    write({**SMALL, "resources": {"prepare": prepare}})
    for name, text in {"sbatch": 'echo "$@" >>sbatch.txt; exit 1', "sacctmgr": "echo us", "sinfo": "echo fast"}.items():
        (place / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (place / "bin" / name).chmod(0o755)
    assert start("--executor", "slurm", "--", "--default-resources", "slurm_account=us",
                 "--slurm-init-seconds-before-status-checks", "1") == (1, [])  # fmt: skip
    asked = Path("sbatch.txt").read_text()
    for words in ("-t 90", "--mem 64000", "--cpus-per-task=4", "--gpus=2", "-p fast", "-A us"):
        assert words in asked.replace("'", ""), (words, asked)


def test_a_container_is_handed_on_and_a_cluster_decides_about_its_own_cores(place):
    plan = small(container="image.sif")
    here = engine.arguments(plan, cores=3, until="teacher", executor=None, profile=None)
    there = engine.arguments(plan, cores=3, until=None, executor="slurm", profile="ours", extra=["--retries", "2"])
    text = " ".join(here)
    assert "--cores 3 --resources machine=1" in text and "--until teacher" in text and "apptainer" in text
    text = " ".join(there)
    assert "--jobs 3" in text and "--cores" not in text and "machine" not in text and text.endswith("--retries 2")


def test_the_scripts_are_correct_bash(place):
    plan = small()
    engine.write_scripts(plan)
    for step in plan.steps:
        subprocess.run(["bash", "-n", engine.script_of(plan, step)], check=True)
    assert json.loads(json.dumps(engine.script(plan, plan.steps[0]))).startswith("#!/usr/bin/env bash\n# [1/15]")
