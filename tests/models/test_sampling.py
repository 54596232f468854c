"""Sampling from logits: which tokens can come, how often each comes, and what is refused."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import normal, on

from perceiver_ref import InputError
from perceiver_ref.autograd import backend as backends
from perceiver_ref.autograd.backend import to_host
from perceiver_ref.models.sampling import sample, token_probabilities

ROUNDING = 1e-12
"""Bound for sums of at most eight probabilities in float64; a misplaced token moves them by far more."""

logits = st.lists(st.floats(-5, 5), min_size=1, max_size=8).map(np.array)
tied = st.lists(st.integers(0, 2), min_size=1, max_size=8).map(lambda values: np.array(values, float))
temperatures = st.floats(0.05, 20)
masses = st.floats(0.01, 0.99)


def softmax(values: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    scaled = [math.exp((v - max(values)) / temperature) for v in values]
    return np.array(scaled) / math.fsum(scaled)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@given(values=logits, temperature=temperatures)
def test_probabilities_are_the_softmax_of_the_scaled_logits(values: np.ndarray, temperature: float) -> None:
    ours = token_probabilities(values, temperature=temperature)
    assert np.abs(ours - softmax(values, temperature)).max() <= ROUNDING


@given(values=logits | tied, temperature=temperatures, top_p=masses)
def test_the_nucleus_is_the_smallest_set_of_that_mass(values: np.ndarray, temperature: float, top_p: float) -> None:
    p = softmax(values, temperature)
    ours = token_probabilities(values, temperature=temperature, top_p=top_p)
    kept = set(np.flatnonzero(ours))
    assert math.fsum(p[i] for i in kept) >= top_p - ROUNDING
    smaller = [math.fsum(p[list(s)]) for s in combinations(range(len(p)), len(kept) - 1)]
    assert max(smaller, default=0.0) < top_p + ROUNDING
    assert min(p[i] for i in kept) >= max((p[i] for i in range(len(p)) if i not in kept), default=0.0)
    mass = math.fsum(p[i] for i in kept)
    assert all(abs(ours[i] - p[i] / mass) <= ROUNDING for i in kept)


@given(values=tied, top_p=masses)
def test_of_tokens_that_tie_the_first_are_kept(values: np.ndarray, top_p: float) -> None:
    kept = token_probabilities(values, top_p=top_p) > 0
    for value in set(values):
        chosen = kept[values == value]
        assert list(chosen) == sorted(chosen, reverse=True)


@pytest.mark.parametrize("tenths", range(1, 11))
def test_a_mass_that_is_reached_exactly_needs_no_further_token(tenths: int) -> None:
    assert np.count_nonzero(token_probabilities(np.zeros(10), top_p=tenths / 10)) == tenths


def test_the_whole_mass_keeps_every_token_however_unlikely() -> None:
    assert (token_probabilities(np.array([0.0, -600.0]), top_p=1.0) > 0).all()
    assert token_probabilities(np.array([0.0, -600.0]), top_p=np.nextafter(1.0, 0))[1] == 0


@given(values=logits | tied, seed=st.integers(0, 99))
def test_a_mass_near_nothing_and_a_temperature_near_nothing_are_greedy(values: np.ndarray, seed: int) -> None:
    first = int(values.argmax())
    assert sample(values, generator(seed), top_p=1e-300) == first
    assert sample(values, None, temperature=0.0) == first
    assert values[int(sample(values, generator(seed), temperature=1e-300))] >= values.max() - 1e-290


def test_greedy_draws_nothing() -> None:
    rng = generator()
    sample(np.zeros(3), rng, temperature=0.0)
    assert rng.random() == generator().random()


DRAWS = 40_000
DEVIATIONS = 5
"""A frequency is within 5 standard deviations, sqrt(p (1 - p) / draws), of its probability, or the draws are wrong: a
right sampler fails so with probability 6e-7 a token, and the seeds are fixed. At p = 0.1 that is 0.0075."""


@pytest.mark.parametrize("options", [{}, {"temperature": 0.5}, {"temperature": 3.0}, {"top_p": 0.8}, {"top_p": 0.3}])
def test_frequencies_follow_the_probabilities(options: dict[str, float]) -> None:
    values = np.array([0.3, -1.0, 2.0, 0.9, -np.inf, 1.9])
    ids = sample(np.broadcast_to(values, (DRAWS, 6)), generator(1), **options)
    frequencies = np.bincount(ids, minlength=6) / DRAWS
    p = token_probabilities(values, **options)
    assert (np.abs(frequencies - p) <= DEVIATIONS * np.sqrt(p * (1 - p) / DRAWS)).all()
    assert (frequencies[p == 0] == 0).all()


class Largest(np.random.Generator):
    """Always draws the largest number below 1, or 0."""

    def __init__(self, value: float) -> None:
        super().__init__(np.random.PCG64(0))
        self.value = value

    def random(self, size: Any = None) -> Any:  # type: ignore[override]
        return np.full(size, self.value)


@given(values=logits, excluded=st.integers(0, 7), top_p=masses)
def test_the_ends_of_the_unit_interval_draw_a_token_that_can_come(
    values: np.ndarray, excluded: int, top_p: float
) -> None:
    values = np.append(values, 0.0)
    values[excluded % (len(values) - 1)] = -np.inf
    possible = np.flatnonzero(token_probabilities(values, top_p=top_p))
    assert sample(values, Largest(0.0), top_p=top_p) == possible[0]
    assert sample(values, Largest(np.nextafter(1.0, 0)), top_p=top_p) == possible[-1]


def test_rows_are_independent_and_a_seed_repeats(backend: str) -> None:
    values = normal(0, 3, 2, 7)
    ids = sample(on(backend, values), generator(5), temperature=0.7, top_p=0.9)
    assert backends.name(ids) == backend
    assert ids.shape == (3, 2)
    assert ids.dtype == np.int64
    rng = generator(5)
    one_by_one = [[int(sample(row, rng, temperature=0.7, top_p=0.9)) for row in rows] for rows in values]
    assert to_host(ids).tolist() == one_by_one


def test_float32_logits_are_sampled_in_float64(backend: str) -> None:
    p = token_probabilities(on(backend, normal(0, 5), np.float32))
    assert p.dtype == np.float64
    assert abs(p.sum() - 1) <= ROUNDING


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([0.0], {"temperature": -0.1}, "temperature must be finite and at least 0, got -0.1"),
        ([0.0], {"temperature": math.inf}, "temperature must be finite"),
        ([0.0], {"temperature": math.nan}, "temperature must be finite"),
        ([0.0], {"top_p": 0.0}, r"top_p must be in \(0, 1\], got 0.0"),
        ([0.0], {"top_p": 1.1}, r"top_p must be in \(0, 1\]"),
        ([0.0], {"top_p": math.nan}, r"top_p must be in \(0, 1\]"),
        ([], {}, r"at least one token, got \(0,\)"),
        ([math.nan, 0.0], {}, "none may be NaN"),
        ([math.inf, 0.0], {}, "finite largest"),
        ([-math.inf, -math.inf], {}, "finite largest"),
    ],
)
def test_what_is_refused(values: list[float], options: dict[str, float], message: str) -> None:
    for greedy in ({}, {"temperature": 0.0}):
        with pytest.raises(InputError, match=message):
            sample(np.array(values, float), generator(), **{**greedy, **options})


def test_sampling_needs_a_generator() -> None:
    with pytest.raises(InputError, match=r"needs a numpy\.random\.Generator, got 3"):
        sample(np.zeros(2), 3)  # type: ignore[arg-type]
