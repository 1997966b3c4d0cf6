"""The pipeline's plan, and what Snakemake makes of it with commands that only touch files."""

import json
import logging
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
from longview.data.manifest import Manifest
from longview.data.prepare import prepare_manifest
from longview.data.store import Store
from longview.downloading.archives import ARCHIVES
from longview.pipeline import archives, check, engine, parsing
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
  pipeline) ;;
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
    monkeypatch.setattr(check, "check_trainings", lambda plan: None)
    monkeypatch.setattr(check, "check_stores", lambda plan: None)  # those of the fake are none
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


def option(key, value):
    """SMALL with another option, such as `externals.nih.prepare.votes`, and with vinbig beside nih."""
    config = json.loads(json.dumps(SMALL))
    config["externals"]["vinbig"] = {"prepare": {"source": "vinbig", "root": "raw/nih"}}
    *path, last = key.split(".")
    place = config
    for name in path:
        place = place.setdefault(name, {})
    place[last] = value
    return config


def load_text(config):
    write(config)
    return load(Path("pipeline.yaml"))


# ---- the plan --------------------------------------------------------------------------------------------------


def test_each_step_reads_what_an_earlier_one_made(place):
    made = set()
    for step in small().steps:
        assert {*step.inputs, *step.after} <= made, step.name
        made.add(step.output)


def test_a_round_is_predict_pseudo_student_and_each_student_labels_for_the_next(place):
    plan = small()
    names = [step.name for step in plan.steps]
    assert names == [
        "prepare_target", "prepare_nih", "check_stores", "teacher",
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
    monkeypatch.setattr(check, "check_trainings", lambda plan: None)
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


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("calibrate.options.method", "temprature", "expected one of ['temperature', 'vector', "),
        ("calibrate.options.method", "temprature", "Got value: temprature; see main.py calibrate --help"),
        ("calibrate.options.minimum", "ten", "expected int. Got value: ten"),
        ("calibrate.options.minimum", -1, "-1; give 0 or more"),
        ("calibrate.options.folds", 1, "folds is 1; give 2 or more"),
        ("calibrate.options.threshold", "f2", "f2"),
        ("externals.vinbig.pseudo.fill", "nna", "expected one of ['nan', 'uncertain', 'blank']"),
        ("externals.vinbig.pseudo.fill", ["nan", "blank"], "vinbig does not say which cells are; leave it out"),
        ("externals.vinbig.pseudo.joint", {"Nodule/Mas": ["Nodule", "Mass"]},
         "'Nodule/Mas' is no label of vinbig; did you mean Nodule/Mass?"),
        ("externals.vinbig.pseudo.joint", {"Nodule/Mass": ["Nodule", "Mas"]},
         "'Mas' is no label of label set cxr_lt_2024_task1; did you mean Mass?"),
        ("externals.vinbig.pseudo.joint", {"Nodule/Mass": ["Mass"]}, "give it two members or more"),
        ("externals.vinbig.pseudo.upper", 7, "--upper is 7.0; give a probability"),
        ("externals.vinbig.prepare.source", "nhi", "unknown source 'nhi'; known: nih"),
        ("externals.vinbig.prepare.votes", "most", "expected one of ['any', 'majority'"),
        ("externals.nih.prepare.votes", "any", "source 'nih' takes no option 'votes'"),
        ("externals.vinbig.prepare.val_fraction", 5, "val_fraction must be at least 0 and below 1, not 5.0"),
        ("externals.vinbig.prepare.labels", "vinbgi", "no label set 'vinbgi'"),
        ("externals.vinbig.prepare.resize", "letterbox", "give both prepare.resize: squash"),
        ("externals.nih.prepare", {"source": "chexpert", "root": "raw/nih", "uncertain": "perhaps"},
         "uncertain is 'perhaps'; give zero"),
        ("externals.nih.prepare", {"source": "chexpert", "root": "raw/nih", "blank": {"Edma": "zero"}}, "Edma"),
        ("externals.nih.phantom.layout", "nhi", "expected one of ['nih', "),
        ("target.prepare.labels", "nih", "write target.prepare.labels: cxr_lt_2024_task1"),
        ("models.fusion.labels", "padchest", "the target then has no "),
        ("tasks.one.labels", "padchest", "its model fusion, of label set cxr_lt_2024_task1, does not predict "),
        ("tasks.one.labels", "nhi", "no label set 'nhi'"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_found_before_the_first_step(place, key, value, message):
    config = option(key, value)
    if "phantom" in key:
        del config["externals"]["nih"]["prepare"]["root"]
    with pytest.raises(InputError) as error:
        check.check(Plan(load_text(config), Path("pipeline.yaml")))
    text = str(error.value)
    section = key if "labels" in key else key.rpartition(".")[0]
    assert text.startswith("pipeline.yaml: ") and section in text and message in text


def test_values_that_fit_are_no_mistakes(place):
    config = option("externals.vinbig.pseudo", {"joint": {"Nodule/Mass": ["Nodule", "Mass"]}, "fill": ["nan"]})
    config["externals"]["nih"]["prepare"] = {
        "source": "chexpert", "root": "raw/nih", "uncertain": {"Edema": "one", "default": "ignore"}, "val_fraction": 0,
    }  # fmt: skip
    config["externals"]["nih"]["pseudo"] = {"fill": ["nan", "uncertain", "blank"]}
    config["tasks"]["two"] = {**config["tasks"]["one"], "labels": "cxr_lt_2024_task2"}
    assert check.check(Plan(load_text(config), Path("pipeline.yaml"))) == []


def test_predict_is_parsed_with_its_trainings_configuration(place, monkeypatch):
    options = {"trainer.acelerator": "cpu"}
    task = {"one": {"model": "student", "labels": "cxr_lt_2024_task1", "test": {"template": "raw/target/test.csv"}}}
    plan = small(teacher={"config": [str(ROOT / "configs/demo.yaml")]}, predict={"options": options},
                 student=None, externals={}, models={}, tasks=task, calibrate=None)  # fmt: skip
    Path("out/runs/teacher").mkdir(parents=True)  # was begun: only `predict` is left to parse
    with pytest.raises(
        InputError, match=r"pipeline.yaml: predict.options: .*--trainer.acelerator cpu; see main.py pred"
    ):
        parsing.check_trainings(plan)


def test_predict_is_parsed_once_for_each_network_that_its_options_depend_on(place):
    models = {"fusion": {"config": ["fit.yaml"], "options": {"model.freeze": "encoder", "trainer.max_epochs": 1}}}
    once = parsing._predictions(small(models=models, predict={"options": {"trainer.devices": 1}}))
    each = parsing._predictions(small(models=models, predict={"options": {"data.batch_size": 2}}))
    assert (len(once), len(each)) == (1, 2)  # teacher and students have one network
    assert all("--ckpt_path" not in words and words[:3] == ["predict", "--config", "fit.yaml"] for words in each)
    assert "--model.freeze" in each[1] and "--trainer.max_epochs" not in each[1]


def test_stores_that_share_a_patient_across_splits_are_found_before_any_training(place, make_store, capsys):
    first = make_store(["Mass"], patients=4, source="nih")
    films = Store(first)
    table = films.manifest.table.copy()
    table["split"] = table["split"].map({"train": "val", "val": "train", "test": "test"})
    prepare_manifest(Manifest(table), Path(films.info.root), place / "torn", size=32)
    external = {"nih": {"store": str(place / "torn")}}
    plan = small(target={"store": str(first)}, externals=external)
    with pytest.raises(InputError, match=r"pipeline.yaml: 3 patients are in two splits .*train in externals.nih"):
        archives.check_stores(plan)
    assert archives.check_stores(small(target={"store": str(first)}, externals={"nih": {"store": "not/yet"}})) == 1
    with pytest.raises(InputError, match="show the same films"):
        archives.check_stores(small(target={"store": str(first)}, externals={"nih": {"store": str(first)}}))

    # as the step does, which needs no Snakemake
    small(target={"store": str(first)}, externals=external)
    assert start("--check_stores") == (2, [])
    assert "in two splits" in capsys.readouterr().err


def test_no_training_begins_where_prepared_stores_share_a_patient(place, monkeypatch):
    monkeypatch.setenv("FAKE_DIES_AT", "check_stores")
    code, calls = start()
    assert code == 1 and sorted(verbs(calls)) == ["pipeline", "prepare", "prepare"]
    monkeypatch.delenv("FAKE_DIES_AT")
    assert start("--until", "teacher")[0] == 0

    # another external is compared too, and the teacher stays as it is
    Path("raw/more").mkdir()
    more = {**SMALL["externals"], "more": {"prepare": {"source": "vinbig", "root": "raw/more"}}}
    write({**SMALL, "externals": more})
    assert verbs(start("--until", "teacher")[1]) == ["prepare", "pipeline"]


def test_an_external_of_the_targets_family_is_warned_of(place, caplog):
    with caplog.at_level(logging.WARNING):
        check.check(Plan(load_text(option("externals.nih.prepare.source", "mimic")), Path("pipeline.yaml")))
    assert "externals.nih (mimic) shows patients of the target (cxr-lt-2024)" in caplog.text
    assert "vinbig" not in caplog.text


def test_the_tables_are_where_download_puts_them():
    file = ROOT / "configs/pipeline/cxr_lt_2024_task1.yaml"
    config = load(file)
    step = ARCHIVES["cxr-lt-2024"].ways["wget"][0]
    assert step.what.endswith("{output}/cxr-lt-2024")
    parts = [part for task in config.tasks.values() for part in (task.development, task.test)]
    tables = {path for part in parts for path in (part.template, part.truth) if path.endswith(".csv")}
    assert {str(Path(path).parent) for path in tables} == {f"{config.target.prepare['root']}/cxr-lt-2024"}


def test_a_relative_path_is_said_to_begin_at_the_working_directory(place):
    with pytest.raises(InputError, match=rf"config of teacher: no.yaml: No such file.* directory, {place}"):
        small(teacher={"config": ["no.yaml"]})
    with pytest.raises(InputError, match=f"absent.yaml does not exist.*working directory, {place}"):
        load(Path("absent.yaml"))
    with pytest.raises(InputError) as error:
        load(place / "absent.yaml")
    assert "working" not in str(error.value)


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
    assert code == 0 and len(calls) == 16
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
        "[6/16] pseudo_nih_1: done" in out
        and "[7/16] student_1: goes on" in out
        and "[8/16] predict_nih_2: to do" in out
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
        "check.check_trainings = check.check_stores = lambda plan: None\n"
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
    assert json.loads(json.dumps(engine.script(plan, plan.steps[0]))).startswith("#!/usr/bin/env bash\n# [1/16]")
