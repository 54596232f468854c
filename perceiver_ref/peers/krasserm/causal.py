"""krasserm's Perceiver AR: CausalSequenceModel, and its aliases for text and symbolic audio."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ...autograd.tree import Tree
from ...errors import InputError, one_of
from ...models.call import Call
from ...models.conventions import AUTOREGRESSIVE_DIALECTS
from ...models.perceiver_ar import Memory, PerceiverAR
from ...models.rotary import Rotary
from ..base import REQUIRED, Arguments, Given, Outputs, Rebuilt, options, read_call
from ..names import NORM, Rows, Table, below, bind, inside, same
from .config import TRAINING
from .names import LAYER, LAYER_POINTS
from .parts import attend
from .quirks import BufferedPerceiverAR, inverse_frequencies

_OPTIONS: dict[str, Any] = {
    "num_heads": 8,
    "num_self_attention_layers": 8,
    "num_self_attention_rotary_layers": None,  # 1; any number below 0 is allowed, -1 means all
    "self_attention_widening_factor": 4,
    "cross_attention_widening_factor": 4,
    "vocab_size": 262,
    "max_seq_len": 4096,
    "max_latents": 512,
    "num_channels": 512,
    "output_norm": False,
    "output_bias": True,
    "abs_pos_emb": True,
}
_NAMES: Table = {
    "embedding": ("input_adapter.txt_embedding.weight", same),
    "positions": ("input_adapter.pos_embedding.weight", same),
    "cross_attentions/0": ("cross_attention", LAYER),
    "layers/{i}": ("self_attention.{i}", LAYER),
    "norm": ("out_norm", NORM),
    "logits/bias": ("output_adapter.bias", same),
}
_POINTS: Rows = [
    ("input_adapter", "input"),
    (r"input_adapter\.txt_embedding", "embedding"),
    (r"input_adapter\.pos_embedding", "positions"),
    *below("cross_attention", "cross_attention.0", LAYER_POINTS),
    *inside(r"self_attention\.(\d+)", r"layers.\1", LAYER_POINTS),
    ("out_norm", "final"),
    ("output_adapter", "logits"),
]
_BUFFER: Table = {"frequencies": ("input_adapter.frq_pos_encoding.inv_freq", same)}


def causal_sequence_model(given: Given) -> Rebuilt:
    """CausalSequenceModel: logits of the token after each position from `prefix_len` on.

    By the method "kv_cache" it is run on `x_1`, then continues with `x_2` and so on: `logits_1`, `logits_2`, ...
    """
    chosen = options("CausalSequenceModel", given.config, _OPTIONS, TRAINING)
    most = chosen["max_seq_len"] - chosen["max_latents"]
    heads, width, layers = (chosen[name] for name in ("num_heads", "num_channels", "num_self_attention_layers"))
    if heads < 1 or width % heads:
        raise InputError(f"num_channels ({width}) must be divisible by num_heads ({heads})")
    turning = width // heads // (2 if chosen["abs_pos_emb"] else 1)
    rotary = Rotary(inverse_frequencies(turning)) if turning else Rotary(())
    rotary_layers = chosen["num_self_attention_rotary_layers"]
    rotary_layers = 1 if rotary_layers is None else rotary_layers
    model = BufferedPerceiverAR(
        vocabulary=chosen["vocab_size"],
        length=chosen["max_seq_len"],
        latents=chosen["max_seq_len"],  # max_latents bounds the prefix, not the latents
        channels=width,
        layers=layers,
        cross_heads=heads,
        self_heads=heads,
        cross_widening=chosen["cross_attention_widening_factor"],
        self_widening=chosen["self_attention_widening_factor"],
        position_table=chosen["abs_pos_emb"],
        cross_rotary=rotary,
        self_rotary=rotary,
        rotary_layers=None if rotary_layers == -1 else rotary_layers,
        query_map=False,
        own_keys="queries",
        masked_latents=False,
        final_norm=chosen["output_norm"],
        tied=True,
        output_bias=chosen["output_bias"],
        self_output_bias=False,
        conventions=AUTOREGRESSIVE_DIALECTS["krasserm"],
    )

    def run(model: Any, params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        called = dict(called)
        method = called.pop("method", "forward")
        if method not in ("forward", "kv_cache"):
            raise one_of("method of CausalSequenceModel", method, ("forward", "kv_cache"))
        later = {name: called.pop(name) for name in list(called) if re.fullmatch(r"prefix_len_\d+", name)}
        prefix = options("a call", called, {"prefix_len": REQUIRED}, frozenset({"positional"}))["prefix_len"]
        if (longest := max(prefix, *later.values(), 0)) > most:
            raise InputError(f"prefix_len ({longest}) must be at most max_seq_len - max_latents ({most})")
        stored = model.with_state(call.state)
        if method == "kv_cache":
            return _continued(stored, params, arguments, prefix)
        values, _ = read_call("CausalSequenceModel", arguments, {}, {"x", "pad_mask"}, {})
        return _predicted(stored, params, values["x"], None, prefix, values.get("pad_mask"))[0]

    return Rebuilt(model, bind(model.parameters(), _NAMES), run, _POINTS, bind(model.state(), _BUFFER))


def _predicted(
    model: PerceiverAR, params: Tree, x: Any, memory: Memory | None, prefix: int, pad_mask: Any
) -> tuple[Outputs, Memory]:
    """The outputs of one call; a padding mask of all tokens so far is cut to those of this call."""
    mask = attend(pad_mask)
    mask = None if mask is None else mask[:, -x.shape[1] :]
    latents, memory = model.encode(params, x, memory, prefix=prefix, mask=mask)
    return {"logits": model.logits(params, latents), "last_hidden_state": latents}, memory


def _continued(model: PerceiverAR, params: Tree, arguments: Arguments, prefix: int) -> Outputs:
    steps = sorted(int(name[2:]) for name in arguments if re.fullmatch(r"x_\d+", name))
    known = {name for step in steps for name in (f"x_{step}", f"pad_mask_{step}")}
    values, _ = read_call("CausalSequenceModel", arguments, {}, known, {})
    outputs: Outputs = {}
    memory = None
    for step in steps:
        made, memory = _predicted(model, params, values[f"x_{step}"], memory, prefix, values.get(f"pad_mask_{step}"))
        outputs |= {f"{name}_{step}": value for name, value in made.items()}
    return outputs
