"""Perceiver AR: where the released code, krasserm's CausalSequenceModel and perceiver-ar-pytorch differ."""

from __future__ import annotations

from typing import Any

from perceiver_ref.models.conventions import AUTOREGRESSIVE_DIALECTS
from perceiver_ref.models.perceiver_ar import PerceiverAR
from perceiver_ref.models.rotary import frequencies

from .rows import Convention, Edit, Evidence, Family, PartOption, convention, to

_COLUMNS = {name: AUTOREGRESSIVE_DIALECTS[name] for name in ("perceiver-ar", "krasserm", "perceiver-ar-pytorch")}
_CASES = ("perceiver-ar/ar_rotary", "krasserm/causal")
_PAIRING = PartOption("Rotary", "pairing")
_FREQUENCIES = PartOption("Rotary", "frequencies")


def _half_open(old: tuple[float, ...], part: Any) -> tuple[float, ...]:
    """As many frequencies that do not reach the longest wavelength, 64 in the case."""
    return frequencies(2 * len(old), 64)


# An exchange of what is no option: it takes the place of a method, as in `deviations.base.Exchange`.


def _every_key(original: Any, model: Any, *arguments: Any, keys: Any = None, **options: Any) -> Any:
    return original(model, *arguments, **options)


def _option(
    name: str, about: str, theirs: str, krasserms: str, pytorchs: str, option: str, *evidence: Evidence
) -> Convention:
    words = {"perceiver-ar": theirs, "krasserm": krasserms, "perceiver-ar-pytorch": pytorchs}
    return Convention(name, about, words, PartOption("PerceiverAR", option), evidence)


AUTOREGRESSIVE = Family(
    "Perceiver AR",
    "`perceiver-ar` is the code that Google released, `krasserm` the CausalSequenceModel of perceiver-io.",
    _COLUMNS,
    (
        convention(
            "activation",
            "Activation in Perceiver AR",
            "The square of ReLU, or the exact GELU.",
            _COLUMNS,
            _CASES,
            values={"perceiver-ar": "squared_relu, or `activation_name`"},
        ),
        convention(
            "qkv_bias",
            "Biases of queries, keys and values in Perceiver AR",
            "Whether the projections to queries, keys and values have biases.",
            _COLUMNS,
            _CASES,
        ),
        convention(
            "mlp_bias",
            "Biases of the MLP in Perceiver AR",
            "Whether its two linear maps have biases.",
            _COLUMNS,
            _CASES,
        ),
        _option(
            "Output bias of self-attention",
            "Whether the output projection of self-attention has a bias, which that of cross-attention has (none: as "
            "that one).",
            "yes",
            "no",
            "no",
            "self_output_bias",
            Evidence("perceiver-ar/ar_rotary", None),
            Evidence("krasserm/causal", False),
        ),
        _option(
            "Latents at the start",
            "Whether a linear map makes latents of the inputs at their positions, or these are the latents.",
            "a linear map; `initial_query_embed_style`",
            "the inputs",
            "the inputs",
            "query_map",
            Evidence("perceiver-ar/ar_rotary", True),
            Evidence("krasserm/causal", False),
        ),
        _option(
            "Norm of the latents' own keys",
            "With which norm the inputs that are latents become keys: the other inputs', or the queries'.",
            "inputs",
            "queries",
            "queries",
            "own_keys",
            Evidence("perceiver-ar/ar_rotary", "inputs", {}),
            Evidence("krasserm/causal", "queries"),
        ),
        _option(
            "Latents of padding",
            "Whether latents that are padding are left out of the keys of self-attention.",
            "yes",
            "no",
            "no padding",
            "masked_latents",
            Evidence("perceiver-ar/ar_rotary_short_sequences", True, {}),
            Evidence("krasserm/causal_left_pad", False),
        ),
        _option(
            "Learned positions beside rotary ones",
            "Whether a learned table of positions is added to the inputs although queries and keys turn.",
            "either of them",
            "`abs_pos_emb`: both",
            "both",
            "position_table",
            Evidence("perceiver-ar/ar_rotary", False),
            Evidence("krasserm/causal", True),
        ),
        _option(
            "Rotary self-attentions",
            "How many self-attentions turn queries and keys (none: no limit). Cross-attention always does.",
            "all",
            "`num_self_attention_rotary_layers`: 1",
            "all",
            "rotary_layers",
            Evidence("perceiver-ar/ar_rotary", None),
            Evidence("krasserm/causal", 1),
        ),
        Convention(
            "Rotary wavelengths",
            "How wavelengths are spaced from 1 to the longest: with both ends, or without the longest, which is the "
            "usual form.",
            {
                "perceiver-ar": "both ends; `max_wavelength`",
                "krasserm": "without the longest, 10,000",
                "perceiver-ar-pytorch": "without the longest, 10,000",
            },
            "`rotary.frequencies`; of the others from a buffer",
            (
                Evidence(
                    "perceiver-ar/ar_rotary_short_sequences",
                    "both ends",
                    {"without the longest": Edit(_FREQUENCIES, _half_open)},
                ),
                Evidence("krasserm/causal_no_abs_norm", "without the longest"),
            ),
        ),
        Convention(
            "Rotary channels",
            "How many channels of a head turn.",
            {
                "perceiver-ar": "`fraction_to_rotate` of them, down to an even number",
                "krasserm": "half with learned positions, else all",
                "perceiver-ar-pytorch": "half, but 32 at least, up to an even number",
            },
            "`Rotary`, `rotary.even_part`",
            (
                Evidence("perceiver-ar/ar_rotary_head_subset", "half, of some heads"),
                Evidence("krasserm/causal_no_abs_norm", "all"),
            ),
        ),
        Convention(
            "Rotary pairs",
            "Which channels turn together: neighbours (interleaved), or channel i with channel i + r / 2 (half_split), "
            "as in versions of krasserm's up to 0.6 and flamingo-pytorch's FlamingoPaLM, too.",
            {"perceiver-ar": "interleaved", "krasserm": "interleaved", "perceiver-ar-pytorch": "half_split"},
            "`Rotary.pairing`",
            (
                Evidence(
                    "perceiver-ar/ar_rotary_short_sequences", "interleaved", {"half_split": to(_PAIRING, "half_split")}
                ),
                Evidence("perceiver-ar-pytorch/logits", "half_split", {"interleaved": to(_PAIRING, "interleaved")}),
                Evidence("lucidrains-flamingo/palm_images", "half_split"),
            ),
        ),
        _option(
            "Last norm",
            "Whether latents are normed before the logits.",
            "yes",
            "`output_norm`: no",
            "no",
            "final_norm",
            Evidence("perceiver-ar/ar_rotary", True),
            Evidence("krasserm/causal", False),
            Evidence("perceiver-ar-pytorch/logits", False),
        ),
        _option(
            "Tied logits",
            "Whether the embedding's weights also make the logits.",
            "no",
            "yes",
            "no",
            "tied",
            Evidence("perceiver-ar/ar_rotary", False),
            Evidence("krasserm/causal", True),
            Evidence("perceiver-ar-pytorch/logits", False),
        ),
        _option(
            "Bias of the logits",
            "Whether the map to logits has a bias.",
            "yes",
            "`output_bias`: yes",
            "no",
            "output_bias",
            Evidence("krasserm/causal", True),
            Evidence("perceiver-ar-pytorch/logits", False),
        ),
        _option(
            "Width of heads in Perceiver AR",
            "The width of queries, keys and values, all heads together (none: the latents').",
            "the latents'",
            "the latents'",
            "`heads` x `dim_head`, which is 32 at least",
            "attention_channels",
            Evidence("perceiver-ar/ar_rotary", None),
            Evidence("perceiver-ar-pytorch/logits", 96),
        ),
        _option(
            "Cross-attentions before the first self-attention",
            "How often latents attend to the inputs, and before which self-attentions (0: before the first one).",
            "once; `additional_cross_attend_after_layers`",
            "once",
            "`perceive_depth` times: 1",
            "cross_attends",
            Evidence("krasserm/causal", (0,)),
            Evidence("perceiver-ar-pytorch/prefix_mask", (0, 0)),
        ),
        Convention(
            "Mask of tokens",
            "Which tokens may be left out: padding on the left, after which positions start at 0, or any of the first "
            "tokens, whose positions stay with the others.",
            {
                "perceiver-ar": "padding",
                "krasserm": "padding",
                "perceiver-ar-pytorch": "any of the first",
            },
            "`mask` and `keys` of `PerceiverAR.encode`",
            (
                Evidence("krasserm/causal_left_pad", "padding"),
                Evidence(
                    "perceiver-ar-pytorch/prefix_mask",
                    "any of the first",
                    {"all are keys": {PerceiverAR.encode: _every_key}},
                ),
            ),
        ),
    ),
)
