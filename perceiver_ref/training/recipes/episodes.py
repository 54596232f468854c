"""Scenes to caption, and episodes of captions that follow a rule which only the episode itself gives.

A scene is a shape of some colour at some place on some ground. Its caption is two words: the shape, and its colour, its
place or its ground. Which of the three goes with which shape is the rule, drawn anew for each episode.
"""

from __future__ import annotations

from functools import cache
from itertools import product
from typing import NamedTuple

import numpy as np

from ...models.flamingo.prompts import EOC, IMAGE, VOCABULARY, Prompt
from ...models.inputs.bytes import BOS

SHAPES = ("block", "ring", "cross", "bar")
KINDS = {
    "colour": ("red", "green", "blue", "yellow"),
    "place": ("northwest", "northeast", "southwest", "southeast"),
    "ground": ("plain", "striped", "dotted", "checked"),
}
"""What a caption's second word may say, and how."""
WORDS = (*SHAPES, *(word for words in KINDS.values() for word in words))
WORD = VOCABULARY
"""The id of the first word: words are tokens, one each, after the byte and special tokens."""
LONGEST = 9
"""The captions of an episode: eight examples and what is asked."""

_COLOURS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]], np.float32)
_DRAWN = """
### ### #.# .#.
### #.# .#. .#.
### ### #.# .#.
"""


class Episodes(NamedTuple):
    """E episodes of K scenes each, with their captions."""

    scenes: np.ndarray
    """(E, K, 4), int64: shape, colour, place and ground of each, from 0 to 3"""
    rules: np.ndarray
    """(E, 4), int64: for each shape, which of `KINDS` its captions say"""
    images: np.ndarray
    """(E, K, 8, 8, 3), float32, about -1 to 1"""

    @property
    def captions(self) -> np.ndarray:
        """(E, K, 2), int64: the ids of both words."""
        return captions(self.scenes, self.rules)


def episodes(rng: np.random.Generator, count: int, *, test: bool = False, length: int = LONGEST) -> Episodes:
    """Episodes of rules and scenes of which the tests' ones and the others have none in common."""
    rules, scenes = (part[test] for part in _divided())
    chosen = scenes[rng.integers(len(scenes), size=(count, length))]
    return Episodes(chosen, rules[rng.integers(len(rules), size=count)], draw(rng, chosen))


def texts(rng: np.random.Generator, count: int) -> np.ndarray:
    """The ids (count, L) of the training episodes' texts alone, as the language model reads them."""
    rules, scenes = (part[0] for part in _divided())
    chosen = scenes[rng.integers(len(scenes), size=(count, LONGEST))]
    return interleaved(captions(chosen, rules[rng.integers(len(rules), size=count)]))


def captions(scenes: np.ndarray, rules: np.ndarray) -> np.ndarray:
    """scenes (E, K, 4), rules (E, 4) -> ids (E, K, 2): the shape, then what the rule says of it."""
    shapes = scenes[..., 0]
    kinds = np.take_along_axis(rules, shapes, 1)
    values = np.take_along_axis(scenes, 1 + kinds[..., None], 2)[..., 0]
    return WORD + np.stack([shapes, 4 + 4 * kinds + values], -1)


def interleaved(words: np.ndarray) -> np.ndarray:
    """Captions (E, K, 2) -> ids (E, 1 + 4 K): <BOS>, then <image>, the two words and <EOC> for each."""
    count, length = words.shape[:2]
    chunks = np.empty((count, length, 4), np.int64)
    chunks[..., 0], chunks[..., 1:3], chunks[..., 3] = IMAGE, words, EOC
    return np.concatenate([np.full((count, 1), BOS), chunks.reshape(count, -1)], 1)


def prompts(given: Episodes, shots: int) -> list[Prompt]:
    """For each episode: `shots` examples, then the image of its last scene, whose caption is asked for."""
    chosen = [*range(shots), given.scenes.shape[1] - 1]
    ids = interleaved(given.captions[:, chosen])[:, :-3]  # up to the last <image>
    return [Prompt(row, tuple(images)) for row, images in zip(ids, given.images[:, chosen])]


def known(given: Episodes) -> np.ndarray:
    """(E, K), bool: whether the captions before one tell what is said of its shape."""
    shapes = given.scenes[..., 0]
    earlier = np.tril(shapes[:, :, None] == shapes[:, None, :], -1)
    return np.asarray(earlier.any(-1))


def draw(rng: np.random.Generator, scenes: np.ndarray) -> np.ndarray:
    """scenes (..., 4) -> images (..., 8, 8, 3): each shape 3 pixels wide somewhere in its quarter, and noise."""
    flat = scenes.reshape(-1, 4)
    shapes, colours, places, grounds = flat.T
    images = np.repeat(_grounds()[grounds][..., None], 3, -1)
    top, left = 4 * np.stack(np.divmod(places, 2)) + rng.integers(2, size=(2, len(flat)))
    number, rows, columns = np.nonzero(_shapes()[shapes])
    images[number, top[number] + rows, left[number] + columns] = _COLOURS[colours[number]]
    images = 2 * images - 1 + 0.1 * rng.standard_normal(images.shape, dtype=np.float32)
    return np.asarray(images.reshape(*scenes.shape[:-1], *images.shape[1:]))


def words_of(ids: np.ndarray) -> str:
    """The words among these ids."""
    return " ".join(WORDS[i - WORD] for i in ids if i >= WORD)


@cache
def _divided() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """All rules (81, 4) and all scenes (256, 4), each divided into those for training and those for testing."""
    rules, scenes = np.array(list(product(range(3), repeat=4))), np.array(list(product(range(4), repeat=4)))
    order = np.random.default_rng(0)
    rules, scenes = order.permutation(rules), order.permutation(scenes)
    return (rules[16:], rules[:16]), (scenes[32:], scenes[:32])


def _shapes() -> np.ndarray:
    """(4, 3, 3), bool."""
    rows = [line.split() for line in _DRAWN.split("\n") if line]
    return np.array([[[c == "#" for c in row[i]] for row in rows] for i in range(4)])


def _grounds() -> np.ndarray:
    """(4, 8, 8), float32: shades of grey."""
    y, x = np.mgrid[:8, :8]
    lit = np.stack([0 * y, y % 2, (y % 2) * (x % 2), (x + y) % 2])
    return (0.3 + 0.3 * lit).astype(np.float32)
