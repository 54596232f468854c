"""Autoregressive language modelling: what is predicted from what, and the numbers that are reported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from perceiver_ref.models.inputs.bytes import OFFSET, VOCABULARY, decode
from perceiver_ref.training.recipes import recipe
from perceiver_ref.training.recipes.generate import Generate
from perceiver_ref.training.recipes.ngrams import Trigrams
from perceiver_ref.training.recipes.prose import ALPHABET, prose, symbols


class ByTrigrams(Generate):
    """Predicts as the trigram model does."""

    def logits(self, params, ids):
        log_p = np.log(Trigrams.of(symbols(self.text[0]), len(ALPHABET)).p)
        text = symbols(ids)[:, -self.model.latents - 1 :]
        logits = np.full((len(ids), self.model.latents, VOCABULARY), -1e9)
        logits[..., ALPHABET + OFFSET] = log_p[text[:, :-1], text[:, 1:]]
        return logits


@pytest.fixture(scope="module")
def task() -> Generate:
    return recipe("generate").stages[0].build(0, True)


@pytest.mark.parametrize("quick", [False, True])
def test_targets_are_the_bytes_after_the_latents(quick: bool) -> None:
    task = recipe("generate").stages[0].build(2, quick)
    made, n = task.batch(4), task.model.latents
    assert made["ids"].shape == (task.batch_size, task.model.length)
    assert made["targets"].shape == (task.batch_size, n)
    np.testing.assert_array_equal(made["targets"][:, :-1], made["ids"][:, -n + 1 :])
    train = decode(task.text[0])
    ring = train + train[: task.model.length + 1]
    for ids, targets in zip(made["ids"], made["targets"]):
        assert decode(ids) + decode(targets[-1:]) in ring


def test_no_latent_sees_a_byte_that_comes_later(task: Generate) -> None:
    ids, n = task.batch(0)["ids"], task.model.latents
    params = task.init()
    weight = np.random.default_rng(0).normal(size=params["logits"]["weight"].shape)
    params["logits"]["weight"] = weight.astype(np.float32)
    logits = task.logits(params, ids)
    other = ids.copy()
    other[:, -5] = OFFSET
    changed = task.logits(params, other)
    np.testing.assert_array_equal(changed[:, : n - 5], logits[:, : n - 5])
    assert (changed[:, n - 5 :] != logits[:, n - 5 :]).any(-1).all()


def test_bits_of_a_trigram_model_are_those_of_the_baseline(task: Generate) -> None:
    """So every held-out byte counts once, and the baseline is measured on the same bytes."""
    measured = ByTrigrams(0, task.batch_size, task.model).evaluate({})["bits_per_byte"]
    assert measured == pytest.approx(task.baselines()["trigram"], rel=1e-9)  # float64


def test_thresholds_are_below_the_baselines_on_this_pythons_text(task: Generate) -> None:
    row, baselines = recipe("generate"), task.baselines()
    assert row.threshold < baselines["trigram"] - 0.1
    assert row.threshold < baselines["lzma"]
    assert baselines["lzma_after_training_text"] < baselines["lzma"]
    shares = np.bincount(symbols(task.text[0]), minlength=len(ALPHABET)) + 1.0
    of_bytes = -np.log2(shares / shares.sum())[symbols(task.text[1])].mean()
    assert row.quick_threshold < of_bytes - 0.3  # what is known without any context


def test_samples_continue_held_out_paragraphs(task: Generate, tmp_path: Path) -> None:
    (path,) = task.show(task.init(), tmp_path)
    text = path.read_text(encoding="utf-8")
    beginnings = [line[:80] for line in prose().test if len(line) > 80][:8]
    assert all(f"{beginning}|" in text for beginning in beginnings)
