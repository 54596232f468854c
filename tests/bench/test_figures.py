"""Medians, ratios, exponents and the number of turns, against their definitions."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.figures import calls, exponent, ratios, rounds, spread
from perceiver_ref.errors import InputError

positive = st.floats(1e-6, 1e6)


@given(st.lists(positive, min_size=1, max_size=20))
def test_the_median_lies_between_its_quartiles(values: list[float]) -> None:
    made = spread(values)
    assert made.median == pytest.approx(statistics.median(values))
    assert min(values) <= made.low * (1 + 1e-12)
    assert made.low <= made.median * (1 + 1e-12)
    assert made.median <= made.high * (1 + 1e-12)
    assert made.high <= max(values) * (1 + 1e-12)


def test_quartiles_of_five_values() -> None:
    made = spread([5.0, 1.0, 2.0, 4.0, 3.0])
    assert (made.low, made.median, made.high) == (2.0, 3.0, 4.0)
    assert made.share == pytest.approx(1 / 3)


def test_one_slow_outlier_does_not_move_the_median() -> None:
    assert spread([1.0, 1.0, 1.0, 1.0, 100.0]).median == 1.0


@given(st.lists(st.tuples(positive, positive), min_size=1, max_size=9))
def test_ratios_are_taken_turn_by_turn(noise: list[tuple[float, float]]) -> None:
    """What slows both sides of a turn leaves the ratio alone, however much the turns differ."""
    slow = [a for a, _ in noise]
    assert ratios([3 * s for s in slow], [4 * s for s in slow]).median == pytest.approx(0.75)


def test_ratios_of_unequal_lists_are_refused() -> None:
    with pytest.raises(InputError, match="2 times of one and 1"):
        ratios([1.0, 2.0], [1.0])


@given(st.floats(-3, 3), positive, st.lists(st.integers(1, 10**6), min_size=2, max_size=6, unique=True), st.randoms())
def test_the_exponent_of_a_power_is_found(e: float, factor: float, sizes: list[int], random: object) -> None:
    random.shuffle(sizes)
    # neighbouring sizes leave log(a) - log(b) with few digits: 1e-6 apart they hold 1e-10
    assert exponent(sizes, [factor * s**e for s in sizes]) == pytest.approx(e, abs=1e-6)


def test_the_exponent_is_that_of_least_squares() -> None:
    # in logarithms of base 2: points (0, 0), (1, 0), (2, 3) have the slope 3/2
    assert exponent([1, 2, 4], [1.0, 1.0, 8.0]) == pytest.approx(1.5)


@pytest.mark.parametrize(("sizes", "values"), [([4, 4], [1.0, 2.0]), ([1, 2], [0.0, 1.0]), ([1], [1.0]), ([], [])])
def test_no_exponent_without_two_sizes_and_positive_values(sizes: list[int], values: list[float]) -> None:
    with pytest.raises(InputError):
        exponent(sizes, values)


def test_short_calls_share_a_turn() -> None:
    assert calls(0.001, 0.1) == 100
    assert calls(5.0, 0.1) == 1
    assert calls(0.0, 0.1) >= 1


def test_rounds_fit_the_budget_within_bounds() -> None:
    assert rounds(10.0, 60.0, 3, 9) == 6
    assert rounds(100.0, 60.0, 3, 9) == 3
    assert rounds(0.1, 60.0, 3, 9) == 9
