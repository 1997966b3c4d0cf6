"""Opening a model by checkpoint or name: it scores and reads films as `predict` and training do."""

import shutil

import cv2
import numpy as np
import pytest
import torch

from longview import InputError
from longview.data.files import ImageFiles
from longview.data.transforms import Preprocessing
from longview.inference import device_of, open_model
from longview.models.xrv_weights import XRV
from longview.outputs import sha256
from published import save
from runs import NAMES, fit, predict

ALL = "densenet121-res224-all"


@pytest.fixture(scope="module")
def run(make_store, tmp_path_factory):
    return fit(make_store(NAMES), tmp_path_factory.mktemp("run"), "--trainer.max_epochs=1")


@pytest.fixture(scope="module")
def model(run):
    return open_model(run / "checkpoints/best.ckpt", device="cpu")


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    rng = np.random.default_rng(0)
    for name, shape in (("a.png", (70, 50)), ("b.jpg", (300, 420)), ("c.png", (32, 32))):
        smooth = cv2.resize(rng.integers(0, 255, (8, 8), dtype=np.uint8), shape[::-1], interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / name), smooth)
    return folder


def test_a_checkpoint_scores_as_predict_does(run, model, films, tmp_path):
    table = predict(run, tmp_path / "p.parquet", f"--data.stores={films}")
    read = [model.read(films / name) for name in ("a.png", "b.jpg", "c.png")]
    found = model.probabilities(torch.stack([film.pixels for film in read]))
    assert list(table["image_id"]) == ["a", "b", "c"]
    assert np.allclose(found.numpy(), table[model.names].to_numpy(), atol=1e-6)
    assert model.names == NAMES == model.labels.names
    assert found.shape == (3, 14)
    assert found.dtype == torch.float32


def test_a_model_says_what_it_is(run, model):
    assert model.name == "nih_1000-version_0-best"
    assert model.sha256 == sha256(run / "checkpoints/best.ckpt")
    assert (model.image_size, model.preprocessing.size) == (32, 32)
    assert not model.network.training
    assert model.device == torch.device("cpu")


def test_a_study_is_one_row(model, films):
    images = torch.stack([model.read(films / name).pixels for name in ("a.png", "b.jpg")])
    both = model.probabilities(images, torch.tensor([0, 0]), torch.tensor([0, 2]), 1)
    mean = torch.logit(model.probabilities(images)).mean(0).sigmoid()
    assert torch.allclose(both[0], mean, atol=1e-5)


def test_a_film_is_read_as_training_reads_it_and_keeps_its_own_frame(model, films):
    film = model.read(films / "b.jpg")
    stored = ImageFiles(films, model.preprocessing)
    assert np.array_equal(film.pixels[0].numpy(), stored.image(1))
    assert (film.height, film.width) == film.film.shape == (300, 420)
    assert film.frame.box_to_original(0, 0, 32, 32) == pytest.approx((0, 0, 420, 300))


def test_images_of_another_size_and_unknown_models_and_devices_are_errors(model, tmp_path):
    with pytest.raises(InputError, match="takes images of shape"):
        model.probabilities(torch.zeros(1, 1, 16, 16, dtype=torch.uint8))
    with pytest.raises(InputError, match=r"no model 'densenet'.*densenet121-res224-all"):
        open_model("densenet")
    with pytest.raises(InputError, match="does not exist"):
        open_model(tmp_path / "no.ckpt")
    for name in ("gpu", "cuda:99", "meta"):
        with pytest.raises(InputError, match=f"--device {name}"):
            device_of(name)


def test_a_published_model_reads_real_films_as_its_own_transforms_do(shared_data, tmp_path):
    file = save(tmp_path, ALL)
    model = open_model(ALL, tmp_path, "cpu")
    assert (model.name, model.sha256, model.image_size) == (ALL, sha256(file), 224)
    assert model.preprocessing == Preprocessing(224, "crop")
    paths = [shared_data / "nih-fullsize/00000001_000.png", *sorted((shared_data / "dicom").glob("*.dcm"))]
    read = [model.read(path) for path in paths]
    assert all(film.pixels.shape == (1, 224, 224) and film.pixels.dtype == torch.uint8 for film in read)
    assert (read[0].height, read[0].width) == (1024, 1024)
    wide = read[1]
    side = min(wide.height, wide.width)
    assert wide.frame.box_to_original(0, 0, 224, 224)[2:] == pytest.approx((side, side))
    found = model.probabilities(torch.stack([film.pixels for film in read]))
    assert found.shape == (3, 18)
    assert ((found >= 0) & (found <= 1)).all()
    shutil.move(file, tmp_path / "gone")
    with pytest.raises(InputError, match=XRV[ALL].file):
        open_model(ALL, tmp_path)
