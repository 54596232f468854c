"""Learned queries that attend to features once: where the implementations differ."""

from __future__ import annotations

from typing import Any

from perceiver_ref.models.attention import Attention
from perceiver_ref.models.conventions import POOLER_DIALECTS

from .rows import Change, Convention, Evidence, Family, PartOption, convention

_COLUMNS = {**POOLER_DIALECTS}
_MAP, _HEAD, _OPEN = "timm/pool_map", "siglip/head", "open-clip/pooler"
_KOSMOS, _MINI = "kosmos2/kosmos2_eager", "minicpmv/resampler25"


def _of(usual: str, **others: str) -> dict[str, str]:
    """A row's values: one for all that `others`, with _ for -, do not name."""
    return {**dict.fromkeys(_COLUMNS, usual), **{name.replace("_", "-"): words for name, words in others.items()}}


# Exchanges of what is no option: each takes the place of a layer or function, as in `deviations.base.Exchange`.


def _for_values_too(original: Any, attention: Any, *arguments: Any, **options: Any) -> Any:
    return original(attention, *arguments, **{**options, "values": None})


def _added(original: Any, attention: Any, *arguments: Any, **options: Any) -> Any:
    added = None if options.get("head_mask") is None else options["head_mask"].astype(float)
    return original(attention, *arguments, **{**options, "head_mask": None, "bias": added})


_VALUES: dict[Any, Change] = {"to what keys and values are made of": {Attention.apply: _for_values_too}}
_ADDED: dict[Any, Change] = {"added as 1 and 0": {Attention.apply: _added}}

POOLERS = Family(
    "Attention poolers and projectors",
    "The heads of vision towers, and what leads from them to a language model; Chatterbox's conditioning, which is one "
    "block of attention used twice. SigLIP's head is timm's pool with one latent, by other names. `siglip`, `kosmos2` "
    "and `aria` are transformers'.",
    _COLUMNS,
    (
        convention(
            "activation",
            "Activation of poolers' MLP",
            "GELU, exact or by the tanh approximation.",
            _COLUMNS,
            (_MAP, _HEAD),
            values={
                "timm": "gelu_erf, or `act_layer`",
                "siglip": "gelu_tanh, or `hidden_act`",
                **dict.fromkeys(("open-clip", "chatterbox", "kosmos2", "minicpmv"), "gelu_erf, no MLP"),
            },
        ),
        convention(
            "norm_eps",
            "Epsilon of poolers' norms",
            "What is added to the variance.",
            _COLUMNS,
            (_OPEN, _HEAD, _MINI),
            values={"timm": "1e-05 or 1e-06, by `norm_layer`", "siglip": "1e-06, or `layer_norm_eps`"},
        ),
        convention(
            "mlp_bias",
            "Biases of poolers' MLP",
            "Whether the linear maps after the attention have biases.",
            _COLUMNS,
            (_HEAD, "aria/projector"),
            values=dict.fromkeys(("open-clip", "chatterbox", "kosmos2", "minicpmv"), "yes, no MLP"),
        ),
        Convention(
            "Rows of poolers without any key",
            "What a query gets where all keys are masked: zero; the average of all values, with the gradients of that, "
            "where the dtype's lowest number is added to scores; or NaN.",
            _of(
                "no mask",
                timm="zero; NaN without fused attention",
                siglip="added",
                chatterbox="zero; NaN without `flash_attention`",
                aria="NaN",
                minicpmv="NaN",
            ),
            "`Conventions.masked_rows`; NaN in peers/masks.py",
            (
                Evidence("timm/pool_bool_mask_all_latents", "zero"),
                Evidence("siglip/head2_mask_empty_row", "added"),
                Evidence("chatterbox/block_flash_bool_mask", "zero"),
            ),
        ),
        Convention(
            "What a pooler's mask says",
            "Which keys to attend to, which to leave out, or what to add to scores.",
            _of(
                "no mask",
                timm="True = attend; added, without fused attention",
                siglip="nonzero = attend",
                chatterbox="True = attend; nonzero channels, without `flash_attention`",
                aria="True = masked",
                minicpmv="True = masked; from `tgt_sizes` since 2.5",
            ),
            "True = attend, in `ops.attention`; the others in peers/masks.py",
            (
                Evidence("timm/pool_bool_mask_all_latents", "True = attend", _ADDED),
                Evidence("timm/pool_unfused_bool_mask", "added as 1 and 0"),
                Evidence("aria/projector_mask", "True = masked"),
                Evidence("minicpmv/resampler2_interpolated", "True = masked"),
            ),
        ),
        Convention(
            "Norms before a pooler's attention",
            "Whether queries and features are normed.",
            _of("none", open_clip="before", chatterbox="before, one norm for both", aria="before", minicpmv="before"),
            PartOption("AttentionPool", "norms"),
            (Evidence(_OPEN, "before"), Evidence(_MAP, "none"), Evidence(_KOSMOS, "none")),
        ),
        Convention(
            "Latents among a pooler's keys",
            "Whether queries attend to themselves beside the features.",
            _of("no", kosmos2="yes, features first"),
            PartOption("AttentionPool", "latents_in_keys"),
            (Evidence(_KOSMOS, True), Evidence(_HEAD, False)),
        ),
        Convention(
            "Map of features before a pooler's attention",
            "A linear map to the queries' width, with a bias (affine) or without (linear).",
            _of("none", kosmos2="affine", minicpmv="linear, where widths differ"),
            PartOption("AttentionPool", "projection"),
            (Evidence(_KOSMOS, "affine"), Evidence(_MINI, "linear"), Evidence(_MAP, "none")),
        ),
        Convention(
            "Positions in poolers",
            "Learned ones, added to the features; or sines of columns and rows, added to what keys are made of and not "
            "to what values are (before the map to keys), and a table added to the queries in 2.0.",
            _of("none", timm="`pos_embed`: none", minicpmv="to what keys are made of"),
            "`AttentionPool`: `places`, `key_positions`; sines in peers/minicpmv.py",
            (
                Evidence("timm/pool_qknorm_pos_avg", "to the features"),
                Evidence(_MINI, "to what keys are made of", _VALUES),
                Evidence("minicpmv/resampler2_interpolated", "to what keys are made of", _VALUES),
            ),
        ),
        Convention(
            "Norm of queries and keys in poolers",
            "Whether each head's queries and keys are normed.",
            _of("no", timm="`qk_norm`: no"),
            PartOption("AttentionPool", "qk_norm"),
            (Evidence("timm/pool_qknorm_pos_avg", True), Evidence(_HEAD, False)),
        ),
        Convention(
            "Residual of a pooler's attention",
            "Whether the queries are added to what they get.",
            _of("no", chatterbox="yes"),
            "no, in `AttentionPool`; the other in peers/chatterbox.py",
            (Evidence(_KOSMOS, "no"), Evidence("chatterbox/perceiver", "yes")),
        ),
        Convention(
            "MLP of a pooler",
            "The hidden width of an MLP with a residual after the attention, none for none.",
            _of(
                "none",
                timm="`mlp_ratio` times the width",
                siglip="`intermediate_size`",
                aria="without a residual, to the text's width",
            ),
            PartOption("AttentionPool", "hidden"),
            (Evidence(_HEAD, 17), Evidence(_KOSMOS, None)),
        ),
        Convention(
            "End of a pooler",
            "Whether a norm follows, before a last map without a bias.",
            _of("none", aria="norm", minicpmv="norm, or none with `do_post_projection` off"),
            PartOption("AttentionPool", "end"),
            (Evidence(_MINI, "norm"), Evidence(_OPEN, "none")),
        ),
        Convention(
            "What a pooler gives",
            "All rows, the first one, or their mean.",
            _of("all", timm="`pool_type`: first", siglip="first"),
            PartOption("AttentionPool", "take"),
            (
                Evidence("timm/pool_qknorm_pos_avg", "mean"),
                Evidence("timm/pool_unfused_bool_mask", "first"),
                Evidence(_OPEN, "all"),
            ),
        ),
        Convention(
            "Maps of a pooler's attention",
            "One linear map each to queries, keys, values and back; or two in a row; or the same block a second time, "
            "with what the first gave as queries and keys.",
            _of("one", chatterbox="one, and the block again", aria="two"),
            "one, in `Attention`; the others in peers/transformers/aria.py and peers/chatterbox.py",
            (
                Evidence(_OPEN, "one"),
                Evidence("aria/projector", "two"),
                Evidence("chatterbox/perceiver", "one, and the block again"),
            ),
        ),
    ),
)
