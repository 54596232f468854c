"""Decoder outputs -> images and video: from pixels, patches, a 1x1 convolution or transposed convolutions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from ...autograd import ops
from ...autograd.tree import Tree
from ..constraints import Count
from ..inputs.features import depth_to_space
from ..layers import Linear
from ..module import Module, Parameter, fan_in_normal, part, zeros
from ..tracing import point


@dataclass(frozen=True)
class Upsample(Module):
    """Transposed convolutions with bias, 4 wide in every axis, ReLU between them; each doubles the grid (SAME).

    The first `space` of them double height and width, the first `time` the frames; with `time` None grids are images.
    The last has `outputs` channels, each one before it twice as many as the next.
    """

    inputs: int
    outputs: int
    space: Count = 2
    time: Count | None = None

    def _layers(self) -> list[tuple[tuple[int, ...], tuple[int, ...], int, int]]:
        """(window, strides, inputs, outputs) of each."""
        count = max(self.space, self.time or 0)
        layers = []
        inputs = self.inputs
        for i in range(count):
            outputs = self.outputs * 2 ** (count - 1 - i)
            doubled = [i < self.space] * 2 if self.time is None else [i < self.time, *[i < self.space] * 2]
            layers.append(((4,) * len(doubled), tuple(2 if double else 1 for double in doubled), inputs, outputs))
            inputs = outputs
        return layers

    def parameters(self) -> Tree:
        return {
            str(i): {"weight": Parameter((*window, c, e), fan_in_normal), "bias": Parameter((e,), zeros)}
            for i, (window, _, c, e) in enumerate(self._layers())
        }

    def apply(self, p: Tree, x: Any) -> Any:
        """x (B, *grid, inputs) -> (B, *larger grid, outputs); images of a video go through one by one.

        Values are traced with all frames along the batch axis.
        """
        layers = self._layers()
        axes = 2 if self.time is None else 3
        frames = x.shape[: -axes - 1]
        x = ops.reshape(x, shape=(math.prod(frames), *x.shape[-axes - 1 :]))
        for i, (window, strides, _, _) in enumerate(layers):
            padding = transposed_same_padding(window, strides)
            x = ops.transposed_convolution(x, p[str(i)]["weight"], strides=strides, padding=padding)
            x = point(f"upsample.{i}", ops.add(x, p[str(i)]["bias"]))
            x = ops.relu(x) if i < len(layers) - 1 else x
        return ops.reshape(point("upsample", x), shape=(*frames, *x.shape[1:]))


@dataclass(frozen=True)
class ImageOutput(Module):
    """Outputs laid out on `grid`, then upsampled by `space` (and `time`) as `kind` says:

    "pixels" not at all; "patches" by laying channels out in space; "linear" by a 1x1 convolution to `outputs`
    channels; "conv" by transposed convolutions, see `Upsample` (frame by frame and 4 times without `time`).
    """

    inputs: int
    outputs: int
    kind: Literal["pixels", "patches", "linear", "conv"] = "pixels"
    grid: tuple[int, ...] | None = None
    space: int = 1
    time: int = 1

    @part
    def linear(self) -> Linear | None:
        """The 1x1 convolution, for that kind."""
        return Linear(self.inputs, self.outputs) if self.kind == "linear" else None

    @part
    def upsample(self) -> Upsample | None:
        """The transposed convolutions, for that kind."""
        if self.kind != "conv":
            return None
        if self.time == 1:
            return Upsample(self.inputs, self.outputs)
        return Upsample(self.inputs, self.outputs, _doublings(self.space), _doublings(self.time))

    def parameters(self) -> Tree:
        return super().parameters() if self.upsample is None else self.upsample.parameters()

    def apply(self, p: Tree, x: Any, *, params: Tree = None, sizes: dict[str, int] | None = None) -> Any:
        """x (B, O, inputs), or already a grid -> (B, *grid, channels)."""
        x = self.laid_out(x)
        if self.kind == "patches":
            x = depth_to_space(x, space=self.space, time=self.time)
        elif self.linear is not None:
            x = self.linear.apply(p["linear"], x)
        elif self.upsample is not None:
            x = self.upsample.apply(p, x)
        return point("", x)

    def laid_out(self, x: Any) -> Any:
        """x (B, O, inputs) on `grid`, where there is one: (B, *grid, inputs)."""
        return x if self.grid is None else ops.reshape(x, shape=(x.shape[0], *self.grid, x.shape[-1]))


def _doublings(factor: int) -> int:
    return round(math.log2(factor))


def transposed_same_padding(window: tuple[int, ...], strides: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """What to cut from a transposed convolution so that it gives n stride outputs (JAX's `SAME`)."""
    cut = []
    for k, s in zip(window, strides):
        before = 0 if s > k - 1 else k - 1 - -(-(k + s - 2) // 2)
        cut.append((before, k - s - before))
    return tuple(cut)
