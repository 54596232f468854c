"""Perceiver AR (Hawthorne et al. 2022, arXiv 2202.07765, section 3): the last inputs of a sequence are its latents.

Shapes: B batch, M tokens, P of them prefix, N = M - P latents, V vocabulary, C channels of inputs, D of latents.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple

from ...autograd import checkpoint, ops
from ...autograd.backend import Array, xp
from ...autograd.tree import Tree
from ...errors import InputError
from ..attention import KeysValues, joined
from ..constraints import Count
from ..conventions import AUTOREGRESSIVE, Conventions
from ..inputs.text import check_ids
from ..layers import Linear, Norm, norm
from ..masks import check_mask
from ..module import Module, Parameter, explains_parameters, part, truncated_normal, zeros
from ..rotary import Rotary
from ..tracing import asked_point, point, scope, trace
from .layers import CausalCrossAttention, CausalSelfAttention


class Memory(NamedTuple):
    """What a sequence leaves to its continuation. A value, which nothing changes."""

    inputs: tuple[KeysValues, ...]
    """Keys and values of all M tokens, by cross-attention"""
    latents: tuple[KeysValues, ...]
    """Keys and values of all N latents, by self-attention"""
    mask: Array
    """(B, M), bool: which tokens are real"""
    prefix: int
    """P, the number of tokens before the first latent"""


class Course(NamedTuple):
    """What the layers need besides the latents."""

    inputs: Any
    """(B, M', C): the new inputs that latents attend to, without those that are latents if `own_keys` is "queries\""""
    input_positions: Any
    """(B, M')"""
    positions: Any
    """(B, N), of the latents"""
    input_mask: Array | None
    """(B or 1, N, M), True = attend, for cross-attention to all inputs"""
    latent_mask: Array | None
    """(B or 1, N, all latents)"""


@dataclass(frozen=True)
class PerceiverAR(Module):
    """Token ids -> logits of the token that follows each of the last N.

        x_j = embedding[token_j] + position[j]                     every token j < M
        z_i = x_i Wz + bz                                          every latent P <= i < M
        z = z + attention(norm(z), norm(x)); z = z + mlp(norm(z))  latent i attends to inputs j <= i
        `layers` times: the same among latents                     latent i attends to latents j <= i
        logits = norm(z) Wy + by

    `latents` is the most of them. Positions are learned and added (`position_table`), turn queries and keys
    (`cross_rotary`; `self_rotary`, in the first `rotary_layers` self-attentions, None: all), or both. Latents attend to
    the inputs before those self-attentions that `cross_attends` lists, 0 being before the first one and `layers` after
    the last, as often as each is listed; each time has its own weights. Without `query_map` z_i is x_i. A latent's own
    input, and that of the latents before it, is a key among the "inputs", with their norm, or by `own_keys` "queries"
    with the norm of queries.
    `tied`: Wy is the embedding, transposed. `masked_latents`: latents of padding are no keys of other latents.
    `attention_channels`: the width of queries, keys and values, all heads together, where `conventions.free_widths`
    leaves it free; `hidden`: that of every MLP, in place of the widenings. `recompute`: as in `Encoder`.
    """

    vocabulary: int
    length: int
    latents: int
    channels: int
    layers: Count
    cross_heads: int = 1
    self_heads: int = 8
    latent_channels: int | None = None
    cross_widening: int = 4
    self_widening: int = 4
    attend_in: Literal["kv", "q"] = "kv"
    cross_attends: tuple[Count, ...] = (0,)
    query_residual: bool = True
    position_table: bool = False
    cross_rotary: Rotary | None = None
    self_rotary: Rotary | None = None
    rotary_layers: Count | None = None
    query_map: bool = True
    own_keys: Literal["inputs", "queries"] = "inputs"
    masked_latents: bool = True
    final_norm: bool = True
    tied: bool = False
    output_bias: bool = True
    self_output_bias: bool | None = None
    conventions: Conventions = AUTOREGRESSIVE
    attention_channels: int | None = None
    hidden: int | None = None
    recompute: bool = False

    def __post_init__(self) -> None:
        split = self.width if self.attention_channels is None else self.attention_channels
        for heads in (self.cross_heads, self.self_heads):
            if heads < 1 or split % heads:
                raise InputError(f"latents of {split} channels cannot be split among {heads} heads")
        if self.channels != self.width and not self.query_map:
            raise InputError(f"without a map to queries, latents are as wide as inputs ({self.channels})")
        if self.channels != self.width and (self.tied or self.own_keys == "queries"):
            raise InputError(f"tied logits and own keys need latents as wide as inputs ({self.channels})")
        if not 1 <= self.latents <= self.length:
            raise InputError(f"latents ({self.latents}) must be at least 1 and at most length ({self.length})")
        places = self.cross_attends
        if list(places) != sorted(places) or any(not 0 <= i <= self.layers for i in places):
            raise InputError(f"cross_attends must be increasing numbers from 0 to layers ({self.layers}): {places}")

    @property
    def width(self) -> int:
        """The number of channels of a latent."""
        return self.channels if self.latent_channels is None else self.latent_channels

    @part
    def cross_attention(self) -> CausalCrossAttention:
        """Each layer in which latents attend to inputs."""
        return CausalCrossAttention(
            self.width,
            self.channels,
            self.cross_heads,
            qk_channels=self.attention_channels,
            attend_in=self.attend_in,
            widening=self.cross_widening,
            query_residual=self.query_residual,
            conventions=self.conventions,
            hidden=self.hidden,
            rotary=self.cross_rotary,
        )

    @part
    def self_attentions(self) -> tuple[CausalSelfAttention, ...]:
        """The layers in which latents attend to each other."""
        bias = self.conventions.output_bias if self.self_output_bias is None else self.self_output_bias
        turning = CausalSelfAttention(
            self.width,
            self.self_heads,
            self.attention_channels,
            widening=self.self_widening,
            conventions=replace(self.conventions, output_bias=bias),
            hidden=self.hidden,
            rotary=self.self_rotary,
        )
        turns = self.layers if self.rotary_layers is None else min(self.rotary_layers, self.layers)
        return (turning,) * turns + (replace(turning, rotary=None),) * (self.layers - turns)

    @part
    def query(self) -> Linear | None:
        """The map of inputs to latents."""
        return Linear(self.channels, self.width) if self.query_map else None

    @part
    def norm(self) -> Norm | None:
        """The norm before the logits."""
        return norm(self.width, self.conventions) if self.final_norm else None

    def parameters(self) -> Tree:
        table = truncated_normal(0.02)
        logits = {} if self.tied else {"weight": Parameter((self.width, self.vocabulary), zeros)}
        return {
            "embedding": Parameter((self.vocabulary, self.channels), table),
            **({"positions": Parameter((self.length, self.channels), table)} if self.position_table else {}),
            **({"query": self.query.parameters()} if self.query else {}),
            "cross_attentions": [self.cross_attention.parameters() for _ in self.cross_attends],
            "layers": [layer.parameters() for layer in self.self_attentions],
            **({"norm": self.norm.parameters()} if self.norm else {}),
            "logits": {**logits, **({"bias": Parameter((self.vocabulary,), zeros)} if self.output_bias else {})},
        }

    @explains_parameters
    def apply(self, p: Tree, ids: Array, *, prefix: int = 0, mask: Array | None = None) -> Any:
        """ids (B, M), integers in [0, V) -> logits (B, M - prefix, V) of the token after each latent.

        prefix: the number of tokens that are no latents. mask (B, M), bool: True where a token is real; padding must be
        on the left, nothing depends on it, and logits there mean nothing. Raises `InputError` for ids out of range, a
        prefix that leaves no latent or too many, and a sequence that is too long.
        """
        return self.extend(p, ids, prefix=prefix, mask=mask)[0]

    @explains_parameters
    def extend(
        self, p: Tree, ids: Array, memory: Memory | None = None, *, prefix: int = 0, mask: Array | None = None
    ) -> tuple[Any, Memory]:
        """As `apply`, with what is needed to continue: ids (B, M) -> (logits, `Memory`).

        With `memory` the ids follow on the tokens that left it, and all of them are latents. In exact arithmetic the
        logits of all calls together are those of one call with all tokens.
        """
        z, memory = self.encode(p, ids, memory, prefix=prefix, mask=mask)
        return self.logits(p, z), memory

    @explains_parameters
    def encode(
        self,
        p: Tree,
        ids: Array,
        memory: Memory | None = None,
        *,
        prefix: int = 0,
        mask: Array | None = None,
        keys: Array | None = None,
    ) -> tuple[Any, Memory]:
        """As `extend`, with the latents (B, N, D) that logits are made of in place of these.

        keys (B, M of all calls), bool: False where an input is no key of cross-attention, which moves no positions.
        """
        check_ids(ids, self.vocabulary)
        mask = self._mask(ids, memory, mask)
        total = mask.shape[1]
        old = total - ids.shape[1]
        prefix = prefix if memory is None else memory.prefix
        self._check_lengths(total, prefix)
        library = xp(ids)
        start = max(old, prefix)  # of the new latents
        padding = (~mask).sum(-1, keepdims=True)
        place = library.maximum(library.arange(total)[None] - padding, 0)  # (B, M): padding does not count
        x = self.embed(p, ids, place[:, old:])
        index = library.arange(total)
        causal = index[None, :] <= index[start:, None]  # (N, M)
        real = mask[:, None, :] if self.masked_latents else library.ones_like(mask)[:, None, :]
        own = index[None, :] == index[start:, None]
        new = x[:, start - old :]
        seen = x if self.own_keys == "inputs" else x[:, : start - old]
        course = Course(
            inputs=seen,
            input_positions=place[:, old : old + seen.shape[1]],
            positions=place[:, start:],
            input_mask=causal & (mask if keys is None else mask & keys)[:, None, :],
            latent_mask=((causal & real) | own)[:, :, prefix:],
        )
        z, inputs, latents = self.process(p, self.queries(p, new), course, memory)
        return self.normed(p, z), Memory(inputs, latents, mask, prefix)

    def embed(self, p: Tree, ids: Array, positions: Array) -> Any:
        """ids (B, M) at positions (B, M) -> inputs (B, M, C)."""
        x = point("embedding", ops.take(p["embedding"], ids, axis=0))
        if self.position_table:
            x = ops.add(x, point("positions", ops.take(p["positions"], positions, axis=0)))
        return point("input", x)

    def queries(self, p: Tree, x: Any) -> Any:
        """Inputs (B, N, C) -> the latents at the start, (B, N, D)."""
        return point("latents", self.query.apply(p["query"], x) if self.query else x)

    def process(
        self, p: Tree, z: Any, course: Course, memory: Memory | None = None
    ) -> tuple[Any, tuple[KeysValues, ...], tuple[KeysValues, ...]]:
        """Latents (B, N, D) through all layers -> (latents, keys and values of the inputs, those of the latents)."""
        inputs: list[KeysValues] = []
        latents: list[KeysValues] = []

        def cross(weights: Tree, z: Any, seen: Any, kept: KeysValues | None) -> tuple[Any, KeysValues]:
            keys = self._input_keys(weights, z, kept, course._replace(inputs=seen))
            return self.cross_attention.attend(weights, z, keys, course.positions, mask=course.input_mask), keys

        def among(layer: CausalSelfAttention, weights: Tree, z: Any, kept: KeysValues | None) -> tuple[Any, KeysValues]:
            return layer.attend(weights, z, kept, course.positions, mask=course.latent_mask)

        for i in range(self.layers + 1):
            for k in range(len(inputs), len(inputs) + self.cross_attends.count(i)):
                with scope(f"cross_attention.{k}"):
                    kept = None if memory is None else memory.inputs[k]
                    z, keys = self._kept(cross)(p["cross_attentions"][k], z, course.inputs, kept)
                    inputs.append(keys)
            if i < self.layers:
                with scope(f"layers.{i}"):
                    kept = None if memory is None else memory.latents[i]
                    z, keys = self._kept(partial(among, self.self_attentions[i]))(p["layers"][i], z, kept)
                    latents.append(keys)
        return z, tuple(inputs), tuple(latents)

    def _kept(self, layer: Callable[..., Any]) -> Callable[..., Any]:
        return checkpoint(layer) if self.recompute else layer

    def _input_keys(self, p: Tree, z: Any, kept: KeysValues | None, course: Course) -> KeysValues:
        layer = self.cross_attention
        with trace({"attention.key", "attention.value"}.__contains__, tensors=True) as made:
            if course.inputs.shape[1]:
                kept = joined(kept, layer.keys_values(p, course.inputs, course.input_positions))
            if self.own_keys != "inputs":
                kept = joined(kept, layer.keys_values(p, z, course.positions, own=True))
        for name in ("attention.key", "attention.value"):  # of prefix and latents together, where that is asked for
            parts = [value for point, value in made.items() if point.partition("@")[0] == name]
            asked_point(f"{name}s", partial(ops.concatenate, parts, axis=-2))
        return joined(kept)

    def normed(self, p: Tree, z: Any) -> Any:
        """The latents after all layers, (B, N, D), as logits are made of them."""
        return point("final", self.norm.apply(p["norm"], z) if self.norm else z)

    def logits(self, p: Tree, z: Any) -> Any:
        """Normed latents (B, N, D) -> logits (B, N, V)."""
        weight = ops.transpose(p["embedding"]) if self.tied else p["logits"]["weight"]
        return point("logits", ops.linear(z, weight, p["logits"].get("bias")))

    def _mask(self, ids: Array, memory: Memory | None, mask: Array | None) -> Array:
        """Which of all tokens are real, (B, M)."""
        library = xp(ids)
        if mask is None:
            mask = library.ones(ids.shape, bool)
        mask = check_mask(mask, tuple(ids.shape), "mask")
        if memory is not None:
            if memory.mask.shape[0] != ids.shape[0]:
                raise InputError(f"{ids.shape[0]} sequences cannot follow on {memory.mask.shape[0]}")
            mask = library.concatenate([memory.mask, mask], 1)
        if bool((mask[:, :-1] & ~mask[:, 1:]).any()):
            raise InputError("padding must be on the left of a sequence: mask must be False first, then True")
        return mask

    def _check_lengths(self, total: int, prefix: int) -> None:
        if total > self.length:
            raise InputError(f"the sequence has {total} tokens, but the model was made for at most {self.length}")
        if not 0 <= prefix < total:
            raise InputError(f"prefix must leave a latent: at least 0 and less than {total} tokens, got {prefix}")
        if total - prefix > self.latents:
            raise InputError(
                f"{total} tokens with a prefix of {prefix} are {total - prefix} latents, more than {self.latents}"
            )
