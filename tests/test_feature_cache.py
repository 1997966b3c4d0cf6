"""The feature cache: the same training as on images, made once, and refused where it would change the numbers."""

import logging
import shutil
from types import SimpleNamespace

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from longview import InputError
from longview.data.datamodule import StudyData
from longview.data.features import FeatureFile
from longview.data.store import Store
from longview.data.transforms import Augment
from longview.feature_cache import FeatureCache, encoder_hash
from longview.labels import Label, LabelSet
from longview.losses import BCE
from longview.models.decoder import LabelDecoder
from longview.models.encoder import Encoder
from longview.models.network import StudyNetwork
from longview.models.prior import ClassPrior
from longview.optim import AdamW
from longview.tasks import ClassificationTask

pytestmark = pytest.mark.usefixtures("quiet_lightning")

LABELS = LabelSet("three", [Label("Mass"), Label("Nodule"), Label("Edema")])
SIZE = 64  # a map of 2 x 2 features, so that their order in memory shows
TRAIN, VAL = 18, 6  # images of the store


@pytest.fixture(scope="module")
def store(make_store):
    return make_store(LABELS.names, patients=24, size=SIZE)


class Diary(Callback):
    """Notes losses and what batches look like."""

    def __init__(self):
        self.losses, self.validated, self.kinds = [], [], set()

    def kind(self, batch):
        features = batch.get("features")
        self.kinds.add((tuple(batch["images"].shape[1:]), None if features is None else features.dtype))

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.losses.append(float(outputs["loss"]))
        self.kind(batch)

    def on_validation_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.validated.append(outputs)
        self.kind(batch)


def make_data(store, **options):
    defaults = {"level": "study", "image_size": SIZE, "batch_size": 4, "num_workers": 0, "augment": None}
    return StudyData(LABELS, str(store), **{**defaults, "view_dropout": 0.4, "seed": 3, **options})


def make_task(freeze="encoder", encoder="test_resnet", **options):
    torch.manual_seed(0)
    network = StudyNetwork(Encoder(encoder), LabelDecoder(width=16, heads=2, feedforward=32, dropout=0.3))
    arguments = {"loss": BCE(), "optimizer": AdamW(lr=1e-2), "image_size": SIZE, "freeze": freeze}
    return ClassificationTask(LABELS, network, **{**arguments, **options})


def make_trainer(folder, *callbacks, **options):
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    defaults = {"accelerator": "cpu", "max_epochs": 2, "enable_checkpointing": False, "num_sanity_val_steps": 1}
    return pl.Trainer(default_root_dir=folder, callbacks=list(callbacks), **{**quiet, **defaults, **options})


def fit(store, folder, cache=None, task=None, trainer=None, **options):
    diary, task = Diary(), task or make_task()
    callbacks = [diary] if cache is None else [diary, FeatureCache(cache)]
    trained = make_trainer(folder, *callbacks, **(trainer or {}))
    torch.manual_seed(1)  # dropout; the network's own numbers are drawn when training starts
    trained.fit(task, datamodule=make_data(store, **options))
    return diary, task


def features_of(cache, images):
    (file,) = [path for path in cache.glob("*.npy") if len(np.load(path)) == images]
    return FeatureFile(file)


@pytest.mark.parametrize("encoder", ["test_resnet", "test_vit"])
@pytest.mark.parametrize("workers", [0, 2])
def test_training_on_cached_features_gives_the_same_losses_and_weights(store, tmp_path, workers, encoder):
    options = {"num_workers": workers, "max_views": 2}
    plain, plain_task = fit(store, tmp_path, task=make_task(encoder=encoder), **options)
    cached, cached_task = fit(store, tmp_path, tmp_path / "cache", make_task(encoder=encoder), **options)
    assert plain.kinds == {((1, SIZE, SIZE), None)}
    assert cached.kinds == {((1, 0, 0), torch.float32)}
    assert len(cached.losses) == 6
    assert len(set(cached.losses)) == 6
    np.testing.assert_allclose(cached.losses, plain.losses, rtol=1e-6)
    for one, other in zip(cached.validated, plain.validated, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
    for (name, one), other in zip(cached_task.state_dict().items(), plain_task.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6, msg=name)
    start = make_task(encoder=encoder)
    torch.manual_seed(1)
    start.build()
    assert not torch.equal(start.network.decoder.readout, cached_task.network.decoder.readout)


def test_no_film_is_read_and_nothing_encoded_once_the_features_are_there(store, tmp_path, monkeypatch, caplog):
    cache = tmp_path / "new" / "cache"
    with caplog.at_level(logging.INFO):
        first, _ = fit(store, tmp_path, cache)
    assert "feature cache: 24 images, float32 96 x 2 x 2 each: 36.9 kB in" in caplog.text
    written = {file: file.stat().st_mtime_ns for file in cache.iterdir() if file.name != "lock"}
    assert sorted(file.suffix for file in written) == [".json", ".json", ".npy", ".npy"]

    def refuse(*args):
        raise AssertionError("an image was looked at")

    monkeypatch.setattr(Store, "image", refuse)
    monkeypatch.setattr(StudyNetwork, "encode", refuse)
    caplog.clear()
    again = make_task()
    with caplog.at_level(logging.INFO):
        second, _ = fit(store, tmp_path, cache, again)
    assert "feature cache: train images from" in caplog.text
    assert "float32" not in caplog.text
    assert second.losses == first.losses
    assert {file: file.stat().st_mtime_ns for file in written} == written


def test_features_are_those_that_the_encoder_gives_in_the_precision_of_training(store, tmp_path):
    cached, task = fit(store, tmp_path, tmp_path / "cache", trainer={"precision": "bf16-mixed", "max_epochs": 1})
    assert cached.kinds == {((1, 0, 0), torch.bfloat16)}
    data = make_data(store)
    data.setup("fit")
    dataset = data.datasets["train"]
    dataset.training = False
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = torch.cat([task.network.eval().encode(films) for films in data.film_loader("train", 0, TRAIN)])
    assert len(expected) == dataset.images
    films = dataset.__getitems__(range(len(dataset)))["images"]
    dataset.features = features_of(tmp_path / "cache", TRAIN)
    found = dataset.__getitems__(range(len(dataset)))["features"]
    assert torch.equal(dataset.films(range(TRAIN)), films)  # evaluation shows all images, in order
    assert torch.equal(found, expected)
    assert found.stride() == expected.stride() == (384, 1, 192, 96)  # as convolutions like it


def test_features_of_worker_processes_stay_as_they_were_received(store, tmp_path):
    fit(store, tmp_path, tmp_path / "cache", trainer={"max_epochs": 1})
    data = make_data(store, num_workers=1, batch_size=1)
    data.setup("fit")
    data.datasets["train"].features = features_of(tmp_path / "cache", TRAIN)
    kept = [(batch["features"], batch["features"].clone()) for batch in data.train_dataloader()]
    assert len(kept) == 12
    assert all(torch.equal(*pair) for pair in kept)
    assert len({float(one.sum()) for one, _ in kept}) == 12


def test_testing_after_training_reads_images(store, tmp_path):
    class Seen(Callback):
        def on_test_batch_end(self, trainer, module, outputs, batch, batch_idx):
            shapes.add((batch["images"].shape[-1], "features" in batch))

    shapes, task, data = set(), make_task(), make_data(store)
    trainer = make_trainer(tmp_path, Seen(), FeatureCache(tmp_path / "cache"), max_epochs=1)
    trainer.fit(task, datamodule=data)
    trainer.test(task, datamodule=data, verbose=False)
    assert shapes == {(SIZE, False)}


def test_other_weights_sizes_precisions_and_images_have_files_of_their_own(store, make_store, tmp_path):
    def files(**change):
        task, data = make_task(), make_data(change.get("store", store), **change.get("data", {}))
        task.build()
        if "buffer" in change:
            next(buffer for name, buffer in task.network.encoder.named_buffers() if "running_mean" in name)[0] += 1
        if "parameter" in change:
            with torch.no_grad():
                next(task.network.encoder.parameters()).flatten()[0] += 1e-6
        data.setup("fit")
        strategy = SimpleNamespace(root_device=torch.device(change.get("device", "cpu")))
        trainer = SimpleNamespace(precision=change.get("precision", "32-true"), strategy=strategy)
        state = encoder_hash(task.network.encoder)
        return [FeatureCache(tmp_path)._file(state, trainer, data.datasets[part]).name for part in ("train", "val")]

    same = files()
    assert len(set(same)) == 2
    assert files() == files(data={"view_dropout": 0.0, "batch_size": 2, "max_views": 1, "seed": 9}) == same
    other = make_store(LABELS.names, patients=24, size=SIZE, seed=5)
    changes = [{"buffer": True}, {"parameter": True}, {"precision": "bf16-mixed"}, {"data": {"image_size": 32}},
               {"device": "cuda"}]  # fmt: skip
    changes += [{"data": {"views": ["PA"]}}, {"store": other}]
    others = [name for change in changes for name in files(**change)]
    assert len({*same, *others}) >= 2 + len(others) - 1  # each validation study has one view: `views` changes none


def test_an_encoder_that_is_trained_is_refused(store, tmp_path):
    for task in (make_task(freeze=None), make_task(freeze="encoder.model.conv1")):
        with pytest.raises(InputError, match=r"needs a frozen encoder: \d+ of its \d+ parameters .*--model\.freeze"):
            fit(store, tmp_path, tmp_path / "cache", task)
    assert not (tmp_path / "cache").exists()


def test_augmented_films_are_refused(store, tmp_path):
    with pytest.raises(InputError, match=r"data\.augment changes them; set data\.augment to null, or leave out --feat"):
        fit(store, tmp_path, tmp_path / "cache", augment=Augment())


def test_a_network_without_encoder_is_refused(store, tmp_path):
    task = ClassificationTask(LABELS, ClassPrior(), BCE(), AdamW(), image_size=SIZE)
    with pytest.raises(InputError, match="ClassPrior has no encoder; leave it out"):
        fit(store, tmp_path, tmp_path / "cache", task)


def test_a_disk_without_room_is_refused_before_anything_is_encoded(store, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    with pytest.raises(InputError, match=r"needs \d+.* for 24 images .*, and 1.0 kB are free"):
        fit(store, tmp_path, tmp_path / "cache")
    assert [file.name for file in (tmp_path / "cache").iterdir()] == ["lock"]


def test_a_run_that_is_stopped_while_encoding_leaves_nothing_that_looks_whole(store, tmp_path, monkeypatch):
    encode, calls = StudyNetwork.encode, []

    def stop(self, images):
        calls.append(len(images))
        if len(calls) == 3:
            raise ArithmeticError
        return encode(self, images)

    monkeypatch.setattr(StudyNetwork, "encode", stop)
    with pytest.raises(ArithmeticError):
        fit(store, tmp_path, tmp_path / "cache")
    assert [file.name for file in (tmp_path / "cache").iterdir()] == ["lock"]
    monkeypatch.setattr(StudyNetwork, "encode", encode)
    assert fit(store, tmp_path, tmp_path / "cache")[0].kinds == {((1, 0, 0), torch.float32)}


def test_the_encoder_goes_back_to_the_mode_that_it_was_in(store, tmp_path):
    task = make_task(freeze=None)
    task.build()
    task.network.encoder.requires_grad_(False)  # frozen by hand, and left in training mode
    task.network.encoder.model.layer1.eval()
    before = {name: module.training for name, module in task.network.encoder.named_modules()}
    running = {name: value.clone() for name, value in task.network.encoder.named_buffers()}
    fit(store, tmp_path, tmp_path / "cache", task)
    assert {name: module.training for name, module in task.network.encoder.named_modules()} == before
    assert all(torch.equal(value, running[name]) for name, value in task.network.encoder.named_buffers())


def test_two_processes_write_their_shares_of_the_file_that_one_would_write(store, tmp_path):
    """Real DDP over gloo, in forked processes."""
    fit(store, tmp_path, tmp_path / "one", trainer={"max_epochs": 1})
    parallel = {"strategy": "ddp_fork", "devices": 2, "num_sanity_val_steps": 0, "max_epochs": 1}
    parallel["use_distributed_sampler"] = False
    fit(store, tmp_path, tmp_path / "two", trainer=parallel, batch_size=2)
    names = sorted(file.name for file in (tmp_path / "one").iterdir())
    assert sorted(file.name for file in (tmp_path / "two").iterdir()) == names
    for name in names:
        if name.endswith(".npy"):
            one, two = (np.load(tmp_path / folder / name) for folder in ("one", "two"))
            np.testing.assert_allclose(two, one, rtol=1e-5, atol=1e-6)
