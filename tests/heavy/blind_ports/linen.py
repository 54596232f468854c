"""Perceiver IO in Flax (Linen), with its own MultiHeadDotProductAttention: kernels are (inputs, heads, width)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

_CONVENTIONS: dict[str, Any] = {
    "type": "Conventions",
    "activation": "gelu_tanh",
    "masked_rows": "zero",
    "grid": "compute",
    "norm_eps": 1e-6,
}
CONFIG: dict[str, Any] = {
    "type": "PerceiverIO",
    "encoder": {
        "type": "Encoder",
        "inputs": 7,
        "latents": 6,
        "channels": 20,
        "layers": 2,
        "cross_heads": 2,
        "self_heads": 4,
        "qk_channels": 8,
        "v_channels": 8,
        "self_qk_channels": 20,
        "self_v_channels": 20,
        "cross_widening": 1,
        "self_widening": 2,
        "conventions": _CONVENTIONS,
    },
    "decoder": {
        "type": "Decoder",
        "latent_channels": 20,
        "query_channels": 9,
        "queries": {
            "type": "PositionQueries",
            "positions": {"type": "TrainablePositions", "size": 3, "channels": 9},
            "index_dims": [3],
        },
        "outputs": 4,
        "heads": 3,
        "qk_channels": 12,
        "conventions": _CONVENTIONS,
    },
}


class MlpBlock(nn.Module):
    ratio: int

    @nn.compact
    def __call__(self, x: Any) -> Any:
        hidden = nn.gelu(nn.Dense(self.ratio * x.shape[-1])(x))
        return nn.Dense(x.shape[-1])(hidden)


class EncoderBlock(nn.Module):
    heads: int
    features: int
    ratio: int = 1
    residual: bool = True

    @nn.compact
    def __call__(self, x: Any, memory: Any = None) -> Any:
        y = nn.LayerNorm()(x)
        kv = y if memory is None else nn.LayerNorm(name="MemoryNorm")(memory)
        y = nn.MultiHeadDotProductAttention(self.heads, qkv_features=self.features, out_features=x.shape[-1])(y, kv)
        x = x + y if self.residual else y
        return x + MlpBlock(self.ratio)(nn.LayerNorm()(x))


class Bottleneck(nn.Module):
    @nn.compact
    def __call__(self, tokens: Any) -> Any:
        init = nn.initializers.normal(1.0)
        latents = self.param("latents", init, (1, 6, 20))
        query = self.param("query", init, (1, 3, 9))
        x = EncoderBlock(2, 8, name="encode")(jnp.tile(latents, (len(tokens), 1, 1)), tokens)
        for i in range(2):
            x = EncoderBlock(4, 20, 2, name=f"block_{i}")(x)
        y = EncoderBlock(3, 12, residual=False, name="decode")(jnp.tile(query, (len(tokens), 1, 1)), x)
        return nn.Dense(4, name="head")(y)


def port(seed: int) -> tuple[nn.Module, Any, Any]:
    """The module, its variables, and what it is called with."""
    module, keys = Bottleneck(), jax.random.split(jax.random.PRNGKey(seed), 2)
    x = jax.random.normal(keys[0], (2, 8, 7))
    return module, module.init(keys[1], x), x
