"""Multi-head attention, and the two layers made of it: cross-attention and self-attention.

Shapes: B batch, N queries, M keys, D query channels, C key-value channels, H heads. Masks are bool and True means
"attend".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from .autograd import ops
from .autograd.backend import Array
from .autograd.tree import Tree
from .conventions import DEEPMIND, Conventions
from .errors import InputError
from .layers import MLP, LayerNorm, Linear
from .parameters import Module, fan_in_scaled
from .tracing import lazy_point, point, scope


@dataclass(frozen=True)
class Attention(Module):
    """Multi-head attention of one set on another (Perceiver, section 3.2; Perceiver IO, appendix E, eq. 1 to 4).

        Q = x Wq, K = z Wk, V = z Wv; head h: softmax(Q_h K_h^T / sqrt(d)) V_h; output = heads Wo

    `qk_channels` and `v_channels` are the widths of all heads together, heads in order along the channel axis.
    """

    q_inputs: int
    kv_inputs: int
    qk_channels: int
    v_channels: int
    outputs: int
    heads: int = 1
    conventions: Conventions = DEEPMIND
    output_bias: bool = True

    def __post_init__(self) -> None:
        for name in ("qk_channels", "v_channels"):
            width = getattr(self, name)
            if self.heads < 1 or width % self.heads:
                raise InputError(f"{name} ({width}) must be divisible by the number of heads ({self.heads})")

    def _parts(self) -> dict[str, Linear]:
        return {
            "query": Linear(self.q_inputs, self.qk_channels, initializer=fan_in_scaled),
            "key": Linear(self.kv_inputs, self.qk_channels, initializer=fan_in_scaled),
            "value": Linear(self.kv_inputs, self.v_channels, initializer=fan_in_scaled),
            "output": Linear(self.v_channels, self.outputs, self.output_bias, fan_in_scaled),
        }

    def parameters(self) -> Tree:
        return {name: part.parameters() for name, part in self._parts().items()}

    def apply(self, p: Tree, x: Any, z: Any, *, mask: Array | None = None, bias: Any = None) -> Any:
        """x (B, N, D), z (B, M, C) -> (B, N, outputs).

        mask: bool, broadcastable to (B, N, M). bias: added to the logits, broadcastable to (B, H, N, M).
        Traced as `weights`, what multiplies the values, and where a mask zeroes rows without any key as `softmax` too,
        in which such rows are uniform.
        """
        parts = self._parts()
        with scope("attention"):
            q = self._heads(point("query", parts["query"].apply(p["query"], x)))  # (B, H, N, d)
            k = self._heads(point("key", parts["key"].apply(p["key"], z)))  # (B, H, M, d)
            v = self._heads(point("value", parts["value"].apply(p["value"], z)))  # (B, H, M, e)
            if mask is not None:
                mask = mask[..., None, :, :]  # one mask for all heads
            options = {"mask": mask, "masked_rows": self.conventions.masked_rows}
            shape = (*q.shape[:-1], k.shape[-2])
            lazy_point("weights", shape, lambda: ops.attention_weights(q, k, bias, **options))
            if mask is not None and self.conventions.masked_rows == "zero":
                wide = {**options, "masked_rows": "uniform"}
                lazy_point("softmax", shape, lambda: ops.attention_weights(q, k, bias, **wide))
            mixed = point("mixed", _join(ops.attention(q, k, v, bias, **options)))  # (B, N, v_channels)
            return point("", parts["output"].apply(p["output"], mixed))

    def _heads(self, x: Any) -> Any:
        """(B, N, channels) -> (B, H, N, channels / H)."""
        b, n, channels = x.shape
        split = ops.reshape(x, shape=(b, n, self.heads, channels // self.heads))
        return ops.transpose(split, axes=(0, 2, 1, 3))


@dataclass(frozen=True)
class CrossAttention(Module):
    """Queries attend to inputs, then an MLP; both with pre-norm and residual (Perceiver IO, appendix E, eq. 5 to 7).

        x = x + attention(norm(x), norm(z)); x = x + mlp(norm(x))

    Without `query_residual` the first sum leaves x out. `qk_channels` defaults to the width that `attend_in` names
    ("kv": the inputs', "q": the queries'), `v_channels` to `qk_channels`.
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

    def _parts(self) -> dict[str, Any]:
        default = self.kv_inputs if self.attend_in == "kv" else self.q_inputs
        qk = default if self.qk_channels is None else self.qk_channels
        v = qk if self.v_channels is None else self.v_channels
        eps = self.conventions.norm_eps
        return {
            "query_norm": LayerNorm(self.q_inputs, eps),
            "key_value_norm": LayerNorm(self.kv_inputs, eps),
            "attention": Attention(self.q_inputs, self.kv_inputs, qk, v, self.q_inputs, self.heads, self.conventions),
            "mlp_norm": LayerNorm(self.q_inputs, eps),
            "mlp": MLP(self.q_inputs, self.widening, self.conventions),
        }

    def parameters(self) -> Tree:
        return {name: part.parameters() for name, part in self._parts().items()}

    def apply(self, p: Tree, x: Any, z: Any, *, mask: Array | None = None, bias: Any = None) -> Any:
        """x (B, N, q_inputs), z (B, M, kv_inputs) -> (B, N, q_inputs); mask and bias as in `Attention`."""
        parts = self._parts()
        q = point("query_norm", parts["query_norm"].apply(p["query_norm"], x))
        kv = point("key_value_norm", parts["key_value_norm"].apply(p["key_value_norm"], z))
        attended = parts["attention"].apply(p["attention"], q, kv, mask=mask, bias=bias)
        x = point("attention_residual", ops.add(x, attended)) if self.query_residual else attended
        return _mlp(parts, p, x)


@dataclass(frozen=True)
class SelfAttention(Module):
    """Elements attend to each other, then an MLP; both with pre-norm and residual (Perceiver, section 3.2).

        x = x + attention(norm(x), norm(x)); x = x + mlp(norm(x))

    Without `query_residual` the first sum leaves x out. `qk_channels` defaults to `channels`, `v_channels` to
    `qk_channels`; v_channels must equal `channels`, since the result is added to x.
    """

    channels: int
    heads: int = 1
    qk_channels: int | None = None
    v_channels: int | None = None
    widening: int = 1
    conventions: Conventions = DEEPMIND
    query_residual: bool = True

    def __post_init__(self) -> None:
        if self._widths()[1] != self.channels:
            raise InputError(
                f"v_channels ({self._widths()[1]}) must equal the layer's width ({self.channels}), which it is added to"
            )

    def _widths(self) -> tuple[int, int]:
        qk = self.channels if self.qk_channels is None else self.qk_channels
        return qk, qk if self.v_channels is None else self.v_channels

    def _parts(self) -> dict[str, Any]:
        eps = self.conventions.norm_eps
        qk, v = self._widths()
        return {
            "norm": LayerNorm(self.channels, eps),
            "attention": Attention(self.channels, self.channels, qk, v, v, self.heads, self.conventions),
            "mlp_norm": LayerNorm(self.channels, eps),
            "mlp": MLP(self.channels, self.widening, self.conventions),
        }

    def parameters(self) -> Tree:
        return {name: part.parameters() for name, part in self._parts().items()}

    def apply(self, p: Tree, x: Any, *, mask: Array | None = None, bias: Any = None) -> Any:
        """x (B, N, channels) -> the same shape; mask and bias as in `Attention`."""
        parts = self._parts()
        normed = point("norm", parts["norm"].apply(p["norm"], x))
        attended = parts["attention"].apply(p["attention"], normed, normed, mask=mask, bias=bias)
        x = point("attention_residual", ops.add(x, attended)) if self.query_residual else attended
        return _mlp(parts, p, x)


def _mlp(parts: dict[str, Any], p: Tree, x: Any) -> Any:
    """x + mlp(norm(x)): the second half of every layer."""
    normed = point("mlp_norm", parts["mlp_norm"].apply(p["mlp_norm"], x))
    return point("", ops.add(x, parts["mlp"].apply(p["mlp"], normed)))


def _join(x: Any) -> Any:
    """(B, H, N, e) -> (B, N, H e)."""
    b, h, n, e = x.shape
    return ops.reshape(ops.transpose(x, axes=(0, 2, 1, 3)), shape=(b, n, h * e))
