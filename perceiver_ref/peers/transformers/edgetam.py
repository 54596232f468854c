"""transformers' EdgeTAM (`transformers.models.edgetam_video`, version 5.23): the resampler of its memory.

Read off its source: global latents attend to the whole map, then each window latent to one window of it, by the same
layers, which are the core's of cross- and self-attention, without biases. Positions have the width of the heads and are
added after the projection, to keys and to values. Windows are padded with zeros, which are attended to.

The peer's own fault: what attention gives is transposed twice, so that (heads, queries, width) is cut into rows as it
lies. With one head, as released, and with one query that is what it should be.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...autograd import ops
from ...autograd.backend import Array, xp
from ...autograd.core import array_of
from ...autograd.tree import Tree
from ...errors import InputError
from ...models.attention import Attention, CrossAttention, KeysValues, SelfAttention, split_heads
from ...models.call import Call
from ...models.constraints import Count
from ...models.conventions import FLAMINGO_DIALECTS
from ...models.layers import LayerNorm
from ...models.module import Module, Parameter, part, truncated_normal, variant
from ...models.tracing import point, scope
from ..base import Arguments, Given, Outputs, Peer, Rebuilt, check_axes, options, positive, read_call
from ..inherited import INHERITED, PRETRAINED
from ..names import NORM, Rows, Table, bind, inside, same, transposed
from .idefics import PROJECTION_POINTS
from .idefics2 import ATTENTION

_RESAMPLER = "EdgeTamVideoPerceiverResampler"
_CONVENTIONS = FLAMINGO_DIALECTS["edgetam"]
_PREFIX = "perceiver_resampler_"
_CONFIG = {
    f"{_PREFIX}num_latents": 256,
    f"{_PREFIX}num_latents_2d": 256,
    f"{_PREFIX}hidden_size": 64,
    f"{_PREFIX}mlp_intermediate_size": 256,
    f"{_PREFIX}num_attention_heads": 1,
    f"{_PREFIX}attention_head_dim": 64,
    f"{_PREFIX}num_layers": 2,
}
_FIELDS = PRETRAINED | frozenset(
    f"""{_PREFIX}hidden_dropout {_PREFIX}attention_dropout vision_config prompt_encoder_config mask_decoder_config
    num_maskmem image_size sigmoid_scale_for_mem_enc sigmoid_bias_for_mem_enc enable_occlusion_spatial_embedding
    multimask_output_in_sam multimask_min_pt_num multimask_max_pt_num multimask_output_for_tracking
    max_object_pointers_in_encoder max_cond_frame_num enable_temporal_pos_encoding_for_object_pointers
    memory_attention_hidden_size memory_attention_num_layers memory_attention_num_attention_heads
    memory_attention_downsample_rate memory_attention_mlp_hidden_size memory_attention_mlp_hidden_act
    memory_attention_dropout memory_attention_rope_feat_sizes memory_attention_rope_k_sizes
    memory_attention_rope_dropout memory_attention_rope_theta rope_parameters memory_encoder_hidden_size
    memory_encoder_output_channels mask_downsampler_embed_dim memory_fuser_intermediate_dim
    mask_downsampler_kernel_size mask_downsampler_stride mask_downsampler_padding mask_downsampler_total_stride
    mask_downsampler_hidden_act memory_fuser_num_layers memory_fuser_embed_dim memory_fuser_kernel_size
    memory_fuser_padding memory_fuser_layer_scale_init_value memory_fuser_hidden_act""".split()
)
"""Fields of EdgeTamVideoConfig that change nothing in the resampler."""


@dataclass(frozen=True)
class PlacedAttention(Attention):
    """Attention with positions (B, M, channels) added to keys and values, and with the peer's rows of mixed heads."""

    def keys_values(self, p: Tree, z: Any, *, positions: Any = None, values: Any = None) -> KeysValues:
        """z (B, M, C) -> its keys and values, at these positions."""
        made = super().keys_values(p, z, values=values)
        if positions is None:
            return made
        added = split_heads(positions, self.heads)
        return KeysValues(ops.add(made.keys, added), ops.add(made.values, added))

    def _mixed(self, q: Any, k: Any, v: Any, mask: Array | None, bias: Any) -> Any:
        *lead, heads, n, width = q.shape
        rows = ops.reshape(super()._mixed(q, k, v, mask, bias), shape=(*lead, n, heads * width))  # as they lie
        return split_heads(rows, heads)


@dataclass(frozen=True)
class PlacedCrossAttention(CrossAttention):
    """Cross-attention to inputs at positions."""

    @part
    def attention(self) -> Attention:
        """The attention."""
        return variant(super().attention, PlacedAttention)

    def apply(self, p: Tree, x: Any, z: Any, *, positions: Any = None, **options: Any) -> Any:
        """x (B, N, D), z (B, M, C), positions (B, M, channels of all heads) -> (B, N, D)."""
        q = self.normed(p, "query_norm", x)
        kv = self.normed(p, "key_value_norm", z)
        attended = self.attention.apply(p["attention"], q, kv, key_positions=positions, **options)
        return self._finished(p, self._joined(p, x, attended))


@dataclass(frozen=True)
class PlacedSelfAttention(SelfAttention):
    """Self-attention by `PlacedAttention`, without positions."""

    @part
    def attention(self) -> Attention:
        """The attention."""
        return variant(super().attention, PlacedAttention)


@dataclass(frozen=True)
class MemoryResampler(Module):
    """A map (B, C, H, W) -> `latents` of the whole map, then `window_latents` of a window each, (B, N, C)."""

    cross: PlacedCrossAttention
    own: PlacedSelfAttention
    latents: Count
    window_latents: Count
    layers: Count

    def __post_init__(self) -> None:
        side = math.isqrt(self.window_latents)
        if side * side != self.window_latents:
            raise InputError(f"num_latents_2d must be the square of a whole number, got {self.window_latents}")
        if side and self.channels // 2 % 2:
            raise InputError(f"positions of windows need a hidden_size that 4 divides, got {self.channels}")
        if not side and not self.latents:
            raise InputError("there must be latents: num_latents or num_latents_2d must be at least 1")

    @property
    def channels(self) -> int:
        """The width of the map and of the latents."""
        return self.own.channels

    @property
    def arguments(self) -> Mapping[str, tuple[int | None, ...]]:
        """The shape of one example of each argument; None where the model does not say."""
        return {"hidden_states": (self.channels, None, None)}

    @part
    def norm(self) -> LayerNorm:
        """The norm of the latents at the end."""
        return LayerNorm(self.channels)

    def parameters(self) -> Tree:
        tables = {"latents": self.latents, "window_latents": self.window_latents}
        layer = {"cross": self.cross.parameters(), "own": self.own.parameters()}
        return {
            **{name: Parameter((n, self.channels), truncated_normal(0.02)) for name, n in tables.items() if n},
            "layers": [layer for _ in range(self.layers)],
            "norm": self.norm.parameters(),
        }

    def apply(self, p: Tree, x: Any, positions: Any = None) -> Any:
        """x (B, C, H, W), positions (B, channels of all heads, H, W) -> (B, N, C)."""
        batch, channels = x.shape[:2]
        made = []
        x = _channels_last(x)
        if self.latents:
            with scope("global"):
                z = ops.broadcast_to(p["latents"], shape=(batch, self.latents, channels))
                flat = ops.reshape(x, shape=(batch, -1, channels))
                if positions is not None:
                    positions = _channels_last(positions)
                    positions = ops.reshape(positions, shape=(batch, -1, positions.shape[-1]))
                made.append(self._normed(p, self._layers(p, z, flat, positions)))
        if self.window_latents:
            with scope("windows"):
                z = ops.broadcast_to(p["window_latents"], shape=(batch, self.window_latents, channels))
                z = ops.reshape(z, shape=(-1, 1, channels))
                z = self._layers(p, z, self._windows(x), None)
                point(
                    "positions", self.window_positions(array_of(x)).swapaxes(1, 2).reshape(batch, channels, *self._grid)
                )
                made.append(self._normed(p, ops.reshape(z, shape=(batch, -1, channels))))
        return made[0] if len(made) == 1 else ops.concatenate(made, axis=1)

    def window_positions(self, x: Array) -> Array:
        """Where the window latents are, (B, N, C): sines and cosines of the row, then of the column.

        Rows and columns count from 1 to n, which is nearly 2 pi.
        """
        side, half = self._grid[0], self.channels // 2
        c = np.arange(half)
        wavelengths = 10_000.0 ** (2 * (c // 2) / half)
        angles = self.places(side)[:, None] / (side + 1e-6) * 2 * math.pi / wavelengths  # (n, half)
        one = np.where(c % 2 == 0, np.sin(angles), np.cos(angles))
        rows, columns = np.repeat(one, side, 0), np.tile(one, (side, 1))
        both = xp(x).asarray(np.concatenate([rows, columns], 1), x.dtype)
        return xp(x).broadcast_to(both, (x.shape[0], *both.shape))

    def places(self, side: int) -> np.ndarray:
        """The rows of so many, and the columns, as they are counted."""
        return np.arange(1, side + 1)

    @property
    def _grid(self) -> tuple[int, int]:
        side = math.isqrt(self.window_latents)
        return side, side

    def _layers(self, p: Tree, z: Any, x: Any, positions: Any) -> Any:
        for i, p_layer in enumerate(p["layers"]):
            with scope(f"layers.{i}"):
                with scope("cross"):
                    z = self.cross.apply(p_layer["cross"], z, x, positions=positions)
                with scope("own"):
                    z = self.own.apply(p_layer["own"], z)
        return z

    def _normed(self, p: Tree, z: Any) -> Any:
        return point("norm", self.norm.apply(p["norm"], z))

    def _windows(self, x: Any) -> Any:
        """(B, H, W, C) -> (B N, tokens of a window, C); a window is as high as wide, the last ones padded with 0."""
        batch, height, width, channels = x.shape
        if batch > 1 and self.window_latents > 1:
            raise InputError(f"EdgeTAM takes one map at a time where it has several window latents, got {batch}")
        size = height // self._grid[0]
        if not size:
            raise InputError(f"a map of {height} rows cannot be cut into windows for {self._grid[0]} rows of latents")
        down, across = -(-height // size), -(-width // size)
        if down * across != self.window_latents:
            raise InputError(
                f"a map of {height} x {width} gives {down} x {across} windows of {size} x {size}, "
                f"and there are {self.window_latents} latents"
            )
        more = ((0, 0), (0, down * size - height), (0, across * size - width), (0, 0))
        cut = ops.reshape(ops.pad(x, widths=more), shape=(batch, down, size, across, size, channels))
        cut = ops.transpose(cut, axes=(0, 1, 3, 2, 4, 5))
        return ops.reshape(cut, shape=(-1, size * size, channels))


def _channels_last(x: Any) -> Any:
    return ops.transpose(x, axes=(0, 2, 3, 1))


def _mlp(name: str) -> Table:
    return {
        "mlp_norm": (f"{name}.layer_norm", NORM),
        "mlp": (
            name,
            {"hidden/weight": ("up_proj.weight", transposed), "output/weight": ("down_proj.weight", transposed)},
        ),
    }


_NAMES: Table = {
    "latents": ("latents_1d", same),
    "window_latents": ("latents_2d", same),
    "layers/{i}": (
        "layers.{i}",
        {
            "cross/query_norm": ("layer_norm_latents", NORM),
            "cross/key_value_norm": ("layer_norm_input", NORM),
            "cross/attention": ("cross_attention", ATTENTION),
            "cross": ("", _mlp("mlp")),
            "own/norm": ("layer_norm_self", NORM),
            "own/attention": ("self_attention", ATTENTION),
            "own": ("", _mlp("self_mlp")),
        },
    ),
    "norm": ("layer_norm", NORM),
}
_MLP_POINTS: Rows = [
    ("", "mlp"),
    ("layer_norm", "mlp_norm"),
    ("up_proj", "mlp.hidden"),
    ("act_fn", "mlp.activation"),
    ("down_proj", "mlp"),
]
_LAYER_POINTS: Rows = [
    ("", "own"),
    ("layer_norm_latents", "cross.query_norm"),
    ("layer_norm_input", "cross.key_value_norm"),
    ("cross_attention", "cross.attention"),
    ("dropout", "cross.attention"),
    *inside("cross_attention", "cross", PROJECTION_POINTS),
    *inside("mlp", "cross", _MLP_POINTS),
    ("layer_norm_self", "own.norm"),
    ("self_attention", "own.attention"),
    *inside("self_attention", "own", PROJECTION_POINTS),
    *inside("self_mlp", "own", _MLP_POINTS),
]


def _points(model: MemoryResampler) -> Rows:
    """The global pass comes first; a module that both passes call has "@0" and "@1" after its name."""
    passes = [name for name, n in (("global", model.latents), ("windows", model.window_latents)) if n]
    rows: Rows = [("positional_encoding", "windows.positions")]
    for number, name in enumerate(passes):
        use = f"@{number}" if len(passes) > 1 else ""
        rows += inside(r"layers\.(\d+)", rf"{name}.layers.\1", _LAYER_POINTS, use)
        rows.append((f"layer_norm{use}", f"{name}.norm"))
    return rows


def _resampler(given: Given) -> Rebuilt:
    read = options("EdgeTamVideoConfig", given.config, _CONFIG, _FIELDS, INHERITED)
    chosen = {name.removeprefix(_PREFIX): value for name, value in read.items()}
    heads = positive(f"{_PREFIX}num_attention_heads", chosen["num_attention_heads"])
    width = positive(f"{_PREFIX}hidden_size", chosen["hidden_size"])
    inner = heads * positive(f"{_PREFIX}attention_head_dim", chosen["attention_head_dim"])
    hidden = positive(f"{_PREFIX}mlp_intermediate_size", chosen["mlp_intermediate_size"])
    model = MemoryResampler(
        PlacedCrossAttention(width, width, heads, inner, hidden=hidden, conventions=_CONVENTIONS),
        PlacedSelfAttention(width, heads, inner, hidden=hidden, conventions=_CONVENTIONS),
        chosen["num_latents"],
        chosen["num_latents_2d"],
        chosen["num_layers"],
    )

    def run(model: Any, params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        names = {"hidden_states", "positional_encoding"}
        values, _ = read_call(_RESAMPLER, arguments, called, names, {}, ["hidden_states"])
        x, positions = values["hidden_states"], values.get("positional_encoding")
        check_axes("hidden_states", x, "batch, channels, height, width")
        if x.shape[1] != width:
            raise InputError(f"hidden_states must have {width} channels, got {tuple(x.shape)}")
        wanted = (x.shape[0], inner, *x.shape[2:])
        if positions is not None and model.latents and tuple(positions.shape) != wanted:
            raise InputError(f"positional_encoding must be {wanted}, got {tuple(positions.shape)}")
        outputs = {"out0": model.apply(params, x, positions)}
        if positions is not None:
            like = array_of(x)
            zeros = xp(like).zeros((x.shape[0], model.latents, width), like.dtype)
            places = [model.window_positions(like)] if model.window_latents else []
            outputs["out1"] = xp(like).concatenate([zeros, *places], 1)
        return outputs

    return Rebuilt(model, bind(model.parameters(), _NAMES), run, _points(model))


PEER = Peer("edgetam", {_RESAMPLER: _resampler})
