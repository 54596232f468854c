"""Handwritten digits: Perceiver on 64 pixels, with repeated cross-attends and shared weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from typing import Any

import numpy as np

from ..autograd import ops
from ..autograd.backend import Array, xp
from ..autograd.tensor import array_of
from ..autograd.tree import Tree
from ..call import Call
from ..decoder import ProjectionDecoder
from ..encoder import Encoder
from ..inputs import GridInput, Pixels
from ..perceiver_io import PerceiverIO
from ..position import FourierPositions
from .base import Batch, Recipe, Settings, Stage, Task, arrays_like

TRAINED_ON = 1347


def digits() -> tuple[np.ndarray, np.ndarray]:
    """All 1,797 images (N, 8, 8, 1), float32 in [-1, 1], and their labels (N,), in the order of the file."""
    with (files("perceiver_ref.recipes") / "data/digits.npz").open("rb") as file, np.load(file) as archive:
        images, labels = archive["images"], archive["labels"]
    return (images.astype(np.float32) / 8 - 1)[..., None], labels.astype(np.int64)


def model() -> PerceiverIO:
    """Three cross-attends, the later two of which share weights, each before the same block of two layers."""
    preprocessor = GridInput(Pixels(1), FourierPositions(4, (8, 8)))
    encoder = Encoder(
        inputs=preprocessor.channels,
        latents=8,
        channels=48,
        blocks=3,
        layers=2,
        cross_attends=3,
        self_heads=4,
        shared_cross="later",
    )
    return PerceiverIO(encoder, preprocessor, ProjectionDecoder(48, 10))


@dataclass(frozen=True)
class Digits(Task):
    """Training on the first 1,347 images, shifted by up to a pixel; testing on the last 450, by other writers."""

    seed: int
    batch_size: int

    @cached_property
    def model(self) -> PerceiverIO:
        return model()

    @cached_property
    def data(self) -> tuple[np.ndarray, np.ndarray]:
        return digits()

    def init(self, before: Tree = None) -> Tree:
        return self.model.init(self.seed)

    def batch(self, step: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng((self.seed, step))
        chosen = rng.integers(TRAINED_ON, size=self.batch_size)
        images, labels = self.data
        return {"images": shifted(images[chosen], rng), "labels": labels[chosen]}

    def loss(self, params: Tree, batch: Batch, call: Call) -> tuple[Any, dict[str, Any]]:
        logits = self.model.apply(params, batch["images"], call=call)
        return ops.cross_entropy(logits, batch["labels"]), {"accuracy": accuracy(logits, batch["labels"])}

    def evaluate(self, params: Tree) -> dict[str, float]:
        images, labels = (a[TRAINED_ON:] for a in self.data)
        logits = self.model.apply(params, arrays_like(params, {"images": images})["images"])
        return {"test_accuracy": float(accuracy(logits, labels))}


def shifted(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each image (B, 8, 8, 1) moved by -1, 0 or 1 pixels along each axis; what comes in is background."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-1)
    top, left = rng.integers(3, size=(2, len(images), 1, 1))
    rows, columns = np.arange(8)[:, None], np.arange(8)
    moved: np.ndarray = padded[np.arange(len(images))[:, None, None], top + rows, left + columns]
    return moved


def accuracy(logits: Any, labels: np.ndarray) -> Array:
    """The share of rows whose largest logit is the label's: 0-d."""
    values = array_of(logits)
    return (values.argmax(-1) == xp(values).asarray(labels)).mean()


_FULL = Settings(steps=1500, batch_size=64, learning_rate=2e-3, warmup=100, weight_decay=0.05)
_QUICK = Settings(steps=100, batch_size=64, learning_rate=4e-3, warmup=10, weight_decay=0.05, save_every=20)


def _digits(seed: int, quick: bool) -> Digits:
    return Digits(seed, (_QUICK if quick else _FULL).batch_size)


RECIPES = (
    Recipe(
        name="digits",
        what="Classify handwritten digits.",
        model="Perceiver: 3 cross-attends to 64 pixels, weights shared, 8 latents",
        data="1,797 images of UCI's handwritten digits; trained on the first 1,347, tested on the last 450",
        paper="Perceiver (2103.03206), section 4.1",
        metric="test_accuracy",
        better="higher",
        threshold=0.97,
        quick_threshold=0.8,
        expected="at least 97 %",
        minutes=2,
        stages=(Stage("train", _digits, _FULL, _QUICK),),
    ),
)
