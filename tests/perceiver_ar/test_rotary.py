"""Rotary position embedding: against rotations of complex numbers, and the properties it is made for."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from perceiver_ar.small import rotaries
from support import assert_close, difference, host, normal, on

from perceiver_ref.autograd.testing import check_grads
from perceiver_ref.errors import InputError
from perceiver_ref.models.attention import Attention
from perceiver_ref.models.rotary import Rotary, even_part, frequencies

HEADS, CHANNELS = 3, 8
drawn = rotaries(HEADS, CHANNELS)
places = st.lists(st.integers(-500, 500), min_size=5, max_size=5).map(np.array)


def turned(rotary: Rotary, backend: str, x: np.ndarray, positions: Any) -> np.ndarray:
    return host(rotary.apply(on(backend, x), on(backend, np.asarray(positions))))


@given(rotary=drawn, positions=places)
def test_pairs_turn_like_complex_numbers(backend: str, rotary: Rotary, positions: np.ndarray) -> None:
    x = normal(1, 2, HEADS, 5, CHANNELS)
    expected = x.copy()
    n = len(rotary.frequencies)
    for i, w in enumerate(rotary.frequencies):
        a, b = (2 * i, 2 * i + 1) if rotary.pairing == "interleaved" else (i, i + n)
        for head in range(HEADS):
            if rotary.heads is None or rotary.heads[head]:
                z = (x[:, head, :, a] + 1j * x[:, head, :, b]) * np.exp(1j * w * positions)
                expected[:, head, :, a], expected[:, head, :, b] = z.real, z.imag
    assert_close(turned(rotary, backend, x, positions[None]), expected)


@given(rotary=drawn, positions=places, shift=st.integers(-1000, 1000))
def test_products_depend_on_distances_alone(backend: str, rotary: Rotary, positions: np.ndarray, shift: int) -> None:
    q, k = normal(1, 1, HEADS, 5, CHANNELS), normal(2, 1, HEADS, 5, CHANNELS)

    def products(by: int) -> np.ndarray:
        a, b = (turned(rotary, backend, x, positions[None] + by) for x in (q, k))
        return a @ b.swapaxes(-1, -2)

    assert difference(products(shift), products(0)) <= 1e-11  # angles near 1500 are rounded by 2e-13 each


@given(rotary=drawn, positions=places)
def test_lengths_stay(backend: str, rotary: Rotary, positions: np.ndarray) -> None:
    x = normal(1, 2, HEADS, 5, CHANNELS)
    y = turned(rotary, backend, x, positions[None])
    assert_close(np.linalg.norm(y, axis=-1), np.linalg.norm(x, axis=-1))


@given(rotary=drawn)
def test_position_zero_and_the_other_channels_and_heads_stay_exactly(backend: str, rotary: Rotary) -> None:
    x = normal(1, 2, HEADS, 5, CHANNELS)
    assert np.array_equal(turned(rotary, backend, x, np.zeros((2, 5), int)), x)
    y = turned(rotary, backend, x, [[1, 2, 3, 4, 5]] * 2)
    assert np.array_equal(y[..., 2 * len(rotary.frequencies) :], x[..., 2 * len(rotary.frequencies) :])
    for head, turns in enumerate(rotary.heads or ()):
        assert turns or np.array_equal(y[:, head], x[:, head])


def test_each_sequence_has_its_own_positions(backend: str) -> None:
    rotary, x = Rotary(frequencies(4)), normal(1, 2, 1, 3, 4)
    both = turned(rotary, backend, x, [[0, 1, 2], [5, 3, 9]])
    assert_close(both[1:], turned(rotary, backend, x[1:], [[5, 3, 9]]))


@pytest.mark.parametrize("channels", [2, 6, 64])
def test_frequencies(channels: int) -> None:
    n = channels // 2
    for i, (half_open, closed) in enumerate(
        zip(frequencies(channels), frequencies(channels, 8192, "closed"), strict=True)
    ):
        assert half_open == pytest.approx(10_000 ** (-2 * i / channels), rel=1e-14)
        assert closed == pytest.approx(8192 ** (-i / max(n - 1, 1)), rel=1e-14)
    assert frequencies(channels, 8192, "closed")[-1] == pytest.approx(1 / 8192 if n > 1 else 1)


def test_published_frequencies() -> None:
    """Printed by the released Perceiver AR, which computed them in float32: a few roundings of 6e-8."""
    printed = [1.0, 4.9606279e-02, 2.4607829e-03, 1.2207031e-04]
    assert frequencies(8, 8192, "closed") == pytest.approx(printed, rel=2e-7)


def test_far_positions_in_float32_are_as_exact_as_near_ones(backend: str) -> None:
    rotary, x = Rotary(frequencies(8)), normal(1, 1, 1, 2, 8)
    positions = np.array([[131_071, 3]])
    single = turned(rotary, backend, x.astype(np.float32), positions)
    assert single.dtype == np.float32
    # three roundings of 6e-8 of values up to 3; an angle of 13,000 in float32 alone would be off by 5e-4
    assert difference(single, turned(rotary, backend, x, positions)) < 1e-6


@settings(max_examples=10)
@given(rotary=rotaries(2, 4))
def test_gradients_in_attention(backend: str, rotary: Rotary) -> None:
    attention = Attention(5, 6, 8, 8, 3, 2, rotary=rotary)
    positions, keys = on(backend, [np.array([[4, 0, 7]]), np.array([[9, 2, 2, 0]])])

    def apply(p: Any, x: Any, z: Any) -> Any:
        return attention.apply(p, x, z, positions=positions, key_positions=keys)

    p = attention.init(dtype=np.float64)
    check_grads(apply, *on(backend, [p, normal(1, 1, 3, 5), normal(2, 1, 4, 6)]), directions=1)


def test_keys_and_values_kept_are_turned_already(backend: str) -> None:
    attention = Attention(4, 4, 4, 4, 4, 1, rotary=Rotary(frequencies(4)))
    p, x, z = on(backend, [attention.init(dtype=np.float64), normal(1, 1, 2, 4), normal(2, 1, 3, 4)])
    positions, keys = on(backend, [np.array([[3, 4]]), np.array([[0, 1, 2]])])
    kept = attention.keys_values(p, z, positions=keys)
    whole = attention.apply(p, x, z, positions=positions, key_positions=keys)
    assert_close(attention.apply(p, x, kept, positions=positions), whole)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: frequencies(3), "3 is not an even number"),
        (lambda: frequencies(4, 0), "must be positive, got 0"),
        (lambda: even_part(8, 0), "must be in (0, 1], got 0"),
        (lambda: even_part(8, 1.5), "must be in (0, 1], got 1.5"),
        (
            lambda: Rotary(frequencies(6)).apply(np.zeros((1, 1, 2, 4)), np.zeros((1, 2))),
            "(6) must be even and at most",
        ),
        (
            lambda: Rotary(frequencies(2), heads=(True,)).apply(np.zeros((1, 2, 2, 4)), np.zeros((1, 2))),
            "made for 1 heads, not for 2",
        ),
        (
            lambda: Attention(4, 4, 4, 4, 4, rotary=Rotary(frequencies(2))).apply(
                Attention(4, 4, 4, 4, 4).init(), np.zeros((1, 2, 4), np.float32), np.zeros((1, 2, 4), np.float32)
            ),
            "needs the positions",
        ),
    ],
)
def test_what_cannot_be_used_is_an_input_error(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        make()


@pytest.mark.parametrize(("channels", "fraction", "even"), [(8, 1.0, 8), (8, 0.5, 4), (12, 0.25, 2), (6, 0.5, 2)])
def test_a_fraction_is_floored_to_whole_pairs(channels: int, fraction: float, even: int) -> None:
    assert even_part(channels, fraction) == even
    assert math.isclose(even / channels, fraction, abs_tol=2 / channels)
