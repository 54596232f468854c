"""What a difference looks like: every row of the tables finds its planted fault, and noise is no pattern."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import normal

from perceiver_ref.porting import patterns as module
from perceiver_ref.porting import places
from perceiver_ref.porting.patterns import VALUES, patterns
from perceiver_ref.porting.places import PLACES

Fault = Callable[[np.ndarray], Any]
TOLERANCE = 1e-5
ROUNDING = 1e-7
"""Of what is right: float32's."""


def found(a: np.ndarray, b: np.ndarray, **options: Any) -> str:
    return "; ".join(each.said for each in patterns(a, b, TOLERANCE, **options))


def at(place: Any, change: Fault) -> Fault:
    """A fault in one place."""

    def fault(b: np.ndarray) -> np.ndarray:
        a = b.copy()
        a[place] = change(b[place])
        return a

    return fault


def other(b: np.ndarray) -> np.ndarray:
    """Values that have nothing to do with those that were there."""
    return np.random.default_rng(b.size).standard_normal(b.shape)


def moved(order: Any, axis: int) -> Fault:
    return lambda b: b.take(order, axis)


MASK = np.arange(7)[None] < np.array([[7], [4], [5]])
CAUSAL = np.triu(np.ones((7, 7), bool), 1)

# row, shape, fault -> what is said, in words; heads is 4, and a mask of (3, 7) is known
FAULTS: list[tuple[str, tuple[int, ...], Fault, str]] = [
    ("element", (3, 7, 12), at((2, 5, 1), other), "one element only, at [2, 5, 1]"),
    ("range", (3, 7, 12), at((..., slice(9, 12)), other), "head 3 of 4 only"),
    ("range", (3, 7, 12), at((..., slice(3, 9)), other), "heads 1 to 2 of 4 only"),
    ("range", (3, 4, 7, 5), at((slice(None), 1), other), "head 1 of 4 only"),
    ("range", (3, 7, 12), at((..., -1), other), "the last column only (11 of 12)"),
    ("range", (3, 7, 12), at((..., 0), other), "the first column only (0 of 12)"),
    ("range", (3, 7, 13), at((..., slice(2, 8)), other), "columns 2 to 7 of 13 only"),
    ("range", (3, 7, 13), at((..., [1, 6, 9]), other), "columns 1, 6 and 9 of 13 only"),
    ("range", (3, 7, 13), at((..., slice(1, None, 2)), other), "every second column only, 1 to 11 of 13"),
    ("range", (3, 7, 13), at(1, other), "rows of item 1 only (3 items)"),
    ("range", (3, 7, 13), at((slice(None), 6), other), "the last row only (6 of 7)"),
    ("range", (3, 7, 13), at((1, slice(None), 4), other), "column 4 of 13 only and rows of item 1 only (3 items)"),
    ("range", (31,), at(slice(5, 9), other), "elements 5 to 8 of 31 only"),
    ("masked-positions", (3, 7, 5), at(~MASK, other), "only the masked positions (by mask)"),
    ("masked-positions", (3, 5, 7), lambda b: np.where(MASK[:, None], b, 3), "only the masked positions"),
    ("triangle", (3, 7, 7), at((slice(None), CAUSAL), other), "above the diagonal only"),
    ("triangle", (7, 7), at(CAUSAL.T, other), "below the diagonal only"),
    ("triangle", (7, 7), at(np.eye(7, dtype=bool), other), "on the diagonal only"),
    ("constant", (3, 7, 12), np.zeros_like, "zeros throughout"),
    ("constant", (3, 7, 12), at((..., -1), lambda b: 0.25 + 0 * b), "there: 0.25 throughout"),
    ("factor", (3, 7, 12), lambda b: b * 0.5**0.5, "constant factor 0.70711 = 1/sqrt(2)"),
    ("factor", (3, 7, 12), lambda b: b * 48**0.5, "constant factor 6.92820 = sqrt(48)"),
    ("factor", (3, 7, 12), lambda b: b * 1.01, "constant factor 1.01000"),
    ("factor", (3, 7, 12), lambda b: b / 8, "constant factor 0.12500 = 1/8"),
    (
        "factor",
        (3, 7, 12),
        at((..., slice(9, 12)), lambda b: b / 2),
        "head 3 of 4 only; there: constant factor 0.50000",
    ),
    ("offset", (3, 7, 12), lambda b: b + 0.125, "constant offset 0.125"),
    ("offset", (3, 7, 12), at(1, lambda b: b - 2), "rows of item 1 only (3 items); there: constant offset -2"),
    ("sign", (3, 7, 12), lambda b: -b, "sign flipped"),
    ("sign", (3, 7, 12), lambda b: np.abs(b), "of 252 elements"),
    ("shift", (3, 7, 12), lambda b: np.roll(b, 1, 1), "shifted by one position, later, around the end (axis 1)"),
    ("shift", (3, 7, 12), lambda b: np.concatenate([b[:, 1:], 0 * b[:, :1]], 1), "one position, earlier (axis 1)"),
    ("shift", (3, 7, 13), lambda b: np.roll(b, -2, 2), "shifted by 2 columns, earlier, around the end (axis 2)"),
    ("shift", (31,), lambda b: np.concatenate([b[:1], b[:-1]]), "shifted by one element, later (axis 0)"),
    ("order", (3, 7, 13), lambda b: b[:, ::-1], "rows reversed (axis 1)"),
    ("order", (31,), lambda b: b[::-1], "elements reversed (axis 0)"),
    ("order", (5, 7, 13), moved([4, 2, 0, 1, 3], 0), "items in another order: 4, 2, 0, 1, 3 (axis 0)"),
    ("order", (3, 7, 13), moved([0, 1, 2, 5, 4, 3, 6], 1), "rows 3 and 5 swapped"),
    ("order", (3, 7, 12), lambda b: b.reshape(3, 7, 4, 3).swapaxes(2, 3).reshape(b.shape), "(3, 4) instead of (4, 3)"),
    ("order", (3, 7, 12), moved([6, 7, 8, 9, 10, 11, 0, 1, 2, 3, 4, 5], 2), "columns with both halves swapped"),
    (
        "order",
        (3, 7, 12),
        moved([4, 5, 0, 1, 8, 9, 10, 11, 2, 3, 6, 7], 2),
        "blocks of 2 columns in another order: 2, 0",
    ),
    ("order", (3, 7, 13), at(1, moved([0, 3, 1, 2, 6, 5, 4], 0)), "rows in another order: 0, 3, 1, 2, 6, 5, ..."),
    ("transposed", (3, 7, 7), lambda b: b.swapaxes(1, 2), "transposed: axes 1 and 2 swapped"),
    ("stored", (3, 7, 13), lambda b: b.astype(np.float16).astype(np.float64), "rounded to float16"),
]


@pytest.mark.parametrize("large", [False, True], ids=["", "as if it were large"])
@pytest.mark.parametrize("number", range(len(FAULTS)))
def test_a_planted_fault_is_named(number: int, large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a part is looked at first, as it is of large arrays."""
    row, shape, fault, words = FAULTS[number]
    for place in (module, places) if large else ():
        monkeypatch.setattr(place, "SAMPLED", 100)
    b = normal(number, *shape)
    a = fault(b)
    if row != "stored":
        a = a * (1 + ROUNDING * normal(number + 1, *shape))
    said = found(a, b, heads=4, masks={"mask": MASK})
    assert words in said, said


def test_every_row_has_a_fault() -> None:
    assert {row for row, *_ in FAULTS} == {*PLACES, *VALUES}


@pytest.mark.parametrize("row", [*PLACES, *VALUES])
def test_a_row_is_what_finds_its_faults(row: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it the words are not said: no other row says them."""
    for table in (PLACES, VALUES):
        monkeypatch.delitem(table, row, raising=False)
    for _, shape, fault, words in (each for each in FAULTS if each[0] == row):
        b = normal(3, *shape)
        assert words not in found(fault(b), b, heads=4, masks={"mask": MASK})


# -------------------------------------------------------------------------------------------------------------- noise

NOISE: dict[str, Callable[[np.random.Generator, np.ndarray], np.ndarray]] = {
    "normal": lambda rng, b: b + 0.1 * rng.standard_normal(b.shape),
    "uniform": lambda rng, b: b + 0.1 * rng.uniform(-1, 1, b.shape),
    "in proportion": lambda rng, b: b * (1 + 0.01 * rng.standard_normal(b.shape)),
    "Laplace": lambda rng, b: b + 0.1 * rng.laplace(size=b.shape),
    "all else": lambda rng, b: rng.standard_normal(b.shape),
    "sparse": lambda rng, b: np.where(rng.random(b.shape) < 0.3, b + rng.standard_normal(b.shape), b),
}
SHAPES = [(2,), (3,), (5,), (17,), (200,), (2, 2), (3, 5), (5, 16), (1, 7, 12), (2, 3, 4), (3, 7, 12), (3, 4, 5, 5)]


@pytest.mark.parametrize("kind", NOISE)
@pytest.mark.parametrize("reference", ["normal", "after ReLU", "positive"])
def test_noise_is_no_pattern(kind: str, reference: str) -> None:
    """At tolerances from far below the noise to about as large: nothing is claimed, but for the expected few."""
    false = []
    shapes = [shape for shape in SHAPES if kind != "sparse" or np.prod(shape) >= 80]  # three of five are a place
    for number, (shape, size) in enumerate(itertools.product(shapes, (1e-9, 1e-3, 0.03, 0.1, 0.2))):
        rng = np.random.default_rng([number, 7])
        b = rng.standard_normal(shape)
        b = {"normal": b, "after ReLU": np.maximum(b, 0), "positive": np.abs(b) + 0.1}[reference]
        for _ in range(4):
            a = NOISE[kind](rng, b)
            masks = {"mask": rng.random((shape[0], shape[-2])) < 0.7} if len(shape) > 2 else {}
            said = patterns(a, b, size, heads=4 if shape[-1] % 4 == 0 else None, masks=masks)
            false += [(shape, size, each) for each in said if each.pattern not in ("element",)]
    assert not false, false


@settings(max_examples=60)
@given(st.integers(0, 1 << 30), st.floats(1e-6, 1e-2))
def test_within_the_tolerance_nothing_is_said(seed: int, size: float) -> None:
    b = normal(seed, 3, 5)
    a = b + size * np.random.default_rng(seed).uniform(-1, 1, b.shape)
    assert patterns(a, b, size) == []


# -------------------------------------------------------------------------------------------------------------- rest


def test_what_stands_out_is_named() -> None:
    b = normal(0, 3, 7, 12)
    noise = 1e-3 * normal(1, 3, 7, 12)
    noise[..., 5] *= 100
    assert "column 5 of 12 stands out: RMS error " in found(b + noise, b)
    noise = 1e-3 * normal(1, 3, 7, 12)
    noise[..., 6:9] *= 100
    assert "head 2 of 4 stands out" in found(b + noise, b, heads=4)


def test_nan_in_one_place() -> None:
    b = normal(0, 3, 7, 12)
    a = b.copy()
    a[1] = np.nan
    assert found(a, b) == "rows of item 1 only (3 items)"
    assert found(np.full_like(b, np.nan), b) == ""


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        (lambda b: b.T, (3, 5), "shape [5, 3] instead of [3, 5]: axes 0 and 1 swapped, it agrees"),
        (lambda b: b.T + 1, (3, 5), "axes 0 and 1 swapped, it has that shape, but values differ (error "),
        (
            lambda b: b.transpose(0, 2, 1),
            (2, 3, 5),
            "shape [2, 5, 3] instead of [2, 3, 5]: axes 1 and 2 swapped, it agrees",
        ),
        (lambda b: b.transpose(0, 3, 1, 2), (2, 3, 5, 7), "channels first in the candidate, last in the reference"),
        (lambda b: b.reshape(2, 15), (2, 3, 5), "shape [2, 15] instead of [2, 3, 5]: reshaped, it agrees"),
        (lambda b: b.swapaxes(1, 2).reshape(2, 15), (2, 3, 5), "reshaped, axes 1 and 2 swapped, it agrees"),
        (lambda b: b[None], (2, 3), "shape [1, 2, 3] instead of [2, 3]: reshaped, it agrees"),
        (lambda b: np.ones((4, 2)), (2, 3), "shape [4, 2] instead of [2, 3]: no order of axes has that shape"),
        (lambda b: np.ones(6), (2, 3), "shape [6] instead of [2, 3]: no order of axes has those values"),
        (lambda b: np.ones((0, 2)), (2, 0), "shape [0, 2] instead of [2, 0]"),
    ],
)
def test_of_two_shapes_what_fits(a: Fault, b: tuple[int, ...], words: str) -> None:
    reference = normal(4, *b)
    assert words in found(a(reference), reference)


def test_integers_and_bools() -> None:
    ids = np.arange(24).reshape(2, 12)
    assert found(ids + 1, ids) == "constant offset 1"
    keep = ids % 3 == 0
    assert found(~keep, keep) == ""


def test_what_is_too_large_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGEST", 20)
    assert found(normal(1, 3, 7) + 1, normal(1, 3, 7)) == ""
