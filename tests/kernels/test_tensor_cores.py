"""float32 products from three of TF32: the arithmetic itself in NumPy, and the kernels on a GPU against float64."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perceiver_ref.autograd import ops, products, recorded, vjp
from perceiver_ref.autograd.backend import to_host
from perceiver_ref.autograd.kernels.cuda import tensor_cores
from perceiver_ref.autograd.kernels.cuda.prepared import Matrices, ProductSizes
from perceiver_ref.autograd.kernels.cuda.tensor_cores import (
    FLOAT32,
    TERMS,
    TILES,
    Split,
    ThreeProducts,
    choice,
    definition,
)


def drawn(seed: int, *shapes: tuple[int, ...]) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def bound(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Of the error of an element. A number and its parts differ by 2^-23 of it, a half of the 2^-22 which the product
    of the small parts is of all; twelve sums are cut by 2^-23 each; a float32 addition rounds by 2^-24."""
    size = np.abs(x.astype(np.float64)) @ np.abs(y.astype(np.float64))
    return (2 * 2.0**-23 + 2.0**-22 + 12 * 2.0**-23 + -(-x.shape[1] // TERMS) * 2.0**-24) * size


def rms(got: np.ndarray, x: np.ndarray, y: np.ndarray) -> float:
    """The error as a share of the result, both by their root mean squares."""
    exact = x.astype(np.float64) @ y.astype(np.float64)
    return float(np.sqrt(((got - exact) ** 2).mean() / (exact**2).mean()))


@given(st.integers(1, 9), st.integers(1, 11), st.integers(1, 200), st.integers(-20, 20), st.integers(0, 9))
def test_the_definition_keeps_to_its_bound(n: int, m: int, k: int, power: int, seed: int) -> None:
    x, y = drawn(seed, (n, k), (k, m))
    x *= np.float32(2.0**power)
    assert (np.abs(definition(x, y) - x.astype(np.float64) @ y.astype(np.float64)) <= bound(x, y)).all()


@pytest.mark.parametrize("k", [256, 1100])
def test_errors_are_no_larger_than_those_of_float32(k: int) -> None:
    """Added one product after the other; with fewer than 64 of them float32 rounds less often."""
    x, y = drawn(0, (37, k), (k, 29))
    plain = np.zeros((37, 29), np.float32)
    for i in range(k):
        plain += x[:, i : i + 1] * y[i]
    assert rms(definition(x, y), x, y) < rms(plain, x, y)


def test_one_product_of_tf32_would_not_do() -> None:
    x, y = drawn(0, (37, 300), (300, 29))
    cut = [(a.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32) for a in (x, y)]
    assert (np.abs(cut[0] @ cut[1] - x.astype(np.float64) @ y.astype(np.float64)) > bound(x, y)).any()


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 500_000), st.integers(1, 70))
def test_every_product_is_in_one_share(n: int, m: int, k: int, count: int) -> None:
    made, _ = choice(ProductSizes(n, m, k), count, 132, TILES)
    assert made.share % TERMS == 0
    assert (made.shares - 1) * made.share < k <= made.shares * made.share
    assert made.tile in TILES


MEASURED = [  # (n, m, k, TFLOP/s of float32, and of three), on an H200
    (4096, 1024, 1024, 49.3, 80.9),
    (4096, 4096, 4096, 51.2, 82.3),
    (2048, 1280, 1280, 40.6, 66.7),
    (1024, 1024, 4096, 48.9, 65.1),
]


@pytest.mark.parametrize(("n", "m", "k", "float32", "three"), MEASURED)
def test_times_are_foretold(n: int, m: int, k: int, float32: float, three: float) -> None:
    """Within a quarter: the kernel differs by a tenth with the layouts, which the rule leaves out."""
    for rate, tiles in ((float32, FLOAT32), (three, TILES)):
        _, time = choice(ProductSizes(n, m, k), 1, 132, tiles)
        assert abs(2e-3 * n * m * k / time / rate - 1) < 0.25


def test_a_kernel_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether in this process or an earlier one; for another text, or by another compiler, again."""
    version, texts = [(13, 0)], list[str]()
    nvrtc = SimpleNamespace(getVersion=lambda: version[0])
    monkeypatch.setitem(sys.modules, "cupy.cuda", SimpleNamespace(nvrtc=nvrtc))
    monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path / "new"))
    monkeypatch.setattr(tensor_cores, "_compiled", lambda text: (texts.append(text), text.encode())[1])
    assert [tensor_cores._binary(text) for text in ("a", "b", "a")] == [b"a", b"b", b"a"]
    assert texts == ["a", "b"]
    version[0] = (13, 1)
    assert tensor_cores._binary("a") == b"a"
    assert texts == ["a", "b", "a"]
    monkeypatch.setenv("CUPY_CACHE_DIR", "/dev/null/none")
    assert tensor_cores._binary("a") == b"a"


@pytest.fixture
def hopper(backend: str, xp: Any) -> None:
    if backend != "cupy":
        pytest.skip("needs a GPU: pytest --backend cupy")
    if xp.cuda.Device().compute_capability != "90":
        pytest.skip("needs NVIDIA's Hopper")


def multiplied(
    xp: Any, x: np.ndarray, y: np.ndarray, turned: str = "", odd: bool = False, apart: bool = False, **options: Any
) -> np.ndarray:
    """By a kernel; `turned` names those that lie transposed, `odd` puts all arrays one element into a buffer.

    What is added to is 3, and lies in the result's place, or `apart`.
    """

    def laid(a: np.ndarray, name: str) -> tuple[Any, Matrices]:
        a = np.ascontiguousarray(a.T if name in turned else a)
        buffer = xp.empty(a.size + odd, np.float32)
        buffer[odd:] = xp.asarray(a).reshape(-1)
        return buffer[odd:], Matrices(a.shape[1], transposed=name in turned)

    (a, of_a), (b, of_b) = laid(x, "x"), laid(y, "y")
    (n, k), m = x.shape, y.shape[1]
    out = xp.full(n * m + odd, 3, np.float32)[odd:]
    wide = (not odd and of_a.row % 4 == 0, not odd and of_b.row % 4 == 0)
    product = ThreeProducts(ProductSizes(n, m, k), of_a, of_b, Matrices(m), wide=wide, **options)
    before = out.copy()
    if apart:
        out[...] = np.nan
    product(a.data.ptr, b.data.ptr, out.data.ptr, onto=before.data.ptr if apart else 0)
    return to_host(out).reshape(n, m)


@pytest.mark.parametrize("turned", ["", "x", "y", "xy"])
@pytest.mark.parametrize("odd", [False, True])
@settings(max_examples=8)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 3000), st.integers(0, 9))
def test_kernels_of_odd_sizes(
    xp: ModuleType, hopper: None, turned: str, odd: bool, n: int, m: int, k: int, seed: int
) -> None:
    """Twice the bound: tensor cores cut the products that they sum as well."""
    x, y = drawn(seed, (n, k), (k, m))
    error = np.abs(multiplied(xp, x, y, turned, odd) - x.astype(np.float64) @ y.astype(np.float64))
    assert (error <= 2 * bound(x, y)).all()


@pytest.mark.parametrize("shares", [1, 3])
@pytest.mark.parametrize("turned", ["", "x", "y", "xy"])
def test_every_tile(xp: ModuleType, hopper: None, turned: str, shares: int) -> None:
    x, y = drawn(0, (200, 516), (516, 420))
    exact = x.astype(np.float64) @ y.astype(np.float64)
    for tile in TILES:
        got = multiplied(xp, x, y, turned, split=Split(tile, shares, -(-516 // (32 * shares)) * 32))
        assert (np.abs(got - exact) <= 2 * bound(x, y)).all(), tile
        split = Split(tile, shares, -(-516 // (32 * shares)) * 32)
        for apart in (False, True):
            got = multiplied(xp, x, y, turned, apart=apart, alpha=-0.5, beta=2.0, split=split)
            np.testing.assert_allclose(got, 6 - exact / 2, rtol=0, atol=1e-4)


def test_kernels_compute_what_their_definition_does(xp: ModuleType, hopper: None) -> None:
    """As exactly: the order of sums, and what tensor cores cut of products, are theirs."""
    x, y = drawn(0, (130, 1000), (1000, 140))
    assert rms(multiplied(xp, x, y), x, y) < 2 * rms(definition(x, y), x, y)


@pytest.mark.parametrize("shares", [1, 2])
def test_what_is_not_finite_is_as_in_float32(xp: ModuleType, hopper: None, shares: int) -> None:
    x, y = drawn(0, (70, 300), (300, 90))
    x[3, 4], x[5], x[7, 2], y[5, 9], y[6, 10], y[:, 11] = np.inf, np.nan, -np.inf, 3.4028e38, -np.inf, 0
    x[:, 250], y[250, 20] = 1, 3.4e38
    with np.errstate(all="ignore"):
        exact = x @ y
    split = Split(TILES[-1], shares, 320 // shares)
    got = multiplied(xp, x, y, split=split)
    for test in (np.isnan, np.isposinf, np.isneginf):
        np.testing.assert_array_equal(test(got), test(exact))


def test_subnormal_results_are_kept(xp: ModuleType, hopper: None) -> None:
    x, y = drawn(0, (40, 64), (64, 50))
    x *= np.float32(2.0**-100)
    y *= np.float32(2.0**-34)
    error = np.abs(multiplied(xp, x, y) - x.astype(np.float64) @ y.astype(np.float64))
    assert (error <= 2 * bound(x, y) + 64 * 2.0**-149).all()


TOLERANCE = 5e-5
"""As of float32's own kernels in test_cuda: sums of up to a few thousand terms, relative to the largest element."""


def pulled(op: Any, arrays: list[Any], static: dict[str, Any]) -> list[np.ndarray]:
    out, pull = vjp(lambda *a: op(*a, **static), *arrays)
    cotangent = np.random.default_rng(0).standard_normal(out.shape).astype(out.dtype)
    xp = sys.modules[type(out).__module__.partition(".")[0]]
    return [to_host(out), *(to_host(g) for g in pull(xp.asarray(cotangent)))]


def compared(op: Any, arrays: list[Any], static: dict[str, Any]) -> None:
    """Forward and backward, against float64; and other digits than float32's, so that it was this mode."""
    wanted = pulled(op, [a.astype(np.float64) for a in arrays], static)
    plain = pulled(op, arrays, static)
    with products("3xtf32"):
        made = pulled(op, arrays, static)
    for got, want in zip(made, wanted, strict=True):
        assert np.abs(got - want).max() <= TOLERANCE * max(1.0, np.abs(want).max())
    assert any((got != other).any() for got, other in zip(made, plain, strict=True))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("inputs", [256, 261])
def test_linear_maps(xp: Any, hopper: None, inputs: int, biased: bool, tied: bool) -> None:
    shapes = [(3, 1400, inputs), (650, inputs) if tied else (inputs, 650), (650,)]
    arrays = [xp.asarray(a) for a in drawn(0, *shapes)]
    arrays[1] = arrays[1].T if tied else arrays[1]
    compared(ops.linear, arrays[: 2 + biased], {})


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("sizes", [(500, 700, 64, 136), (700, 900, 33, 35)])
def test_attention(xp: Any, hopper: None, sizes: tuple[int, int, int, int], masked: bool) -> None:
    n, m, d, e = sizes
    arrays = [xp.asarray(a).swapaxes(1, 2) for a in drawn(0, (2, n, 3, d), (2, m, 3, d), (2, m, 3, e))]
    mask = xp.asarray(np.random.default_rng(1).random((2, 1, 1, m)) < 0.7) if masked else None
    compared(ops.attention, arrays, {"mask": mask})


def test_what_float32_does_as_fast_is_left_to_it(xp: Any, hopper: None) -> None:
    for n, m, k in ((5, 600, 700), (70, 60, 50)):
        x, w = (xp.asarray(a) for a in drawn(0, (n, k), (k, m)))
        plain = to_host(ops.linear(x, w))
        with products("3xtf32"):
            np.testing.assert_array_equal(to_host(ops.linear(x, w)), plain)


def test_float64_is_as_ever(xp: Any, hopper: None) -> None:
    x, w = (xp.asarray(a, np.float64) for a in drawn(0, (2100, 256), (256, 650)))
    plain = to_host(ops.linear(x, w))
    with products("3xtf32"):
        np.testing.assert_array_equal(to_host(ops.linear(x, w)), plain)


def test_a_recording_is_of_one_mode(xp: Any, hopper: None) -> None:
    x, w = (xp.asarray(a) for a in drawn(0, (2100, 256), (256, 650)))
    run = recorded(lambda x, w: ops.linear(x, w))
    plain = to_host(run(x, w))
    with products("3xtf32"):
        np.testing.assert_array_equal(to_host(run(x, w)), to_host(ops.linear(x, w)))
        assert (to_host(run(x, w)) != plain).any()
    np.testing.assert_array_equal(to_host(run(x, w)), plain)
