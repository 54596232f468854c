"""Permuted digits: the pixels of every image in one random order, each with the features of where it was.

Perceiver, section 4.1: the order is drawn once, and the positions are encoded before it is applied. It carries no
information away, but ends that a grid's neighbours are neighbours, which convolutions rely on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ...autograd import ops, tree
from ...autograd.tree import Tree
from ...host.files import write_text
from ...models.call import Call
from ...models.inputs import GridInput
from ...models.layers import Linear
from ...models.module import Module, Parameter, fan_in_scaled, part, zeros
from ..recipe import Recipe, Settings, Stage
from ..step import training_step
from . import digits
from .digits import Digits

ORDER = np.random.default_rng(64).permutation(64)
"""The pixel, row-major, that each place gets."""
METRIC = "test_accuracy"
PERCEIVER_IN_ORDER, PERCEIVER_PERMUTED = "Perceiver, pixels in order", "Perceiver, permuted"
CONVOLUTION_IN_ORDER, CONVOLUTION_PERMUTED = "convolution network, pixels in order", "convolution network, permuted"


@dataclass(frozen=True)
class ConvolutionNetwork(Module):
    """3x3 convolutions with ReLU, all but the first with stride 2, then the mean over the grid and a linear map."""

    grid: tuple[int, int]
    channels: int
    hidden: tuple[int, ...]
    outputs: int

    @part
    def head(self) -> Linear:
        """The map of the mean."""
        return Linear(self.hidden[-1], self.outputs)

    def parameters(self) -> Tree:
        widths = (self.channels, *self.hidden)
        layers = [
            {"weight": Parameter((3, 3, c, e), _before_relu), "bias": Parameter((e,), zeros)}
            for c, e in pairwise(widths)
        ]
        return {"convolutions": layers, "head": self.head.parameters()}

    def apply(self, p: Tree, elements: Any, *, call: Call | None = None) -> Any:
        """elements (B, H W, channels), laid out on the grid row by row -> (B, outputs)."""
        x = ops.reshape(elements, shape=(elements.shape[0], *self.grid, self.channels))
        for i, layer in enumerate(p["convolutions"]):
            strides = (2, 2) if i else (1, 1)
            padding = ops.same_padding(x.shape[1:3], (3, 3), strides)
            x = ops.relu(ops.add(ops.convolution(x, layer["weight"], strides=strides, padding=padding), layer["bias"]))
        return self.head.apply(p["head"], ops.mean(x, axis=(1, 2)))


def _before_relu(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """He et al. 2015 (arXiv 1502.01852), section 2.2: half of what ReLU gets is lost."""
    return math.sqrt(2) * fan_in_scaled(rng, shape)


def elements(images: np.ndarray, permuted: bool) -> np.ndarray:
    """Images (B, 8, 8, 1) -> pixels with the Fourier features of their positions (B, 64, C), in order or permuted."""
    preprocessor = digits.model().preprocessor
    assert isinstance(preprocessor, GridInput)
    made: np.ndarray = preprocessor.apply(preprocessor.init(), images).inputs
    return made[:, ORDER] if permuted else made


@dataclass(frozen=True)
class PermutedDigits(Digits):
    """As `Digits`, with the same images in the same batches, which only then become elements and are permuted."""

    quick: bool = False
    network: Literal["perceiver", "convolution"] = "perceiver"
    permuted: bool = True

    @cached_property
    def model(self) -> Any:
        perceiver = digits.model()
        if self.network == "perceiver":
            return replace(perceiver, preprocessor=None)
        return ConvolutionNetwork((8, 8), perceiver.encoder.inputs, (32, 64, 64), 10)

    @cached_property
    def views(self) -> list[np.ndarray]:
        """As `Digits`; three in the quick form."""
        return super().views[: 3 if self.quick else None]

    def inputs(self, images: np.ndarray) -> np.ndarray:
        """Elements (B, 64, C)."""
        return elements(images, self.permuted)

    def baselines(self) -> dict[str, float]:
        """The test accuracy of small convolution networks on the same elements, in order and permuted.

        In the full form also that of this model on pixels in order.
        """
        return self._baselines

    @cached_property
    def _baselines(self) -> dict[str, float]:
        settings = _QUICK_CONVOLUTION if self.quick else _CONVOLUTION
        values = {} if self.quick else {PERCEIVER_IN_ORDER: replace(self, permuted=False).trained(_FULL)}
        values[CONVOLUTION_IN_ORDER] = replace(self, network="convolution", permuted=False).trained(settings)
        values[CONVOLUTION_PERMUTED] = replace(self, network="convolution").trained(settings)
        return values

    def trained(self, settings: Settings) -> float:
        """The test accuracy after training without a checkpoint."""
        structure = self.init()
        optimizer = settings.make_optimizer(self.decays)
        params: Tree = tree.flatten(structure)
        state = optimizer.init(params)
        step = training_step(self, structure, optimizer, "numpy")
        for i in range(settings.steps):
            params, state, _, _ = step(params, state, self.batch(i), Call(training=True, key=(self.seed, i)))
        return self.evaluate(tree.unflatten_like(structure, [params[path] for path, _ in tree.leaves(structure)]))[
            METRIC
        ]

    def show(self, params: Tree, folder: Path) -> list[Path]:
        """comparison.txt: both networks on pixels in order and permuted."""
        values = {PERCEIVER_PERMUTED: self.evaluate(params)[METRIC], **self.baselines()}
        write_text(folder / "comparison.txt", comparison(values))
        return [folder / "comparison.txt"]


def comparison(values: Mapping[str, float]) -> str:
    """A line for each network: the test accuracies on pixels in order and permuted, as far as they are given."""
    lines = [f"{'':<20}{'in order':>10}{'permuted':>10}{'change':>10}\n"]
    for network in ("Perceiver", "convolution network"):
        ordered, permuted = (values.get(f"{network}, {pixels}") for pixels in ("pixels in order", "permuted"))
        shown = ["-" if value is None else f"{value:.1%}" for value in (ordered, permuted)]
        change = "-" if ordered is None or permuted is None else f"{100 * (permuted - ordered):+.1f}"
        lines.append(f"{network:<20}{shown[0]:>10}{shown[1]:>10}{change:>10}\n")
    return "".join(lines)


(_DIGITS,) = digits.RECIPES
_FULL, _QUICK = _DIGITS.stages[0].settings, replace(_DIGITS.stages[0].quick, steps=50)
_CONVOLUTION = Settings(steps=1000, batch_size=64, learning_rate=6e-3, warmup=20, weight_decay=0.05)
_QUICK_CONVOLUTION = replace(_CONVOLUTION, steps=40)


RECIPES = (
    Recipe(
        name="digits-permuted",
        what="Classify handwritten digits whose pixels are in a random order.",
        model="The model of digits; beside it a network of three convolutions",
        data="those of digits; the pixels of every image in one random order, each with the features of its position",
        paper="Perceiver (2103.03206), section 4.1, table 2",
        metric=METRIC,
        better="higher",
        threshold=0.96,
        quick_threshold=_DIGITS.quick_threshold,
        expected="the accuracy of digits within noise, where a convolution network falls",
        minutes=7,
        baseline=CONVOLUTION_PERMUTED,
        stages=(Stage("train", PermutedDigits, _FULL, _QUICK, partial(PermutedDigits, quick=True)),),
    ),
)
