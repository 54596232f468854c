"""The text baselines against their plain definitions."""

from __future__ import annotations

import lzma
from itertools import product
from math import log2, prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perceiver_ref.training.recipes.ngrams import Trigrams, lzma_bits

texts = st.lists(st.integers(0, 3), min_size=1, max_size=30).map(np.array)


def plain(text: list[int], history: list[int], symbol: int, alphabet: int) -> float:
    """Witten-Bell: P(symbol | history), by counting in the text."""
    after = [text[i + len(history)] for i in range(len(text) - len(history)) if text[i:][: len(history)] == history]
    shorter = plain(text, history[1:], symbol, alphabet) if history else 1 / alphabet
    kinds = len(set(after))
    return (after.count(symbol) + kinds * shorter) / (len(after) + kinds) if after else shorter


@given(texts)
def test_probabilities_are_witten_bells(text: np.ndarray) -> None:
    p = Trigrams.of(text, 4).p
    expected = [plain(text.tolist(), [a, b], c, 4) for a, b, c in product(range(4), repeat=3)]
    np.testing.assert_allclose(p.ravel(), expected, rtol=1e-12)  # float64, a dozen operations
    np.testing.assert_allclose(p.sum(-1), 1, rtol=1e-12)


@given(texts, texts)
def test_bits_are_the_mean_over_a_ring(trained: np.ndarray, text: np.ndarray) -> None:
    model = Trigrams.of(trained, 4)
    p = model.p
    ring = [*text.tolist()[-2:], *text.tolist()] if len(text) > 1 else [text[0]] * 3
    expected = -sum(log2(p[a, b, c]) for a, b, c in zip(ring, ring[1:], ring[2:])) / len(text)
    assert model.bits(text) == pytest.approx(expected, rel=1e-12)


@given(texts, st.lists(st.integers(-1, 2), min_size=1, max_size=6).map(np.array))
def test_masks_are_filled_by_the_exact_marginals(trained: np.ndarray, text: np.ndarray) -> None:
    """Every completion written out, and the two symbols before the text, too."""
    model = Trigrams.of(trained % 3, 3)
    p = model.p
    weights = np.zeros((len(text), 3))
    for whole in product(range(3), repeat=len(text) + 2):
        if all(s in (-1, c) for s, c in zip(text, whole[2:])):
            chance = prod(p[whole[i : i + 3]] for i in range(len(text)))
            for i, c in enumerate(whole[2:]):
                weights[i, c] += chance
    filled = model.fill(text)
    for i, s in enumerate(text):
        if s >= 0:
            assert filled[i] == s
        else:  # the best, or as good as it but for rounding
            assert weights[i, filled[i]] >= weights[i].max() * (1 - 1e-9)


@given(texts, texts)
def test_neighbours_alone_are_weighed_by_bayes_rule(trained: np.ndarray, text: np.ndarray) -> None:
    known = trained.tolist()
    masked = np.where(text == 3, -1, text)
    filled = Trigrams.of(trained, 4).fill_between(masked)
    for i, s in enumerate(masked):
        left = [masked[i - 1]] if i and masked[i - 1] >= 0 else []
        right = [masked[i + 1]] if i + 1 < len(masked) and masked[i + 1] >= 0 else []
        chances = [plain(known, left, b, 4) * prod(plain(known, [*left, b], r, 4) for r in right) for b in range(4)]
        assert filled[i] == s if s >= 0 else chances[filled[i]] >= max(chances) * (1 - 1e-9)


def test_runs_of_masks_far_apart_and_side_by_side() -> None:
    text = np.tile([0, 1, 2, 3], 12)
    masked = text.copy()
    masked[[3, 10, 11, 13, 30, 31, 32, 33, 47]] = -1
    np.testing.assert_array_equal(Trigrams.of(text, 4).fill(masked), text)


def test_lzma_counts_what_it_has_seen_as_known() -> None:
    rng = np.random.default_rng(0)
    noise, other = rng.bytes(3000), rng.bytes(3000)
    assert lzma_bits(noise) == pytest.approx(8, rel=0.01)  # cannot be compressed; chunks have headers of bytes
    assert lzma_bits(noise, other) == pytest.approx(8, rel=0.01)
    assert lzma_bits(noise, noise) < 0.2  # repeated: references alone
    text = b"the same words again and again; " * 50
    assert lzma_bits(text) < 8 * len(lzma.compress(text, preset=9)) / len(text)  # which has a header, too
