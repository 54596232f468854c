"""Layers whose norms come after attention and MLP or around the sums, without a norm of the context or an MLP."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from models import plain
from support import assert_close, normal, on, random_parameters

from perceiver_ref import InputError
from perceiver_ref.autograd import tree
from perceiver_ref.autograd.testing import check_grads
from perceiver_ref.models.attention import CrossAttention, Norms, SelfAttention
from perceiver_ref.models.conventions import DIALECTS

HF = DIALECTS["hf"]
every_place = pytest.mark.parametrize("norms", get_args(Norms))


def placed(p: Any, norm: str, norms: Norms, x: np.ndarray, f: Any) -> np.ndarray:
    """x + f(norm(x)), x + norm(f(x)) or norm(x + f(x)), by its definition."""

    def normed(x: np.ndarray) -> np.ndarray:
        return plain.layer_norm(p[norm], x)

    return {"before": lambda: x + f(normed(x)), "after": lambda: x + normed(f(x)), "around": lambda: normed(x + f(x))}[
        norms
    ]()


def after_attention(p: Any, norms: Norms, x: np.ndarray) -> np.ndarray:
    return placed(p, "mlp_norm", norms, x, lambda x: plain.mlp(p["mlp"], x, "gelu_erf"))


@every_place
@given(context_norm=st.booleans(), feed_forward=st.booleans(), hidden=st.sampled_from([None, 1, 7]))
def test_cross_attention_has_norms_where_it_says(
    backend: str, norms: Norms, context_norm: bool, feed_forward: bool, hidden: int | None
) -> None:
    layer = CrossAttention(
        6, 4, 2, hidden=hidden, norms=norms, context_norm=context_norm, feed_forward=feed_forward, conventions=HF
    )
    p, x, z = random_parameters(layer), normal(1, 2, 3, 6), normal(2, 2, 5, 4)
    keys = plain.layer_norm(p["key_value_norm"], z) if context_norm else z
    name = "query_norm" if norms == "before" else "norm"

    def attend(x: np.ndarray) -> np.ndarray:
        return plain.attention(p["attention"], x, keys, 2, "added", None, None)

    want = placed(p, name, norms, x, attend)
    want = after_attention(p, norms, want) if feed_forward else want
    assert_close(layer.apply(*on(backend, [p, x, z])), want)
    present = {name, "attention", *(("mlp_norm", "mlp") if feed_forward else ()), *(["key_value_norm"] * context_norm)}
    assert set(p) == present


@every_place
@given(feed_forward=st.booleans(), hidden=st.sampled_from([None, 1, 7]))
def test_self_attention_has_norms_where_it_says(
    backend: str, norms: Norms, feed_forward: bool, hidden: int | None
) -> None:
    layer = SelfAttention(6, 2, hidden=hidden, norms=norms, feed_forward=feed_forward, conventions=HF)
    p, x = random_parameters(layer), normal(1, 2, 3, 6)

    def attend(x: np.ndarray) -> np.ndarray:
        return plain.attention(p["attention"], x, x, 2, "added", None, None)

    want = placed(p, "norm", norms, x, attend)
    assert_close(layer.apply(*on(backend, [p, x])), after_attention(p, norms, want) if feed_forward else want)


@every_place
def test_without_its_residual_attention_alone_is_normed(backend: str, norms: Norms) -> None:
    layer = CrossAttention(6, 4, 2, norms=norms, query_residual=False, feed_forward=False, conventions=HF)
    p, x, z = random_parameters(layer), normal(1, 2, 3, 6), normal(2, 2, 5, 4)
    q = plain.layer_norm(p["query_norm"], x) if norms == "before" else x
    keys = plain.layer_norm(p["key_value_norm"], z)
    attended = plain.attention(p["attention"], q, keys, 2, "added", None, None)
    want = attended if norms == "before" else plain.layer_norm(p["norm"], attended)
    assert_close(layer.apply(*on(backend, [p, x, z])), want)


@every_place
def test_their_gradients_are_those_of_differences(norms: Norms) -> None:
    layer = CrossAttention(4, 3, 2, norms=norms, context_norm=False, qk_channels=4, hidden=5, conventions=HF)
    p, x, z = random_parameters(layer), normal(1, 1, 2, 4), normal(2, 1, 3, 3)
    leaves = [leaf for _, leaf in tree.leaves(p)]

    def apply(x: Any, z: Any, *weights: Any) -> Any:
        return layer.apply(tree.unflatten_like(p, list(weights)), x, z)

    check_grads(apply, x, z, *leaves)


def test_another_place_is_refused() -> None:
    with pytest.raises(InputError, match="norms must be"):
        replace(SelfAttention(4), norms="behind")
