"""Arrays without elements behave as NumPy's: shapes, dtypes, and which results are views."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perceiver_ref.models.ledger.sketch import buffer, sketch


def same(real: np.ndarray, drawn: np.ndarray, original: np.ndarray, of: np.ndarray) -> None:
    assert (real.shape, real.dtype, real.nbytes) == (drawn.shape, drawn.dtype, drawn.nbytes)
    assert np.shares_memory(real, original) == (buffer(drawn) is buffer(of))


@st.composite
def reshapes(draw):
    """A shape, an order of its axes, and another shape of as many elements."""
    shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    order = draw(st.permutations(range(len(shape))))
    factors = [p for n in shape for p in ((2, 2) if n == 4 else (n,))]
    cut, wanted = draw(st.permutations(factors)), []
    while cut:
        taken = draw(st.integers(1, len(cut)))
        wanted.append(int(np.prod(cut[:taken])))
        cut = cut[taken:]
    return tuple(shape), tuple(order), tuple(wanted)


@given(reshapes())
def test_a_reshape_is_a_view_where_numpys_is(case):
    shape, order, wanted = case
    real, drawn = np.zeros(shape, np.float32), sketch(shape, np.float32)
    first, second = real.transpose(order).reshape(wanted), drawn.transpose(order).reshape(wanted)
    same(first, second, real, drawn)
    if np.shares_memory(first, real):
        assert tuple(4 * s for n, s in zip(second.shape, second.steps) if n > 1) == tuple(
            s for n, s in zip(first.shape, first.strides) if n > 1
        )


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x[:, 0],
        lambda x: x[..., None, 1:3, ::2],
        lambda x: x[0, 1, 2],
        lambda x: x.T.reshape(4, -1),
        lambda x: x.swapaxes(0, -1),
        lambda x: x.reshape(3, 8).copy(),
        lambda x: x + 1,
        lambda x: x > 0,
        lambda x: 1 / np.sqrt(x * x + 1),
        lambda x: x @ np.zeros((4, 5), np.float32),
        lambda x: x.mean(-1, keepdims=True),
        lambda x: x.sum((0, 2)),
        lambda x: x.max(1),
        lambda x: (x > 0).any(-1),
        lambda x: np.where(x > 0, x, np.zeros((), np.float32)),
        lambda x: np.where(x > 0, 1, np.zeros((), np.int32)),
        lambda x: np.concatenate([x, x], axis=1),
        lambda x: np.stack([x, x], axis=-1),
        lambda x: np.pad(x, ((0, 0), (1, 2), (0, 0))),
        lambda x: np.broadcast_to(x[:, :1], (5, 2, 3, 4)),
        lambda x: np.zeros_like(x, shape=(2, 2)),
        lambda x: np.moveaxis(x, -1, 0),
        lambda x: x.take(np.zeros((2, 5), int), axis=1),
        lambda x: x.astype(np.float64),
        lambda x: x.astype(np.float32, copy=False),
    ],
)
def test_functions_give_numpys_shapes_dtypes_and_views(function):
    real, drawn = np.ones((2, 3, 4), np.float32), sketch((2, 3, 4), np.float32)
    same(np.asarray(function(real)), function(drawn), real, drawn)


def test_in_place_arithmetic_keeps_the_array():
    x = before = sketch((2, 3), np.float32)
    x += 1
    assert x is before


def test_unknown_functions_are_refused():
    with pytest.raises(TypeError, match=r"numpy\.inv of arrays without elements"):
        np.linalg.inv(sketch((2, 2), np.float32))
    with pytest.raises(TypeError, match="without elements"):
        np.add.reduce(sketch((2, 2), np.float32))


def test_no_memory_is_taken():
    assert sketch((1 << 20, 1 << 20), np.float64).nbytes == 1 << 43
