"""What an element of a grid holds before it gets a position: (B, *grid, channels) from images, video or audio.

Images are (B, H, W, C), video (B, T, H, W, C), audio (B, samples, C); channels last.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ...autograd import ops
from ...autograd.core import array_of
from ...autograd.tree import Tree
from ...errors import InputError
from ..call import Call
from ..constraints import Count
from ..layers import BatchNorm, Linear
from ..module import Module, Parameter, fan_in_normal, part
from ..tracing import asked_image, asked_point, image_point, point

_BYTES = 32.0  # standardised pixels stay below 3, samples of any normal distribution far below this


def space_to_depth(x: Any, *, space: int, time: int = 1) -> Any:
    """Cut a grid into blocks and lay each block's elements along the channels, in the order (dt, dy, dx, c).

    images (B, H, W, C) -> (B, H / space, W / space, space^2 C); video (B, T, H, W, C) -> (B, T / time, ..., ...).
    """
    blocks = _blocks(len(x.shape), space, time)
    batch, *grid, channels = x.shape
    for axis, (n, block) in enumerate(zip(grid, blocks)):
        if n % block:
            raise InputError(f"grid axis {axis + 1} of {tuple(x.shape)} has {n} elements, not a multiple of {block}")
    cut = [part for n, block in zip(grid, blocks) for part in (n // block, block)]
    axes = len(grid)
    order = (0, *range(1, 2 * axes, 2), *range(2, 2 * axes + 1, 2), 2 * axes + 1)
    x = ops.transpose(ops.reshape(x, shape=(batch, *cut, channels)), axes=order)
    return ops.reshape(x, shape=(batch, *(n // b for n, b in zip(grid, blocks)), math.prod(blocks) * channels))


def depth_to_space(x: Any, *, space: int, time: int = 1) -> Any:
    """The inverse of `space_to_depth`."""
    blocks = _blocks(len(x.shape), space, time)
    batch, *grid, depth = x.shape
    if depth % math.prod(blocks):
        raise InputError(f"{depth} channels are no multiple of a block's {math.prod(blocks)} elements")
    axes = len(grid)
    x = ops.reshape(x, shape=(batch, *grid, *blocks, depth // math.prod(blocks)))
    order = (0, *(a for i in range(axes) for a in (1 + i, 1 + axes + i)), 2 * axes + 1)
    x = ops.transpose(x, axes=order)
    return ops.reshape(x, shape=(batch, *(n * b for n, b in zip(grid, blocks)), depth // math.prod(blocks)))


def flow_patches(frames: Any, *, size: int = 3) -> Any:
    """Each pixel with its neighbourhood, zeros outside the image (Perceiver IO, appendix H).

    frames (B, T, H, W, C) -> (B, T, H, W, size^2 C), channels in the order (dy, dx, c).
    """
    return extract_patches(frames, size=(size, size), same=True)


def extract_patches(
    images: Any,
    *,
    size: tuple[int, int],
    strides: tuple[int, int] = (1, 1),
    rates: tuple[int, int] = (1, 1),
    same: bool = True,
) -> Any:
    """Patches of (..., H, W, C), `rates` apart inside a patch: (..., outputs, outputs, size^2 C), order (dy, dx, c)."""
    *lead, height, width, _ = images.shape
    padding = ops.same_padding((height, width), size, strides, rates) if same else ((0, 0), (0, 0))
    padded = ops.pad(images, widths=((0, 0),) * len(lead) + (*padding, (0, 0)))
    reach = [(k - 1) * r for k, r in zip(size, rates)]
    outputs = [(n + sum(p) - d - 1) // s + 1 for n, p, d, s in zip((height, width), padding, reach, strides)]
    pieces = []
    for dy in range(size[0]):
        for dx in range(size[1]):
            rows, columns = (
                slice(o * r, o * r + (n - 1) * s + 1, s) for o, r, n, s in zip((dy, dx), rates, outputs, strides)
            )
            pieces.append(ops.getitem(padded, index=(..., rows, columns, slice(None))))
    return ops.concatenate(pieces, axis=-1)


@dataclass(frozen=True)
class Pixels(Module):
    """Every `space`-th pixel of every `time`-th frame as it is."""

    image_channels: int
    space: int = 1
    time: int = 1

    @property
    def channels(self) -> int:
        """The width of an element."""
        return self.image_channels

    def apply(self, p: Tree, x: Any, call: Call) -> Any:
        """Images or video -> (B, *grid, image_channels)."""
        check_grid(x, self.image_channels)
        if self.space == self.time == 1:
            return x
        steps = [self.space] * 2 if len(x.shape) == 4 else [self.time, self.space, self.space]
        return ops.getitem(x, index=(slice(None), *(slice(None, None, step) for step in steps)))


@dataclass(frozen=True)
class Patches(Module):
    """Blocks of pixels side by side (space to depth), with a linear map to `linear` channels if given.

    Video whose blocks leave a single frame loses its time axis, as optical flow wants it.
    """

    image_channels: int
    space: int
    time: int = 1
    linear: int | None = None
    video: bool = False

    @property
    def _depth(self) -> int:
        return self.image_channels * self.space**2 * (self.time if self.video else 1)

    @property
    def channels(self) -> int:
        """The width of an element."""
        return self._depth if self.linear is None else self.linear

    @part
    def projection(self) -> Linear | None:
        """The map to `linear` channels."""
        return None if self.linear is None else Linear(self._depth, self.linear)

    def parameters(self) -> Tree:
        return {} if self.projection is None else {"linear": self.projection.parameters()}

    def apply(self, p: Tree, x: Any, call: Call) -> Any:
        """Images or video -> (B, *grid, channels)."""
        check_grid(x, self.image_channels)
        x = space_to_depth(x, space=self.space, time=self.time)
        if len(x.shape) == 5 and x.shape[1] == 1:
            x = ops.reshape(x, shape=(x.shape[0], *x.shape[2:]))
        asked_point("patches", lambda: x)
        return x if self.projection is None else point("linear", self.projection.apply(p["linear"], x))


@dataclass(frozen=True)
class Conv1x1(Module):
    """A 1x1 convolution with bias, `stride` apart (SAME padding, so that every stride-th pixel remains)."""

    image_channels: int
    channels: int
    stride: int = 1

    @part
    def convolution(self) -> Linear:
        """The map of each pixel."""
        return Linear(self.image_channels, self.channels)

    def apply(self, p: Tree, x: Any, call: Call) -> Any:
        """Images or video -> (B, *grid, channels)."""
        check_grid(x, self.image_channels)
        lead = (slice(None),) * (len(x.shape) - 3)
        if self.stride > 1:
            x = ops.getitem(x, index=(*lead, slice(None, None, self.stride), slice(None, None, self.stride)))
        x = self.convolution.apply(p["convolution"], x)
        asked_image("convolution", x)
        return x


@dataclass(frozen=True)
class ConvStem(Module):
    """Layers of 7x7 convolution (stride 2, no bias), batch norm, ReLU and 3x3 max-pool (stride 2): 1/4 of the size each
    (Perceiver IO, its experiments on images).

    Paddings are ((before, after), ...) of the two axes; None is SAME. `norm` stands in place of the default one. Video
    goes through frame by frame.
    """

    image_channels: int
    channels: int = 64
    layers: Count = 1
    batch_norm: bool = True
    convolution_padding: tuple[tuple[Count, Count], tuple[Count, Count]] | None = None
    pool_padding: tuple[tuple[Count, Count], tuple[Count, Count]] | None = None
    norm: BatchNorm | None = None

    @part
    def used_norm(self) -> BatchNorm:
        """`norm`, or the default one."""
        return self.norm or BatchNorm(self.channels)

    def parameters(self) -> Tree:
        widths = [self.image_channels, *[self.channels] * self.layers]
        return {
            str(i): {
                "convolution": Parameter((7, 7, widths[i], self.channels), fan_in_normal),
                **({"norm": self.used_norm.parameters()} if self.batch_norm else {}),
            }
            for i in range(self.layers)
        }

    def state(self) -> Tree:
        return {str(i): self.used_norm.state() for i in range(self.layers)} if self.batch_norm else {}

    def apply(self, p: Tree, x: Any, call: Call, *, batch_statistics: bool = False) -> Any:
        """images (B, H, W, image_channels) -> (B, ~H / 4^layers, ~W / 4^layers, channels); video likewise.

        Values are traced with all frames along the batch axis. `batch_statistics`: as in `BatchNorm.apply`.
        """
        check_grid(x, self.image_channels)
        frames = x.shape[:-3]
        x = ops.reshape(x, shape=(math.prod(frames), *x.shape[-3:]))
        for i in range(self.layers):
            layer, padding = p[str(i)], self.convolution_padding or _same(x, 7)
            asked_image(f"{i}.padded", partial(ops.pad, x, widths=((0, 0), *padding, (0, 0))))
            x = ops.convolution(x, layer["convolution"], strides=(2, 2), padding=padding)
            image_point(f"{i}.convolution", x)
            if self.batch_norm:
                x = self.used_norm.apply(layer["norm"], x, call.at(str(i)), batch_statistics=batch_statistics)
                image_point(f"{i}.norm", x)
            x = ops.relu(x)
            asked_image(f"{i}.activation", x)
            x = ops.max_pool(x, window=(3, 3), strides=(2, 2), padding=self.pool_padding or _same(x, 3))
        return ops.reshape(image_point("stem", x), shape=(*frames, *x.shape[1:]))


@dataclass(frozen=True)
class AudioPatches(Module):
    """`samples` consecutive samples (of all audio channels) make an element."""

    samples: int
    audio_channels: int = 1

    @property
    def channels(self) -> int:
        """The width of an element."""
        return self.samples * self.audio_channels

    def apply(self, p: Tree, x: Any, call: Call) -> Any:
        """audio (B, n, audio_channels) -> (B, n / samples, channels)."""
        if len(x.shape) != 3 or x.shape[-1] != self.audio_channels:
            raise InputError(f"audio must be (batch, samples, {self.audio_channels}), got {tuple(x.shape)}")
        if x.shape[1] % self.samples:
            raise InputError(f"audio has {x.shape[1]} samples, not a multiple of the patch size {self.samples}")
        return ops.reshape(x, shape=(x.shape[0], x.shape[1] // self.samples, self.channels))


GridFeatures = Pixels | Patches | Conv1x1 | ConvStem | AudioPatches


def check_grid(x: Any, channels: int) -> None:
    """Raise `InputError` unless x is (B, H, W, channels) or (B, T, H, W, channels) in floating point.

    Warns when host images look like unscaled bytes: every published model takes values of about -1 to 1.
    """
    if len(x.shape) in (4, 5) and x.shape[-1] == channels and x.dtype.kind == "f":
        pixels = array_of(x)
        if isinstance(pixels, np.ndarray) and pixels.size and (peak := float(pixels.max())) > _BYTES:
            warnings.warn(
                f"images reach {peak:.0f}, as bytes do; the models expect about -1 to 1: scale them first",
                stacklevel=2,
            )
        return
    hint = "; this looks like channels first: move the channel axis to the end" if channels in x.shape[1:-2] else ""
    raise InputError(
        f"images must be floating point of shape (batch, height, width, {channels}), "
        f"video (batch, time, height, width, {channels}); got {x.dtype} of {tuple(x.shape)}{hint}"
    )


def _same(x: Any, window: int) -> Any:
    return ops.same_padding(tuple(x.shape[1:-1]), (window, window), (2, 2))


def _blocks(ndim: int, space: int, time: int) -> tuple[int, ...]:
    if ndim not in (4, 5):
        raise InputError(f"expected images (B, H, W, C) or video (B, T, H, W, C), got {ndim} axes")
    return (space, space) if ndim == 4 else (time, space, space)
