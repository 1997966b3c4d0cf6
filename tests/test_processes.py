"""The command line in processes of its own: two of them under DDP, stopped ones and killed ones."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

from longview.checkpoints import read_checkpoint
from longview.cli import main
from runs import NAMES, ROOT, TINY, fit, predict


@pytest.fixture(scope="module")
def store(make_store):
    return make_store(NAMES)


@pytest.fixture(scope="module")
def run_folder(store, tmp_path_factory):
    return fit(store, tmp_path_factory.mktemp("run"), "--trainer.max_epochs=2", "--test_after_fit=true")


# ---- two processes ---------------------------------------------------------------------------------------------


def launch(*arguments, wait=True):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PL_DISABLE_FORK": "1"}
    process = subprocess.Popen([sys.executable, str(ROOT / "main.py"), *arguments], cwd=ROOT, env=environment,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)  # fmt: skip
    if not wait:
        return process
    out, _ = process.communicate(timeout=280)
    assert process.returncode == 0, out[-3000:]
    return out


TWO = ["--trainer.devices=2", "--trainer.strategy=ddp"]  # as users write it: the command is started anew
FORKED = ["--trainer.devices=2", "--trainer.strategy=ddp_fork", "--trainer.accelerator=cpu"]  # the same, sooner


def test_two_processes_train_test_and_predict_like_one(store, tmp_path):
    """The same global batch of whole studies: losses and figures to 1e-5, predictions complete and unique."""
    fusion = "--model.network.fusion=longview.models.fusion.TransformerFusion"
    small = {"width": 32, "layers": 1, "heads": 2, "feedforward": 32, "dropout": 0}
    deterministic = ["--trainer.max_epochs=1", "--model.network.init_args.decoder.init_args.dropout=0",
                     "--test_after_fit=true", "--trainer.sync_batchnorm=false", "--data.level=study",
                     "--data.view_dropout=0.3", fusion,
                     *(f"--model.network.fusion.init_args.{key}={value}" for key, value in small.items()),
                     "--model.network.init_args.encoder.init_args.name=test_vit"]  # fmt: skip
    one = fit(store, tmp_path / "one", *deterministic)
    launch("fit", *TINY, f"--data.stores={store}", f"--trainer.default_root_dir={tmp_path}/two", *deterministic, *TWO,
           "--data.batch_size=2")  # fmt: skip
    first, second = (pd.read_csv(folder / "metrics.csv") for folder in (one, tmp_path / "two/nih_1000/version_0"))
    for key in ("val/loss", "val/map", "val/auroc", "test/loss", "test/map", "test/auroc"):
        assert second[key].dropna().item() == pytest.approx(first[key].dropna().item(), abs=1e-5), key
    assert [place.name for place in (tmp_path / "two/nih_1000").iterdir()] == ["version_0"]  # one writer
    assert not second["step"].where(second["train/loss"].notna()).dropna().duplicated().any()
    together = predict(one, tmp_path / "two.parquet", "--data.predict_split=all", *FORKED)
    alone = predict(one, tmp_path / "one.parquet", "--data.predict_split=all")
    assert len(alone) == alone["study_id"].nunique() == 24
    pd.testing.assert_frame_equal(together, alone, atol=1e-6)


def test_two_processes_train_on_a_frozen_encoder_like_one(run_folder, store, tmp_path):
    """Plain DDP, without a search for unused parameters: the same loss to 1e-5."""
    frozen = ["--trainer.max_epochs=2", "--model.network.init_args.decoder.init_args.dropout=0",
              f"--model.pretrained={run_folder}/checkpoints/best.ckpt", "--model.freeze=encoder",
              "--trainer.sync_batchnorm=false"]  # fmt: skip
    one = fit(store, tmp_path / "one", *frozen)
    out = launch("fit", *TINY, f"--data.stores={store}", f"--trainer.default_root_dir={tmp_path}/two", *frozen, *TWO,
                 "--data.batch_size=2", "--test_after_fit=false")  # fmt: skip
    assert out.count("took over") == 1 and "unused" not in out
    two = tmp_path / "two/nih_1000/version_0"
    first, second = (pd.read_csv(folder / "metrics.csv")["val/loss"].dropna() for folder in (one, two))
    assert len(first) == 2 and first.iloc[0] != first.iloc[1]
    np.testing.assert_allclose(second, first, atol=1e-5, rtol=0)


SHARDED = [
    "--trainer.devices=2", "--trainer.strategy=ModelParallelStrategy", "--trainer.strategy.data_parallel_size=2",
    "--trainer.strategy.tensor_parallel_size=1", "--trainer.strategy.save_distributed_checkpoint=false",
]  # fmt: skip


def test_two_processes_with_half_of_the_weights_each_train_like_one_with_all(store, tmp_path):
    """FSDP2: the same losses, weights to 1e-5, checkpoints of the same form, which one process tests and resumes."""
    options = [
        "--model.network.init_args.decoder.init_args.dropout=0",
        "--model.network.init_args.encoder.init_args.name=test_vit",
        "--model.optimizer.weight_decay=0.5",
        "--trainer.sync_batchnorm=false",
    ]
    one = fit(store, tmp_path / "one", *options, "--trainer.max_epochs=2")
    out = launch("fit", *TINY, f"--data.stores={store}", f"--trainer.default_root_dir={tmp_path}/two", *options,
                 *SHARDED, "--data.batch_size=2", "--trainer.max_epochs=2", "--test_after_fit=true")  # fmt: skip
    assert "weights sharded over 2 processes, 6 blocks" in " ".join(out.split())
    two = tmp_path / "two/nih_1000/version_0"
    first, second = (pd.read_csv(folder / "metrics.csv")["val/loss"].dropna() for folder in (one, two))
    np.testing.assert_allclose(second, first, atol=1e-5, rtol=0)
    first, second = (read_checkpoint(folder / "checkpoints/last.ckpt") for folder in (one, two))
    assert first["state_dict"].keys() == second["state_dict"].keys()
    for name, value in first["state_dict"].items():
        np.testing.assert_allclose(second["state_dict"][name], value, atol=1e-5, rtol=0, err_msg=name)
    on = [len(group["params"]) for group in first["optimizer_states"][0]["param_groups"]]
    assert on == [len(group["params"]) for group in second["optimizer_states"][0]["param_groups"]] and min(on) > 0
    resumed = fit(store, tmp_path, *options, "--trainer.max_epochs=3", f"--ckpt_path={two}/checkpoints/last.ckpt")
    assert read_checkpoint(resumed / "checkpoints/last.ckpt")["epoch"] == 2


# ---- kills -----------------------------------------------------------------------------------------------------


def stop_when(process, condition, sent=signal.SIGKILL):
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and process.poll() is None:
        if condition():
            process.send_signal(sent)
            return
        time.sleep(0.02)
    out = process.communicate()[0] if process.poll() is not None else "it did not get there"
    pytest.fail(f"the process was not stopped in time: {out[-2000:]}")


def test_a_killed_fit_leaves_whole_checkpoints_and_goes_on(store, tmp_path):
    folder = tmp_path / "nih_1000/version_0/checkpoints"
    process = launch("fit", *TINY, f"--data.stores={store}", f"--trainer.default_root_dir={tmp_path}",
                     "--trainer.max_epochs=500", wait=False)  # fmt: skip
    stop_when(process, lambda: (folder / "last.ckpt").exists() and (folder / "best.ckpt").exists())
    process.communicate()
    for name in ("last.ckpt", "best.ckpt"):
        read_checkpoint(folder / name)
    epoch = read_checkpoint(folder / "last.ckpt")["epoch"]
    resumed = ["fit", f"--ckpt_path={folder}/last.ckpt", f"--trainer.max_epochs={epoch + 2}"]  # no --config needed
    main(resumed)
    assert read_checkpoint(folder / "last.ckpt")["epoch"] == epoch + 1


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_fit_says_how_to_go_on(sent, code, store, tmp_path):
    folder = tmp_path / "nih_1000/version_0/checkpoints"
    process = launch("fit", *TINY, f"--data.stores={store}", f"--trainer.default_root_dir={tmp_path}",
                     "--trainer.max_epochs=500", wait=False)  # fmt: skip
    stop_when(process, (folder / "last.ckpt").exists, sent)
    out = process.communicate(timeout=60)[0]
    assert process.returncode == code, out[-2000:]
    assert "to go on: uv run main.py fit --ckpt_path" in " ".join(out.split())
    read_checkpoint(folder / "last.ckpt")


def test_two_processes_that_were_terminated_go_on_exactly(store, tmp_path):
    """They stop after the same batch, though one of them gets the signal; one process goes on with their run."""
    options = [
        "--trainer.max_epochs=12",
        "--model.network.init_args.decoder.init_args.dropout=0",
        "--model.network.init_args.encoder.init_args.name=test_vit",
        "--trainer.sync_batchnorm=false",
    ]
    folder = tmp_path / "nih_1000/version_0"
    process = launch("fit", *TINY, f"--data.stores={store}", f"--trainer.default_root_dir={tmp_path}", *options, *TWO,
                     "--data.batch_size=2", "--test_after_fit=false", wait=False)  # fmt: skip
    stop_when(process, (folder / "checkpoints/last.ckpt").exists, signal.SIGTERM)
    out = process.communicate(timeout=120)[0]
    assert process.returncode == 143, out[-2000:]
    fit(store, tmp_path, *options, f"--ckpt_path={folder}/checkpoints/last.ckpt")
    assert [place.name for place in folder.parent.iterdir()] == ["version_0"]
    files = [*sorted(folder.glob("metrics.*.csv")), folder / "metrics.csv"]
    whole = fit(store, tmp_path / "whole", *options)
    parts = pd.concat([pd.read_csv(file) for file in files])
    expected = pd.read_csv(whole / "metrics.csv")
    for name in ("train/loss", "val/loss"):  # that of training is the first process's own
        parts_of = parts.dropna(subset=[name]).drop_duplicates("step", keep="last")
        assert parts_of["step"].tolist() == expected.dropna(subset=[name])["step"].tolist()
    np.testing.assert_allclose(parts_of["val/loss"], expected["val/loss"].dropna(), atol=1e-3, rtol=0)


def test_a_second_run_in_the_same_folder_is_refused(store, tmp_path, capsys):
    last = tmp_path / "nih_1000/version_0/checkpoints/last.ckpt"
    process = launch("fit", *TINY, f"--data.stores={store}", f"--trainer.default_root_dir={tmp_path}",
                     "--trainer.max_epochs=500", wait=False)  # fmt: skip
    stop_when(process, last.exists, signal.SIGSTOP)
    with pytest.raises(SystemExit) as refused:
        main(["fit", f"--ckpt_path={last}", "--trainer.max_epochs=501"])
    process.kill()
    process.communicate()
    assert refused.value.code == 2
    assert f"another run is writing to {last.parents[1]} (process {process.pid} on " in capsys.readouterr().err


def test_a_killed_predict_leaves_nothing_under_the_outputs_name(run_folder, store, tmp_path):
    output = tmp_path / "p.parquet"
    process = launch("predict", f"--ckpt_path={run_folder}/checkpoints/best.ckpt", f"--output={output}",
                     "--data.predict_split=all", "--data.batch_size=1", wait=False)  # fmt: skip
    stop_when(process, (tmp_path / "p.parquet.partial").exists)
    process.communicate()
    assert not output.exists()
    table = predict(run_folder, output, "--data.predict_split=all")
    assert len(table) == len(pd.read_parquet(store / "manifest.parquet"))
    assert not (tmp_path / "p.parquet.partial").exists()
