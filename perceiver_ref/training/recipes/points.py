"""Point clouds: Perceiver on points of surfaces, in no order."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ...autograd import ops
from ...autograd.backend import to_host
from ...autograd.tree import Tree
from ...host.files import write_text
from ...models.call import Call
from ...models.decoder import ProjectionDecoder
from ...models.encoder import Encoder
from ...models.inputs import PointInput
from ...models.perceiver_io import PerceiverIO
from ...models.positions import FourierPositions
from ..recipe import Batch, Recipe, Settings, Stage, Task, accuracy, arrays_like
from .surfaces import SURFACES, clouds, rotations, unit_cloud

POINTS = 256
TESTED_ON = 1024
NOISE = 0.02
_TRAINING, _TESTING, _BASELINE = 0, 1, 2  # the last number of a seed


def model() -> PerceiverIO:
    """Two cross-attends with weights of their own, as for ModelNet40, each before the same layer of self-attention."""
    preprocessor = PointInput(FourierPositions(3, (4, 4, 4)))
    encoder = Encoder(
        inputs=preprocessor.channels,
        latents=16,
        channels=48,
        blocks=2,
        layers=1,
        cross_attends=2,
        self_heads=4,
    )
    return PerceiverIO(encoder, preprocessor, ProjectionDecoder(48, len(SURFACES)))


def sample(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """n clouds (n, POINTS, 3), float32 in [-1, 1], and their labels (n,), each kind as often as the others.

    Each is rotated at random, its points moved by normal noise, and scaled by 0.8 to 1.
    """
    labels = rng.permutation(np.arange(n) % len(SURFACES))
    upright = unit_cloud(clouds(rng, labels, POINTS))
    turned = upright @ rotations(rng, n)
    noisy = unit_cloud(turned + NOISE * rng.standard_normal(turned.shape))
    return (noisy * rng.uniform(0.8, 1, (n, 1, 1))).astype(np.float32), labels


@dataclass(frozen=True)
class Points(Task):
    """Training on clouds that are new in every step; testing on 1,024 that are the same for all seeds."""

    @cached_property
    def model(self) -> PerceiverIO:
        return model()

    @cached_property
    def tests(self) -> tuple[np.ndarray, np.ndarray]:
        return sample(np.random.default_rng((0, 0, _TESTING)), TESTED_ON)

    def init(self, before: Tree = None) -> Tree:
        return self.model.init(self.seed)

    def batch(self, step: int) -> dict[str, np.ndarray]:
        points, labels = sample(np.random.default_rng((self.seed, step, _TRAINING)), self.batch_size)
        return {"points": points, "labels": labels}

    def loss(self, params: Tree, batch: Batch, call: Call) -> tuple[Any, dict[str, Any]]:
        logits = self.model.apply(params, batch["points"], call=call)
        return ops.cross_entropy(logits, batch["labels"]), {"accuracy": accuracy(logits, batch["labels"])}

    def predictions(self, params: Tree) -> np.ndarray:
        """The kind that is likeliest for each test cloud: (1024,)."""
        points = arrays_like(params, {"points": self.tests[0]})["points"]
        parts = [self.model.apply(params, points[i : i + 256]) for i in range(0, TESTED_ON, 256)]
        return np.concatenate([to_host(part).argmax(-1) for part in parts])

    def evaluate(self, params: Tree) -> dict[str, float]:
        return {"test_accuracy": float((self.predictions(params) == self.tests[1]).mean())}

    def baselines(self) -> dict[str, float]:
        """That of the nearest class mean, in distances of the points from their centre, of 2,048 clouds."""
        known, labels = sample(np.random.default_rng((self.seed, 0, _BASELINE)), 2048)
        points, answers = self.tests
        guesses = nearest_mean(distances(known), labels, distances(points))
        return {"nearest class mean of distances from the centre": float((guesses == answers).mean())}

    def show(self, params: Tree, folder: Path) -> list[Path]:
        """confusions.txt: what the test clouds of each kind are taken for."""
        path = folder / "confusions.txt"
        write_text(path, confusions(self.predictions(params), self.tests[1]))
        return [path]


def confusions(guesses: np.ndarray, labels: np.ndarray) -> str:
    """A row for each kind: how many of its clouds are taken for each kind."""
    counts = np.zeros((len(SURFACES), len(SURFACES)), np.int64)
    np.add.at(counts, (labels, guesses), 1)
    rows = [" " * 9 + "".join(f"{kind:>9}" for kind in SURFACES)]
    rows += [f"{kind:<9}" + "".join(f"{count:>9}" for count in row) for kind, row in zip(SURFACES, counts)]
    return "\n".join(rows) + "\n"


def distances(points: np.ndarray) -> np.ndarray:
    """Distances of a cloud's points from their mean, the largest being 1, in ascending order: (n, M, 3) -> (n, M).

    Neither rotation nor the order of the points changes them.
    """
    return np.sort(np.linalg.norm(unit_cloud(points), axis=-1), axis=-1)


def nearest_mean(known: np.ndarray, labels: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """For each row of `asked` (m, F) the label whose rows of `known` (n, F) have the nearest mean: (m,)."""
    means = np.stack([known[labels == label].mean(0) for label in range(labels.max() + 1)])
    return np.asarray(((asked[:, None] - means) ** 2).sum(-1).argmin(-1))


_FULL = Settings(steps=5000, batch_size=32, learning_rate=4e-3, warmup=100, weight_decay=0.01)
_QUICK = Settings(steps=100, batch_size=32, learning_rate=3e-3, warmup=10, weight_decay=0.01, save_every=20)


RECIPES = (
    Recipe(
        name="points",
        what="Classify surfaces by points on them.",
        model="Perceiver: 2 cross-attends to 256 points, 16 latents",
        data="generated: 8 kinds of surfaces of random proportions, 256 points each, rotated, with noise",
        paper="Perceiver (2103.03206), section 4.3",
        metric="test_accuracy",
        better="higher",
        threshold=0.95,
        quick_threshold=0.4,
        expected="about 99 %",
        minutes=5,
        stages=(Stage("train", Points, _FULL, _QUICK),),
    ),
)
