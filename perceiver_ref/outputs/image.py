"""Decoder outputs -> images and video: from pixels, patches, a 1x1 convolution or transposed convolutions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from ..autograd import ops
from ..autograd.tree import Tree
from ..inputs.features import depth_to_space
from ..layers import Linear
from ..parameters import Module, Parameter, fan_in_normal, zeros
from ..tracing import point


@dataclass(frozen=True)
class ImageOutput(Module):
    """Outputs laid out on `grid`, then upsampled by `space` (and `time`) as `kind` says:

    "pixels" not at all; "patches" by laying channels out in space; "linear" by a 1x1 convolution to `outputs`
    channels; "conv" by 4-wide transposed convolutions of stride 2 (SAME), ReLU between them: the first of `layers` has
    `outputs` 2^(layers - 1) channels, each next half as many.
    """

    inputs: int
    outputs: int
    kind: Literal["pixels", "patches", "linear", "conv"] = "pixels"
    grid: tuple[int, ...] | None = None
    space: int = 1
    time: int = 1

    def _layers(self) -> list[tuple[tuple[int, ...], tuple[int, ...], int, int]]:
        """(window, strides, inputs, outputs) of each transposed convolution."""
        in_time, in_space = round(math.log2(self.time)), 2 if self.time == 1 else round(math.log2(self.space))
        count = max(in_time, in_space)
        layers: list[tuple[tuple[int, ...], tuple[int, ...], int, int]] = []
        inputs = self.inputs
        for i in range(count):
            outputs = self.outputs * 2 ** (count - 1 - i)
            strides: tuple[int, ...] = (2 if i < in_space else 1,) * 2
            if self.time > 1:
                strides = (2 if i < in_time else 1, *strides)
            window: tuple[int, ...] = (4,) * len(strides)
            layers.append((window, strides, inputs, outputs))
            inputs = outputs
        return layers

    def parameters(self) -> Tree:
        if self.kind == "linear":
            return {"linear": Linear(self.inputs, self.outputs).parameters()}
        if self.kind != "conv":
            return {}
        return {
            str(i): {"weight": Parameter((*window, c, e), _window_normal), "bias": Parameter((e,), zeros)}
            for i, (window, _, c, e) in enumerate(self._layers())
        }

    def apply(self, p: Tree, x: Any, *, params: Tree = None, sizes: dict[str, int] | None = None) -> Any:
        """x (B, O, inputs), or already a grid -> (B, *grid, channels)."""
        if self.grid is not None:
            x = ops.reshape(x, shape=(x.shape[0], *self.grid, x.shape[-1]))
        if self.kind == "patches":
            x = depth_to_space(x, space=self.space, time=self.time)
        elif self.kind == "linear":
            x = Linear(self.inputs, self.outputs).apply(p["linear"], x)
        elif self.kind == "conv":
            x = self._upsampled(p, x)
        return point("", x)

    def _upsampled(self, p: Tree, x: Any) -> Any:
        layers = self._layers()
        axes = len(layers[0][0])
        frames = x.shape[: -axes - 1]
        x = ops.reshape(x, shape=(math.prod(frames), *x.shape[-axes - 1 :]))
        for i, (window, strides, _, _) in enumerate(layers):
            padding = transposed_same_padding(window, strides)
            x = ops.transposed_convolution(x, p[str(i)]["weight"], strides=strides, padding=padding)
            x = ops.add(x, p[str(i)]["bias"])
            x = ops.relu(x) if i < len(layers) - 1 else x
        return ops.reshape(x, shape=(*frames, *x.shape[1:]))


def transposed_same_padding(window: tuple[int, ...], strides: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """What to cut from a transposed convolution so that it gives n stride outputs (JAX's `SAME`)."""
    cut = []
    for k, s in zip(window, strides):
        before = 0 if s > k - 1 else k - 1 - -(-(k + s - 2) // 2)
        cut.append((before, k - s - before))
    return tuple(cut)


def _window_normal(rng: Any, shape: tuple[int, ...]) -> Any:
    flat = fan_in_normal(rng, (math.prod(shape[:-1]), shape[-1]))
    return flat.reshape(shape)
