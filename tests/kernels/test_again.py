"""Outputs that are cheap to compute again are not kept for the way back; those that need them get the same bits."""

from __future__ import annotations

import gc
import weakref
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from engine.op_cases import CASES
from hypothesis import given
from hypothesis import strategies as st

from perceiver_ref.autograd import Op, Tensor, checkpoint, kernels, ops, registry, value_and_grad, vjp
from perceiver_ref.autograd.backend import is_array, to_host
from perceiver_ref.autograd.core import Again, Tape, leaf

OPS = {"gelu_erf": 0, "gelu_tanh": 0, "layer_norm": 2, "rms_norm": 1}
"""With the number of their parameters."""
SHAPE = (3, 700, 261)
"""More than a block and more than the smallest array that this is done for, on both backends."""


def drawn(xp: ModuleType, dtype: Any, *shapes: tuple[int, ...]) -> list[Any]:
    rng = np.random.default_rng(0)
    return [xp.asarray(rng.standard_normal(shape), dtype) for shape in shapes]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", OPS)
def test_the_output_comes_again_with_the_same_bits(name: str, dtype: Any, xp: ModuleType) -> None:
    arrays, tape = drawn(xp, dtype, SHAPE, *[SHAPE[-1:]] * OPS[name]), Tape()
    with kernels("fast"):
        out = registry[name](*(leaf(a, tape) for a in arrays))
        again = Again(out.node).array()
    assert again is not out.data
    assert (again.shape, again.dtype) == (out.shape, out.dtype)
    assert to_host(again).tobytes() == to_host(out.data).tobytes()


@pytest.mark.parametrize("name", OPS)
def test_a_linear_map_does_not_keep_it_and_has_its_gradients(name: str, xp: ModuleType) -> None:
    arrays = drawn(xp, np.float64, SHAPE, *[SHAPE[-1:]] * OPS[name], (SHAPE[-1], 5), (SHAPE[-1], 5))
    watched: list[weakref.ref[Any]] = []

    def function(v: Tensor, w: Tensor, *given: Tensor) -> Any:
        x = registry[name](*given)
        watched.append(weakref.ref(x.data))
        return ops.multiply(ops.linear(x, v), ops.linear(x, w))

    found = {}
    for mode in ("fast", "plain"):
        with kernels(mode):
            out, pull = vjp(function, *arrays[-2:], *arrays[:-2])
            gc.collect()
            assert (watched[-1]() is None) == (mode == "fast")  # definitions keep what they say
            found[mode] = [to_host(g) for g in pull(xp.ones_like(out))]
    for fast, plain in zip(found["fast"], found["plain"], strict=True):
        # sums of 2,100 rows in another order, relative to the largest element
        np.testing.assert_allclose(fast, plain, rtol=0, atol=1e-12 * abs(plain).max())


def test_small_outputs_are_kept(xp: ModuleType) -> None:
    """The calls would cost more than the memory is worth."""
    x, tape = drawn(xp, np.float32, (4, 8))[0], Tape()
    with kernels("fast"):
        assert ops.gelu_erf(leaf(x, tape)).node.again is None


def test_it_is_made_once_for_all_who_need_it_and_then_freed(xp: ModuleType) -> None:
    made: list[weakref.ref[Any]] = []
    alive: list[int] = []

    def square(x: Any) -> Any:
        def again() -> Any:
            y = x * x
            made.append(weakref.ref(y))
            return y

        return x * x, (x,), again

    def pull(g: Any, x: Any) -> Any:
        alive.append(sum(ref() is not None for ref in made))
        return 2 * g * x

    op = Op(square, variadic=False, differentiable=True)
    op.backward(pull)

    def function(x: Any) -> Any:
        y = op(op(x))  # x^4: the second squares what the first made
        return ops.sum(ops.multiply(ops.multiply(y, y), y))

    gc.collect()
    gc.disable()
    try:
        loss, gradient = value_and_grad(function)(xp.asarray([1.0, 2.0]))
    finally:
        gc.enable()
    assert float(loss) == 1 + 2.0**12
    np.testing.assert_array_equal(to_host(gradient), [12, 12 * 2.0**11])
    assert alive == [2, 1]  # of x^4 (for three products) and x^2; each is gone once its own op has been passed
    assert [ref() for ref in made] == [None, None]


@pytest.mark.parametrize("turned", [False, True])
def test_a_checkpoint_keeps_what_can_be_made_again(turned: bool, xp: ModuleType) -> None:
    """Its arguments are many, under one name: wherever the one that can be made again stands, it is kept."""
    params = dict(zip(("x", "scale", "weight"), drawn(xp, np.float64, (2100, SHAPE[-1]), SHAPE[-1:], SHAPE[-1:])))

    def weighed(h: Any, w: Any) -> Any:
        return ops.sum(ops.multiply(ops.multiply(h, h), w))

    def loss(p: Any, checkpointed: bool) -> Any:
        h = ops.layer_norm(p["x"], p["scale"], p["weight"])
        assert h.node.again is not None
        if not checkpointed:
            return weighed(h, p["weight"])
        return checkpoint(lambda w, h: weighed(h, w))(p["weight"], h) if turned else checkpoint(weighed)(h, p["weight"])

    with kernels("fast"):
        plain, kept = (value_and_grad(partial(loss, checkpointed=chosen))(params)[1] for chosen in (False, True))
    for name, gradient in plain.items():
        largest = float(abs(gradient).max())  # a GPU's sums of 2,100 rows may run in another order
        np.testing.assert_allclose(to_host(kept[name]), to_host(gradient), rtol=0, atol=1e-12 * largest)


@pytest.mark.parametrize("mode", ["plain", "fast"])
@pytest.mark.parametrize("name", sorted(CASES))
@given(data=st.data())
def test_residuals_that_are_arguments_have_their_names(
    name: str, mode: str, data: st.DataObject, xp: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a backward rule names as an argument of its op is that argument, or None: the engine may make it again."""
    op, (arrays, options) = registry[name], data.draw(CASES[name].examples).on(xp, np.float64)
    if not op.differentiable:
        return
    tape = Tape()
    tensors = [leaf(a, tape) if is_array(a) and a.dtype.kind == "f" else a for a in arrays]
    if not any(type(tensor) is Tensor for tensor in tensors):
        return
    with kernels(mode):
        made = op(tensors, **options) if op.traits.variadic else op(*tensors, **options)
    node = (made[0] if isinstance(made, tuple) else made).node
    given = dict(zip(op.arrays, tensors)) if not op.traits.variadic else {}
    for residual, called in zip(node.residuals, node.rule.names[1][1:]):
        tensor = given.get(called)
        if type(tensor) is Tensor and residual is not None:  # kernels of a GPU keep a contiguous copy
            assert residual is tensor.data or (xp is not np and bool((residual == tensor.data).all())), called
