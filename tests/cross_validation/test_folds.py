"""Folds: patients held out once, models that never saw them, and runs that go on where they were stopped."""

import json

import numpy as np
import pandas as pd
import pytest

from longview import InputError
from longview.cli import main
from longview.cross_validation import folds as command
from longview.cross_validation import processes
from longview.cross_validation.division import FOLD, divide
from longview.cross_validation.processes import run
from longview.data.borrowing import write_borrowing
from longview.data.store import Store
from longview.labels import LabelSet
from longview.predictions import read_predictions
from runs import NAMES, TINY

LABELS = LabelSet.load("nih")


@pytest.fixture(scope="module")
def store(make_store):
    return make_store(NAMES, patients=40)


def divided(store, **options):
    return divide({str(store): Store(store)}, LABELS, **{"folds": 4, "validation": 0.2, "seed": 0, **options})


def test_each_patient_is_held_out_once_and_no_model_sees_who_it_predicts(store):
    division = divided(store)
    assert set(division.table[FOLD]) == set(range(4))
    assert ((division.inner == "test").sum(axis=0) == 1).all()
    for fold, parts in enumerate(division.inner):
        assert np.array_equal(parts == "test", (division.table[FOLD] == fold).to_numpy())
        patients = [set(division.table.loc[parts == part, "patient_id"]) for part in ("train", "val", "test")]
        assert all(patients)
        assert sum(map(len, patients)) == division.table["patient_id"].nunique()
    counts = division.table.groupby(FOLD)[NAMES].sum()
    assert (counts.max() - counts.min() <= 4).all()  # every label's share is kept
    assert np.array_equal(divided(store).inner, division.inner)
    assert not np.array_equal(divided(store, seed=1).inner, division.inner)


def test_the_stores_of_a_fold_copy_no_image_and_hide_the_test_part(store, tmp_path):
    division = divided(store)
    original = Store(store)
    (path,) = division.write(1, tmp_path).values()
    fold = Store(path)
    assert not (path / "images.npy").exists()
    before, after = original.manifest.table["split"], fold.manifest.table["split"]
    assert (after[before == "test"] == "none").all()
    assert set(after[before != "test"]) == {"train", "val", "test"}
    held = fold.manifest.table.loc[after == "test", "image_id"]
    assert set(held) == set(division.table.loc[division.table[FOLD] == 1, "image_id"])
    assert np.array_equal(fold.image(3), original.image(3))
    division.write(1, tmp_path)  # is there
    with pytest.raises(InputError, match="another division"):
        divided(store, seed=1).write(1, tmp_path)


def test_a_patient_of_two_stores_of_one_family_is_held_out_in_both(store, tmp_path):
    first = Store(store)
    pair = {}
    for name in ("nih", "rsna"):
        table = first.manifest.table.copy()
        table["source"] = pd.array([name] * len(table), dtype="str")
        write_borrowing(first, table, tmp_path / name, {}, {})
        pair[name] = Store(tmp_path / name)
    division = divide(pair, LABELS, 4, 0.2, 0)
    assert len(division.table) == 2 * len(divided(store).table)
    for parts in (division.table[FOLD].to_numpy(), *division.inner):
        pairs = pd.DataFrame({"patient": division.table["patient_id"], "part": parts}).drop_duplicates()
        assert pairs["patient"].is_unique


@pytest.mark.parametrize(
    ("options", "message"),
    [({"folds": 1}, "at least 2"), ({"folds": 20}, "only 30 patients"), ({"validation": 0.0}, "--validation 0")],
)
def test_folds_that_cannot_be_are_refused(store, options, message):
    with pytest.raises(InputError, match=message):
        divided(store, **options)


@pytest.fixture
def calls(monkeypatch):
    """Run the commands in this process, and note them."""
    noted = []

    def here(words, log):
        noted.append(words)
        main(words)

    monkeypatch.setattr(command, "run", here)
    return noted


def words(store, output, *extra):
    return ["folds", *TINY, f"--data.stores={store}", "--trainer.max_epochs=1", "--folds", "2", "--output", str(output),
            *extra]  # fmt: skip


def test_the_whole_in_one_command_and_again_where_it_was_stopped(store, tmp_path, calls, monkeypatch, capsys):
    output = tmp_path / "folds"
    real = command.run

    def stopped(arguments, log):
        if arguments[0] == "fit" and "fold_1" in str(log):
            raise KeyboardInterrupt
        real(arguments, log)

    monkeypatch.setattr(command, "run", stopped)
    with pytest.raises(SystemExit) as stop:
        main(words(store, output))
    assert stop.value.code == 130
    assert not (output / "oof.parquet").exists()
    monkeypatch.setattr(command, "run", real)
    calls.clear()
    main(words(store, output))
    assert [call[0] for call in calls] == ["fit", "predict", "predict"]  # the first fold is there
    oof, truth = read_predictions(output / "oof.parquet"), pd.read_parquet(output / "truth.parquet")
    manifest = Store(store).manifest.table
    assert set(oof["image_id"]) == set(manifest.loc[manifest["split"] != "test", "image_id"])
    for fold in range(2):
        held = read_predictions(output / f"fold_{fold}" / "held_out.parquet").set_index("image_id")
        assert set(held.index) == set(truth.loc[truth[FOLD] == fold, "image_id"])
        joined = oof.set_index("image_id").loc[held.index]
        np.testing.assert_array_equal(joined[NAMES], held[NAMES])
    tests = [read_predictions(output / f"fold_{fold}" / "test.parquet") for fold in range(2)]
    mean = read_predictions(output / "test.parquet")
    assert set(mean["image_id"]) == set(manifest.loc[manifest["split"] == "test", "image_id"])
    np.testing.assert_allclose(mean[NAMES], (tests[0][NAMES] + tests[1][NAMES]) / 2, atol=1e-12)
    assert pd.read_csv(output / "scores.csv")["rows"].tolist()[-1] == len(oof)
    assert "mean ± standard deviation" in capsys.readouterr().out
    calls.clear()
    main(words(store, output))
    assert calls == []
    with pytest.raises(SystemExit):
        main([*words(store, output), "--seed", "3"])
    assert "folds of other settings (seed" in capsys.readouterr().err


def test_a_fold_that_was_stopped_goes_on_from_its_last_checkpoint(store, tmp_path, monkeypatch):
    plan = command.make_plan(tmp_path, [*TINY, f"--data.stores={store}"], 2, 0.2, 0)
    last = tmp_path / "fold_1" / "runs" / "fold_1" / "version_10" / "checkpoints" / "last.ckpt"
    for file in (last, last.parents[2] / "version_9" / "checkpoints" / "last.ckpt"):
        file.parent.mkdir(parents=True)
        file.touch()
    noted = []
    monkeypatch.setattr(command, "run", lambda arguments, log: noted.append(arguments))
    with pytest.raises(InputError, match=r"kept no best\.ckpt"):
        plan.run_fold(1)
    assert f"--ckpt_path={last}" in noted[0]


def test_mistakes_are_found_before_anything_is_trained(store, tmp_path, capsys):
    for extra, message in (
        (["--only", "2"], "folds are 0 to 1"),
        (["--checkpoint.dirpath", "x"], "every fold is a run of its own"),
        (["--data.batch", "3"], "Option 'batch' is not accepted"),
    ):
        with pytest.raises(SystemExit) as stop:
            main([*words(store, tmp_path / "o"), *extra])
        assert stop.value.code == 2
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["folds", "--output", str(tmp_path / "o")])
    assert "--config EXPERIMENT" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_a_command_leaves_a_log_and_its_mistakes_are_ours(tmp_path):
    run(["--version"], tmp_path / "logs" / "a.log")
    assert "longview" in (tmp_path / "logs" / "a.log").read_text()
    with pytest.raises(InputError, match=r"no command 'fti'"):
        run(["fti"], tmp_path / "b.log")


def test_a_command_that_fails_ends_us_with_its_code_and_shows_the_end_of_its_log(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(processes, "_MAIN", "import sys; print('epoch 3'); sys.exit(143)")
    with pytest.raises(SystemExit) as stop:
        run(["fit"], tmp_path / "a.log")
    assert stop.value.code == 143
    assert "epoch 3\nerror: fit ended with code 143" in capfd.readouterr().err


def test_sigterm_is_handed_on_so_that_a_fit_can_save(tmp_path, monkeypatch):
    waits = (
        "import signal, sys, time, os; signal.signal(signal.SIGTERM, lambda *_: (print('saved'), sys.exit(143)));"
        "os.kill(os.getppid(), signal.SIGTERM); time.sleep(60)"
    )
    monkeypatch.setattr(processes, "_MAIN", waits)
    with pytest.raises(SystemExit):
        run(["fit"], tmp_path / "a.log")
    assert "saved" in (tmp_path / "a.log").read_text()


def test_settings_name_what_the_folder_is_for(store, tmp_path):
    plan = command.make_plan(tmp_path / "o", [*TINY, f"--data.stores={store}"], 3, 0.1, 5)
    plan.keep_settings("logit")
    kept = json.loads((tmp_path / "o" / "folds.json").read_text())
    assert (kept["folds"], kept["seed"], kept["on"]) == (3, 5, "logit")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("x")
    with pytest.raises(InputError, match="not empty"):
        command.make_plan(tmp_path / "full", [*TINY, f"--data.stores={store}"], 3, 0.1, 5).keep_settings("logit")
