"""Pictures of heat-maps: over the film, alone, and side by side; drawn to be read by eye, never to be measured.

Colours are perceptually even and readable without colour vision: matplotlib's inferno for a map alone; over a film its
plasma, from purple to orange, without the pale end that would be lost on bone. How strongly they cover the film grows
with the map, so that what is not marked stays the film. The line is where the mask begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

Pixels = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]

LARGEST, SMALLEST = 1024, 512
"""Longer side in pixels of the film in an overlay: larger films are shrunk to it, smaller ones grown."""
TILE = 320
"""Longer side in pixels of the film in a comparison."""

_OPAQUE = 0.68
_FIRST = 0.12  # below it nothing is drawn: weak evidence would veil the whole film
_COLOURS = (0.12, 0.86)  # of plasma
_PAPER, _INK, _FAINT, _LINE = (16, 16, 18), (240, 240, 240), (165, 165, 170), (120, 235, 255)
_LEVELS = 256


def heat_picture(values: FloatArray) -> Pixels:
    """A map (H, W) in [0, 1] alone, as (H, W, 3) RGB, 0 black and 1 pale yellow."""
    return _inferno()[_level(values)]


def blend(film: Pixels, values: FloatArray, threshold: float | None = None) -> Pixels:
    """A film (H, W) under its map (H, W), as (H, W, 3) RGB; with a line where the map passes the threshold."""
    colours, opacity = _inks()
    level = _level(values)
    cover = opacity[level][..., None]
    picture = np.ascontiguousarray((film[..., None] * (1 - cover) + colours[level] * cover).astype(np.uint8))
    if threshold is not None and (values > 0).any():
        mask = (values >= threshold).astype(np.uint8)
        outlines, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, outlines, -1, _LINE, max(1, round(max(film.shape) / 450)), cv2.LINE_AA)
    return picture


def overlay(film: Pixels, values: FloatArray, title: str, subtitle: str, threshold: float) -> Pixels:
    """The film under its map, with a heading and a colour bar, as (rows, columns, 3) RGB.

    Args:
        film: (H, W) uint8.
        values: (H, W) in [0, 1].
        title: What is shown: label and probability.
        subtitle: By what: method and model.
        threshold: Where the line is drawn, and marked on the bar.
    """
    film, values = fit(film, LARGEST, SMALLEST), fit(values, LARGEST, SMALLEST)
    height, width = film.shape
    unit = max(height, width) // 32
    head, bar = 3 * unit, 4 * unit
    sheet = np.full((head + height, width + bar, 3), _PAPER, np.uint8)
    sheet[head:, :width] = blend(film, values, threshold)
    top, bottom = head + 2 * unit, head + min(height - unit, 20 * unit)
    sheet[top:bottom, width + unit // 2 : width + unit // 2 + unit * 3 // 4] = _bar(bottom - top)
    picture = Image.fromarray(sheet)
    draw = ImageDraw.Draw(picture)
    _write(draw, (unit // 2, unit // 3), title, unit * 1.15, width + bar - unit, _INK, bold=True)
    _write(draw, (unit // 2, unit * 2 - unit // 6), subtitle, unit * 0.8, width + bar - unit, _FAINT)
    _write(draw, (width + unit // 2, head + unit // 2), "evidence", unit * 0.65, bar - unit // 2, _FAINT)
    _scale(draw, (width + unit // 2 + unit * 3 // 4, top, bottom), unit, threshold)
    return np.asarray(picture)


def comparison(
    film: Pixels, columns: Sequence[str], rows: Sequence[str], tiles: Sequence[Sequence[tuple[Pixels, str] | None]]
) -> Pixels:
    """Maps side by side, as (rows, columns, 3) RGB: a column per method or model, a row per label, the film first.

    Args:
        film: (H, W) uint8, of the size of the tiles.
        columns: Headings.
        rows: What stands beside each row.
        tiles: For each row one tile per column, (H, W, 3), with the text under it; None: there is none.
    """
    height, width = film.shape
    unit = max(height, width) // 20
    left, head, foot, gap = 9 * unit, 3 * unit, 2 * unit, unit // 2
    sheet = np.full(
        (head + len(rows) * (height + foot), left + (1 + len(columns)) * (width + gap) + gap, 3), _PAPER, np.uint8
    )
    texts: list[tuple[tuple[int, int], str, tuple[int, int, int]]] = []
    for row, line in enumerate(tiles):
        y = head + row * (height + foot)
        sheet[y : y + height, left : left + width] = film[..., None]
        for column, tile in enumerate(line):
            x = left + (column + 1) * (width + gap)
            if tile is not None:
                sheet[y : y + height, x : x + width] = tile[0]
                texts.append(((x, y + height + unit // 4), tile[1], _FAINT))
    picture = Image.fromarray(sheet)
    draw = ImageDraw.Draw(picture)
    _write(draw, (left, unit * 3 // 4), "film", unit * 1.2, width, _INK)
    for column, name in enumerate(columns):
        x = left + (column + 1) * (width + gap)
        for line_number, part in enumerate(name.split("\n")):
            _write(
                draw, (x, unit // 4 + line_number * unit * 5 // 4), part, unit * 0.95, width, _INK, bold=not line_number
            )
    for row, name in enumerate(rows):
        _paragraph(draw, (unit // 2, head + row * (height + foot)), name, unit, left - unit)
    for place, text, ink in texts:
        _write(draw, place, text, unit * 0.85, width, ink)
    return np.asarray(picture)


def fit(values: npt.NDArray[Any], largest: int, smallest: int = 1) -> npt.NDArray[Any]:
    """An image or map (H, W) whose longer side is at most `largest` pixels and at least `smallest`."""
    side = max(values.shape)
    scale = largest / side if side > largest else max(1.0, smallest / side)
    if scale == 1:
        return values
    size = (max(1, round(values.shape[1] * scale)), max(1, round(values.shape[0] * scale)))
    kind = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC if values.dtype == np.uint8 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(values, size, interpolation=kind), values.dtype)


def _level(values: FloatArray) -> npt.NDArray[np.intp]:
    return np.asarray(np.clip(values * (_LEVELS - 1) + 0.5, 0, _LEVELS - 1), np.intp)


@cache
def _inferno() -> Pixels:
    table = mpl.colormaps["inferno"](np.linspace(0, 1, _LEVELS))[:, :3]
    return np.asarray(np.round(table * 255), np.uint8)


@cache
def _inks() -> tuple[Pixels, FloatArray]:
    """Colour (256, 3) and opacity (256,) of each level over a film."""
    strength = np.linspace(0, 1, _LEVELS, dtype=np.float32)
    colours = mpl.colormaps["plasma"](_COLOURS[0] + (_COLOURS[1] - _COLOURS[0]) * strength)[:, :3]
    opacity = _OPAQUE * np.clip((strength - _FIRST) / (1 - _FIRST), 0, 1)
    return np.asarray(np.round(colours * 255), np.uint8), opacity.astype(np.float32)


def _bar(height: int) -> Pixels:
    """Colours (height, 1, 3) from 1 down to 0, as they look on mid grey."""
    ramp = np.linspace(1, 0, height, dtype=np.float32)[:, None]
    return blend(np.full((height, 1), 90, np.uint8), ramp)


def _scale(draw: ImageDraw.ImageDraw, place: tuple[int, int, int], unit: int, threshold: float) -> None:
    """Numbers beside the bar; place: its right edge, top and bottom."""
    x, top, bottom = place
    for value in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = round(bottom - value * (bottom - top))
        draw.line((x, y, x + unit // 4, y), fill=_FAINT)
        _write(draw, (x + unit // 3, y - unit * 2 // 5), f"{value:g}", unit * 0.65, 2 * unit, _FAINT)
    y = round(bottom - threshold * (bottom - top))
    draw.line((x - unit * 3 // 4, y, x, y), fill=_LINE, width=2)


def _write(
    draw: ImageDraw.ImageDraw,
    place: tuple[float, float],
    text: str,
    size: float,
    room: float,
    ink: tuple[int, int, int],
    bold: bool = False,
) -> None:
    """Write a line, smaller or cut where it would not fit into the room."""
    smallest = size * 0.6
    while draw.textlength(text, font=_font(size, bold)) > room and size > smallest:
        size *= 0.93
    font = _font(size, bold)
    if draw.textlength(text, font=font) > room:
        while text and draw.textlength(f"{text}…", font=font) > room:
            text = text[:-1]
        text = f"{text}…"
    draw.text(place, text, fill=ink, font=font)


def _paragraph(draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, size: float, room: float) -> None:
    """Write words below one another as the room asks for."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and draw.textlength(longer, font=_font(size, bold=True)) <= room:
            lines[-1] = longer
        else:
            lines.append(word)
    for number, line in enumerate(lines):
        _write(draw, (place[0], place[1] + number * size * 1.3), line, size, room, _INK, bold=True)


@cache
def _font(size: float, bold: bool) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib brings along: the same letters on every machine."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(mpl.get_data_path()) / "fonts" / "ttf" / name), size)
