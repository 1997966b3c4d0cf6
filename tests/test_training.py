"""The real command line on a small store: fit, test, predict, resume, stages, other labels."""

import json
import shutil

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from longview import InputError
from longview.checkpoints import network_state, read_checkpoint
from longview.cli import main
from longview.labels import LabelSet
from longview.tasks import load
from runs import NAMES, ROOT, TINY, fit, predict


@pytest.fixture(scope="module")
def store(make_store):
    return make_store(NAMES)


@pytest.fixture(scope="module")
def run_folder(store, tmp_path_factory):
    return fit(store, tmp_path_factory.mktemp("run"), "--trainer.max_epochs=2", "--test_after_fit=true")


def failure(arguments, capsys):
    """Exit code and standard error of a command that must fail."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    return stop.value.code, capsys.readouterr().err


# ---- what a run leaves -----------------------------------------------------------------------------------------


def test_a_run_keeps_its_configuration_figures_and_checkpoints(run_folder):
    assert (run_folder / "fit.yaml").is_file()
    assert {file.name for file in (run_folder / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    figures = pd.read_csv(run_folder / "metrics.csv")
    for key in ("train/loss", "val/loss", "val/map", "val/auroc", "val/map_head", "test/map", "test/auroc"):
        assert np.isfinite(figures[key].dropna()).all() and figures[key].notna().any(), key


def pictures(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return events.Tags()["images"]


def test_tensorboard_gets_scalars_bars_and_images(run_folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run_folder))
    events.Reload()
    assert {"train/loss", "val/map", "val/auroc", "test/map"} <= set(events.Tags()["scalars"])
    assert {"val/labels", "val/images"} <= set(events.Tags()["images"])


def test_the_checkpoint_is_plain_data_that_loads_alone(run_folder, store, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # nothing relative to the checkout is needed
    path = run_folder / "checkpoints/best.ckpt"
    part = torch.load(path, map_location="cpu", weights_only=True)["longview"]
    assert part["preprocessing"] == {"size": 32, "resize": "squash"}
    assert part["config"]["data"]["init_args"]["stores"] == str(store)
    task = load(path)
    assert task.labels.names == NAMES
    assert not task.training
    assert float(task.observed.max()) > 0


def test_a_table_of_results_is_printed_at_the_end(store, tmp_path, capsys):
    fit(store, tmp_path, "--trainer.max_epochs=1", "--test_after_fit=true")
    out = capsys.readouterr().out
    assert "Best validation" in out and "Test" in out
    assert all(name in out for name in NAMES)
    assert "AUROC" in out and "predict --ckpt_path" in out


# ---- predict ---------------------------------------------------------------------------------------------------


def test_predict_needs_only_the_checkpoint(run_folder, store, tmp_path):
    table = predict(run_folder, tmp_path / "p.parquet")
    truth = pd.read_parquet(store / "manifest.parquet").query("split == 'test'")
    assert sorted(table["image_id"]) == sorted(truth["image_id"])
    assert list(table.columns) == ["patient_id", "study_id", "image_id", *NAMES]
    assert table[NAMES].to_numpy().min() >= 0 and table[NAMES].to_numpy().max() <= 1


def test_the_figures_of_test_and_of_evaluate_are_the_same(run_folder, store, tmp_path):
    predict(run_folder, tmp_path / "p.parquet")
    main(
        [
            "evaluate",
            "--predictions",
            str(tmp_path / "p.parquet"),
            "--truth",
            str(store),
            "--output",
            str(tmp_path / "e"),
        ]
    )
    metrics = json.loads((tmp_path / "e/metrics.json").read_text())
    figures = pd.read_csv(run_folder / "metrics.csv")
    assert metrics["map"] == pytest.approx(figures["test/map"].dropna().item(), abs=1e-6)
    assert metrics["auroc"] == pytest.approx(figures["test/auroc"].dropna().item(), abs=1e-6)


def test_the_command_line_wins_over_the_checkpoint(run_folder, tmp_path):
    plain = predict(run_folder, tmp_path / "a.parquet")
    flipped = predict(run_folder, tmp_path / "b.parquet", "--model.tta.flip=true", "--data.predict_split=test")
    assert not np.allclose(plain[NAMES], flipped[NAMES])
    everything = predict(run_folder, tmp_path / "c.parquet", "--data.predict_split=all")
    assert len(everything) > len(plain)


def test_files_are_predicted_like_the_store_made_of_them(run_folder, store, tmp_path):
    from longview.data.store import Store

    whole = Store(store)
    films = tmp_path / "films"
    films.mkdir()
    for row in range(5):
        cv2.imwrite(str(films / f"{whole.manifest.table['image_id'][row]}.png"), whole.image(row))
    files = predict(run_folder, tmp_path / "files.parquet", f"--data.stores={films}").set_index("image_id")[NAMES]
    stored = predict(run_folder, tmp_path / "all.parquet", "--data.predict_split=all").set_index("image_id")[NAMES]
    files.index = [name.removesuffix(".png") for name in files.index]
    assert len(files) == 5
    np.testing.assert_allclose(files, stored.loc[files.index], atol=1e-6)


def test_csv_output(run_folder, tmp_path):
    table = predict(run_folder, tmp_path / "p.csv")
    assert set(table["patient_id"].str.len()) == {3}  # 001 stays 001


# ---- mistakes --------------------------------------------------------------------------------------------------


def test_a_missing_store_names_the_command_that_makes_it(tmp_path, capsys):
    code, err = failure(
        ["fit", *TINY, f"--data.stores={tmp_path}/none", f"--trainer.default_root_dir={tmp_path}"], capsys
    )
    assert code == 2 and f"{tmp_path}/none does not exist" in err and "main.py prepare" in err
    assert "Traceback" not in err


def test_a_mistyped_key_is_named(store, tmp_path, capsys):
    overlay = tmp_path / "typo.yaml"
    overlay.write_text("trainer:\n  max_epoch: 3\n")
    code, err = failure(["fit", *TINY, "--config", str(overlay)], capsys)
    assert code == 2 and "max_epoch" in err and "Traceback" not in err


def test_a_mistyped_class_is_named(tmp_path, capsys):
    overlay = tmp_path / "typo.yaml"
    overlay.write_text("model:\n  init_args:\n    loss:\n      class_path: longview.losses.ALS\n")
    code, err = failure(["fit", *TINY, "--config", str(overlay)], capsys)
    assert code == 2 and "ALS" in err and "Traceback" not in err


def test_fit_without_a_configuration_says_what_is_needed(capsys):
    code, err = failure(["fit"], capsys)
    assert code == 2 and err == "error: fit needs --config FILE (or --ckpt_path CHECKPOINT to go on with a run)\n"


@pytest.mark.parametrize("verb", ["predict", "test", "validate"])
def test_untrained_weights_are_never_used(verb, store, capsys):
    code, err = failure([verb, *TINY, f"--data.stores={store}"], capsys)
    assert code == 2 and f"{verb} needs --ckpt_path CHECKPOINT" in err


@pytest.mark.parametrize("word", ["last", "best"])
def test_a_checkpoint_is_a_file_and_not_a_word(word, capsys):
    code, err = failure(["fit", *TINY, "--ckpt_path", word], capsys)
    assert code == 2 and f"checkpoints/{word}.ckpt" in err


@pytest.mark.parametrize(("options", "message"), [
    (["--data.batch_size=0"], "data.batch_size is 0; it must be at least 1"),
    (["--data.stores=[a,a]"], "names a store twice"),
    (["--data.predict_split=valid"], "predict_split: expected one of ['train', 'val', 'test', 'all']. Got"),
    (["--model.schedule.warmup=5.0"], "WarmupCosine: warmup must be"),
    (["--model.network.encoder.nam=x"], "Option 'nam' is not accepted"),
    (["--model.network.encoder.name=resnett18"], "did you mean resnet18"),
    (["--trainer.max_epoch=3"], "--trainer.max_epoch=3"),
    (["--checkpoint.monitor=val/mpa"], "checkpoint.monitor is 'val/mpa'; there are val/loss, val/map"),
    (["--trainer.accelerator=gpu", "--trainer.strategy=auto"], "configs/overlay/cpu.yaml"),
    (["--trainer.enable_checkpointing=false"], "a run without checkpoints cannot be used"),
    (["--save_minutes=0"], "save_minutes is 0"),
])  # fmt: skip
def test_a_mistake_in_the_configuration_is_one_line(options, message, store, tmp_path, capsys):
    code, err = failure(
        ["fit", *TINY, f"--data.stores={store}", f"--trainer.default_root_dir={tmp_path}", *options], capsys
    )
    said = [line for line in err.splitlines() if line.startswith("error: ")]
    assert code == 2 and len(said) == 1 and message in said[0], err[-800:]
    assert "Traceback" not in err


def test_a_missing_store_leaves_no_run_folder(tmp_path, capsys):
    failure(["fit", *TINY, f"--data.stores={tmp_path}/none", f"--trainer.default_root_dir={tmp_path}/runs"], capsys)
    assert not (tmp_path / "runs").exists()


def test_a_checkpoint_that_is_none_is_refused_by_name(tmp_path, capsys):
    path = tmp_path / "notes.ckpt"
    path.write_text("not a checkpoint")
    code, err = failure(["predict", f"--ckpt_path={path}"], capsys)
    assert code == 2 and str(path) in err and "is not a checkpoint" in err


def test_a_checkpoint_of_another_network_is_refused(run_folder, store, tmp_path, capsys):
    code, err = failure(["test", *TINY, f"--data.stores={store}", f"--trainer.default_root_dir={tmp_path}",
                         "--model.network.init_args.encoder.init_args.name=test_vit",
                         f"--ckpt_path={run_folder}/checkpoints/best.ckpt"], capsys)  # fmt: skip
    assert code == 2 and "does not fit the configured network" in err


def test_an_output_of_another_kind_is_refused_before_predicting(run_folder, capsys):
    code, err = failure(["predict", f"--ckpt_path={run_folder}/checkpoints/best.ckpt", "--output=p.xlsx"], capsys)
    assert code == 2 and "p.xlsx" in err


def test_a_full_disk_while_predicting_leaves_no_output(run_folder, tmp_path, monkeypatch, capsys):
    import longview.predictions as predictions

    def full(table, path):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(predictions, "write_table", full)
    code, err = failure(["predict", f"--ckpt_path={run_folder}/checkpoints/best.ckpt", f"--output={tmp_path}/p.parquet",
                         "--trainer.enable_progress_bar=false"], capsys)  # fmt: skip
    assert code == 1 and "No space left on device" in err
    assert not (tmp_path / "p.parquet").exists()


# ---- resume ----------------------------------------------------------------------------------------------------


def losses(folder):
    table = pd.read_csv(folder / "metrics.csv").dropna(subset="train/loss")
    return table.set_index("step")["train/loss"]


@pytest.fixture(scope="module")
def dropout_run(store, tmp_path_factory):
    """Three epochs without interruption, with dropout, two workers and augmentation."""
    root = tmp_path_factory.mktemp("whole")
    return fit(store, root, *DROPOUT, "--trainer.max_epochs=3", "--data.num_workers=1")


DROPOUT = ["--model.network.init_args.decoder.init_args.dropout=0.5", "--checkpoint.every_n_train_steps=1",
           "--checkpoint.save_top_k=-1", "--checkpoint.filename={step}", "--checkpoint.monitor=null"]  # fmt: skip


@pytest.mark.parametrize("step", [2, 5, 8])
def test_a_run_resumed_at_any_step_has_the_loss_curve_of_one_that_was_not_interrupted(
    step, dropout_run, store, tmp_path
):
    whole = losses(dropout_run)
    per_epoch = len(whole) // 3
    assert per_epoch >= 4
    checkpoint = next((dropout_run / "checkpoints").glob(f"*{step}.ckpt"))
    assert read_checkpoint(checkpoint)["global_step"] == step
    folder = fit(store, tmp_path, *DROPOUT, "--trainer.max_epochs=3", f"--ckpt_path={checkpoint}")
    resumed = losses(folder)
    assert resumed.index.tolist() == whole.index[step:].tolist()
    np.testing.assert_allclose(resumed, whole.iloc[step:], rtol=1e-6)


def overlays(*names):
    return [f"--config={ROOT}/configs/overlay/{name}.yaml" for name in names]


def test_a_run_with_rebalanced_studies_mixed_films_and_averaged_weights_resumes_exactly(store, tmp_path):
    options = [*overlays("sampling_class_aware", "mixup", "ema"), *DROPOUT, "--trainer.max_epochs=2"]
    whole = fit(store, tmp_path / "whole", *options)
    step = len(losses(whole)) // 2 + 1  # in the second epoch
    stopped = next((whole / "checkpoints").glob(f"*{step}.ckpt"))
    resumed = fit(store, tmp_path / "resumed", *options, f"--ckpt_path={stopped}")
    expected = losses(whole).iloc[step:]
    assert len(expected) >= 2
    np.testing.assert_allclose(losses(resumed), expected, rtol=1e-6)
    ends = [read_checkpoint(folder / "checkpoints/last.ckpt") for folder in (whole, resumed)]
    for name, value in network_state(ends[0]).items():
        torch.testing.assert_close(network_state(ends[1])[name], value, rtol=1e-5, atol=1e-7)


def test_the_best_averaged_weights_are_what_is_tested_after_training(store, tmp_path):
    folder = fit(store, tmp_path, *overlays("ema"), "--trainer.max_epochs=2", "--test_after_fit=true")
    after = pd.read_csv(folder / "metrics.csv")["test/loss"].dropna().item()
    main(["test", f"--ckpt_path={folder}/checkpoints/best.ckpt", "--trainer.enable_progress_bar=false",
          "--trainer.logger=lightning.pytorch.loggers.CSVLogger",
          f"--trainer.logger.save_dir={tmp_path}/t"])  # fmt: skip
    (found,) = (tmp_path / "t").rglob("metrics.csv")
    assert pd.read_csv(found)["test/loss"].item() == pytest.approx(after, rel=1e-5)


def test_averaged_weights_are_validated_kept_and_predict(store, tmp_path, capsys):
    folder = fit(store, tmp_path, *overlays("ema"), "--trainer.max_epochs=2", "--model.optimizer.lr=3e-3")
    checkpoint = read_checkpoint(folder / "checkpoints/last.ckpt")
    averaged, current = checkpoint["state_dict"], checkpoint["current_model_state"]
    assert any(not torch.equal(value, current[name]) for name, value in averaged.items())
    expected = pd.read_csv(folder / "metrics.csv")["val/loss"].dropna().iloc[-1]
    capsys.readouterr()
    main(["validate", f"--ckpt_path={folder}/checkpoints/last.ckpt", "--trainer.enable_progress_bar=false",
          "--trainer.logger=lightning.pytorch.loggers.CSVLogger",
          f"--trainer.logger.save_dir={tmp_path}/v"])  # fmt: skip
    (found,) = (tmp_path / "v").rglob("metrics.csv")
    assert pd.read_csv(found)["val/loss"].item() == pytest.approx(expected, rel=1e-5)


# nothing is learnt, and no batch statistics move: the first validation stays the best
PLATEAU = ["--model.optimizer.lr=1e-12", "--model.network.encoder.name=test_vit", "--trainer.max_epochs=3"]


def test_last_is_the_end_and_not_the_best(store, tmp_path):
    folder = fit(store, tmp_path, *PLATEAU)
    steps = {name: read_checkpoint(folder / f"checkpoints/{name}.ckpt")["global_step"] for name in ("best", "last")}
    assert steps["last"] == 3 * steps["best"] > 0


def test_the_best_checkpoint_is_tested_and_named_at_the_end_not_the_last(store, tmp_path, capsys, caplog):
    with caplog.at_level("INFO"):
        fit(store, tmp_path, *PLATEAU, "--test_after_fit=true")
    loaded = [record.getMessage() for record in caplog.records if "Loaded model weights" in record.getMessage()]
    assert len(loaded) == 1 and loaded[0].endswith("checkpoints/best.ckpt")
    out = capsys.readouterr().out
    assert all("best.ckpt" in line for line in out.splitlines() if ".ckpt" in line) and "Best checkpoint" in out


def test_a_resumed_run_goes_on_in_its_folder_and_remembers_what_was_best(store, tmp_path, capsys):
    folder = fit(store, tmp_path, *PLATEAU)
    best = (folder / "checkpoints/best.ckpt").read_bytes()
    before = pd.read_csv(folder / "metrics.csv")["step"].max()
    main(["fit", f"--ckpt_path={folder}/checkpoints/last.ckpt", "--trainer.max_epochs=4"])
    assert [version.name for version in (tmp_path / "nih_1000").iterdir()] == ["version_0"]
    assert (folder / "checkpoints/best.ckpt").read_bytes() == best
    assert read_checkpoint(folder / "checkpoints/last.ckpt")["epoch"] == 3
    assert pd.read_csv(folder / "metrics.1.csv")["step"].max() == before
    assert pd.read_csv(folder / "metrics.csv")["step"].min() > before
    assert "Best validation (epoch 0)" in capsys.readouterr().out


def test_a_finished_run_says_that_nothing_is_left(store, tmp_path, caplog):
    folder = fit(store, tmp_path, "--trainer.max_epochs=1")
    main(["fit", f"--ckpt_path={folder}/checkpoints/last.ckpt"])
    assert "nothing was left to train" in caplog.text and "max_epochs" in caplog.text


def test_last_is_saved_within_an_epoch_too(store, tmp_path):
    folder = fit(store, tmp_path, "--trainer.max_epochs=1", "--save_minutes=1e-9", "--trainer.limit_val_batches=0")
    assert read_checkpoint(folder / "checkpoints/last.ckpt")["global_step"] > 1


def test_validate_prints_its_table(run_folder, capsys):
    main(["validate", f"--ckpt_path={run_folder}/checkpoints/best.ckpt", "--trainer.enable_progress_bar=false"])
    out = capsys.readouterr().out
    assert "Validation" in out and all(name in out for name in NAMES)


def test_a_part_may_be_predicted(run_folder, tmp_path):
    table = predict(run_folder, tmp_path / "p.parquet", "--trainer.limit_predict_batches=1", "--data.batch_size=3")
    assert len(table) == 3


# ---- label sets of the command line ----------------------------------------------------------------------------


def test_a_label_set_of_the_command_line_replaces_the_configuration_s_whole():
    """Merged place by place, prompts and aliases of the old labels would stand with the new names."""
    from longview.training import parse

    config = parse(["fit", "--config", str(ROOT / "configs/experiment/nih_1000.yaml"), "--data.augment.flip", "0.5",
                    "--data.labels", "vinbig"])["fit"]["data"]["init_args"]["labels"]  # fmt: skip
    assert config == LabelSet.load("vinbig")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("[Mass]", "give the name or the file of a label set, or {name: TEXT"),
        ("{name: two}", "is not a label set: it needs `name:`"),
        ("{name: two, labels: [{name: Mass}, {name: mass}]}", "'Mass' and 'mass' are the same name"),
        ("{name: two, labels: [{name: Mass, promts: [mass]}]}", "label 'Mass' has unknown keys ['promts']"),
    ],
)
def test_a_wrong_label_set_is_one_line(value, reason, capsys):
    code, err = failure(["fit", *TINY, f"--data.labels={value}"], capsys)
    assert code == 2 and reason in err and err.startswith("error: data: labels: ") and len(err.splitlines()) == 1


def test_a_wrong_label_file_of_a_configuration_is_named_alone(tmp_path, capsys):
    """Found from the folder of the file that names it; not with the values of everything around it."""
    (tmp_path / "labels.yaml").write_text("name: two\nlabels: [Mass, Nodule]\n")
    part = yaml.safe_load((ROOT / "configs/data/phantom.yaml").read_text())
    part["init_args"]["labels"] = "labels.yaml"
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(part))
    code, err = failure(["fit", "--config", f"{ROOT}/configs/demo.yaml", f"--data={tmp_path}/data.yaml"], capsys)
    assert code == 2 and "labels.yaml: write a label as {name: TEXT" in err and "class_path" not in err


def test_an_unknown_label_set_of_the_command_line_lists_those_that_there_are(capsys):
    code, err = failure(["fit", *TINY, "--data.labels", "nope"], capsys)
    assert code == 2 and "no label set 'nope'" in err and "chexpert" in err


def test_going_on_with_other_labels_is_refused_before_anything_is_written(run_folder, store, tmp_path, capsys):
    folder = shutil.copytree(run_folder, tmp_path / "nih_1000/version_0")
    before = (folder / "fit.yaml").read_text()
    other = label_file(tmp_path, *NAMES[::-1])
    code, err = failure(["fit", f"--ckpt_path={folder}/checkpoints/last.ckpt", f"--data.labels={other}",
                         f"--trainer.default_root_dir={tmp_path}", "--trainer.max_epochs=9"], capsys)  # fmt: skip
    assert code == 2 and "trained on other labels, or in another order" in err
    assert (folder / "fit.yaml").read_text() == before


def test_another_network_s_checkpoint_to_go_on_from_is_told_of_pretrained(run_folder, store, tmp_path, capsys):
    code, err = failure(["fit", *TINY, f"--data.stores={store}", f"--trainer.default_root_dir={tmp_path}",
                         f"--ckpt_path={run_folder}/checkpoints/last.ckpt",
                         "--model.network.init_args.encoder.init_args.name=test_vit"], capsys)  # fmt: skip
    assert code == 2 and "does not fit" in err and "--model.pretrained" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.freeze=encoder"], "model.freeze: encoder would keep random weights"),
        (["--feature_cache=cache"], "--feature_cache needs a frozen encoder"),
        (["--feature_cache=cache", "--model.freeze=encoder", "--model.pretrained={best}"], "data.augment to null"),
        (["--model.pretrained={folder}"], "is a folder; give the file"),
        (["--trainer.strategy=ddp_fork", "--trainer.devices=2"], "use ddp"),
        ([*overlays("early_stopping"), "--trainer.callbacks.monitor=val/mpa"], "monitor is 'val/mpa'; there are val/"),
        (overlays("mixup", "cutmix"), "would mix each batch twice"),
        ([*overlays("sampling_deferred"), "--trainer.max_epochs=-1"], "set trainer.max_epochs, or start: 0"),
        (["--model.loss=longview.losses.HierarchicalLoss", "--model.loss.base=longview.losses.BCE"], "no hierarchy"),
    ],
)
def test_a_stage_that_cannot_be_is_refused_before_its_folder_is_made(
    options, message, run_folder, store, tmp_path, capsys
):
    given = [word.format(best=run_folder / "checkpoints/best.ckpt", folder=run_folder) for word in options]
    code, err = failure(["fit", *TINY, f"--data.stores={store}", f"--trainer.default_root_dir={tmp_path}/runs",
                         "--data.augment.flip=0.5", *given], capsys)  # fmt: skip
    assert code == 2 and message in err
    assert not (tmp_path / "runs").exists()


# ---- stages ----------------------------------------------------------------------------------------------------


def tensors(folder, name="last"):
    return network_state(read_checkpoint(folder / f"checkpoints/{name}.ckpt"))


def label_file(folder, *names, unseen=(), name="asked", **others):
    entries = [{"name": label} for label in names] + [{"name": label, "unseen": True} for label in unseen]
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({"name": name, "labels": entries, **others}))
    return path


@pytest.fixture(scope="module")
def second_stage(run_folder, store, tmp_path_factory):
    """Stage 2 on a frozen encoder, and stage 1's folder, which is moved away afterwards."""
    root = tmp_path_factory.mktemp("stages")
    first = shutil.copytree(run_folder, root / "stage1/version_0")
    folder = fit(store, root / "two", "--trainer.max_epochs=1", "--model.freeze=encoder",
                 f"--model.pretrained={first}/checkpoints/best.ckpt", "--model.optimizer.lr=1e-2")  # fmt: skip
    shutil.rmtree(root / "stage1")
    return folder


def test_a_second_stage_starts_from_the_weights_of_the_first_alone(run_folder, second_stage):
    first, second = tensors(run_folder, "best"), tensors(second_stage)
    for name, value in first.items():  # BatchNorm's statistics among them
        assert torch.equal(second[name], value) == name.startswith("encoder."), name
    state = read_checkpoint(second_stage / "checkpoints/last.ckpt")
    steps = read_checkpoint(run_folder / "checkpoints/best.ckpt")["global_step"]
    assert state["epoch"] == 0 and 0 < state["global_step"] <= steps
    moments = state["optimizer_states"][0]["state"]
    assert len(moments) == len([name for name in second if not name.startswith("encoder.")])
    assert all(float(moment["step"]) == state["global_step"] for moment in moments.values())


def test_a_second_stage_goes_on_tests_and_predicts_without_the_first(second_stage, tmp_path):
    folder = shutil.copytree(second_stage, tmp_path / "nih_1000/version_0")
    main(["fit", f"--ckpt_path={folder}/checkpoints/last.ckpt", "--trainer.max_epochs=2",
          f"--trainer.default_root_dir={tmp_path}"])  # fmt: skip
    resumed, before = tensors(folder), tensors(second_stage)
    assert read_checkpoint(folder / "checkpoints/last.ckpt")["epoch"] == 1
    for name, value in before.items():
        assert torch.equal(resumed[name], value) == name.startswith("encoder."), name
    assert len(predict(folder, tmp_path / "p.parquet")) > 0
    assert load(folder / "checkpoints/last.ckpt").frozen == ["encoder"]


def test_a_second_stage_without_its_first_says_how_to_make_it(store, tmp_path, capsys):
    code, err = failure(["fit", *TINY, f"--data.stores={store}", f"--trainer.default_root_dir={tmp_path}/runs",
                         "--model.pretrained=runs/nih_1000/version_0/checkpoints/none.ckpt"], capsys)  # fmt: skip
    assert code == 2 and "configs/experiment/nih_1000.yaml" in err and "Traceback" not in err
    assert not (tmp_path / "runs").exists()


def test_cached_features_train_like_the_images_that_they_stand_for(run_folder, store, tmp_path):
    options = ["--trainer.max_epochs=2", "--model.freeze=encoder", "--data.augment=null",
               f"--model.pretrained={run_folder}/checkpoints/best.ckpt"]  # fmt: skip
    images = fit(store, tmp_path / "images", *options)
    features = fit(store, tmp_path / "features", *options, f"--feature_cache={tmp_path}/cache")
    figures = [pd.read_csv(folder / "metrics.csv")["val/loss"].dropna() for folder in (images, features)]
    np.testing.assert_allclose(figures[1], figures[0], rtol=1e-5)
    assert {"val/labels", "val/images"} <= set(pictures(images))
    assert "val/images" not in pictures(features) and "val/labels" in pictures(features)  # there are none to be shown


def test_layer_decay_trains_and_logs_the_highest_rate(store, tmp_path):
    folder = fit(store, tmp_path, "--trainer.max_epochs=1", "--model.optimizer.layer_decay=0.5",
                 "--model.optimizer.lr=1e-3", "--model.schedule=null")  # fmt: skip
    assert pd.read_csv(folder / "metrics.csv")["train/lr"].dropna().unique() == pytest.approx([1e-3])


# ---- other labels ----------------------------------------------------------------------------------------------


def test_labels_are_predicted_by_name_whatever_their_order(run_folder, tmp_path):
    whole = predict(run_folder, tmp_path / "a.parquet")
    names = [NAMES[5], NAMES[0], NAMES[2]]
    table = predict(run_folder, tmp_path / "b.parquet", f"--data.labels={label_file(tmp_path, *names)}")
    assert list(table.columns) == ["patient_id", "study_id", "image_id", *names]
    pd.testing.assert_frame_equal(table, whole[table.columns])


def test_labels_that_the_model_does_not_know_are_refused_by_name(run_folder, tmp_path, capsys):
    labels = label_file(tmp_path, NAMES[1], "Gallstones", unseen=["Kidney Stones"])
    code, err = failure(["predict", f"--ckpt_path={run_folder}/checkpoints/best.ckpt", f"--data.labels={labels}",
                         f"--output={tmp_path}/p.parquet"], capsys)  # fmt: skip
    assert code == 2 and "cannot score Gallstones, Kidney Stones" in err and "label text" in err
    assert not (tmp_path / "p.parquet").exists()


@pytest.mark.parametrize("verb", ["test", "validate"])
def test_a_model_is_not_tested_on_other_labels(verb, run_folder, tmp_path, capsys):
    labels = label_file(tmp_path, *reversed(NAMES))
    arguments = [verb, f"--ckpt_path={run_folder}/checkpoints/best.ckpt", f"--data.labels={labels}"]
    code, err = failure(arguments, capsys)
    assert code == 2 and "main.py predict" in err and "main.py evaluate" in err


def zero_shot(store, root, *extra):
    labels = label_file(root, *NAMES[:8], unseen=NAMES[8:10], hierarchy={NAMES[0]: [NAMES[1]]})
    queries = ["--config", str(root / "queries.yaml")]
    (root / "queries.yaml").write_text(
        "model: {init_args: {network: {init_args: {decoder: {class_path: longview.models.decoder.LabelDecoder,\n"
        "  init_args: {width: 16, heads: 2, feedforward: 8, " + "".join(extra) + "}}}}}}\n"
    )
    return fit(store, root / "runs", *queries, f"--data.labels={labels}", "--trainer.max_epochs=1")


def test_unseen_labels_are_predicted_from_their_text(store, tmp_path):
    text = (
        f"{{class_path: longview.models.label_text.LabelText, init_args: {{encoder: random, cache: {tmp_path}/text}}}}"
    )
    folder = zero_shot(store, tmp_path, "readout: shared, queries: {class_path: longview.models.queries.TextQueries, "
                       f"init_args: {{text: {text}}}}}")  # fmt: skip
    shutil.rmtree(tmp_path / "text", ignore_errors=True)
    own = predict(folder, tmp_path / "own.parquet")
    assert list(own.columns[3:]) == NAMES[:10]
    assert not (tmp_path / "text").exists()  # the checkpoint knows its labels' text
    labels = label_file(tmp_path, NAMES[12], NAMES[3], unseen=[NAMES[9], NAMES[13]], name="other")
    other = predict(folder, tmp_path / "other.parquet", f"--data.labels={labels}", "--model.tta.flip=false")
    assert list(other.columns[3:]) == [NAMES[12], NAMES[3], NAMES[9], NAMES[13]]
    common = [NAMES[3], NAMES[9]]
    np.testing.assert_allclose(other[common], own[common], atol=1e-6)
    assert other[NAMES[12]].std() > 0
    main(["test", f"--ckpt_path={folder}/checkpoints/best.ckpt", "--trainer.enable_progress_bar=false"])


def test_own_unseen_labels_are_left_out_by_a_model_without_label_text(store, tmp_path, caplog):
    folder = zero_shot(store, tmp_path)
    table = predict(folder, tmp_path / "p.parquet")
    assert list(table.columns[3:]) == NAMES[:8]
    assert f"not predicted, for the network scores only what it was trained on: {NAMES[8]}, {NAMES[9]}" in caplog.text


def test_prediction_of_an_unknown_kind_of_path_is_an_input_error(run_folder):
    from longview.arguments import with_checkpoint

    with pytest.raises(InputError, match=r"no\.ckpt does not exist"):
        with_checkpoint(["predict", "--ckpt_path", "no.ckpt"])


def test_tensorboard_shows_a_runs_settings_beside_its_best_validation(run_folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(run_folder)).Reload()
    figures = pd.read_csv(run_folder / "metrics.csv")
    assert board.Scalars("best/map")[-1].value == pytest.approx(figures["val/map"].max(), abs=1e-6)
    settings = board.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    assert b"model.init_args.optimizer.init_args.lr" in settings and b"seed_everything" in settings
