"""The table behind `test_ops`: for every op, how to draw a valid call and an independent definition of its result.

Calls are drawn where the op is smooth, so that differences can check its gradient; what happens at kinks, ties and
infinities is in `test_op_edges`. Hypothesis draws shapes, axes and options, and a seed for the values.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import scipy.special
from engine import definitions as define
from engine.examples import (
    Draw,
    Example,
    Shape,
    Values,
    a_call,
    anywhere,
    coins,
    even,
    few,
    fractions,
    odd,
    off_zero,
    positive,
    reductions,
    shapes,
    sides,
    spaced,
)
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp


class OpCase(NamedTuple):
    examples: st.SearchStrategy[Example]
    definition: Callable[..., Any]


@a_call
def unary(draw: Draw, rng: Any, values: Values = anywhere) -> Any:
    return (values(rng, draw(shapes)),), {}


@a_call
def casts(draw: Draw, rng: Any) -> Any:
    return (anywhere(rng, draw(shapes)),), {"dtype": "float64"}


@a_call
def binary(draw: Draw, rng: Any, left: Values = anywhere, right: Values = anywhere) -> Any:
    x_shape, y_shape = draw(hnp.mutually_broadcastable_shapes(num_shapes=2, min_side=0, max_side=3, max_dims=3))[0]
    x, y = left(rng, x_shape), right(rng, y_shape)
    number = draw(st.sampled_from([None, None, "x", "y"]))
    return (left(rng, ()).item() if number == "x" else x, right(rng, ()).item() if number == "y" else y), {}


@a_call
def whole_powers(draw: Draw, rng: Any) -> Any:
    return (off_zero(rng, draw(shapes)), draw(st.integers(-2, 3))), {}


@a_call
def choices(draw: Draw, rng: Any) -> Any:
    c, x, y = draw(hnp.mutually_broadcastable_shapes(num_shapes=3, min_side=0, max_side=3, max_dims=3))[0]
    other = draw(st.sampled_from([anywhere(rng, y), 0.5]))
    return (coins(rng, c), anywhere(rng, x), other), {}


def one_axis(ndim: int) -> st.SearchStrategy[int]:
    return st.integers(-ndim, ndim - 1)


@st.composite
def sized(draw: Draw, axes: set[int], ndim: int, least: int) -> Shape:
    """A shape with at least `least` elements along each of `axes`."""
    return tuple(draw(st.integers(least if a in axes else 0, 3)) for a in range(ndim))


@a_call
def reduction(draw: Draw, rng: Any, values: Values = anywhere, least: int = 1) -> Any:
    ndim = draw(st.integers(0, 3))
    some = st.lists(st.integers(0, ndim - 1), unique=True, min_size=1).map(tuple)
    axis = draw(st.none() | one_axis(ndim) | some) if ndim else None
    gone = range(ndim) if axis is None else (axis,) if isinstance(axis, int) else axis
    shape = draw(sized({a % ndim for a in gone}, ndim, least))
    return (values(rng, shape),), {"axis": axis, "keepdims": draw(st.booleans())}


@a_call
def along(draw: Draw, rng: Any) -> Any:
    ndim = draw(st.integers(1, 3))
    axis = draw(one_axis(ndim))
    return (anywhere(rng, draw(sized({axis % ndim}, ndim, 1))),), {"axis": axis}


@a_call
def reshapes(draw: Draw, rng: Any) -> Any:
    shape = draw(shapes)
    size = math.prod(shape)
    options = [shape[::-1], (1, *shape), (*shape, 1), (size,), (math.prod(shape[:2]), *shape[2:])]
    return (anywhere(rng, shape),), {"shape": draw(st.sampled_from(options + ([(-1,)] if size else [])))}


@a_call
def transposes(draw: Draw, rng: Any) -> Any:
    shape = draw(shapes)
    order = draw(st.permutations(range(len(shape))))
    signed = tuple(a - draw(st.sampled_from([0, len(shape)])) for a in order)
    return (anywhere(rng, shape),), {"axes": draw(st.sampled_from([None, signed]))}


@a_call
def broadcasts(draw: Draw, rng: Any) -> Any:
    shape = draw(shapes)
    narrow = tuple(draw(st.sampled_from([1, n])) for n in shape)
    return (anywhere(rng, narrow[draw(st.integers(0, len(shape))) :]),), {"shape": shape}


@a_call
def joins(draw: Draw, rng: Any, *, new_axis: bool) -> Any:
    shape = list(draw(hnp.array_shapes(min_dims=0 if new_axis else 1, max_dims=3, min_side=0, max_side=3)))
    axis = draw(one_axis(len(shape) + new_axis))
    arrays = []
    for _ in range(draw(st.integers(1, 3))):
        if not new_axis:
            shape[axis] = draw(sides)
        arrays.append(anywhere(rng, tuple(shape)))
    return tuple(arrays), {"axis": axis}


@a_call
def splits(draw: Draw, rng: Any) -> Any:
    shape = list(draw(hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=3)))
    axis, sizes = draw(one_axis(len(shape))), tuple(draw(st.lists(sides, min_size=1, max_size=3)))
    shape[axis] = sum(sizes)
    return (anywhere(rng, tuple(shape)),), {"sizes": sizes, "axis": axis}


@a_call
def pads(draw: Draw, rng: Any) -> Any:
    shape = draw(shapes)
    widths = tuple((draw(st.integers(0, 2)), draw(st.integers(0, 2))) for _ in shape)
    return (anywhere(rng, shape),), {"widths": widths, "value": draw(st.sampled_from([0.0, -1.5]))}


@a_call
def slices(draw: Draw, rng: Any) -> Any:
    shape = draw(shapes)
    return (anywhere(rng, shape),), {"index": draw(hnp.basic_indices(shape, allow_newaxis=True))}


@a_call
def lookups(draw: Draw, rng: Any) -> Any:
    ndim = draw(st.integers(1, 3))
    axis = draw(one_axis(ndim))
    shape = draw(sized({axis % ndim}, ndim, 1))
    lowest, dtype = draw(st.sampled_from([(-shape[axis], np.int64), (0, np.uint8), (-shape[axis], np.int32)]))
    ids = rng.integers(lowest, shape[axis], draw(hnp.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=3)))
    return (anywhere(rng, shape), np.asarray(ids, dtype)), {"axis": axis}


@a_call
def gathers(draw: Draw, rng: Any) -> Any:
    ndim = draw(st.integers(1, 3))
    axis = draw(one_axis(ndim))
    shape = draw(sized({axis % ndim}, ndim, 1))
    narrow = [draw(st.sampled_from([(n, n), (1, n), (n, 1)])) for n in shape]
    narrow[axis] = (shape[axis], draw(sides))
    indices = rng.integers(-shape[axis], shape[axis], [there for _, there in narrow])
    return (anywhere(rng, tuple(here for here, _ in narrow)), indices), {"axis": axis}


@a_call
def products(draw: Draw, rng: Any) -> Any:
    signature = hnp.mutually_broadcastable_shapes(signature=np.matmul.signature, min_side=0, max_side=3, max_dims=2)
    return tuple(anywhere(rng, shape) for shape in draw(signature).input_shapes), {}


@a_call
def linears(draw: Draw, rng: Any) -> Any:
    lead, d, e = draw(hnp.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=3)), draw(sides), draw(sides)
    bias = draw(st.sampled_from([(), (None,), (anywhere(rng, (e,)),)]))
    return (anywhere(rng, (*lead, d)), anywhere(rng, (d, e)), *bias), {}


@a_call
def normalised(draw: Draw, rng: Any, values: Values, *, offset: bool) -> Any:
    lead, d = draw(hnp.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=3)), draw(st.integers(1, 4))
    parameters = [anywhere(rng, (d,)) for _ in range(1 + offset)]
    return (values(rng, (*lead, d)), *parameters), {"eps": draw(st.sampled_from([1e-5, 0.1]))}


@a_call
def attentions(draw: Draw, rng: Any, *, values: bool) -> Any:
    """Queries, keys and values with leading axes that broadcast, with and without a bias and a mask."""
    leads, _ = draw(hnp.mutually_broadcastable_shapes(num_shapes=3 if values else 2, max_dims=2, max_side=2))
    n, m, d, e = draw(sides), draw(sides), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    sizes = [(n, d), (m, d), (m, e)]
    arrays = [anywhere(rng, (*shape, *size)) for shape, size in zip(leads, sizes)]
    inner = np.broadcast_shapes(*leads[:2])
    whole = (*inner, n, m)

    def narrowed() -> Shape:
        shape = tuple(draw(st.sampled_from([1, size])) for size in whole)
        return shape[draw(st.integers(0, len(shape) - 1)) :]

    if draw(st.booleans()):
        arrays.append(anywhere(rng, narrowed()))
    mask = draw(st.sampled_from([None, "coins", "nothing", "a row"]))
    if mask is not None:
        mask_array = coins(rng, narrowed()) & (mask != "nothing")
        if mask == "a row" and mask_array.ndim > 1:
            mask_array[..., :1, :] = False
        mask = mask_array
    scale, rows = draw(st.sampled_from([None, 0.3])), draw(st.sampled_from(["zero", "uniform"]))
    return tuple(arrays), {"mask": mask, "scale": scale, "masked_rows": rows}


@a_call
def dropped(draw: Draw, rng: Any) -> Any:
    key = draw(st.integers(0, 9) | st.tuples(st.integers(0, 9), st.integers(0, 9)))
    return (anywhere(rng, draw(shapes)),), {"rate": draw(st.sampled_from([0.0, 0.1, 0.5, 0.9])), "key": key}


@a_call
def windows(draw: Draw, rng: Any, *, transposed: bool = False, pool: bool = False) -> Any:
    """Convolutions and pools over one to three axes, with windows, strides and paddings of different sizes."""
    axes = draw(st.integers(1, 3))
    window = tuple(draw(st.integers(1, 3)) for _ in range(axes))
    strides = tuple(draw(st.integers(1, 3)) for _ in range(axes))
    dilation = draw(st.none() | st.tuples(*[st.integers(1, 2)] * axes))
    # a transposed convolution must keep an output, a pool must see an element
    most = [(k - 1) // 2 if transposed or pool else k for k in window]
    padding = tuple((draw(st.integers(0, m)), draw(st.integers(-transposed, m))) for m in most)
    grid = tuple(d * (k - 1) + 1 + draw(st.integers(0, 3)) for k, d in zip(window, dilation or (1,) * axes))
    batch, channels = draw(st.integers(0, 2)), draw(st.integers(1, 3))
    options: dict[str, Any] = {"strides": strides, "padding": padding}
    if dilation or draw(st.booleans()):
        options["dilation"] = dilation
    if pool:
        return (spaced(rng, (batch, *grid, channels)),), {"window": window, **options}
    groups = draw(st.integers(1, 3))
    if groups > 1 or draw(st.booleans()):
        options["groups"] = groups
    weight = anywhere(rng, (*window, channels, groups * draw(st.integers(1, 2))))
    return (anywhere(rng, (batch, *grid, groups * channels)), weight), options


def _lead(reduction: str) -> st.SearchStrategy[Shape]:
    """Leading axes; the mean of nothing is NaN, so it gets some element."""
    return hnp.array_shapes(min_dims=0, max_dims=2, min_side=int(reduction == "mean"), max_side=3)


@a_call
def classified(draw: Draw, rng: Any) -> Any:
    reduction, classes = draw(reductions), draw(st.integers(2, 4))
    lead = draw(_lead(reduction))
    dtype, ignored = draw(st.sampled_from([(np.int64, -100), (np.int32, 0), (np.uint8, 0), (np.uint8, -100)]))
    targets = np.asarray(rng.integers(0, classes, lead), dtype)
    if ignored == -100 and dtype is not np.uint8:
        targets[rng.random(lead) < 0.3] = ignored
    if targets.size:
        targets[(0,) * targets.ndim] = 1  # "mean" needs one that counts
    options: dict[str, Any] = {"ignore_index": ignored, "reduction": reduction}
    options["label_smoothing"] = draw(st.sampled_from([0.0, 0.1]))
    if draw(st.booleans()):
        options["class_weights"] = draw(st.sampled_from([None, positive(rng, (classes,))]))
    return (anywhere(rng, (*lead, classes)), targets), options


@a_call
def compared(draw: Draw, rng: Any, left: Values, right: Values) -> Any:
    reduction = draw(reductions)
    shape = draw(_lead(reduction))
    return (left(rng, shape), right(rng, shape)), {"reduction": reduction}


def comparison(function: Callable[[Any, Any], bool]) -> OpCase:
    return OpCase(binary(few, few), define.each(function, bool))


CASES: dict[str, OpCase] = {
    "absolute": OpCase(unary(off_zero), define.each(lambda x: max(x, -x))),
    "absolute_error": OpCase(compared(even, odd), define.absolute_error),
    "add": OpCase(binary(), define.each(operator.add)),
    "attention": OpCase(attentions(values=True), define.attention),
    "attention_weights": OpCase(attentions(values=False), define.attention_weights),
    "binary_cross_entropy": OpCase(compared(anywhere, fractions), define.binary_cross_entropy),
    "broadcast_to": OpCase(broadcasts(), lambda x, shape: x + np.zeros(shape)),
    "cast": OpCase(casts(), lambda x, dtype: x.astype(dtype)),
    "concatenate": OpCase(joins(new_axis=False), define.concatenate),
    "convolution": OpCase(windows(), define.convolution),
    "cos": OpCase(unary(), define.each(math.cos)),
    "cross_entropy": OpCase(classified(), define.cross_entropy),
    "divide": OpCase(binary(anywhere, off_zero), define.each(operator.truediv)),
    "dropout": OpCase(dropped(), define.dropout),
    "equal": comparison(operator.eq),
    "erf": OpCase(unary(), define.each(math.erf)),
    "exp": OpCase(unary(), define.each(math.exp)),
    "gelu_erf": OpCase(unary(), define.each(define.gelu_erf)),
    "gelu_tanh": OpCase(unary(), define.each(define.gelu_tanh)),
    "getitem": OpCase(slices(), define.getitem),
    "greater": comparison(operator.gt),
    "greater_equal": comparison(operator.ge),
    "layer_norm": OpCase(normalised(spaced, offset=True), define.layer_norm),
    "less": comparison(operator.lt),
    "less_equal": comparison(operator.le),
    "linear": OpCase(linears(), define.linear),
    "log": OpCase(unary(positive), define.each(math.log)),
    "log_softmax": OpCase(along(), scipy.special.log_softmax),
    "logsumexp": OpCase(reduction(), define.reduced(lambda values: math.log(math.fsum(map(math.exp, values))))),
    "matmul": OpCase(products(), define.matmul),
    "max": OpCase(reduction(spaced), define.reduced(max)),
    "max_pool": OpCase(windows(pool=True), define.max_pool),
    "maximum": OpCase(binary(even, odd), define.each(max)),
    "mean": OpCase(reduction(), define.reduced(define.average)),
    "minimum": OpCase(binary(even, odd), define.each(min)),
    "multiply": OpCase(binary(), define.each(operator.mul)),
    "negative": OpCase(unary(), define.each(operator.neg)),
    "not_equal": comparison(operator.ne),
    "pad": OpCase(pads(), define.pad),
    "power": OpCase(binary(positive, anywhere) | whole_powers(), define.each(math.pow)),
    "relu": OpCase(unary(off_zero), define.each(define.relu)),
    "reshape": OpCase(reshapes(), define.reshape),
    "rms_norm": OpCase(normalised(off_zero, offset=False), define.rms_norm),
    "sigmoid": OpCase(unary(), define.each(define.logistic)),
    "silu": OpCase(unary(), define.each(lambda x: x / (1 + math.exp(-x)))),
    "sin": OpCase(unary(), define.each(math.sin)),
    "softmax": OpCase(along(), scipy.special.softmax),
    "split": OpCase(splits(), define.split),
    "sqrt": OpCase(unary(positive), define.each(math.sqrt)),
    "squared_error": OpCase(compared(anywhere, anywhere), define.squared_error),
    "squared_relu": OpCase(unary(off_zero), define.each(lambda x: define.relu(x) ** 2)),
    "stack": OpCase(joins(new_axis=True), define.stack),
    "subtract": OpCase(binary(), define.each(operator.sub)),
    "sum": OpCase(reduction(anywhere, 0), define.reduced(math.fsum)),
    "take": OpCase(lookups(), define.take),
    "take_along_axis": OpCase(gathers(), define.take_along_axis),
    "tanh": OpCase(unary(), define.each(math.tanh)),
    "transpose": OpCase(transposes(), define.transpose),
    "transposed_convolution": OpCase(windows(transposed=True), define.transposed_convolution),
    "where": OpCase(choices(), define.each(lambda c, x, y: x if c else y)),
}
