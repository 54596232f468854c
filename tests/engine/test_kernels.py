"""Every kernel computes what the definition does, forward and backward, and keeps its promise about memory."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import tracemalloc
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from engine.op_cases import CASES
from hypothesis import given
from hypothesis import strategies as st

from perceiver_ref.autograd import kernels, ops, products, registry, vjp
from perceiver_ref.autograd.backend import to_host
from perceiver_ref.autograd.kernels import table
from perceiver_ref.autograd.modes import mode

Shape = tuple[int, ...]
NAMES = sorted({op for op, _ in table})
MODES = ["plain", "fast"]
LEADS: list[tuple[Shape, Shape, Shape]] = [((), (), ()), ((2, 1), (2, 2), (1, 2)), ((2, 3), (), (3,))]


def results(xp: ModuleType, op: Any, arrays: list[Any], static: dict[str, Any], mode: str) -> list[np.ndarray]:
    """The output and the gradients; the rule that ran forward is the one that runs back, whatever mode holds then."""
    with kernels(mode):
        out, pull = vjp(lambda *traced: op(*traced, **static), *arrays)
    cotangent = xp.asarray(np.random.default_rng(0).standard_normal(out.shape), out.dtype)
    with kernels("plain"):
        return [to_host(out), *(to_host(g) for g in pull(cotangent) if g is not None)]


def agree(xp: ModuleType, op: Any, arrays: list[Any], static: dict[str, Any], tolerance: float) -> None:
    """Both rules give the same, relative to the largest element."""
    plain, fast = (results(xp, op, arrays, static, mode) for mode in MODES)
    for got, expected in zip(fast, plain, strict=True):
        size = max(1.0, float(np.abs(expected).max())) if expected.size else 1.0
        np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * size, strict=True)


@pytest.mark.parametrize("op", NAMES)
def test_the_table_is_what_ops_use(op: str, backend: str) -> None:
    made = registry[op]
    assert made.kernels.get(backend, ()) == table.get((op, backend), ())
    assert made.fast.kernels is made.kernels
    assert made.plain.kernels == {}


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    # sums of at most a few dozen terms in another order: a few dozen roundings, of 1e-16 and of 6e-8
    [(np.float64, 1e-13), (np.float32, 2e-5)],
)
@pytest.mark.parametrize("op", NAMES)
@given(data=st.data())
def test_rules_can_be_exchanged(
    op: str, dtype: Any, tolerance: float, data: st.DataObject, small_tiles: None, xp: ModuleType
) -> None:
    """Shapes, masks, biases and options as drawn for the ops' own tests, in tiles of 2 queries by 3 keys."""
    agree(xp, registry[op], *data.draw(CASES[op].examples).on(xp, dtype), tolerance)


@given(data=st.data())
def test_attention_by_whole_heads(data: st.DataObject, small_tiles: None, whole_heads: None, xp: ModuleType) -> None:
    agree(xp, ops.attention, *data.draw(CASES["attention"].examples).on(xp, np.float64), 1e-13)  # as above


def masks(kind: str, n: int, m: int, rng: np.random.Generator) -> np.ndarray | None:
    mask = rng.random((2, 1, n, m)) < 0.6
    if kind == "none":
        return None
    if kind == "keys":
        return mask[0, 0, 0]
    if kind == "queries":
        return mask[0, 0, :, :1]
    if kind == "keys of a batch element":
        return mask[:, :, :1]
    if kind == "some rows empty":
        mask[:, :, 1::3] = False
    if kind == "tiles empty":
        mask[..., :4] = False
        mask[0] = False
    return mask if kind != "all empty" else np.zeros_like(mask)


KINDS = [
    *("none", "keys", "queries", "keys of a batch element"),
    *("full", "some rows empty", "tiles empty", "all empty"),
]


@pytest.mark.parametrize("rows", ["zero", "uniform", "added"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bias", [None, (7,), (1, 5, 7), (2, 3, 5, 7), (5, 1)])
def test_tiles_under_masks_and_biases(
    kind: str, bias: Shape | None, rows: str, small_attention: None, xp: ModuleType
) -> None:
    """Three by three tiles, the last ones cut short, or whole heads; one batch axis and one of heads."""
    rng = np.random.default_rng(0)
    shapes = [(2, 3, 5, 4), (2, 1, 7, 4), (2, 1, 7, 6)] + ([] if bias is None else [bias])
    arrays = [xp.asarray(rng.standard_normal(shape)) for shape in shapes]
    mask = masks(kind, 5, 7, rng)
    static = {"mask": None if mask is None else xp.asarray(mask), "masked_rows": rows}
    agree(xp, ops.attention, arrays, static, 1e-13)  # as above


@pytest.mark.parametrize("lead", LEADS)
def test_leading_axes_of_tiles_broadcast(
    lead: tuple[Shape, Shape, Shape], small_attention: None, xp: ModuleType
) -> None:
    rng = np.random.default_rng(0)
    sizes = [(5, 4), (7, 4), (7, 6)]
    arrays = [xp.asarray(rng.standard_normal((*shape, *size))) for shape, size in zip(lead, sizes)]
    agree(xp, ops.attention, arrays, {"scale": 0.7}, 1e-13)  # as above


@pytest.mark.parametrize("logit", [1e4, -1e4])
def test_running_maxima_of_large_logits(logit: float, small_attention: None, xp: ModuleType) -> None:
    """The largest logit comes in the last tile, so that every running sum shrinks to nothing, or in the first."""
    q, v = xp.ones((3, 1)), xp.asarray(np.arange(8.0)[:, None])
    k = xp.asarray(np.linspace(0, logit, 8)[:, None])
    with kernels("fast"):
        out = to_host(ops.attention(q, k, v, scale=1.0))
    np.testing.assert_array_equal(out, np.full((3, 1), 7.0 if logit > 0 else 0.0))
    agree(xp, ops.attention, [q, k, v], {"scale": 1.0}, 1e-12)  # logits of 1e4 are rounded at 1e-12


def test_attention_memory_does_not_grow_with_queries_times_keys(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Peak bytes of forward and backward at 8 times the length grow 8 times, not 64 times."""
    if backend == "cupy":
        pytest.skip("tracemalloc sees the memory of NumPy arrays only")
    kernel = sys.modules["perceiver_ref.autograd.kernels.cpu.attention"]
    monkeypatch.setattr(kernel, "TILE", (16, 16))
    monkeypatch.setattr(kernel, "SMALL", 0)
    monkeypatch.setattr(sys.modules["perceiver_ref.autograd.kernels.cpu.heads"], "FEW", 0)

    def peak(n: int, mode: str) -> int:
        q, k, v = np.random.default_rng(0).standard_normal((3, n, 4))
        mask = np.arange(n) < n - 5
        tracemalloc.start()
        try:
            with kernels(mode):
                out, pull = vjp(lambda *a: ops.attention(*a, mask=mask), q, k, v)
                pull(out)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    small, large = 64, 512
    assert peak(large, "fast") < 8.5 * peak(small, "fast")
    assert peak(large, "fast") < 0.25 * large * large * 8  # a quarter of one array of scores
    assert peak(large, "plain") > 2 * large * large * 8  # so that the bound above says something


def test_kernel_modes_nest_and_end(xp: ModuleType) -> None:
    outside = mode()
    with kernels("plain"):
        with kernels("fast"):
            assert mode() == "fast"
        assert mode() == "plain"
        with pytest.raises(KeyError), kernels("fast"):
            raise KeyError
        assert mode() == "plain"
    assert mode() == outside


@pytest.mark.parametrize("name", ["slow", "", "Fast"])
def test_unknown_modes_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"unknown kernels mode {name!r}; known: fast, plain"), kernels(name):
        pass


def test_a_mode_is_that_of_its_thread(xp: ModuleType) -> None:
    seen: list[str] = []
    with kernels("plain"):
        thread = threading.Thread(target=lambda: seen.append(mode()))
        thread.start()
        thread.join()
    assert seen == [os.environ.get("PERCEIVER_REF_KERNELS") or "fast"]


def run(value: str, variable: str = "PERCEIVER_REF_KERNELS") -> subprocess.CompletedProcess[str]:
    script = (
        "import threading\n"
        "from perceiver_ref.autograd.modes import mode, products_mode\n"
        "import perceiver_ref.autograd\n"
        f"show = lambda: print({'mode' if variable.endswith('KERNELS') else 'products_mode'}())\n"
        "show(); thread = threading.Thread(target=show); thread.start(); thread.join()\n"
    )
    environment = {**os.environ, variable: value}
    return subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("value", "chosen"), [("plain", "plain"), ("fast", "fast"), ("", "fast")])
def test_the_environment_variable_sets_the_mode_of_every_thread(value: str, chosen: str) -> None:
    assert run(value).stdout.split() == [chosen, chosen]


def test_the_environment_variable_must_hold_a_known_mode() -> None:
    assert "ValueError: PERCEIVER_REF_KERNELS must be fast or plain, got 'slow'" in run("slow").stderr


@pytest.mark.parametrize(("value", "chosen"), [("3xtf32", "3xtf32"), ("", "default")])
def test_a_variable_sets_the_products_of_every_thread(value: str, chosen: str) -> None:
    assert run(value, "PERCEIVER_REF_PRODUCTS").stdout.split() == [chosen, chosen]


def test_unknown_products_are_refused() -> None:
    error = run("tf32", "PERCEIVER_REF_PRODUCTS").stderr
    assert "ValueError: PERCEIVER_REF_PRODUCTS must be default or 3xtf32, got 'tf32'" in error
    with pytest.raises(ValueError, match="unknown products 'tf32'; known: default, 3xtf32"), products("tf32"):
        pass


def test_products_of_arrays_on_the_host_are_the_same_in_every_mode() -> None:
    x, w = (np.random.default_rng(0).standard_normal(s).astype(np.float32) for s in ((40, 50), (50, 60)))
    with products("3xtf32"):
        made = ops.linear(x, w)
    np.testing.assert_array_equal(made, ops.linear(x, w))
