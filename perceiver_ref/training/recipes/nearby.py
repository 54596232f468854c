"""A start from which attention looks nearby: each head at places a few bytes aside. All of it is trained after that.

Drawn at random, attention is even over all places. Text models that start so stay at the mere frequencies of bytes for
thousands of steps: little in the paper's 500,000 of 2,048 sequences each, but all that a small computer has time for.
Only values of parameters are set here; the model is the paper's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from ...autograd.tree import Tree
from ...models.rotary import Rotary


def waves(places: Sequence[float] | np.ndarray, frequencies: np.ndarray) -> np.ndarray:
    """sqrt(2) sin(w x), then sqrt(2) cos(w x), of places x for each frequency w: (places, 2 frequencies) float32.

    The product of two rows depends on the distance of their places alone, and is largest at 0.
    """
    angles = np.asarray(places, np.float64)[:, None] * frequencies
    both = np.concatenate([np.sin(angles), np.cos(angles)], 1) * 2**0.5
    return both.astype(np.float32)


def table(places: Sequence[float] | np.ndarray, frequencies: np.ndarray, channels: int, scale: float) -> np.ndarray:
    """A table of positions (places, channels): their waves in the last channels, 0 in the others."""
    rows = np.zeros((len(places), channels), np.float32)
    rows[:, -2 * len(frequencies) :] = np.float32(scale) * waves(places, frequencies)
    return rows


def look_aside(attention: Tree, offsets: Sequence[float], frequencies: np.ndarray, gain: float) -> None:
    """Make head h of an attention look `offsets[h]` aside of each query's place.

    Queries and keys have waves in their last channels, and only these count: keys take them as they are, queries turned
    by the offset, sin w(x + o) = cos(w o) sin(w x) + sin(w o) cos(w x), and the same for cosines.
    """
    n = 2 * len(frequencies)
    width = attention["query"]["weight"].shape[1] // len(offsets)
    for name in ("query", "key"):
        attention[name]["weight"][:] = 0
    for h, offset in enumerate(offsets):
        cos, sin = np.diag(np.cos(frequencies * offset)), np.diag(np.sin(frequencies * offset))
        head = slice(h * width, h * width + n)
        attention["query"]["weight"][-n:, head] = gain * np.block([[cos, -sin], [sin, cos]])
        attention["key"]["weight"][-n:, head] = gain * np.eye(n)


def look_back(attention: Tree, offsets: Sequence[float], rotary: Rotary, gain: float) -> None:
    """Make head h of an attention with rotary positions look about `offsets[h]` back, by biases alone.

    A key's bias is the same everywhere, and so turns with its place alone; a query's is turned back by the offset.
    """
    angles = np.asarray(rotary.frequencies)
    width = attention["query"]["weight"].shape[1] // len(offsets)
    for h, offset in enumerate(offsets):
        pairs = slice(h * width, h * width + 2 * len(angles))
        turned = np.stack([np.cos(angles * offset), -np.sin(angles * offset)], -1)
        attention["query"]["bias"][pairs] = gain * turned.ravel()
        attention["key"]["bias"][pairs] = gain * np.stack([np.ones_like(angles), np.zeros_like(angles)], -1).ravel()


def keep_places(layers: Iterable[Tree], channels: int) -> None:
    """Let layers write nothing into the last channels of what they are added to, where its places are."""
    for layer in layers:
        for part in ("attention", "mlp"):
            layer[part]["output"]["weight"][:, -channels:] = 0
