"""Films are decoded in processes: what a film crashes, hangs or fills is one of them, and is replaced."""

import asyncio
import os
import signal
import struct
import time
import zlib
from dataclasses import replace

import cv2
import numpy as np
import pytest
from bad_decoding import abort, fill, hang, told, write
from pydicom.uid import JPEG2000Lossless, JPEGLosslessSV1
from test_hostile import JPEG, PNG, chunk, compressed
from tiny_server import Api, dicom, encoded, film, problem, tiny_model

from longview.data.images import read_image
from longview.serving.decoders import Decoders, Room
from longview.serving.decoding import Sent
from longview.serving.problems import ProblemError
from longview.serving.served import Served
from longview.serving.settings import Settings

SETTINGS = Settings(decoders=2, timeout=20, token="a token of somebody")


@pytest.fixture(scope="module")
def decoders():
    found = Decoders(SETTINGS)
    yield found
    found.close()


def sent(content=b"", number=1):
    return Sent(content, number, 0)


def test_films_are_what_prepare_reads(decoders, tmp_path):
    contents = [encoded(film()), encoded(film(seed=1), ".jpg"), dicom(film(seed=2))]
    films = [Sent(content, number, number) for number, content in enumerate(contents, 1)]
    found = asyncio.run(decoders.decode(films))
    for each, content, kind, view in zip(found, contents, ("PNG", "JPEG", "DICOM"), (1, 2, 3), strict=True):
        (tmp_path / "film").write_bytes(content)
        assert np.array_equal(each.pixels, read_image(tmp_path / "film").pixels) and each.pixels.dtype == np.uint8
        assert (each.kind, each.view) == (kind, view)
    looks = asyncio.run(decoders.look(films))
    assert [(look.kind, look.height, look.width) for look in looks] == [(k, 60, 48) for k in ("PNG", "JPEG", "DICOM")]


def test_a_film_that_kills_its_decoder_is_refused_and_the_next_is_decoded(decoders, caplog):
    with pytest.raises(ProblemError, match="Film 2 cannot be decoded: it is damaged") as refused:
        asyncio.run(decoders._each(abort, [sent(number=2)]))
    assert refused.value.status == 422 and "a film ended the process that decoded it" in caplog.text
    assert len(asyncio.run(decoders.decode([sent(encoded(film()))]))) == 1


def test_a_film_that_never_ends_is_given_up_with_its_decoder():
    decoders = Decoders(replace(SETTINGS, timeout=0.5))
    try:
        with pytest.raises(ProblemError, match="took too long to decode") as refused:
            asyncio.run(decoders._each(hang, [sent(), sent()]))
        assert refused.value.status == 504
        assert len(asyncio.run(decoders.decode([sent(encoded(film()))]))) == 1
    finally:
        decoders.close()


def test_a_request_that_is_given_up_frees_its_decoders(decoders):
    async def left():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await decoders._each(hang, [sent(), sent(), sent()])
        started = time.monotonic()
        await decoders.decode([sent(encoded(film()))])
        return time.monotonic() - started

    assert asyncio.run(left()) < 10  # of the 20 that a decoder may take


def test_processes_that_somebody_ends_are_started_again(decoders):
    asyncio.run(decoders.decode([sent(PNG)]))
    before = set(decoders._pool._pool_manager.worker_manager.workers)
    for process in before:
        os.kill(process, signal.SIGKILL)
    assert len(asyncio.run(decoders.decode([sent(PNG)]))) == 1
    assert before.isdisjoint(decoders._pool._pool_manager.worker_manager.workers)


def test_a_decoder_has_bounded_memory_writes_nothing_and_knows_no_token(decoders, tmp_path):
    with pytest.raises(ProblemError, match="cannot be decoded"):
        asyncio.run(decoders._each(fill, [sent()]))
    with pytest.raises(ProblemError):
        asyncio.run(decoders._each(write, [sent(str(tmp_path / "film").encode())]))
    assert not (tmp_path / "film").is_file() or not (tmp_path / "film").stat().st_size
    assert asyncio.run(decoders._each(told, [sent()])) == [None]


def size_segment(width, height, samples=1):
    """SIZ of JPEG 2000."""
    parts = struct.pack(">HHIIIIIIIIH", 38 + 3 * samples, 0, width, height, 0, 0, width, height, 0, 0, samples)
    return b"\xff\x51" + parts + b"\x07\x01\x01" * samples


START = b"\xff\x4f"
FILMS = {
    "packed, and aborting its decoder": (
        compressed(JPEGLosslessSV1, JPEG[: JPEG.index(b"\xff\xc0")] + b"\xff\xc3"), 422),
    "many starts": (compressed(JPEG2000Lossless, (START + b"\xff\x51") * 16), 413),
    "a JP2 file whose box has no end": (compressed(JPEG2000Lossless, b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(50)), 415),
    "something between start and size": (
        compressed(JPEG2000Lossless, START + b"\xff\x30\0\4ab" + size_segment(14_000, 14_000)), 422),
    "another size than the header's": (compressed(JPEG2000Lossless, START + size_segment(6000, 6000) + bytes(99)), 422),
    "more samples than the header's": (compressed(JPEG2000Lossless, START + size_segment(48, 60, 20) + bytes(99)), 422),
    "more pixels than one film": (dicom(film(120, 48), Rows=60), 422),
    "one bit of eight": (dicom(film(), BitsAllocated=1, BitsStored=1, HighBit=0), 422),
    "a palette that is not there": (PNG[:25] + b"\x03" + PNG[26:29] + struct.pack(">I", zlib.crc32(
        PNG[12:25] + b"\x03" + PNG[26:29])) + PNG[33:], 422),
    "many chunks": (PNG[:33] + chunk(b"tEXt", b"") * 20_000 + PNG[33:], 422),
    "many segments": (JPEG[:2] + b"\xff\xfe\0\2" * 20_000 + JPEG[2:], 422),
    "many fill bytes": (JPEG[:2] + b"\xff" * 20_000 + JPEG[2:], 422),
}  # fmt: skip


@pytest.fixture(scope="module")
def api():
    found = Api([Served.of(tiny_model())], timeout=20)
    yield found
    found.house.close()


@pytest.mark.parametrize("name", FILMS)
def test_a_hostile_film_is_refused_and_the_server_goes_on(api, name):
    content, status = FILMS[name]
    problem(api.studies(content), status)
    assert api.studies(PNG).status_code == 200


def test_a_progressive_film_of_many_scans_is_measured_by_its_size(api):
    one = cv2.imencode(".jpg", film(3000, 3000), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    end = one.rindex(b"\xff\xd9")
    last = one[one.rindex(b"\xff\xda") : end]
    assert "scans, too many for its size" in problem(api.studies(one[:end] + last[:40] * 90 + one[end:]), 422)


def test_data_addresses_hold_base64(api):
    detail = problem(api.ask("POST", "/predict", json={"cxr_base64": "data:image/png,abcd"}), 422)
    assert "without base64" in detail


def test_decoded_films_wait_for_room_in_turn():
    room, order = Room(100), []

    async def use(name, pixels, seconds):
        async with room.taken(pixels):
            order.append(name)
            await asyncio.sleep(seconds)
            order.append(f"{name} done")

    async def all_of():
        large = asyncio.ensure_future(use("large", 90, 0.05))
        await asyncio.sleep(0)
        waiting = asyncio.ensure_future(use("waiting", 60, 0))
        gone = asyncio.ensure_future(use("gone", 50, 0))
        small = asyncio.ensure_future(use("small", 10, 0))  # there is room, but others came before
        await asyncio.sleep(0.01)
        gone.cancel()
        await asyncio.gather(large, waiting, small)
        with pytest.raises(ProblemError, match="megapixels together") as refused:
            await use("too large", 101, 0)
        assert refused.value.status == 413
        await use("all", 100, 0)  # what was taken is free again

    asyncio.run(all_of())
    assert order[:2] == ["large", "large done"] and order[2:4] == ["waiting", "small"] and order[-1] == "all done"


def test_a_study_of_more_pixels_than_there_is_room_for_is_refused():
    api = Api([Served.of(tiny_model())], decoded_megapixels=0.004, max_megapixels=0.004)
    assert api.studies(PNG).status_code == 200
    assert "megapixels together" in problem(api.studies(PNG, PNG), 413)
    api.house.close()
