"""microsoft-aurora 2.0.1 (`aurora/model/perceiver.py`): the resampler of pressure levels.

Its latents are an argument, and no keys. Context is neither normed nor projected before attention; the norms of
attention and MLP come after these, inside the residuals, and none comes last. With `ln_k_q` the first layer also norms
keys and queries, all channels together, with an epsilon of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from ..autograd import ops
from ..autograd.tree import Tree
from ..models.attention import Attention, CrossAttention, KeysValues
from ..models.call import Call
from ..models.constraints import Count
from ..models.conventions import FLAMINGO_DIALECTS
from ..models.layers import LayerNorm, Linear
from ..models.module import Module, part, variant
from ..models.tracing import asked_point, point, scope
from .base import Arguments, Given, Option, Outputs, Peer, Rebuilt, check_axes, options, positive, read_call
from .lucidrains.flamingo.parts import ATTENTION
from .names import LINEAR, NORM, Rows, Table, bind, inside

_SIZE = Option(int, required=True)
_OPTIONS: dict[str, Any] = {
    "latent_dim": _SIZE,
    "context_dim": _SIZE,
    "depth": 1,
    "head_dim": 64,
    "num_heads": 16,
    "mlp_ratio": 4.0,
    "drop": 0.0,
    "residual_latent": True,
    "ln_eps": 1e-5,
    "ln_k_q": False,
}
_CALL = {"use_fp16_safe_attention": False}
"""An attribute of the attention: another order of the same arithmetic."""
_CONVENTIONS = FLAMINGO_DIALECTS["aurora"]


@dataclass(frozen=True)
class NormedLinear(Linear):
    """A linear map whose results are normed, those of all heads together."""

    @part
    def norm(self) -> LayerNorm:
        """The norm, whose epsilon is no option."""
        return LayerNorm(self.outputs)

    def parameters(self) -> Tree:
        return {**super().parameters(), "norm": self.norm.parameters()}

    def apply(self, p: Tree, x: Any) -> Any:
        """x (..., inputs) -> (..., outputs)."""
        return self.norm.apply(p["norm"], super().apply(p, x))


@dataclass(frozen=True)
class NormedAttention(Attention):
    """Attention whose queries and keys are normed before they are split into heads."""

    @part
    def query(self) -> Linear:
        """The map to queries, and their norm."""
        return variant(super().query, NormedLinear)

    @part
    def key(self) -> Linear:
        """The map to keys, and their norm."""
        return variant(super().key, NormedLinear)

    def keys_values(self, p: Tree, z: Any, *, positions: Any = None, values: Any = None) -> KeysValues:
        """As `Attention.keys_values`."""
        with scope("attention"):
            names = ("key", "value")
            asked_point("key_value.linear", lambda: ops.concatenate([_linear(p[n], z) for n in names], axis=-1))
        return super().keys_values(p, z, positions=positions, values=values)

    def apply(self, p: Tree, x: Any, z: Any, **options: Any) -> Any:
        """As `Attention.apply`."""
        with scope("attention"):
            asked_point("query.linear", partial(_linear, p["query"], x))
        return super().apply(p, x, z, **options)


def _linear(p: Tree, x: Any) -> Any:
    return ops.linear(x, p["weight"])


@dataclass(frozen=True)
class NormedCrossAttention(CrossAttention):
    """Cross-attention by `NormedAttention`."""

    @part
    def attention(self) -> Attention:
        """The attention."""
        return variant(super().attention, NormedAttention)


@dataclass(frozen=True)
class GivenLatents(Module):
    """Latents that are given attend to the context, layer after layer; `first` is the first layer, `layer` the others.

    a = norm(attention(z, x)); z = z + a, or a alone; z = z + norm(mlp(z))
    """

    first: CrossAttention
    layer: CrossAttention
    layers: Count

    def parameters(self) -> Tree:
        return {"layers": [(self.layer if i else self.first).parameters() for i in range(self.layers)]}

    @property
    def arguments(self) -> Mapping[str, tuple[int | None, ...]]:
        """The shape of one example of each argument; None where the model does not say."""
        return {"latents": (None, self.layer.q_inputs), "x": (None, self.layer.kv_inputs)}

    def apply(self, p: Tree, z: Any, x: Any) -> Any:
        """z (B, N, D), x (B, M, C) -> (B, N, D)."""
        with scope("resampler"):
            for i, p_layer in enumerate(p["layers"]):
                with scope(f"layers.{i}"):
                    z = (self.layer if i else self.first).apply(p_layer, z, x)
            return point("", z)


_NAMES: Table = {
    "layers/{i}": (
        "layers.{i}",
        {
            "attention/query/norm": ("0.ln_q", NORM),
            "attention/key/norm": ("0.ln_k", NORM),
            "attention": ("0", ATTENTION),
            "mlp": ("1.net", {"hidden": ("0", LINEAR), "output": ("2", LINEAR)}),
            "norm": ("2", NORM),
            "mlp_norm": ("3", NORM),
        },
    ),
}
_POINTS: Rows = inside(
    r"layers\.(\d+)",
    r"resampler.layers.\1",
    [
        ("0", "attention"),
        (r"0\.to_q", "attention.query.linear|attention.query"),
        (r"0\.to_kv", "attention.key_value.linear|attention.key_value"),
        (r"0\.ln_q", "attention.query"),
        (r"0\.ln_k", "attention.key"),
        (r"0\.to_out", "attention"),
        ("1", "mlp"),
        (r"1\.net", "mlp"),
        (r"1\.net\.0", "mlp.hidden"),
        (r"1\.net\.1", "mlp.activation"),
        (r"1\.net\.[23]", "mlp"),
        ("2", "norm"),
        ("3", "mlp_norm"),
    ],
)


def _resampler(given: Given) -> Rebuilt:
    what = "PerceiverResampler"
    chosen = options(what, given.config, _OPTIONS)
    width, heads = positive("latent_dim", chosen["latent_dim"]), positive("num_heads", chosen["num_heads"])
    hidden = positive("int(latent_dim * mlp_ratio)", int(width * chosen["mlp_ratio"]))
    layer = CrossAttention(
        width,
        positive("context_dim", chosen["context_dim"]),
        heads,
        heads * positive("head_dim", chosen["head_dim"]),
        query_residual=chosen["residual_latent"],
        conventions=replace(_CONVENTIONS, norm_eps=chosen["ln_eps"]),
        hidden=hidden,
        norms="after",
        context_norm=False,
    )
    first = variant(layer, NormedCrossAttention) if chosen["ln_k_q"] else layer
    model = GivenLatents(first, layer, chosen["depth"])

    def run(model: Any, params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        values, _ = read_call(what, arguments, called, {"latents", "x"}, _CALL, ["latents", "x"])
        for name in ("latents", "x"):
            check_axes(name, values[name], "batch, tokens, channels")
        return {"out": model.apply(params, values["latents"], values["x"])}

    return Rebuilt(model, bind(model.parameters(), _NAMES), run, _POINTS)


PEER = Peer("aurora", {"PerceiverResampler": _resampler})
