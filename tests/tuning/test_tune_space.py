"""Search spaces: what a file may say, what is tried, and which words the command line gets."""

import optuna
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from longview import InputError
from longview.tuning.space import Choice, Range, Space

CONFIG = {
    "seed_everything": 0,
    "model": {
        "class_path": "longview.tasks.ClassificationTask",
        "init_args": {
            "loss": {"class_path": "longview.losses.ASL", "init_args": {"gamma_neg": 4.0, "clip": 0.05}},
            "optimizer": {"class_path": "longview.optim.AdamW", "init_args": {"lr": 0.003, "layer_decay": None}},
            "schedule": {"class_path": "longview.optim.WarmupCosine", "init_args": {"warmup": 1000}},
        },
    },
}


def space(tmp_path, text):
    file = tmp_path / "space.yaml"
    file.write_text(text if isinstance(text, str) else yaml.safe_dump(text, sort_keys=False), encoding="utf-8")
    return Space.load(file)


def test_a_file_becomes_ranges_and_choices(tmp_path):
    found = space(tmp_path, "a.lr: {low: 1e-5, high: 1.0e-2, log: true}\nb: {low: 1, high: 8}\nc: {low: 0, high: 0.5, "
                            "step: 0.1}\nd: {choices: [x, null, {class_path: y}], default: x}\n")  # fmt: skip
    assert found.settings[:3] == (Range("a.lr", 1e-5, 1e-2, log=True), Range("b", 1, 8), Range("c", 0, 0.5, step=0.1))
    assert found.settings[3] == Choice("d", ("x", None, {"class_path": "y"}), "x")
    assert [setting.whole for setting in found.settings[:3]] == [False, True, False]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "must map keys"),
        ("- a", "must map keys"),
        ("a: [", "not valid YAML"),
        ("lr: 0.1", "lr is 0.1; write"),
        ("lr: {high: 1.0}", "lr: low is null; it must be a number"),
        ("lr: {low: a, high: 1.0}", 'lr: low is "a"; it must be a number'),
        ("lr: {low: .nan, high: 1.0}", "it must be a number"),
        ("lr: {low: true, high: 1.0}", "low is true"),
        ("lr: {low: 1.0, high: 0.1}", "low must be below high"),
        ("lr: {low: 0.0, high: 0.1, log: true}", "on a logarithmic scale it must be above 0"),
        ("lr: {low: 0.1, high: 0.2, log: maybe}", "it must be true or false"),
        ("lr: {low: 0.1, high: 0.2, log: true, step: 0.1}", "log and step"),
        ("lr: {low: 0.0, high: 0.5, step: 0.2}", "whole steps must lead from low 0.0 to high 0.5"),
        ("lr: {low: 0, high: 4, step: 0.5}", "whole steps"),
        ("lr: {low: 0.0, high: 0.5, setp: 0.1}", "has setp; it may have default, high, log, low, step"),
        ("lr: {low: 0.0, high: 0.5, choices: [1]}", "write {low"),
        ("lr: {low: 0.0, high: 0.5, default: 0.6}", "default 0.6 is not in the range"),
        ("lr: {choices: []}", "give a list"),
        ("lr: {choices: 3}", "give a list"),
        ("lr: {choices: [1, 1]}", "a value twice"),
        ("lr: {choices: [1, 2], default: 3}", "default 3 is not among the choices"),
        ("overlay: {low: 0.0, high: 1.0}", "stands for --config files"),
        ("overlay: {choices: [nowhere.yaml]}", 'there is no file "nowhere.yaml"'),
    ],
)
def test_a_mistake_in_the_file_names_file_key_and_remedy(tmp_path, text, said):
    with pytest.raises(InputError) as error:
        space(tmp_path, text)
    assert said in str(error.value)
    assert "space.yaml" in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"there is no file .*absent\.yaml"):
        Space.load(tmp_path / "absent.yaml")


def test_overlays_follow_the_users_files_and_values_come_last(tmp_path):
    (tmp_path / "focal.yaml").write_text("{}", encoding="utf-8")
    focal, loss = str(tmp_path / "focal.yaml"), {"class_path": "a.B", "init_args": {"c": 1}}
    made = space(
        tmp_path,
        {
            "model.lr": {"low": 1e-5, "high": 1.0, "log": True},
            "overlay.loss": {"choices": [None, focal]},
            "model.loss": {"choices": [loss, None]},
        },
    )
    options = ["--config", "a.yaml", "--config=b.yaml", "--data.batch_size", "16"]
    values = {
        "model.lr": 1e-5,
        "overlay.loss": str(tmp_path / "focal.yaml"),
        "model.loss": made.settings[2].examples()[0],
    }
    assert made.command(options, values) == [
        "--config", "a.yaml", "--config=b.yaml", "--config", str(tmp_path / "focal.yaml"), "--data.batch_size", "16",
        "--model.lr=1e-05", '--model.loss={"class_path": "a.B", "init_args": {"c": 1}}',
    ]  # fmt: skip
    none = made.command(["--config", "a.yaml", "--x", "1"], {**values, "overlay.loss": None, "model.loss": None})
    assert none == ["--config", "a.yaml", "--x", "1", "--model.lr=1e-05", "--model.loss=null"]


def test_null_within_a_class_is_given_with_its_class(tmp_path):
    for key in ("model.optimizer.layer_decay", "model.init_args.optimizer.init_args.layer_decay"):
        [made] = space(tmp_path, {key: {"choices": [None, 0.5]}}).settings
        assert made.words(None) == [f'--{key.split("er.")[0]}er={{"init_args": {{"layer_decay": null}}}}']
        assert made.words(0.5) == [f"--{key}=0.5"]
    [made] = space(tmp_path, {"trainer.max_time": {"choices": [None]}}).settings
    assert made.words(None) == ["--trainer.max_time=null"]


def test_the_first_trial_is_the_experiment_as_it_stands(tmp_path):
    overlay = tmp_path / "same.yaml"
    overlay.write_text("model: {init_args: {loss: {class_path: longview.losses.ASL}}}", encoding="utf-8")
    other = tmp_path / "other.yaml"
    other.write_text("model: {init_args: {loss: {class_path: longview.losses.BCE}}}", encoding="utf-8")
    made = space(
        tmp_path,
        {
            "model.optimizer.lr": {"low": 1e-4, "high": 1e-2, "log": True},
            "model.schedule.init_args.warmup": {"low": 100, "high": 2000},
            "model.optimizer.layer_decay": {"choices": [0.75, None]},
            "model.loss": {
                "choices": [
                    "longview.losses.BCE",
                    {"class_path": "longview.losses.ASL", "init_args": {"gamma_neg": 2.0}},
                    {"class_path": "longview.losses.ASL", "init_args": {"gamma_neg": 4.0}},
                ]
            },
            "overlay": {"choices": [str(other), str(overlay)]},
            "seed_everything": {"low": 0, "high": 5, "default": 3},
        },
    )
    assert made.first(CONFIG) == {
        "model.optimizer.lr": 0.003,
        "model.schedule.init_args.warmup": 1000,
        "model.optimizer.layer_decay": None,
        "model.loss": '{"class_path": "longview.losses.ASL", "init_args": {"gamma_neg": 4.0}}',
        "overlay": str(overlay),
        "seed_everything": 3,
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model.optimizer.lr: {low: 0.01, high: 0.1}", "it has 0.003; let the space hold that value"),
        ("model.optimizer.layer_decay: {low: 0.5, high: 0.9}", "it has null"),
        ("model.schedule.warmup: {low: 0, high: 2000, step: 400}", "it has 1000"),
        ("model.loss: {choices: [longview.losses.BCE]}", "let the space hold that value, or say where to start"),
        ("model.lr: {low: 0.01, high: 0.1}", "no such key"),
    ],
)
def test_a_first_trial_outside_the_space_is_an_error(tmp_path, text, said):
    with pytest.raises(InputError) as error:
        space(tmp_path, text).first(CONFIG)
    assert said in str(error.value)
    assert "default:" in str(error.value)


def test_an_overlay_that_always_changes_something_needs_null_or_a_default(tmp_path):
    other = tmp_path / "other.yaml"
    other.write_text("seed_everything: 7", encoding="utf-8")
    with pytest.raises(InputError, match="add null to the choices"):
        space(tmp_path, {"overlay": {"choices": [str(other)]}}).first(CONFIG)


def test_every_end_and_choice_is_among_the_examples(tmp_path):
    made = space(tmp_path, "a: {low: 0, high: 4}\nb: {choices: [x, y, z]}\n")
    assert list(made.examples()) == [{"a": 0, "b": "x"}, {"a": 4, "b": "y"}, {"a": 0, "b": "z"}]


@settings(deadline=None, derandomize=True, max_examples=25)
@given(low=st.floats(1e-6, 1.0), width=st.floats(1e-3, 10.0), log=st.booleans())
def test_what_is_suggested_may_be_tried_and_reaches_the_command_line_unchanged(low, width, log):
    setting = Range("key", low, low + width, log=log)
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)).ask()
    value = setting.suggest(trial)
    assert setting.holds(value)
    [word] = setting.words(value)
    assert float(word.removeprefix("--key=")) == value
