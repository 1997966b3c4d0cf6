"""Checkpoints with random weights, as a run of the command line would leave them, without the run."""

import copy

import torch

from longview.checkpoints import CHECKPOINT_KEY
from longview.labels import Label, LabelSet
from longview.tasks import ClassificationTask

SIZE = 64
NAMES = ["Opacity", "Pneumonia", "Edema", "Fibrosis", "Hernia"]
LABELS = LabelSet("five", [Label(name) for name in NAMES], hierarchy={"Opacity": ["Pneumonia", "Edema"]})

_IMAGE = {
    "encoder": {"class_path": "longview.models.encoder.Encoder", "init_args": {"name": "test_resnet"}},
    "decoder": {"class_path": "longview.models.decoder.LinearDecoder", "init_args": {"dropout": 0.1}},
}
_STUDY = {
    "encoder": {"class_path": "longview.models.encoder.Encoder", "init_args": {"name": "test_convnext"}},
    "decoder": {
        "class_path": "longview.models.decoder.LabelDecoder",
        "init_args": {"width": 32, "heads": 4, "feedforward": 48},
    },
    "fusion": {
        "class_path": "longview.models.fusion.TransformerFusion",
        "init_args": {"width": 32, "heads": 4, "feedforward": 48, "layers": 1},
    },
}
PARTS = {"image": _IMAGE, "study": _STUDY}


def checkpoint(folder, parts, seed=0, loud=4.0, **options):
    """Write a checkpoint of a network of these parts, its read-out `loud` times enlarged; returns the file."""
    from lightning.pytorch.cli import instantiate_module

    hparams = {
        "_class_path": "longview.tasks.ClassificationTask",
        "labels": LABELS.to_dict(),
        "network": {"class_path": "longview.models.network.StudyNetwork", "init_args": parts},
        "loss": {"class_path": "longview.losses.BCE"},
        "optimizer": {"class_path": "longview.optim.AdamW"},
        "image_size": SIZE,
        **options,
    }
    torch.manual_seed(seed)
    options = {key: value for key, value in hparams.items() if key[0] != "_"}
    task = instantiate_module(ClassificationTask, copy.deepcopy(options))  # which puts objects in place of mappings
    task.build(weights=False)
    shake(task.network, loud)
    file = folder / "model.ckpt"
    content = {
        "state_dict": task.state_dict(),
        "hyper_parameters": {**hparams, "_instantiator": "lightning.pytorch.cli.instantiate_module"},
        CHECKPOINT_KEY: {
            "version": "0",
            "labels": LABELS.to_dict(),
            "image_size": SIZE,
            "preprocessing": {"size": 80, "resize": "letterbox"},
            "config": {},
        },
    }
    torch.save(content, file)
    return file


def shake(network, loud):
    """Make what random weights leave at its start count: gates, biases, norms, and the read-out."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
            if "readout" in name:
                parameter.mul_(loud)
