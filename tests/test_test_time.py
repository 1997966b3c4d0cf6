"""Test-time averaging: which versions of an image there are, and that a prediction is their mean."""

import math

import numpy as np
import pytest
import torch

from longview import InputError, StudyKey
from longview.data.transforms import Augment
from longview.test_time import Averaging, Window, see


def batch(images=5, size=16, seed=0):
    """Two studies of two and three views, packed."""
    pixels = torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (images, 1, size, size), dtype=np.uint8))
    study = torch.tensor([0, 0, 1, 1, 1])
    ids = [StudyKey("p", "s0", ""), StudyKey("p", "s1", "")]
    return {"images": pixels, "study": study, "view": torch.zeros(images, dtype=torch.int64), "ids": ids,
            "target": torch.full((2, 3), math.nan)}  # fmt: skip


def network(given):
    """Logits (2, 3) that depend on where the pixels are, as a mean over the views of a study."""
    images = given["images"].float() / 255
    size = images.shape[-1]
    place = torch.linspace(-1, 1, size)
    features = torch.stack([(images[:, 0] * place).mean((1, 2)), (images[:, 0] * place[:, None]).mean((1, 2)),
                            images.mean((1, 2, 3))], dim=1)  # fmt: skip
    sums = torch.zeros(2, 3).index_add(0, given["study"], features)
    return 20 * sums / torch.bincount(given["study"])[:, None]


def test_by_default_the_image_alone_is_seen_once():
    seen = []
    averaging = Averaging()
    assert averaging.is_off
    given = batch()
    probabilities = averaging.predict(lambda one: seen.append(one) or network(one), given)
    assert len(seen) == 1
    assert seen[0] is given
    assert torch.equal(probabilities, network(given).sigmoid())


@pytest.mark.parametrize("on", ["probability", "logit"])
def test_a_prediction_is_the_mean_over_the_versions_of_packed_views(on):
    averaging = Averaging(flip=True, scales=(1.0, 1.25), crop=0.8, on=on)
    given = batch()
    # 1.25 times larger shows the centre 80 %, which the crops have too: it is counted once
    assert len(averaging.windows) == 2 * 6
    logits = torch.stack([network({**given, "images": see(given["images"], window)}) for window in averaging.windows])
    wanted = logits.sigmoid().mean(0) if on == "probability" else logits.mean(0).sigmoid()
    found = averaging.predict(network, given)
    torch.testing.assert_close(found, wanted)
    assert torch.equal(averaging.predict(network, given), found)
    assert not torch.allclose(found, network(given).sigmoid(), atol=1e-3)


def test_flipping_is_exact_and_makes_the_prediction_blind_to_the_side():
    given = batch()
    mirrored = {**given, "images": given["images"].flip(-1)}
    averaging = Averaging(flip=True)
    torch.testing.assert_close(averaging.predict(network, given), averaging.predict(network, mirrored))
    assert torch.equal(see(given["images"], Window(1.0, 0.0, 0.0, True)), mirrored["images"])
    whole = see(given["images"], Window(1.0, 0.0, 0.0, False))
    assert whole is given["images"]


def test_a_window_shows_its_part_of_the_image():
    size = 32
    image = torch.arange(size, dtype=torch.float32).repeat(size, 1)[None, None] * 4  # brightness tells the column
    right = see(image, Window(0.5, 0.0, 0.5, False))[0, 0]
    np.testing.assert_allclose(right[8, 1:-1].numpy(), 4 * (15.75 + np.arange(size) / 2)[1:-1], atol=0.01)
    mirrored = see(image, Window(0.5, 0.0, 0.5, True))[0, 0]
    torch.testing.assert_close(mirrored, right.flip(-1))
    down = see(image.transpose(-1, -2), Window(0.5, 0.5, 0.0, False))[0, 0]
    torch.testing.assert_close(down, right.T)


@pytest.mark.parametrize("scale", [0.8, 1.25])
def test_a_scale_is_the_zoom_of_training(scale):
    image = np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8)
    still = {"rotate": 0, "shift": 0, "crop": (1, 1), "brightness": 0, "contrast": 0}
    wanted = Augment(scale=(scale, scale), **still)(image, 40, np.random.default_rng(0))
    window = Averaging(scales=(scale,)).windows[0]
    found = see(torch.from_numpy(image)[None, None], window)[0, 0].numpy()
    assert np.abs(found.astype(int) - wanted.astype(int)).max() <= 4  # OpenCV interpolates in fixed point
    if scale < 1:
        assert (found[:3] == 0).all()  # black around


@pytest.mark.parametrize(
    ("options", "message"),
    [({"scales": (0.1,)}, "scales"), ({"scales": ()}, "scales"), ({"scales": (1.0, 1.0)}, "each once"),
     ({"crop": 1.2}, "crop"), ({"crop": 0.0}, "crop")],
)  # fmt: skip
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(InputError, match=f"model.tta.*{message}"):
        Averaging(**options)


def test_flipping_warns_of_sides_and_names_the_labels_that_have_one(caplog):
    Averaging().announce(["Left Pleural Effusion"])
    assert caplog.text == ""
    Averaging(flip=True).announce(["Left Pleural Effusion", "Mass", "Brightness"])
    assert "suffers, above all Left Pleural Effusion\n" in caplog.text


def test_cached_features_are_refused():
    given = {**batch(), "features": torch.zeros(5, 2, 1, 1)}
    with pytest.raises(InputError, match="features of a cache"):
        Averaging(flip=True).predict(network, given)
