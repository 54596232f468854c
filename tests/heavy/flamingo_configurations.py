"""flamingo-pytorch and transformers' relatives of Flamingo, run live: cases of the vector format, in float64.

Each function draws a configuration and inputs of one class, and gives (peer, class, config, live module, inputs,
options of the call).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from flamingo_pytorch import FlamingoPaLM, GatedCrossAttentionBlock, PerceiverResampler
from heavy.draw import COUNTS, Draw, Made, gradient, left_out
from heavy.hooks import hooked
from transformers import EvollaConfig, Idefics2Config, IdeficsConfig, MllamaTextConfig
from transformers.models.evolla import modeling_evolla as evolla
from transformers.models.idefics import modeling_idefics as idefics
from transformers.models.idefics import perceiver as idefics_perceiver
from transformers.models.idefics2 import modeling_idefics2 as idefics2
from transformers.models.mllama import modeling_mllama as mllama

from perceiver_ref.porting.cases import Case

torch.set_num_threads(1)  # for arrays this small
MODULES = (evolla, idefics, idefics2, mllama)
_ACTIVATIONS = ("gelu", "gelu_new", "relu", "silu", "quick_gelu", "gelu_10", "mish", "tanh", "relu6", "laplace")


WHOLE = ("bool", "int64", "int32", "uint8")
NUMBERS = ("float64", "float32", *WHOLE)


def heads(draw: Draw) -> dict[str, int]:
    return {"dim_head": draw(1, 5), "heads": draw.of(*COUNTS)}


def added(draw: Draw, implementation: str, *shape: int) -> np.ndarray:
    """A mask to be added, whole axes of it perhaps broadcast; bools, or without sdpa integers, among them."""
    shape = tuple(draw.of(1, n, n) for n in shape)
    attend, kind = draw.bits(*shape), draw.of("float64", "float64", "finite", "bool", "int64")
    if kind == "bool" or (kind == "int64" and implementation == "eager"):
        return attend.astype(kind)
    numbers = draw.array(*shape) if draw.of(True, False) else np.zeros(shape)
    return numbers if kind == "finite" else np.where(attend, numbers, np.finfo(np.float64).min)


def flamingo_resampler(draw: Draw) -> Made:
    media, single = draw(1, 3), draw.of(True, False)
    config = {"dim": draw(2, 9), "depth": draw(0, 3), **heads(draw), "num_latents": draw(1, 4)}
    config |= {"num_media_embeds": 1 if single else draw(media, 4), "ff_mult": draw.of(1, 2, 2.5, 4)}
    config = left_out(draw, config, "dim_head", "heads", "num_media_embeds", "ff_mult")
    axes = draw.of((), (media,))
    x = draw.array(draw(1, 3), *axes, draw(1, 5), config["dim"])
    return "lucidrains-flamingo", "PerceiverResampler", config, PerceiverResampler(**config), {"x": x}, {}


def flamingo_gated(draw: Draw) -> Made:
    config = {"dim": draw(2, 9), **heads(draw), "ff_mult": draw.of(1, 1.5, 4)}
    config |= {"only_attend_immediate_media": draw.of(True, False)}
    config = left_out(draw, config, "dim_head", "heads", "ff_mult", "only_attend_immediate_media")
    batch, length = draw(1, 3), draw(1, 7)
    inputs = {
        "x": draw.array(batch, length, config["dim"]),
        "media": draw.array(batch, draw(1, 3), draw(1, 3), config["dim"]),
    }
    if draw.of(True, True, False):
        inputs["media_locations"] = draw.bits(batch, length).astype(draw.of(*NUMBERS))
    made = GatedCrossAttentionBlock(**config)
    return "lucidrains-flamingo", "GatedCrossAttentionBlock", config, made, inputs, {}


class Encoded(torch.nn.Module):
    """An image encoder that is given what it should answer."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Any) -> Any:
        return x.reshape(-1, *self.shape)


def flamingo_palm(draw: Draw) -> Made:
    dim, batch, media, tokens, frames = draw(2, 8), draw(1, 3), draw(1, 4), draw(1, 3), draw(1, 3)
    config = {
        "dim": dim,
        "num_tokens": draw(5, 9),
        "depth": draw(1, 4),
        "dim_head": 2 * draw(1, 3),
        "heads": draw.of(*COUNTS),
        "ff_mult": draw(1, 4),
        "media_token_id": draw(0, 4),
        "cross_attn_every": draw(1, 3),
        "perceiver_num_latents": draw(1, 3),
        "perceiver_depth": draw(0, 2),
        "max_video_frames": draw.of(1, frames, frames + 1),
        "only_attend_immediate_media": draw.of(True, False),
    }
    optional = ("dim_head", "heads", "ff_mult", "cross_attn_every", "perceiver_depth", "only_attend_immediate_media")
    config = left_out(draw, config, *optional, *(["media_token_id"] if config["num_tokens"] > 3 else []))
    kind = draw.of("images", "videos", "text")
    inputs = {"text": draw.generator.integers(0, config["num_tokens"], (batch, draw(1, 7)))}
    if kind == "images":
        inputs["images"] = draw.array(batch, media, tokens, dim)
    elif kind == "videos":
        inputs["videos"] = draw.array(batch, media, frames, tokens, dim)
    model = FlamingoPaLM(**config, img_encoder=Encoded(tokens, dim))
    return "lucidrains-flamingo", "FlamingoPaLM", config, model, inputs, {}


def idefics_resampler(draw: Draw) -> Made:
    width, normed = draw(2, 9), draw.of(True, False)
    config = {"embed_dim": width, "depth": draw(0, 3), "n_heads": draw.of(*COUNTS), "head_dim": draw(1, 5)}
    config |= {"n_latents": draw(1, 4)}
    whole = IdeficsConfig(
        vision_config={"embed_dim": width}, perceiver_config={"qk_layer_norms_perceiver": normed}, hidden_size=8
    )
    made = idefics_perceiver.IdeficsPerceiverResampler(whole, **config)
    inputs = {"context": draw.array(draw(1, 3), draw(1, 6), width)}
    return "idefics", "IdeficsPerceiverResampler", {**config, "qk_layer_norms": normed}, made, inputs, {}


def idefics_gated(draw: Draw) -> Made:
    count, vision, batch, length, images = draw.of(*COUNTS), draw(1, 7), draw(1, 3), draw(1, 6), draw(1, 6)
    config = {
        "hidden_size": count * draw(1, 6),
        "intermediate_size": draw(1, 9),
        "num_attention_heads": count,
        "alpha_type": draw.of("float", "vector"),
        "qk_layer_norms": draw.of(True, False),
        "hidden_act": draw.of(*_ACTIVATIONS),
        "rms_norm_eps": draw.of(1e-6, 1e-2),
        "vision_config": {"embed_dim": vision},
        "attn_implementation": draw.of("eager", "sdpa"),
    }
    gate = draw.bits(batch, length)
    inputs = {
        "hidden_states": draw.array(batch, length, config["hidden_size"]),
        "image_hidden_states": draw.array(batch, images, vision),
        "cross_attention_gate": gate.astype(draw.of(*NUMBERS)),
    }
    if draw.of(True, True, True, False):
        inputs["image_attention_mask"] = added(draw, config["attn_implementation"], batch, 1, length, images)
    config = left_out(draw, config, "alpha_type", "qk_layer_norms", "hidden_act", "rms_norm_eps")
    made = idefics.IdeficsGatedCrossAttentionLayer(IdeficsConfig(**config), layer_idx=0)
    return "idefics", "IdeficsGatedCrossAttentionLayer", config, made, inputs, {}


def idefics2_resampler(draw: Draw) -> Made:
    kv_heads = draw(1, 3)
    config = {
        "hidden_size": draw(2, 9),
        "hidden_act": draw.of(*_ACTIVATIONS),
        "rms_norm_eps": draw.of(1e-6, 1e-2),
        "resampler_n_latents": draw(1, 4),
        "resampler_depth": draw(0, 3),
        "resampler_n_heads": kv_heads * draw.of(1, 2, 3, 5),
        "resampler_head_dim": draw(1, 5),
        "num_key_value_heads": kv_heads,
        "attn_implementation": draw.of("eager", "sdpa"),
    }
    kind = type(Idefics2Config().perceiver_config)
    config = left_out(draw, config, "hidden_act", "rms_norm_eps", "resampler_depth", "resampler_n_latents")
    batch, length = draw(1, 3), draw(1, 6)
    mask = draw.bits(batch, length).astype(draw.of(*NUMBERS))
    inputs = {"context": draw.array(batch, length, config["hidden_size"]), "attention_mask": mask}
    made = idefics2.Idefics2PerceiverResampler(kind(**config))
    return "idefics2", "Idefics2PerceiverResampler", config, made, inputs, {}


def evolla_resampler(draw: Draw) -> Made:
    config = {
        "protein_encoder_config": {"hidden_size": draw(1, 4) * 2},
        "hidden_size": draw(1, 8),
        "resampler_depth": draw(0, 3),
        "resampler_dim_head": draw(1, 5),
        "resampler_heads": draw.of(*COUNTS),
        "resampler_num_latents": draw(1, 4),
        "resampler_ff_mult": draw(1, 4),
    }
    config = left_out(draw, config, "resampler_dim_head", "resampler_heads", "resampler_ff_mult", "resampler_depth")
    batch, length = draw(1, 3), draw(1, 6)
    mask = draw.bits(batch, length).astype(draw.of(*NUMBERS))
    mask = mask * mask.dtype.type(draw.of(1, 1, 2)) if mask.dtype.kind != "b" else mask  # any number but 1 is padding
    inputs = {"embeds": draw.array(batch, length, config["protein_encoder_config"]["hidden_size"]), "mask": mask}
    made = evolla.EvollaSequenceCompressorResampler(EvollaConfig(**config))
    return "evolla", "EvollaSequenceCompressorResampler", config, made, inputs, {}


def evolla_aligner(draw: Draw) -> Made:
    count, batch, length = draw.of(*COUNTS), draw(1, 3), draw(1, 6)
    config: dict[str, Any] = {
        "hidden_size": count * draw(1, 6),
        "num_attention_heads": count,
        "aligner_ffn_mult": draw(1, 4),
        "aligner_enable_bias": draw.of(True, False),
    }
    config = left_out(draw, config, "aligner_ffn_mult", "aligner_enable_bias")
    names = [name for name in ("protein", "structure", "msa") if draw.of(True, False)] or ["msa"]
    widths = {f"{name}_encoder_dim": draw(1, 7) for name in names}
    inputs = {"query_states": draw.array(batch, length, config["hidden_size"])}
    call: dict[str, Any] = {f"{name}_kv_states": None for name in ("protein", "structure", "msa") if name not in names}
    by_item = "protein" in names and draw.of(True, False)  # the peer reads the device off the proteins' mask
    kind = draw.of("int64", "float64", "int32", "float32")
    for name in names:
        tokens = draw(1, 4)
        inputs[f"{name}_kv_states"] = draw.array(batch, tokens, widths[f"{name}_encoder_dim"])
        if by_item:
            inputs[f"{name}_batch_mask"] = draw.bits(batch).astype(draw.of("int64", "float64", "bool"))
        else:
            inputs[f"{name}_kv_attn_mask"] = draw.bits(batch, tokens).astype(kind)
    if draw.of(True, True, False):
        inputs["query_attn_mask"] = draw.bits(batch, length).astype(kind)
    else:
        call["query_attn_mask"] = None
    made = evolla.EvollaSequenceAlignerCrossAttention(EvollaConfig(**config), **widths)
    return "evolla", "EvollaSequenceAlignerCrossAttention", {**config, **widths}, made, inputs, call


def mllama_layer(draw: Draw) -> Made:
    kv_heads, batch, length = draw(1, 3), draw(1, 3), draw(1, 6)
    count, images, tiles, tokens = kv_heads * draw.of(1, 2, 3, 5), draw(1, 2), draw(1, 2), draw(1, 3)
    config = {
        "hidden_size": count * draw(1, 6),
        "hidden_act": draw.of(*_ACTIVATIONS),
        "num_attention_heads": count,
        "num_key_value_heads": kv_heads,
        "intermediate_size": draw(1, 9),
        "rms_norm_eps": draw.of(1e-5, 1e-2),
        "pad_token_id": 0,
        "attn_implementation": draw.of("eager", "sdpa"),
    }
    inputs = {
        "hidden_states": draw.array(batch, length, config["hidden_size"]),
        "cross_attention_states": draw.array(batch, images * tiles * tokens, config["hidden_size"]),
    }
    call = {}
    mask = draw.of("raw", "added", None)
    if mask == "raw":
        inputs["raw_cross_attention_mask"] = draw.bits(batch, length, images, tiles).astype(draw.of("int64", "float64"))
        call = {"num_vision_tokens": tokens}
    elif mask == "added":
        tokens_seen = images * tiles * tokens
        inputs["cross_attention_mask"] = added(draw, config["attn_implementation"], batch, 1, length, tokens_seen)
    config = left_out(draw, config, "hidden_act", "rms_norm_eps")
    layer = mllama.MllamaCrossAttentionDecoderLayer(MllamaTextConfig(**config), layer_idx=0)
    return "mllama", "MllamaCrossAttentionDecoderLayer", config, layer, inputs, call


KINDS: tuple[Callable[[Draw], Made], ...] = (
    flamingo_resampler,
    flamingo_gated,
    flamingo_palm,
    idefics_resampler,
    idefics_gated,
    idefics2_resampler,
    evolla_resampler,
    evolla_aligner,
    mllama_layer,
)


def randomise(module: Any, seed: int) -> None:
    """Random weights with which no part is idle: norms near 1, gates half open, logits of a deviation above 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in module.named_parameters():
            p.normal_(generator=generator)
            if p.ndim == 2 and not name.endswith("latents"):
                p.mul_(1.5 / p.shape[1] ** 0.5)
            elif re.search(r"norm|ff\.0|\.ln\.|\.1\.0\.", name):
                p.mul_(0.2).add_(1.0 if name.endswith("weight") else 0.0)
            elif name.endswith("bias"):
                p.mul_(0.2)


def case(made: Made, seed: int) -> Case:
    """What the live module computes from random weights and cotangents: outputs, gradients and trace points."""
    name, cls, config, module, inputs, call = made
    module = module.double().eval()
    randomise(module, seed)
    params = dict(module.named_parameters())
    arrays = params | {key: b for key, b in module.named_buffers() if key in module.state_dict()}
    arguments = {key: torch.from_numpy(array.copy()) for key, array in inputs.items()}
    # the peer also differentiates 1 - the raw mask, which is no number of the model's
    leaves = {key: t for key, t in arguments.items() if t.is_floating_point() and not key.startswith("raw_")}
    floats = {key: t.requires_grad_() for key, t in leaves.items()}
    extra: dict[str, Any] = {}
    if name == "mllama":
        arguments, extra = _prepared(arguments, call.get("num_vision_tokens"))
    options = {key: value for key, value in call.items() if key != "num_vision_tokens"}
    with hooked(module) as traced:
        out = module(**arguments, **options)
    cotangent = np.random.default_rng(seed).standard_normal(tuple(out.shape))
    (out * torch.from_numpy(cotangent)).sum().backward()
    return Case(
        {"peer": name, "class": cls, "config": config, "call": call, "dtype": "float64"},
        params={key: p.detach().numpy() for key, p in arrays.items()},
        inputs=inputs,
        outputs={"out": _array(out), **{key: _array(t) for key, t in extra.items()}},
        cotangents={"out": cotangent},
        # FlamingoPaLM freezes its language model when it sees media, and never differentiates its image encoder
        grad_params={key: gradient(p) for key, p in params.items() if p.requires_grad},
        grad_inputs={key: gradient(t) for key, t in floats.items() if cls != "FlamingoPaLM"},
        trace=traced,
    )


def _prepared(arguments: Mapping[str, Any], tokens: int | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arguments of Llama 3.2 Vision's layer, whose masks its model makes of the raw one."""
    rest = {key: t for key, t in arguments.items() if key != "raw_cross_attention_mask"}
    made = dict.fromkeys(("prepared_mask", "full_text_row_masked_out_mask"))
    if tokens is not None:
        pair = mllama._prepare_cross_attention_mask(arguments["raw_cross_attention_mask"], tokens, torch.float64)
        made = dict(zip(made, pair))
    mask = made["prepared_mask"] if tokens is not None else arguments.get("cross_attention_mask")
    rest |= {
        "cross_attention_mask": mask,
        "attention_mask": None,
        "full_text_row_masked_out_mask": made["full_text_row_masked_out_mask"],
    }
    return rest, {} if tokens is None else made


def _array(value: Any) -> np.ndarray:
    value = value[0] if isinstance(value, tuple) else value
    return value.detach().numpy().copy()
