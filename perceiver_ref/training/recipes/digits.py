"""Handwritten digits: Perceiver on 64 pixels, with repeated cross-attends and shared weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from ...autograd import ops
from ...autograd.tree import Tree
from ...models.call import Call
from ...models.decoder import ProjectionDecoder
from ...models.encoder import Encoder
from ...models.inputs import GridInput, Pixels
from ...models.perceiver_io import PerceiverIO
from ...models.positions import FourierPositions
from ...models.tracing import trace
from ..pictures import attention_maps
from ..recipe import Batch, Recipe, Settings, Stage, Task, accuracy, arrays_like

TRAINED_ON = 1347
"""Images 1 to 1,347 of the file are trained on, 1,348 to 1,797 tested on, in the file's own order.

The file names no writers, but its images come in runs of one hand after another, so that a shuffled split would test on
hands that were trained on; this one does so for at most the hand at the seam.
"""
BACKGROUND = -1.5
SMOOTHING = 0.1


def digits() -> tuple[np.ndarray, np.ndarray]:
    """All 1,797 images (N, 8, 8, 1), float32 in [-1.5, 1.5], and their labels (N,), in the order of the file.

    The norm of keys and values sees a pixel beside the 18 features of its position: far from 0 it would drown them.
    """
    with (files("perceiver_ref.training.recipes") / "data/digits.npz").open("rb") as file, np.load(file) as archive:
        images, labels = archive["images"], archive["labels"]
    return (images.astype(np.float32) * 0.1875 + BACKGROUND)[..., None], labels.astype(np.int64)


def model() -> PerceiverIO:
    """Three cross-attends, the later two of them with shared weights, each before the same layer of self-attention."""
    preprocessor = GridInput(Pixels(1), FourierPositions(4, (8, 8)))
    encoder = Encoder(
        inputs=preprocessor.channels,
        latents=8,
        channels=64,
        blocks=3,
        layers=1,
        cross_heads=8,
        self_heads=4,
        attend_in="q",
        cross_attends=3,
        shared_cross="later",
    )
    return PerceiverIO(encoder, preprocessor, ProjectionDecoder(64, 10))


@dataclass(frozen=True)
class Digits(Task):
    """Training on the first 1,347 images, each time turned, scaled, sheared and shifted; testing on the others."""

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
        return {"images": self.inputs(distorted(images[chosen], rng)), "labels": labels[chosen]}

    def inputs(self, images: np.ndarray) -> np.ndarray:
        """Images (B, 8, 8, 1) as the model takes them."""
        return images

    def loss(self, params: Tree, batch: Batch, call: Call) -> tuple[Any, dict[str, Any]]:
        logits = self.model.apply(params, batch["images"], call=call)
        loss = ops.cross_entropy(logits, batch["labels"], label_smoothing=SMOOTHING)
        return loss, {"accuracy": accuracy(logits, batch["labels"])}

    @cached_property
    def views(self) -> list[np.ndarray]:
        """The test images, and eight slight distortions of them, the same for all seeds."""
        images, rng = self.data[0][TRAINED_ON:], np.random.default_rng(0)
        return [images, *(distorted(images, rng, stretch=0.06, shift=0.4) for _ in range(8))]

    def evaluate(self, params: Tree) -> dict[str, float]:
        """Of the mean of log-probabilities over all views (Krizhevsky et al. 2012, section 4.1), and of the first."""
        labels = self.data[1][TRAINED_ON:]
        inputs = (arrays_like(params, {"images": self.inputs(view)})["images"] for view in self.views)
        scores = [ops.log_softmax(self.model.apply(params, images)) for images in inputs]
        return {
            "test_accuracy": float(accuracy(sum(scores), labels)),
            "test_accuracy_of_one_view": float(accuracy(scores[0], labels)),
        }

    def baselines(self) -> dict[str, float]:
        images, labels = self.data
        pixels = images.reshape(len(images), -1)
        return {"nearest neighbour": nearest_neighbour(pixels, labels, TRAINED_ON)}

    def show(self, params: Tree, folder: Path) -> list[Path]:
        images = self.data[0][TRAINED_ON : TRAINED_ON + 6]
        with trace(lambda name: name.endswith(".attention.weights")) as traced:
            guesses = self.model.apply(params, images).argmax(-1)
        crosses = [weights for name, weights in traced.items() if name.startswith("encoder.cross_attention")]
        maps = [weights.mean((1, 2)).reshape(-1, 8, 8) for weights in crosses]  # over heads and latents
        titles = ["input", *(f"cross-attend {i + 1}" for i in range(len(maps)))]
        labels = list(zip(self.data[1][TRAINED_ON:], guesses))
        return attention_maps(list(images[..., 0]), list(zip(*maps)), titles, folder / "attention.png", labels)


def nearest_neighbour(inputs: np.ndarray, labels: np.ndarray, trained_on: int) -> float:
    """Accuracy on the rows of inputs (N, D) after the first `trained_on`, each labelled as the nearest of those."""
    known, asked = inputs[:trained_on], inputs[trained_on:]
    distances = (known * known).sum(-1) - 2 * asked @ known.T  # but for what all of a row share
    return float((labels[:trained_on][distances.argmin(-1)] == labels[trained_on:]).mean())


def distorted(images: np.ndarray, rng: np.random.Generator, *, stretch: float = 0.12, shift: float = 1.0) -> np.ndarray:
    """Each image (B, 8, 8, 1) through a random affine map, interpolated linearly; what comes in is background.

    The map is the identity with `stretch` times standard normal numbers added to its entries, then a shift of up to
    `shift` pixels along each axis.
    """
    count = len(images)
    padded = np.pad(images[..., 0], ((0, 0), (3, 3), (3, 3)), constant_values=BACKGROUND)
    matrix = np.eye(2) + stretch * rng.standard_normal((count, 2, 2))
    moved = rng.uniform(-shift, shift, (count, 2, 1))
    grid = np.mgrid[:8, :8].reshape(2, 64) - 3.5
    where = np.clip(matrix @ grid + moved + 6.5, 0, 12.999)  # (B, 2, 64), on the padded image of 14 x 14
    corner = where.astype(np.int64)
    (down, right), (top, left) = (where - corner).swapaxes(0, 1), corner.swapaxes(0, 1)
    each = np.arange(count)[:, None]
    upper = (1 - right) * padded[each, top, left] + right * padded[each, top, left + 1]
    lower = (1 - right) * padded[each, top + 1, left] + right * padded[each, top + 1, left + 1]
    made: np.ndarray = (1 - down) * upper + down * lower
    return made.astype(np.float32).reshape(count, 8, 8, 1)


_FULL = Settings(
    steps=2000, batch_size=64, learning_rate=4e-3, warmup=50, weight_decay=0.1, options={"b2": 0.99}, evaluate_every=250
)
_QUICK = Settings(steps=60, batch_size=64, learning_rate=4e-3, warmup=10, weight_decay=0.05, save_every=20)


RECIPES = (
    Recipe(
        name="digits",
        what="Classify handwritten digits.",
        model="Perceiver: 3 cross-attends to 64 pixels, weights shared, 8 latents",
        data="1,797 images of UCI's handwritten digits; trained on the first 1,347, distorted, tested on the last 450, "
        "each by the mean over nine views",
        paper="Perceiver (2103.03206), section 4.1",
        metric="test_accuracy",
        better="higher",
        threshold=0.97,
        quick_threshold=0.5,
        expected="97 to 98 %",
        minutes=3,
        stages=(Stage("train", Digits, _FULL, _QUICK),),
    ),
)
