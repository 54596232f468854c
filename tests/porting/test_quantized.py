"""Weights in 8 or 4 bits: each form against its definition written out, number by number, and found where planted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from porting.cases import case_of
from porting.diagnosing import diagnose, on_backend

from perceiver_ref.porting import run
from perceiver_ref.porting.cases import Case
from perceiver_ref.porting.cases.execution import rebuild
from perceiver_ref.porting.deviations.quantized import E4M3, E5M2, FORMS, Float8

pytestmark = on_backend

GROUPS = (32, 64, 128)


def row_by_row(values: np.ndarray, size: int, one: Callable[[list[float]], list[float]]) -> np.ndarray:
    """Every `size` numbers of every row by themselves."""
    made = [
        [number for start in range(0, len(row), size) for number in one(row[start : start + size])]
        for row in values.tolist()
    ]
    return np.array(made)


def absmax(bits: int, levels: float = 0.0) -> Callable[[list[float]], list[float]]:
    """Torch-like: the scale is the largest magnitude over 2^(bits - 1) - 1."""
    top = 2 ** (bits - 1) - 1

    def one(row: list[float]) -> list[float]:
        scale = max(abs(x) for x in row) / (levels or top)
        return [max(-top - 1, min(top, round(x / scale))) * scale for x in row]

    return one


def zero_point(bits: int) -> Callable[[list[float]], list[float]]:
    top = 2**bits - 1

    def one(row: list[float]) -> list[float]:
        low, high = min(*row, 0.0), max(*row, 0.0)
        scale = (high - low) / top
        zero = round(-low / scale)
        return [(max(0, min(top, round(x / scale) + zero)) - zero) * scale for x in row]

    return one


def above_the_least(bits: int) -> Callable[[list[float]], list[float]]:
    def one(row: list[float]) -> list[float]:
        low, scale = min(row), (max(row) - min(row)) / (2**bits - 1)
        return [round((x - low) / scale) * scale + low for x in row]

    return one


def numbers_of(form: Float8) -> np.ndarray:
    """All of a float8's finite numbers, from its bits: sign, exponent, fraction."""
    fraction_bits = form.digits - 1
    exponents = range(2 ** (7 - fraction_bits))
    made = []
    for exponent in exponents:
        for fraction in range(2**fraction_bits):
            if exponent == 0:
                made.append(fraction * 2.0 ** (form.smallest - fraction_bits))
            else:
                made.append((1 + fraction / 2**fraction_bits) * 2.0 ** (form.smallest + exponent - 1))
    positive = np.array([x for x in made if x <= form.largest])
    return np.concatenate([-positive[::-1], positive])


def nearest(form: Float8, scaled: bool = False) -> Callable[[list[float]], list[float]]:
    grid = numbers_of(form)

    def one(row: list[float]) -> list[float]:
        scale = max(abs(x) for x in row) / form.largest if scaled else 1.0
        return [float(grid[np.abs(grid - x / scale).argmin()]) * scale for x in row]

    return one


SCHEMES: dict[str, Callable[[list[float]], list[float]]] = {
    **{f"int{bits} {{}}": absmax(bits) for bits in (8, 4)},
    **{
        f"int{bits} {{}}, to {levels:g}": absmax(bits, levels)
        for bits, levels in ((8, 127.5), (8, 128), (4, 7.5), (4, 8))
    },
    **{f"int{bits} {{}} with a zero point": zero_point(bits) for bits in (8, 4)},
    **{f"int{bits} {{}} with an offset": above_the_least(bits) for bits in (8, 4)},
}
PLACES = {"per tensor": 0, "per output channel": 1, "per input channel": 2, **{f"in groups of {n}": n for n in GROUPS}}
DEFINED: dict[str, tuple[Callable[[list[float]], list[float]], int]] = {
    **{words.format(where): (scheme, place) for words, scheme in SCHEMES.items() for where, place in PLACES.items()},
    "float8_e4m3": (nearest(E4M3), 1),
    "float8_e5m2": (nearest(E5M2), 1),
    **{f"float8_e4m3 scaled {where}": (nearest(E4M3, True), PLACES[where]) for where in list(PLACES)[:3]},
    **{f"float8_e5m2 scaled {where}": (nearest(E5M2, True), PLACES[where]) for where in list(PLACES)[:3]},
}


def defined(form: str, weight: np.ndarray) -> np.ndarray:
    """A weight (outputs, inputs), read back from a form, by its definition."""
    scheme, place = DEFINED[form]
    wide = weight.astype(np.float64)
    if place == 0:
        return row_by_row(wide.reshape(1, -1), wide.size, scheme).reshape(wide.shape)
    if place == 2:
        return row_by_row(wide.T, wide.shape[0], scheme).T
    return row_by_row(wide, wide.shape[1] if place == 1 else place, scheme)


@pytest.mark.parametrize("form", DEFINED)
def test_a_form_is_its_definition(form: str) -> None:
    """To float32's rounding of scales. With half a level over the largest number is as near to two: either will do."""
    weight = np.random.default_rng(5).normal(size=(7, 150)).astype(np.float32)
    made, expected = FORMS[form](weight), defined(form, weight)
    close = np.isclose(made, expected, rtol=2e-6, atol=2e-6)
    if form.endswith(".5"):
        step = np.abs(weight).max() / float(form.rpartition(" ")[2])
        assert np.abs(made - expected).max() <= step
        assert (~close).sum() <= 0.05 * weight.size
    else:
        assert close.all()


@pytest.mark.parametrize("form", [name for name in DEFINED if "{" not in name and "tensor" not in name])
def test_axes_of_outputs_may_lie_anywhere(form: str) -> None:
    """JAX's (inputs, outputs), and (inputs, heads, channels of a head)."""
    weight = np.random.default_rng(6).normal(size=(6, 70)).astype(np.float32)
    expected = FORMS[form](weight)
    np.testing.assert_array_equal(FORMS[form](weight.T, (1,)), expected.T)
    np.testing.assert_array_equal(FORMS[form](weight.T.reshape(70, 2, 3), (1, 2)), expected.T.reshape(70, 2, 3))


def test_every_form_has_a_definition() -> None:
    others = {"nf4 in groups of 64", "nf4 in groups of 128", "ggml's q8_0", "ggml's q4_0", "ggml's q4_1"}
    assert set(FORMS) == {*DEFINED, *others}


def test_ggmls_blocks() -> None:
    """A block of 32 by the rules of ggml's reference: the scale in float16, numbers made with it as it was."""
    x = np.random.default_rng(7).normal(size=(3, 64)).astype(np.float32)

    def q8_0(row: list[float]) -> list[float]:
        scale = max(map(abs, row)) / 127
        return [round(v / scale) * float(np.float16(scale)) for v in row]

    def q4_0(row: list[float]) -> list[float]:
        scale = max(row, key=abs) / -8
        return [(min(15, int(v / scale + 8.5)) - 8) * float(np.float16(scale)) for v in row]

    def q4_1(row: list[float]) -> list[float]:
        scale = (max(row) - min(row)) / 15
        least, kept = float(np.float16(min(row))), float(np.float16(scale))
        return [min(15, int((v - min(row)) / scale + 0.5)) * kept + least for v in row]

    for name, one in (("q8_0", q8_0), ("q4_0", q4_0), ("q4_1", q4_1)):
        np.testing.assert_allclose(FORMS[f"ggml's {name}"](x), row_by_row(x, 32, one), rtol=2e-6, atol=2e-6)
    odd = x[:, :40]
    np.testing.assert_array_equal(FORMS["ggml's q8_0"](odd), odd)  # which ggml does not quantise


def test_every_number_of_float8_is_itself_and_ties_go_to_even() -> None:
    for form in (E4M3, E5M2):
        grid = numbers_of(form)
        np.testing.assert_array_equal(form(grid), grid)
        middles = (grid[1:] + grid[:-1]) / 2
        made = form(middles)
        below = np.searchsorted(grid, middles) - 1
        even = np.where((np.abs(below - len(grid) // 2 + (middles < 0)) % 2) == 0, grid[below], grid[below + 1])
        positive = middles > 0
        np.testing.assert_array_equal(made[positive], even[positive])
        np.testing.assert_array_equal(made, -form(-middles))


# ------------------------------------------------------------------------------------------------------------ planted


def planted(name: str, change: Callable[[np.ndarray], np.ndarray], *, transposed: bool = False) -> Case:
    """A case of float32 whose outputs come of two-dimensional weights (outputs, inputs) that are changed."""
    case = replace(case_of(name), cotangents={}, grad_params={}, grad_inputs={}, trace={})
    rebuilt, arrays = rebuild(case)
    turned: Callable[[np.ndarray], np.ndarray] = (lambda a: change(a.T).T) if transposed else change
    chosen = {n: turned(a) if a.ndim == 2 and n.endswith(("weight", "/w")) else a for n, a in arrays.items()}
    made: Any = run(rebuilt, chosen, case.inputs, case.meta["call"], dtype="float32")
    return replace(case, meta={**case.meta, "dtype": "float32"}, outputs=made.outputs)


@pytest.mark.parametrize(
    "form",
    [
        "int8 per tensor",
        "int8 per output channel",
        "int8 per tensor with a zero point",
        "int4 per output channel",
        "int4 in groups of 32 with a zero point",
        "float8_e4m3",
        "float8_e5m2 scaled per tensor",
    ],
)
def test_a_planted_form_is_named(form: str) -> None:
    found = diagnose(planted("open-flamingo/gated_immediate", lambda a: defined(form, a)))
    assert (found.verdict, found.causes) == ("deviation", ["dtype"])
    assert found.explanation[0].variant == f"weights in {form}, of all linear maps"
    assert found.explanation[0].remaining < 1e-3  # float32's rounding of the rest
    assert found.formats[0] == (found.explanation[0].variant, found.explanation[0].remaining)
