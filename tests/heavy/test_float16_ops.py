"""Every op in float16 beside its counterpart in PyTorch's half, on the CPU: forward and gradients, no further from
float64 than PyTorch is, for numbers small and large and sums that are long."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra: perceiver-ref[peers]")
from torch.nn import functional as F  # noqa: N812

from perceiver_ref.autograd import kernels, ops, tree, vjp

pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("ignore")]
Shapes = tuple[tuple[int, ...], ...]


class Row(NamedTuple):
    """An op, the same in PyTorch, the shapes of its arguments, and how numbers are drawn beside the usual ones."""

    ours: Callable[..., Any]
    theirs: Callable[..., Any]
    shapes: Shapes
    draw: Callable[[np.ndarray], np.ndarray] = lambda x: x


SAME, PAIR, LONG = ((7, 33),), ((7, 33), (33,)), ((3, 3000),)
ids = np.random.default_rng(0).integers(0, 9, 3000)
grid = np.random.default_rng(0).integers(0, 40, (3, 3000))
mask = np.random.default_rng(0).random((5, 300)) < 0.7
labels = np.random.default_rng(0).integers(0, 33, 700)


def channels_last(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """A convolution or pooling of PyTorch on (B, H, W, C) and, where there is one, a weight (h, w, C, E)."""

    def called(x: Any, *weight: Any) -> Any:
        return function(x.permute(0, 3, 1, 2), *(w.permute(3, 2, 0, 1) for w in weight), **options).permute(0, 2, 3, 1)

    return called


def norm(x: Any) -> Any:
    return x.to(torch.float32 if x.dtype == torch.float16 else x.dtype)


positive = abs
NONE = {"padding": ((1, 1), (1, 1)), "strides": (1, 1)}
ROWS: dict[str, Row] = {
    "add": Row(ops.add, torch.add, PAIR),
    "subtract": Row(ops.subtract, torch.sub, PAIR),
    "multiply": Row(ops.multiply, torch.mul, ((3000, 7), (7,))),
    "divide": Row(ops.divide, torch.div, PAIR, lambda x: np.where(abs(x) < 1e-3, 1e-3, x)),
    "negative": Row(ops.negative, torch.neg, SAME),
    "absolute": Row(ops.absolute, torch.abs, SAME),
    "power": Row(lambda x: ops.power(x, 3), lambda x: x**3, SAME),
    "power, arrays": Row(ops.power, torch.pow, PAIR, lambda x: np.clip(abs(x), 0.1, 3)),
    "maximum": Row(ops.maximum, torch.maximum, PAIR),
    "minimum": Row(ops.minimum, torch.minimum, PAIR),
    "exp": Row(ops.exp, torch.exp, SAME, lambda x: np.clip(x, -12, 11)),
    "log": Row(ops.log, torch.log, SAME, lambda x: abs(x) + 1e-3),
    "sqrt": Row(ops.sqrt, torch.sqrt, SAME, lambda x: abs(x) + 1e-3),
    "tanh": Row(ops.tanh, torch.tanh, SAME),
    "erf": Row(ops.erf, torch.erf, SAME),
    "sin": Row(ops.sin, torch.sin, SAME),
    "cos": Row(ops.cos, torch.cos, SAME),
    "where": Row(
        lambda x, y: ops.where(mask, x, y), lambda x, y: torch.where(torch.from_numpy(mask), x, y), ((5, 300), (300,))
    ),
    "relu": Row(ops.relu, torch.relu, SAME),
    "squared_relu": Row(ops.squared_relu, lambda x: torch.relu(x) ** 2, SAME),
    "sigmoid": Row(ops.sigmoid, torch.sigmoid, SAME),
    "silu": Row(ops.silu, F.silu, SAME),
    "gelu_erf": Row(ops.gelu_erf, F.gelu, SAME),
    "gelu_tanh": Row(ops.gelu_tanh, lambda x: F.gelu(x, approximate="tanh"), SAME),
    "sum": Row(ops.sum, torch.sum, LONG),
    "sum, axis": Row(lambda x: ops.sum(x, axis=0), lambda x: x.sum(0), ((3000, 3),)),
    "mean": Row(lambda x: ops.mean(x, axis=(0, 1)), lambda x: x.mean((0, 1)), ((40, 70, 3),)),
    "max": Row(lambda x: ops.max(x, axis=0), lambda x: x.amax(0), SAME),
    "logsumexp": Row(lambda x: ops.logsumexp(x, axis=1), lambda x: torch.logsumexp(x, 1), LONG),
    "reshape": Row(lambda x: ops.reshape(x, shape=(-1,)), lambda x: x.reshape(-1), SAME),
    "transpose": Row(ops.transpose, lambda x: x.T, SAME),
    "broadcast_to": Row(lambda x: ops.broadcast_to(x, shape=(3000, 9)), lambda x: x.expand(3000, 9), ((9,),)),
    "concatenate": Row(lambda *x: ops.concatenate(list(x)), lambda *x: torch.cat(x), ((2, 3), (4, 3))),
    "stack": Row(lambda *x: ops.stack(list(x)), lambda *x: torch.stack(x), ((4, 3), (4, 3))),
    "split": Row(lambda x: ops.split(x, sizes=(3, 4)), lambda x: x.split((3, 4)), SAME),
    "pad": Row(lambda x: ops.pad(x, widths=((0, 0), (1, 2))), lambda x: F.pad(x, (1, 2)), SAME),
    "getitem": Row(lambda x: ops.getitem(x, index=(slice(1, 5), 3)), lambda x: x[1:5, 3], SAME),
    "take": Row(lambda x: ops.take(x, ids), lambda x: F.embedding(torch.from_numpy(ids), x), ((9, 4),)),
    "take_along_axis": Row(
        lambda x: ops.take_along_axis(x, grid), lambda x: x.gather(1, torch.from_numpy(grid)), ((3, 40),)
    ),
    "matmul": Row(ops.matmul, torch.matmul, ((2, 5, 300), (300, 7))),
    "linear": Row(ops.linear, lambda x, w, b: F.linear(x, w.T, b), ((2000, 48), (48, 7), (7,))),
    "softmax": Row(ops.softmax, lambda x: torch.softmax(x, -1), LONG),
    "softmax, axis": Row(lambda x: ops.softmax(x, axis=0), lambda x: torch.softmax(x, 0), ((3000, 3),)),
    "log_softmax": Row(ops.log_softmax, lambda x: torch.log_softmax(x, -1), LONG),
    "layer_norm": Row(ops.layer_norm, lambda x, s, o: F.layer_norm(x, x.shape[-1:], s, o), ((500, 64), (64,), (64,))),
    "rms_norm": Row(
        lambda x, s: ops.rms_norm(x, s, eps=1e-6), lambda x, s: F.rms_norm(x, x.shape[-1:], s, 1e-6), ((500, 64), (64,))
    ),
    "attention_weights": Row(
        lambda q, k: ops.attention_weights(q, k, scale=0.25),
        lambda q, k: torch.softmax(norm(q) @ norm(k).transpose(-1, -2) * 0.25, -1).to(q.dtype),
        ((2, 5, 16), (2, 300, 16)),
    ),
    "attention": Row(
        lambda q, k, v: ops.attention(q, k, v, mask=mask),
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=torch.from_numpy(mask)),
        ((2, 5, 16), (2, 300, 16), (2, 300, 8)),
    ),
    "convolution": Row(
        lambda x, w: ops.convolution(x, w, **NONE), channels_last(F.conv2d, padding=1), ((2, 30, 30, 5), (3, 3, 5, 4))
    ),
    "transposed_convolution": Row(
        lambda x, w: ops.transposed_convolution(x, w, padding=((0, 0), (0, 0)), strides=(2, 2)),
        lambda x, w: F.conv_transpose2d(x.permute(0, 3, 1, 2), w.permute(2, 3, 0, 1), stride=2).permute(0, 2, 3, 1),
        ((2, 9, 9, 5), (3, 3, 5, 4)),
    ),
    "max_pool": Row(
        lambda x: ops.max_pool(x, window=(3, 3), **NONE),
        channels_last(F.max_pool2d, kernel_size=3, stride=1, padding=1),
        ((2, 9, 9, 3),),
    ),
    "dropout": Row(lambda x: ops.dropout(x, rate=0.0, key=1), lambda x: F.dropout(x, 0.0), SAME),
    "cast": Row(lambda x: ops.cast(x, "float32"), lambda x: x.to(torch.promote_types(x.dtype, torch.float32)), SAME),
    "cross_entropy": Row(
        lambda x: ops.cross_entropy(x, labels, label_smoothing=0.1),
        lambda x: F.cross_entropy(x, torch.from_numpy(labels), label_smoothing=0.1),
        ((700, 33),),
    ),
    "binary_cross_entropy": Row(
        lambda x, y: ops.binary_cross_entropy(x, ops.sigmoid(y)),
        lambda x, y: F.binary_cross_entropy_with_logits(x, torch.sigmoid(y)),
        (*LONG, *LONG),
    ),
    "squared_error": Row(ops.squared_error, F.mse_loss, (*LONG, *LONG)),
    "absolute_error": Row(ops.absolute_error, F.l1_loss, (*LONG, *LONG)),
}
SCALES = (1e-3, 1.0, 30.0, 300.0)


def arguments(row: Row, scale: float) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [row.draw(scale * rng.standard_normal(shape)).astype(np.float16) for shape in row.shapes]


def cotangents(out: Any) -> list[np.ndarray]:
    rng = np.random.default_rng(2)
    return [rng.standard_normal(tuple(o.shape)).astype(np.float16) for o in out]


def listed(out: Any) -> list[Any]:
    return list(out) if isinstance(out, (tuple, list)) else [out]


def theirs(row: Row, given: list[np.ndarray], dtype: Any) -> list[np.ndarray]:
    tensors = [torch.from_numpy(x).to(dtype).requires_grad_() for x in given]
    out = listed(row.theirs(*tensors))
    total = sum((o * torch.from_numpy(c).to(o.dtype)).sum() for o, c in zip(out, cotangents(out)))
    total.backward()
    return [t.detach().double().numpy() for t in (*out, *(t.grad for t in tensors))]


def ours(row: Row, given: list[np.ndarray]) -> list[np.ndarray]:
    out, pull = vjp(row.ours, *given)
    outs = listed(out)
    weights = [c.astype(o.dtype) for o, c in zip(outs, cotangents(outs))]
    gradients = pull(type(out)(weights) if isinstance(out, (tuple, list)) else weights[0])
    assert all(g.dtype == np.float16 for g in gradients)
    return [np.asarray(a, float) for a in (*outs, *(g for _, g in tree.leaves(list(gradients))))]


def errors(made: np.ndarray, exact: np.ndarray) -> tuple[float, float]:
    """(largest error, root mean square), where the exact one rounds to a finite float16; infinity for one not finite.

    In units of the rounding of the largest.
    """
    fits = abs(exact) < 65504
    if not fits.any():
        return 0.0, 0.0
    difference = abs(made[fits] - exact[fits])
    if not np.isfinite(difference).all():
        return np.inf, np.inf
    unit = max(float(abs(exact[fits]).max()) * 2.0**-11, 2.0**-25)
    return float(difference.max()) / unit, float(np.sqrt(np.square(difference).mean())) / unit


@pytest.mark.parametrize("mode", ["plain", "fast"])
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", ROWS)
def test_an_op_is_as_near_to_float64_as_in_pytorch(name: str, scale: float, mode: str) -> None:
    row = ROWS[name]
    given = arguments(row, scale)
    exact = theirs(row, given, torch.float64)
    peers = theirs(row, given, torch.float16)
    with kernels(mode):
        made = ours(row, given)
    for i, (a, b, x) in enumerate(zip(made, peers, exact, strict=True)):
        (most, mean), (most_theirs, mean_theirs) = errors(a, x), errors(b, x)
        # one rounding is half a unit or PyTorch's error, whatever is larger: a tenth for chance
        assert most <= 1.1 * max(most_theirs, 0.51), f"array {i}: {most:.2f} units, PyTorch's {most_theirs:.2f}"
        assert mean <= 1.1 * max(mean_theirs, 0.3), f"array {i}: {mean:.3f} units, PyTorch's {mean_theirs:.3f}"


def test_every_op_that_computes_is_here() -> None:
    from perceiver_ref.autograd import registry

    known = {name.partition(",")[0] for name in ROWS}
    assert {name for name, op in registry.items() if op.differentiable} <= known


@pytest.mark.parametrize("given", ["float16", "float32", "float64"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16"])
def test_casts_are_pytorchs(given: str, dtype: str) -> None:
    """Numbers of all sizes, values and gradients, bit for bit; PyTorch rounds float64 to float32 first on the way down."""
    rng = np.random.default_rng(0)
    x = (rng.standard_normal(20_000) * np.exp(rng.standard_normal(20_000) * 20)).astype(np.float32).astype(given)
    tensor = torch.from_numpy(x).requires_grad_()
    out = tensor.to(getattr(torch, dtype))
    out = out.float() if dtype == "bfloat16" else out
    y, pull = vjp(lambda x: ops.cast(x, dtype), x)
    np.testing.assert_array_equal(y, out.detach().numpy(), strict=True)
    g = rng.standard_normal(20_000).astype(y.dtype)
    out.backward(torch.from_numpy(g))
    gradient = pull(g)[0]
    if (dtype, given) == ("float64", "float16"):  # rounded twice there
        np.testing.assert_allclose(gradient, tensor.grad.numpy(), rtol=2.0**-10)
    else:
        np.testing.assert_array_equal(gradient, tensor.grad.numpy(), strict=True)
