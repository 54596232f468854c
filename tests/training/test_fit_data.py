"""What `fit` is given: every example once an epoch, lists of many lengths, functions and streams of batches."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from training.test_fit import RNG, Line, X, Y, assert_same, by_hand, drawn, losses, quick

import perceiver_ref as pr
from perceiver_ref.autograd import ops
from perceiver_ref.models.decoder import Decoder
from perceiver_ref.models.encoder import Encoder
from perceiver_ref.models.inputs import VectorInput
from perceiver_ref.models.queries import InputQueries
from perceiver_ref.training import fit
from perceiver_ref.training.interrupts import Interrupted

LENGTHS = RNG.integers(1, 30, size=53)
SETS = [RNG.normal(size=(n, 7)).astype(np.float32) for n in LENGTHS]


def test_parts_count_as_the_tokens_that_they_have() -> None:
    """A mean over tokens, of which rows have different numbers."""
    lengths = RNG.integers(1, 6, size=24)
    ids = [RNG.integers(11, size=n) for n in lengths]
    inputs = [np.eye(7, dtype=np.float32)[i % 7] for i in ids]
    model = pr.PerceiverIO(
        Encoder(7, 3, 10, layers=1, self_heads=5), VectorInput(7), Decoder(10, 7, InputQueries(7), outputs=11)
    )
    whole, parts = (quick(model, train={"inputs": inputs, "targets": ids}, accumulate=n, steps=6) for n in (1, 3))
    np.testing.assert_allclose(losses(parts), losses(whole), rtol=2e-5)


def test_next_tokens_of_many_lengths() -> None:
    """The mean over all that is predicted, by hand: each sequence alone, without padding."""
    model = pr.PerceiverAR(11, 9, 4, 6, 1, self_heads=3)
    ids = [RNG.integers(11, size=n) for n in (5, 10, 3, 7)]
    found = fit(model, "next_token", train={"ids": ids}, steps=1, batch=4, accumulate=2, log_every=1, quiet=True)
    params, each = model.init(0), []
    for one in ids:
        prefix = max(len(one) - 1 - 4, 0)
        logits = model.apply(params, one[None, :-1], prefix=prefix)
        each.append(ops.cross_entropy(logits, one[None, prefix + 1 :], reduction="none").ravel())
    np.testing.assert_allclose(losses(found)[0], np.concatenate(each).mean(), rtol=1e-5)


@pytest.mark.parametrize("name", ["squared_error", "absolute_error", "binary_cross_entropy"])
def test_padding_of_targets_counts_for_nothing(name: str) -> None:
    """The mean over what is real, by hand: sum over examples of each one's sum, over the number of their elements."""
    sets = SETS[:5]
    wanted = [np.tanh(s[:, 0]) ** 2 for s in sets]
    model = pr.PerceiverIO(
        Encoder(7, 3, 10, layers=1, self_heads=5), VectorInput(7), Decoder(10, 7, InputQueries(7), outputs=1)
    )
    found = quick(model, name, train=(sets, wanted), batch=5, steps=1, accumulate=2)
    error = {
        "squared_error": lambda o, t: (o - t) ** 2,
        "absolute_error": lambda o, t: abs(o - t),
        "binary_cross_entropy": lambda o, t: np.log1p(np.exp(o)) - o * t,
    }[name]
    params = model.init(0)
    each = [error(model.apply(params, s[None])[0, :, 0].astype(float), t) for s, t in zip(sets, wanted)]
    expected = np.concatenate(each).mean()
    np.testing.assert_allclose(losses(found)[0], expected, rtol=1e-5)


def test_every_epoch_has_every_example_once() -> None:
    seen: list[np.ndarray] = []

    def watch(batch: dict, rng: np.random.Generator) -> dict:
        seen.append(batch["inputs"][:, 0, 0])
        return batch

    quick(epochs=2, steps=None, augment=watch)
    assert len(seen) == 14
    epochs = [np.concatenate(seen[:7]), np.concatenate(seen[7:])]
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), np.sort(X[:, 0, 0]))
    assert (epochs[0] != epochs[1]).any()
    assert (epochs[0] != X[:, 0, 0]).any()


@pytest.mark.parametrize("buckets", [False, True])
def test_padding_changes_nothing(buckets: bool) -> None:
    """More padding, and what it is filled with."""
    found = [quick(train=(SETS, Y), buckets=buckets, multiple=multiple) for multiple in (1, 16)]
    np.testing.assert_allclose(losses(found[1]), losses(found[0]), rtol=2e-5)

    def spoilt(batch: dict, rng: np.random.Generator) -> dict:
        assert batch["mask"].shape == batch["inputs"].shape[:2]
        return {**batch, "inputs": np.where(batch["mask"][..., None], batch["inputs"], np.float32(1e6))}

    spoiled = quick(train=(SETS, Y), buckets=buckets, augment=spoilt)
    np.testing.assert_allclose(losses(spoiled), losses(found[0]), rtol=2e-5)


def test_buckets_have_like_lengths() -> None:
    def padding(buckets: bool) -> int:
        total = []

        def watch(batch: dict, rng: np.random.Generator) -> dict:
            total.append((~batch["mask"]).sum())
            return batch

        quick(train=(SETS, Y), buckets=buckets, epochs=1, steps=None, augment=watch)
        assert len(total) == 7
        return int(np.sum(total))

    assert padding(True) < padding(False) / 2


def stream():
    """The same five batches."""
    for seed in range(5):
        yield drawn(np.random.default_rng(seed))


def test_functions_and_streams(tmp_path: Path) -> None:
    assert_same(quick(train=drawn).params, quick(train=drawn).params)
    for source in (stream, list(stream())):
        whole = quick(train=source)
        assert whole.steps == 12  # begun anew, twice
        out = tmp_path / str(len(list(tmp_path.iterdir())))
        with pytest.raises(Interrupted):
            quick(train=source, out=out, augment=interrupting(7))
        assert_same(quick(train=source, out=out, resume=True).params, whole.params)
    with pytest.raises(pr.InputError, match="ended after 5 batches"):
        quick(train=stream())


def interrupting(step: int):
    made = iter(range(1000))

    def augment(batch: dict, rng: np.random.Generator) -> dict:
        if next(made) == step:
            os.kill(os.getpid(), signal.SIGINT)
        return batch

    return augment


FRAME = type("DataFrame", (), {"to_numpy": lambda self: np.arange(12.0).reshape(4, 3)})()


def test_lists_and_frames_are_arrays() -> None:
    found = fit(Line(3), by_hand, train={"x": FRAME, "y": [[1.0], [2.0], [3.0], [4.0]]}, steps=2, quiet=True)
    assert found.steps == 2
