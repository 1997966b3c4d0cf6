"""Reading pictures of every kind, and making squares of them."""

import os
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PillowImage

from longview import InputError
from longview.data.images import IMAGE_SUFFIXES, read_image, resize_image


@pytest.fixture(scope="module")
def grey():
    """(40, 56) uint8: a ramp from left to right with a bright corner at the top left."""
    film = np.tile(np.linspace(0, 255, 56), (40, 1)).astype(np.uint8)
    film[:8, :8] = 255
    return film


def saved(path, image, **options):
    image.save(path, **options)
    return path


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.bmp"])
def test_eight_bit_grey_is_taken_as_it_is(tmp_path, grey, name):
    read = read_image(saved(tmp_path / name, PillowImage.fromarray(grey)))
    np.testing.assert_array_equal(read.pixels, grey)
    assert read.pixels.dtype == np.uint8
    assert (read.height, read.width, read.spacing_mm) == (40, 56, None)


def test_one_bit_becomes_black_and_white(tmp_path, grey):
    for name in ("a.png", "a.tif", "a.bmp"):
        read = read_image(saved(tmp_path / name, PillowImage.fromarray(grey > 100)))
        np.testing.assert_array_equal(read.pixels, (grey > 100) * np.uint8(255))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P"])
def test_colour_modes_of_a_grey_film_give_that_film(tmp_path, grey, mode):
    file = saved(tmp_path / "a.png", PillowImage.fromarray(grey).convert(mode))
    np.testing.assert_array_equal(read_image(file).pixels, grey)


def test_a_palette_is_looked_up(tmp_path):
    image = PillowImage.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    image.putpalette([255, 255, 255, 0, 0, 0, 200, 200, 200])
    assert read_image(saved(tmp_path / "a.png", image)).pixels.tolist() == [[255, 0, 200]]


def test_alpha_is_composited_on_black(tmp_path):
    colour = np.full((2, 2, 4), 200, np.uint8)
    colour[..., 3] = [[255, 0], [128, 255]]
    read = read_image(saved(tmp_path / "a.png", PillowImage.fromarray(colour)))
    assert read.pixels.tolist() == [[200, 0], [100, 200]]


def test_a_transparent_palette_entry_becomes_black(tmp_path):
    image = PillowImage.fromarray(np.array([[0, 1]], np.uint8), "P")
    image.putpalette([255, 255, 255, 90, 90, 90])
    assert read_image(saved(tmp_path / "a.png", image, transparency=0)).pixels.tolist() == [[0, 90]]


@pytest.mark.parametrize("top", [1023, 4095, 65535])
@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_sixteen_bits_are_stretched_over_the_range_in_use(tmp_path, grey, name, top):
    deep = (grey.astype(np.float64) / 255 * top).round().astype(np.uint16)
    read = read_image(saved(tmp_path / name, PillowImage.fromarray(deep)))
    assert np.abs(read.pixels.astype(int) - grey).max() <= 1


def test_big_endian_integer_and_floating_point_tiffs_are_read(tmp_path, grey):
    for dtype in (np.int32, np.float32):
        film = (grey.astype(np.float64) * 1000 - 5).astype(dtype)
        read = read_image(saved(tmp_path / "a.tif", PillowImage.fromarray(film)))
        assert np.abs(read.pixels.astype(int) - grey).max() <= 1
    data = (grey.astype(np.uint16) * 100).astype(">u2").tobytes()
    image = PillowImage.frombytes("I;16B", (56, 40), data)
    read = read_image(saved(tmp_path / "b.tif", image))
    assert np.abs(read.pixels.astype(int) - grey).max() <= 1


def test_white_is_zero_tiffs_are_inverted(tmp_path, grey):
    tag = 262
    deep = PillowImage.fromarray(grey.astype(np.uint16) * 257)
    read = read_image(saved(tmp_path / "a.tif", deep, tiffinfo={tag: 0}))
    assert np.abs(255 - read.pixels.astype(int) - grey).max() <= 1


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpegs_are_read_as_grey(tmp_path, grey, mode):
    image = PillowImage.fromarray(grey).convert("RGB").convert(mode)
    read = read_image(saved(tmp_path / "a.jpg", image, quality=98))
    assert np.abs(read.pixels.astype(int) - grey).mean() < 2


def test_a_jpeg_is_shrunk_while_decoding_but_never_below_the_size_that_is_needed(tmp_path):
    y, x = np.mgrid[:1200, :1000]
    film = (127 + 100 * np.sin(x / 40) * np.cos(y / 50)).astype(np.uint8)
    file = saved(tmp_path / "a.jpg", PillowImage.fromarray(film), quality=95)
    whole = read_image(file)
    assert whole.pixels.shape == (1200, 1000)
    for size, shape in (
        (100, (150, 125)),
        (126, (300, 250)),
        (250, (300, 250)),
        (251, (600, 500)),
        (900, (1200, 1000)),
    ):
        small = read_image(file, min_size=size)
        assert small.pixels.shape == shape
        assert (small.height, small.width) == (1200, 1000)
        close = resize_image(small.pixels, 96, "squash").astype(int) - resize_image(whole.pixels, 96, "squash")
        assert np.abs(close).max() <= 3
    assert read_image(file, min_size=5000).pixels.shape == (1200, 1000)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif"])
def test_exif_orientation_is_applied(tmp_path, grey, name, orientation):
    exif = PillowImage.Exif()
    exif[0x0112] = orientation
    big = np.kron(grey, np.ones((8, 8), np.uint8))
    options = {"quality": 95} if name == "a.jpg" else {}
    read = read_image(saved(tmp_path / name, PillowImage.fromarray(big), exif=exif, **options), min_size=100)
    turn = {
        1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud,
        5: np.transpose, 6: lambda a: np.rot90(a, -1), 7: lambda a: np.rot90(a, 2).T, 8: np.rot90,
    }[orientation]  # fmt: skip
    expected = turn(big)
    assert (read.height, read.width) == expected.shape
    small = resize_image(expected, 50, "squash").astype(int)
    assert np.abs(resize_image(read.pixels, 50, "squash") - small).mean() < 2


def png_header(width, height):
    """A PNG that claims a size and has almost no data."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_bomb_is_refused_before_it_is_decoded(tmp_path):
    for side in (11_000, 60_000):
        file = tmp_path / f"{side}.png"
        file.write_bytes(png_header(side, side))
        with pytest.raises(InputError, match=f"{side}.png.*(limit|too large)"):
            read_image(file, max_pixels=100_000_000)


def test_pillows_own_settings_are_left_alone(tmp_path, grey):
    before = PillowImage.MAX_IMAGE_PIXELS
    read_image(saved(tmp_path / "a.png", PillowImage.fromarray(grey)), max_pixels=10_000)
    assert before == PillowImage.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.bmp"])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.97])
def test_a_truncated_file_is_refused(tmp_path, name, share):
    noise = PillowImage.fromarray(np.random.default_rng(0).integers(0, 255, (200, 300)).astype(np.uint8))
    whole = saved(tmp_path / name, noise).read_bytes()
    cut = tmp_path / f"cut_{name}"
    cut.write_bytes(whole[: int(len(whole) * share)])
    for min_size in (None, 64):
        with pytest.raises(InputError, match=f"cut_{name}"):
            read_image(cut, min_size=min_size)


def test_what_is_no_image_is_refused_with_the_reason(tmp_path, grey):
    (tmp_path / "empty.png").touch()
    (tmp_path / "page.jpg").write_text("<html>404 not found</html>")
    (tmp_path / "folder.png").mkdir()
    PillowImage.fromarray(grey).save(tmp_path / "a.gif")
    page = PillowImage.fromarray(grey)
    page.save(tmp_path / "pages.tif", save_all=True, append_images=[page])
    for name, reason in {
        "empty.png": "empty",
        "page.jpg": "not an image",
        "folder.png": "directory",
        "a.gif": "not an image",
        "pages.tif": "2 frames",
        "absent.png": "does not exist",
    }.items():
        with pytest.raises(InputError, match=f"{name}.*{reason}"):
            read_image(tmp_path / name)


def test_one_wrong_bit_anywhere_in_the_pixels_of_a_png_is_refused(tmp_path):
    y, x = np.mgrid[:300, :400]
    whole = saved(tmp_path / "a.png", PillowImage.fromarray(((x + y) % 256).astype(np.uint8))).read_bytes()
    first, last = whole.index(b"IDAT"), whole.index(b"IEND") - 4
    rng = np.random.default_rng(0)
    for position, bit in [
        (len(whole) // 2, 0),
        *zip(rng.integers(first, last, 60), rng.integers(0, 8, 60), strict=True),
    ]:
        content = bytearray(whole)
        content[position] ^= 1 << int(bit)
        (tmp_path / "b.png").write_bytes(content)
        with pytest.raises(InputError, match=r"b\.png"):
            read_image(tmp_path / "b.png")
    read_image(tmp_path / "a.png")


@pytest.fixture(scope="module")
def textured():
    """(600, 400) uint8: waves and noise."""
    y, x = np.mgrid[:600, :400]
    noise = np.random.default_rng(0).normal(0, 8, (600, 400))
    return (127 + 90 * np.sin(x / 40) * np.cos(y / 50) + noise).clip(0, 255).astype(np.uint8)


JPEG_KINDS = [{}, {"optimize": True}, {"progressive": True}, {"restart_marker_rows": 1}, {"restart_marker_blocks": 7}]


@pytest.mark.parametrize("options", JPEG_KINDS, ids=str)
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_a_jpeg_that_ends_too_early_is_refused_whatever_was_appended(tmp_path, textured, mode, options):
    image = PillowImage.fromarray(textured).convert("RGB").convert(mode)
    whole = saved(tmp_path / "a.jpg", image, **options).read_bytes()
    read_image(tmp_path / "a.jpg")
    read_image(tmp_path / "a.jpg", min_size=50)
    (tmp_path / "preview.jpg").write_bytes(whole + b"\0" * 500 + whole[:2000])
    read_image(tmp_path / "preview.jpg")
    cut = tmp_path / "cut.jpg"
    for share in (0.2, 0.4, 0.7, 0.95):
        kept = int(len(whole) * share)
        for end in (b"\xff\xd9", bytes(len(whole) - kept)):
            cut.write_bytes(whole[:kept] + end)
            for min_size in (None, 50):
                with pytest.raises(InputError, match=r"cut\.jpg cannot be decoded"):
                    read_image(cut, min_size=min_size)


def test_a_jpeg_cut_between_two_restart_markers_is_refused(tmp_path, textured):
    whole = saved(tmp_path / "a.jpg", PillowImage.fromarray(textured), restart_marker_rows=1).read_bytes()
    for number in range(8):
        (tmp_path / "cut.jpg").write_bytes(whole[: whole.rindex(bytes((0xFF, 0xD0 + number)))] + b"\xff\xd9")
        with pytest.raises(InputError, match="last rows"):
            read_image(tmp_path / "cut.jpg")


@pytest.mark.parametrize("options", JPEG_KINDS, ids=str)
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_a_whole_jpeg_with_a_middle_grey_border_is_read(tmp_path, textured, mode, options):
    film = textured.copy()
    film[300:] = 128
    for pixels in (film, np.full_like(film, 128)):
        image = PillowImage.fromarray(pixels).convert("RGB").convert(mode)
        read = read_image(saved(tmp_path / "a.jpg", image, **options))
        assert (np.abs(read.pixels[320:].astype(int) - 128) <= 1).all()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_and_a_device_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.dcm").symlink_to("/dev/zero")
    for name in ("pipe.png", "link.dcm"):
        with pytest.raises(InputError, match=f"{name} is a pipe, socket or device"):
            read_image(tmp_path / name)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.bmp"])
def test_a_picture_is_told_by_its_content_not_by_its_ending(tmp_path, grey, name):
    file = saved(tmp_path / name, PillowImage.fromarray(grey))
    expected = read_image(file).pixels
    for ending in (".dcm", ".png", ".jpg"):
        np.testing.assert_array_equal(read_image(file.rename(file.with_suffix(ending))).pixels, expected)
        file = file.with_suffix(ending)


def test_real_films_are_read(shared_data):
    nih = sorted((shared_data / "nih-1000" / "images").iterdir())
    modes = set()
    for file in nih:
        read = read_image(file)
        assert read.pixels.shape == (64, 64)
        assert read.pixels.std() > 5, file
        with PillowImage.open(file) as image:
            modes.add(image.mode)
    assert modes == {"RGB", "RGBA"}
    for file in sorted((shared_data / "nih-fullsize").rglob("*.png")):
        assert read_image(file).pixels.shape == (1024, 1024)
    covid = sorted((shared_data / "covid-chestxray" / "images").iterdir())
    for file in covid[::5]:
        read = read_image(file, min_size=224)
        assert min(read.pixels.shape) >= min(224, read.height, read.width)
    assert {file.suffix.lower() for file in [*nih, *covid]} <= set(IMAGE_SUFFIXES)


def test_squash_uses_the_whole_film():
    film = np.zeros((100, 50), np.uint8)
    film[:50] = 200
    square = resize_image(film, 10, "squash")
    assert (square[:5] == 200).all()
    assert not square[5:].any()


def test_letterbox_keeps_the_aspect_and_pads_with_black_on_both_sides():
    square = resize_image(np.full((100, 50), 200, np.uint8), 20, "letterbox")
    assert (square[:, 5:15] == 200).all()
    assert not square[:, :5].any()
    assert not square[:, 15:].any()


def test_crop_keeps_the_centre():
    film = np.zeros((100, 50), np.uint8)
    film[25:75] = 200
    assert (resize_image(film, 20, "crop") == 200).all()


def test_shrinking_averages_over_the_area():
    board = np.indices((64, 64)).sum(axis=0) % 2 * np.uint8(255)
    assert np.abs(resize_image(board.astype(np.uint8), 8, "squash").astype(int) - 127).max() <= 1


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 200), st.integers(1, 200), st.integers(1, 96), st.sampled_from(["squash", "letterbox", "crop"]),
    st.integers(0, 255),
)  # fmt: skip
def test_any_film_becomes_a_square_and_an_even_one_stays_even(height, width, size, policy, value):
    square = resize_image(np.full((height, width), value, np.uint8), size, policy)
    assert square.shape == (size, size)
    assert square.dtype == np.uint8
    assert set(np.unique(square)) <= ({value, 0} if policy == "letterbox" else {value})
