"""timm 1.0.31 (`layers/attention_pool.py`): AttentionPoolLatent, the head of its SigLIP towers and others.

What a mask is depends on a switch of timm, TIMM_FUSED_ATTN: of the fused attention a bool mask says what to attend to,
and a row without any gives zeros; of the other one every mask is added to the scores, bools as 1 and 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..autograd.core import array_of
from ..autograd.tree import Tree
from ..errors import InputError, one_of
from ..models.call import Call
from ..models.conventions import POOLER_DIALECTS, Activation, Conventions
from ..models.layers import Same
from ..models.resamplers import AttentionPool
from .base import Arguments, Given, Option, Outputs, Peer, Rebuilt, check_axes, options, positive, read_call
from .ip_adapter import only
from .masks import check_broadcast, fused, spoilt
from .names import LINEAR, NORM, Rows, Table, bind, inside, same
from .names import fused as part_of

_WHAT = "AttentionPoolLatent"
_OPTIONS: dict[str, Any] = {
    "in_features": Option(int, required=True),
    "out_features": Option(int),
    "embed_dim": Option(int),
    "num_heads": 8,
    "feat_size": Option(int),
    "mlp_ratio": 4.0,
    "qkv_bias": True,
    "q_proj": True,
    "qk_norm": False,
    "latent_len": 1,
    "latent_dim": Option(int),
    "pos_embed": "",
    "pool_type": "token",
    "norm_layer": Option(str),
    "act_layer": "gelu",
}
_NORMS: dict[str | None, tuple[Any, float]] = {
    None: ("layer", 1e-5),
    "torch.nn.LayerNorm": ("layer", 1e-5),
    "timm.layers.LayerNorm": ("layer", 1e-6),
    "timm.layers.RmsNorm": ("rms", 1e-6),
}
"""By name: what normalises, and its epsilon. Without one only queries and keys can be normed, by PyTorch's."""
_ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu_erf",
    "gelu_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "quick_gelu": "quick_gelu",
}
_TAKEN: dict[str, Any] = {"token": "first", "avg": "mean", "": "all"}
_QKV: Table = {
    "query": ("q", LINEAR),
    "key/weight": ("kv.weight", part_of(0, 2)),
    "key/bias": ("kv.bias", part_of(0, 2)),
    "value/weight": ("kv.weight", part_of(1, 2)),
    "value/bias": ("kv.bias", part_of(1, 2)),
    "query_norm": ("q_norm", NORM),
    "key_norm": ("k_norm", NORM),
    "output": ("proj", LINEAR),
}
MLP: Table = {"hidden": ("fc1", LINEAR), "output": ("fc2", LINEAR)}
MLP_POINTS: Rows = [
    ("", ""),
    ("fc1", "hidden"),
    ("(?:act|activation_fn|drop1|norm)", "activation"),
    ("(?:fc2|drop2)", ""),
]
_NAMES: Table = {
    "latents": ("latent", only),
    "positions": ("pos_embed", same),
    "attention": ("", _QKV),
    "mlp_norm": ("norm", NORM),
    "mlp": ("mlp", MLP),
}
_POINTS: Rows = inside(
    "",
    "pool",
    [
        ("q", "attention.query"),
        ("kv", "attention.key_value"),
        ("q_norm", "attention.query_norm|attention.query.heads"),
        ("k_norm", "attention.key_norm|attention.key.heads"),
        ("proj(?:_drop)?", "attention"),
        ("norm", "mlp_norm|attention"),
        *inside("mlp", "mlp", MLP_POINTS),
    ],
)


def _chosen(given: Given) -> dict[str, Any]:
    """The options, with None where nothing is said; what the class would refuse or silently leave out is refused."""
    chosen = options(_WHAT, given.config, _OPTIONS, frozenset({"drop", "device", "dtype"}))
    width = positive("in_features", chosen["in_features"])
    if chosen["embed_dim"] not in (None, 0, width):
        raise InputError(f"embed_dim ({chosen['embed_dim']}) must equal in_features ({width})")
    for name, known in (("norm_layer", _NORMS), ("act_layer", _ACTIVATIONS), ("pool_type", _TAKEN)):
        if chosen[name] not in known:
            raise one_of(f"{name} of {_WHAT}", str(chosen[name]), [key for key in known if key is not None])
    if chosen["pos_embed"] not in ("", "abs"):
        raise one_of(f"pos_embed of {_WHAT}", str(chosen["pos_embed"]), ["", "abs"])
    if chosen["pos_embed"] and chosen["feat_size"] is None:
        raise InputError("pos_embed 'abs' needs feat_size, the number of features")
    if not chosen["q_proj"] and chosen["latent_dim"] not in (None, 0, width):
        raise InputError(f"without q_proj latent_dim ({chosen['latent_dim']}) must equal in_features ({width})")
    return chosen


def _conventions(chosen: Mapping[str, Any]) -> Conventions:
    kind, eps = _NORMS[chosen["norm_layer"]]
    return replace(
        POOLER_DIALECTS["timm"],
        norm=kind,
        norm_eps=eps,
        activation=_ACTIVATIONS[chosen["act_layer"]],
        qkv_bias=chosen["qkv_bias"],
    )


def _pool(given: Given) -> Rebuilt:
    chosen = _chosen(given)
    width, outputs = chosen["in_features"], chosen["out_features"]
    model = AttentionPool(
        features=width,
        channels=width,
        latents=positive("latent_len", chosen["latent_len"]),
        heads=chosen["num_heads"],
        latent_channels=chosen["latent_dim"] or None,
        outputs=outputs or None,
        places=chosen["feat_size"] if chosen["pos_embed"] else None,
        qk_norm=chosen["qk_norm"],
        hidden=None if outputs == 0 else int((outputs or width) * chosen["mlp_ratio"]),
        mlp_norms="before" if chosen["norm_layer"] else "none",
        take=_TAKEN[chosen["pool_type"]],
        conventions=_conventions(chosen),
    )
    if not chosen["q_proj"]:
        model = model.replace("attention.query", Same())
    if outputs == 0:
        model = model.replace("attention.output", Same())

    def run(model: Any, params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        names = {"x", "attn_mask"}
        values, wanted = read_call(_WHAT, arguments, called, names, {"fused_attn": True}, ["x"])
        x, mask = values["x"], values.get("attn_mask")
        check_axes("x", x, "batch, tokens, dim")
        masks = {} if mask is None else _masks(mask, x, model, wanted["fused_attn"])
        return {"out": model.apply(params, x, **masks)}

    return Rebuilt(model, bind(model.parameters(), _NAMES), run, _POINTS)


def _masks(mask: Any, x: Any, model: Any, is_fused: bool) -> dict[str, Any]:
    """The mask by the rule of the attention that runs; without the fused one a row of -inf is NaN."""
    axes, shape = "batch, heads, latents, tokens", (x.shape[0], model.heads, model.latents, x.shape[1])
    if is_fused:
        return fused("attn_mask", mask, shape, axes)
    check_broadcast("attn_mask", mask, shape, axes)
    dtype = array_of(x).dtype
    added = mask if array_of(mask).dtype.kind == "f" else array_of(mask).astype(dtype)
    return {"bias": spoilt(None, added, dtype)[1]}


PEER = Peer("timm", {_WHAT: _pool})
