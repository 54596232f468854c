"""Eight questions about sequences of sixteen letters, each answered yes or no: the data of the recipe `multitask`.

A letter is an integer from 0 to 3. Every question has its own way to make sequences, of which half are answered yes;
the others are alike but for what is asked.
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
    """Does a letter stand twice in a row? (If so, at any number of places.)"""
    steps = rng.integers(1, LETTERS, (len(yes), LENGTH))
    steps[:, 1:] *= ~(_some(rng, len(yes), LENGTH - 1) & yes[:, None])
    return np.asarray(steps.cumsum(1) % LETTERS)


def palindrome(rng: Rng, yes: np.ndarray) -> np.ndarray:
    """Is it the same backwards? (If not, one letter or more of the second half is another.)"""
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
    """Is the second half the first one? (If not, one letter or more of it is another.)"""
    half = rng.integers(LETTERS, size=(len(yes), HALF))
    return np.concatenate([half, _changed(rng, half, yes)], 1)


def anagram(rng: Rng, yes: np.ndarray) -> np.ndarray:
    """Has the second half the letters of the first one, in any order? (If not, it has more or fewer of some.)"""
    half = rng.integers(LETTERS, size=(len(yes), HALF))
    second = _changed(rng, half, yes)
    while (wrong := (np.sort(second, 1) == np.sort(half, 1)).all(1) != yes).any():
        second[wrong] = _changed(rng, half[wrong], yes[wrong])
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
    """The same where the answer is yes, else with some letters changed."""
    chosen = _some(rng, *half.shape) & ~yes[:, None]
    return np.where(chosen, _other(rng, half), half)


def _some(rng: Rng, rows: int, columns: int) -> np.ndarray:
    """(rows, columns), bool: in each row any number of places, all numbers from 1 on being as likely."""
    number = rng.integers(1, columns + 1, (rows, 1))
    return rng.permuted(np.tile(np.arange(columns), (rows, 1)), axis=1) < number
