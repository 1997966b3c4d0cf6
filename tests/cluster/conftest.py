"""A SLURM of one node with two pretended GPUs, for tests marked `cluster`: bash .ci/slow."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

CONF = """
ClusterName=longview
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
CryptoType=crypto/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldPort=26817
SlurmdPort=26818
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
SchedulerType=sched/builtin
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
JobRequeue=1
MailProg=/bin/true
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory=1000 Gres=gpu:2 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
# two files that exist stand for GPUs: SLURM then counts them and sets CUDA_VISIBLE_DEVICES
GRES = "AutoDetect=off\nName=gpu File=/dev/tty[0-1]\n"


class Slurm:
    """Submits jobs in the checkout and waits for them."""

    def __init__(self, folder):
        self.folder = folder

    def submit(self, *words, **environment):
        command = ["sbatch", "--parsable", f"--output={self.folder}/%A_%a.log", *map(str, words)]
        return self.run(*command, **environment).strip()

    def run(self, *words, **environment):
        done = subprocess.run(words, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True,
                              check=False, timeout=60)  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def facts(self, job):
        return self._facts(self.run("scontrol", "show", "job", "-o", job))

    def log(self, job):
        files = sorted(self.folder.glob(f"{job}_*.log"))
        return "\n".join(file.read_text() for file in files)

    def wait(self, job, *states, seconds=600):
        """Wait until a job (each of an array) is in one of these states; returns its facts."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            lines = self.run("scontrol", "show", "job", "-o", job).splitlines()
            found = {self._facts(line)["JobState"] for line in lines if line}
            if found <= set(states):
                return self.facts(job)
            assert not found & {"FAILED", "TIMEOUT", "NODE_FAIL"}, f"{found}: {self.log(job)[-3000:]}"
            time.sleep(0.5)
        pytest.fail(f"job {job} is {found}, not {states}: {self.log(job)[-3000:]}")

    @staticmethod
    def _facts(line):
        return dict(word.partition("=")[::2] for word in line.split() if "=" in word)


@pytest.fixture(scope="session")
def slurm(tmp_path_factory):
    missing = [name for name in ("slurmctld", "slurmd", "munged", "sbatch") if shutil.which(name) is None]
    if missing or os.geteuid() != 0:
        pytest.skip(f"needs root and Debian's slurm-wlm and munge; missing: {', '.join(missing) or 'root'}")
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool"):
        (folder / name).mkdir()
    host = socket.gethostname()
    (folder / "slurm.conf").write_text(CONF.format(host=host, folder=folder, cores=min(os.cpu_count(), 4)))
    (folder / "gres.conf").write_text(GRES)
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    started = []
    if not Path("/run/munge/munge.socket.2").exists() or subprocess.run(["munge", "-n"], check=False).returncode:
        subprocess.run(["install", "-d", "-o", "munge", "-g", "munge", "-m", "755", "/run/munge"], check=True)
        started.append(subprocess.Popen(["runuser", "-u", "munge", "--", "/usr/sbin/munged", "--foreground"]))
        time.sleep(1)
    for name in ("slurmctld", "slurmd"):
        started.append(subprocess.Popen([name, "-D"], stderr=subprocess.DEVNULL, start_new_session=True))
        time.sleep(2)
    deadline = time.monotonic() + 30
    while b"idle" not in subprocess.run(["sinfo", "-h", "-o", "%t"], check=False, capture_output=True).stdout:
        assert time.monotonic() < deadline, (folder / "slurmd.log").read_text()
        time.sleep(0.5)
    yield Slurm(folder)
    subprocess.run(["scancel", "--user=root"], check=False)
    for process in reversed(started):
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)
    del os.environ["SLURM_CONF"]


@pytest.fixture(scope="session")
def python():
    """How a job starts longview: this interpreter."""
    return f"{sys.executable} main.py"
