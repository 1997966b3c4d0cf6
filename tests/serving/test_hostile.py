"""Whatever is sent: no 500, no file, no name in answer, log or metrics, and the server still answers."""

import base64
import logging
import os
import struct
import tempfile
import warnings
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, RLELossless
from tiny_server import PATIENT, Api, dicom, encoded, film, problem, tiny_model

from longview.serving.problems import ProblemError
from longview.serving.wishes import views_of

PNG = encoded(film())
JPEG = encoded(film(), ".jpg")


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_claim(width, height):
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def jpeg_claim(width, height):
    at = JPEG.index(b"\xff\xc0")
    return JPEG[: at + 5] + struct.pack(">HH", height, width) + JPEG[at + 9 :]


def tiff_bomb():
    data = zlib.compress(bytes(50_000_000))
    tags = [(256, 4, 1, 50_000), (257, 4, 1, 50_000), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1), (273, 4, 1, 200),
            (277, 3, 1, 1), (278, 4, 1, 50_000), (279, 4, 1, len(data))]  # fmt: skip
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    return (b"II*\0" + struct.pack("<I", 8) + directory).ljust(200, b"\0") + data


def compressed(syntax, stream, rows=60, columns=48):
    content = dicom(film(rows, columns))
    from io import BytesIO

    import pydicom

    dataset = pydicom.dcmread(BytesIO(content))
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([stream])
    dataset["PixelData"].is_undefined_length = True
    out = BytesIO()
    pydicom.dcmwrite(out, dataset, enforce_file_format=True)
    return out.getvalue()


def deep(levels):
    """A DICOM film with sequences within sequences, none of which ends."""
    content = dicom(film())
    at = content.index(b"\x10\x00\x10\x00PN")
    level = b"\x08\x00\x10\x11SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    return content[:at] + level * levels + content[at:]


SIZES = struct.pack(">HHIIIIIIIIH", 41, 0, 60_000, 60_000, 0, 0, 60_000, 60_000, 0, 0, 1)
J2K = b"\xff\x4f\xff\x51" + SIZES + bytes(99)

FILES = {
    "nothing": (b"", 422),
    "one byte": (b"\0", 415),
    "text": (b"a film, honestly", 415),
    "html": (b"<script>alert(1)</script>", 415),
    "zeros": (bytes(5000), 415),
    "gif": (b"GIF89a" + bytes(100), 415),
    "zip": (b"PK\x03\x04" + bytes(100), 415),
    "pdf": (b"%PDF-1.7" + bytes(100), 415),
    "bmp": (encoded(film(), ".bmp"), 415),
    "tiff": (encoded(film(), ".tiff"), 415),
    "tiff zip bomb": (tiff_bomb(), 415),
    "png magic": (b"\x89PNG\r\n\x1a\n", 422),
    "png cut off": (PNG[: len(PNG) // 2], 422),
    "png wrong byte": (PNG[:80] + bytes([PNG[80] ^ 255]) + PNG[81:], 422),
    "png 50,000 x 50,000": (png_claim(50_000, 50_000), 413),
    "png 2^31 wide": (png_claim(2**31 - 1, 1), 413),
    "png long and thin": (png_claim(30_000, 10), 413),
    "png without pixels": (png_claim(0, 0), 422),
    "png too small": (encoded(film(4, 4)), 422),
    "png few bytes for many pixels": (png_claim(6000, 6000), 422),
    "png wrong depth": (PNG[:24] + b"\x07" + PNG[25:], 422),
    "jpeg magic": (b"\xff\xd8\xff", 422),
    "jpeg cut off": (JPEG[: len(JPEG) // 2], 422),
    "jpeg 65,535 x 65,535": (jpeg_claim(65_535, 65_535), 413),
    "jpeg more rows than coded": (jpeg_claim(48, 6000), 422),
    "jpeg endless markers": (b"\xff\xd8\xff" + b"\xff" * 100_000, 422),
    "jpeg many scans": (JPEG[:-2] + b"\xff\xda" * 200 + JPEG[-2:], 422),
    "dicom magic": (bytes(128) + b"DICM", 422),
    "dicom cut off": (dicom(film())[:-500], 422),
    "dicom without pixels": (dicom(film(), PixelData=None), 422),
    "dicom of many frames": (dicom(film(), NumberOfFrames=9), 422),
    "dicom of 2^16 frames": (dicom(film(), NumberOfFrames=65_536), 422),
    "dicom 60,000 x 60,000": (dicom(film(), Rows=60_000, Columns=60_000), 413),
    "dicom without rows": (dicom(film(), Rows=None), 422),
    "dicom without bits": (dicom(film(), BitsAllocated=None), 422),
    "dicom of 7 samples": (dicom(film(), SamplesPerPixel=7), 422),
    "dicom of a name for a window": (dicom(film()).replace(b"MONOCHROME2", b"MUSTERMANN "), None),
    "dicom deep": (deep(200), 422),
    "dicom very deep": (deep(20_000), 422),
    "dicom jpeg 2000 that claims more": (compressed(JPEG2000Lossless, J2K), 413),
    "dicom jpeg that claims more": (compressed(JPEGBaseline8Bit, jpeg_claim(65_000, 65_000)), 413),
    "dicom jpeg that is none": (compressed(JPEGBaseline8Bit, b"\xff\xd8\xff" + bytes(500)), 422),
    "dicom rle": (compressed(RLELossless, bytes(5000)), 415),
    "dicom deflated": (dicom(film()).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99"), 415),
    "dicom endless header": (dicom(film(), ImageComments="x" * 9000, PatientComments=PATIENT * 60, PixelData=None)
                             + b"\x10\x00\x00\x40LT" + struct.pack("<H", 65_000) * 90_000, 422),
}  # fmt: skip


@pytest.fixture(autouse=True)
def nothing_left(tmp_path, monkeypatch, caplog, capfd):
    """Each test starts with an empty folder for temporary files and ends with one; no name is logged."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.DEBUG, "longview")
    before = os.listdir("/tmp")  # noqa: PTH208
    with warnings.catch_warnings(record=True) as warned:
        yield
    assert list(tmp_path.iterdir()) == []
    assert not [name for name in set(os.listdir("/tmp")) - set(before) if PATIENT[:6] in name]  # noqa: PTH208
    out, err = capfd.readouterr()
    logged = "\n".join([caplog.text, out, err, *(str(each.message) for each in warned)])
    assert PATIENT[:6] not in logged
    assert "Traceback" not in logged
    assert "internal error" not in logged


def still_answers(api):
    assert api.ask("GET", "/healthz").status_code == 200
    assert api.studies(PNG).status_code == 200


@pytest.mark.parametrize("name", FILES)
def test_hostile_films_are_refused(api, name):
    content, status = FILES[name]
    answers = [
        api.studies(content),
        api.ask("POST", "/v1/preview", files={"file": (f"../{PATIENT}", content)}),
        api.ask("POST", "/predict", json={"cxr_base64": base64.b64encode(content).decode()}),
    ]
    for answer in answers:
        if status is None and answer.status_code == 200:
            continue
        problem(answer, status or answer.status_code)
        assert answer.status_code < 500
    assert api.house.gate.inside == 0


def test_a_film_of_any_name_is_answered_and_the_name_forgotten(api):
    for name in ("../../etc/passwd", "/etc/passwd", f"{PATIENT}.dcm", "a\\b", "x" * 3000, 'a"b', "\u202e.png", ".", ""):
        answer = api.ask("POST", "/v1/studies", files=[("files", (name or "f", dicom(film())))])
        assert answer.status_code == 200, name
        assert PATIENT not in answer.text
    still_answers(api)


BODIES = [
    (b"", "application/json", 400),
    (b"{", "application/json", 400),
    (b"null", "application/json", 422),
    (b"[1]", "application/json", 422),
    (b"{}", "application/json", 422),
    (b'{"cxr_base64": 3}', "application/json", 422),
    (b'{"cxr_base64": ""}', "application/json", 422),
    (b'{"cxr_base64": "MUSTERMANN"}', "application/json", 422),
    (b'{"cxr_base64": "!!!!"}', "application/json", 422),
    (b'{"cxr_base64": "\\u00e4"}', "application/json", 422),
    (b'{"cxr_base64": "data:image/png;base64,"}', "application/json", 422),
    (b'{"cxr_base64": "\\ud800"}', "application/json", 400),
    (b"\xff\xfe", "application/json", 400),
    (b"[" * 9_000, "application/json", 400),
    (b"[" * 100_000, "application/json", 422),
    (b'{"x": [' + b"[]," * 100_000 + b"[]]}", "application/json", 422),
    (b"{" + b",".join(b'"%d": 1' % number for number in range(20_000)) + b"}", "application/json", 422),
    (b'{"cxr_base64": "AAAA"}', "text/plain", 415),
    (b'{"cxr_base64": "AAAA", "labels": "all"}', "application/json", 422),
    (b'{"cxr_base64": "AAAA", "samples": -1}', "application/json", 422),
    (b'{"cxr_base64": "AAAA", "samples": 1e9}', "application/json", 422),
    (b'{"cxr_base64": "AAAA", "method": "scorecam"}', "application/json", 422),
    (b'{"cxr_base64": "AAAA", "view": "oblique"}', "application/json", 422),
]


@pytest.mark.parametrize(("body", "kind", "status"), BODIES)
def test_hostile_json_is_refused(api, body, kind, status):
    problem(api.ask("POST", "/predict", content=body, headers={"content-type": kind}), status)


FORM = "multipart/form-data; boundary=x"
PART = b"--x\r\nContent-Disposition: form-data; name="
FORMS = [
    (b"", "multipart/form-data", 415),
    (b"", "multipart/form-data; boundary=", 415),
    (b"", FORM, 400),
    (b"--y\r\n\r\n", FORM, 400),
    (b"--x\r\n", FORM, 400),
    (b"--x\r\nA: b\r\n\r\nc\r\n--x--\r\n", FORM, 400),
    (PART + b'"files"; filename="a"\r\n\r\nabc', FORM, 400),
    (b"--x--\r\n", FORM, 422),
    (PART + b'"views"\r\n\r\nPA\r\n--x--\r\n', FORM, 422),
    (b"--x\r\n" + b"A: b\r\n" * 5000 + b"\r\n\r\n--x--\r\n", FORM, 400),
    ((PART + b'"a"\r\n\r\n\r\n') * 500 + b"--x--\r\n", FORM, 413),
    (PART + b'"a"\r\n\r\n' + b"y" * 90_000 + b"\r\n--x--\r\n", FORM, 413),
    (b"a=b", "application/x-www-form-urlencoded", 415),
    (PNG, "image/png", 415),
    (PNG, "", 415),
]  # fmt: skip


@pytest.mark.parametrize(("body", "kind", "status"), FORMS)
@pytest.mark.parametrize("path", ["/v1/studies", "/v1/preview"])
def test_hostile_forms_are_refused(api, path, body, kind, status):
    problem(api.ask("POST", path, content=body, headers={"content-type": kind}), status)


@pytest.mark.parametrize(
    "fields",
    [
        {"views": "PA,PA"}, {"views": "oblique"}, {"views": ","}, {"labels": "no such"}, {"labels": "x" * 10_000},
        {"method": "scorecam"}, {"method": "; rm -rf /"}, {"samples": "-1"}, {"samples": "1"}, {"samples": "101"},
        {"samples": "nan"}, {"samples": "9" * 400}, {"samples": "٣"}, {"heatmaps": "perhaps"}, {"boxes": "2"},
        {"models": "../../model.ckpt"}, {"models": "tiny,other"},
    ],
)  # fmt: skip
def test_impossible_wishes_are_refused(api, fields):
    detail = problem(api.studies(PNG, **fields), 422)
    assert len(detail) < 3000


def test_too_many_films_are_refused(api):
    problem(api.studies(*[PNG] * 9), 413)
    problem(api.ask("POST", "/v1/preview", files=[("file", ("a", PNG)), ("file", ("b", PNG))]), 413)


def test_what_is_behind_the_pixels_is_not_read(api):
    answer = api.studies(dicom(film()) + b"\x10\x00\x10\x00PN" + struct.pack("<H", 4) + b"\xff\xff\xff\xff" * 1000)
    assert answer.status_code == 200


def test_compressed_films_that_are_sound_are_read(api):
    jpeg = encoded(film(60, 48), ".jpg")
    assert api.studies(compressed(JPEGBaseline8Bit, jpeg)).status_code == 200
    j2k = cv2.imencode(".jp2", film(60, 48))[1].tobytes()
    assert api.studies(compressed(JPEG2000Lossless, j2k[j2k.index(b"\xff\x4f\xff\x51") :])).status_code == 200


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), kind=st.sampled_from(["PNG", "JPEG", "DICOM"]))
def test_damage_anywhere_is_refused_or_survived(api, data, kind):
    content = bytearray({"PNG": PNG, "JPEG": JPEG, "DICOM": dicom(film())}[kind])
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, 200))
    answer = api.studies(bytes(content[: len(content) - cut]))
    assert answer.status_code in {200, 413, 415, 422}
    assert PATIENT not in answer.text


@settings(max_examples=30, deadline=None, derandomize=True)
@given(text=st.text(max_size=40), films=st.integers(1, 4))
def test_views_are_one_per_film_or_refused(text, films):
    try:
        assert len(views_of(text, films)) == films
    except ProblemError as error:
        assert error.status == 422


def test_an_error_that_should_not_be_tells_nobody_anything(served, caplog):
    api = Api([served])

    def fails(_studies):
        raise RuntimeError(PATIENT)

    api.house._batchers["tiny"]._score = fails
    answer = api.studies(PNG)
    assert "log" in problem(answer, 500)
    assert "RuntimeError" in caplog.text
    caplog.clear()


def test_the_token_is_asked_for_everywhere_but_at_the_page(served):
    api = Api([served], token="s3cret-s3cret-s3cret")
    right = {"Authorization": "Bearer s3cret-s3cret-s3cret"}
    for path in ("/v1/model", "/metrics", "/nowhere"):
        assert problem(api.ask("GET", path), 401)
    for given_ in ("Bearer wrong", "Bearer", "s3cret-s3cret-s3cret", "Basic s3cret-s3cret-s3cret", "Bearer \u00e4"):
        answer = api.ask("POST", "/v1/studies", files={"files": PNG}, headers={"Authorization": given_.encode()})
        assert problem(answer, 401)
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert "s3cret" not in answer.text
    for path in ("/healthz", "/readyz", "/docs", "/openapi.json"):
        assert api.ask("GET", path).status_code == 200
    assert api.studies(PNG, headers=right).status_code == 200
    assert api.ask("GET", "/v1/model", headers=right).status_code == 200


def test_pages_of_other_origins_are_told_nothing_unless_allowed(served, api):
    origin = {"Origin": "https://evil.example"}
    asked = origin | {"Access-Control-Request-Method": "POST"}
    assert not [name for name in api.ask("GET", "/v1/model", headers=origin).headers if "access-control" in name]
    assert api.ask("OPTIONS", "/v1/studies", headers=asked).status_code == 405
    open_ = Api([served], allow_origin=("https://films.example",), token="x" * 20)
    answer = open_.ask("GET", "/v1/model", headers={"Origin": "https://films.example"})
    assert answer.headers["access-control-allow-origin"] == "https://films.example"
    assert "access-control-allow-credentials" not in answer.headers
    assert "access-control-allow-origin" not in open_.ask("GET", "/v1/model", headers=origin).headers
    assert open_.ask("OPTIONS", "/v1/studies", headers=asked).status_code == 400


def test_every_answer_forbids_what_a_browser_should_not_do(api):
    for answer in (api.ask("GET", "/healthz"), api.ask("GET", "/nowhere"), api.studies(b"")):
        assert "script-src 'self'" in answer.headers["content-security-policy"]
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "path", ["/static/../serve.py", "/static/%2e%2e/serve.py", "/static//etc/passwd", "/../main.py"]
)
def test_no_file_outside_of_the_page_is_served(api, path):
    assert problem(api.ask("GET", path), 404)


def test_a_film_of_many_bits_needs_no_more_than_its_size(served):
    api = Api([served], max_megapixels=0.01, max_upload_mb=0.05)
    assert "megapixels" in problem(api.studies(encoded(np.zeros((200, 200), np.uint8))), 413)
    assert "MB" in problem(api.studies(bytes(200_000)), 413)
    assert problem(api.ask("POST", "/v1/studies", content=b"", headers={"content-length": "1000000000"}), 413)
    assert api.house.gate.inside == 0
    assert tiny_model().name == "tiny"
