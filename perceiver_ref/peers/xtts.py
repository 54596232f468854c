"""XTTS (coqui-tts 0.28.0, `TTS/tts/layers/xtts/perceiver_encoder.py`): the resampler of its conditioning.

Read off its source: no norm before attention and MLP, latents first among the keys, a gated MLP whose second half is
the gate, of two thirds of the width, and at the end a norm by the length. naturalspeech2-pytorch has the same class.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..autograd.core import array_of
from ..autograd.tree import Tree
from ..errors import InputError
from ..models.call import Call
from ..models.conventions import RESAMPLER_DIALECTS
from ..models.resamplers import Resampler
from .base import Arguments, Given, Option, Outputs, Peer, Rebuilt, check_axes, options, positive, read_call
from .lucidrains.flamingo.parts import ATTENTION
from .names import LINEAR, Rows, Table, bind, fused, inside, same

SIZE = Option(int, required=True)
OPTIONS: dict[str, Any] = {
    "dim": SIZE,
    "depth": 2,
    "dim_context": Option(int),
    "num_latents": 32,
    "dim_head": 64,
    "heads": 8,
    "ff_mult": 4.0,
    "use_flash_attn": False,
}
_WHAT = "PerceiverResampler"
_MLP: Table = {
    "hidden/weight": ("0.weight", fused(0, 2)),
    "hidden/bias": ("0.bias", fused(0, 2)),
    "gate/weight": ("0.weight", fused(1, 2)),
    "gate/bias": ("0.bias", fused(1, 2)),
    "output": ("2", LINEAR),
}
_NAMES: Table = {
    "latents": ("latents", same),
    "input": ("proj_context", LINEAR),
    "layers/{i}": ("layers.{i}", {"attention": ("0", ATTENTION), "mlp": ("1", _MLP)}),
    "norm/scale": ("norm.gamma", same),
}
_POINTS: Rows = [
    ("proj_context", "resampler.projected|resampler.features"),
    *inside(
        r"layers\.(\d+)\.0",
        r"resampler.layers.\1.attention",
        [
            ("", ""),
            ("to_q", "query"),
            ("to_kv", "key_value"),
            ("attend", "mixed.heads"),
            (r"attend\.attn_dropout", "weights"),
            ("to_out", ""),
        ],
    ),
    *inside(
        r"layers\.(\d+)\.1",
        r"resampler.layers.\1.mlp",
        [("", ""), ("0", "hidden_gate"), ("1", "activation"), ("2", "")],
    ),
    ("norm", "resampler"),
]


def resampler(given: Given, known: Mapping[str, Any] = OPTIONS, dialect: str = "xtts") -> Rebuilt:
    """PerceiverResampler; packages differ in the defaults of `known`.

    A mask says of latents and context, latents first, what is attended to. A row without any is uniform over all, or
    zero with `use_flash_attn`.
    """
    chosen = options(_WHAT, given.config, known)
    dim, context = positive("dim", chosen["dim"]), chosen["dim_context"]
    conventions = RESAMPLER_DIALECTS[dialect]
    model = Resampler(
        channels=dim,
        features=None if context in (None, dim) else context,
        latents=chosen["num_latents"],
        layers=chosen["depth"],
        heads=chosen["heads"],
        head_channels=positive("dim_head", chosen["dim_head"]),
        hidden=int(dim * chosen["ff_mult"] * 2 / 3),
        latents_first=True,
        norms="none",
        conventions=replace(conventions, masked_rows="zero") if chosen["use_flash_attn"] else conventions,
    )

    def run(model: Any, params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        values, _ = read_call(_WHAT, arguments, called, {"x", "mask"}, {}, ["x"])
        x, mask = values["x"], array_of(values.get("mask"))
        check_axes("x", x, "batch, tokens, dim")
        shape = (x.shape[0], model.latents + x.shape[1])
        if mask is not None and (mask.shape != shape or mask.dtype != bool):
            raise InputError(
                f"mask must be bool of shape (batch, latents + tokens) = {shape}, True = attend; "
                f"got {mask.dtype} of {tuple(mask.shape)}"
            )
        return {"out": model.apply(params, x, key_mask=mask)}

    return Rebuilt(model, bind(model.parameters(), _NAMES), run, _POINTS)


PEER = Peer("xtts", {_WHAT: resampler})
