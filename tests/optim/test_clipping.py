"""The global norm, and clipping to it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import host, on

from perceiver_ref.autograd import optim

# one rounding of the norm, one of the factor and one of each product, each half a unit
ALLOWED = {"float64": 1 + 1e-14, "float32": 1 + 1e-5}


@st.composite
def gradients(draw: st.DrawFn) -> dict[str, Any]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    scale = 10.0 ** draw(st.integers(-6, 6))
    return {
        "w": [scale * rng.standard_normal((3, 2)), np.zeros(draw(st.integers(0, 3)))],
        "b": np.asarray(scale * rng.standard_normal()),
    }


def norm(tree: dict[str, Any]) -> float:
    values = [*tree["w"], tree["b"]]
    return float(np.sqrt(sum((np.asarray(v, np.float64) ** 2).sum() for v in values)))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@given(tree=gradients(), max_norm=st.floats(1e-3, 1e3), eps=st.sampled_from([0.0, 1e-6]))
def test_clipping_bounds_the_norm_and_keeps_the_direction(
    backend: str, dtype: str, tree: dict[str, Any], max_norm: float, eps: float
) -> None:
    given_tree = on(backend, tree, dtype)
    clipped = host(optim.clip_by_global_norm(given_tree, max_norm, eps=eps))
    before = host(given_tree)
    size = norm(before)
    assert abs(float(optim.global_norm(given_tree)) - size) <= (1e-14 if dtype == "float64" else 1e-5) * size
    assert norm(clipped) <= min(max_norm, size) * ALLOWED[dtype]
    expected = 1.0 if size + eps <= max_norm else max_norm / (size + eps)
    for old, new in zip([*before["w"], before["b"]], [*clipped["w"], clipped["b"]]):
        assert (new.shape, new.dtype) == (old.shape, old.dtype)
        np.testing.assert_allclose(new, old * expected, rtol=1e-12 if dtype == "float64" else 1e-5)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_smaller_gradients_keep_every_bit(backend: str, dtype: str) -> None:
    tree = on(backend, {"w": np.random.default_rng(0).standard_normal(9)}, dtype)
    clipped = optim.clip_by_global_norm(tree, 100.0)
    np.testing.assert_array_equal(host(clipped)["w"], host(tree)["w"])


def test_leaves_of_several_dtypes_keep_theirs(backend: str) -> None:
    tree = {**on(backend, {"a": np.ones(4)}, "float32"), **on(backend, {"b": np.ones(4)}, "float64")}
    clipped = optim.clip_by_global_norm(tree, 0.5)
    assert [str(clipped[name].dtype) for name in "ab"] == ["float32", "float64"]


def test_zero_gradients_stay_zero(backend: str) -> None:
    tree = on(backend, {"w": np.zeros(3)})
    np.testing.assert_array_equal(host(optim.clip_by_global_norm(tree, 1.0))["w"], 0)


def test_an_empty_tree_has_norm_zero() -> None:
    assert optim.global_norm({}) == 0
    assert optim.clip_by_global_norm({}, 1.0) == {}


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan")])
def test_a_bound_must_be_positive(bad: float) -> None:
    with pytest.raises(ValueError, match="max_norm must be positive"):
        optim.clip_by_global_norm({"w": np.ones(2)}, bad)
