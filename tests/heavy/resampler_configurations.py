"""Resamplers and poolers that install from PyPI, run live: cases of the vector format, in float64.

Each function draws a configuration and inputs of one class, and gives (peer, class, config, live module, inputs,
options of the call). Of packages that need more than the class does, the file of the class alone is run (`sources`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from diffusers.models import embeddings
from heavy.draw import Draw
from heavy.hooks import hooked
from heavy.precision import promoted
from heavy.sources import source
from open_clip.transformer import AttentionalPooler, LayerNorm
from timm import layers as timm_layers
from timm.layers import attention_pool
from transformers import AriaConfig, Kosmos2_5Config, Kosmos2Config, Siglip2VisionConfig, SiglipVisionConfig
from transformers.models.aria import modeling_aria
from transformers.models.kosmos2 import modeling_kosmos2
from transformers.models.kosmos2_5 import modeling_kosmos2_5
from transformers.models.siglip import modeling_siglip
from transformers.models.siglip2 import modeling_siglip2

from perceiver_ref.porting.cases import Case

torch.set_num_threads(1)  # for arrays this small
Made = tuple[str, str, dict[str, Any], Any, dict[str, np.ndarray], dict[str, Any]]

adapter = source("ip_adapter", "resampler")
xtts = source("TTS", "tts.layers.xtts.perceiver_encoder", ("tts.layers.tortoise.transformer", "utils.generic_utils"))
chatterbox = source("chatterbox", "models.t3.modules.perceiver")
naturalspeech = source(
    "naturalspeech2_pytorch",
    "naturalspeech2_pytorch",
    missing=(
        *("torchaudio", "audiolm_pytorch", "beartype", "accelerate", "ema_pytorch", "pyworld", "inflect", "num2words"),
        *("nltk", "phonemizer", "num_to_words", "indic_numtowords", "unidecode", "gruut", "g2p_en", "numba", "six"),
    ),
)
MODULES = (embeddings, modeling_aria, modeling_kosmos2, modeling_kosmos2_5, modeling_siglip2)
HEADS = (1, 2, 3, 5)


@contextmanager
def float64_throughout() -> Iterator[None]:
    """Steps in float32 in float64: those that modules name, and scores that `Tensor.float` rounds."""
    rounded = torch.Tensor.float
    torch.Tensor.float = lambda self, *_, **__: self.double()  # type: ignore[method-assign]
    try:
        with promoted(*MODULES):
            yield
    finally:
        torch.Tensor.float = rounded  # type: ignore[method-assign]


def _layers(draw: Draw) -> dict[str, int]:
    return {"depth": draw(0, 3), "dim_head": draw(1, 5), "heads": draw.of(*HEADS)}


def ip_adapter_attention(draw: Draw) -> Made:
    config = {"dim": draw(2, 9), "dim_head": draw(1, 5), "heads": draw.of(*HEADS)}
    batch = draw(1, 3)
    inputs = {name: draw.array(batch, draw(1, 6), config["dim"]) for name in ("x", "latents")}
    return "ip-adapter", "PerceiverAttention", config, adapter.PerceiverAttention(**config), inputs, {}


def ip_adapter_resampler(draw: Draw) -> Made:
    tokens = draw(1, 7)
    config = {"dim": draw(2, 9), **_layers(draw), "num_queries": draw(1, 5), "ff_mult": draw.of(1, 2, 2.5, 4)}
    config |= {"embedding_dim": draw(1, 9), "output_dim": draw(1, 9)}
    if draw.of(True, False):
        config |= {"apply_pos_emb": draw.of(True, False), "max_seq_len": draw(tokens, 9)}
    if draw.of(True, False):
        config["num_latents_mean_pooled"] = draw(0, 3)
    x = draw.array(draw(1, 3), tokens, config["embedding_dim"])
    return "ip-adapter", "Resampler", config, adapter.Resampler(**config), {"x": x}, {}


def diffusers_plus(draw: Draw) -> Made:
    config = {name: draw(1, 9) for name in ("embed_dims", "output_dims", "hidden_dims", "num_queries")}
    config |= {**_layers(draw), "ffn_ratio": draw.of(1, 2, 2.5, 4)}
    x = draw.array(draw(1, 3), draw(1, 6), config["embed_dims"])
    name = "IPAdapterPlusImageProjection"
    return "diffusers", name, config, getattr(embeddings, name)(**config), {"x": x}, {}


class Attributes(torch.nn.Module):
    """A FaceIDPlus projection that is given what are attributes of it."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module

    def forward(self, id_embeds: Any, clip_embeds: Any, **attributes: Any) -> Any:
        for name, value in {"clip_embeds": clip_embeds, **attributes}.items():
            setattr(self.module, name, value)
        return self.module(id_embeds)


def diffusers_face(draw: Draw) -> Made:
    config = {name: draw(1, 9) for name in ("embed_dims", "output_dims", "hidden_dims", "id_embeddings_dim")}
    config |= {**_layers(draw), "ffn_ratio": draw.of(1, 2.5, 4), "ffproj_ratio": draw.of(1, 2, 3)}
    config |= {"num_tokens": draw(1, 4), "num_queries": draw(1, 9)}
    call: dict[str, Any] = {}
    if draw.of(True, False):
        config["output_dims"] = config["embed_dims"]
        call = {"shortcut": True, "shortcut_scale": draw.of(0.5, 1.0, -2.0)}
    batch, images = draw(1, 3), draw(1, 3)
    inputs = {
        "id_embeds": draw.array(*draw.of((batch, images), (batch * images,)), config["id_embeddings_dim"]),
        "clip_embeds": draw.array(batch, images, draw(1, 5), config["hidden_dims"]),
    }
    name = "IPAdapterFaceIDPlusImageProjection"
    return "diffusers", name, config, Attributes(getattr(embeddings, name)(**config)), inputs, call


def diffusers_time(draw: Draw) -> Made:
    config = {name: draw(1, 9) for name in ("embed_dim", "output_dim", "hidden_dim", "num_queries")}
    config |= {**_layers(draw), "ffn_ratio": draw.of(1, 2, 3), "timestep_in_dim": draw(4, 9)}
    config |= {"timestep_flip_sin_to_cos": draw.of(True, False), "timestep_freq_shift": draw.of(0, 1)}
    batch = draw(1, 3)
    times = draw.generator.uniform(0, 999, draw.of(1, batch))
    inputs = {"x": draw.array(batch, draw(1, 6), config["embed_dim"])}
    inputs["timestep"] = draw.of(times, times.astype(np.int64))
    name = "IPAdapterTimeImageProjection"
    return "diffusers", name, config, getattr(embeddings, name)(**config), inputs, {}


NORMS = {
    "torch.nn.LayerNorm": torch.nn.LayerNorm,
    "timm.layers.LayerNorm": timm_layers.LayerNorm,
    "timm.layers.RmsNorm": timm_layers.RmsNorm,
}
ACTIVATIONS = {"gelu": torch.nn.GELU, "gelu_tanh": partial(torch.nn.GELU, approximate="tanh")}


def timm_pool(draw: Draw) -> Made:
    heads, tokens = draw.of(*HEADS), draw(1, 6)
    width = heads * draw(2, 4)
    config: dict[str, Any] = {"in_features": width, "num_heads": heads, "mlp_ratio": draw.of(1.0, 1.5, 4.0)}
    chances: dict[str, Callable[[], Any]] = {
        "out_features": lambda: draw(0, 7),
        "embed_dim": lambda: width,
        "qkv_bias": lambda: draw.of(True, False),
        "qk_norm": lambda: draw.of(True, False),
        "latent_len": lambda: draw(1, 4),
        "pool_type": lambda: draw.of("token", "avg", ""),
        "norm_layer": lambda: draw.of(*NORMS),
        "act_layer": lambda: draw.of(*ACTIVATIONS),
    }
    config |= {name: value() for name, value in chances.items() if draw.of(True, False)}
    if draw.of(True, False):
        config |= {"pos_embed": "abs", "feat_size": tokens}
    config |= draw.of({}, {"q_proj": False}, {"latent_dim": draw(1, 9)})
    batch, fused = draw(1, 3), draw.of(True, False)
    inputs = {"x": draw.array(batch, tokens, width)}
    shape = tuple(draw.of(1, n, n) for n in (batch, heads, config.get("latent_len", 1), tokens))
    if draw.of(True, True, False):
        bits = draw.bits(*shape)
        lowest = draw.of(np.finfo(np.float64).min, -np.inf if fused else -1e30)  # else a row of them is NaN
        inputs["attn_mask"] = draw.of(bits, draw.array(*shape), np.where(bits, draw.array(*shape), lowest))
    live = {**config, "act_layer": ACTIVATIONS[config.get("act_layer", "gelu")]}
    live["norm_layer"] = NORMS[config["norm_layer"]] if "norm_layer" in config else None
    module = attention_pool.AttentionPoolLatent(**live)
    module.fused_attn = fused
    return (
        "timm",
        "AttentionPoolLatent",
        config,
        module,
        inputs,
        draw.of({}, {"fused_attn": True}) if fused else {"fused_attn": False},
    )


def open_clip_pooler(draw: Draw) -> Made:
    heads = draw.of(*HEADS)
    width = heads * draw(1, 4)
    config = {"d_model": width, "context_dim": draw.of(width, draw(1, 9)), "n_head": heads, "n_queries": draw(1, 5)}
    if draw.of(True, False):
        config["norm_eps"] = draw.of(1e-6, 0.01)
    norm = partial(LayerNorm, eps=config.get("norm_eps", 1e-5))
    module = AttentionalPooler(**{k: v for k, v in config.items() if k != "norm_eps"}, norm_layer=norm)
    x = draw.array(draw(1, 3), draw(1, 6), config["context_dim"])
    return "open-clip", "AttentionalPooler", config, module, {"x": x}, {}


def _siglip(draw: Draw, config_class: Any, head: Any, masked: bool) -> Made:
    heads = draw.of(*HEADS)
    config = {"num_attention_heads": heads, "hidden_size": heads * draw(1, 4), "intermediate_size": draw(1, 9)}
    if draw.of(True, False):
        config |= {"hidden_act": draw.of("gelu", "relu", "silu", "quick_gelu"), "layer_norm_eps": draw.of(1e-5, 0.01)}
    config["attn_implementation"] = draw.of("eager", "sdpa")
    batch, tokens = draw(1, 3), draw(1, 6)
    inputs = {"hidden_state": draw.array(batch, tokens, config["hidden_size"])}
    if masked and draw.of(True, True, False):
        inputs["attention_mask"] = draw.bits(batch, tokens).astype(draw.of("int64", "bool"))
    return "siglip", head.__name__, config, head(config_class(**config)), inputs, {}


def siglip(draw: Draw) -> Made:
    return _siglip(draw, SiglipVisionConfig, modeling_siglip.SiglipMultiheadAttentionPoolingHead, False)


def siglip2(draw: Draw) -> Made:
    return _siglip(draw, Siglip2VisionConfig, modeling_siglip2.Siglip2MultiheadAttentionPoolingHead, True)


def _kosmos(draw: Draw, config_class: Any, projection: Any) -> Made:
    heads = draw.of(*HEADS)
    config = {
        "text_config": {"embed_dim": heads * draw(1, 4), "attention_heads": heads},
        "vision_config": {"hidden_size": draw(1, 9)},
        "latent_query_num": draw(1, 5),
        "attn_implementation": draw.of("eager", "sdpa"),
    }
    made = config_class(**config)
    made.text_config._attn_implementation = config["attn_implementation"]
    x = draw.array(draw(1, 3), draw(1, 6), config["vision_config"]["hidden_size"])
    return "kosmos2", projection.__name__, config, projection(made), {"features": x}, {}


def kosmos2(draw: Draw) -> Made:
    return _kosmos(draw, Kosmos2Config, modeling_kosmos2.Kosmos2ImageToTextProjection)


def kosmos2_5(draw: Draw) -> Made:
    return _kosmos(draw, Kosmos2_5Config, modeling_kosmos2_5.Kosmos2_5ImageToTextProjection)


def aria(draw: Draw) -> Made:
    heads, patches = draw.of(*HEADS), draw(1, 6)
    config = {
        "vision_config": {
            "model_type": "idefics3_vision",
            "hidden_size": heads * draw(1, 4),
            "num_attention_heads": heads,
        },
        "text_config": {
            "model_type": "aria_text",
            "hidden_size": 2 * draw(1, 4),
            "num_attention_heads": 1,
            "num_key_value_heads": 1,
        },
        "projector_patch_to_query_dict": {str(patches): draw(1, 4), "11": draw(1, 5)},
    }
    batch = draw(1, 3)
    inputs = {"key_value_states": draw.array(batch, patches, config["vision_config"]["hidden_size"])}
    if draw.of(True, True, False):
        bits = ~draw.bits(batch, patches)
        bits[:, draw(0, patches - 1)] = False  # a row without any patch is NaN
        inputs["attn_mask"] = draw.of(bits, draw.array(batch, patches))
    module = Heads(modeling_aria.AriaProjector(AriaConfig(**config)))
    return "aria", "AriaProjector", config, module, inputs, {}


class Heads(torch.nn.Module):
    """AriaProjector, whose eval-time masks are repeated for heads inside."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module

    def forward(self, **arguments: Any) -> Any:
        return self.module(**arguments)


def _speech(draw: Draw, peer: str, cls: Any) -> Made:
    tokens, dim = draw(1, 6), draw(2, 9)
    config: dict[str, Any] = {"dim": dim, **_layers(draw), "num_latents": draw(1, 5), "ff_mult": draw.of(1, 2, 2.5, 4)}
    config |= draw.of({}, {"dim_context": draw(1, 9)}, {"dim_context": dim})
    config |= draw.of({}, {"use_flash_attn": True})
    batch = draw(1, 3)
    inputs = {"x": draw.array(batch, tokens, config.get("dim_context", dim))}
    if draw.of(True, True, False):
        inputs["mask"] = draw.bits(batch, config["num_latents"] + tokens)
    return peer, "PerceiverResampler", config, cls(**config), inputs, {}


def xtts_resampler(draw: Draw) -> Made:
    return _speech(draw, "xtts", xtts.PerceiverResampler)


def naturalspeech2_resampler(draw: Draw) -> Made:
    return _speech(draw, "naturalspeech2", naturalspeech.PerceiverResampler)


def chatterbox_block(draw: Draw) -> Made:
    heads, wide, flash = draw.of(*HEADS), draw(1, 4), draw.of(True, True, False)
    config: dict[str, Any] = {"channels": heads * wide, "flash_attention": flash}
    config |= draw.of({"num_heads": heads}, {"num_head_channels": wide})
    config |= draw.of({}, {"scale": 0.7}) | draw.of({}, {"relative_pos_embeddings": True})
    batch, length = draw(1, 3), draw(1, 5)
    others = draw(1, 6) if flash else length
    inputs = {"x1": draw.array(batch, length, heads * wide), "x2": draw.array(batch, others, heads * wide)}
    shape = (batch, heads, length, others) if flash else (batch, heads, wide, wide)
    shape = tuple(draw.of(1, n, n) for n in shape)[draw(0, 2) :]
    if draw.of(True, True, False):
        bits = draw.bits(*shape)
        if not flash:
            bits[..., draw(0, shape[-1] - 1)] = True  # a row without any channel is NaN
        inputs["mask"] = (
            draw.of(bits, draw.array(*shape), np.where(bits, 0.0, -np.inf))
            if flash
            else bits.astype(draw.of("int64", "bool", "float64"))
        )
    return "chatterbox", "AttentionBlock2", config, chatterbox.AttentionBlock2(**config), inputs, {}


def chatterbox_perceiver(draw: Draw) -> Made:
    heads = draw.of(*HEADS)
    width = heads * draw(1, 4)
    config = {"pre_attention_query_token": draw(1, 5), "pre_attention_query_size": width}
    config |= {"embedding_dim": width, "num_attn_heads": heads}
    h = draw.array(draw(1, 3), draw(1, 6), width)
    return "chatterbox", "Perceiver", config, chatterbox.Perceiver(**config), {"h": h}, {}


KINDS: tuple[Callable[[Draw], Made], ...] = (
    ip_adapter_attention,
    ip_adapter_resampler,
    diffusers_plus,
    diffusers_face,
    diffusers_time,
    timm_pool,
    open_clip_pooler,
    siglip,
    siglip2,
    kosmos2,
    kosmos2_5,
    aria,
    xtts_resampler,
    naturalspeech2_resampler,
    chatterbox_block,
    chatterbox_perceiver,
)


def randomise(module: Any, seed: int, gain: float) -> None:
    """Random weights with which no part is idle, in place: scales near 1, biases of 0.2, maps that keep sizes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in module.named_parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))
            if re.search(r"norm|\.ln|^ln_|ln_[qk]|\.0\.weight$|gamma", name) and p.ndim == 1:
                p.mul_(0.2).add_(1.0 if name.endswith(("weight", "gamma")) else 0.0)
            elif p.ndim == 1:
                p.mul_(0.2)
            elif not re.search(r"latent|query$|probe|pos_emb", name):
                p.mul_(gain / p.shape[-1] ** 0.5)


def case(made: Made, seed: int) -> Case:
    """What the live module computes from random weights and cotangents: outputs, gradients and trace points."""
    name, cls, config, module, inputs, call = made
    module = module.double().eval()
    inner = getattr(module, "module", module)
    randomise(inner, seed, 0.7 if name in ("xtts", "naturalspeech2") else 1.2)
    params = dict(inner.named_parameters())
    arguments = {key: torch.from_numpy(array.copy()) for key, array in inputs.items()}
    floats = {key: t.requires_grad_() for key, t in arguments.items() if t.is_floating_point()}
    options = {key: value for key, value in call.items() if key != "fused_attn"}
    with float64_throughout(), hooked(inner) as traced:
        found = module(**arguments, **options)
    several = isinstance(found, tuple)
    outputs = {f"out{i}": out for i, out in enumerate(found) if out is not None} if several else {"out": found}
    rng = np.random.default_rng(seed)
    cotangents = {key: rng.standard_normal(tuple(out.shape)) for key, out in outputs.items()}
    sum((out * torch.from_numpy(cotangents[key])).sum() for key, out in outputs.items()).backward()
    return Case(
        {"peer": name, "class": cls, "config": config, "call": call, "dtype": "float64"},
        params={key: p.detach().numpy() for key, p in params.items()},
        inputs=inputs,
        outputs={key: out.detach().numpy().copy() for key, out in outputs.items()},
        cotangents=cotangents,
        grad_params={key: gradient(p) for key, p in params.items()},
        grad_inputs={key: gradient(t) for key, t in floats.items()},
        trace=traced,
    )


def gradient(tensor: Any) -> np.ndarray:
    return np.zeros(tuple(tensor.shape)) if tensor.grad is None else tensor.grad.numpy()
