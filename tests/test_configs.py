"""Every file under configs/ goes through the real command line, with a tiny encoder and tiny films."""

from pathlib import Path

import pytest
import yaml

from longview.cli import main
from longview.labels import LabelSet

ROOT = Path(__file__).resolve().parents[1]

CONFIGS = ROOT / "configs"
EXPERIMENTS = [CONFIGS / "demo.yaml", *sorted((CONFIGS / "experiment").glob("*.yaml"))]
PARTS = [file for part in ("trainer", "data", "model", "overlay") for file in sorted((CONFIGS / part).glob("*.yaml"))
         if file.name != "mlflow.yaml"]  # fmt: skip  # test_tune.py runs it, with a store elsewhere

# one batch of each part, no loggers and no checkpoints: whether a file fits in, and trains
FAST = ["--trainer.fast_dev_run=1"]
WHOLE = {"early_stopping", "ema"}  # which do their work between checkpoints

SMALL = ["--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.num_nodes=1", "--trainer.strategy=auto",
         "--trainer.precision=32-true", "--trainer.max_epochs=1", "--trainer.limit_train_batches=2",
         "--trainer.limit_val_batches=2", "--trainer.limit_test_batches=2", "--trainer.num_sanity_val_steps=0",
         "--trainer.val_check_interval=1.0", "--trainer.accumulate_grad_batches=1",
         "--data.image_size=32", "--data.batch_size=4", "--data.num_workers=0"]  # fmt: skip


def name_of(file):
    return str(file.relative_to(CONFIGS))


@pytest.fixture(scope="module")
def stores(make_store):
    made = {}

    def store(labels):
        key = tuple(labels)
        if key not in made:
            made[key] = make_store(labels)
        return made[key]

    return store


def encoder_of(file):
    """Whether the configured network has an encoder that the test must replace by a tiny one."""
    return "encoder" in file.read_text(encoding="utf-8")


def model_file(file):
    part = yaml.safe_load(file.read_text(encoding="utf-8"))["model"]
    return file.parent / part if isinstance(part, str) else file


def labels_file(file):
    part = yaml.safe_load(file.read_text(encoding="utf-8"))["data"]
    data = file.parent / part if isinstance(part, str) else file
    return data.parent / yaml.safe_load(data.read_text(encoding="utf-8"))["init_args"]["labels"]


@pytest.fixture(scope="module")
def first_stage(make_store, tmp_path_factory):
    """A checkpoint of stage 1 with the tests' encoder, whatever its labels."""
    root = tmp_path_factory.mktemp("stage1")
    store = make_store(LabelSet.load("phantom").names)
    main(["fit", "--config", str(CONFIGS / "demo.yaml"), *SMALL, f"--trainer.default_root_dir={root}",
          f"--data.stores={store}", "--data.phantom=null", "--test_after_fit=false",
          "--model.network.init_args.encoder.init_args.name=test_resnet"])  # fmt: skip
    return root / "demo/version_0/checkpoints/best.ckpt"


def fit(config, stores, tmp_path, *extra, model, labels=None, stage=None):
    names = LabelSet.load(labels or labels_file(config)).names
    arguments = ["fit", "--config", str(config), *extra, *SMALL, f"--trainer.default_root_dir={tmp_path}",
                 f"--data.stores={stores(names)}", "--data.phantom=null"]  # fmt: skip
    if encoder_of(model):
        encoder = "--model.network.init_args.encoder.init_args"
        arguments += [f"{encoder}.name=test_resnet", f"{encoder}.pretrained=false", f"{encoder}.drop_path=0"]
    text = model.read_text(encoding="utf-8")
    if "freeze:" in text:
        arguments.append(f"--model.pretrained={stage}")
    if "umlsbert" in text:  # its files are not to be had here
        arguments.append("--model.network.init_args.decoder.init_args.queries.init_args.text.init_args.encoder=random")
    main(arguments)


def test_the_demo_draws_its_own_phantom(tmp_path):
    main(["fit", "--config", str(CONFIGS / "demo.yaml"), *SMALL, f"--trainer.default_root_dir={tmp_path}/runs",
          f"--data.stores={tmp_path}/phantom", "--data.phantom.studies=40", "--data.phantom.size=32"])  # fmt: skip
    assert (tmp_path / "phantom/store.json").is_file()
    assert (tmp_path / "raw/phantom/contact_sheet.png").is_file()
    assert (tmp_path / "runs/demo/version_0/checkpoints/last.ckpt").is_file()


@pytest.mark.parametrize("file", EXPERIMENTS, ids=name_of)
def test_an_experiment_runs(file, stores, first_stage, tmp_path):
    fit(file, stores, tmp_path, model=model_file(file), stage=first_stage)
    assert sorted(tmp_path.rglob("best.ckpt")), "the run left no best checkpoint"


@pytest.mark.parametrize("file", PARTS, ids=name_of)
def test_a_part_runs_within_the_demo(file, stores, first_stage, tmp_path):
    demo, kind = CONFIGS / "demo.yaml", file.parent.name
    extra = ["--config", str(file)] if kind == "overlay" else [f"--{kind}", str(file)]
    model = file if kind == "model" else model_file(demo)
    labels = None
    if kind == "data":
        labels = file.parent / yaml.safe_load(file.read_text(encoding="utf-8"))["init_args"]["labels"]
    extra += [] if file.stem in WHOLE else FAST
    fit(demo, stores, tmp_path, *extra, model=model, labels=labels, stage=first_stage)


@pytest.mark.parametrize("file", [*EXPERIMENTS, *PARTS], ids=name_of)
def test_the_first_line_is_a_comment_that_says_how_to_run_it(file):
    first = file.read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# ")
    assert "--" in first or "uv run main.py" in first


def test_the_readme_of_configs_names_every_file():
    text = (CONFIGS / "README.md").read_text(encoding="utf-8")
    files = sorted(CONFIGS.rglob("*.yaml"))
    assert [name_of(file) for file in files if f"`{name_of(file)}`" not in text] == []


def test_the_readme_of_configs_names_no_file_that_is_gone():
    import re

    text = (CONFIGS / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"`([\w/]+\.yaml)`", text)
    assert named
    assert [name for name in named if not (CONFIGS / name).is_file()] == []
