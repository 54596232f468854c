"""Flamingo's gated cross-attention: where the implementations differ from the paper and each other."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from perceiver_ref.autograd.backend import xp
from perceiver_ref.models.attention import Attention
from perceiver_ref.models.conventions import FLAMINGO_DIALECTS

from .rows import Change, Convention, Evidence, Family, PartOption, convention

_LUCIDRAINS = FLAMINGO_DIALECTS["lucidrains-flamingo"]
_RMS = replace(FLAMINGO_DIALECTS["idefics2"], activation="silu")
_COLUMNS = {
    "paper": FLAMINGO_DIALECTS["paper"],
    "lucidrains-flamingo": _LUCIDRAINS,
    "open-flamingo": FLAMINGO_DIALECTS["open-flamingo"],
    "idefics": _RMS,
    "mllama": replace(_RMS, norm_eps=1e-5),
    "evolla": replace(_LUCIDRAINS, qkv_bias=True, output_bias=True),
}
_HALF = "lucidrains-flamingo/gated_immediate"
_BLOCK = "GatedCrossAttention"


# Exchanges of what is no option: each takes the place of a layer or function, as in `deviations.base.Exchange`.


def _by_width(original: Any, attention: Any, *arguments: Any, **options: Any) -> Any:
    return original(attention.with_fields(scale=None), *arguments, **options)


def _by_heads(original: Any, attention: Any, *arguments: Any, **options: Any) -> Any:
    return original(attention.with_fields(scale=attention.heads**-0.5), *arguments, **options)


def _all_media(original: Any, phi: Any, *, which: str, **options: Any) -> Any:
    return original(phi, which="all", **options)


def _last_medium(original: Any, phi: Any, *, which: str, **options: Any) -> Any:
    return original(phi, which="immediate", **options)


def _sees_everything(original: Any, phi: Any, **options: Any) -> Any:
    made = original(phi, **options)
    return made._replace(attend=made.attend | (phi == 0)[..., None], seen=xp(phi).ones_like(phi, dtype=bool))


_BY_HEADS: dict[Any, Change] = {"1 / sqrt(heads)": {Attention.apply: _by_heads}}
_SEES: dict[Any, Change] = {"attends to all media": {"media_mask": _sees_everything}}
_ALL: dict[Any, Change] = {"all before it": {"media_mask": _all_media}}

GATED = Family(
    "Flamingo's gated cross-attention",
    "`mllama` is Llama 3.2 Vision and `evolla`, which aligns proteins, another descendant, both transformers'.",
    _COLUMNS,
    (
        convention(
            "activation",
            "Activation of the gated layer's MLP",
            "The paper's table says squared ReLU.",
            _COLUMNS,
            (_HALF, "open-flamingo/gated_immediate", "idefics/gated_xattn_float", "mllama/cross_attention_layer"),
            values={"idefics": "silu, or `hidden_act`", "mllama": "silu, or `hidden_act`"},
        ),
        convention(
            "gated_mlp",
            "Gated MLP of the gated layer",
            "Whether its MLP is itself a gated linear unit, as in the language models around it.",
            _COLUMNS,
            (_HALF, "idefics/gated_xattn_float", "mllama/cross_attention_layer"),
        ),
        convention(
            "norm",
            "Norms of the gated layer",
            "What norms the text before attention and before the MLP. Media are not normed.",
            _COLUMNS,
            ("open-flamingo/gated_immediate", "idefics/gated_xattn_float", "mllama/cross_attention_layer"),
            values={"evolla": "rms, and layer before the MLP"},
        ),
        convention(
            "norm_eps",
            "Epsilon of the gated layer's norms",
            "What is added to the variance or the mean square.",
            _COLUMNS,
            ("idefics/gated_xattn_float", "mllama/cross_attention_layer"),
            values={
                "idefics": "1e-06, or `rms_norm_eps`",
                "mllama": "1e-05, or `rms_norm_eps`",
                "evolla": "1e-06, and 1e-05 before the MLP",
            },
        ),
        convention(
            "qkv_bias",
            "Biases of queries, keys and values in gated layers",
            "Whether the projections to queries, keys and values have biases.",
            _COLUMNS,
            (_HALF, "mllama/cross_attention_layer"),
            evidence=(Evidence("evolla/aligner_gated_xattn", True, {}),),
        ),
        convention(
            "output_bias",
            "Bias of the gated layer's output",
            "Whether attention's output projection has a bias.",
            _COLUMNS,
            (_HALF,),
            values={"evolla": "`aligner_enable_bias`: yes"},
            evidence=(Evidence("evolla/aligner_gated_xattn", True, option=PartOption("Aligner", "output_bias")),),
        ),
        convention(
            "masked_rows",
            "Text that matches no medium",
            "What text after more tags than media attends to, or text before the first medium where all media before "
            "it count: nothing, or the average of all media, later ones included. A mask that is added, idefics' and "
            "mllama's, leaves queries and keys of that text their gradients, one that is filled in does not.",
            _COLUMNS,
            ("lucidrains-flamingo/gated_more_locations", "lucidrains-flamingo/gated_all", "open-flamingo/gated_all"),
            values={
                "idefics": "added, then zeroed by `cross_attention_gate`",
                "mllama": "attends to everything; added where a mask is given",
            },
            evidence=(
                Evidence("idefics/gated_xattn_empty_row", "added"),
                Evidence("mllama/cross_attention_layer_empty_row", "added"),
            ),
            gradients=True,
        ),
        Convention(
            "Text before the first medium",
            "What attention adds to it where text attends to one medium alone.",
            {
                "paper": "zero",
                "lucidrains-flamingo": "zero",
                "open-flamingo": "zero",
                "idefics": "zero",
                "mllama": "attention to all media",
                "evolla": "every token attends to all",
            },
            "`MediaMask.seen`; mllama's mask in peers/transformers/mllama.py",
            (
                Evidence(_HALF, "zero", _SEES),
                Evidence("open-flamingo/gated_immediate", "zero", _SEES),
                Evidence("mllama/cross_attention_layer", "attends to all media"),
            ),
        ),
        Convention(
            "MLP of text without a medium",
            "Whether the gated layer's MLP runs for it.",
            {
                "paper": "yes",
                "lucidrains-flamingo": "yes",
                "open-flamingo": "yes",
                "idefics": "yes",
                "mllama": "no",
                "evolla": "yes",
            },
            "`rows` of `GatedCrossAttention.apply`",
            (Evidence("idefics/gated_xattn_float", "runs"), Evidence("mllama/cross_attention_layer", "left out")),
        ),
        Convention(
            "Media that text attends to",
            "The last medium before it alone (immediate), or all before it.",
            {
                "paper": "immediate",
                "lucidrains-flamingo": "`only_attend_immediate_media`: immediate",
                "open-flamingo": "`only_attend_immediate_media`: immediate",
                "idefics": "a mask from the processor: immediate",
                "mllama": "a mask from the processor: from an image to the next",
                "evolla": "all, later ones too",
            },
            "`media_mask`",
            (
                Evidence(_HALF, "immediate", _ALL),
                Evidence("open-flamingo/gated_immediate", "immediate", _ALL),
                Evidence("lucidrains-flamingo/gated_all", "all before it", {"immediate": {"media_mask": _last_medium}}),
            ),
        ),
        Convention(
            "No mask under sdpa",
            "Whom text attends to when transformers' layers get no mask: all media, but by the implementation `sdpa`, "
            "which takes the layer for causal self-attention, token i to the first i of the media.",
            {"idefics": "as causal, by sdpa", "mllama": "as causal, by sdpa", "lucidrains-flamingo": "all media"},
            "`added_mask` in peers/transformers/idefics.py",
            (
                Evidence("idefics/gated_xattn_sdpa_no_mask", "as causal"),
                Evidence("mllama/cross_attention_layer_sdpa_no_mask", "as causal"),
                Evidence("lucidrains-flamingo/gated_no_locations", "all media"),
            ),
        ),
        Convention(
            "Gates",
            "Whether a gate is one number for all channels (scalar) or one for each (vector).",
            {
                "paper": "scalar",
                "lucidrains-flamingo": "scalar",
                "open-flamingo": "scalar",
                "idefics": "`alpha_type`: scalar",
                "mllama": "scalar",
                "evolla": "scalar",
            },
            PartOption(_BLOCK, "gate"),
            (
                Evidence("idefics/gated_xattn_vector", "vector"),
                Evidence("idefics/gated_xattn_float", "scalar"),
                Evidence("mllama/cross_attention_layer", "scalar"),
            ),
        ),
        Convention(
            "Norm of queries and keys",
            "Whether each head's queries and keys are normed.",
            {
                "paper": "no",
                "lucidrains-flamingo": "no",
                "open-flamingo": "no",
                "idefics": "`qk_layer_norms`: no",
                "mllama": "yes",
                "evolla": "no",
            },
            PartOption(_BLOCK, "qk_norm"),
            (Evidence("mllama/cross_attention_layer", True), Evidence("open-flamingo/gated_immediate", False)),
        ),
        Convention(
            "Heads of keys and values",
            "How many there are where they are fewer than those of queries (none: as many).",
            {
                "paper": "as many",
                "lucidrains-flamingo": "as many",
                "open-flamingo": "as many",
                "idefics": "as many",
                "mllama": "`num_key_value_heads`: 8 of 32",
                "evolla": "as many",
            },
            PartOption(_BLOCK, "kv_heads"),
            (Evidence("mllama/cross_attention_layer", 2), Evidence("open-flamingo/gated_immediate", None)),
        ),
        Convention(
            "Scale of scores",
            "By what attention's scores are multiplied: 1 / sqrt of the head's width, or of the number of heads.",
            {
                "paper": "1 / sqrt(width)",
                "lucidrains-flamingo": "1 / sqrt(width)",
                "open-flamingo": "1 / sqrt(width)",
                "idefics": "1 / sqrt(width)",
                "mllama": "1 / sqrt(width)",
                "evolla": "1 / sqrt(heads)",
            },
            "`Attention.scale`",
            (
                Evidence(
                    "evolla/aligner_gated_xattn", "1 / sqrt(heads)", {"1 / sqrt(width)": {Attention.apply: _by_width}}
                ),
                Evidence("open-flamingo/gated_immediate", "1 / sqrt(width)", _BY_HEADS),
                Evidence("idefics/gated_xattn_float", "1 / sqrt(width)", _BY_HEADS),
            ),
        ),
        Convention(
            "Place of the gated layers",
            "Before layers 0, every, 2 every, ... of the language model, after them, or instead of some.",
            {
                "paper": "before layers 0, every, ...",
                "lucidrains-flamingo": "after blocks 0, `cross_attn_every`, ...",
                "open-flamingo": "before every n-th layer, the first being the n-th",
                "idefics": "before layers 0, `cross_layer_interval`, ...",
                "mllama": "layers of their own, `cross_attention_layers`",
                "evolla": "after some layers",
            },
            "`GatedLayers`; FlamingoPaLM in peers/lucidrains/flamingo/palm.py",
            (Evidence("lucidrains-flamingo/palm_images", "after"),),
            paper="before",
        ),
    ),
)
