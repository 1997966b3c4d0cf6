"""StudyData under the real Lightning trainer: exact resume, any number of workers, and clear refusals."""

import hashlib
import json
import logging
import multiprocessing
from pathlib import Path

import cv2
import lightning as L  # noqa: N812
import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, OnExceptionCheckpoint

from longview import InputError
from longview.data.datamodule import StudyData
from longview.data.images import read_image, resize_image
from longview.data.loader import study_loader
from longview.data.manifest import Manifest
from longview.data.phantom_store import PhantomSpec, make_phantom
from longview.data.sampler import Draw, StudySampler
from longview.data.sampling import ClassAware, SquareRoot
from longview.data.store import FORMAT_VERSION, StoreInfo
from longview.data.transforms import Preprocessing, resize_only
from longview.labels import Label, LabelSet

pytestmark = pytest.mark.usefixtures("quiet_lightning")

LABELS = LabelSet("two", [Label("Edema"), Label("Mass")])
EPOCHS = 3


def make_store(
    folder: Path,
    train: int = 22,
    val: int = 7,
    test: int = 5,
    size: int = 24,
    views: tuple[str, ...] = ("PA",),
    **info: object,
) -> Path:
    """Write a store of studies of noise with these views each, without `prepare`."""
    folder.mkdir(parents=True)
    split = (["train"] * train + ["val"] * val + ["test"] * test) * len(views)
    rows = np.arange(len(split))
    study = rows % (train + val + test)
    ids = [f"{folder.name}{row:03d}" for row in rows]
    studies = [ids[row] for row in study]
    columns = {"source": "nih", "patient_id": studies, "study_id": studies, "image_id": ids, "path": ids}
    columns["view"] = [views[row // (train + val + test)] for row in rows]
    table = pd.DataFrame({**columns, "split": split}, dtype="str")
    for label in LABELS.names:
        table[label] = (study % (2 + len(label)) == 0).astype(np.float32)
    Manifest(table).write(folder / "manifest.parquet")
    rng = np.random.default_rng(len(split))
    np.save(folder / "images.npy", rng.integers(0, 256, (len(split), size, size), dtype=np.uint8))
    np.save(folder / "rows.npy", rows.astype(np.int64))
    known = {"format_version": FORMAT_VERSION, "size": size, "resize": "squash", "packing": "npy", "source": "nih"}
    known |= {"root": "/raw", "labels": LABELS.names, "images": len(split), "rejected": 0, "settings": {}}
    StoreInfo(**{**known, "content_hash": "x", "longview_version": "0", **info}).write(folder)
    return folder


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("data") / "films")


def study_data(stores: object, **options: object) -> StudyData:
    stores = str(stores) if isinstance(stores, Path) else stores
    return StudyData(LABELS, stores, **{"image_size": 16, "batch_size": 4, "num_workers": 0, "seed": 7, **options})


class Recorder(L.LightningModule):
    """Notes which studies it is trained and evaluated on, and a checksum of their augmented pixels."""

    def __init__(self, stop_at: int | None = None):
        super().__init__()
        self.layer = torch.nn.Sequential(torch.nn.BatchNorm1d(256), torch.nn.Linear(256, 2))
        self.stop_at = stop_at
        self.trained: list[tuple] = []
        self.validated: list[list[str]] = []

    def note(self, batch) -> tuple:
        checksum = hashlib.sha1(batch["images"].numpy().tobytes()).hexdigest()[:8]
        return (*(key.study_id for key in batch["ids"]), checksum)

    def forward(self, batch):
        logits = self.layer(batch["images"].flatten(1).float() / 255)
        return logits.new_zeros(batch["target"].shape).index_add(0, batch["study"], logits)

    def training_step(self, batch, batch_idx):
        if len(self.trained) == self.stop_at:
            raise KeyboardInterrupt
        self.trained.append(self.note(batch))
        return torch.nn.functional.mse_loss(self(batch), batch["target"])

    def on_validation_epoch_start(self):
        self.validated.append([])

    def validation_step(self, batch, batch_idx):
        self(batch)
        self.validated[-1] += [key.study_id for key in batch["ids"]]

    def predict_step(self, batch, batch_idx):
        return [key.study_id for key in batch["ids"]]

    def configure_optimizers(self):
        assert self.trainer.estimated_stepping_batches > 0  # makes the loader before the loops are restored
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Saver(L.Callback):
    """Saves a checkpoint at every moment when one is usually saved."""

    def __init__(self, folder: Path):
        self.folder, self.saved = folder, []

    def save(self, trainer, moment: str) -> None:
        file = self.folder / f"{len(self.saved):03d}-{moment}.ckpt"
        self.saved.append((file, moment, len(trainer.lightning_module.trained)))
        trainer.save_checkpoint(file)

    def on_train_batch_end(self, trainer, *args):
        self.save(trainer, "batch")

    def on_validation_end(self, trainer, module):
        if not trainer.sanity_checking:
            self.save(trainer, "validation")

    def on_train_epoch_end(self, trainer, module):
        self.save(trainer, "epoch")


def trainer(folder: Path, callbacks: list = (), **options: object) -> L.Trainer:
    defaults = {"max_epochs": EPOCHS, "accelerator": "cpu", "devices": 1, "logger": False, "barebones": False}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 1}
    checkpoints = {"enable_checkpointing": bool(callbacks), "default_root_dir": folder}
    return L.Trainer(**{**defaults, **quiet, **checkpoints, "callbacks": list(callbacks), **options})


def run(store, folder, ckpt=None, workers=0, callbacks=(), data=None, **options) -> Recorder:
    module = Recorder()
    data = study_data(store, num_workers=workers, **(data or {}))
    trainer(folder, callbacks, **options).fit(module, datamodule=data, ckpt_path=ckpt, weights_only=True)
    return module


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"val_check_interval": 0.5},
        {"val_check_interval": 0.5, "accumulate_grad_batches": 2},
        {"limit_val_batches": 0, "max_steps": 15, "max_epochs": -1},
        {"check_val_every_n_epoch": 2, "limit_train_batches": 3},
    ],
    ids=["plain", "validation in mid-epoch", "accumulated", "steps without validation", "limited"],
)
def test_a_run_resumed_from_any_checkpoint_sees_exactly_the_rest(store, tmp_path, options):
    saver = Saver(tmp_path)
    whole = run(store, tmp_path, callbacks=[saver], **options)
    accumulated = options.get("accumulate_grad_batches", 1)
    assert len(saver.saved) >= 12
    for file, moment, done in saver.saved:
        rest = run(store, tmp_path, ckpt=file, **options)
        assert rest.trained == whole.trained[done:], f"{moment} after {done} batches"
        if accumulated == 1:  # gradients that wait for their step are in no checkpoint
            assert torch.equal(rest.layer[1].weight, whole.layer[1].weight)


@pytest.mark.parametrize(("workers", "fails_at"), [(0, 8), (2, 8), (0, 0), (0, 5), (0, 9)])
def test_a_run_that_failed_resumes_exactly_with_any_number_of_workers(store, tmp_path, workers, fails_at):
    whole = run(store, tmp_path)
    assert len(set(whole.trained)) == len(whole.trained) == 5 * EPOCHS

    class FailedError(Exception):
        pass

    class Failing(Recorder):
        def training_step(self, batch, batch_idx):
            if len(self.trained) == fails_at:
                raise FailedError
            return super().training_step(batch, batch_idx)

    first, rescue = Failing(), OnExceptionCheckpoint(tmp_path, "rescue")
    with pytest.raises(FailedError):
        trainer(tmp_path, [rescue]).fit(first, datamodule=study_data(store, num_workers=workers))
    saver = Saver(tmp_path)
    second = run(store, tmp_path, tmp_path / "rescue.ckpt", workers, callbacks=[saver])
    assert first.trained + second.trained == whole.trained
    for file, moment, done in saver.saved[:: 3 if workers else 1]:
        third = run(store, tmp_path, file, workers)  # resumed from a run that was resumed
        assert first.trained + second.trained[:done] + third.trained == whole.trained, moment


DROPPED = {"level": "study", "max_views": 2, "view_dropout": 0.5, "augment": None}


@pytest.fixture(scope="module")
def viewed(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("data") / "films", views=("PA", "lateral", "AP"))


def test_a_resumed_run_leaves_out_exactly_the_same_views(viewed, tmp_path):
    saver = Saver(tmp_path)
    whole = run(viewed, tmp_path, callbacks=[saver], max_epochs=2, data=DROPPED)
    for file, moment, done in saver.saved[1:-1:2]:
        rest = run(viewed, tmp_path, ckpt=file, workers=2 * (done == 1), max_epochs=2, data=DROPPED)
        assert rest.trained == whole.trained[done:], f"{moment} after {done} batches"


def test_the_choice_of_views_is_the_same_on_any_number_of_workers_and_processes(viewed):
    def shown(workers: int, world: int) -> dict[str, list]:
        found: dict[str, list] = {}
        for rank in range(world):
            data = study_data(viewed, num_workers=workers, batch_size=8 // world, **DROPPED)
            data.setup("fit")
            sampler = StudySampler(data.datasets["train"].sizes, batch_size=8 // world, rank=rank, world=world, seed=7)
            for batch in study_loader(data.datasets["train"], sampler, 8 // world, workers, keep=False):
                for row, key in enumerate(batch["ids"]):
                    mine = batch["study"] == row
                    found[key.study_id] = [batch["view"][mine].tolist(), batch["images"][mine].sum().item()]
        return found

    alone = shown(0, 1)
    assert len(alone) == 16
    assert {len(views) for views, _ in alone.values()} == {1, 2}  # of three, two are chosen and one may be left out
    assert len({tuple(views) for views, _ in alone.values()}) > 3
    assert shown(2, 1) == shown(0, 2) == shown(1, 4) == alone


def test_training_without_augmentation_still_samples_views(viewed):
    data = study_data(viewed, **{**DROPPED, "view_dropout": 0.0})
    data.setup("fit")
    train, val = data.datasets["train"], data.datasets["val"]
    assert len({tuple(train[Draw(0, seed)]["view"].tolist()) for seed in range(30)}) == 3  # pairs of three views
    assert len({tuple(val[Draw(0, seed)]["view"].tolist()) for seed in range(30)}) == 1
    plain = study_data(viewed, level="study", image_size=24, augment=None)
    plain.setup("fit")
    batch = plain.datasets["train"][Draw(0, 9)]
    np.testing.assert_array_equal(batch["images"][:, 0], np.load(viewed / "images.npy")[[0, 68, 34]])


@pytest.mark.parametrize("level", ["study", "image"])
def test_only_the_view_types_asked_for_are_seen_in_all_parts(viewed, level):
    data = study_data(viewed, level=level, views=["lateral"], predict_split="all")
    for stage in ("fit", "test", "predict"):
        data.setup(stage)
    assert {part: (len(one), one.images) for part, one in data.datasets.items()} == {
        "train": (22, 22), "val": (7, 7), "test": (5, 5), "predict": (34, 34)
    }  # fmt: skip
    loaders = [data.train_dataloader(), data.val_dataloader(), data.test_dataloader(), data.predict_dataloader()]
    assert {code for loader in loaders for batch in loader for code in batch["view"].tolist()} == {2}
    assert data.preprocessing == Preprocessing(24, "squash")
    assert data.observed.tolist() == [22, 22]


@pytest.mark.parametrize("workers", [0, 2])
def test_films_are_read_in_order_and_draw_no_random_number_of_training(viewed, workers):
    data = study_data(viewed, image_size=24, num_workers=workers, level="study")
    data.setup("fit")
    torch.manual_seed(0)
    films = torch.cat(list(data.film_loader("train", 1, 9)))
    assert torch.rand(1) == torch.rand(1, generator=torch.Generator().manual_seed(0))
    rows = [0, 68, 34, 1, 69, 35, 2, 70, 36][1:]  # PA, AP, lateral of each study
    np.testing.assert_array_equal(films[:, 0], np.load(viewed / "images.npy")[rows])


@pytest.mark.parametrize("change", [{"batch_size": 8}, {"seed": 8}])
def test_a_resume_that_cannot_be_exact_says_so(store, tmp_path, caplog, change):
    saver = Saver(tmp_path)
    run(store, tmp_path, callbacks=[saver], max_epochs=1)
    data = study_data(store, **change)
    trainer(tmp_path, max_epochs=2).fit(Recorder(), datamodule=data, ckpt_path=saver.saved[1][0], weights_only=True)
    assert "cannot be exact" in caplog.text


def test_two_runs_in_one_process_see_the_same_and_a_longer_one_goes_on(store, tmp_path):
    whole, data = run(store, tmp_path).trained, study_data(store)
    for _ in range(2):
        module = Recorder()
        trainer(tmp_path).fit(module, datamodule=data)
        assert module.trained == whole
    module, one = Recorder(), trainer(tmp_path, max_epochs=1)
    one.fit(module, datamodule=data)
    one.fit_loop.max_epochs = EPOCHS
    one.fit(module, datamodule=data)
    assert module.trained == whole


def test_batches_of_worker_processes_stay_as_they_were_received(store):
    data = study_data(store, num_workers=1, batch_size=1, level="study")
    data.setup("fit")
    kept = [(batch["images"], batch["images"].clone()) for batch in data.train_dataloader()]
    assert len(kept) == 22
    assert all(torch.equal(*pair) for pair in kept)


def test_lightning_knows_that_the_loader_is_resumable(store, tmp_path, recwarn):
    saver = Saver(tmp_path)
    run(store, tmp_path, callbacks=[saver])
    recwarn.clear()
    run(store, tmp_path, ckpt=saver.saved[1][0])
    assert not [warning for warning in recwarn if "not resumable" in str(warning.message)]


@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_workers_changes_no_pixel(store, workers):
    batches = []
    for count in (0, workers):
        data = study_data(store, num_workers=count)
        data.setup("fit")
        batches.append([batch["images"] for batch in data.train_dataloader()])
    assert len(batches[0]) == 5
    assert all(torch.equal(*pair) for pair in zip(*batches, strict=True))


def test_opencv_has_no_threads_that_a_forked_worker_would_wait_for(store):
    cv2.setNumThreads(2)
    data = study_data(store)
    data.setup("fit")
    data.train_dataloader()
    assert cv2.getNumThreads() == 1


def test_two_processes_train_on_the_same_global_batches_and_evaluate_each_study_once(store, tmp_path):
    """Real DDP over gloo, in forked processes; the run stops in mid-epoch and is resumed."""
    alone = run(store, tmp_path)

    def fit(folder: Path, ckpt: Path | None = None, **options: object) -> list[dict]:
        folder.mkdir()
        parallel = {"strategy": "ddp_fork", "devices": 2, "num_sanity_val_steps": 0}
        callbacks = [ModelCheckpoint(folder, "last", save_top_k=-1, every_n_train_steps=7), Writer(folder)]
        data = study_data(store, batch_size=2)
        trainer(folder, callbacks, **parallel, **options).fit(
            Recorder(), datamodule=data, ckpt_path=ckpt, weights_only=True
        )
        return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]

    stopped = fit(tmp_path / "a", max_steps=7, max_epochs=-1)
    resumed = fit(tmp_path / "b", ckpt=tmp_path / "a/last.ckpt")
    ranks = [first["trained"] + second["trained"] for first, second in zip(stopped, resumed, strict=True)]
    together = [one[:2] + two[:2] for one, two in zip(*ranks, strict=True)]
    assert together == [list(batch[:4]) for batch in alone.trained]
    parts = [rank["validated"][-1] for rank in resumed]
    assert sorted(parts[0] + parts[1]) == sorted(alone.validated[-1])
    assert [len(part) for part in parts] == [3, 4]


class Writer(L.Callback):
    """Writes what a process of its own has seen."""

    def __init__(self, folder: Path):
        self.folder = folder

    def on_fit_end(self, trainer, module):
        seen = {"trained": module.trained, "validated": module.validated}
        (self.folder / f"rank{trainer.global_rank}.json").write_text(json.dumps(seen))


def test_counts_of_the_training_part_are_known_after_setup(store):
    data = study_data(store)
    data.setup("fit")
    np.testing.assert_array_equal(data.observed, [22, 22])
    np.testing.assert_array_equal(data.positives, [len(range(0, 22, 7)), len(range(0, 22, 6))])
    data.teardown("fit")
    assert data.positives.shape == (2,)
    assert data.preprocessing == Preprocessing(24, "squash")


def test_constructors_touch_no_disk_and_each_stage_builds_only_its_own(store, tmp_path):
    study_data(tmp_path / "nowhere")
    data = study_data(store)
    data.setup("test")
    assert [key.study_id for batch in data.test_dataloader() for key in batch["ids"]] == [
        f"films{row:03d}" for row in range(29, 34)
    ]
    with pytest.raises(KeyError):
        data.train_dataloader()


def test_evaluation_is_never_augmented_and_keeps_the_order(store):
    data = study_data(store, image_size=24)
    data.setup("validate")
    batch = next(iter(data.val_dataloader()))
    np.testing.assert_array_equal(batch["images"][:, 0], np.load(store / "images.npy")[22:26])


def test_prediction_covers_the_part_that_is_asked_for(store, tmp_path):
    for part, expected in (("test", 5), ("all", 34), ("val", 7)):
        data = study_data(store, predict_split=part)
        ids = trainer(tmp_path).predict(Recorder(), datamodule=data)
        ids = [study for batch in ids for study in batch]
        assert len(ids) == len(set(ids)) == expected
        assert ids == sorted(ids)


def test_stores_are_mixed_by_their_passes(store, tmp_path):
    other = make_store(tmp_path / "other", train=40)
    data = study_data({str(store): 1.0, str(other): 0.25}, batch_size=1)
    data.setup("fit")
    seen = [key.study_id for batch in data.train_dataloader() for key in batch["ids"]]
    assert sum(study.startswith("films") for study in seen) == 22
    assert sum(study.startswith("other") for study in seen) == 10


@pytest.mark.parametrize("sampling", [SquareRoot(0.0), SquareRoot(0.5), ClassAware()])
def test_weights_of_stores_hold_among_the_positives_of_a_label_whatever_the_sampling(sampling, tmp_path):
    """Labels are as frequent in both stores, of which one is drawn four times as often."""
    stores = {str(make_store(tmp_path / "once", train=90)): 1.0, str(make_store(tmp_path / "four", train=90)): 4.0}
    data = study_data(stores, batch_size=1, sampling=sampling)
    data.setup("fit")
    drawn = [key.study_id[:4] for batch in data.train_dataloader() for key in batch["ids"]]
    assert len(drawn) == 450
    assert drawn.count("once") == pytest.approx(90, abs=0 if sampling.__dict__.get("power") == 0 else 12)


@pytest.mark.parametrize("workers", [0, 1])
def test_evaluation_batches_say_their_store_and_training_ones_do_not(store, tmp_path, workers):
    other = make_store(tmp_path / "other")
    data = study_data([str(store), str(other)], num_workers=workers)
    data.setup("fit")
    assert data.store_names("val") == {0: "films", 1: "other"}
    batches = list(data.val_dataloader())
    assert all(isinstance(batch["store"], torch.Tensor) for batch in batches)
    told = [number for batch in batches for number in batch["store"].tolist()]
    studies = [key.study_id for batch in batches for key in batch["ids"]]
    assert told == [int(study.startswith("other")) for study in studies] and set(told) == {0, 1}
    assert "store" not in next(iter(data.train_dataloader()))


def test_a_label_of_which_no_training_study_says_anything_is_refused_by_name(tmp_path):
    folder = make_store(tmp_path / "films")
    table = Manifest.read(folder).table
    table.loc[table["split"] == "train", "Mass"] = np.nan
    Manifest(table).write(folder / "manifest.parquet")
    with pytest.raises(InputError, match=r"no training study of .*films says whether it has Mass: add a store"):
        study_data(folder).setup("fit")
    study_data(folder).setup("validate")
    both = study_data([str(folder), str(make_store(tmp_path / "other"))])
    both.setup("fit")
    np.testing.assert_array_equal(both.observed, [44, 22])


def save_films(folder: Path, names: list[str], size: int = 40) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(names):
        pixels = np.random.default_rng(seed).integers(0, 256, (size, 2 * size), dtype=np.uint8)
        cv2.imwrite(str(folder / name), pixels)
    return folder


def predicted(path: Path, **options: object) -> dict:
    data = study_data(path, preprocessing=Preprocessing(32, "letterbox"), **options)
    data.setup("predict")
    (batch,) = list(data.predict_dataloader())
    return batch


def test_a_folder_an_image_and_a_table_are_read_on_the_fly_as_a_store_would_have_been(tmp_path):
    folder = save_films(tmp_path / "films", ["a.png", "b.png"])
    both = predicted(folder)
    assert [key.image_id for key in both["ids"]] == ["a", "b"]
    assert torch.isnan(both["target"]).all()
    stored = resize_image(read_image(folder / "a.png").pixels, 32, "letterbox")
    np.testing.assert_array_equal(both["images"][0, 0], resize_only(stored, 16))

    single = predicted(folder / "b.png")
    assert [key.image_id for key in single["ids"]] == ["b"]
    assert torch.equal(single["images"][0], both["images"][1])

    table = tmp_path / "list.csv"
    table.write_text("path,remark\nfilms/b.png,x\nfilms/a.png,y\n")
    listed = predicted(table)
    assert torch.equal(listed["images"], both["images"].flip(0))

    table.write_text("path,patient_id,study_id,view\nfilms/b.png,007,1,LATERAL\nfilms/a.png,007,1,PA\n")
    together = predicted(table, level="study")
    assert together["ids"] == [("007", "1", "")]
    assert together["view"].tolist() == [0, 2]


def test_an_unreadable_film_stops_the_prediction_by_name_or_is_left_out_when_asked(tmp_path, caplog):
    folder = save_films(tmp_path / "films", ["a.png", "b.png", "c.png"])
    (folder / "b.png").write_bytes((folder / "b.png").read_bytes()[:100])
    with pytest.raises(InputError, match=r"b\.png"):
        predicted(folder)
    batch = predicted(folder, skip_unreadable=True)
    assert [key.image_id for key in batch["ids"]] == ["a", "c"]
    assert "b.png" in caplog.text
    for name in "ac":
        (folder / f"{name}.png").write_bytes(b"")
    with pytest.raises(InputError, match="none of the 3 images"):
        predicted(folder, skip_unreadable=True)


def test_plain_images_are_not_trained_on(tmp_path):
    data = study_data(save_films(tmp_path / "films", ["a.png"]))
    with pytest.raises(InputError, match=r"is no store, and fit needs one.*prepare"):
        data.setup("fit")


def test_a_missing_store_is_named_with_the_command_that_makes_it(tmp_path):
    with pytest.raises(InputError, match=r"nowhere does not exist.*main.py prepare .*--output .*nowhere"):
        study_data(tmp_path / "nowhere").setup("fit")
    (tmp_path / ".half.partial").mkdir()
    with pytest.raises(InputError, match="half made"):
        study_data(tmp_path / "half").setup("fit")


def test_a_store_without_the_part_is_named(tmp_path):
    path = make_store(tmp_path / "films", val=0)
    with pytest.raises(InputError, match=r"no images of split 'val'.*train: 22"):
        study_data(path).setup("fit")
    unvalidated = run(path, tmp_path, limit_val_batches=0, max_epochs=1)
    assert len(unvalidated.trained) == 5


def test_stores_that_do_not_fit_the_model_or_each_other_are_refused(store, tmp_path, caplog):
    with pytest.raises(InputError, match="made with --resize squash, but the model was trained on letterbox"):
        study_data(store, preprocessing=Preprocessing(24, "letterbox")).setup("fit")
    other = make_store(tmp_path / "other", resize="crop")
    with pytest.raises(InputError, match=r"other was made with --resize crop, but .*films has squash"):
        study_data([str(store), str(other)]).setup("fit")
    with caplog.at_level(logging.WARNING):
        study_data(store, image_size=32).setup("fit")
    assert "24 px, fewer than 32" in caplog.text


def test_predictions_of_two_stores_with_the_same_ids_are_refused(store, tmp_path):
    twin = make_store(tmp_path / "films")
    data = study_data([str(store), str(twin)])
    with pytest.raises(InputError, match="5 studies are in more than one"):
        data.setup("predict")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, r"data\.batch_size is 0"),
        ({"num_workers": -1}, r"data\.num_workers is -1"),
        ({"image_size": 0}, r"data\.image_size is 0"),
        ({"seed": -1}, r"data\.seed is -1"),
        ({"view_dropout": -0.1}, r"data\.view_dropout is -0.1"),
        ({"views": ["pa"]}, r"data\.views has 'pa'; there are PA, AP, lateral, unknown"),
        ({"stores": []}, r"data\.stores is empty"),
        ({"stores": ["a", "b"], "phantom": PhantomSpec()}, "single store"),
    ],
)
def test_impossible_settings_are_refused_before_anything_is_read(options, message):
    with pytest.raises(InputError, match=message):
        study_data(**{"stores": "nowhere", **options})


def test_a_phantom_is_drawn_and_prepared_once_even_if_two_processes_ask(tmp_path, project_root):
    labels = LabelSet.load(project_root / "configs/labels/phantom.yaml")
    spec = PhantomSpec(studies=40, size=32, seed=3)
    asked = [multiprocessing.get_context("fork").Process(target=make_phantom, args=(spec, tmp_path / "p", labels))]
    asked[0].start()
    make_phantom(spec, tmp_path / "p", labels)
    asked[0].join(60)
    assert asked[0].exitcode == 0
    written = (tmp_path / "p/store.json").stat().st_mtime_ns
    data = StudyData(labels, str(tmp_path / "p"), level="study", image_size=32, num_workers=0, phantom=spec)
    data.prepare_data()
    assert (tmp_path / "p/store.json").stat().st_mtime_ns == written
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert batch["images"].shape[0] >= batch["target"].shape[0] > 1
    assert data.positives.sum() > 0


def test_real_films_come_out_of_the_loader_as_they_look(shared_data):
    films = shared_data / "nih-fullsize"
    data = study_data(films, image_size=64, preprocessing=Preprocessing(256), batch_size=8)
    data.setup("predict")
    (batch,) = list(data.predict_dataloader())
    assert len(batch["ids"]) == 6
    means = batch["images"].float().mean(dim=(1, 2, 3))
    assert ((means > 40) & (means < 220)).all()


@pytest.mark.parametrize("stage", ["fit", "validate"])
def test_stores_that_share_patients_across_splits_are_refused(stage, tmp_path):
    first = make_store(tmp_path / "a")
    second = make_store(tmp_path / "b")
    table = Manifest.read(second).table
    for column in ("patient_id", "study_id", "image_id"):
        table[column] = table[column].str.replace("b", "a")
    table.loc[table["patient_id"] == "a000", "split"] = "val"
    Manifest(table).write(second / "manifest.parquet")
    with pytest.raises(InputError, match=r"1 patients are in two splits .*'a000' of nih: train in .*a; val in .*b"):
        study_data([str(first), str(second)]).setup(stage)


def test_stores_that_share_patients_within_their_splits_are_fine(tmp_path):
    first, second = make_store(tmp_path / "a"), make_store(tmp_path / "b")
    table = Manifest.read(second).table
    table["patient_id"] = table["patient_id"].str.replace("b", "a")
    Manifest(table).write(second / "manifest.parquet")
    data = study_data([str(first), str(second)])
    data.setup("fit")
    assert data.train_batches() == 11
