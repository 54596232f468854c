"""`value_and_grad`, `vjp` and `checkpoint`: structure of what goes in and out, and what is refused."""

from __future__ import annotations

import gc
import tracemalloc
import weakref
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perceiver_ref.autograd import Tensor, checkpoint, ops, tree, value_and_grad, vjp
from perceiver_ref.autograd.backend import to_host

FIRST_ORDER = "only first-order gradients are supported"


def close(got: Any, want: Any) -> None:
    """Two trees of arrays are equal to the last bit."""
    assert list(tree.flatten(got)) == list(tree.flatten(want))
    tree.map(lambda a, b: np.testing.assert_array_equal(to_host(a), to_host(b), strict=True), got, want)


def parameters(xp: ModuleType) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "layers": [{"w": xp.asarray(rng.standard_normal((3, 3)))}, {"w": xp.asarray(rng.standard_normal((3, 3)))}],
        "pair": (xp.asarray(1.5, np.float32), None),
    }


# value_and_grad


def test_gradients_have_the_structure_of_the_parameters(xp: ModuleType) -> None:
    params = parameters(xp)
    loss, gradients = value_and_grad(lambda p: ops.sum(p["layers"][0]["w"] * 2.0))(params)
    assert type(loss) is xp.ndarray
    assert loss.shape == ()
    assert type(gradients["pair"]) is tuple
    assert gradients["pair"][1] is None
    slots = [(path, g.shape, g.dtype) for path, g in tree.leaves(gradients)]
    assert slots == [(path, p.shape, p.dtype) for path, p in tree.leaves(params)]
    np.testing.assert_array_equal(to_host(gradients["layers"][0]["w"]), np.full((3, 3), 2.0))


def test_an_unused_parameter_gets_zeros(xp: ModuleType) -> None:
    used, unused = xp.asarray([1.0, 2.0]), xp.ones((2, 3), np.float32)
    _, gradients = value_and_grad(lambda p: ops.sum(p[0]))([used, unused])
    close(gradients, [xp.ones(2), xp.zeros((2, 3), np.float32)])
    loss, gradients = value_and_grad(lambda p: xp.asarray(5.0))([used])
    close([loss, gradients], [xp.asarray(5.0), [xp.zeros(2)]])


def test_only_the_first_argument_is_differentiated(xp: ModuleType) -> None:
    def function(x: Any, y: Any, *, factor: float) -> Any:
        assert type(x) is Tensor
        assert type(y) is xp.ndarray
        return ops.sum(x * y) * factor

    loss, gradient = value_and_grad(function)(xp.ones(2), xp.asarray([3.0, 4.0]), factor=2.0)
    assert (float(loss), gradient.tolist()) == (14.0, [6.0, 8.0])


def test_aux_comes_back_as_plain_values(xp: ModuleType) -> None:
    def function(x: Any) -> Any:
        y = ops.exp(x)
        return ops.sum(y), {"y": y, "seen": [x, "text", None, 3], "constant": xp.ones(1)}

    (loss, aux), gradient = value_and_grad(function, has_aux=True)(xp.zeros(2))
    assert float(loss) == 2.0
    assert aux["seen"][1:] == ["text", None, 3]
    close([aux["y"], aux["seen"][0], aux["constant"], gradient], [xp.ones(2), xp.zeros(2), xp.ones(1), xp.ones(2)])
    assert all(type(a) is xp.ndarray for a in (aux["y"], aux["seen"][0], aux["constant"]))


@pytest.mark.parametrize(
    ("result", "got"), [(lambda x: x, r"\(2,\)"), (lambda x: 1.0, "float"), (lambda x: None, "None")]
)
def test_a_loss_must_be_0d(result: Callable[[Any], Any], got: str, xp: ModuleType) -> None:
    with pytest.raises(ValueError, match=f"the function must return a 0-d loss to differentiate, got .*{got}"):
        value_and_grad(result)(xp.ones(2))


@pytest.mark.parametrize(
    ("leaf", "came"), [("ints", "int64 array"), ("bools", "bool array"), ("number", "float"), ("text", "str")]
)
def test_a_leaf_without_gradients_is_named(leaf: str, came: str) -> None:
    """NumPy alone: the name of the dtype comes before any computing."""
    value: Any = {"ints": np.ones(2, np.int64), "bools": np.ones(2, bool), "number": 1.0, "text": "a"}[leaf]
    match = f"parameter 'block/1/w' is a {came}; only floating-point arrays have gradients"
    with pytest.raises(TypeError, match=match):
        value_and_grad(lambda p: 0)({"block": [{}, {"w": value}]})
    with pytest.raises(TypeError, match=r"parameter '\(the root\)'"):
        value_and_grad(lambda p: 0)(value)


def test_the_wrapped_function_keeps_its_name() -> None:
    def function(x: Any) -> Any:
        """Doc."""

    for wrapped in (value_and_grad(function), checkpoint(function)):
        assert (wrapped.__name__, wrapped.__doc__) == ("function", "Doc.")


# Nesting


def inner_grad(x: Any) -> Any:
    return value_and_grad(lambda y: ops.sum(y * y))(x)[0]


@pytest.mark.parametrize(
    "function",
    [
        inner_grad,
        lambda x: vjp(ops.exp, x)[0],
        lambda x: value_and_grad(lambda y: ops.sum(y * x))(np.ones(2))[0],
        lambda x: value_and_grad(lambda y: ops.sum(x))(np.ones(2))[0],  # uses nothing of its own
        lambda x: value_and_grad(lambda y: (ops.sum(y), x), has_aux=True)(np.ones(2))[0][1],
        lambda x: vjp(lambda y: [y, x], np.ones(2))[0][1],
        lambda x: vjp(lambda y: y * x, np.ones(2))[0],
    ],
)
def test_nesting_is_refused(function: Callable[[Any], Any], backend: str, xp: ModuleType) -> None:
    """Silently detaching the inner result would make the outer gradient wrong."""
    if backend == "cupy":
        pytest.skip("the inner arrays are NumPy's; the check does not look at the library")
    with pytest.raises(TypeError, match=FIRST_ORDER):
        value_and_grad(lambda x: ops.sum(function(x)))(xp.ones(2))


def test_a_tensor_kept_from_another_differentiation_is_refused(xp: ModuleType) -> None:
    kept: list[Any] = []
    vjp(kept.append, xp.ones(2))
    with pytest.raises(TypeError, match=f"multiply mixes values of two differentiations: {FIRST_ORDER}"):
        value_and_grad(lambda x: ops.sum(x * kept[0]))(xp.ones(2))


# vjp


def test_vjp_of_trees(xp: ModuleType) -> None:
    def function(p: Any, ids: Any, scale: float) -> Any:
        return {"a": p["x"] * scale, "b": (ops.take(p["x"], ids), p["y"]), "none": None}

    p = {"x": xp.asarray([1.0, 2.0]), "y": xp.asarray(3.0)}
    out, pull = vjp(function, p, xp.asarray([1, 1]), 2.0)
    close(out, {"a": xp.asarray([2.0, 4.0]), "b": (xp.asarray([2.0, 2.0]), xp.asarray(3.0)), "none": None})
    cotangents = {"a": xp.asarray([1.0, 10.0]), "b": (xp.asarray([100.0, 1000.0]), xp.asarray(7.0)), "none": None}
    gradients = pull(cotangents)
    assert gradients[1:] == (None, None)
    close(gradients[0], {"x": xp.asarray([2.0, 1120.0]), "y": xp.asarray(7.0)})


def test_cotangents_are_matched_by_path(xp: ModuleType) -> None:
    """A dict in another order must not swap them."""
    _, pull = vjp(lambda x: {"a": x, "b": x * 10.0}, xp.asarray(1.0))
    (gradient,) = pull({"b": xp.asarray(1.0), "a": xp.asarray(5.0)})
    assert float(gradient) == 15.0


def test_cotangents_must_have_the_structure_and_shapes_of_the_output(xp: ModuleType) -> None:
    function = lambda x: {"a": [x]}  # noqa: E731
    with pytest.raises(ValueError, match="trees differ at a: a list of 1 against a list of 2"):
        vjp(function, xp.ones(2))[1]({"a": [xp.ones(2), xp.ones(2)]})
    for wrong in (xp.ones(3), xp.ones(2, np.float32)):
        with pytest.raises(ValueError, match=r"a cotangent must be float64\[2\] as its output, got float"):
            vjp(function, xp.ones(2))[1]({"a": [wrong]})


def test_gradients_do_not_alias_the_cotangent(xp: ModuleType) -> None:
    """The identity: without a copy the gradient would be the cotangent itself."""
    cotangent = xp.ones(2)
    _, pull = vjp(lambda x: (x, x), xp.zeros(2))
    (gradient,) = pull((cotangent, cotangent))
    gradient += 1
    assert cotangent.tolist() == [1, 1]


def test_gradients_do_not_alias_each_other(xp: ModuleType) -> None:
    """add passes one array on to both of its arguments."""
    _, pull = vjp(lambda x, y: ops.negative(ops.add(x, y)), xp.zeros(2), xp.zeros(2))
    dx, dy = pull(xp.ones(2))
    dx += 1
    assert dy.tolist() == [-1, -1]


# checkpoint


def dense(p: Any, x: Any, key: int) -> Any:
    """Several outputs, dropout by key."""
    hidden = ops.dropout(ops.tanh(x @ p["w"]), rate=0.5, key=key)
    return {"out": hidden, "pair": (hidden * hidden, ops.sum(x))}


@given(key=st.integers(0, 5), used=st.sets(st.sampled_from(["out", "pair/0", "pair/1"])))
def test_a_checkpoint_changes_no_gradient(key: int, used: set[str], xp: ModuleType) -> None:
    def loss(run: Any) -> Any:
        def function(params: Any) -> Any:
            x: Any = xp.asarray(np.arange(6.0).reshape(2, 3) / 6)
            total: Any = 0.0
            for layer in params["layers"]:
                outs = tree.flatten(run(layer, x, key))
                total = sum((ops.sum(outs[path]) for path in sorted(used)), total)
                x = outs["out"]
            return total + ops.sum(params["layers"][1]["w"])

        return function

    params = parameters(xp)
    close(value_and_grad(loss(checkpoint(dense)))(params), value_and_grad(loss(dense))(params))


def test_a_checkpoint_of_plain_arrays_is_the_function(xp: ModuleType) -> None:
    p, x = parameters(xp)["layers"][0], xp.ones((2, 3))
    out = checkpoint(dense)(p, x, 1)
    close(out, dense(p, x, 1))
    assert type(out["out"]) is xp.ndarray


def test_a_checkpoint_keeps_the_structure_of_its_output(xp: ModuleType) -> None:
    seen: list[Any] = []

    def function(x: Any) -> Any:
        seen.append(checkpoint(lambda a, none: {"a": [a, none], "b": (a * a,)})(x, None))
        return ops.sum(seen[0]["b"][0])

    value_and_grad(function)(xp.ones(2))
    assert seen[0]["a"][1] is None
    assert {type(leaf) for _, leaf in tree.leaves(seen[0])} == {Tensor}
    assert type(seen[0]["b"]) is tuple


def test_a_checkpoint_runs_again_on_the_way_back(xp: ModuleType) -> None:
    calls: list[type] = []

    def function(x: Any) -> Any:
        calls.append(type(x))
        return ops.exp(x)

    value_and_grad(checkpoint(function))(xp.asarray(1.0))
    assert calls == [xp.ndarray, Tensor]


def test_a_closure_over_a_tensor_is_refused(xp: ModuleType) -> None:
    """Its gradient would be lost."""
    with pytest.raises(TypeError, match="uses a Tensor that is not among its arguments; pass it in"):
        value_and_grad(lambda p: ops.sum(checkpoint(lambda x: x * p["a"])(p["b"])))({"a": xp.ones(2), "b": xp.ones(2)})


def test_errors_name_the_checkpointed_function(xp: ModuleType) -> None:
    def broken(x: Any) -> Any:
        return ops.add(x, xp.ones(3))

    with pytest.raises(ValueError, match=r"checkpoint\(broken\)\(float64\[2\]\): add\(float64\[2\], float64\[3\]\)"):
        value_and_grad(lambda x: ops.sum(checkpoint(broken)(x)))(xp.ones(2))


def deep(x: Any) -> Any:
    for _ in range(20):
        x = ops.exp(x * 0.1)
    return x


def test_a_checkpoint_stores_no_residuals(backend: str) -> None:
    """Kept between forward and backward: 40 arrays without a checkpoint, the argument and output with it."""
    if backend == "cupy":
        pytest.skip("tracemalloc sees the memory of NumPy arrays only")

    def kept(function: Any) -> float:
        x = np.ones(100_000)
        gc.collect()
        tracemalloc.start()
        try:
            recorded = vjp(function, x)
            held = tracemalloc.get_traced_memory()[0] / x.nbytes
            del recorded
            return held
        finally:
            tracemalloc.stop()

    assert kept(deep) > 20
    assert kept(checkpoint(deep)) < 2


def test_a_checkpoint_leaves_nothing_behind(xp: ModuleType) -> None:
    """No cache may hold its arguments or constants; reference counts alone free them."""
    constant, x = xp.ones(3), xp.ones(3)
    watched: list[weakref.ref[Any]] = [weakref.ref(constant), weakref.ref(x)]

    def function(p: Any, c: Any) -> Any:
        watched.extend([weakref.ref(p), weakref.ref(p.node)])
        return ops.sum(checkpoint(lambda a, b: a * b)(p, c))

    gc.disable()
    try:
        value_and_grad(function)(x, constant)
        del constant, x
        assert [ref() for ref in watched] == [None] * 4
    finally:
        gc.enable()


def test_the_walk_frees_the_arguments_of_a_checkpoint(xp: ModuleType) -> None:
    """While its output is still held."""
    watched: list[weakref.ref[Any]] = []
    held: list[Any] = []

    def function(x: Any) -> Any:
        middle = ops.exp(x)
        watched.extend([weakref.ref(middle), weakref.ref(middle.node)])
        held.append(checkpoint(ops.sin)(middle))
        return ops.sum(held[0])

    gc.disable()
    try:
        value_and_grad(function)(xp.ones(3))
        assert [ref() for ref in watched] == [None, None]
    finally:
        gc.enable()
