"""Learning rates: their values at the borders, between them, and for what cannot be."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perceiver_ref.autograd import optim

rates = st.floats(1e-6, 10)
steps = st.integers(1, 1000)
shapes = pytest.mark.parametrize("shape", [optim.linear, optim.cosine])


def close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=1e-12, abs_tol=1e-15)


@shapes
@given(start=rates, end=rates, n=steps, beyond=st.integers(0, 10**9))
def test_from_start_to_end_and_no_further(shape, start: float, end: float, n: int, beyond: int) -> None:
    schedule = shape(start, end, n)
    assert close(schedule(0), start)
    assert close(schedule(n + beyond), end)


@shapes
@given(start=rates, end=rates, n=steps)
def test_halfway_is_the_mean_and_the_way_is_monotonic(shape, start: float, end: float, n: int) -> None:
    schedule = shape(start, end, 2 * n)
    assert close(schedule(n), (start + end) / 2)
    values = [schedule(count) for count in range(2 * n + 1)]
    # equal neighbours may differ by a rounding
    assert all((b - a) * (end - start) >= -1e-15 for a, b in itertools.pairwise(values))


def test_known_values() -> None:
    assert [optim.linear(0.0, 1.0, 4, begin=2)(c) for c in range(8)] == [0, 0, 0, 0.25, 0.5, 0.75, 1, 1]
    assert optim.polynomial(1.0, 0.0, 4, power=2)(1) == 0.5625
    assert close(optim.cosine(1.0, 0.0, 3)(1), 0.75)
    assert close(optim.cosine(1.0, 0.0, 3, power=2)(1), 0.5625)
    assert [optim.piecewise(8.0, {3: 0.5, 1: 0.25})(c) for c in range(5)] == [8, 2, 2, 1, 1]
    decay = optim.exponential(8.0, 0.25, 2, begin=1)
    assert [decay(c) for c in range(5)] == [8, 8, 4, 2, 1]
    stairs = optim.exponential(8.0, 0.25, 2, begin=1, staircase=True)
    assert [stairs(c) for c in range(6)] == [8, 8, 8, 2, 2, 0.5]


def test_exponential_bounds_are_on_the_side_it_moves_to() -> None:
    assert optim.exponential(8.0, 0.5, 1, bound=3.0)(5) == 3
    assert optim.exponential(1.0, 2.0, 1, bound=3.0)(5) == 3
    assert optim.exponential(1.0, 2.0, 1, bound=3.0)(1) == 2


@given(peak=rates, start=rates, end=rates, warmup=st.integers(0, 50), rest=steps)
def test_warmup_cosine(peak: float, start: float, end: float, warmup: int, rest: int) -> None:
    """`total` counts the warm-up; without warm-up the first value is already the peak."""
    schedule = optim.warmup_cosine(peak, warmup, warmup + rest, start=start, end=end)
    assert close(schedule(0), start if warmup else peak)
    assert close(schedule(warmup), peak)
    assert close(schedule(warmup + rest), end)
    if warmup:
        assert close(schedule(warmup - 1), start + (peak - start) * (warmup - 1) / warmup)


@given(value=rates, end=rates, flat=st.integers(0, 50), rest=steps)
def test_flat_cosine(value: float, end: float, flat: int, rest: int) -> None:
    schedule = optim.flat_cosine(value, flat, flat + rest, end=end)
    assert all(close(schedule(count), value) for count in range(flat + 1))
    assert close(schedule(flat + rest), end)


@given(boundaries=st.lists(st.integers(0, 20), min_size=1, max_size=4).map(sorted), count=st.integers(0, 30))
def test_joined_schedules_count_from_their_boundaries(boundaries: list[int], count: int) -> None:
    parts = [lambda c, i=i: 1000.0 * i + c for i in range(len(boundaries) + 1)]
    begun = sum(count >= boundary for boundary in boundaries)
    assert optim.join(parts, boundaries)(count) == 1000 * begun + count - ([0, *boundaries])[begun]


def test_without_steps_a_schedule_is_constant() -> None:
    assert optim.linear(0.3, 1.0, 0)(5) == 0.3
    assert optim.exponential(0.3, 0.5, 0)(5) == 0.3
    assert optim.exponential(0.3, 0.0, 4)(5) == 0.3
    assert optim.constant(0.3)(10**12) == 0.3


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="positive number of steps, got 0"):
        optim.cosine(1.0, 0.0, 0)
    with pytest.raises(ValueError, match="2 schedules need 1 boundaries, got 2"):
        optim.join([optim.constant(1.0)] * 2, [1, 2])
