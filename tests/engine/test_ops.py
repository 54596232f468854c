"""Every op against an independent definition, its gradients against differences, and what all ops promise.

Driven by the table in `op_cases`; a new op without a case there fails `test_every_op_has_a_case`.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from engine.examples import LAYOUTS, Example
from engine.op_cases import CASES
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from perceiver_ref.autograd import Tensor, registry, tree, vjp
from perceiver_ref.autograd.backend import is_array, to_host
from perceiver_ref.autograd.testing import check_grads

DIFFERENTIABLE = sorted(name for name in CASES if registry[name].differentiable)
few_examples = settings(max_examples=12)
every_op = pytest.mark.parametrize("name", sorted(CASES))
every_differentiable_op = pytest.mark.parametrize("name", DIFFERENTIABLE)


def call(name: str, arguments: Sequence[Any], static: dict[str, Any]) -> Any:
    op = registry[name]
    return op(list(arguments), **static) if op.traits.variadic else op(*arguments, **static)


def outputs(result: Any) -> list[Any]:
    return list(result) if isinstance(result, tuple) else [result]


def defined(name: str, example: Example) -> list[np.ndarray]:
    return [np.asarray(out) for out in outputs(CASES[name].definition(*example.arrays, **example.static))]


def cotangents(xp: ModuleType, out: Any) -> Any:
    """Fixed random arrays like the outputs."""
    rng = np.random.default_rng(0)
    return tree.map(lambda o: xp.asarray(rng.standard_normal(o.shape), o.dtype), out)


def gradients(name: str, example: Example, xp: ModuleType, dtype: Any) -> list[Any]:
    arrays, static = example.on(xp, dtype)
    out, pull = vjp(lambda *traced: call(name, traced, static), *arrays)
    return [g for _, g in tree.leaves(pull(cotangents(xp, out)))]


def floats(values: Sequence[Any]) -> list[Any]:
    return [value for value in values if is_array(value) and value.dtype.kind == "f"]


def test_every_op_has_a_case() -> None:
    assert set(CASES) == set(registry)


@pytest.mark.parametrize("name", ["add", "attention", "exp", "getitem", "linear", "sum"])
def test_draws_reach_zero_sizes_and_all_layouts(name: str) -> None:
    """The properties below hold for empty and non-contiguous arrays only if those are drawn."""
    seen: list[Example] = []

    @settings(max_examples=150, derandomize=True, database=None, phases=[Phase.generate])
    @given(CASES[name].examples)
    def collect(example: Example) -> None:
        seen.append(example)

    collect()
    drawn = [(e, a) for e in seen for a in e.arrays if is_array(a)]
    assert {e.layout for e, a in drawn if a.size > 1} == set(LAYOUTS)
    assert any(a.size == 0 for _, a in drawn)
    if name in ("add", "exp", "getitem", "sum"):
        assert any(a.ndim == 0 for _, a in drawn)


@every_op
@settings(max_examples=20)
@given(data=st.data())
def test_forward_equals_the_definition(name: str, data: st.DataObject, xp: ModuleType) -> None:
    example = data.draw(CASES[name].examples)
    arrays, static = example.on(xp)
    result = outputs(call(name, arrays, static))
    expected = defined(name, example)
    assert len(result) == len(expected)
    for got, want in zip(result, expected):
        assert type(got) is xp.ndarray
        assert got.dtype == want.dtype
        # a few dozen roundings of numbers below 100: near 1e-14
        np.testing.assert_allclose(to_host(got), want, rtol=1e-12, atol=1e-13, strict=True)


@every_differentiable_op
@few_examples
@given(data=st.data())
def test_gradients_agree_with_differences(name: str, data: st.DataObject, xp: ModuleType) -> None:
    arrays, static = data.draw(CASES[name].examples).on(xp)
    check_grads(lambda *traced: call(name, traced, static), *arrays)


@every_differentiable_op
@few_examples
@given(data=st.data())
def test_float32_gradients_agree_with_float64(name: str, data: st.DataObject, xp: ModuleType) -> None:
    example = data.draw(CASES[name].examples)
    rounded = tuple(
        np.asarray(a, np.float32).astype(float) if isinstance(a, np.ndarray) and a.dtype.kind == "f" else a
        for a in example.arrays
    )
    example = Example(rounded, example.static, example.layout)
    wrt = floats(example.on(xp)[0])
    singles, doubles = (gradients(name, example, xp, dtype) for dtype in (np.float32, np.float64))
    for argument, single, double in zip(wrt, singles, doubles, strict=True):
        assert (single.shape, single.dtype) == (argument.shape, np.float32)
        size = max(1.0, float(abs(double).max())) if double.size else 1.0
        # float32 rounds at 6e-8; the worst rules (layer_norm, power) multiply that by the slopes of about ten steps
        np.testing.assert_allclose(to_host(single), to_host(double), rtol=0, atol=1e-5 * size)


@pytest.mark.parametrize("name", sorted(name for name in CASES if registry[name].traits.numbers != "cast"))
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@few_examples
@given(data=st.data())
def test_outputs_keep_the_dtype(name: str, dtype: Any, data: st.DataObject, xp: ModuleType) -> None:
    example = data.draw(CASES[name].examples)
    for out, want in zip(outputs(call(name, *example.on(xp, dtype))), defined(name, example)):
        assert out.dtype == (bool if want.dtype == bool else dtype)


@every_differentiable_op
@few_examples
@given(data=st.data())
def test_recording_changes_no_bit(name: str, data: st.DataObject, xp: ModuleType) -> None:
    arrays, static = data.draw(CASES[name].examples).on(xp, np.float32)
    plain = outputs(call(name, arrays, static))
    recorded, _ = vjp(lambda *traced: outputs(call(name, traced, static)), *arrays)
    for a, b in zip(plain, recorded, strict=True):
        assert type(a) is type(b) is xp.ndarray
        assert (a.shape, a.dtype, to_host(a).tobytes()) == (b.shape, b.dtype, to_host(b).tobytes())


@every_differentiable_op
@few_examples
@given(data=st.data())
def test_gradients_own_their_memory_and_nothing_is_overwritten(name: str, data: st.DataObject, xp: ModuleType) -> None:
    """Writing into a gradient changes nothing else. NumPy inputs are read-only, so that writing into one raises."""
    arrays, static = data.draw(CASES[name].examples).on(xp)
    before = [to_host(a).copy() if is_array(a) else a for a in (*arrays, *static.values())]
    out, pull = vjp(lambda *traced: call(name, traced, static), *arrays)
    upstream = cotangents(xp, out)
    upstream_before = [to_host(c).copy() for _, c in tree.leaves(upstream)]
    result = [g for _, g in tree.leaves(pull(upstream))]
    for gradient in result:
        others = [(other, to_host(other).copy()) for other in result if other is not gradient]
        gradient += 1  # its own memory, and writeable
        for other, old in others:
            np.testing.assert_array_equal(to_host(other), old)
    for old, new in zip(before, (*arrays, *static.values())):
        np.testing.assert_array_equal(old, to_host(new) if is_array(new) else new)
    for old, (_, new) in zip(upstream_before, tree.leaves(upstream)):
        np.testing.assert_array_equal(old, to_host(new))


@pytest.mark.parametrize("name", sorted(set(CASES) - set(DIFFERENTIABLE)))
def test_comparisons_of_tensors_give_plain_arrays(name: str, xp: ModuleType) -> None:
    x, y = xp.asarray([0.0, 1.0, 2.0]), xp.asarray([1.0, 1.0, 1.0])
    seen = []

    def compare(a: Tensor, b: Tensor) -> Any:
        seen.append(registry[name](a, b))
        return a + b

    vjp(compare, x, y)
    assert type(seen[0]) is xp.ndarray
    np.testing.assert_array_equal(to_host(seen[0]), CASES[name].definition(to_host(x), to_host(y)))
