"""Eight questions about sequences of sixteen letters, each answered yes or no: the data of the recipe `multitask`.

A letter is an integer from 0 to 3. Every question has its own way to make sequences of which half are answered yes, and
the others are alike but for what is asked: the two cannot be told apart by counting letters, but in `majority`,
`anagram` and `double`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

LENGTH = 16
LETTERS = 4
HALF = LENGTH // 2

Rng = np.random.Generator


def majority(rng: Rng, yes: np.ndarray) -> np.ndarray:
    """Are there more 0 than 1? (One more, or one fewer, at least.)"""
    x = _random(rng, len(yes))
    while (tied := (x == 0).sum(1) == (x == 1).sum(1)).any():
        x[tied] = _random(rng, int(tied.sum()))
    flipped = is_majority(x) != yes
    x[flipped] = np.array([1, 0, 2, 3])[x[flipped]]
    return x


def ends(rng: Rng, yes: np.ndarray) -> np.ndarray:
    """Is the last letter the first one?"""
    x = _random(rng, len(yes))
    x[:, -1] = np.where(yes, x[:, 0], _other(rng, x[:, 0]))
    return x


def double(rng: Rng, yes: np.ndarray) -> np.ndarray:
    """Does a letter stand twice in a row? (If so, at one place.)"""
    steps = rng.integers(1, LETTERS, (len(yes), LENGTH))
    steps[np.flatnonzero(yes), rng.integers(1, LENGTH, int(yes.sum()))] = 0
    return np.asarray(steps.cumsum(1) % LETTERS)


def palindrome(rng: Rng, yes: np.ndarray) -> np.ndarray:
    """Is it the same backwards? (If not, two letters differ.)"""
    half = rng.integers(LETTERS, size=(len(yes), HALF))
    return np.concatenate([half, _changed(rng, half, yes)[:, ::-1]], 1)


def ascending(rng: Rng, yes: np.ndarray) -> np.ndarray:
    """Do the letters never go down? (If not, two different ones are swapped.)"""
    x = np.sort(_random(rng, len(yes)), 1)
    for i in np.flatnonzero(~yes):
        x[i, :2] = 0  # that there are different ones
        x[i, -2:] = 3
        a = rng.integers(LENGTH)
        b = rng.choice(np.flatnonzero(x[i] != x[i, a]))
        x[i, [a, b]] = x[i, [b, a]]
    for i in np.flatnonzero(yes):
        x[i, :2], x[i, -2:] = 0, 3
    return x


def brackets(rng: Rng, yes: np.ndarray) -> np.ndarray:
    """Are the brackets balanced, 0 opening and 1 closing? (If not, there are as many of both.)"""
    flat = np.tile(np.arange(LENGTH) % 2, (len(yes), 1))
    x = rng.permuted(flat, axis=1)
    while (wrong := is_balanced(x) != yes).any():
        x[wrong] = rng.permuted(flat[wrong], axis=1)
    return x


def copy(rng: Rng, yes: np.ndarray) -> np.ndarray:
    """Is the second half the first one? (If not, two letters differ.)"""
    half = rng.integers(LETTERS, size=(len(yes), HALF))
    return np.concatenate([half, _changed(rng, half, yes)], 1)


def anagram(rng: Rng, yes: np.ndarray) -> np.ndarray:
    """Has the second half the letters of the first one, in any order? (If not, one letter is another.)"""
    half = rng.integers(LETTERS, size=(len(yes), HALF))
    second = half.copy()
    second[~yes, 0] = _other(rng, half[~yes, 0])
    return np.concatenate([half, rng.permuted(second, axis=1)], 1)


def held_out(x: np.ndarray) -> np.ndarray:
    """(B,), bool: whether a sequence is kept for testing, as about one in seven is."""
    return np.asarray(x @ np.random.default_rng(0).integers(1, 7, LENGTH) % 7 == 0)


def is_majority(x: np.ndarray) -> np.ndarray:
    """More 0 than 1."""
    return np.asarray((x == 0).sum(1) > (x == 1).sum(1))


def is_balanced(x: np.ndarray) -> np.ndarray:
    """No more brackets closed than opened up to anywhere, and as many in all."""
    depth = np.where(x == 0, 1, -1).cumsum(1)
    return np.asarray((depth >= 0).all(1) & (depth[:, -1] == 0))


QUESTIONS: dict[str, Callable[[Rng, np.ndarray], np.ndarray]] = {
    question.__name__: question for question in (majority, ends, double, palindrome, ascending, brackets, copy, anagram)
}


def asked(rng: Rng, count: int, *, test: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sequences (count, LENGTH), the number of the question asked of each (count,), and whether the answer is yes.

    As many of each question, the rest being of the first ones; all int64. Sequences are `held_out`, or none is.
    """
    questions = np.arange(count) % len(QUESTIONS)
    answers = rng.random(count) < 0.5
    sequences = np.zeros((count, LENGTH), np.int64)
    for number, make in enumerate(QUESTIONS.values()):
        chosen = questions == number
        sequences[chosen] = make(rng, answers[chosen])
        while (wrong := chosen & (held_out(sequences) != test)).any():
            sequences[wrong] = make(rng, answers[wrong])
    return sequences, questions, answers.astype(np.int64)


def _random(rng: Rng, count: int) -> np.ndarray:
    return rng.integers(LETTERS, size=(count, LENGTH))


def _other(rng: Rng, letters: np.ndarray) -> np.ndarray:
    """Letters that are not these."""
    return np.asarray((letters + rng.integers(1, LETTERS, letters.shape)) % LETTERS)


def _changed(rng: Rng, half: np.ndarray, yes: np.ndarray) -> np.ndarray:
    """The same where the answer is yes, else with two letters changed."""
    changes = np.zeros_like(half)
    changes[:, :2] = rng.integers(1, LETTERS, (len(half), 2))
    return np.asarray((half + np.where(yes[:, None], 0, rng.permuted(changes, axis=1))) % LETTERS)
