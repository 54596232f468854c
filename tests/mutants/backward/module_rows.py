"""Backward mutants that are changes of the built modules."""

from __future__ import annotations

import torch

from mutants.backward import wrong
from mutants.backward.changes import (
    activations,
    embeddings,
    first_use,
    hooked,
    norms,
    outputs,
    rms_norms,
    unscaled_norm,
)
from mutants.backward.row import (
    ACTIVATION,
    DM,
    FACTOR,
    FLAMINGO,
    GATED,
    HF,
    IDEFICS,
    IDEFICS2,
    LP,
    LUCID,
    MIXED,
    NORM,
    OF,
    SIGN,
    STOPPED,
    TRANSFORMERS,
    Row,
    names,
)


def _modules() -> list[Row]:
    everything = (
        *FLAMINGO,
        *LUCID,
        *TRANSFORMERS,
        *names(IDEFICS, "resampler_plain"),
        *names(DM, "imagenet_pixels_fourier"),
    )
    hidden = r"(mlp|activation)$"
    rows = [
        Row(NORM, "layer norms without the mean's term", everything, r"norm$|resampler$", change=norms(mean=False)),
        Row(
            NORM,
            "layer norms without the variance's term",
            everything,
            r"norm$|resampler$",
            change=norms(variance=False),
        ),
        Row(NORM, "statistics detached", everything, r"norm$|resampler$", change=norms(mean=False, variance=False)),
        Row(
            NORM,
            "media norm's statistics detached",
            FLAMINGO,
            r"features_norm$",
            change=norms("norm_media", mean=False, variance=False),
        ),
        Row(
            NORM,
            "norm of the text, no variance",
            names(OF, "gated_all"),
            r"^norm$",
            change=norms(r"attn\.norm$", variance=False),
        ),
        Row(
            NORM,
            "norm before the MLP without scale",
            names(HF, "model_mask"),
            r"mlp_norm$",
            change=unscaled_norm(r"\.layernorm$"),
        ),
        Row(
            NORM,
            "RMS norms' mean square detached",
            names(IDEFICS2, "resampler_gqa"),
            r"norm$|resampler$",
            change=rms_norms(),
        ),
        Row(
            ACTIVATION,
            "gelu: tanh's",
            (*FLAMINGO, *GATED, *names(HF, "model_mask", "masked_lm")),
            hidden,
            change=activations(wrong.gelu_tanh),
        ),
        Row(
            ACTIVATION,
            "gelu: sigmoid's",
            (*FLAMINGO, *names(HF, "model_mask")),
            hidden,
            change=activations(wrong.quick_gelu),
        ),
        Row(
            ACTIVATION,
            "gelu: relu's in the first layer",
            FLAMINGO,
            r"layers\.0\.mlp\.activation$",
            change=activations(torch.relu, pattern=r"layers\.0\."),
        ),
        Row(ACTIVATION, "gelu: straight through", names(HF, "masked_lm"), hidden, change=activations(lambda x: x)),
        Row(
            ACTIVATION,
            "relu: straight through",
            names(IDEFICS, "resampler_plain"),
            hidden,
            change=activations(lambda x: x, "^ReLU$"),
        ),
        Row(
            ACTIVATION,
            "SiLU's of gelu's",
            names(IDEFICS2, "resampler_mqa_sdpa"),
            hidden,
            change=activations(torch.nn.functional.silu),
        ),
        Row(
            ("embedding-backward",),
            "repeated tokens assigned",
            names(LP, "lm"),
            r"embedding$",
            change=embeddings("last", "token_emb"),
        ),
        Row(
            ("embedding-backward",),
            "repeated tokens averaged",
            (*names(LP, "lm"), *names(HF, "masked_lm")),
            r"embedding$|input",
            change=embeddings("mean", "token_emb|embeddings$"),
        ),
        Row(
            ("embedding-backward",),
            "padding token",
            (*names(LP, "lm"), *names(HF, "sequence_classification")),
            r"embedding$",
            change=embeddings("padding", "token_emb|input_preprocessor.embeddings$"),
        ),
        Row(
            STOPPED,
            "biases of keys' and values' maps",
            names(HF, "model_mask"),
            r"attention\.value$",
            change=hooked(r"attention\.self\.value\.bias$", lambda g: 0 * g),
        ),
        Row(
            STOPPED,
            "a bias missing",
            (*names(HF, "masked_lm"), *names(LP, "io")),
            r"mlp$|attention$|decoder",
            change=hooked(r"(dense2\.bias|cross_attn\.fn\.to_out\.bias)$", lambda g: 0 * g),
        ),
        Row(
            ("gradient-averaged",),
            "latents averaged over the batch",
            (*FLAMINGO, *names(HF, "model_mask"), *names(LP, "perceiver_2d")),
            r"latents$",
            change=hooked(r"(^|\.)latents$", lambda g: g / 2),
        ),
        Row(
            ("gradient-clipped",),
            "gradients clipped by value",
            (*names(HF, "model_mask"), *names(OF, "gated_all"), *names(DM, "imagenet_pixels_fourier")),
            "",
            change=hooked("", lambda g: g.clamp(-0.5, 0.5)),
        ),
        Row(
            ("gradient-dtype",),
            "finished gradients in bfloat16",
            (*names(HF, "model_mask"), *FLAMINGO[:1]),
            "",
            change=hooked("", lambda g: g.bfloat16().to(g.dtype)),
        ),
        Row(
            FACTOR,
            "loss averaged over the batch",
            (*FLAMINGO, *GATED[:1], *names(HF, "masked_lm")),
            r"output|language\.|^$|resampler$|decoder",
            change=outputs("^$", lambda y: _loss(y, 0.5)),
        ),
        Row(
            SIGN,
            "sign at the last norm",
            FLAMINGO,
            r"resampler$|layers\.1$",
            change=outputs("^norm$", lambda y: wrong.times(y, -1)),
        ),
        Row(
            ("gradient-not-accumulated",),
            "shared blocks: all but the first use",
            names(HF, "model_mask", "masked_lm"),
            "",
            change=first_use(r"self_attends\.\d+$"),
        ),
        Row(
            STOPPED,
            "decoder's queries",
            names(LP, "io"),
            r"attention_residual$|query_norm$|decoder|output",
            change=outputs(r"decoder_cross_attn\.fn\.to_q$", lambda y: y.detach()),
        ),
        Row(
            FACTOR,
            "gradient of the values' map x 2",
            names(IDEFICS, "resampler_plain"),
            MIXED + r"|attention\.value$",
            change=outputs(r"v_proj$", lambda y: wrong.times(y, 2.0)),
        ),
        Row(
            STOPPED,
            "cross-attention's keys and values",
            names(LP, "perceiver_2d"),
            MIXED + r"|key_value_norm$",
            change=outputs(r"cross_attn\.fn\.to_kv$", lambda y: y.detach()),
        ),
        Row(
            STOPPED,
            "between two blocks",
            names(HF, "model_bare"),
            r"blocks\.1\.[01]",
            change=outputs(r"self_attends\.0$", lambda y: (y[0].detach(), *y[1:])),
        ),
    ]
    return rows


def _loss(y: object, factor: float) -> object:
    if torch.is_tensor(y):
        return wrong.times(y, factor)
    for name, value in y.items():  # type: ignore[attr-defined]
        if torch.is_tensor(value):
            y[name] = wrong.times(value, factor)  # type: ignore[index]
    return y


MODULE_ROWS = tuple(_modules())
