"""Multi-head attention, and the two layers made of it: cross-attention and self-attention.

Shapes: B batch, N queries, M keys, D query channels, C key-value channels, H heads. Masks are bool and True means
"attend".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

from ..autograd import ops
from ..autograd.backend import Array
from ..autograd.branches import side_by_side
from ..autograd.tree import Tree
from ..errors import InputError
from .conventions import DEEPMIND, Conventions
from .layers import MLP, Linear, Norm, norm
from .module import Module, fan_in_scaled, part
from .rotary import Rotary
from .tracing import asked_point, lazy_point, point, scope


class KeysValues(NamedTuple):
    """The projections of what is attended to, split into heads; kept by callers that attend to it again."""

    keys: Any
    """(..., Hk, M, d)"""
    values: Any
    """(..., Hk, M, e)"""


@dataclass(frozen=True)
class Attention(Module):
    """Multi-head attention of one set on another (Perceiver, section 3.2; Perceiver IO, appendix E, eq. 1 to 4).

        q = x Wq, k = z Wk, v = z Wv; head h: softmax(q_h k_h^T / sqrt(d)) v_h; output = heads Wo

    `qk_channels` and `v_channels` are the widths of all heads together, heads in order along the channel axis. With
    fewer `kv_heads` (a divisor of `heads`), consecutive query heads share a head of keys and values (Ainslie et al.
    2023, arXiv 2305.13245). `qk_norm`: each head of q and k is normed, with weights that the heads share. `scale`
    replaces 1 / sqrt(d). `rotary` turns queries and keys by their positions.
    """

    q_inputs: int
    kv_inputs: int
    qk_channels: int
    v_channels: int
    outputs: int
    heads: int = 1
    conventions: Conventions = DEEPMIND
    kv_heads: int | None = None
    qk_norm: bool = False
    scale: float | None = None
    rotary: Rotary | None = None

    def __post_init__(self) -> None:
        for name in ("qk_channels", "v_channels"):
            width = getattr(self, name)
            if self.heads < 1 or width % self.heads:
                raise InputError(f"{name} ({width}) must be divisible by the number of heads ({self.heads})")
        if self.shared < 1 or self.heads % self.shared:
            raise InputError(f"heads ({self.heads}) must be divisible by kv_heads ({self.kv_heads})")

    @property
    def shared(self) -> int:
        """The number of heads that keys and values have."""
        return self.heads if self.kv_heads is None else self.kv_heads

    @part
    def query(self) -> Linear:
        """The map to queries."""
        return Linear(self.q_inputs, self.qk_channels, self.conventions.qkv_bias, fan_in_scaled)

    @part
    def key(self) -> Linear:
        """The map to keys."""
        width = self.qk_channels // self.heads * self.shared
        return Linear(self.kv_inputs, width, self.conventions.qkv_bias, fan_in_scaled)

    @part
    def value(self) -> Linear:
        """The map to values."""
        width = self.v_channels // self.heads * self.shared
        return Linear(self.kv_inputs, width, self.conventions.qkv_bias, fan_in_scaled)

    @part
    def output(self) -> Linear:
        """The map of all heads together."""
        return Linear(self.v_channels, self.outputs, self.conventions.output_bias, fan_in_scaled)

    @part
    def query_norm(self) -> Norm | None:
        """The norm of each head of queries."""
        return norm(self.qk_channels // self.heads, self.conventions) if self.qk_norm else None

    @part
    def key_norm(self) -> Norm | None:
        """The norm of each head of keys."""
        return self.query_norm

    def keys_values(self, p: Tree, z: Any, *, positions: Any = None, values: Any = None) -> KeysValues:
        """z (..., M, C) -> its keys (..., Hk, M, d) and values (..., Hk, M, e). positions (..., M): for `rotary`.

        values (..., M, C): what values are made of in place of z, as where positions are added for keys alone.
        """
        with scope("attention"):
            k, v = side_by_side(
                lambda: point("key", self.key.apply(p["key"], z)),
                lambda: point("value", self.value.apply(p["value"], z if values is None else values)),
            )
            asked_point("key_value", lambda: ops.concatenate([k, v], axis=-1))
            k, v = (split_heads(x, self.shared) for x in (k, v))
            asked_point("key.heads", lambda: k)
            return KeysValues(self._rotated(_normed(p, "key_norm", self.key_norm, k), positions), v)

    def projections(self, p: Tree, x: Any) -> Any:
        """x (..., N, D) -> its query, key and value side by side, as implementations have them with one map for all."""
        maps = (("query", self.query), ("key", self.key), ("value", self.value))
        return ops.concatenate([made.apply(p[name], x) for name, made in maps], axis=-1)

    def apply(
        self,
        p: Tree,
        x: Any,
        z: Any,
        *,
        mask: Array | None = None,
        bias: Any = None,
        positions: Any = None,
        key_positions: Any = None,
        values: Any = None,
        head_mask: Array | None = None,
    ) -> Any:
        """x (..., N, D), z (..., M, C) or its `KeysValues` -> (..., N, outputs).

        mask: bool, broadcastable to (..., N, M); head_mask in its place: to (..., H, N, M). bias: added to the logits,
        broadcastable to (..., H, N, M). positions (..., N), key_positions (..., M): for `rotary`. values: see
        `keys_values`.
        Traced as `weights`, what multiplies the values, and where a mask zeroes rows without any key as `softmax` too,
        in which such rows are uniform.
        """

        def keys_values() -> KeysValues:
            if isinstance(z, KeysValues):
                return z
            return self.keys_values(p, z, positions=key_positions, values=values)

        q, (k, v) = side_by_side(lambda: self._queries(p, x, positions), keys_values)
        with scope("attention"):
            if mask is not None:
                mask = mask[..., None, :, :]  # one mask for all heads
            of_heads = self._mixed(q, k, v, head_mask if mask is None else mask, bias)
            asked_point("mixed.heads", lambda: of_heads)
            mixed = point("mixed", join_heads(of_heads))  # (..., N, v_channels)
            return point("", self.output.apply(p["output"], mixed))

    def _queries(self, p: Tree, x: Any, positions: Any) -> Any:
        """The queries of x, (..., H, N, d)."""
        with scope("attention"):
            q = split_heads(point("query", self.query.apply(p["query"], x)), self.heads)
            asked_point("query.heads", lambda: q)
            return self._rotated(_normed(p, "query_norm", self.query_norm, q), positions)

    def _mixed(self, q: Any, k: Any, v: Any, mask: Array | None, bias: Any) -> Any:
        """softmax(q k^T / sqrt(d)) v for every head, (..., H, N, e)."""
        shape, shared = (*q.shape[:-1], k.shape[-2]), self.shared
        if shared != self.heads:  # (..., Hk, H / Hk, N, d) beside (..., Hk, 1, M, d)
            q = ops.reshape(q, shape=(*q.shape[:-3], shared, self.heads // shared, *q.shape[-2:]))
            k, v = (ops.reshape(y, shape=(*y.shape[:-2], 1, *y.shape[-2:])) for y in (k, v))
            mask = None if mask is None else mask[..., None, :, :]
            bias = None if bias is None else self._grouped(bias)
        options = {"mask": mask, "masked_rows": self.conventions.masked_rows, "scale": self.scale}

        def weights(**changed: Any) -> Any:
            return ops.reshape(ops.attention_weights(q, k, bias, **{**options, **changed}), shape=shape)

        lazy_point("weights", shape, weights)
        asked_point("weights.flat", lambda: ops.reshape(weights(), shape=(-1, *shape[-2:])))
        if mask is not None and self.conventions.masked_rows == "zero":
            lazy_point("softmax", shape, lambda: weights(masked_rows="uniform"))
        mixed = ops.attention(q, k, v, bias, **options)
        return mixed if shared == self.heads else ops.reshape(mixed, shape=(*shape[:-1], mixed.shape[-1]))

    def _rotated(self, x: Any, positions: Any) -> Any:
        if self.rotary is None:
            return x
        if positions is None:
            raise InputError("rotary embedding needs the positions of queries and of keys")
        return self.rotary.apply(x, positions)

    def _grouped(self, bias: Any) -> Any:
        """A bias whose axis of heads, where it has one, is split as the queries' is."""
        if len(bias.shape) < 3:
            return bias
        heads = (1, 1) if bias.shape[-3] == 1 else (self.shared, self.heads // self.shared)
        return ops.reshape(bias, shape=(*bias.shape[:-3], *heads, *bias.shape[-2:]))


Norms = Literal["before", "after", "around"]
"""Where a layer has the norms of its attention and its MLP f: x + f(norm(x)), as in GPT-2 and the Perceivers;
x + norm(f(x)), as in Swin v2 (arXiv 2111.09883); or norm(x + f(x)), as in the first Transformer."""


class Layer(Module):
    """The course of a layer: attention, added to x or in its place, and what follows it."""

    query_residual: bool = True
    norms: Norms | Literal["none"] = "before"
    norm: ClassVar[part[Any]]
    mlp_norm: ClassVar[part[Any]]
    mlp: ClassVar[part[Any]]

    def normed(self, p: Tree, name: str, x: Any) -> Any:
        """x after the norm of this name, where there is one."""
        return _normed(p, name, getattr(self, name), x)

    def _joined(self, p: Tree, x: Any, attended: Any) -> Any:
        """x + attention(...), or the attention alone; after the norm where that does not come before."""
        if self.norms == "after":
            attended = self.normed(p, "norm", attended)
        x = point("attention_residual", ops.add(x, attended)) if self.query_residual else attended
        return self.normed(p, "norm", x) if self.norms == "around" else x

    def _finished(self, p: Tree, x: Any) -> Any:
        """The second half: x + mlp(norm(x)), with the norm in its place; x where no MLP follows."""
        if self.mlp is None:
            return point("", x)
        normed = x if self.norms in ("after", "around") else self.normed(p, "mlp_norm", x)
        made = self.mlp.apply(p["mlp"], normed)
        if self.norms == "after":
            made = self.normed(p, "mlp_norm", made)
        x = ops.add(x, made)
        return point("", self.normed(p, "mlp_norm", x) if self.norms == "around" else x)


@dataclass(frozen=True)
class CrossAttention(Layer):
    """Queries attend to inputs, then an MLP; both with pre-norm and residual (Perceiver IO, appendix E, eq. 5 to 7).

        x = x + attention(norm(x), norm(z)); x = x + mlp(norm(x))

    Without `query_residual` the first sum leaves x out. `qk_channels` defaults to the width that `attend_in` names
    ("kv": the inputs', "q": the queries'), `v_channels` to `qk_channels`. Without `context_norm` the inputs are taken
    as they are, without `feed_forward` no MLP follows. `norms`: where those of queries and MLP are; `hidden`: as in
    `MLP`.
    """

    q_inputs: int
    kv_inputs: int
    heads: int = 1
    qk_channels: int | None = None
    v_channels: int | None = None
    attend_in: Literal["kv", "q"] = "kv"
    widening: int = 1
    query_residual: bool = True
    conventions: Conventions = DEEPMIND
    hidden: int | None = None
    norms: Norms = "before"
    context_norm: bool = True
    feed_forward: bool = True

    @part
    def query_norm(self) -> Norm | None:
        """The norm of queries before attention."""
        return norm(self.q_inputs, self.conventions) if self.norms == "before" else None

    @part
    def norm(self) -> Norm | None:
        """That of what attention gives, where norms do not come before."""
        return None if self.norms == "before" else norm(self.q_inputs, self.conventions)

    @part
    def key_value_norm(self) -> Norm | None:
        """The norm of what is attended to."""
        return norm(self.kv_inputs, self.conventions) if self.context_norm else None

    @part
    def attention(self) -> Attention:
        """The attention, whose outputs are as wide as queries."""
        default = self.kv_inputs if self.attend_in == "kv" else self.q_inputs
        qk = default if self.qk_channels is None else self.qk_channels
        v = qk if self.v_channels is None else self.v_channels
        return Attention(self.q_inputs, self.kv_inputs, qk, v, self.q_inputs, self.heads, self.conventions)

    @part
    def mlp_norm(self) -> Norm | None:
        """The norm of the MLP."""
        return norm(self.q_inputs, self.conventions) if self.feed_forward else None

    @part
    def mlp(self) -> MLP | None:
        """The MLP."""
        return MLP(self.q_inputs, self.widening, self.conventions, self.hidden) if self.feed_forward else None

    def apply(self, p: Tree, x: Any, z: Any, *, mask: Array | None = None, bias: Any = None) -> Any:
        """x (B, N, q_inputs), z (B, M, kv_inputs) -> (B, N, q_inputs); mask and bias as in `Attention`."""
        q = self.normed(p, "query_norm", x)
        kv = self.normed(p, "key_value_norm", z)
        attended = self.attention.apply(p["attention"], q, kv, mask=mask, bias=bias)
        return self._finished(p, self._joined(p, x, attended))


@dataclass(frozen=True)
class SelfAttention(Layer):
    """Elements attend to each other, then an MLP; both with pre-norm and residual (Perceiver, section 3.2).

        x = x + attention(norm(x), norm(x)); x = x + mlp(norm(x))

    Without `query_residual` the first sum leaves x out. `qk_channels` defaults to `channels`, `v_channels` to
    `qk_channels`; v_channels must equal `channels`, unless `conventions.free_widths`. `hidden`, `norms` and
    `feed_forward` as in `CrossAttention`.
    """

    channels: int
    heads: int = 1
    qk_channels: int | None = None
    v_channels: int | None = None
    widening: int = 1
    conventions: Conventions = DEEPMIND
    query_residual: bool = True
    hidden: int | None = None
    norms: Norms = "before"
    feed_forward: bool = True

    def __post_init__(self) -> None:
        if self._widths()[1] != self.channels and not self.conventions.free_widths:
            raise InputError(
                f"v_channels ({self._widths()[1]}) must equal the layer's width ({self.channels}), which it is added to"
            )

    def _widths(self) -> tuple[int, int]:
        qk = self.channels if self.qk_channels is None else self.qk_channels
        return qk, qk if self.v_channels is None else self.v_channels

    @part
    def norm(self) -> Norm:
        """The norm of attention."""
        return norm(self.channels, self.conventions)

    @part
    def attention(self) -> Attention:
        """The attention."""
        qk, v = self._widths()
        return Attention(self.channels, self.channels, qk, v, self.channels, self.heads, self.conventions)

    @part
    def mlp_norm(self) -> Norm | None:
        """The norm of the MLP."""
        return norm(self.channels, self.conventions) if self.feed_forward else None

    @part
    def mlp(self) -> MLP | None:
        """The MLP."""
        return MLP(self.channels, self.widening, self.conventions, self.hidden) if self.feed_forward else None

    def apply(self, p: Tree, x: Any, *, mask: Array | None = None, bias: Any = None) -> Any:
        """x (B, N, channels) -> the same shape; mask and bias as in `Attention`."""
        normed = self.normed(p, "norm", x) if self.norms == "before" else x
        attended = self.attention.apply(p["attention"], normed, normed, mask=mask, bias=bias)
        return self._finished(p, self._joined(p, x, attended))


def _normed(p: Tree, name: str, norm: Norm | None, x: Any) -> Any:
    """x after the norm of this name, where there is one."""
    return x if norm is None else point(name, norm.apply(p[name], x))


def joined(*parts: KeysValues | None) -> KeysValues:
    """The keys and values of all parts, one part after the other; None stands for no position."""
    given = [part for part in parts if part is not None]
    return given[0] if len(given) == 1 else KeysValues(*(ops.concatenate(list(same), axis=-2) for same in zip(*given)))


def split_heads(x: Any, heads: int) -> Any:
    """(..., N, channels) -> (..., heads, N, channels / heads)."""
    *lead, n, channels = x.shape
    x = ops.reshape(x, shape=(*lead, n, heads, channels // heads))
    return ops.transpose(x, axes=(*range(len(lead)), len(lead) + 1, len(lead), len(lead) + 2))


def join_heads(x: Any) -> Any:
    """(..., H, N, e) -> (..., N, H e)."""
    *lead, h, n, e = x.shape
    x = ops.transpose(x, axes=(*range(len(lead)), len(lead) + 1, len(lead), len(lead) + 2))
    return ops.reshape(x, shape=(*lead, n, h * e))
