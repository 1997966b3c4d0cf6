import copy
import math
from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
import torch

from longview import InputError, StudyKey
from longview.checkpoints import CHECKPOINT_KEY, described, read_checkpoint
from longview.labels import Label, LabelSet
from longview.losses import BCE
from longview.models.decoder import LabelDecoder, LinearDecoder
from longview.models.encoder import Encoder
from longview.models.label_text import LabelText
from longview.models.network import StudyNetwork
from longview.models.queries import TextQueries
from longview.optim import AdamW, WarmupCosine, total_steps
from longview.tasks import ClassificationTask, load
from longview.test_time import Averaging

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
    task = make_task(tta=Averaging(flip=True))
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
    task._trainer = SimpleNamespace(datamodule=SimpleNamespace(positives=[1.0, 2.0, 3.0], observed=[9.0, 9.0, 9.0]))
    task.configure_model()
    assert seen == [("network", [1.0, 2.0, 3.0]), ("loss", [9.0, 9.0, 9.0])]


def test_pretrained_weights_are_read_only_where_no_checkpoint_follows():
    for follows in (False, True):
        task, seen = make_task(), []
        build = task.network.build
        task.network.build = lambda *args, weights, seen=seen, build=build: seen.append(weights) or build(*args)
        task.checkpoint_follows = follows
        task.configure_model()
        assert seen == [not follows]


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
            self.steps, self.made = total_steps(self.trainer), Counted.made
            return super().configure_optimizers()

    network = StudyNetwork(Encoder("test_resnet"), LinearDecoder())
    task = Task(LABELS, network, BCE(), AdamW(), WarmupCosine(), image_size=32)
    trainer(tmp_path, **options, limit_val_batches=0, enable_checkpointing=False).fit(task, datamodule=Counted())
    assert task.steps == task.expected
    assert task.made == 0


def test_the_loss_is_told_labels_counts_targets_and_in_each_epoch_how_far_training_is(tmp_path):
    class Noting(BCE):
        def __init__(self):
            super().__init__()
            self.told = []

        def set_labels(self, labels):
            self.told.append(labels.names)

        def set_counts(self, positives, observed):
            self.told.append((positives.tolist(), observed.tolist()))

        def set_targets(self, targets):
            self.told.append(targets.dtype)

        def set_progress(self, progress):
            self.told.append(progress)

    class Counting(Data):
        positives, observed = [1.0, 2.0, 3.0], [4.0, 4.0, 4.0]
        targets = torch.zeros(4, 3).numpy()

    loss = Noting()
    trainer(tmp_path, max_epochs=4, enable_checkpointing=False).fit(make_task(loss=loss), datamodule=Counting())
    counts = ([1.0, 2.0, 3.0], [4.0, 4.0, 4.0])
    assert loss.told == [LABELS.names, counts, torch.float32, 0.0, 1 / 3, 2 / 3, 1.0]


def test_a_compiled_network_keeps_its_keys_and_its_figures(monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiled.append(type(self).__name__))
    task = make_task(compile=True)
    task.build()
    assert compiled == ["StudyNetwork"]
    plain = make_task()
    plain.build()
    assert task.state_dict().keys() == plain.state_dict().keys()


# ---- stages ----------------------------------------------------------------------------------------------------


def frozen_task(**options):
    task = make_task(freeze="encoder", **options)
    task.build()
    return task


def test_what_is_frozen_is_in_evaluation_mode_whatever_the_rest():
    task = frozen_task()
    for mode in (True, False, True):
        task.train(mode)
        assert all(not module.training for module in task.network.encoder.modules())
        assert task.network.decoder.training == mode
    assert task.frozen == ["encoder"]


def test_a_frozen_encoder_builds_no_graph_and_is_not_optimised():
    task = frozen_task()
    assert task.network.encode(make_batch()["images"]).grad_fn is None
    loss = task.loss(task(make_batch()), make_batch()["target"])
    loss.backward()
    trained = {id(value) for group in task.configure_optimizers().param_groups for value in group["params"]}
    assert trained == {id(value) for value in task.network.decoder.parameters()}
    assert all(value.grad is None for value in task.network.encoder.parameters())


def test_training_moves_nothing_of_a_frozen_encoder(tmp_path):
    modes = []

    class Watched(ClassificationTask):
        def training_step(self, batch, batch_idx):
            modes.append((self.network.encoder.model.bn1.training, self.network.decoder.training))
            return super().training_step(batch, batch_idx)

    torch.manual_seed(0)
    network = StudyNetwork(Encoder("test_resnet"), LinearDecoder())
    task = Watched(LABELS, network, BCE(), AdamW(lr=0.1), image_size=32, freeze=["encoder"])
    task.build()
    before = copy.deepcopy(task.network.state_dict())
    trainer(tmp_path, max_epochs=2, enable_checkpointing=False).fit(task, datamodule=Data())
    assert modes == [(False, True)] * 4  # also after the validation in between
    after = task.network.state_dict()
    for key, value in before.items():
        assert torch.equal(after[key], value) == key.startswith("encoder."), key


@pytest.mark.parametrize(("freeze", "frozen"), [(None, []), ("encoder", ["encoder"]), (["a", "b"], ["a", "b"])])
def test_freeze_takes_a_name_or_several(freeze, frozen):
    assert make_task(freeze=freeze).frozen == frozen


def test_freezing_what_is_random_is_told_and_what_another_run_trained_is_not(trained, caplog):
    frozen_task()
    assert "encoder has random weights" in caplog.text
    caplog.clear()
    frozen_task(pretrained=str(trained[2]))
    assert "random" not in caplog.text
    make_task(freeze="encoder").build(weights=False)  # a checkpoint follows
    assert "random" not in caplog.text


def test_a_stage_begins_with_the_weights_of_another_run_and_nothing_else(trained):
    stage1, _, path = trained
    task = make_task(pretrained=str(path))
    task.build()
    for key, value in stage1.network.state_dict().items():
        assert torch.equal(task.network.state_dict()[key], value), key
    assert task.positives.sum() == 0  # counts are this run's


@pytest.mark.parametrize("checkpoint", ["runs/none/version_0/checkpoints/best.ckpt", "best.ckpt"])
def test_a_checkpoint_that_follows_needs_no_stage_1(checkpoint):
    task = make_task(pretrained=checkpoint)
    task.checkpoint_follows = True
    task.configure_model()
    missing = make_task(pretrained=checkpoint)
    with pytest.raises(InputError, match=r"run stage 1 first: uv run main\.py fit --config "):
        missing.build()
    with pytest.raises(InputError, match=r"best\.ckpt does not exist"):
        missing.check_pretrained()


def test_a_missing_stage_names_the_configuration_that_makes_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs/experiment").mkdir(parents=True)
    (tmp_path / "configs/experiment/big.yaml").touch()
    for path, config in (("runs/big/version_3/checkpoints/best.ckpt", r"configs/experiment/big\.yaml"),
                         ("runs/own/version_0/checkpoints/best.ckpt", r"FILE \(the one with `name: own`\)"),
                         ("big.ckpt", "FILE")):  # fmt: skip
        with pytest.raises(InputError, match=f"fit --config {config}$"):
            make_task(pretrained=path).check_pretrained()


def test_a_foreign_file_is_no_stage_1(tmp_path):
    file = tmp_path / "weights.pth"
    torch.save({"state_dict": {}}, file)
    with pytest.raises(InputError, match=r"model\.pretrained: .*weights\.pth was not written by longview.*stage 1's"):
        make_task(pretrained=str(file)).build()


# ---- other labels ----------------------------------------------------------------------------------------------


def labels_named(*names, unseen=(), name="asked"):
    return LabelSet(name, [*map(Label, names), *(Label(other, unseen=True) for other in unseen)])


def predicted(task):
    task.eval()
    with torch.no_grad():
        return task.predict_step(make_batch(), 0)["probabilities"]


@pytest.mark.parametrize("names", [("Nodule",), ("Edema", "Mass", "Nodule"), ("Mass", "Edema")])
@pytest.mark.parametrize("flip", [False, True])
def test_labels_of_the_training_are_found_by_name(names, flip):
    task = make_task(tta=Averaging(flip=flip))
    task.build()
    whole = predicted(task)
    task.ask(labels_named(*names))
    assert task.predicted_names == list(names)
    torch.testing.assert_close(predicted(task), whole[:, [LABELS.names.index(name) for name in names]])


@pytest.mark.parametrize("asked", [labels_named("Mass", "Hernia"), labels_named("Mass", unseen=["Hernia"])])
def test_a_network_that_cannot_score_a_label_refuses_it_by_name(asked):
    with pytest.raises(
        InputError, match="'asked': the model cannot score Hernia; it was trained on Mass, Nodule, Edema"
    ):
        make_task().ask(asked)


def test_its_own_unseen_labels_are_left_out_with_a_warning(caplog):
    task = make_task(labels=labels_named("Mass", "Nodule", "Edema", unseen=["Hernia", "Cyst"]))
    task.build()
    assert not caplog.records
    task.on_predict_start()
    assert "Hernia, Cyst" in caplog.text and "not predicted" in caplog.text
    assert task.predicted_names == ["Mass", "Nodule", "Edema"]
    assert predicted(task).shape == (4, 3)


def text_task(folder, labels=LABELS, residual=True):
    torch.manual_seed(0)
    queries = TextQueries(LabelText("random", cache=str(folder)), residual=residual)
    decoder = LabelDecoder(width=16, heads=2, feedforward=8, queries=queries, readout="shared")
    network = StudyNetwork(Encoder("test_resnet"), decoder)
    return make_task(labels=labels, network=network)


def test_an_open_vocabulary_scores_what_is_asked_and_then_what_was_trained(tmp_path):
    task = text_task(tmp_path)
    task.build()
    with torch.no_grad():
        task.network.decoder.queries.residual.normal_()
    whole = predicted(task)
    reworded = Label("Nodule", ["a small round opacity"])
    asked = LabelSet("asked", [Label("Hernia"), reworded, Label("Cyst", unseen=True), Label("Mass")])
    task.ask(asked)
    task.on_predict_start()
    assert task.predicted_names == ["Hernia", "Nodule", "Mass", "Cyst"]
    scores = predicted(task)
    assert scores.shape == (4, 4)
    torch.testing.assert_close(scores[:, 1:3], whole[:, [1, 0]])  # trained labels, whatever they are called for
    assert not torch.allclose(scores[:, 0], scores[:, 3])
    task.on_predict_end()
    assert task.model_step(make_batch(), "train")[1].shape == (4, 3)
    torch.testing.assert_close(task(make_batch()).sigmoid(), whole)


def test_its_own_unseen_labels_are_predicted_by_an_open_vocabulary(tmp_path):
    task = text_task(tmp_path, labels_named("Mass", "Nodule", "Edema", unseen=["Hernia"]))
    task.build()
    assert predicted(task).shape == (4, 3)
    task.on_predict_start()
    assert task.predicted_names == ["Mass", "Nodule", "Edema", "Hernia"]
    assert predicted(task).shape == (4, 4)


def test_a_task_is_built_for_the_labels_of_its_checkpoint():
    task = make_task(labels=labels_named("Edema", "Mass"))
    asked = task.labels
    task.trained_on(LABELS)
    task.ask(asked)
    task.build()
    assert task.labels == LABELS and task.positives.shape == (3,) and task.test_metrics.names == LABELS.names
    assert task.predicted_names == ["Edema", "Mass"]
    assert predicted(task).shape == (4, 2)


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


def test_a_consistent_prediction_has_no_child_above_its_parent():
    labels = LabelSet("tree", [Label("Mass"), Label("Nodule"), Label("Edema")], hierarchy={"Nodule": ["Mass", "Edema"]})
    task = make_task(labels=labels).eval()
    task.build()
    batch = make_batch()
    torch.nn.init.normal_(task.network.decoder.readout.weight, std=3.0)
    with torch.no_grad():
        plain = task.predict_step(batch, 0)["probabilities"]
        task.consistent = True
        found = task.predict_step(batch, 0)["probabilities"]
    assert (plain[:, 1] < plain[:, [0, 2]].amax(dim=1)).any()
    torch.testing.assert_close(found, torch.stack([plain[:, 0], plain.amax(dim=1), plain[:, 2]], dim=1))
