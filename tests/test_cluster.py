"""Shell scripts, the Dockerfile and the Apptainer definition, by their linters and by what they must agree on."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHELL = sorted([*ROOT.glob("scripts/**/*.sh"), *ROOT.glob("scripts/**/*.sbatch"), *ROOT.glob("containers/*.sh"),
                ROOT / ".ci/run", ROOT / ".ci/slow"])  # fmt: skip
BATCH = sorted(ROOT.glob("scripts/slurm/*.sbatch"))
DOCKERFILE = (ROOT / "containers/Dockerfile").read_text(encoding="utf-8")
DEFINITION = (ROOT / "containers/longview.def").read_text(encoding="utf-8")


def name_of(file):
    return str(file.relative_to(ROOT))


def tool(name):
    """A linter of the development group, beside the interpreter."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    assert found, f"{name} is missing: uv sync"
    return found


def lint(*words, **options):
    done = subprocess.run(list(map(str, words)), check=False, capture_output=True, text=True, cwd=ROOT, **options)
    assert done.returncode == 0, done.stdout + done.stderr


def section(name):
    """A section of the Apptainer definition."""
    return re.search(rf"^%{name}\n(.*?)(?=^%|\Z)", DEFINITION, re.MULTILINE | re.DOTALL).group(1)


def test_shellcheck_finds_nothing():
    assert len(SHELL) >= 10
    lint(tool("shellcheck"), "-x", *SHELL)


def test_hadolint_finds_nothing():
    lint(tool("hadolint"), "containers/Dockerfile")


def test_compose_builds_the_one_dockerfile_and_starts_what_there_is():
    import inspect

    import yaml

    from longview.serving.serve import serve

    service = yaml.safe_load((ROOT / "containers/compose.yaml").read_text(encoding="utf-8"))["services"]["serve"]
    assert (ROOT / "containers" / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
    assert all(f"ARG {name}=" in DOCKERFILE for name in service["build"]["args"])
    verb, *words = service["command"]
    known = {f"--{name.replace('_', '-')}" for name in inspect.signature(serve).parameters}
    assert verb == "serve" and {word for word in words if word.startswith("--")} <= known
    assert '"/opt/longview/main.py"' in DOCKERFILE  # the entry point, which the verb follows


def test_the_definitions_post_and_runscript_are_clean_shell():
    for name in ("post", "runscript", "environment"):
        plain = re.sub(r"\{\{ (\w+) \}\}", r"\1", section(name))
        lint(tool("shellcheck"), "--shell=sh", "-", input=plain)


def test_spython_reads_the_definition():
    done = subprocess.run([tool("spython"), "recipe", "--parser", "singularity", "containers/longview.def"], cwd=ROOT,
                          check=True, capture_output=True, text=True)  # fmt: skip
    assert "FROM" in done.stdout and "install.sh" in done.stdout


@pytest.mark.parametrize("script", SHELL, ids=name_of)
def test_a_script_stops_at_the_first_error_and_says_how_it_is_called(script):
    lines = script.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("#!") and lines[1].startswith("# ")
    assert "set -euo pipefail" in lines
    assert len(lines) <= 80


@pytest.mark.parametrize("script", BATCH, ids=name_of)
def test_a_batch_script_passes_its_arguments_on_and_is_queued_again(script):
    text = script.read_text(encoding="utf-8")
    assert '"$@"' in text or "/fit.sbatch" in text
    assert "#SBATCH --requeue" in text and "#SBATCH --open-mode=append" in text
    assert "SLURM_SUBMIT_DIR" in text  # the script itself is run from a copy


def test_training_gets_its_signal_through_srun_and_before_the_end():
    for name in ("fit", "fit_multinode"):
        text = (ROOT / f"scripts/slurm/{name}.sbatch").read_text(encoding="utf-8")
        assert re.search(r"^#SBATCH --signal=USR1@\d{2,}$", text, re.MULTILINE)  # without B: to what srun started
    assert "--ntasks=" not in text  # which Lightning refuses: tasks per node


def test_docker_and_apptainer_install_by_the_same_steps():
    for step in ("libraries .", "longview ."):
        assert f"containers/install.sh {step}" in DOCKERFILE and f"containers/install.sh {step}" in section("post")
    copied = set(re.findall(r"^COPY (.+) \S+$", DOCKERFILE, re.MULTILINE))
    files = {word for line in copied for word in line.split()}
    assert files == {line.split()[0] for line in section("files").strip().splitlines()}
    for name in ("BASE", "UV_VERSION", "EXTRAS"):
        value = re.search(rf"^ARG {name}=(.*)$", DOCKERFILE, re.MULTILINE).group(1)
        assert f"{name}={value}" in section("arguments").split(), name


def test_what_the_dockerfile_copies_is_sent_to_the_builder():
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    sent = {line[1:] for line in ignored if line.startswith("!")}
    files = {word for line in re.findall(r"^COPY (.+) \S+$", DOCKERFILE, re.MULTILINE) for word in line.split()}
    assert files == sent and all((ROOT / file).exists() for file in files)


def test_the_image_is_left_to_a_user_without_rights():
    users = re.findall(r"^USER (.+)$", DOCKERFILE, re.MULTILINE)
    assert users == ["${USER_ID}"] and DOCKERFILE.index("USER ") < DOCKERFILE.index("ENTRYPOINT")
    assert "ARG USER_ID=1000" in DOCKERFILE
