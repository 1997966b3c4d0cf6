"""Soups: the mean of weights is a checkpoint like any other, with batch norms that fit it."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch

from longview import InputError
from longview.checkpoints import read_checkpoint
from longview.cli import main
from longview.data.store import Store
from longview.ensembling import trial_runs
from longview.ensembling.averaging import average, read_ingredients, stale_statistics, starts_alike
from longview.ensembling.soup import soup
from longview.tasks import load
from runs import NAMES, fit


@pytest.fixture(scope="module")
def store(make_store):
    return make_store(NAMES, patients=32)


@pytest.fixture(scope="module")
def run_folder(store, tmp_path_factory):
    return fit(store, tmp_path_factory.mktemp("runs"), "--trainer.max_epochs=2")


@pytest.fixture(scope="module")
def checkpoints(run_folder, tmp_path_factory):
    """The run's best checkpoint, one a little apart from it, and one whose weights are noise."""
    folder = tmp_path_factory.mktemp("checkpoints")
    first = read_checkpoint(run_folder / "checkpoints" / "best.ckpt")
    generator = torch.Generator().manual_seed(0)
    files = []
    for name, near, far in (("a", 0.0, 0.0), ("b", 0.05, 0.0), ("noise", 0.0, 1.0)):
        changed = copy.deepcopy(first)
        for key, value in changed["state_dict"].items():
            if key.startswith("network.") and value.is_floating_point() and value.ndim and "running" not in key:
                noise = torch.randn(value.shape, generator=generator) * value.std(correction=0)
                changed["state_dict"][key] = (1 - far) * value + (near + far) * noise
            elif "running_mean" in key and near:
                changed["state_dict"][key] = value + 0.1
        files.append(folder / f"{name}.ckpt")
        torch.save(changed, files[-1])
    return files


def test_weights_are_averaged_and_nothing_else(checkpoints):
    one, other = read_ingredients(checkpoints[:2])
    mean = average([one, other], checkpoints[:2])
    for key, value in mean["state_dict"].items():
        first, second = one["state_dict"][key], other["state_dict"][key]
        if key.startswith("network.") and value.is_floating_point():
            torch.testing.assert_close(value, ((first.double() + second.double()) / 2).float(), rtol=0, atol=1e-9)
        else:
            assert torch.equal(value, first)
    assert not {"optimizer_states", "lr_schedulers", "callbacks", "loops"} & set(mean)
    assert [member["checkpoint"] for member in mean["longview"]["soup"]] == [str(file) for file in checkpoints[:2]]
    assert len(stale_statistics([one, other])) > 0
    assert stale_statistics([one, one]) == []


def test_a_mean_of_equal_tensors_is_that_tensor_bit_for_bit(checkpoints):
    one = read_checkpoint(checkpoints[0])
    mean = average([one, one, one], [checkpoints[0]] * 3)
    assert all(torch.equal(value, one["state_dict"][key]) for key, value in mean["state_dict"].items())


@pytest.fixture(scope="module")
def made(checkpoints, tmp_path_factory):
    output = tmp_path_factory.mktemp("soup") / "soup.ckpt"
    main(["soup", "--checkpoints", *map(str, checkpoints[:2]), "--output", str(output), "--data.num_workers", "0"])
    return output


def test_a_soup_predicts_like_any_checkpoint(made, tmp_path):
    main(["predict", f"--ckpt_path={made}", f"--output={tmp_path}/p.parquet", "--trainer.enable_progress_bar=false"])
    table = pd.read_parquet(tmp_path / "p.parquet")
    assert list(table.columns[3:]) == NAMES
    assert not list(made.parent.glob(".*"))  # nothing of the runs is left


def test_batch_norms_are_measured_on_all_training_images(made, store, checkpoints):
    task = load(made)
    held = Store(store)
    rows = np.flatnonzero((held.manifest.table["split"] == "train").to_numpy())
    images = torch.stack([torch.from_numpy(held.image(int(row)).copy()) for row in rows])[:, None]
    encoder = task.network.encoder
    norms = [name for name, module in encoder.model.named_modules() if isinstance(module, torch.nn.BatchNorm2d)]
    norm = encoder.model.get_submodule(norms[0])  # what it sees depends on no other batch norm
    caught = []
    handle = norm.register_forward_pre_hook(lambda module, inputs: caught.append(inputs[0]))
    with torch.no_grad():
        encoder(images)
    handle.remove()
    torch.testing.assert_close(norm.running_mean, caught[0].mean((0, 2, 3)), rtol=1e-3, atol=1e-4)
    plain = average(read_ingredients(checkpoints[:2]), checkpoints[:2])["state_dict"]
    name = f"network.encoder.model.{norms[0]}.running_mean"
    assert not torch.allclose(plain[name], norm.running_mean, atol=1e-3)


def test_greedy_takes_only_what_really_validates_no_worse(checkpoints, tmp_path, capsys, monkeypatch):
    values, real = [], trial_runs.validate

    def noting(checkpoint, *rest):
        values.append(real(checkpoint, *rest))
        return values[-1]

    monkeypatch.setattr(trial_runs, "validate", noting)
    files = [checkpoints[2], checkpoints[0]]
    soup(files, tmp_path / "soup.ckpt", greedy=True, batch_norm="average", fit=["--data.num_workers=0"])
    *alone, together = values
    assert len(alone) == 2
    taken = {member["checkpoint"] for member in read_checkpoint(tmp_path / "soup.ckpt")["longview"]["soup"]}
    best = str(files[int(np.argmax(alone))])
    assert taken == (set(map(str, files)) if together >= max(alone) else {best})
    assert f"val/map {max(values):.4f} on the validation part" in capsys.readouterr().out


@pytest.mark.parametrize(("monitor", "wanted"), [("val/map", [0, 1]), ("val/loss", [1, 2])])
def test_greedy_begins_with_the_best_and_leaves_out_what_harms(checkpoints, tmp_path, monkeypatch, monitor, wanted):
    # a checkpoint is known by one weight; a mean with the noise is bad for map, one with the first is for the loss
    keys = [key for key in read_checkpoint(checkpoints[0])["state_dict"] if key.endswith("conv1.0.weight")]
    marks = [read_checkpoint(file)["state_dict"][keys[0]] for file in checkpoints]
    quality = {(0,): 0.5, (1,): 0.4, (2,): 0.1, (0, 1): 0.6, (0, 1, 2): 0.3, (1, 2): 0.1}

    def validate(checkpoint, aside, options, figure):
        weight = checkpoint["state_dict"][keys[0]]
        for members, value in quality.items():
            if torch.allclose(weight, sum(marks[place] for place in members) / len(members), atol=1e-6):
                return value
        raise AssertionError("an unknown mean")

    monkeypatch.setattr(trial_runs, "validate", validate)
    soup(checkpoints, tmp_path / "soup.ckpt", greedy=True, batch_norm="average", monitor=monitor)
    taken = [member["checkpoint"] for member in read_checkpoint(tmp_path / "soup.ckpt")["longview"]["soup"]]
    assert taken == [str(checkpoints[place]) for place in wanted]


def test_training_does_not_go_on_from_a_soup_but_may_begin_with_it(made, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["fit", f"--ckpt_path={made}"])
    assert stop.value.code == 2
    assert "--model.pretrained" in capsys.readouterr().err


def changed(file, tmp_path, change):
    checkpoint = copy.deepcopy(read_checkpoint(file))
    change(checkpoint)
    torch.save(checkpoint, tmp_path / "other.ckpt")
    return tmp_path / "other.ckpt"


def other_label(checkpoint):
    checkpoint["longview"]["labels"]["labels"][0]["name"] = "Goiter"


def other_encoder(checkpoint):
    network = checkpoint["longview"]["config"]["model"]["init_args"]["network"]
    network["init_args"]["encoder"]["init_args"]["name"] = "test_vit"


def other_pool(checkpoint):
    network = checkpoint["longview"]["config"]["model"]["init_args"]["network"]
    network["init_args"]["decoder"]["init_args"]["pool"] = "max"


def other_shape(checkpoint):
    name = next(key for key in checkpoint["state_dict"] if key.startswith("network.encoder.model.conv1"))
    checkpoint["state_dict"][name] = checkpoint["state_dict"][name][:1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_label, r"other labels, .*other\.ckpt alone has Goiter"),
        (other_encoder, r"other architectures: network\.encoder\.name is test_resnet and test_vit"),
        (other_pool, r"other architectures: network\.decoder\.pool is avg and max"),
        (other_shape, r"other architectures: encoder\.model\.conv1\S+ differ"),
        (lambda c: c["longview"].update(image_size=64), "image_size 32, .* 64"),
    ],
)
def test_checkpoints_without_a_mean_are_refused_by_name(checkpoints, tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        read_ingredients([checkpoints[0], changed(checkpoints[0], tmp_path, change)])


def test_dropout_and_the_origin_of_weights_may_differ(checkpoints, tmp_path):
    def change(checkpoint):
        network = checkpoint["longview"]["config"]["model"]["init_args"]["network"]
        network["init_args"]["decoder"]["init_args"]["dropout"] = 0.5

    assert len(read_ingredients([checkpoints[0], changed(checkpoints[0], tmp_path, change)])) == 2


def test_runs_from_different_random_weights_are_told_apart(checkpoints, tmp_path):
    first = read_checkpoint(checkpoints[0])

    def seeded(checkpoint):
        checkpoint["longview"]["config"]["seed_everything"] = 7

    other = read_checkpoint(changed(checkpoints[0], tmp_path, seeded))
    assert starts_alike([first, first])
    assert not starts_alike([first, other])
    for checkpoint in (first := copy.deepcopy(first), other):
        checkpoint["longview"]["config"]["model"]["init_args"]["pretrained"] = "stage1.ckpt"
    assert starts_alike([first, other])


def test_mistakes_are_named(checkpoints, tmp_path, capsys):
    one, other = map(str, checkpoints[:2])
    for words, message in (
        (["--checkpoints", one, one, "--output", "x.ckpt"], "same checkpoint"),
        (["--checkpoints", one, "--output", "x.ckpt"], "two checkpoints or more"),
        (["--checkpoints", one, other, "--output", one], "one of the checkpoints"),
        (["--checkpoints", one, other, "--output", "x.pt"], ".ckpt"),
        (["--checkpoints", one, other, "--output", "x.ckpt", "--config", "y"], "no option --config"),
        (["--checkpoints", one, other, "--output", "x.ckpt", "--monitor", "map"], "val/map"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["soup", *words])
        assert stop.value.code == 2
        assert message in capsys.readouterr().err


def test_a_checkpoint_of_before_keeps_its_flip_averaging(checkpoints, tmp_path):
    def old(checkpoint):
        for options in (checkpoint["longview"]["config"]["model"]["init_args"], checkpoint["hyper_parameters"]):
            options.pop("tta", None)
            options["flip_tta"] = True

    file = changed(checkpoints[0], tmp_path, old)
    assert load(file).tta.flip
    assert read_checkpoint(file)["longview"]["config"]["model"]["init_args"]["tta"] == {"flip": True}
