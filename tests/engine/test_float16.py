"""float16: every op is computed in float32 and rounded once, forward and backward; what goes from op to op is float16.

The definitions of `op_cases`, in float64 on the same float16 numbers, are what results are held to.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
from engine.examples import Example
from engine.halves import HALF, assert_rounded_once, full
from engine.op_cases import CASES
from engine.test_ops import call, cotangents, defined, few_examples, floats, outputs
from hypothesis import given
from hypothesis import strategies as st

from perceiver_ref.autograd import checkpoint, kernels, ops, optim, registry, tree, value_and_grad, vjp
from perceiver_ref.autograd.backend import to_host
from perceiver_ref.models.call import Call
from perceiver_ref.models.layers import BatchNorm

COMPUTED = sorted(name for name in CASES if registry[name].traits.numbers == "computed")
both_modes = pytest.mark.parametrize("mode", ["plain", "fast"])


def halved(example: Example) -> Example:
    """The same call with numbers that float16 has, in float64."""
    arrays = tuple(
        a.astype(HALF).astype(float) if isinstance(a, np.ndarray) and a.dtype.kind == "f" else a for a in example.arrays
    )
    static = {
        k: a.astype(HALF).astype(float) if isinstance(a, np.ndarray) and a.dtype.kind == "f" else a
        for k, a in example.static.items()
    }
    return Example(arrays, static, example.layout)


@pytest.mark.parametrize("name", COMPUTED)
@few_examples
@given(data=st.data())
def test_an_op_rounds_its_results_once(name: str, data: st.DataObject, xp: ModuleType) -> None:
    example = halved(data.draw(CASES[name].examples))
    arrays, static = example.on(xp, HALF)
    for made, exact in zip(outputs(call(name, arrays, static)), defined(name, example), strict=True):
        assert_rounded_once(made, exact)


@pytest.mark.parametrize("name", [name for name in COMPUTED if name not in ("maximum", "minimum", "max")])
@few_examples
@given(data=st.data())
def test_a_rule_rounds_its_gradients_once(name: str, data: st.DataObject, xp: ModuleType) -> None:
    """Against the same rule in float64, which differences check; ties that float16 makes have no derivative."""
    example = halved(data.draw(CASES[name].examples))
    made = {}
    for dtype in (HALF, np.float64):
        arrays, static = example.on(xp, dtype)
        out, pull = vjp(lambda *traced, static=static: call(name, traced, static), *arrays)
        upstream = tree.map(lambda c, dtype=dtype: c.astype(HALF).astype(dtype), cotangents(xp, out))
        made[dtype] = [g for _, g in tree.leaves(pull(upstream))]
    assert len(made[HALF]) == len(floats(arrays))
    for gradient, exact in zip(made[HALF], made[np.float64], strict=True):
        assert_rounded_once(gradient, to_host(exact))


@both_modes
def test_numbers_beyond_the_largest_are_infinite_without_a_warning(xp: ModuleType, mode: str) -> None:
    with kernels(mode):
        assert to_host(ops.multiply(xp.asarray([-300, 300], HALF), 300.0)).tolist() == [-np.inf, np.inf]
        _, pull = vjp(ops.sum, xp.asarray([1.0], HALF))
        assert to_host(pull(xp.asarray(np.inf, HALF))[0]).tolist() == [np.inf]


def test_numbers_between_ops_are_float16(xp: ModuleType) -> None:
    """1 + 2^-12 is 1 there, so that the difference is lost, as it is in PyTorch."""
    x = xp.asarray([1.0], HALF)
    assert float(ops.subtract(ops.add(x, 2.0**-12), 1.0)[0]) == 0
    made, pull = vjp(lambda x: ops.subtract(ops.add(x, 2.0**-12), 1.0), x)
    assert float(made[0]) == 0
    assert pull(xp.asarray([1.0], HALF))[0].dtype == HALF


def test_arguments_are_kept_as_they_were_given(xp: ModuleType) -> None:
    """The way back keeps float16 arguments, not their copies in float32."""
    x, y = xp.asarray([2.0], HALF), xp.asarray([3.0], HALF)
    kept: list[Any] = []

    def function(x: Any, y: Any) -> Any:
        product = ops.multiply(x, y)
        kept.extend(product.node.residuals)
        return product

    vjp(function, x, y)
    assert [a is b for a, b in zip(kept, (x, y))] == [True, True]


@both_modes
def test_outputs_computed_again_are_rounded(xp: ModuleType, mode: str) -> None:
    """Norms and GELU do not keep their output, which the next op needs on the way back."""
    rng = np.random.default_rng(0)
    x, w = (xp.asarray(rng.standard_normal(shape), HALF) for shape in ((200, 64), (64, 3)))
    scale, offset = xp.ones(64, HALF), xp.zeros(64, HALF)

    def function(x: Any, w: Any) -> Any:
        return ops.matmul(ops.gelu_erf(ops.layer_norm(x, scale, offset)), w)

    with kernels(mode):
        out, pull = vjp(function, x, w)
        dw = pull(xp.ones_like(out))[1]
        hidden = ops.gelu_erf(ops.layer_norm(x, scale, offset))
    exact = to_host(hidden).astype(float).sum(0)[:, None].repeat(3, 1)
    assert_rounded_once(dw, exact)


def test_a_checkpointed_function_computes_alike(xp: ModuleType) -> None:
    x = xp.asarray(np.linspace(-3, 3, 50), HALF)

    def function(x: Any) -> Any:
        return ops.sum(ops.multiply(ops.silu(x), ops.softmax(x)))

    plain, again = (value_and_grad(f)(x) for f in (function, checkpoint(function)))
    for a, b in zip(plain, again):
        np.testing.assert_array_equal(to_host(a), to_host(b), strict=True)


def test_dtypes_are_still_not_mixed(xp: ModuleType) -> None:
    for other in (np.float32, np.float64):
        with pytest.raises(TypeError, match="dtypes are mixed"):
            ops.add(xp.ones(2, HALF), xp.ones(2, other))


@pytest.mark.parametrize("training", [True, False])
def test_running_statistics_keep_their_dtype(xp: ModuleType, training: bool) -> None:
    norm = BatchNorm(2, running="plain", decay=0.5)
    x = xp.asarray(np.array([[400.0, 1], [-200, 3]]), HALF)
    state = {"mean": xp.zeros(2, HALF), "variance": xp.ones(2, HALF)}
    made = Call(training=training, state=state)
    out = norm.apply({"scale": xp.ones(2, HALF), "offset": xp.zeros(2, HALF)}, x, made)
    assert out.dtype == HALF
    if training:
        assert {k: to_host(v).tolist() for k, v in made.updates.items()} == {"mean": [50, 1], "variance": [np.inf, 1.5]}
        assert {v.dtype for v in made.updates.values()} == {np.dtype(HALF)}


def test_norms_and_clipping_of_gradients(xp: ModuleType) -> None:
    gradients = {"a": xp.asarray(full(70_000, 300)), "b": xp.asarray(full(3, 1e-4))}
    norm = 300 * np.sqrt(70_000)
    assert abs(float(optim.global_norm(gradients)) / norm - 1) < 1e-6
    clipped = optim.clip_by_global_norm(gradients, 1e-1)
    assert_rounded_once(clipped["a"], np.full(70_000, 30 / norm))
    assert clipped["b"].dtype == HALF


@pytest.mark.parametrize(
    "optimizer",
    [optim.sgd(0.1, momentum=0.9), optim.adam(1e-2, eps=1e-6), optim.adamw(1e-2, eps=1e-6), optim.lamb(1e-2)],
    ids=["sgd", "adam", "adamw", "lamb"],
)
def test_an_update_is_rounded_once(xp: ModuleType, optimizer: Any) -> None:
    """Of gradients whose squares are below float16's smallest number."""
    rng = np.random.default_rng(0)
    p, g = (rng.standard_normal((40, 3)).astype(HALF) * HALF(s) for s in (1, 1e-4))
    exact, _ = optimizer.step({"w": p.astype(float)}, {"w": g.astype(float)}, optimizer.init({"w": p.astype(float)}))
    there = {"w": xp.asarray(p)}
    made, state = optimizer.step(there, {"w": xp.asarray(g)}, optimizer.init(there))
    assert_rounded_once(made["w"], exact["w"])
    assert {a.dtype for path, a in tree.leaves(state) if path != "count"} <= {np.dtype(HALF)}
