"""The diagrams in docs: shapes of the models themselves, text inside its box, readable on a light and a dark page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from specification import svg
from specification.page import FIGURES
from specification.shapes import Symbols, traced
from specification.symbols import SIZES

import perceiver_ref as pr
from perceiver_ref.autograd import tree
from perceiver_ref.errors import InputError
from perceiver_ref.models.conventions import DEEPMIND, FLAMINGO
from perceiver_ref.models.decoder import ProjectionDecoder
from perceiver_ref.models.encoder import Encoder
from perceiver_ref.models.flamingo import GatedCrossAttention, GatedLayers, PerceiverResampler
from perceiver_ref.models.inputs import GridInput, Pixels
from perceiver_ref.models.perceiver_io import PerceiverIO
from perceiver_ref.models.positions import FourierPositions
from perceiver_ref.models.published.language import language_model

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "diagrams"
SPACE = "{http://www.w3.org/2000/svg}"
NAMES = pytest.mark.parametrize("name", FIGURES)
Rectangle = tuple[float, float, float, float]
"""left, top, right, bottom"""


def drawn(name: str) -> ElementTree.Element:
    return ElementTree.fromstring((FOLDER / f"{name}.svg").read_text(encoding="utf-8"))


# shapes


@NAMES
def test_the_numbers_are_those_of_a_fresh_trace(name: str) -> None:
    shapes = traced(FIGURES[name].preset)
    labels = [group for group in drawn(name).iter(f"{SPACE}g") if group.get("class") == "shape"]
    assert len(labels) >= 8
    for label in labels:
        point = label.attrib["data-point"]
        symbols, numbers = (text.text or "" for text in label)
        assert tuple(int(n.replace(",", "")) for n in numbers.split(f" {svg.TIMES} ")) == shapes[point], point
        assert set(re.findall(r"[A-Za-z]+", symbols)) <= {symbol.name for symbol in SIZES}


def small(name: str) -> tuple[Any, Any]:
    """A small model of the kind that a diagram shows, and inputs, all sizes different."""
    rng = np.random.default_rng(0)
    if name == "perceiver":
        image = GridInput(Pixels(3), FourierPositions(4, (6, 5)))
        encoder = Encoder(image.channels, 7, 16, blocks=2, layers=6, self_heads=4, cross_attends=2)
        return PerceiverIO(encoder, image, ProjectionDecoder(16, 5)), (rng.normal(size=(2, 6, 5, 3)),)
    if name in ("perceiver-io", "layer"):
        encoder = Encoder(
            6, latents=5, channels=20, layers=2, cross_heads=2, self_heads=4, qk_channels=8, v_channels=20
        )
        return language_model(DEEPMIND, encoder=encoder, length=11, decoder_heads=3, decoder_qk_channels=12), (
            rng.integers(0, 262, (2, 11)),
        )
    if name == "resampler":
        return PerceiverResampler(20, 7, 2, 4, frames=5), (rng.normal(size=(2, 3, 5, 13, 20)),)
    block = GatedCrossAttention(20, 11, heads=5, head_channels=3, conventions=FLAMINGO)
    return GatedLayers(2, 1, block), (rng.normal(size=(2, 9, 20)), rng.normal(size=(2, 3, 7, 11)))


@NAMES
def test_the_symbols_are_right_for_other_sizes(name: str) -> None:
    """A model of the same kind that really computes: every symbol has one size in all shapes of its diagram."""
    model, given = small(name)
    params = model.init(seed=0, dtype=np.float64)
    with pr.trace() as points:
        model.apply(params, *given)
    shapes = {f"given.{i}": np.shape(array) for i, array in enumerate(given)}
    shapes |= {f"parameter.{path.replace('/', '.')}": np.shape(array) for path, array in tree.leaves(params)}
    shapes |= {point: np.shape(array) for point, array in points.items()}
    labels = [(point, symbols) for point, symbols in FIGURES[name].drawn().labels if "224" not in symbols]
    assert len(labels) >= 8
    sizes = Symbols()
    sizes.learn([(point, symbols, shapes[point]) for point, symbols in labels])
    assert sizes["B"] == 2
    assert sizes["N"] == {"perceiver-io": 5, "layer": 5}.get(name, 7)


def test_a_symbol_that_does_not_fit_is_an_error() -> None:
    for wrong, message in (
        ([("x", "N, D", (3, 4)), ("y", "D, N", (3, 4))], "y: D is 4, not 3"),
        ([("x", "N", (3, 4))], r"x is \(3, 4\), not \(N\)"),
        ([("x", "N, D", (3, 4)), ("y", "T S + N", (9,))], "left open"),
        ([("x", "N, w N", (3, 4))], "w N is 3, not 4"),
    ):
        with pytest.raises(InputError, match=message):
            Symbols().learn(wrong)
    figure = FIGURES["resampler"]
    with pytest.raises(InputError, match=r"is \(1, 1, 64, 1536\), not \(B, N, D\)"):
        replace(figure, draw=lambda d: d.shape(0, 0, "resampler", "B, N, D")).drawn()


# geometry


def advance(text: ElementTree.Element) -> float:
    style, size = text.attrib["class"], {"title": svg.TITLE, "head": 15.0}.get(text.attrib["class"], svg.SMALL)
    bold, mono = style in ("title", "head"), style in ("symbols", "numbers")
    return svg.width(text.text or "", size, mono=mono, bold=bold)


def extent(text: ElementTree.Element) -> Rectangle:
    x, y, w = float(text.attrib["x"]), float(text.attrib["y"]), advance(text)
    left = x - {"start": 0.0, "middle": w / 2, "end": w}[text.attrib["text-anchor"]]
    return left, y - 9, left + w, y + 2


def rectangle(rect: ElementTree.Element) -> Rectangle:
    x, y, w, h = (float(rect.attrib[key]) for key in ("x", "y", "width", "height"))
    return x, y, x + w, y + h


def boxes(picture: ElementTree.Element) -> Iterator[tuple[Rectangle, list[ElementTree.Element]]]:
    for group in picture.iter(f"{SPACE}g"):
        if group.get("class") == "box":
            rect, *texts = group
            yield rectangle(rect), texts


def outside(picture: ElementTree.Element) -> list[ElementTree.Element]:
    """Texts that are in no box."""
    inside = {id(text) for _, texts in boxes(picture) for text in texts}
    return [text for text in picture.iter(f"{SPACE}text") if id(text) not in inside]


def overlap(a: Rectangle, b: Rectangle) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


@NAMES
def test_text_stays_within_its_box(name: str) -> None:
    found = list(boxes(drawn(name)))
    assert len(found) >= 8
    for box, texts in found:
        for text in texts:
            left, top, right, bottom = extent(text)
            assert box[0] + 4 <= left, text.text
            assert right <= box[2] - 4, text.text
            assert box[1] <= top, text.text
            assert bottom <= box[3], text.text


@NAMES
def test_nothing_overlaps(name: str) -> None:
    picture = drawn(name)
    page = (0.0, 0.0, float(picture.attrib["width"]), float(picture.attrib["height"]))
    places = [box for box, _ in boxes(picture)]
    for a, b in combinations(places, 2):
        assert not overlap(a, b)
    texts = [(text.text, extent(text)) for text in outside(picture)]
    for text, at in texts:
        assert page[0] + 4 <= at[0], text
        assert at[2] <= page[2] - 4, text
        assert not any(overlap(at, box) for box in places), text
    for (text, at), (other, there) in combinations(texts, 2):
        assert not overlap(at, there), (text, other)


@NAMES
def test_arrows_run_beside_text_and_end_at_boxes(name: str) -> None:
    picture = drawn(name)
    places = [box for box, _ in boxes(picture)]
    texts = [(text.text, extent(text)) for text in outside(picture)]
    arrows = [path.attrib["d"] for path in picture.iter(f"{SPACE}path") if path.get("class") == "arrow"]
    assert len(arrows) >= 8
    for arrow in arrows:
        points = [tuple(map(float, point)) for point in re.findall(r"([\d.]+) ([\d.]+)", arrow)]
        for (x0, y0), (x1, y1) in pairwise(points):
            assert x0 == x1 or y0 == y1, arrow
            line = (min(x0, x1), min(y0, y1), max(x0, x1) + 0.1, max(y0, y1) + 0.1)
            for text, at in texts:
                assert not overlap(line, at), (arrow, text)
            inner = (line[0] + 0.5, line[1] + 0.5, line[2] - 0.5, line[3] - 0.5)
            for box in places:
                assert not overlap((box[0] + 1, box[1] + 1, box[2] - 1, box[3] - 1), line) or not overlap(box, inner)


@pytest.mark.parametrize(
    ("text", "regular", "bold"),
    [
        ("WMmw", 3.644, 4.064),
        ("illness", 3.125, 3.609),
        ("cross-attention", 7.537, 8.619),
        ("0123456789", 6.362, 6.958),
        ("(B, N, D)", 4.256, 4.799),
        ("MLP: linear, squared ReLU, linear", 16.587, 18.887),
    ],
)
def test_widths_are_not_underestimated(text: str, regular: float, bold: float) -> None:
    """By the advances in the tables of DejaVu Sans, the widest of the fonts named, in em."""
    assert regular <= svg.width(text, 1) <= 1.3 * regular
    assert bold <= svg.width(text, 1, bold=True) <= 1.3 * bold
    assert 0.602 * len(text) <= svg.width(text, 1, mono=True)


# colours


@pytest.mark.parametrize("theme", [svg._LIGHT, svg._DARK])
def test_text_is_readable_on_every_colour(theme: dict[str, tuple[str, str]]) -> None:
    """A contrast of 4.5 to 1 (WCAG 2.1, section 1.4.3) for text, of 3 to 1 for lines (1.4.11)."""
    for kind, (fill, line) in theme.items():
        if kind != "text":
            for text in theme["text"]:
                assert contrast(text, fill) >= 4.5, (kind, text)
            assert kind == "page" or contrast(line, theme["page"][0]) >= 3, kind


def contrast(a: str, b: str) -> float:
    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


@NAMES
def test_both_themes_are_there_and_nothing_from_elsewhere(name: str) -> None:
    text = (FOLDER / f"{name}.svg").read_text(encoding="utf-8")
    assert "@media (prefers-color-scheme: dark)" in text
    assert re.findall(r"https?://[^\"\s]+", text) == ["http://www.w3.org/2000/svg"]
    assert "<script" not in text
    kinds = {rect.attrib["class"] for rect in drawn(name).iter(f"{SPACE}rect")} - {"frame"}
    for kind in kinds:
        assert text.count(f".{kind} {{ fill:") == 2, kind
