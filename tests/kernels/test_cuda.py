"""CUDA kernels against the definitions: sizes beyond a block, layouts, divisions of the work, memory and waiting."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from engine.test_kernels import KINDS, agree, masks

from perceiver_ref.autograd import kernels, ops, optim, registry, value_and_grad, vjp
from perceiver_ref.autograd.backend import to_host
from perceiver_ref.autograd.kernels.cuda.narrow import NarrowBack
from perceiver_ref.models.encoder import Encoder

# sums of up to a few thousand terms in another order, relative to the largest element
TOLERANCES = [(np.float64, 1e-12), (np.float32, 5e-5)]


@pytest.fixture(autouse=True)
def on_a_gpu(backend: str) -> None:
    if backend != "cupy":
        pytest.skip("needs a GPU: pytest --backend cupy")


def drawn(xp: ModuleType, dtype: Any, *shapes: tuple[int, ...]) -> list[Any]:
    rng = np.random.default_rng(0)
    return [xp.asarray(rng.standard_normal(shape), dtype) for shape in shapes]


@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES)
@pytest.mark.parametrize("shape", [(1, 1), (3, 7, 261), (3000, 40), (5, 4096), (2, 4097), (9, 1024)])
@pytest.mark.parametrize("op", ["layer_norm", "rms_norm", "softmax", "log_softmax", "gelu_erf", "gelu_tanh"])
def test_rows_of_all_lengths(op: str, shape: tuple[int, ...], dtype: Any, tolerance: float, xp: ModuleType) -> None:
    parameters = {"layer_norm": 2, "rms_norm": 1}.get(op, 0)
    agree(xp, registry[op], drawn(xp, dtype, shape, *[shape[-1:]] * parameters), {}, tolerance)


@pytest.mark.parametrize("op", ["layer_norm", "softmax", "gelu_tanh"])
def test_rows_that_are_not_contiguous(op: str, xp: ModuleType) -> None:
    x, *parameters = drawn(xp, np.float64, (37, 5, 70), *[(74,)] * (2 if op == "layer_norm" else 0))
    agree(xp, registry[op], [x.swapaxes(0, 2)[:, ::2], *(p[::2] for p in parameters)], {}, 1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES)
@pytest.mark.parametrize("op", ["layer_norm", "rms_norm"])
@pytest.mark.parametrize("rows", [3, 5000])
def test_norms_of_fours_that_lie_anywhere(rows: int, op: str, dtype: Any, tolerance: float, xp: ModuleType) -> None:
    """The kernels that read four elements at a time are for rows at multiples of 16 bytes alone."""
    shapes = [(rows, 136), *[(136,)] * (2 if op == "layer_norm" else 1)]
    arrays = [x[1:].reshape(s) for s in shapes for x in drawn(xp, dtype, (int(np.prod(s)) + 1,))]
    agree(xp, registry[op], arrays, {}, tolerance)
    agree(xp, registry[op], [x.copy() for x in arrays], {}, tolerance)


@pytest.mark.parametrize("case", ["nan", "all -inf", "inf"])
def test_rows_that_are_not_finite(case: str, xp: ModuleType) -> None:
    x = np.random.default_rng(0).standard_normal((3, 70))
    x[1] = -np.inf if case == "all -inf" else x[1]
    x[1, 3] = {"nan": np.nan, "inf": np.inf}.get(case, x[1, 3])
    x[2, 5] = -np.inf
    for op in (ops.softmax, ops.log_softmax):
        with kernels("plain"):
            want = to_host(op(xp.asarray(x)))
        np.testing.assert_allclose(to_host(op(xp.asarray(x))), want, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES)
@pytest.mark.parametrize(
    ("lead", "inputs", "outputs"), [((1,), 1, 1), ((2, 3), 5, 7), ((3, 1000), 261, 33), ((4096,), 64, 128)]
)
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("layout", ["plain", "transposed", "odd address"])
def test_linear_maps(
    lead: tuple[int, ...],
    inputs: int,
    outputs: int,
    biased: bool,
    layout: str,
    dtype: Any,
    tolerance: float,
    xp: ModuleType,
) -> None:
    flipped = layout == "transposed"
    shapes = [(*lead, inputs), (outputs, inputs) if flipped else (inputs, outputs), (outputs,)]
    if layout == "odd address":  # one element into the buffer, as in a flat buffer of all parameters
        arrays = [drawn(xp, dtype, (int(np.prod(s)) + 1,))[0][1:].reshape(s) for s in shapes]
    else:
        arrays = drawn(xp, dtype, *shapes)
    arrays[1] = arrays[1].T if flipped else arrays[1]
    agree(xp, ops.linear, arrays[: 2 + biased], {}, tolerance)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("layout", ["plain", "strided", "odd address", "broadcast", "number"])
def test_sums_of_arrays(layout: str, dtype: Any, xp: ModuleType) -> None:
    """To the last bit, as there is but one rounding; 3 elements are left of fours."""
    (x,) = drawn(xp, dtype, (17, 501))
    others = {
        "plain": x[::-1].copy(),
        "strided": xp.asfortranarray(x[::-1]),
        "odd address": xp.concatenate([x.reshape(-1)[:1], x.reshape(-1)])[1:].reshape(x.shape),
        "broadcast": x[:, :1].copy(),
        "number": 0.5,
    }
    y = others[layout]
    plain = y if layout == "number" else to_host(y)
    np.testing.assert_array_equal(to_host(ops.add(x, y)), to_host(x) + plain)
    if layout != "number":
        agree(xp, ops.add, [x, y], {}, 1e-12 if dtype == np.float64 else 5e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES)
@pytest.mark.parametrize("op", ["linear", "layer_norm", "rms_norm"])
@pytest.mark.parametrize("layout", ["plain", "strided", "odd address"])
def test_gradients_that_are_added_to(op: str, layout: str, dtype: Any, tolerance: float, xp: ModuleType) -> None:
    """Of arrays used before in a sum, whose gradient is lent, and used three times, whose gradient then is its own."""
    shapes = [(3, 100, 40), *{"linear": [(40, 40), (40,)], "layer_norm": [(40,)] * 2, "rms_norm": [(40,)]}[op]]
    arrays, lent = drawn(xp, dtype, *shapes), drawn(xp, dtype, *shapes)
    if layout == "strided":
        lent = [xp.asfortranarray(x) for x in lent]
    elif layout == "odd address":
        lent = [xp.concatenate([x.reshape(-1)[:1], x.reshape(-1)])[1:].reshape(x.shape) for x in lent]

    def run(x: Any, *parameters: Any) -> Any:
        for _ in range(3):
            x = ops.add(x, registry[op](x, *parameters))
        return (x, *(ops.add(p, p) for p in parameters))

    def gradients(mode: str) -> list[Any]:
        with kernels(mode):
            _, pull = vjp(run, *arrays)
            return [to_host(g) for g in pull(tuple(lent))]

    before = [to_host(x) for x in lent]
    for got, want in zip(gradients("fast"), gradients("plain"), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * abs(want).max())
    for x, kept in zip(lent, before):
        np.testing.assert_array_equal(to_host(x), kept)


@pytest.fixture(params=["whole", "groups of two heads", "two queries at a time"])
def division(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """How attention on 5 queries and 7 keys in float64, 280 bytes of scores a head, is divided."""
    module = sys.modules["perceiver_ref.autograd.kernels.cuda.attention_plan"]
    if request.param == "groups of two heads":
        monkeypatch.setattr(module, "WORKSPACE", 600)
    elif request.param == "two queries at a time":
        monkeypatch.setattr(module, "WORKSPACE", 112)
        monkeypatch.setattr(module, "FEWEST", 2)


@pytest.mark.parametrize("rows", ["zero", "uniform", "added"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bias", [None, (7,), (1, 5, 7), (2, 3, 5, 7), (5, 1)])
def test_attention_under_masks_and_biases(
    kind: str, bias: tuple[int, ...] | None, rows: str, division: None, xp: ModuleType
) -> None:
    shapes = [(2, 3, 5, 4), (2, 1, 7, 4), (2, 1, 7, 6)] + ([] if bias is None else [bias])
    mask = masks(kind, 5, 7, np.random.default_rng(0))
    static = {"mask": None if mask is None else xp.asarray(mask), "masked_rows": rows}
    agree(xp, ops.attention, drawn(xp, np.float64, *shapes), static, 1e-13)


LEADS: list[tuple[tuple[int, ...], ...]] = [
    *(((), (), ()), ((3,), (3,), (3,)), ((2, 1), (2, 2), (1, 2)), ((2, 3), (), (3,))),
    ((2, 2, 3), (2, 2, 1), (2, 2, 1)),
]


@pytest.mark.parametrize("lead", LEADS)
def test_leading_axes_broadcast(lead: tuple[tuple[int, ...], ...], division: None, xp: ModuleType) -> None:
    arrays = drawn(xp, np.float64, *((*shape, *size) for shape, size in zip(lead, [(5, 4), (7, 4), (7, 6)])))
    agree(xp, ops.attention, arrays, {"scale": 0.7}, 1e-13)


@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES)
@pytest.mark.parametrize("keys", [1, 64, 200, 300, 1024, 1028, 4096, 4097, 5000])  # a kernel each, and where they end
@pytest.mark.parametrize("masked", [True, False])
def test_heads_side_by_side(keys: int, masked: bool, dtype: Any, tolerance: float, xp: ModuleType) -> None:
    """As models split them, without a copy; results come so that joining heads copies nothing, either."""
    arrays = [x.swapaxes(1, 2) for x in drawn(xp, dtype, (3, 20, 2, 16), (3, keys, 2, 16), (3, keys, 2, 8))]
    mask = xp.asarray(np.random.default_rng(1).random((3, 1, 1, keys)) < 0.7) if masked else None
    agree(xp, ops.attention, arrays, {"mask": mask}, tolerance)
    out, pull = vjp(lambda *a: ops.attention(*a, mask=mask), *arrays)
    assert all(x.swapaxes(1, 2).flags.c_contiguous for x in (out, *pull(out)))


@pytest.mark.parametrize(("d", "e"), [(32, 32), (4, 64), (36, 8)])
@pytest.mark.parametrize("lead", [(), (3,), (2, 3)])
@pytest.mark.parametrize("divided", [False, True])
def test_narrow_heads(
    divided: bool, lead: tuple[int, ...], d: int, e: int, monkeypatch: pytest.MonkeyPatch, xp: ModuleType
) -> None:
    """Of float32, whose scores are not cuBLAS's: heads apart and side by side, in parts of 128 queries or whole."""
    n, m = 300, 204
    if divided:
        plan = sys.modules["perceiver_ref.autograd.kernels.cuda.attention_plan"]
        monkeypatch.setattr(plan, "WORKSPACE", 128 * m * 4)
    calls, call = [], NarrowBack.__call__
    monkeypatch.setattr(NarrowBack, "__call__", lambda self, *given: (calls.append(0), call(self, *given)))
    sizes = [(n, d), (m, d), (m, e)]
    apart = drawn(xp, np.float32, *((*lead, *size) for size in sizes))
    for arrays in (apart, [xp.moveaxis(xp.ascontiguousarray(xp.moveaxis(x, 0, -2)), -2, 0) for x in apart]):
        agree(xp, ops.attention, arrays, {"scale": 0.5}, 5e-5)  # as TOLERANCES
    assert calls


@pytest.mark.parametrize("logit", [1e4, -1e4])
@pytest.mark.parametrize("keys", [8, 5000])
def test_large_logits(logit: float, keys: int, xp: ModuleType) -> None:
    q, v = xp.ones((3, 1)), xp.asarray(np.arange(float(keys))[:, None])
    k = xp.asarray(np.linspace(0, logit, keys)[:, None] * keys)
    np.testing.assert_array_equal(to_host(ops.attention(q, k, v, scale=1.0)), (keys - 1.0 if logit > 0 else 0.0))


def test_masked_keys_may_hold_anything(xp: ModuleType) -> None:
    q, k, v = drawn(xp, np.float64, (2, 3, 5, 4), (2, 3, 7, 4), (2, 3, 7, 6))
    k[..., 2, :], v[..., 4, :] = np.nan, np.inf
    mask = xp.asarray([True, True, False, True, False, True, True])
    out, pull = vjp(lambda *a: ops.attention(*a, mask=mask), q, k, v)
    assert all(np.isfinite(to_host(x)).all() for x in (out, *pull(out)))


def test_attention_memory_is_linear(xp: Any) -> None:
    """65,536 queries on as many keys, whose scores would take 17 GB: a fixed workspace beside the arrays themselves."""
    q, k, v = drawn(xp, np.float32, *[(65536, 8)] * 3)
    pool = xp.get_default_memory_pool()
    pool.free_all_blocks()
    before = pool.total_bytes()
    out, pull = vjp(ops.attention, q, k, v)
    pull(out)
    # scores and their gradients on the way back, scores of the way there, and what cuBLAS works in
    assert pool.total_bytes() - before < 4 * sys.modules["perceiver_ref.autograd.kernels.cuda.attention_plan"].WORKSPACE


@pytest.mark.parametrize("labels", ["on the host", "on the device"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [True, False])
def test_cross_entropy(labels: str, reduction: str, smoothing: float, weighted: bool, xp: ModuleType) -> None:
    logits, weights = drawn(xp, np.float64, (4, 9, 300), (300,))
    targets = np.random.default_rng(0).integers(0, 300, (4, 9))
    targets[1, 3:] = -100
    static = {
        "label_smoothing": smoothing,
        "reduction": reduction,
        "class_weights": abs(weights) if weighted else None,
    }
    given = targets if labels == "on the host" else xp.asarray(targets)
    agree(xp, ops.cross_entropy, [logits, given], static, 1e-13)


def test_labels_out_of_range(xp: ModuleType) -> None:
    """Raised for labels on the host; a loss that is not a number for those that would have to be read back."""
    logits = xp.zeros((2, 3))
    with pytest.raises(IndexError, match=r"targets must be in \[0, 3\) or -100"):
        ops.cross_entropy(logits, np.asarray([0, 3]))
    assert np.isnan(float(ops.cross_entropy(logits, xp.asarray([0, 3]))))


@pytest.mark.filterwarnings("ignore:cupyx.allow_synchronize will be removed")
def test_a_step_never_waits_for_the_device(xp: Any) -> None:
    """Forward, backward, loss and update; CuPy raises where the host would wait. The first step compiles."""
    import cupyx

    model = Encoder(inputs=6, latents=4, channels=16, layers=1, self_heads=2)
    params = model.init(seed=0, backend="cupy")
    (x,) = drawn(xp, np.float32, (2, 40, 6))
    labels = np.arange(8).reshape(2, 4)
    optimizer = optim.lamb(1e-3, weight_decay=0.1, max_norm=1.0)
    state = optimizer.init(params)

    def step(params: Any, state: Any) -> Any:
        _, gradients = value_and_grad(lambda p: ops.cross_entropy(model.apply(p, x), labels))(params)
        return optimizer.step(params, gradients, state)

    params, state = step(params, state)
    with cupyx.allow_synchronize(False):
        step(params, state)
