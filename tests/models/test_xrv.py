"""torchxrayvision's classifiers, with random weights saved in its own format, against the library itself."""

import pickle
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longview import InputError
from longview.labels import Label, LabelSet
from longview.models import xrv_weights
from longview.models.decoder import LinearDecoder
from longview.models.xrv import XrvNetwork, calibrated
from longview.models.xrv_weights import JF, XRV, XRV_NAMES, XrvWeights, torchxrayvision
from published import reference, save

ALL, RSNA, RESNET = "densenet121-res224-all", "densenet121-res224-rsna", "resnet50-res512-all"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("published")
    for number, name in enumerate((ALL, RSNA)):
        save(made, name, seed=number)
    return made


def films(size, count=2):
    generator = torch.Generator().manual_seed(3)
    ramp = torch.linspace(0.3, 1, count)[:, None, None, None]
    return (torch.randint(0, 256, (count, 1, size, size), generator=generator) * ramp).to(torch.uint8)


def opened(name, folder, labels=None, **options):
    network = XrvNetwork(name, weights=str(folder), **options)
    labels = labels or network.own_labels()
    network.build(labels, network.own_size)
    return network.eval(), labels.names


@torch.inference_mode()
def logits(network, images, **options):
    count = len(images)
    rows = torch.arange(count)
    return network(images, rows, torch.zeros(count, dtype=torch.int64), count, **options)


@pytest.fixture(scope="module")
def network(folder):
    return opened(ALL, folder)


# ---- Must hold 2 ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [ALL, RSNA, RESNET, JF])
def test_probabilities_are_torchxrayvisions_own_and_span_below_a_half(name, folder, monkeypatch):
    if name in {RESNET, JF}:
        save(folder, name)
    theirs = reference(folder, name, monkeypatch)
    network, names = opened(name, folder)
    images = films(XRV[name].size)
    ours = logits(network, images).sigmoid()
    with torch.inference_mode():
        expected = theirs((2 * (images.float() / 255) - 1) * 1024)
    expected = expected[:, [list(theirs.targets).index(label) for label in names]]
    assert torch.allclose(ours, expected, rtol=0, atol=1e-6)
    if len(names) > 2:
        assert (ours < 0.45).any()
        assert (ours > 0.55).any()
    assert (ours[0] - ours[1]).abs().max() > 1e-3


def test_another_size_is_resized_as_torchxrayvision_does(folder, network):
    theirs, images = reference(folder, ALL), films(160)
    with torch.inference_mode():
        expected = theirs((2 * (images.float() / 255) - 1) * 1024)
    assert torch.allclose(logits(network[0], images).sigmoid(), expected, rtol=0, atol=1e-5)


def test_outputs_that_were_never_trained_are_left_out(folder):
    assert opened(RSNA, folder)[1] == ["Pneumonia", "Lung Opacity"]
    save(folder, RESNET)
    names = XrvNetwork(RESNET, str(folder)).own_labels().names
    assert len(names) == 16
    assert not {"Lung Lesion", "Enlarged Cardiomediastinum"} & set(names)  # torchxrayvision answers 0.5 to them
    assert XrvNetwork(ALL, str(folder)).own_labels().names == LabelSet.load("xrv").names


@settings(max_examples=60, deadline=None, derandomize=True)
@given(logit=st.floats(-12, 12), threshold=st.floats(4e-4, 0.6))
def test_calibrating_logits_is_torchxrayvisions_scaling_of_probabilities(logit, threshold):
    value, point = torch.tensor([[logit]]), torch.tensor([threshold])
    expected = torchxrayvision().models.op_norm(value.sigmoid(), point)
    assert calibrated(value, point).sigmoid().item() == pytest.approx(expected.item(), abs=1e-6)


def test_calibrated_logits_rise_stay_finite_and_have_a_gradient_everywhere():
    points = torch.tensor([4.4e-4, 0.05, 0.5])
    values = torch.linspace(-300, 300, 2001)[:, None].repeat(1, 3).requires_grad_()
    result = calibrated(values, points)
    assert result.isfinite().all()
    assert (result.diff(dim=0) > 0).all()
    (gradient,) = torch.autograd.grad(result.sum(), values)
    assert gradient.isfinite().all()
    assert (gradient > 0).all()
    assert torch.allclose(calibrated(torch.logit(points), points), torch.zeros(3), atol=1e-5)


# ---- a network like any other --------------------------------------------------------------------------------


def test_the_head_alone_repeats_the_whole_from_its_features(network):
    images = films(224)
    features = network[0].encode(images)
    assert features.shape == (2, 1024, 7, 7)
    assert torch.equal(logits(network[0], images), logits(network[0], images, features=features.detach()))


def test_views_of_a_study_are_the_mean_of_their_logits(network):
    images = films(224)
    single = logits(network[0], images)
    with torch.inference_mode():
        both = network[0](images, torch.zeros(2, dtype=torch.int64), torch.tensor([0, 2]), 1)
    assert torch.allclose(both[0], single.mean(0), atol=1e-5)


@pytest.mark.parametrize("other", ["nih", "cxr_lt_2024_task1"])
def test_labels_of_another_set_are_found_by_name_or_alias_in_its_order(folder, network, other):
    whole = LabelSet.load(other)
    known = {"Effusion": "Pleural Effusion", "Pleural_Thickening": "Pleural Thickening"} if other != "nih" else {}
    wanted = [known.get(name, name) for name in LabelSet.load("nih").names]
    part = LabelSet("part", [label for label in whole.labels if label.name in wanted])
    found, names = opened(ALL, folder, part)
    assert len(names) == 14
    theirs = {value: key for key, value in known.items()}
    columns = [network[1].index(theirs.get(name, name)) for name in names]
    assert torch.allclose(logits(found, films(224)), logits(network[0], films(224))[:, columns], atol=1e-5)


def test_a_label_that_the_model_does_not_score_is_an_error_and_a_new_head_learns_it(folder, network):
    labels = LabelSet("mine", [Label("Mass"), Label("Bulla"), Label("Edema")])
    with pytest.raises(InputError, match=r"does not score Bulla.*head new"):
        opened(ALL, folder, labels)
    found, _ = opened(ALL, folder, labels, head="new")
    assert type(found.decoder) is LinearDecoder
    published = network[0].decoder.readout.weight
    for row, name in ((0, "Mass"), (2, "Edema")):
        assert torch.equal(found.decoder.readout.weight[row], published[network[1].index(name)])
    assert found.decoder.readout.weight.requires_grad


def test_a_checkpoint_needs_no_weights_file(network):
    again = XrvNetwork(ALL, weights="/nowhere")
    again.build(LabelSet.load("xrv"), 224, weights=False)
    again.load_state_dict(network[0].state_dict())
    assert torch.equal(logits(again.eval(), films(224)), logits(network[0], films(224)))


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(InputError, match="densenet121-res224-mimic_ch, resnet50-res512-all, jfhealthcare"):
        XrvNetwork("densenet121")
    assert len(XRV_NAMES) == 9


# ---- files ---------------------------------------------------------------------------------------------------


def test_every_published_file_is_where_torchxrayvision_fetches_it():
    for name, entry in torchxrayvision().models.model_urls.items():
        if name in XRV:
            assert (XRV[name].url, XRV[name].size) == (entry["weights_url"], entry["input_resolution"])
    assert {name for name in XRV if name not in torchxrayvision().models.model_urls} == {JF}


def test_the_format_before_torch_1_6_is_read(folder, tmp_path):
    save(tmp_path, ALL, _use_new_zipfile_serialization=False)
    with (tmp_path / XRV[ALL].file).open("rb") as file:
        assert file.read(2) != b"PK"
    old, new = XrvWeights.find(ALL, tmp_path).state(), XrvWeights.find(ALL, folder).state()
    assert old.keys() == new.keys()
    assert all(torch.equal(old[key], new[key]) for key in new)


def test_a_converted_file_needs_no_torchxrayvision(folder, network, tmp_path, monkeypatch):
    file = XrvWeights.find(ALL, folder).convert(tmp_path)
    assert file.name == f"{ALL}.safetensors"
    monkeypatch.setitem(sys.modules, "torchxrayvision", None)
    with pytest.raises(InputError, match="--extra xrv"):
        torchxrayvision()
    found, names = opened(ALL, tmp_path)
    assert names == network[1]
    assert torch.equal(logits(found, films(224)), logits(network[0], films(224)))
    with pytest.raises(InputError, match=f"holds {ALL}, not {RSNA}"):
        opened(RSNA, file)


def test_nothing_in_a_file_is_executed(folder, tmp_path):
    class Evil:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").touch, ())

    file = tmp_path / XRV[ALL].file
    torch.save(Evil(), file)
    with pytest.raises(InputError, match="neither a layer nor a tensor"):
        opened(ALL, tmp_path)
    file.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(InputError, match="damaged"):
        opened(ALL, tmp_path)
    whole = (folder / XRV[ALL].file).read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="damaged"):
        opened(ALL, tmp_path)
    assert not (tmp_path / "ran").exists()


def test_weights_of_another_architecture_are_refused(folder, tmp_path):
    (tmp_path / XRV[RESNET].file).write_bytes((folder / XRV[ALL].file).read_bytes())
    with pytest.raises(InputError, match=f"does not fit {RESNET}"):
        opened(RESNET, tmp_path)


def test_absent_weights_say_what_to_fetch_and_where_to_put_it(tmp_path, monkeypatch):
    monkeypatch.setattr(xrv_weights, "HOME", tmp_path / "home")
    monkeypatch.setattr(xrv_weights.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError) as caught:
        XrvWeights.find(ALL)
    assert XRV[ALL].url in str(caught.value)
    assert str(tmp_path / "home") in str(caught.value)
    with pytest.raises(InputError, match="do not exist"):
        XrvWeights.find(ALL, tmp_path / "none")


def test_weights_are_fetched_by_torchxrayvision_into_the_folder(tmp_path, monkeypatch):
    fetched = []
    monkeypatch.setattr(xrv_weights.hub, "unreachable", lambda url, offline: None)
    monkeypatch.setattr(torchxrayvision().utils, "download", lambda url, file: fetched.append((url, file)))
    found = XrvWeights.find(ALL, tmp_path)
    assert found.file == tmp_path / XRV[ALL].file
    assert fetched == [(XRV[ALL].url, str(found.file))]


def test_importing_torchxrayvision_leaves_the_process_as_it_was():
    import subprocess

    code = (
        "import sys, warnings; from longview.models.xrv_weights import torchxrayvision, jf_module\n"
        "before = list(warnings.filters), list(sys.path); torchxrayvision(); jf_module()\n"
        "sys.exit(before != (list(warnings.filters), list(sys.path)) or 'model' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
