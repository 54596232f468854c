"""The questions: their answers by plain definitions; models, metric and baseline of `multitask`."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from perceiver_ref.autograd.backend import to_backend, to_host
from perceiver_ref.training.recipes import multitask
from perceiver_ref.training.recipes.multitask import Multitask, likelier_answer, model, table
from perceiver_ref.training.recipes.questions import HALF, LENGTH, LETTERS, QUESTIONS, asked, held_out


def balanced(x: list[int]) -> bool:
    text = "".join("()"[letter] for letter in x)
    while "()" in text:
        text = text.replace("()", "")
    return not text


ANSWERS = {
    "majority": lambda x: x.count(0) > x.count(1),
    "ends": lambda x: x[0] == x[-1],
    "double": lambda x: any(a == b for a, b in pairwise(x)),
    "palindrome": lambda x: x == x[::-1],
    "ascending": lambda x: x == sorted(x),
    "brackets": balanced,
    "copy": lambda x: x[:HALF] == x[HALF:],
    "anagram": lambda x: Counter(x[:HALF]) == Counter(x[HALF:]),
}


def test_every_question_has_a_definition() -> None:
    assert list(ANSWERS) == list(QUESTIONS)


@pytest.mark.parametrize("name", QUESTIONS)
def test_answers_are_true_and_both_occur(name: str) -> None:
    yes = np.random.default_rng(1).random(400) < 0.5
    x = QUESTIONS[name](np.random.default_rng(2), yes)
    assert x.shape == (400, LENGTH)
    assert (x.min(), x.max()) == (0, 1 if name == "brackets" else LETTERS - 1)
    assert [ANSWERS[name](row) for row in x.tolist()] == yes.tolist()


def test_sequences_answered_no_are_near_misses() -> None:
    def asked_in_vain(name: str) -> list[list[int]]:
        return QUESTIONS[name](np.random.default_rng(3), np.zeros(200, bool)).tolist()

    def differences(rows: list[list[int]], direction: int) -> set[int]:
        return {sum(a != b for a, b in zip(row[:HALF], row[HALF:][::direction])) for row in rows}

    assert differences(asked_in_vain("copy"), 1) == set(range(1, HALF + 1))  # from one letter to all
    assert differences(asked_in_vain("palindrome"), -1) == set(range(1, HALF + 1))
    assert all(row.count(0) == row.count(1) for row in asked_in_vain("brackets"))
    for row in asked_in_vain("ascending"):
        pairs = [(i, j) for i in range(LENGTH) for j in range(i) if row[i] != row[j]]
        assert any(swapped(row, i, j) == sorted(row) for i, j in pairs)


def swapped(row: list[int], i: int, j: int) -> list[int]:
    changed = list(row)
    changed[i], changed[j] = changed[j], changed[i]
    return changed


def test_questions_are_asked_equally_often() -> None:
    sequences, questions, answers = asked(np.random.default_rng(0), 80)
    assert Counter(questions.tolist()) == dict.fromkeys(range(8), 10)
    names = list(QUESTIONS)
    assert [ANSWERS[names[q]](row) for q, row in zip(questions, sequences.tolist())] == (answers == 1).tolist()
    assert sequences.dtype == questions.dtype == answers.dtype == np.int64


def test_no_test_is_ever_trained_on() -> None:
    task = Multitask(0, 256, "queries", 512)
    tests, questions, answers = task.data
    names = list(QUESTIONS)
    assert [ANSWERS[names[q]](row) for q, row in zip(questions, tests.tolist())] == (answers == 1).tolist()
    assert held_out(tests).all()
    for step in range(4):
        assert not held_out(task.batch(step)["ids"]).any()


@pytest.mark.parametrize("name", ["queries", "shared"])
def test_logits_are_those_of_the_question_asked(name: str, backend: str) -> None:
    task = Multitask(0, 8, name, 8)
    params = model(name).init(0, backend=backend)
    ids = to_backend(np.random.default_rng(0).integers(LETTERS, size=(8, LENGTH)), backend)
    every = to_host(model(name).apply(params, ids)).reshape(8, 8, 2)
    asked_of = np.array([3, 0, 7, 7, 1, 2, 5, 4])
    got = to_host(task.logits(params, name, ids, asked_of))
    np.testing.assert_array_equal(got, every[np.arange(8), asked_of])


def test_a_query_is_all_that_questions_have_of_their_own() -> None:
    each, shared = model("queries"), model("shared")
    assert each.parameters()["decoder"]["queries"].keys() == shared.parameters()["decoder"]["queries"].keys()
    assert each.count() - shared.count() == 7 * multitask.WIDTH - 7 * 2 * (multitask.WIDTH + 1)


def test_accuracies_of_constructed_predictions(monkeypatch: pytest.MonkeyPatch) -> None:
    task = Multitask(0, 8, "queries", 160)
    _, questions, answers = task.data
    logits = np.eye(2, dtype=np.float32)[answers]
    monkeypatch.setattr(Multitask, "logits", lambda *_: logits)
    assert set(task.accuracies(None, "queries").values()) == {1.0}
    logits = np.where((questions == 1)[:, None], 1 - logits, logits)
    found = task.accuracies(None, "queries")
    assert (found["ends"], found["majority"]) == (0, 1)
    assert found["mean_accuracy"] == 7 / 8


def test_the_likelier_answer_is_right_as_often_as_it_is_given() -> None:
    questions = np.repeat(np.arange(8), 4)
    answers = np.tile([1, 0, 0, 0], 8)
    answers[:4] = 1
    assert likelier_answer(questions, answers) == (1 + 7 * 0.75) / 8


def test_the_table_has_every_question(tmp_path: Path) -> None:
    task = Multitask(0, 8, "queries", 64)
    params = task.init(Multitask(0, 8, "shared", 64).init())
    (written,) = task.show(params, tmp_path)
    assert written.read_text() == table(task.evaluate(params), task.baselines())
    names = [line.split("  ")[0] for line in written.read_text().splitlines()[1:]]
    assert names == [*QUESTIONS, "mean accuracy", "likelier answer"]
