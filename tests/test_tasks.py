import copy
import math
from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
import torch

from longview import InputError, StudyKey
from longview.labels import Label, LabelSet
from longview.losses import BCE
from longview.models.decoder import LinearDecoder
from longview.models.encoder import Encoder
from longview.models.network import StudyNetwork
from longview.optim import AdamW, WarmupCosine
from longview.tasks import CHECKPOINT_KEY, ClassificationTask, described, load, read_checkpoint

LABELS = LabelSet("three", [Label("Mass"), Label("Nodule"), Label("Edema")])


def make_task(**options):
    torch.manual_seed(0)
    network = StudyNetwork(Encoder("test_resnet"), LinearDecoder())
    arguments = {"labels": LABELS, "network": network, "loss": BCE(), "optimizer": AdamW(), "image_size": 32}
    return ClassificationTask(**{**arguments, **options})


def make_batch(studies=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        "images": torch.randint(0, 256, (studies, 1, 32, 32), generator=generator, dtype=torch.uint8),
        "study": torch.arange(studies),
        "view": torch.zeros(studies, dtype=torch.int64),
        "target": (torch.rand(studies, 3, generator=generator) < 0.5).float(),
        "ids": [StudyKey(f"p{i}", f"s{i}", "") for i in range(studies)],
    }


def test_predictions_are_probabilities_by_id_in_float32():
    task = make_task()
    task.build()
    task.eval()
    batch = make_batch()
    with torch.no_grad():
        output = task.predict_step(batch, 0)
        expected = task(batch).sigmoid()
    assert output["ids"] == batch["ids"]
    assert output["probabilities"].dtype == torch.float32
    torch.testing.assert_close(output["probabilities"], expected)


def test_flip_averaging_is_the_mean_over_the_mirrored_image():
    task = make_task(flip_tta=True)
    task.build()
    task.eval()
    batch = make_batch()
    mirrored = {**batch, "images": batch["images"].flip(-1)}
    with torch.no_grad():
        mean = (task(batch).sigmoid() + task(mirrored).sigmoid()) / 2
        torch.testing.assert_close(task.predict_step(batch, 0)["probabilities"], mean)
        assert not torch.allclose(task(batch), task(mirrored))


def test_groups_come_from_the_training_counts():
    task = make_task()
    task.positives.copy_(torch.tensor([50.0, 5.0, 0.5]))
    task.observed.copy_(torch.tensor([100.0, 100.0, 100.0]))
    assert task.label_groups() == {"head": ["Mass"], "medium": ["Nodule"], "tail": ["Edema"]}


def test_training_counts_reach_network_and_loss():
    seen = []
    task = make_task()
    task.network.set_counts = lambda positives, observed: seen.append(("network", positives.tolist()))
    task.loss.set_counts = lambda positives, observed: seen.append(("loss", observed.tolist()))
    task._trainer = SimpleNamespace(
        datamodule=SimpleNamespace(positives=[1.0, 2.0, 3.0], observed=[9.0, 9.0, 9.0]), ckpt_path=None
    )
    task.configure_model()
    assert seen == [("network", [1.0, 2.0, 3.0]), ("loss", [9.0, 9.0, 9.0])]


def test_pretrained_weights_are_read_only_where_no_checkpoint_follows():
    for path, expected in ((None, True), ("last.ckpt", False)):
        task, seen = make_task(), []
        build = task.network.build
        task.network.build = lambda *args, weights, seen=seen, build=build: seen.append(weights) or build(*args)
        task._trainer = SimpleNamespace(datamodule=None, ckpt_path=path)
        task.configure_model()
        assert seen == [expected]


def test_the_schedule_is_stepped_per_optimizer_step():
    task = make_task(schedule=WarmupCosine())
    task.build()
    task._trainer = SimpleNamespace(estimated_stepping_batches=100, datamodule=None)
    configured = task.configure_optimizers()
    assert configured["lr_scheduler"]["interval"] == "step"
    assert configured["lr_scheduler"]["scheduler"].optimizer is configured["optimizer"]


@pytest.mark.parametrize("options", [
    {"max_epochs": 3}, {"max_epochs": 3, "accumulate_grad_batches": 2}, {"max_epochs": 3, "limit_train_batches": 0.5},
    {"max_epochs": 3, "limit_train_batches": 2}, {"max_epochs": 3, "max_steps": 4}, {"max_epochs": -1, "max_steps": 7},
])  # fmt: skip
def test_the_number_of_steps_is_lightnings_without_making_a_loader(options, tmp_path):
    class Counted(Data):
        made = 0

        def train_dataloader(self):
            Counted.made += 1
            return loader([make_batch(seed=seed) for seed in range(5)])

        def train_batches(self):
            return 5

    class Task(ClassificationTask):
        def on_train_start(self):
            self.expected = self.trainer.estimated_stepping_batches

        def configure_optimizers(self):
            self.steps, self.made = self.total_steps(), Counted.made
            return super().configure_optimizers()

    network = StudyNetwork(Encoder("test_resnet"), LinearDecoder())
    task = Task(LABELS, network, BCE(), AdamW(), WarmupCosine(), image_size=32)
    trainer(tmp_path, **options, limit_val_batches=0, enable_checkpointing=False).fit(task, datamodule=Counted())
    assert task.steps == task.expected
    assert task.made == 0


def test_a_compiled_network_keeps_its_keys_and_its_figures(monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiled.append(type(self).__name__))
    task = make_task(compile=True)
    task.build()
    assert compiled == ["StudyNetwork"]
    plain = make_task()
    plain.build()
    assert task.state_dict().keys() == plain.state_dict().keys()


def loader(batches):
    return torch.utils.data.DataLoader(batches, batch_size=None)


class Data(pl.LightningDataModule):
    preprocessing = SimpleNamespace(size=32, resize="squash")
    positives, observed = [3.0, 2.0, 1.0], [8.0, 8.0, 8.0]

    def train_dataloader(self):
        return loader([make_batch(seed=1), make_batch(seed=2)])

    def val_dataloader(self):
        return loader(self.val_batches())

    def val_batches(self):
        return [make_batch(5, seed=3), make_batch(2, seed=4)]

    def test_dataloader(self):
        return self.val_dataloader()


def trainer(folder, **options):
    defaults = {"accelerator": "cpu", "max_epochs": 1, "logger": False, "enable_progress_bar": False,
                "enable_model_summary": False, "default_root_dir": folder, "num_sanity_val_steps": 0}  # fmt: skip
    return pl.Trainer(**{**defaults, **options})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    task = make_task()
    run = trainer(folder)
    run.fit(task, datamodule=Data())
    run.save_checkpoint(folder / "end.ckpt")
    return task, run, folder / "end.ckpt"


def test_validation_logs_finite_figures(trained):
    _, run, _ = trained
    metrics = run.callback_metrics
    for key in ("val/loss", "val/map", "val/auroc", "val/map_head", "train/loss", "train/lr"):
        assert math.isfinite(float(metrics[key])), key


def test_the_loss_of_an_epoch_is_the_mean_over_known_cells(tmp_path):
    class Sparse(Data):
        def val_batches(self):
            batches = super().val_batches()
            batches[0]["target"][:4] = torch.nan
            return batches

    task = make_task()
    run = trainer(tmp_path)
    run.validate(task, datamodule=Sparse(), verbose=False)
    task.eval()
    batches = Sparse().val_batches()
    with torch.no_grad():
        logits = torch.cat([task(batch) for batch in batches])
    target = torch.cat([batch["target"] for batch in batches])
    expected = float(task.loss(logits, target))
    assert float(run.callback_metrics["val/loss"]) == pytest.approx(expected, rel=1e-5)


def test_a_split_without_any_scorable_label_scores_zero_and_training_goes_on(tmp_path, caplog):
    class OneKind(Data):
        def val_batches(self):
            batch = make_batch()
            batch["target"].zero_()
            return [batch]

    run = trainer(tmp_path)
    with caplog.at_level("INFO"):
        run.fit(make_task(), datamodule=OneKind())
    assert float(run.callback_metrics["val/map"]) == 0.0
    assert "Mass, Nodule, Edema" in caplog.text


def test_a_checkpoint_says_what_it_is(trained):
    _, _, path = trained
    checkpoint = torch.load(path, weights_only=False)
    part = described(checkpoint)
    assert LabelSet.from_dict(part["labels"]) == LABELS
    assert part["preprocessing"] == {"size": 32, "resize": "squash"}
    assert part["image_size"] == 32
    assert checkpoint["state_dict"]["positives"].tolist() == [3.0, 2.0, 1.0]


def test_a_checkpoint_of_other_labels_is_refused_by_name(trained):
    _, _, path = trained
    checkpoint = torch.load(path, weights_only=False)
    other = make_task(labels=LabelSet("swapped", [Label("Nodule"), Label("Mass"), Label("Edema")]))
    with pytest.raises(InputError, match=r"checkpoint: Mass, Nodule, Edema; this run: Nodule, Mass, Edema"):
        other.on_load_checkpoint(checkpoint)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"this is text", "is not a checkpoint"),
        (b"", "is not a checkpoint"),
        ({"weights": 1}, "lacks `state_dict`"),
        ({"state_dict": {}}, f"lacks the key '{CHECKPOINT_KEY}'"),
    ],
)
def test_what_is_no_checkpoint_is_refused_with_its_name(content, message, tmp_path):
    path = tmp_path / "model.ckpt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(InputError, match=message) as caught:
        read_checkpoint(path)
    assert str(path) in str(caught.value)


def test_a_truncated_checkpoint_is_refused(trained, tmp_path):
    whole = trained[2].read_bytes()
    path = tmp_path / "cut.ckpt"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="is not a checkpoint, or is damaged"):
        read_checkpoint(path)


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(InputError, match=r"gone\.ckpt does not exist"):
        load(tmp_path / "gone.ckpt")


def test_validating_changes_no_weight(trained, tmp_path):
    task, _, _ = trained
    before = copy.deepcopy(task.state_dict())
    trainer(tmp_path).validate(task, datamodule=Data(), verbose=False)
    for key, value in task.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)
