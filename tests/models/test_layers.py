"""Linear map, layer norm and MLP equal the loops of `plain`, on any number of leading axes and in any precision."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from models import plain
from support import assert_close, difference, normal, on, random_parameters

from perceiver_ref.models.conventions import DEEPMIND, Activation
from perceiver_ref.models.layers import MLP, LayerNorm, Linear

leads = st.lists(st.integers(0, 3), max_size=3).map(tuple)
widths = st.integers(1, 5)


@given(lead=leads, inputs=widths, outputs=widths, bias=st.booleans())
def test_linear_is_x_w_plus_b(backend: str, lead: tuple[int, ...], inputs: int, outputs: int, bias: bool) -> None:
    layer = Linear(inputs, outputs, bias)
    p, x = random_parameters(layer), normal(0, *lead, inputs)
    assert ("bias" in p) == bias
    assert_close(layer.apply(*on(backend, [p, x])), plain.linear({"bias": 0.0, **p}, x))


@given(lead=leads, channels=widths, eps=st.sampled_from([1e-12, 1e-5, 0.1]))
def test_layer_norm_is_its_equation(backend: str, lead: tuple[int, ...], channels: int, eps: float) -> None:
    layer = LayerNorm(channels, eps)
    p, x = random_parameters(layer), 3 + normal(0, *lead, channels)
    # With eps 1e-12 and one channel the deviation is rounding alone: 1e-16 / sqrt(1e-12) stays below 1e-9.
    assert_close(layer.apply(*on(backend, [p, x])), plain.layer_norm(p, x, eps), tolerance=1e-9)


def test_layer_norm_of_large_offset_keeps_float32_precision(backend: str) -> None:
    """Mean 1000, deviation 1: E[x^2] - E[x]^2 would lose 1e6 units of rounding, the two-pass variance does not."""
    layer = LayerNorm(64)
    p, x = random_parameters(layer), 1000 + normal(0, 3, 64)
    x = x.astype(np.float32).astype(np.float64)  # the same numbers for both
    # rounding the mean of 1000 to float32 moves every deviation by up to 6e-5
    assert_close(layer.apply(*on(backend, [p, x], np.float32)), plain.layer_norm(p, x), tolerance=2e-4)


@pytest.mark.parametrize("activation", get_args(Activation))
def test_mlp_is_two_linear_maps_with_the_activation_between(backend: str, activation: Any) -> None:
    layer = MLP(3, 4, replace(DEEPMIND, activation=activation))
    p, x = random_parameters(layer), 2 * normal(0, 2, 5, 3)
    assert p["hidden"]["weight"].shape == (3, 12)
    assert_close(layer.apply(*on(backend, [p, x])), plain.mlp(p, x, activation))


def test_the_two_gelus_are_told_apart(backend: str) -> None:
    """They differ by up to 5e-4; a mix-up must be larger than any tolerance used here."""
    p, x = random_parameters(MLP(3, 4)), on(backend, 2 * normal(0, 2, 5, 3))
    erf, tanh = (
        MLP(3, 4, replace(DEEPMIND, activation=name)).apply(on(backend, p), x) for name in ("gelu_erf", "gelu_tanh")
    )
    assert 1e-5 < difference(erf, tanh) < 1e-2
