"""Baselines for text: a smoothed trigram model of bytes, what it fills masked bytes in with, and `lzma`."""

from __future__ import annotations

import lzma
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Trigrams:
    """p[a, b, c] = P(c | a b) over an alphabet of A symbols, (A, A, A) float64; `pairs` P(c | b), `single` P(c).

    Witten-Bell smoothing (Witten and Bell 1991, method C), down to the uniform distribution:

        P(c | h) = (n(h c) + t(h) P(c | h')) / (n(h) + t(h))

    n counts, t(h) is the number of different symbols after h, h' is h without its first symbol; P(c | h') where h was
    never seen.
    """

    p: np.ndarray
    pairs: np.ndarray
    single: np.ndarray

    @classmethod
    def of(cls, text: np.ndarray, alphabet: int) -> Trigrams:
        """Of a text, (length,) integers in [0, alphabet)."""
        made = [np.full(alphabet, 1 / alphabet)]
        for order in (1, 2, 3):
            index = np.zeros(max(len(text) - order + 1, 0), np.int64)
            for i in range(order):
                index = index * alphabet + text[i : i + len(index)]
            counts = np.bincount(index, minlength=alphabet**order).reshape((alphabet,) * order)
            n, kinds = counts.sum(-1, keepdims=True), (counts > 0).sum(-1, keepdims=True)
            shorter = made[-1]
            made.append(np.where(n > 0, (counts + kinds * shorter) / np.maximum(n + kinds, 1), shorter))
        return cls(*made[:0:-1])

    def bits(self, text: np.ndarray) -> float:
        """-log2 P of each symbol given the two before it, on average; the text (length,) is taken as a ring.

        So its first two symbols have neighbours, too, and all count.
        """
        return float(-np.log2(self.p[np.roll(text, 2), np.roll(text, 1), text]).mean())

    def fill(self, text: np.ndarray) -> np.ndarray:
        """The likeliest symbol at each place where the text (length,) is -1, and the text elsewhere.

        By the probability of each symbol there given all symbols that are seen, before and after: P is summed over what
        other masked symbols may be, by the forward-backward algorithm (Rabiner 1989, section III). Nothing that knows
        only trigrams can be right more often. The two symbols before the text count as any pair, equally likely.
        """
        seen = [slice(None)] * 2 + [slice(s, s + 1) if s >= 0 else slice(None) for s in text]
        known = np.concatenate([[False, False], text >= 0])
        known = known[:-1] & known[1:]  # both symbols of a pair: then nothing beyond it matters
        one: np.ndarray = np.ones((1, 1))
        forward: list[np.ndarray] = [np.ones(self.p.shape[:2])]
        for i in range(len(text)):  # (a, b) -> (b, c)
            if known[i + 1]:
                forward.append(one)
            else:
                forward.append(_scaled((forward[-1].T[:, None] @ self._part(seen, i).swapaxes(0, 1))[:, 0]))
        backward: np.ndarray = np.ones(forward[-1].shape)
        filled = text.copy()
        for i in range(len(text) - 1, -1, -1):
            if text[i] < 0:
                filled[i] = (forward[i + 1] * backward).sum(0).argmax()
            backward = one if known[i] else _scaled((self._part(seen, i) * backward).sum(-1))
        return filled

    def fill_between(self, text: np.ndarray) -> np.ndarray:
        """The same from the neighbours l and r alone: the largest P(b | l) P(r | l b).

        Without the factor, or the condition, that a neighbour stands for which is masked itself.
        """
        places = np.flatnonzero(text < 0)
        around = np.concatenate([[-1], text, [-1]])
        left, right = around[places], around[places + 2]
        scores = np.where(left[:, None] >= 0, self.pairs[left], self.single)
        after = np.where(left[:, None] >= 0, self.p[left, :, right], self.pairs[:, right].T)
        filled = text.copy()
        filled[places] = np.where(right[:, None] >= 0, scores * after, scores).argmax(-1)
        return filled

    def _part(self, seen: list[slice], i: int) -> np.ndarray:
        a, b, c = seen[i : i + 3]
        return self.p[a, b, c]


def _scaled(x: np.ndarray) -> np.ndarray:
    """Only ratios count: without this, products of many probabilities would underflow."""
    scaled: np.ndarray = x / x.max()
    return scaled


def lzma_bits(text: bytes, before: bytes = b"") -> float:
    """Bits a byte that `lzma` needs for a text, at its best settings for text and without a file's header.

    before: what the compressor has seen already; its own size is subtracted.
    """
    return 8 * (_compressed(before + text) - (_compressed(before) if before else 0)) / len(text)


def _compressed(data: bytes) -> int:
    best = {"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 4, "lp": 0, "pb": 0}
    return len(lzma.compress(data, format=lzma.FORMAT_RAW, filters=[best]))
