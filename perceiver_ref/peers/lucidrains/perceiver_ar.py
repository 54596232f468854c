"""perceiver-ar-pytorch 0.0.10 (Phil Wang): `PerceiverAR`.

Read off its source: the first `cross_attn_seq_len` tokens are prefix, which several layers may attend to before any
self-attention; positions are learned and turn queries and keys too, by channels i and i + r / 2; latents' own keys have
the norm of queries; no norm before the logits; a bias in the prefix layers' output projection alone. Angles are those
of a buffer. With labels it gives the mean cross-entropy after the prefix, label 0 left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np

from ...autograd import ops
from ...autograd.backend import Array, to_host, xp
from ...autograd.core import array_of
from ...autograd.tree import Tree
from ...errors import InputError
from ...models.call import Call
from ...models.constraints import Count
from ...models.conventions import AUTOREGRESSIVE_DIALECTS
from ...models.rotary import Rotary
from ...models.tracing import asked_point
from ..base import Arguments, Given, Option, Outputs, Peer, Rebuilt, check_axes, options, positive, read_call
from ..krasserm.quirks import BufferedPerceiverAR, inverse_frequencies
from ..names import NORM, Rows, Table, bind, fused, inside, same, transposed
from .flamingo.parts import ATTENTION, MLP_POINTS

_SIZE = Option(int, required=True)
_OPTIONS: dict[str, Any] = {
    "num_tokens": _SIZE,
    "dim": _SIZE,
    "depth": _SIZE,
    "max_seq_len": _SIZE,
    "cross_attn_seq_len": _SIZE,
    "dim_head": 64,
    "heads": 8,
    "dropout": 0.0,
    "cross_attn_dropout": 0.0,
    "ff_mult": 4.0,
    "perceive_depth": 1,
    "perceive_max_heads_process": 2,
}
_LEAST = 32
"""Channels of a head that turn at least, and so the least width of one."""


@dataclass(frozen=True)
class PrefixPerceiverAR(BufferedPerceiverAR):
    """`PerceiverAR` whose prefix is always as long."""

    prefix: Count = 0
    indices: ClassVar[frozenset[str]] = frozenset(["ids"])
    """Arguments that are whole numbers"""

    @property
    def arguments(self) -> Mapping[str, tuple[int | None, ...]]:
        """The shape of one example of each argument."""
        return {"ids": (self.length,)}

    def apply(self, p: Tree, ids: Array, *, prefix: int | None = None, mask: Array | None = None) -> Any:
        """ids (B, M) -> logits (B, M - prefix, V); mask as in `PerceiverAR.apply`."""
        return super().apply(p, ids, prefix=self.prefix if prefix is None else prefix, mask=mask)

    def embed(self, p: Tree, ids: Array, positions: Array) -> Any:
        """As `PerceiverAR.embed`; the positions' embeddings and angles are traced as the peer has them, too, once."""
        count = ids.shape[1]
        asked_point("positions.once", lambda: p["positions"][:count])
        asked_point("angles", partial(self._angles, count, array_of(p["positions"])))
        return super().embed(p, ids, positions)

    def _angles(self, count: int, like: Array) -> Array:
        """(M, r), of the first half of the channels that turn and then of the second."""
        rotary = self.cross_attention.attention.rotary
        assert rotary is not None
        angles = np.outer(np.arange(count), rotary.frequencies)
        return xp(like).asarray(np.concatenate([angles, angles], 1), like.dtype)


_MLP: Table = {
    "mlp_norm": ("1.0", NORM),
    "mlp/hidden/weight": ("1.1.weight", transposed),
    "mlp/output/weight": ("1.4.weight", transposed),
}
_NAMES: Table = {
    "embedding": ("token_emb.weight", same),
    "positions": ("pos_emb.weight", same),
    "cross_attentions/{i}": (
        "perceive_layers.{i}",
        {
            "query_norm": ("0.norm", NORM),
            "key_value_norm": ("0.context_norm", NORM),
            "attention/output/bias": ("0.to_out.bias", same),
            "attention": ("0", ATTENTION),
            **_MLP,
        },
    ),
    "layers/{i}": (
        "layers.{i}",
        {
            "norm": ("0.norm", NORM),
            "attention/query/weight": ("0.to_qkv.weight", fused(0, 3)),
            "attention/key/weight": ("0.to_qkv.weight", fused(1, 3)),
            "attention/value/weight": ("0.to_qkv.weight", fused(2, 3)),
            "attention/output/weight": ("0.to_out.weight", transposed),
            **_MLP,
        },
    ),
    "logits/weight": ("to_logits.weight", transposed),
}
_BUFFER: Table = {"frequencies": ("rotary_pos_emb.inv_freq", same)}
_MLP_POINTS: Rows = [*MLP_POINTS[:-1], (r"3", "mlp.activation"), ("4", "mlp")]
_POINTS: Rows = [
    ("token_emb", "embedding"),
    ("pos_emb", "positions.once"),
    ("rotary_pos_emb", "angles"),
    *inside(
        r"perceive_layers\.(\d+)",
        r"cross_attention.\1",
        [
            ("0", "attention"),
            (r"0\.norm", "query_norm"),
            (r"0\.context_norm", "key_value_norm"),
            (r"0\.to_q", "attention.query"),
            (r"0\.to_kv@0", "attention.key_value@1|attention.key_value"),  # of the latents; of the prefix comes second
            (r"0\.to_kv@1", "attention.key_value"),
            (r"0\.to_out", "attention"),
            *inside("1", "", _MLP_POINTS),
        ],
    ),
    *inside(
        r"layers\.(\d+)",
        r"layers.\1",
        [
            ("0", "attention"),
            (r"0\.norm", "norm"),
            (r"0\.to_qkv", "attention.projections"),
            (r"0\.dropout", "attention.weights"),
            (r"0\.to_out", "attention"),
            *inside("1", "", _MLP_POINTS),
        ],
    ),
    ("to_logits", "logits"),
]


def _perceiver_ar(given: Given) -> Rebuilt:
    what = "PerceiverAR"
    chosen = options(what, given.config, _OPTIONS)
    length, prefix = chosen["max_seq_len"], chosen["cross_attn_seq_len"]
    if length <= prefix:
        raise InputError(f"max_seq_len ({length}) must be greater than cross_attn_seq_len ({prefix})")
    heads, width = positive("heads", chosen["heads"]), chosen["dim_head"]
    if width < _LEAST:
        raise InputError(f"dim_head must be at least {_LEAST}, as so many channels turn; got {width}")
    positive("perceive_max_heads_process", chosen["perceive_max_heads_process"])
    channels = positive("dim", chosen["dim"])
    rotary = Rotary(inverse_frequencies(max(_LEAST, width // 2)), "half_split")
    model = PrefixPerceiverAR(
        vocabulary=chosen["num_tokens"],
        length=length,
        latents=length - prefix,
        channels=channels,
        layers=chosen["depth"],
        cross_heads=heads,
        self_heads=heads,
        cross_attends=(0,) * chosen["perceive_depth"],
        position_table=True,
        cross_rotary=rotary,
        self_rotary=rotary,
        query_map=False,
        own_keys="queries",
        final_norm=False,
        output_bias=False,
        self_output_bias=False,
        conventions=AUTOREGRESSIVE_DIALECTS["perceiver-ar-pytorch"],
        attention_channels=heads * width,
        hidden=positive("int(dim * ff_mult)", int(channels * chosen["ff_mult"])),
        prefix=prefix,
    )

    def run(model: Any, params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        values, _ = read_call(what, arguments, called, {"x", "prefix_mask", "labels"}, {}, ["x"])
        ids = values["x"]
        check_axes("x", ids, "batch, tokens")
        if not prefix < ids.shape[1] <= length:
            raise InputError(f"x must have more tokens than {prefix} and at most {length}, got {ids.shape[1]}")
        keys = _keys(values.get("prefix_mask"), ids)
        z, _ = model.with_state(call.state).encode(params, ids, prefix=prefix, keys=keys)
        logits = model.logits(params, z)
        if "labels" not in values:
            return {"out": logits}
        labels = values["labels"]
        if tuple(labels.shape) != tuple(ids.shape):
            raise InputError(f"labels must be {tuple(ids.shape)}, as x, got {tuple(labels.shape)}")
        return {"out": ops.cross_entropy(logits, labels[:, prefix:], ignore_index=0)}

    points = [row for row in _POINTS if prefix or not row[0].endswith("to_kv@1")]
    return Rebuilt(model, bind(model.parameters(), _NAMES), run, points, bind(model.state(), _BUFFER))


def _keys(mask: Any, ids: Array) -> Array | None:
    """Which tokens are keys, (B, M): those of a mask of the first ones, True = attend, and all that come after it."""
    if mask is None:
        return None
    mask = array_of(mask)
    if mask.dtype != bool or mask.ndim != 2 or mask.shape[0] != ids.shape[0] or mask.shape[1] > ids.shape[1]:
        came = f"{mask.dtype} of {tuple(mask.shape)}"
        raise InputError(f"prefix_mask must be bool (batch, up to {ids.shape[1]} tokens), True = attend; got {came}")
    library = xp(ids)
    mask = mask if xp(mask) is library else library.asarray(to_host(mask))
    return library.concatenate([mask, library.ones((ids.shape[0], ids.shape[1] - mask.shape[1]), bool)], 1)


PEER = Peer("perceiver-ar-pytorch", {"PerceiverAR": _perceiver_ar})
