"""What turns media into features for the resampler: (B, m, T, S, C), whatever the media are (Flamingo, section 2.1).

B batch, m media, T frames, S tokens a frame, C channels. Frames are encoded one by one; an image has one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ...autograd import ops
from ...autograd.tree import Tree
from ...errors import InputError
from ..attention import SelfAttention
from ..constraints import Count
from ..conventions import DIALECTS, Conventions
from ..inputs.features import space_to_depth
from ..layers import Linear, Norm, norm
from ..module import Module, Parameter, explains_parameters, part, truncated_normal
from ..tracing import point, scope

VISION = DIALECTS["paper"]


@dataclass(frozen=True)
class Features(Module):
    """Media that are features already, of any encoder: a frame is (S, channels)."""

    channels: int
    frame_axes: ClassVar[int] = 2

    def apply(self, p: Tree, media: Any) -> Any:
        """media (B, m, T, S, C), or (B, m, S, C) of single frames -> (B, m, T, S, C)."""
        return point("vision", with_frames(media, (None, self.channels)))


@dataclass(frozen=True)
class PatchEncoder(Module):
    """A small vision transformer: patches, a linear map, learned positions, self-attention, a norm (Dosovitskiy et al.
    2021, arXiv 2010.11929, eq. 1 to 4, without a class token).

    It stands for the paper's NFNet-F6, whose last feature map is used the same way: one token for each place of a
    frame. `size` is (height, width) of a frame, of which patches are cut `patch` pixels wide.
    """

    size: tuple[int, int]
    patch: int
    channels: int
    image_channels: int = 3
    layers: Count = 2
    heads: int = 1
    widening: int = 4
    conventions: Conventions = VISION
    frame_axes: ClassVar[int] = 3

    def __post_init__(self) -> None:
        if self.patch < 1 or any(n < 1 or n % self.patch for n in self.size):
            raise InputError(f"frames of {self.size} pixels cannot be cut into patches {self.patch} wide")
        if self.heads < 1 or self.channels % self.heads:
            raise InputError(f"channels ({self.channels}) must be divisible by the number of heads ({self.heads})")

    @property
    def tokens(self) -> int:
        """S, the number of patches of a frame."""
        return self.size[0] // self.patch * (self.size[1] // self.patch)

    @part
    def patches(self) -> Linear:
        """The map of a patch."""
        return Linear(self.patch**2 * self.image_channels, self.channels)

    @part
    def layer(self) -> SelfAttention:
        """Each of the layers."""
        return SelfAttention(self.channels, self.heads, widening=self.widening, conventions=self.conventions)

    @part
    def norm(self) -> Norm:
        """The norm at the end."""
        return norm(self.channels, self.conventions)

    def parameters(self) -> Tree:
        return {
            "patches": self.patches.parameters(),
            "positions": Parameter((self.tokens, self.channels), truncated_normal(0.02)),
            "layers": [self.layer.parameters() for _ in range(self.layers)],
            "norm": self.norm.parameters(),
        }

    @explains_parameters
    def apply(self, p: Tree, media: Any) -> Any:
        """media (B, m, T, H, W, image_channels), or (B, m, H, W, image_channels) of images -> (B, m, T, S, C)."""
        x = with_frames(media, (*self.size, self.image_channels))
        b, m, t = x.shape[:3]
        with scope("vision"):
            frames = ops.reshape(x, shape=(b * m * t, *x.shape[3:]))
            patches = space_to_depth(frames, space=self.patch)  # (B m T, H / patch, W / patch, patch^2 channels)
            patches = ops.reshape(patches, shape=(b * m * t, self.tokens, patches.shape[-1]))
            x = ops.add(point("patches", self.patches.apply(p["patches"], patches)), p["positions"])
            for i, p_layer in enumerate(p["layers"]):
                with scope(f"layers.{i}"):
                    x = self.layer.apply(p_layer, x)
            x = self.norm.apply(p["norm"], x)
            return point("", ops.reshape(x, shape=(b, m, t, self.tokens, self.channels)))


Vision = Features | PatchEncoder


def with_frames(media: Any, frame: tuple[int | None, ...]) -> Any:
    """media (B, m, T, *frame), or (B, m, *frame) of single frames -> (B, m, T, *frame); None stands for any size.

    Raises `InputError` for another rank or size of a frame, and for media without frames or tokens.
    """
    shape = tuple(media.shape)
    names = ", ".join("tokens" if n is None else str(n) for n in frame)
    if len(shape) not in (len(frame) + 2, len(frame) + 3):
        raise InputError(f"media must be (batch, media, frames, {names}) or (batch, media, {names}), got {shape}")
    if any(want is not None and got != want for got, want in zip(shape[-len(frame) :], frame)):
        raise InputError(f"the frames of media must be ({names}), got {shape[-len(frame) :]}")
    full = shape if len(shape) == len(frame) + 3 else (*shape[:2], 1, *shape[2:])
    if 0 in full[2:]:
        raise InputError(f"media need at least one frame and one token, got {shape}")
    return ops.reshape(media, shape=full)
