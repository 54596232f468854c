"""Masked language modelling: what is masked, what is seen, and the numbers that are reported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from perceiver_ref.models.inputs.bytes import MASK, VOCABULARY, decode
from perceiver_ref.training.recipes import recipe
from perceiver_ref.training.recipes.language import Language
from perceiver_ref.training.recipes.prose import symbols


class Oracle(Language):
    """Knows every byte; says so with so many nats of confidence."""

    nats = 20.0

    def logits(self, params, ids, masked, asked=None):
        return self.nats * np.eye(VOCABULARY, dtype=np.float32)[np.take_along_axis(ids, masked, 1)]


@pytest.fixture(scope="module")
def task() -> Language:
    return recipe("language").stages[0].build(0, True)


@pytest.mark.parametrize("quick", [False, True])
def test_windows_are_of_the_text_and_masked_in_the_same_number_of_places(quick: bool) -> None:
    task = recipe("language").stages[0].build(3, quick)
    made = task.batch(5)
    for masked, seen in zip(made["masked"], made["seen"], strict=True):
        assert set(masked).isdisjoint(seen)
    size = task.size
    assert made["ids"].shape == (task.batch_size, size.length)
    assert made["masked"].shape == (task.batch_size, size.masked)
    assert size.masked == pytest.approx(0.15 * size.length, abs=0.5)
    train = decode(task.text[0])
    for ids, where in zip(made["ids"], made["masked"]):
        assert decode(ids) in train + train[: size.length]
        assert len(set(where.tolist())) == size.masked
        assert 0 <= where.min() <= where.max() < size.length
    everywhere = np.concatenate([task.batch(step)["masked"].ravel() for step in range(100)])
    counts = np.bincount(everywhere, minlength=size.length)
    assert counts.min() > 0.5 * counts.mean()


def test_masked_bytes_are_not_seen_and_the_others_are(task: Language) -> None:
    made, params = task.batch(0), task.init()
    ids, where = made["ids"], made["masked"]
    logits = task.logits(params, ids, where)
    other = ids.copy()
    np.put_along_axis(other, where, (np.take_along_axis(ids, where, 1) + 7) % VOCABULARY, 1)
    np.testing.assert_array_equal(task.logits(params, other, where), logits)
    seen = next(i for i in range(task.size.length) if i not in where[0])
    other[0, seen] = MASK
    changed = task.logits(params, other, where)
    assert (changed[0] != logits[0]).any()
    np.testing.assert_array_equal(changed[1:], logits[1:])


def test_the_test_is_on_held_out_text_whatever_the_seed(task: Language) -> None:
    test = task.test
    text = decode(task.text[1])
    assert "".join(decode(ids) for ids in test["ids"]) == text[: test["ids"].size]
    assert len(text) - test["ids"].size < task.size.length
    other = recipe("language").stages[0].build(1, True).test
    for key, array in test.items():
        np.testing.assert_array_equal(array, other[key])


def test_metrics_of_an_oracle_and_of_no_idea(task: Language) -> None:
    oracle = Oracle(0, task.batch_size, task.size)
    perfect = oracle.evaluate({})
    assert perfect["masked_accuracy"] == 1
    assert perfect["masked_bits"] < 1e-5
    Oracle.nats = 0.0
    try:
        none = oracle.evaluate({})
    finally:
        Oracle.nats = 20.0
    assert none["masked_accuracy"] == 0  # the first id is no byte of the text
    assert none["masked_bits"] == pytest.approx(np.log2(VOCABULARY), rel=1e-5)  # float32


@pytest.mark.parametrize("quick", [False, True])
def test_thresholds_are_above_the_baselines_on_this_pythons_text(quick: bool) -> None:
    row = recipe("language")
    task = row.stages[0].build(0, quick)
    baselines = task.baselines()
    targets = np.take_along_axis(symbols(task.test["ids"]), task.test["masked"], 1)
    shares = np.bincount(targets.ravel()) / targets.size
    assert baselines["commonest"] == pytest.approx(shares.max())  # the space, in both texts
    assert baselines["trigram_of_all"] > baselines["trigram"] > 2 * baselines["commonest"]
    if quick:
        assert row.quick_threshold > 1.2 * baselines["commonest"]
    else:
        assert row.threshold > baselines["trigram"] + 0.1


def test_sentences_are_shown_as_filled_in(task: Language, tmp_path: Path) -> None:
    (path,) = Oracle(0, task.batch_size, task.size).show({}, tmp_path)
    groups = path.read_text(encoding="utf-8").strip().split("\n\n")
    assert len(groups) == 24
    for group in groups:
        lines = dict(line.split(maxsplit=1) for line in group.splitlines())
        assert lines["Perceiver"] == lines["text"]
        assert lines["masked"].count("·") == task.size.masked
        assert all(c in ("·", t) for c, t in zip(lines["masked"], lines["text"], strict=True))
        assert all(c in ("·", t) for c, t in zip(lines["masked"], lines["trigrams"], strict=True))
