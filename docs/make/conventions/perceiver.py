"""Perceiver and Perceiver IO: where DeepMind's released code, transformers, perceiver-pytorch and krasserm's differ."""

from __future__ import annotations

from typing import Any

from perceiver_ref.autograd.backend import xp
from perceiver_ref.autograd.core import array_of
from perceiver_ref.models.conventions import DIALECTS
from perceiver_ref.models.decoder import ProjectionDecoder
from perceiver_ref.peers.lucidrains.perceiver.quirks import NormedProjection

from .perceiver_inputs import INPUTS, POSITIONS
from .rows import Change, Convention, Evidence, Family, PartOption, convention, to

_COLUMNS = {
    "paper": DIALECTS["paper"],
    "deepmind": DIALECTS["deepmind"],
    "hf": DIALECTS["hf"],
    "lucidrains-perceiver": DIALECTS["lucidrains"],
    "krasserm": DIALECTS["krasserm"],
}


# Exchanges of what is no option: each takes the place of a layer or function, as in `deviations.base.Exchange`.


def _without_norm(original: Any, head: Any, p: Any, latents: Any, *request: Any) -> Any:
    return ProjectionDecoder(head.latent_channels, head.outputs).apply({"output": p["output"]}, latents)


def _with_norm(original: Any, head: Any, p: Any, latents: Any, *request: Any) -> Any:
    width, like = (head.latent_channels,), array_of(latents)
    library = xp(like)
    unit = {"scale": library.ones(width, like.dtype), "offset": library.zeros(width, like.dtype)}
    return NormedProjection(head.latent_channels, head.outputs).apply({**p, "norm": unit}, latents)


_TWICE: dict[Any, Change] = {2: to(PartOption("Encoder", "cross_attends"), 2)}
_NORMED: dict[Any, Change] = {"mean, norm, linear": {ProjectionDecoder.apply: _with_norm}}

CONVENTIONS = (
    convention(
        "activation",
        "Activation of the MLP",
        "GELU by the error function or by its tanh approximation. DeepMind calls `jax.nn.gelu`, whose default is the "
        "approximation; PyTorch's default is exact.",
        _COLUMNS,
        ("deepmind/imagenet_pixels_fourier", "hf/model_bare", "krasserm/encoder_1cross_1block"),
        values={"hf": "gelu_erf, or `hidden_act`"},
    ),
    convention(
        "gated_mlp",
        "Gated MLP",
        "Whether the MLP multiplies its hidden values with an activated gate (GEGLU), which is a third linear map.",
        _COLUMNS,
        ("lucidrains-perceiver/perceiver_2d", "hf/model_bare", "deepmind/imagenet_pixels_fourier"),
    ),
    convention(
        "qkv_bias",
        "Biases of queries, keys and values",
        "Whether the projections to queries, keys and values have biases. The output projection has one everywhere.",
        _COLUMNS,
        ("deepmind/imagenet_pixels_fourier", "hf/model_bare", "lucidrains-perceiver/perceiver_2d"),
        values={"krasserm": "yes, or `qkv_bias`"},
    ),
    convention(
        "free_widths",
        "Widths of self-attention",
        "Whether heads may have any width. Otherwise they divide the latents' width, and values are as wide as it.",
        _COLUMNS,
        ("krasserm/encoder_1cross_1block", "lucidrains-perceiver/perceiver_2d"),
        same=("hf/model_qk_ne_v",),
    ),
    convention(
        "masked_rows",
        "Rows without any key",
        "What attention gives a query that may attend to nothing: zero (then the output's bias is what is left), or "
        "the average of all values, padding included. Queries and keys of that row get no gradient where masked scores "
        "are filled in (uniform); where the dtype's lowest number is added to them, which rounds to that number, they "
        "get that of a softmax whose weights are all alike (added).",
        _COLUMNS,
        ("deepmind/mlm_fully_masked_row", "hf/model_mask_allmasked_row", "krasserm/encoder_pad_mask"),
        gradients=True,
    ),
    convention(
        "grid",
        "Arithmetic of grid positions",
        "How evenly spaced positions are rounded. DeepMind's are float32 in any model; the others' have its dtype. The "
        "difference is a last bit, which the highest frequencies make larger.",
        _COLUMNS,
        ("deepmind/imagenet_pixels_fourier", "hf/image_fourier_small"),
    ),
    convention(
        "subsampling",
        "Positions of single grid points",
        "Where a decoder that is asked for some points of a grid puts point i of n: half_open is -1 + 2 i / n, which "
        "is not where the full grid, -1 to 1 with both ends, has that point.",
        _COLUMNS,
        ("deepmind/basic_decoder_fourier_subsampled", "hf/multimodal_subsampled"),
        values={"lucidrains-perceiver": "no such decoder", "krasserm": "no such decoder"},
    ),
)

LAYOUT = (
    Convention(
        "Query residual of the encoder",
        "Whether the cross-attention of latents adds its result to them. What is added to is not normed.",
        {
            "paper": "yes",
            "deepmind": "`use_query_residual`: yes",
            "hf": "`use_query_residual`: yes",
            "lucidrains-perceiver": "yes",
            "krasserm": "yes",
        },
        PartOption("Encoder", "query_residual"),
        (
            Evidence("deepmind/imagenet_pixels_fourier", True),
            Evidence("hf/model_no_query_residual", False),
            Evidence("krasserm/encoder_1cross_1block", True),
        ),
    ),
    Convention(
        "Query residual of the decoder",
        "Whether the decoder adds its attention to its queries. In transformers the image model with trained positions "
        "adds it, where DeepMind's notebook does not.",
        {
            "paper": "by task",
            "deepmind": "`use_query_residual`: no",
            "hf": "by model, fixed in its code",
            "lucidrains-perceiver": "no",
            "krasserm": "`cross_attention_residual`: yes",
        },
        PartOption("Decoder", "query_residual"),
        (
            Evidence("deepmind/imagenet_conv1x1_trainable_project", False),
            Evidence("hf/image_learned", True),
            Evidence("lucidrains-perceiver/io", False),
            Evidence("krasserm/mlm_tied", True),
        ),
    ),
    Convention(
        "MLP of the decoder",
        "Whether an MLP follows the cross-attention of queries.",
        {
            "paper": "yes",
            "deepmind": "yes",
            "hf": "yes",
            "lucidrains-perceiver": "`decoder_ff`: no",
            "krasserm": "yes",
        },
        PartOption("OptionalMLPDecoder", "mlp"),
        (
            Evidence("lucidrains-perceiver/io", False),
            Evidence("lucidrains-perceiver/io_ff_tied_mask", True),
            Evidence("krasserm/mlm_tied", True, instead={}),
        ),
    ),
    Convention(
        "Sharing of blocks",
        "Whose weights are one among the repetitions of the block of self-attentions: those of all, of all but the "
        "first (later), or of none. perceiver-pytorch's Perceiver leaves the first out, its PerceiverIO does not.",
        {
            "paper": "all",
            "deepmind": "all",
            "hf": "all",
            "lucidrains-perceiver": "`weight_tie_layers`: none; else later, or all in PerceiverIO",
            "krasserm": "`first_self_attention_block_shared`: all; else later",
        },
        PartOption("Encoder", "shared_blocks"),
        (
            Evidence("deepmind/encoder_shared_blocks", "all"),
            Evidence("hf/model_bare", "all"),
            Evidence("lucidrains-perceiver/perceiver_tied", "later"),
            Evidence("lucidrains-perceiver/perceiver_attn_residual", "none"),
            Evidence("krasserm/encoder_3cross_4blocks_owncross_ownself", "later"),
        ),
    ),
    Convention(
        "Number of cross-attentions",
        "How often latents attend to the inputs, each time before a block: once in Perceiver IO, before every block in "
        "Perceiver.",
        {
            "paper": "Perceiver: up to 8; Perceiver IO: 1",
            "deepmind": "1",
            "hf": "1",
            "lucidrains-perceiver": "Perceiver: `depth`; PerceiverIO: 1",
            "krasserm": "`num_cross_attention_layers`: 1",
        },
        PartOption("Encoder", "cross_attends"),
        (
            Evidence("deepmind/encoder_shared_blocks", 1, _TWICE),
            Evidence("hf/model_bare", 1, _TWICE),
            Evidence("krasserm/image_classifier", 2),
            Evidence("krasserm/encoder_3cross_4blocks_owncross_ownself", 3),
        ),
    ),
)

WIDTHS = (
    Convention(
        "Width of queries and keys",
        "What all heads together default to in cross-attention: the width of the inputs (kv) or of the latents (q).",
        {
            "paper": "kv",
            "deepmind": "`cross_attention_shape_for_attn`: kv",
            "hf": "`cross_attention_shape_for_attention`: kv",
            "lucidrains-perceiver": "`cross_heads` x `cross_dim_head`",
            "krasserm": "q; kv in ImageClassifier and OpticalFlow",
        },
        PartOption("Encoder", "attend_in"),
        (
            Evidence("deepmind/encoder_shared_blocks", "kv"),
            Evidence("hf/model_shape_q", "q"),
            Evidence("krasserm/encoder_adapted_input", "q"),
        ),
    ),
    Convention(
        "Widening of the MLP",
        "How many times as wide as its layer the MLP of self-attention is.",
        {
            "paper": "1",
            "deepmind": "`self_attend_widening_factor`: 1",
            "hf": "`self_attention_widening_factor`: 1",
            "lucidrains-perceiver": "4, and the gate as much",
            "krasserm": "`self_attention_widening_factor`: 1",
        },
        PartOption("Encoder", "self_widening"),
        (
            Evidence("hf/model_bare", 1),
            Evidence("lucidrains-perceiver/perceiver_2d", 4),
            Evidence("krasserm/image_classifier", 1),
        ),
    ),
    Convention(
        "Head without queries",
        "How class logits come from the mean of the latents, in models without a decoder.",
        {
            "paper": "linear",
            "deepmind": "linear (ProjectionDecoder)",
            "hf": "linear",
            "lucidrains-perceiver": "layer norm, then linear",
        },
        "`ProjectionDecoder`; the norm in peers/lucidrains/perceiver/quirks.py",
        (
            Evidence("deepmind/imagenet_projection_decoder", "mean, linear", _NORMED),
            Evidence(
                "lucidrains-perceiver/perceiver_2d",
                "mean, norm, linear",
                {"mean, linear": {NormedProjection.apply: _without_norm}},
            ),
        ),
    ),
)

PERCEIVER = Family(
    "Perceiver and Perceiver IO",
    "`lucidrains-perceiver` is perceiver-pytorch 0.11, with its PerceiverIO; `krasserm` is perceiver-io.",
    _COLUMNS,
    (*CONVENTIONS, *LAYOUT, *WIDTHS, *POSITIONS, *INPUTS),
)
