"""GATED XATTN-DENSE: text attends to media through gates that start closed (Flamingo, section 2.2 and figure 4)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from ...autograd import ops
from ...autograd.backend import xp
from ...autograd.core import array_of
from ...autograd.tree import Tree
from ...errors import InputError, one_of
from ..attention import Attention, KeysValues
from ..conventions import FLAMINGO, Conventions
from ..layers import MLP, Norm, norm
from ..module import Module, Parameter, explains_parameters, part, zeros
from ..tracing import asked_point, point, scope
from .media import MediaMask

Gate = Literal["scalar", "vector"]


@dataclass(frozen=True)
class GatedCrossAttention(Module):
    """One layer before a frozen block: cross-attention and an MLP, each behind a tanh gate (figure 4).

        x = x + tanh(alpha1) attention(norm(x), media)
        x = x + tanh(alpha2) mlp(norm(x))                    alpha1 = alpha2 = 0 at the start

    so that it gives x itself until it is trained. `channels` D is the width of the text, `media_channels` C of the
    media; heads are `head_channels` wide (default: D / heads). Media are not normed here, the resampler's last step is
    a norm. A "scalar" gate is of shape (1,), a "vector" one of (D,). `qk_norm`, `kv_heads` and `scale` as in
    `Attention`, `hidden` as in `MLP`.
    """

    channels: int
    media_channels: int
    heads: int = 8
    head_channels: int | None = None
    widening: int = 4
    gate: Gate = "scalar"
    qk_norm: bool = False
    kv_heads: int | None = None
    scale: float | None = None
    hidden: int | None = None
    conventions: Conventions = FLAMINGO

    def __post_init__(self) -> None:
        if self.gate not in ("scalar", "vector"):
            raise one_of("gate", self.gate, ("scalar", "vector"))
        if self.head_channels is None and (self.heads < 1 or self.channels % self.heads):
            raise InputError(f"channels ({self.channels}) must be divisible by the number of heads ({self.heads})")

    @part
    def norm(self) -> Norm:
        """The norm of text before attention."""
        return norm(self.channels, self.conventions)

    @part
    def attention(self) -> Attention:
        """The attention to media."""
        width = self.channels if self.head_channels is None else self.heads * self.head_channels
        return Attention(
            self.channels,
            self.media_channels,
            width,
            width,
            self.channels,
            self.heads,
            self.conventions,
            self.kv_heads,
            self.qk_norm,
            self.scale,
        )

    @part
    def mlp_norm(self) -> Norm:
        """The norm before the MLP."""
        return norm(self.channels, self.conventions)

    @part
    def mlp(self) -> MLP:
        """The MLP."""
        return MLP(self.channels, self.widening, self.conventions, self.hidden)

    def parameters(self) -> Tree:
        gate = Parameter((1,) if self.gate == "scalar" else (self.channels,), zeros)
        return {**super().parameters(), "attention_gate": gate, "mlp_gate": gate}

    def keys_values(self, p: Tree, media: Any) -> KeysValues:
        """media (B, m, N, C) -> keys and values (B, H, m N, d), for `apply` to use again and again."""
        if len(media.shape) != 4 or media.shape[-1] != self.media_channels:
            raise InputError(f"media must be (batch, media, tokens, {self.media_channels}), got {tuple(media.shape)}")
        b, m, n, c = media.shape
        return self.attention.keys_values(p["attention"], ops.reshape(media, shape=(b, m * n, c)))

    @explains_parameters
    def apply(
        self, p: Tree, x: Any, media: Any, *, mask: MediaMask | None = None, bias: Any = None, rows: Any = None
    ) -> Any:
        """x (B, L, D), media (B, m, N, C) or its `keys_values` -> (B, L, D).

        mask: see `media_mask`; without one every token attends to all media. bias: as in `Attention`, added to the
        logits. rows (B, L, 1): a factor on what the MLP gives. Raises `InputError` for a gate, a mask or an input of
        another shape.
        """
        if len(x.shape) != 3 or x.shape[-1] != self.channels:
            raise InputError(f"text must be (batch, tokens, {self.channels}), got {tuple(x.shape)}")
        normed = point("norm", self.norm.apply(p["norm"], x))
        kept = media if isinstance(media, KeysValues) else self.keys_values(p, media)
        self._check(x, kept, mask)
        attend = None if mask is None else mask.attend
        attended = self.attention.apply(p["attention"], normed, kept, mask=attend, bias=bias)
        if mask is not None and mask.seen is not None:
            zero = xp(array_of(attended)).zeros((), attended.dtype)
            attended = point("attention_seen", ops.where(mask.seen[..., None], attended, zero))
        x = point("attention_residual", ops.add(x, self._gated(p, "attention_gate", attended)))
        out = self.mlp.apply(p["mlp"], point("mlp_norm", self.mlp_norm.apply(p["mlp_norm"], x)))
        out = out if rows is None else ops.multiply(rows, out)
        return point("", ops.add(x, self._gated(p, "mlp_gate", out)))

    def _gated(self, p: Tree, name: str, x: Any) -> Any:
        gate, wanted = p[name], (1,) if self.gate == "scalar" else (self.channels,)
        if tuple(gate.shape) != wanted:
            raise InputError(f"{name} must have the shape {wanted} of a {self.gate} gate, got {tuple(gate.shape)}")
        gate = ops.tanh(gate)
        asked_point(name, lambda: gate)
        return point(name.replace("_gate", "_gated"), ops.multiply(gate, x))

    def _check(self, x: Any, kept: KeysValues, mask: MediaMask | None) -> None:
        batch, tokens = kept.keys.shape[0], kept.keys.shape[-2]
        if batch != x.shape[0]:
            raise InputError(f"there are {x.shape[0]} texts and media for {batch}")
        if tokens == 0:
            raise InputError("there is no medium to attend to: leave the layer out for text alone")
        if mask is not None and tuple(mask.attend.shape) != (*x.shape[:2], tokens):
            raise InputError(
                f"the mask must be (batch, text, media tokens) = {(*x.shape[:2], tokens)}, "
                f"got {tuple(mask.attend.shape)}"
            )


@dataclass(frozen=True)
class GatedLayers(Module):
    """A `block` of its own before layers 0, every, 2 every, ... of a language model's `layers` (section 2.2)."""

    layers: int
    every: int
    block: GatedCrossAttention
    arguments: ClassVar[tuple[str, ...]] = ("text", "media")

    def __post_init__(self) -> None:
        if self.every < 1 or self.layers < 1:
            raise InputError(f"layers ({self.layers}) and every ({self.every}) must be at least 1")

    def _count(self) -> int:
        return -(-self.layers // self.every)

    def parameters(self) -> Tree:
        return [self.block.parameters() for _ in range(self._count())]

    def keys_values(self, p: Tree, media: Any) -> list[KeysValues]:
        """What each block makes of media (B, m, N, C), for `apply` to use again and again."""
        kept = []
        for i, p_block in enumerate(p):
            with scope(f"gated.{i}"):
                kept.append(self.block.keys_values(p_block, media))
        return kept

    @explains_parameters
    def apply(
        self,
        p: Tree,
        x: Any,
        media: Any,
        *,
        mask: MediaMask | None = None,
        between: Callable[[int, Any], Any] | None = None,
    ) -> Any:
        """x (B, L, D), media (B, m, N, C) or their `keys_values` -> (B, L, D).

        `between(i, x)` is layer i of the language model; without it the blocks follow each other directly. Without
        media (None, or none among them) there are only the language model's layers.
        """
        kept = list(media) if isinstance(media, (list, tuple)) else None
        absent = media is None or (kept is None and media.shape[1] == 0)
        for i in range(self.layers):
            number, rest = divmod(i, self.every)
            if not rest and not absent:
                with scope(f"gated.{number}"):
                    given = media if kept is None else kept[number]
                    x = self.block.apply(p[number], x, given, mask=mask)
            if between is not None:
                x = between(i, x)
        return x
