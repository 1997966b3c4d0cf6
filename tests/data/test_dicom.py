"""Radiographs in DICOM: every transfer syntax in use, grey-scale attributes, broken files."""

import io

import gdcm
import numpy as np
import pydicom
import pytest
from PIL import Image as PillowImage
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
    generate_uid,
)

from longview import InputError
from longview.data.images import read_image

WIDTH, HEIGHT = 48, 64


def film(bits: int = 12, signed: bool = False) -> np.ndarray:
    """A smooth ramp over all grey values, with a bright block at the top left to tell sides apart."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    ramp = ((x + y) / (WIDTH + HEIGHT - 2) * (2**bits - 1)).round()
    ramp[4:12, 4:12] = 2**bits - 1
    return (ramp - (2 ** (bits - 1) if signed else 0)).astype(np.int16 if signed else np.uint16)


def write(path, pixels, syntax=ExplicitVRLittleEndian, bits=12, **attributes):
    """Write `pixels` (uint8, uint16 or int16) as DICOM; attributes given as None are left out."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian if syntax != ImplicitVRLittleEndian else syntax
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[str(path)])
    data = FileDataset(path, {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.Rows, data.Columns = pixels.shape[:2]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = pixels.dtype.itemsize * 8
    data.BitsStored, data.HighBit = bits, bits - 1
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    data.PixelData = pixels.tobytes()
    data["PixelData"].VR = "OW"
    for name, value in attributes.items():
        setattr(data, name, value)
    if syntax in (RLELossless, JPEG2000Lossless):
        data.compress(syntax, generate_instance_uid=False)
    elif syntax == JPEGBaseline8Bit:
        stream = io.BytesIO()
        PillowImage.fromarray(pixels).save(stream, "JPEG", quality=100)
        meta.TransferSyntaxUID = syntax
        data.PixelData = encapsulate([stream.getvalue()])
        data["PixelData"].VR = "OB"
    data.save_as(path, enforce_file_format=True)
    return path


def recode(source, target, syntax):
    """Change the transfer syntax with gdcm, which knows JPEG lossless and JPEG-LS."""
    reader = gdcm.ImageReader()
    reader.SetFileName(str(source))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(syntax))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(target))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    return target


def scaled(pixels, low, high):
    return np.rint(np.clip((pixels.astype(float) - low) / (high - low), 0, 1) * 255).astype(np.uint8)


@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless, JPEG2000Lossless], ids=lambda uid: uid.name
)
@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_lossless_syntaxes_give_the_same_film(tmp_path, syntax, bits):
    pixels = film(bits)
    file = write(tmp_path / "film.dcm", pixels, syntax, bits=bits, WindowCenter=2 ** (bits - 1), WindowWidth=2**bits)
    assert pydicom.dcmread(file).file_meta.TransferSyntaxUID == syntax
    read = read_image(file)
    assert np.abs(read.pixels.astype(int) - scaled(pixels, 0, 2**bits - 1)).max() <= 1
    assert (read.height, read.width) == (HEIGHT, WIDTH)


@pytest.mark.parametrize("syntax", ["JPEGLosslessProcess14_1", "JPEGLosslessProcess14", "JPEGLSLossless"])
def test_jpeg_lossless_and_jpeg_ls_give_the_same_film(tmp_path, syntax):
    plain = write(tmp_path / "plain.dcm", film())
    packed = recode(plain, tmp_path / "packed.dcm", getattr(gdcm.TransferSyntax, syntax))
    assert pydicom.dcmread(packed).file_meta.TransferSyntaxUID.is_compressed
    np.testing.assert_array_equal(read_image(packed).pixels, read_image(plain).pixels)


def test_jpeg_baseline_of_eight_bits_is_taken_as_it_is(tmp_path):
    pixels = (film(8) // 2 + 20).astype(np.uint8)
    read = read_image(write(tmp_path / "film.dcm", pixels, JPEGBaseline8Bit, bits=8))
    assert np.abs(read.pixels.astype(int) - pixels).mean() < 2


def test_big_endian_is_read(tmp_path):
    plain = write(tmp_path / "plain.dcm", film())
    data = pydicom.dcmread(plain)
    data.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    data.PixelData = film().astype(">u2").tobytes()
    data["PixelData"].VR = "OW"
    swapped = tmp_path / "big.dcm"
    pydicom.dcmwrite(swapped, data, little_endian=False, implicit_vr=False)
    np.testing.assert_array_equal(read_image(swapped).pixels, read_image(plain).pixels)


def test_monochrome1_is_inverted(tmp_path):
    pixels = film(12)
    plain = write(tmp_path / "two.dcm", pixels)
    inverted = write(tmp_path / "one.dcm", 4095 - pixels, PhotometricInterpretation="MONOCHROME1")
    assert np.abs(read_image(inverted).pixels.astype(int) - read_image(plain).pixels).max() <= 1
    assert read_image(plain).pixels[8, 8] == 255


def test_signed_pixels_and_rescale_go_before_the_window(tmp_path):
    pixels = film(12, signed=True)
    file = write(
        tmp_path / "film.dcm", pixels, RescaleSlope=2, RescaleIntercept=100, WindowCenter=100.5, WindowWidth=2001
    )
    assert np.abs(read_image(file).pixels.astype(int) - scaled(pixels * 2.0 + 100, -900, 1100)).max() <= 1


def test_the_first_of_several_windows_counts(tmp_path):
    several = write(tmp_path / "a.dcm", film(), WindowCenter=[1000, 3000], WindowWidth=[500, 100])
    one = write(tmp_path / "b.dcm", film(), WindowCenter=1000, WindowWidth=500)
    np.testing.assert_array_equal(read_image(several).pixels, read_image(one).pixels)


def test_windows_equal_pydicoms_own(tmp_path):
    for function in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        file = write(tmp_path / "film.dcm", film(), WindowCenter=1500, WindowWidth=900, VOILUTFunction=function)
        expected = pydicom.pixels.apply_windowing(film(), pydicom.dcmread(file)) / 4095 * 255
        assert np.abs(read_image(file).pixels - expected).max() <= 0.51, function


def test_a_voi_lut_is_applied_and_goes_before_a_window(tmp_path):
    item = Dataset()
    item.LUTDescriptor = [2048, 1024, 12]
    item.LUTData = [(2047 - i) * 2 for i in range(2048)]
    item["LUTData"].VR = "US"
    file = write(tmp_path / "film.dcm", film(), VOILUTSequence=[item], WindowCenter=100, WindowWidth=50)
    expected = scaled((2047 - np.clip(film().astype(int) - 1024, 0, 2047)) * 2, 0, 4094)
    assert np.abs(read_image(file).pixels.astype(int) - expected).max() <= 1


def test_without_a_window_the_films_own_range_is_used(tmp_path):
    narrow = (film(12) // 16 + 1000).astype(np.uint16)
    grey = read_image(write(tmp_path / "film.dcm", narrow)).pixels
    assert grey.min() == 0
    assert grey.max() == 255


@pytest.mark.parametrize(("center", "width"), [(50_000, 100), (-500, 10), (100, 0), ("", "")])
def test_a_useless_window_is_not_used(tmp_path, center, width):
    plain = write(tmp_path / "plain.dcm", film())
    file = write(tmp_path / "film.dcm", film(), WindowCenter=center, WindowWidth=width)
    np.testing.assert_array_equal(read_image(file).pixels, read_image(plain).pixels)


def test_padding_is_black_and_leaves_the_contrast_alone(tmp_path):
    pixels = film(12)
    pixels[:, :10] = 63000
    file = write(tmp_path / "film.dcm", pixels, bits=16, PixelPaddingValue=63000)
    grey = read_image(file).pixels
    assert not grey[:, :10].any()
    assert grey[:, 10:].max() == 255


def test_pixel_spacing_is_the_patients_else_the_detectors(tmp_path):
    both = write(tmp_path / "a.dcm", film(), PixelSpacing=[0.16, 0.161], ImagerPixelSpacing=[0.2, 0.2])
    detector = write(tmp_path / "b.dcm", film(), ImagerPixelSpacing=[0.2, 0.2])
    assert read_image(both).spacing_mm == pytest.approx(0.1605)
    assert read_image(detector).spacing_mm == pytest.approx(0.2)
    assert read_image(write(tmp_path / "c.dcm", film())).spacing_mm is None


def test_pixels_that_are_no_squares_have_no_one_spacing(tmp_path):
    assert read_image(write(tmp_path / "a.dcm", film(), PixelSpacing=[0.15, 0.17])).spacing_mm is None


def test_colour_becomes_grey(tmp_path):
    colour = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    colour[..., 0], colour[:8] = 255, 255
    file = write(
        tmp_path / "film.dcm", colour, bits=8, SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0
    )
    grey = read_image(file).pixels
    assert (grey[:8] == 255).all()
    assert (grey[8:] == 76).all()


def test_a_file_without_the_preamble_is_read(tmp_path):
    plain = write(tmp_path / "plain.dcm", film(), ImplicitVRLittleEndian)
    bare = tmp_path / "bare.dcm"
    data = pydicom.dcmread(plain)
    del data.file_meta
    data.preamble = None
    pydicom.dcmwrite(bare, data, implicit_vr=True, little_endian=True)
    assert bare.read_bytes()[128:132] != b"DICM"
    expected = read_image(plain).pixels
    for ending in (".dcm", ".png", ".1"):  # the content says so, not the ending
        bare = bare.rename(bare.with_suffix(ending))
        np.testing.assert_array_equal(read_image(bare).pixels, expected)


def test_the_ending_does_not_matter(tmp_path):
    file = write(tmp_path / "1.2.840.113", film())
    assert read_image(file).pixels.shape == (HEIGHT, WIDTH)


def test_real_films(shared_data):
    plain, inverted = (
        read_image(shared_data / "dicom" / name)
        for name in ("1.2.276.0.7230010.3.1.4.8323329.6904.1517875201.850819.dcm", "Fake_MONOHR1.dcm")
    )
    assert plain.spacing_mm == inverted.spacing_mm == pytest.approx(0.168)
    assert (plain.height, plain.width) == (1024, 1024)
    assert plain.pixels.std() > 40
    # the second has the stored pixels of the first, only declared MONOCHROME1
    np.testing.assert_array_equal(inverted.pixels, 255 - plain.pixels)


def broken_dicoms(folder):
    """Name -> (file, words of the message)."""
    whole = write(folder / "whole.dcm", film())
    data = pydicom.dcmread(whole)
    del data.PixelData
    data.save_as(folder / "no_pixels.dcm")
    data = pydicom.dcmread(whole)
    data.NumberOfFrames, data.PixelData = 2, data.PixelData * 2
    data.save_as(folder / "frames.dcm")
    data = pydicom.dcmread(whole)
    data.Rows = data.Columns = 60_000
    data.save_as(folder / "bomb.dcm")
    (folder / "text.dcm").write_text("this is a letter, not a film\n" * 20)
    (folder / "cut.dcm").write_bytes(whole.read_bytes()[:-2000])
    (folder / "header.dcm").write_bytes(whole.read_bytes()[:140])
    for name, syntax in (("rle", RLELossless), ("j2k", JPEG2000Lossless)):
        packed = write(folder / f"{name}.dcm", film(), syntax)
        (folder / f"{name}_cut.dcm").write_bytes(packed.read_bytes()[: -packed.stat().st_size // 3])
    packed = write(folder / "jpeg.dcm", film(8).astype(np.uint8), JPEGBaseline8Bit, bits=8)
    (folder / "jpeg_cut.dcm").write_bytes(packed.read_bytes()[: -packed.stat().st_size // 4])
    packed = recode(whole, folder / "ls.dcm", gdcm.TransferSyntax.JPEGLSLossless)
    (folder / "ls_cut.dcm").write_bytes(packed.read_bytes()[: -packed.stat().st_size // 3])
    data = pydicom.dcmread(whole)
    del data.PhotometricInterpretation
    data.save_as(folder / "no_photometric.dcm")
    return {
        "no_pixels": "no DICOM pixels",
        "frames": "2 frames",
        "bomb": "60000 x 60000",
        "text": "no DICOM",
        "cut": "",
        "header": "",
        "rle_cut": "",
        "j2k_cut": "",
        "ls_cut": "",
        "no_photometric": "Photometric",
        "jpeg_cut": "cut off",
    }


@pytest.mark.filterwarnings("ignore:End of file:UserWarning")
def test_broken_files_are_refused_with_their_name(tmp_path):
    for name, words in broken_dicoms(tmp_path).items():
        with pytest.raises(InputError) as caught:
            read_image(tmp_path / f"{name}.dcm")
        assert f"{name}.dcm" in str(caught.value)
        assert words in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1
