"""Attention and the two layers made of it equal the loops of `plain`, for any widths, heads, masks and biases."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from models import plain
from support import assert_close, normal, on, random_parameters

from perceiver_ref import InputError
from perceiver_ref.models.attention import Attention, CrossAttention, SelfAttention
from perceiver_ref.models.conventions import DIALECTS, Conventions

sizes = st.integers(1, 4)
dialects = st.sampled_from(sorted(DIALECTS)).map(DIALECTS.__getitem__)


@st.composite
def masks(draw: st.DrawFn, *shape: int) -> np.ndarray | None:
    """None, or bool of this shape with rows of every kind, fully masked ones included."""
    bits = draw(st.none() | st.lists(st.booleans(), min_size=int(np.prod(shape)), max_size=int(np.prod(shape))))
    return None if bits is None else np.array(bits, bool).reshape(shape)


@given(data=st.data(), conventions=dialects)
def test_attention_is_its_equation(backend: str, data: st.DataObject, conventions: Conventions) -> None:
    batch, queries, keys, heads, d, e, c_q, c_kv, outputs = (data.draw(sizes) for _ in range(9))
    layer = Attention(c_q, c_kv, heads * d, heads * e, outputs, heads, conventions)
    p, x, z = random_parameters(layer), normal(1, batch, queries, c_q), normal(2, batch, keys, c_kv)
    mask = data.draw(masks(batch, queries, keys))
    bias = 2 * normal(3, batch, heads, queries, keys) if data.draw(st.booleans()) else None
    ours = layer.apply(*on(backend, [p, x, z]), mask=on(backend, mask), bias=on(backend, bias))
    assert_close(ours, plain.attention(p, x, z, heads, conventions.masked_rows, mask, bias))


@given(data=st.data(), conventions=dialects, query_residual=st.booleans(), attend_in=st.sampled_from(["kv", "q"]))
def test_cross_attention_is_its_equations(
    backend: str, data: st.DataObject, conventions: Conventions, query_residual: bool, attend_in: Any
) -> None:
    batch, queries, keys, heads, d_q, d_kv, widening = (data.draw(sizes) for _ in range(7))
    layer = CrossAttention(
        heads * d_q,
        heads * d_kv,
        heads,
        attend_in=attend_in,
        widening=widening,
        query_residual=query_residual,
        conventions=conventions,
    )
    p, x, z = random_parameters(layer), normal(1, batch, queries, heads * d_q), normal(2, batch, keys, heads * d_kv)
    assert p["attention"]["query"]["weight"].shape[1] == heads * (d_kv if attend_in == "kv" else d_q)
    mask = data.draw(masks(batch, queries, keys))
    ours = layer.apply(*on(backend, [p, x, z]), mask=on(backend, mask))
    assert_close(ours, plain.cross_attention(p, x, z, like=layer, mask=mask))


@given(data=st.data(), conventions=dialects)
def test_self_attention_is_its_equations(backend: str, data: st.DataObject, conventions: Conventions) -> None:
    batch, n, heads, d, widening = (data.draw(sizes) for _ in range(5))
    layer = SelfAttention(heads * d, heads, widening=widening, conventions=conventions)
    p, x = random_parameters(layer), normal(1, batch, n, heads * d)
    assert_close(layer.apply(*on(backend, [p, x])), plain.self_attention(p, x, heads, conventions))


def test_a_given_qk_width_also_sets_the_v_width() -> None:
    widths = {"qk": (6, None), "v": (None, 4), "both": (6, 4), "neither": (None, None)}
    made = {
        name: tuple(
            CrossAttention(8, 10, 2, qk, v).parameters()["attention"][part]["weight"].shape[1]
            for part in ("key", "value")
        )
        for name, (qk, v) in widths.items()
    }
    assert made == {"qk": (6, 6), "v": (10, 4), "both": (6, 4), "neither": (10, 10)}


def test_a_row_without_keys_gives_the_output_bias_or_the_average_as_the_dialect_says(backend: str) -> None:
    layer = Attention(3, 3, 4, 4, 5, 2, DIALECTS["deepmind"])
    p, x, z = random_parameters(layer), normal(1, 1, 2, 3), normal(2, 1, 6, 3)
    mask = np.array([[[False] * 6, [True] * 6]])
    zero = layer.apply(*on(backend, [p, x, z]), mask=on(backend, mask))
    assert_close(zero[0, 0], p["output"]["bias"], tolerance=0)  # nothing is attended to: exactly the bias is left
    uniform = replace(layer, conventions=DIALECTS["hf"]).apply(*on(backend, [p, x, z]), mask=on(backend, mask))
    average = (z[0] @ p["value"]["weight"] + p["value"]["bias"]).mean(0)
    assert_close(uniform[0, 0], average @ p["output"]["weight"] + p["output"]["bias"])
    assert_close(uniform[0, 1], zero[0, 1])  # the other row attends to everything, so the dialects agree


@pytest.mark.parametrize("heads", [0, 3, 5])
def test_widths_that_heads_do_not_divide_are_refused(heads: int) -> None:
    with pytest.raises(InputError, match=rf"qk_channels \(8\) must be divisible by the number of heads \({heads}\)"):
        Attention(4, 4, 8, 8, 4, heads)


def test_self_attention_refuses_values_that_cannot_be_added_to_its_input() -> None:
    with pytest.raises(InputError, match=r"v_channels \(6\) must equal the layer's width \(8\)"):
        SelfAttention(8, 2, qk_channels=4, v_channels=6)


def test_large_logits_do_not_overflow(backend: str) -> None:
    """Logits near 1e5 in float32: without subtracting the maximum, exp would be infinite."""
    layer = Attention(4, 4, 4, 4, 4, 1)
    p, x = random_parameters(layer), 300 * normal(1, 1, 3, 4)
    ours = layer.apply(*on(backend, [p, x, x], np.float32))
    # float32 rounds a logit of 1e5 by up to 4e-3, so weights far from 0 and 1 move by as much; these are saturated
    assert_close(ours, plain.attention(p, x, x, 1, "zero"), tolerance=1e-5)
