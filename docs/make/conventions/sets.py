"""Encoders to latents of other trades: where EdgeTAM, Aurora, NeMo and the set auto-encoders differ."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from perceiver_ref.autograd.core import array_of
from perceiver_ref.models.attention import Attention, KeysValues
from perceiver_ref.models.conventions import DIALECTS, FLAMINGO_DIALECTS
from perceiver_ref.peers.transformers.edgetam import PlacedAttention

from .rows import Convention, Evidence, Family, PartOption, convention

_COLUMNS = {
    "edgetam": FLAMINGO_DIALECTS["edgetam"],
    "aurora": FLAMINGO_DIALECTS["aurora"],
    "nemo": replace(DIALECTS["hf"], activation="relu"),
    "shape2vecset": DIALECTS["lucidrains"],
}
_MEMORY, _WEATHER = "edgetam/resampler_1d_pos", "aurora/resampler"
_SPEECH, _SHAPES = "nemo/perceiver_params", "shape2vecset/autoencoder"


# Exchanges of what is no option: each takes the place of a layer or function, as in `deviations.base.Exchange`.


def _left_out(original: Any, attention: Any, p: Any, x: Any, z: Any, *, bias: Any = None, **options: Any) -> Any:
    """What is added to scores as a mask of them."""
    mask = None if bias is None else array_of(bias)[..., 0, :, :] > -1
    return original(attention, p, x, z, mask=mask, **options)


def _keys_alone(original: Any, attention: Any, p: Any, z: Any, **options: Any) -> KeysValues:
    plain = Attention.keys_values(attention, p, z)
    return KeysValues(original(attention, p, z, **options).keys, plain.values)


SETS = Family(
    "Other encoders to latents",
    "`edgetam` is transformers' EdgeTAM, whose memory is resampled, `aurora` the resampler of a weather "
    "model's levels, `nemo` the PerceiverEncoder of nemo-toolkit 2.0, and `shape2vecset` 3DShape2VecSet with its "
    "successor VecSetX.",
    _COLUMNS,
    (
        convention(
            "activation",
            "Activation of these MLPs",
            "The exact GELU, or ReLU.",
            _COLUMNS,
            (_MEMORY, _WEATHER, _SPEECH),
            values={"nemo": "relu, or `hidden_act`"},
        ),
        convention(
            "gated_mlp",
            "Gated MLPs of these",
            "Whether the MLP multiplies its hidden values with an activated gate, the second half of one linear map.",
            _COLUMNS,
            (_MEMORY, _SHAPES),
        ),
        convention(
            "qkv_bias",
            "Biases of queries, keys and values of these",
            "Whether the projections to queries, keys and values have biases.",
            _COLUMNS,
            (_MEMORY, _SPEECH, _SHAPES),
        ),
        convention(
            "output_bias",
            "Bias of the output projection of these",
            "Whether attention's output projection has a bias.",
            _COLUMNS,
            (_WEATHER, _SPEECH, _SHAPES),
        ),
        convention(
            "mlp_bias",
            "Biases of these MLPs",
            "Whether the linear maps of the MLP have biases.",
            _COLUMNS,
            (_MEMORY, _WEATHER, _SPEECH),
        ),
        convention(
            "free_widths",
            "Widths of these layers",
            "Whether heads may have any width. Otherwise values are as wide as the layer that they are added to.",
            _COLUMNS,
            (_MEMORY, _SHAPES),
            same=(_SPEECH,),
            values={"aurora": "no, no self-attention"},
        ),
        Convention(
            "Place of the norms",
            "Whether norms come before attention and MLP, after them but before the sum, or around the sum.",
            {
                "edgetam": "before",
                "aurora": "after",
                "nemo": "around; `pre_ln`: before",
                "shape2vecset": "before",
            },
            PartOption("Layer", "norms"),
            (
                Evidence(_MEMORY, "before"),
                Evidence(_WEATHER, "after"),
                Evidence(_SPEECH, "around"),
                Evidence("nemo/perceiver_pre_ln_causal", "before"),
            ),
        ),
        Convention(
            "Norm of the context",
            "Whether what latents attend to is normed.",
            {"edgetam": "yes", "aurora": "no", "nemo": "no", "shape2vecset": "yes; VecSetX: no"},
            PartOption("CrossAttention", "context_norm"),
            (
                Evidence(_MEMORY, True),
                Evidence(_WEATHER, False),
                Evidence(_SPEECH, False),
                Evidence(_SHAPES, True),
                Evidence("shape2vecset/vecset_point", False),
            ),
        ),
        Convention(
            "Residual of latents",
            "Whether attention is added to the latents, or takes their place; the MLP is added in either case.",
            {
                "edgetam": "yes",
                "aurora": "`residual_latent`: yes",
                "nemo": "yes, and one more around cross- and self-attention",
                "shape2vecset": "yes; not in the decoder",
            },
            PartOption("CrossAttention", "query_residual"),
            (Evidence(_MEMORY, True), Evidence("aurora/resampler_no_residual", False), Evidence(_SPEECH, True)),
        ),
        Convention(
            "Latents to start with",
            "What latents are before they attend to anything.",
            {
                "edgetam": "learned, once for the map and once for its windows",
                "aurora": "an argument",
                "nemo": "`hidden_init_method`: learned, through a block; or sums of the context",
                "shape2vecset": "samples of the points; VecSetX: `query_type`, or learned",
            },
            "peers/transformers/edgetam.py, peers/aurora.py, peers/nemo.py, peers/shape2vecset",
            (
                Evidence(_MEMORY, "learned"),
                Evidence(_WEATHER, "an argument"),
                Evidence("nemo/perceiver_bridge", "sums of the context"),
                Evidence(_SHAPES, "samples"),
            ),
        ),
        Convention(
            "Positions of the context",
            "Where positions come in: added to keys and values after the projection, or coordinates in the embedding.",
            {"edgetam": "keys and values", "aurora": "none", "nemo": "none", "shape2vecset": "in the embedding"},
            "peers/transformers/edgetam.py; peers/shape2vecset",
            (
                Evidence(_MEMORY, "keys and values", {"keys": {PlacedAttention.keys_values: _keys_alone}}),
                Evidence(_SHAPES, "in the embedding"),
            ),
        ),
        Convention(
            "Masked scores of these",
            "What becomes of scores of padding: -10,000 is added, so that a context of padding alone is attended to as "
            "if it were real, or they are filled in with the lowest number.",
            {
                "edgetam": "no mask",
                "aurora": "no mask",
                "nemo": "-10,000 is added",
                "shape2vecset": "filled in",
            },
            "`Attention`, by its bias and by its mask",
            (
                Evidence(_SPEECH, "-10,000 is added", {"filled in": {Attention.apply: _left_out}}),
                Evidence("shape2vecset/attention_mask", "filled in"),
            ),
        ),
        Convention(
            "End of these encoders",
            "What follows the last layer.",
            {
                "edgetam": "norm",
                "aurora": "nothing",
                "nemo": "nothing; with `pre_ln` each stack of layers ends in a norm",
                "shape2vecset": "attention of queries and a linear map; VecSetX: a norm before it",
            },
            "peers/transformers/edgetam.py, peers/aurora.py, peers/nemo.py, peers/shape2vecset",
            (Evidence(_MEMORY, "norm"), Evidence(_WEATHER, "nothing"), Evidence(_SHAPES, "attention of queries")),
        ),
    ),
)
