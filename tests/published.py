"""torchxrayvision's own models with random weights, saved in the form in which it publishes them."""

import contextlib
import warnings

import torch

from longview.models.xrv_weights import JF, XRV, jf_module, torchxrayvision


def shake(model, raw, seed=0):
    """Give a model the statistics of random films, and a head whose outputs are neither all high nor all low.

    Args:
        model: A new one.
        raw: Films (N, C, H, W) in [-1024, 1024] (or as its input has them) to its outputs before any sigmoid.
        seed: Of films and head.
    """
    generator = torch.Generator().manual_seed(seed)
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    loud = torch.linspace(0.2, 1, 4)[:, None, None, None]
    films = (torch.rand(4, 1, 128, 128, generator=generator) * loud * 2 - 1) * 1024
    for module in norms:
        module.momentum = 1.0
    with torch.no_grad():
        raw(model.train(), films)
    for module in norms:
        module.momentum = 0.1
    for name, module in model.named_modules():
        if name.startswith("attention_map") and isinstance(module, torch.nn.BatchNorm2d):
            module.running_var.clamp_(min=1.0)  # JF Healthcare multiplies its attention five times over
    for name, parameter in model.named_parameters():
        if name.startswith(("classifier", "fc")):
            middle = -3.0 if name == "classifier.bias" else 0.0  # where the DenseNets' operating points are
            spread = 1.0 if parameter.ndim == 1 else 0.1
            parameter.data.normal_(middle, spread, generator=generator)
    return model.eval()


def save(folder, name, seed=0, **options):
    """Write a model's file to a folder, under its name in the release; returns the file."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    file = folder / XRV[name].file
    if name == JF:
        with _no_download():
            config = jf_module().DenseNet.__init__.__globals__["classifier"]
            model = shake(config.Classifier(_jf_options()), lambda net, x: net(x.repeat(1, 3, 1, 1) / 512), seed)
        torch.save(model.state_dict(), file, **options)
    elif XRV[name].architecture == "resnet50":
        import torchvision

        model = torchvision.models.resnet50(num_classes=18)
        model.conv1 = torch.nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3, bias=False)
        torch.save(shake(model, _plain, seed).state_dict(), file, **options)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.save(shake(torchxrayvision().models.DenseNet(), _plain, seed), file, **options)
    return file


def reference(folder, name, monkeypatch=None):
    """The model as torchxrayvision itself reads it."""
    library = torchxrayvision()
    if name == JF:
        home = folder / "home"
        place = home / ".torchxrayvision/models_data"
        place.mkdir(parents=True, exist_ok=True)
        (place / XRV[name].file).write_bytes((folder / XRV[name].file).read_bytes())
        monkeypatch.setenv("HOME", str(home))
        with _no_download():
            return jf_module().DenseNet().eval()
    if XRV[name].architecture == "resnet50":
        return library.models.ResNet(weights=name, cache_dir=str(folder)).eval()
    return library.models.DenseNet(weights=name, cache_dir=str(folder)).eval()


def _plain(model, films):
    return model(films)


def _jf_options():
    import json
    from importlib import resources
    from types import SimpleNamespace

    text = resources.files(jf_module()).joinpath("config/example.json").read_text()
    return SimpleNamespace(**json.loads(text))


@contextlib.contextmanager
def _no_download():
    """JF Healthcare's backbone fetches ImageNet's weights, which its own file then replaces."""
    from unittest import mock

    backbone = jf_module().classifier.densenet121.__globals__["model_zoo"]
    with mock.patch.object(backbone, "load_url", lambda url: {}):
        yield
