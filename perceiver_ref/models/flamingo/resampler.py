"""The Perceiver Resampler: features of any number of frames and tokens -> a fixed number of latents for each medium.

Flamingo, section 2.1, figure 5 and its listing. B batch, m media, T frames, S tokens a frame, N latents, D channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from ...autograd import ops
from ...autograd.backend import Array
from ...autograd.tree import Tree
from ...errors import InputError, one_of
from ..attention import Attention, Layer
from ..constraints import Count
from ..conventions import FLAMINGO, Conventions
from ..layers import MLP, Norm, norm
from ..masks import check_mask, finite_where_unused
from ..module import Module, Parameter, explains_parameters, part, truncated_normal
from ..resize import resize_linear
from ..tracing import point, scope

LatentsPer = Literal["medium", "frame"]


Norms = Literal["before", "none"]


class LatentsAttend(Layer):
    """Latents attend to features and, with `latents_in_keys`, to themselves: the part that resamplers share.

        attention(q = norm(x), kv = [norm(features), norm(x)])

    With `latents_first` the latents come before the features among the keys. `norms` "none" leaves both norms out. The
    features are `kv_inputs` wide.
    """

    channels: int
    heads: int
    latents_in_keys: bool
    latents_first: bool
    norms: Norms
    conventions: Conventions

    @property
    def kv_inputs(self) -> int:
        """The width of what is attended to."""
        return self.channels

    @part
    def features_norm(self) -> Norm | None:
        """The norm of features."""
        return norm(self.kv_inputs, self.conventions) if self.norms == "before" else None

    @part
    def latents_norm(self) -> Norm | None:
        """The norm of latents before attention."""
        return norm(self.channels, self.conventions) if self.norms == "before" else None

    attention: ClassVar[part[Any]]

    def attended(
        self,
        p: Tree,
        q: Any,
        normed: Any,
        *,
        mask: Array | None = None,
        key_mask: Array | None = None,
        values: Any = None,
        **options: Any,
    ) -> Any:
        """Normed latents (..., N, D) and normed features (..., S, C) -> what attention gives, (..., N, outputs).

        mask (..., S), bool: True where a feature is real; key_mask (..., keys) the same of all keys, latents among
        them. values (..., S, C): what values are made of in place of `normed`. `options`: as in `Attention.apply`.
        """
        if mask is not None:
            key_mask = self._keys(mask, q.shape[-2])
        if key_mask is not None:
            options["mask"] = key_mask[..., None, :]
        if values is not None:
            options["values"] = self._beside(q, values)
        return self.attention.apply(p["attention"], q, self._beside(q, normed), **options)

    def _beside(self, q: Any, normed: Any) -> Any:
        """What is attended to: features, and latents where they are among the keys."""
        if not self.latents_in_keys:
            return normed
        return ops.concatenate([q, normed] if self.latents_first else [normed, q], axis=-2)

    def _keys(self, mask: Array, latents: int) -> Array:
        """The mask of all keys: latents, where they are among them, are always real."""
        if not self.latents_in_keys:
            return mask
        beside = (latents, 0) if self.latents_first else (0, latents)
        made: Array = ops.pad(mask, widths=((0, 0),) * (mask.ndim - 1) + (beside,), value=True)
        return made


def width_of_heads(channels: int, heads: int, head_channels: int | None) -> int:
    """The width of all heads together: `channels`, unless a head's is given; `InputError` where heads do not fit."""
    if head_channels is None and (heads < 1 or channels % heads):
        raise InputError(f"channels ({channels}) must be divisible by the number of heads ({heads})")
    return channels if head_channels is None else heads * head_channels


@dataclass(frozen=True)
class ResamplerLayer(LatentsAttend):
    """Latents attend to the features and to themselves, then an MLP; both with pre-norm and residual (figure 5).

        x = x + attention(q = norm(x), kv = [norm(features), norm(x)]); x = x + mlp(norm(x))

    Without `latents_in_keys` keys and values are of the features alone; with `latents_first` latents are the first of
    the keys. Heads are `head_channels` wide (default: channels / heads). `qk_norm` and `kv_heads` as in `Attention`,
    `hidden` as in `MLP`. `norms`: "before" attention and MLP, or "none".
    """

    channels: int
    heads: int = 8
    head_channels: int | None = None
    widening: int = 4
    latents_in_keys: bool = True
    qk_norm: bool = False
    kv_heads: int | None = None
    hidden: int | None = None
    conventions: Conventions = FLAMINGO
    latents_first: bool = False
    norms: Norms = "before"

    def __post_init__(self) -> None:
        width_of_heads(self.channels, self.heads, self.head_channels)

    @part
    def attention(self) -> Attention:
        """The attention."""
        d, width = self.channels, width_of_heads(self.channels, self.heads, self.head_channels)
        return Attention(d, d, width, width, d, self.heads, self.conventions, self.kv_heads, self.qk_norm)

    @part
    def mlp_norm(self) -> Norm | None:
        """The norm before the MLP."""
        return norm(self.channels, self.conventions) if self.norms == "before" else None

    @part
    def mlp(self) -> MLP:
        """The MLP."""
        return MLP(self.channels, self.widening, self.conventions, self.hidden)

    def apply(self, p: Tree, x: Any, features: Any, *, mask: Array | None = None, key_mask: Array | None = None) -> Any:
        """x (..., N, D), features (..., S, D) -> (..., N, D). mask (..., S), bool: True where a feature is real;
        key_mask (..., keys) the same of all keys, in their order."""
        normed = self.normed(p, "features_norm", features)
        q = self.normed(p, "latents_norm", x)
        attended = self.attended(p, q, normed, mask=mask, key_mask=key_mask)
        return self._finished(p, self._joined(p, x, attended))


@dataclass(frozen=True)
class PerceiverResampler(Module):
    """features (B, m, T, S, D) -> latents (B, m, N, D) (section 2.1 and the listing of figure 5).

    Every medium has the same N = `latents` learned starting latents; `layers` layers of their own weights, then a norm.
    With `latents_per` "frame" each frame is resampled alone, and the result is (B, m, T N, D).

    `frames`: this many learned time embeddings, one added to all tokens of a frame; None for none. A medium of fewer
    frames takes the first ones; one of more gets them interpolated linearly, ends on ends (section 2.1: 8 frames in
    training, 30 at inference). `media`: this many learned embeddings of a medium's place among the media; None (the
    paper) for none. There is no spatial embedding.
    """

    channels: int
    latents: int = 64
    layers: Count = 6
    heads: int = 16
    head_channels: int | None = None
    widening: int = 4
    frames: int | None = None
    media: int | None = None
    latents_per: LatentsPer = "medium"
    latents_in_keys: bool = True
    qk_norm: bool = False
    kv_heads: int | None = None
    hidden: int | None = None
    conventions: Conventions = FLAMINGO

    def __post_init__(self) -> None:
        if self.latents_per not in ("medium", "frame"):
            raise one_of("latents_per", self.latents_per, ("medium", "frame"))
        for name in ("frames", "media"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, or None for no embedding; got {getattr(self, name)}")

    @part
    def layer(self) -> ResamplerLayer:
        """Each of the layers."""
        return ResamplerLayer(
            self.channels,
            self.heads,
            self.head_channels,
            self.widening,
            self.latents_in_keys,
            self.qk_norm,
            self.kv_heads,
            self.hidden,
            self.conventions,
        )

    @part
    def norm(self) -> Norm:
        """The norm of the latents at the end."""
        return norm(self.channels, self.conventions)

    def parameters(self) -> Tree:
        tables = {"latents": self.latents, "time_embedding": self.frames, "media_embedding": self.media}
        drawn = truncated_normal(0.02)
        return {
            **{name: Parameter((n, self.channels), drawn) for name, n in tables.items() if n is not None},
            "layers": [self.layer.parameters() for _ in range(self.layers)],
            "norm": self.norm.parameters(),
        }

    @explains_parameters
    def apply(self, p: Tree, features: Any, *, mask: Array | None = None) -> Any:
        """features (B, m, T, S, D), or (B, m, S, D) of single frames -> (B, m, N, D); (B, S, D) -> (B, N, D).

        mask: bool, of the features' shape without D; True where a token is real. Padding changes nothing. Raises
        `InputError` for another rank or width, no frame, no token, or more media than embeddings.
        """
        x, mask = self._five_axes(features, mask)
        b, m, t, s, d = x.shape
        with scope("resampler"):
            if self.frames is not None:
                x = self.timed(p, x)
            if self.media is not None:
                x = ops.add(x, ops.reshape(p["media_embedding"][:m], shape=(m, 1, 1, d)))
            lead = (b,) if len(features.shape) == 3 else (b, m)
            flat = (*lead, t * s) if self.latents_per == "medium" else (*lead, t, s)
            x = point("features", ops.reshape(x, shape=(*flat, d)))
            if mask is not None:
                mask = mask.reshape(flat)
                x = finite_where_unused(x, mask, "zero" if self.latents_in_keys else self.conventions.masked_rows)
            latents = ops.broadcast_to(p["latents"], shape=(*flat[:-1], self.latents, d))
            z = point("latents", latents)
            for i, p_layer in enumerate(p["layers"]):
                with scope(f"layers.{i}"):
                    z = self.layer.apply(p_layer, z, x, mask=mask)
            z = ops.reshape(z, shape=(*lead, -1, d))
            return point("", self.norm.apply(p["norm"], z))

    def _five_axes(self, features: Any, mask: Array | None) -> tuple[Any, Array | None]:
        shape = tuple(features.shape)
        if not 3 <= len(shape) <= 5 or shape[-1] != self.channels:
            raise InputError(
                f"features must be (batch, media, frames, tokens, {self.channels}), (batch, media, tokens, "
                f"{self.channels}) or (batch, tokens, {self.channels}), got {shape}"
            )
        full = {3: (shape[0], 1, 1, *shape[1:]), 4: (*shape[:2], 1, *shape[2:]), 5: shape}[len(shape)]
        for size, what in zip(full[1:4], ("media", "frames", "tokens")):
            if size == 0:
                raise InputError(f"the features {shape} hold no {what}")
        if self.media is not None and full[1] > self.media:
            raise InputError(f"there are {full[1]} media, and embeddings for {self.media}")
        if mask is not None:
            mask = check_mask(mask, shape[:-1], "mask").reshape(full[:-1])
        return ops.reshape(features, shape=full), mask

    def timed(self, p: Tree, x: Any) -> Any:
        """x (B, m, T, S, D) with the embedding of each frame added to all of its tokens."""
        t, d = x.shape[2], x.shape[-1]
        return ops.add(x, ops.reshape(self._times(p["time_embedding"], t), shape=(t, 1, d)))

    def _times(self, table: Any, frames: int) -> Any:
        """The time embeddings (T, D) of a medium of so many frames."""
        return table[:frames] if frames <= table.shape[0] else resize_linear(table, frames)
