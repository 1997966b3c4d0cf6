"""Starts that cannot work are refused, signals are remembered, and a folder has one writer."""

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from longview import InputError, launch

CPU = {"accelerator": "cpu", "num_nodes": 1}
BATCH = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "train.sbatch", "SLURM_NNODES": "1", "SLURM_PROCID": "0"}
STEP = {**BATCH, "SLURM_STEP_ID": "0", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"}


@pytest.fixture(autouse=True)
def no_signals():
    """Those of other tests are forgotten, and the handlers put back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGTERM)}
    launch.forget()
    yield
    launch.forget()
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def in_job(monkeypatch):
    """A function that puts this process into a SLURM job, as SLURM's environment says it."""

    def enter(**variables):
        for name in [name for name in os.environ if name.startswith("SLURM_")]:
            monkeypatch.delenv(name)
        for name, value in {"SLURM_JOB_ID": "7", "SLURM_CLUSTER_NAME": "here", **variables}.items():
            monkeypatch.setenv(name, value)

    return enter


# ---- how processes are started -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trainer", "environ", "words"),
    [
        # no error of Lightning: it trains on one process, silently
        ({"devices": 2}, {**BATCH, "SLURM_NTASKS": "1"}, ["devices x num_nodes is 2", "--ntasks is 1", "one process"]),
        # hangs until the other process comes, which nobody starts
        ({"devices": 2}, {**BATCH, "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"}, ["2 tasks", "without srun"]),
        ({"devices": 1}, {**BATCH, "SLURM_NTASKS": "2"}, ["2 tasks", "without srun"]),
        ({"devices": 8, "num_nodes": 2}, {**BATCH, "SLURM_NNODES": "2"}, ["num_nodes is 2", "without srun"]),
        ({"devices": 2, "num_nodes": 2}, STEP, ["num_nodes is 2", "--nodes is 1"]),
        ({"devices": 1}, STEP, ["1 x 1", "2 processes"]),
        ({"devices": "4"}, STEP, ["4 x 1", "2 processes", "--ntasks-per-node=4"]),
        ({"devices": [0, 1, 2]}, STEP, ["3 x 1"]),
        ({"devices": "0,"}, STEP, ["1 x 1"]),
        ({"devices": 2}, {**STEP, "SLURM_NTASKS_PER_NODE": ""}, ["--ntasks=2", "--ntasks-per-node=2"]),
        ({"devices": 2, "accelerator": "gpu"}, {**STEP, "SLURM_GPUS_PER_TASK": "1"}, ["--gpus-per-task"]),
        ({"devices": 8, "num_nodes": 2}, {}, ["num_nodes is 2", "torchrun"]),
    ],
)
def test_a_start_that_cannot_work_is_refused_with_what_to_write(trainer, environ, words):
    environ = {name: value for name, value in environ.items() if value}
    with pytest.raises(InputError) as error:
        launch.check_start({**CPU, **trainer}, environ)
    assert [word for word in words if word not in str(error.value)] == []


@pytest.mark.parametrize(
    ("trainer", "environ"),
    [
        ({"devices": "auto"}, {}),
        ({"devices": -1}, STEP),
        ({"devices": 2}, STEP),
        ({"devices": 2, "accelerator": "cpu"}, {**STEP, "SLURM_GPUS_PER_TASK": "1"}),
        ({"devices": 2}, BATCH),  # no --ntasks: Lightning starts the processes itself
        ({"devices": 1}, {**BATCH, "SLURM_NTASKS": "1"}),
        ({"devices": 2}, {**BATCH, "SLURM_NTASKS": "2", "SLURM_JOB_NAME": "interactive"}),  # a shell in a job
        ({"devices": 8, "num_nodes": 2}, {"WORLD_SIZE": "16", "GROUP_RANK": "0"}),  # torchrun
    ],
)
def test_a_start_that_works_is_let_through(trainer, environ):
    launch.check_start({**CPU, **trainer}, environ)


def test_processes_that_a_launcher_started_must_be_as_many_as_the_trainer_is_for():
    launch.check_world(16, 8, 2)
    with pytest.raises(InputError, match=r"^1 processes were started, but .* 2 x 1"):
        launch.check_world(1, 2, 1)


@pytest.mark.parametrize("name", ["FSDPStrategy", "DeepSpeedStrategy"])
def test_strategies_that_hide_the_shape_of_parameters_are_refused(name):
    from types import SimpleNamespace

    from lightning.pytorch import strategies

    from longview.together import check_launch

    environment = SimpleNamespace(creates_processes_externally=False)
    strategy = object.__new__(getattr(strategies, name))  # its constructor wants what is not installed
    connector = SimpleNamespace(cluster_environment=environment)
    with pytest.raises(InputError, match=f"{name}.*use ddp"):
        check_launch(SimpleNamespace(strategy=strategy, _accelerator_connector=connector))
    started = SimpleNamespace(creates_processes_externally=True, world_size=lambda: 1)
    connector = SimpleNamespace(cluster_environment=started)
    with pytest.raises(InputError, match="1 processes were started"):
        check_launch(SimpleNamespace(strategy=None, _accelerator_connector=connector, num_devices=2, num_nodes=1))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tensor_parallel_size": 2, "save_distributed_checkpoint": False}, "tensor_parallel_size is 2.*set it to 1"),
        ({"tensor_parallel_size": 1}, "save_distributed_checkpoint must be false"),
    ],
)
def test_sharding_by_more_than_data_or_into_a_folder_of_checkpoints_is_refused(options, words):
    from types import SimpleNamespace

    from lightning.pytorch.strategies import ModelParallelStrategy

    from longview.together import check_launch

    connector = SimpleNamespace(cluster_environment=SimpleNamespace(creates_processes_externally=False))
    strategy = ModelParallelStrategy(data_parallel_size=2, **options)
    with pytest.raises(InputError, match=words):
        check_launch(SimpleNamespace(strategy=strategy, _accelerator_connector=connector))


@pytest.mark.parametrize(
    ("environ", "first"),
    [({}, True), ({"RANK": "3", "LOCAL_RANK": "0"}, False), ({"LOCAL_RANK": "1", "SLURM_PROCID": "0"}, False),
     ({"SLURM_PROCID": "0"}, True), ({"SLURM_PROCID": "9"}, False), ({"NODE_RANK": "1"}, False)],
)  # fmt: skip
def test_the_first_process_is_known_before_any_trainer(environ, first):
    assert launch.is_first(environ) is first


# ---- signals -------------------------------------------------------------------------------------------------


def test_usr1_in_a_job_is_remembered_instead_of_killing(in_job):
    in_job()
    launch.listen()
    os.kill(os.getpid(), signal.SIGUSR1)
    assert launch.received(signal.SIGUSR1) and not launch.received(signal.SIGTERM)
    launch.forget()
    assert not launch.received(signal.SIGUSR1)


def test_outside_of_a_job_usr1_is_what_it_was(in_job, monkeypatch):
    in_job()
    monkeypatch.delenv("SLURM_JOB_ID")
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    launch.listen()
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL


def test_listening_needs_no_torch():
    code = "import sys, longview.launch; sys.exit(any(name in sys.modules for name in ('torch', 'lightning')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---- one writer ----------------------------------------------------------------------------------------------

HOLD = """
import sys, time
from pathlib import Path
from longview.launch import Claim
claim = Claim(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that writes to a folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_folder_has_one_writer_and_the_message_names_it(holder, tmp_path):
    with pytest.raises(InputError, match=f"another run is writing to .*process {holder.pid} on "):
        launch.Claim(tmp_path / "run")
    launch.Claim(tmp_path / "another").release()


def test_a_killed_writer_leaves_the_folder_free(holder, tmp_path):
    holder.kill()
    holder.wait()
    launch.Claim(tmp_path / "run").release()


def test_a_folder_to_which_nothing_was_written_is_removed_again(tmp_path):
    launch.Claim(tmp_path / "empty").release()
    assert not (tmp_path / "empty").exists()
    claim = launch.Claim(tmp_path / "full")
    (tmp_path / "full/metrics.csv").touch()
    claim.release()
    assert {file.name for file in (tmp_path / "full").iterdir()} == {"metrics.csv", launch.WRITER}


def test_what_was_made_for_a_run_that_never_began_is_removed_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "is_first", lambda: True)
    claims = launch.Claims()
    assert claims.new(tmp_path / "runs/a") == tmp_path / "runs/a/version_0"
    claims.release()
    assert not (tmp_path / "runs").exists()
    (tmp_path / "mine").mkdir()
    claims.new(tmp_path / "mine/a")
    claims.release()
    assert list((tmp_path / "mine").iterdir()) == []


def test_a_file_system_without_locks_is_warned_of(tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(launch.fcntl, "lockf", refuse)
    launch.Claim(tmp_path / "run").release()
    assert "has no locks" in caplog.text


def test_runs_that_start_at_once_get_folders_of_their_own(tmp_path):
    (tmp_path / "version_7").mkdir()
    (tmp_path / "version_old").mkdir()
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: launch.new_folder(tmp_path / "."), range(16)))
    assert sorted(int(folder.name.removeprefix("version_")) for folder in folders) == list(range(8, 24))


def test_only_the_first_process_of_a_run_takes_its_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(launch, "is_first", lambda: False)
    claims = launch.Claims()
    claims.take(tmp_path / "run")
    assert claims.new(tmp_path) is None and list(tmp_path.iterdir()) == []
    claims.release()


# ---- a job that is queued again ------------------------------------------------------------------------------


def test_a_job_queued_again_finds_its_own_folder(in_job, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["main.py", "fit", "--name", "a"])
    in_job()
    claim = launch.Claim(tmp_path / "version_3")
    assert launch.folder_of_job(tmp_path) is None  # its first start
    in_job(SLURM_RESTART_COUNT="1")
    assert launch.folder_of_job(tmp_path) == tmp_path / "version_3"
    claim.release()


@pytest.mark.parametrize("change", ["job", "cluster", "command"])
def test_a_folder_of_another_job_is_never_taken_over(change, in_job, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["main.py", "fit"])
    in_job()
    claim = launch.Claim(tmp_path / "version_0")
    (tmp_path / "version_1").mkdir()
    (tmp_path / "version_1" / launch.WRITER).write_text("{")  # a writer that was killed at once
    other = {"job": {"SLURM_JOB_ID": "8"}, "cluster": {"SLURM_CLUSTER_NAME": "there"}, "command": {}}[change]
    in_job(SLURM_RESTART_COUNT="1", **other)
    if change == "command":
        monkeypatch.setattr(sys, "argv", ["main.py", "fit", "--seed_everything", "1"])
    assert launch.folder_of_job(tmp_path) is None
    claim.release()


def test_what_a_writer_says_of_itself_is_plain_json(tmp_path):
    claim = launch.Claim(tmp_path / "run")
    found = json.loads((tmp_path / "run" / launch.WRITER).read_text())
    claim.release()
    assert found["process"] == os.getpid() and set(found) == {"process", "host", "since", "job"}
