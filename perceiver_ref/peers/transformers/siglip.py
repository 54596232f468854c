"""transformers' SigLIP and SigLIP 2 (`models.siglip`, `models.siglip2`, version 5.24): pooling heads.

The function of timm's AttentionPoolLatent with one latent, by other names. SigLIP 2's takes a mask of padding, for
which the dtype's lowest number is added to scores: a row without any token attends to all alike, and so do gradients.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from ...autograd.core import array_of
from ...autograd.tree import Tree
from ...errors import InputError
from ...models.call import Call
from ...models.conventions import POOLER_DIALECTS
from ...models.resamplers import AttentionPool
from ..base import Arguments, Given, Outputs, Peer, Rebuilt, check_axes, options, read_call
from ..inherited import INHERITED, PRETRAINED
from ..ip_adapter import only
from ..names import NORM, Rows, Table, bind, inside
from ..open_clip import MULTIHEAD
from ..timm import MLP, MLP_POINTS
from .perceiver.config import activation

_CONFIG = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
}
_TOWER = frozenset(
    [
        "attention_dropout",
        "image_size",
        "num_channels",
        "num_hidden_layers",
        "num_patches",
        "patch_size",
        "vision_use_head",
    ]
)
"""Of the tower before the head."""
_NAMES: Table = {
    "latents": ("probe", only),
    "attention": ("attention", MULTIHEAD),
    "mlp_norm": ("layernorm", NORM),
    "mlp": ("mlp", MLP),
}
_POINTS: Rows = inside(
    "",
    "pool",
    [(r"attention(\.out_proj)?", "attention"), ("layernorm", "mlp_norm"), *inside("mlp", "mlp", MLP_POINTS)],
)


def _head(given: Given, what: str, masked: bool) -> Rebuilt:
    """A pooling head, of a vision tower's configuration or of a whole one, which holds it."""
    config = given.config
    if isinstance(config, Mapping) and "vision_config" in config:
        whole: dict[str, Any] = {"vision_config": {}, "text_config": {}}
        config = options(what, config, whole, PRETRAINED | {"initializer_factor"}, INHERITED)["vision_config"]
    chosen = options(what, config, _CONFIG, PRETRAINED | _TOWER, INHERITED)
    width = chosen["hidden_size"]
    model = AttentionPool(
        features=width,
        channels=width,
        heads=chosen["num_attention_heads"],
        hidden=chosen["intermediate_size"],
        take="first",
        conventions=replace(
            POOLER_DIALECTS["siglip"],
            activation=activation(chosen["hidden_act"]),
            norm_eps=chosen["layer_norm_eps"],
        ),
    )

    def run(model: Any, params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        names = {"hidden_state", "attention_mask"} if masked else {"hidden_state"}
        values, _ = read_call(what, arguments, called, names, {}, ["hidden_state"])
        x, mask = values["hidden_state"], array_of(values.get("attention_mask"))
        check_axes("hidden_state", x, "batch, tokens, dim")
        if mask is not None and mask.shape != tuple(x.shape[:2]):
            raise InputError(f"attention_mask must be {tuple(x.shape[:2])}, got {mask.shape}")
        return {"out": model.apply(params, x, mask=None if mask is None else mask != 0)}

    return Rebuilt(model, bind(model.parameters(), _NAMES), run, _POINTS)


_CLASSES = {"SiglipMultiheadAttentionPoolingHead": False, "Siglip2MultiheadAttentionPoolingHead": True}
PEER = Peer("siglip", {what: partial(_head, what=what, masked=masked) for what, masked in _CLASSES.items()})
