"""EdgeTAM, Aurora, perceiver-ar-pytorch and NeMo, run live: cases of the vector format, in float64.

Each function draws a configuration and inputs of one class; what it needs is imported when it is called.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import torch
from heavy.draw import Draw, Made, gradient, left_out
from heavy.hooks import hooked

from perceiver_ref.porting.cases import Case

torch.set_num_threads(1)  # for arrays this small
NEEDS = {
    "edgetam": "transformers.models.edgetam_video.modeling_edgetam_video",
    "aurora": "aurora.model.perceiver",
    "perceiver_ar": "perceiver_ar_pytorch",
    "nemo": "nemo.collections.asr.modules.transformer.perceiver_encoders",
}
"""The module that each function needs."""


def edgetam(draw: Draw) -> Made:
    live = import_module(NEEDS["edgetam"])
    side, size = draw.of(0, 1, 2, 3), draw(1, 3)
    count, batch = draw(1, 3), draw(1, 3) if side < 2 else 1
    config: dict[str, Any] = {
        "num_latents": draw(0 if side else 1, 4),
        "num_latents_2d": side * side,
        "hidden_size": 4 * draw(1, 3) if side else draw(2, 9),
        "mlp_intermediate_size": draw(1, 9),
        "num_attention_heads": count,
        "attention_head_dim": draw(1, 5),
        "num_layers": draw(0, 3),
    }
    height = side * size if side else draw(1, 4)
    width = draw((side - 1) * size + 1, side * size) if side else draw(1, 4)
    inputs = {"hidden_states": draw.array(batch, config["hidden_size"], height, width)}
    if draw.of(True, False):
        inputs["positional_encoding"] = draw.array(batch, count * config["attention_head_dim"], height, width)
    config = {f"perceiver_resampler_{name}": value for name, value in left_out(draw, config, "num_layers").items()}
    config["attn_implementation"] = draw.of("eager", "sdpa")
    made = live.EdgeTamVideoPerceiverResampler(live.EdgeTamVideoConfig(**config))
    return "edgetam", "EdgeTamVideoPerceiverResampler", config, made, inputs, {}


def aurora(draw: Draw) -> Made:
    live = import_module(NEEDS["aurora"])
    config = {
        "latent_dim": draw(2, 9),
        "context_dim": draw(1, 9),
        "depth": draw(0, 3),
        "head_dim": draw(1, 5),
        "num_heads": draw(1, 5),
        "mlp_ratio": draw.of(1, 1.5, 4.0),
        "residual_latent": draw.of(True, False),
        "ln_eps": draw.of(1e-5, 1e-2),
        "ln_k_q": draw.of(True, False),
    }
    config = left_out(draw, config, "depth", "mlp_ratio", "residual_latent", "ln_eps", "ln_k_q")
    batch = draw(1, 3)
    inputs = {
        "latents": draw.array(batch, draw(1, 5), config["latent_dim"]),
        "x": draw.array(batch, draw(1, 6), config["context_dim"]),
    }
    return "aurora", "PerceiverResampler", config, live.PerceiverResampler(**config), inputs, {}


def perceiver_ar(draw: Draw) -> Made:
    live = import_module(NEEDS["perceiver_ar"])
    prefix = draw(1, 4)
    length, tokens, batch = prefix + draw(1, 5), draw(4, 11), draw(1, 3)
    config = {
        "num_tokens": tokens,
        "dim": draw(2, 8),
        "depth": draw(0, 3),
        "max_seq_len": length + draw(0, 2),
        "cross_attn_seq_len": prefix,
        "dim_head": draw.of(32, 33, 35, 64, 66, 70, 75),
        "heads": draw(1, 4),
        "ff_mult": draw.of(1, 2.5, 4),
        "perceive_depth": draw(0, 3),
        "perceive_max_heads_process": draw(1, 3),
    }
    optional = ("dim_head", "heads", "ff_mult", "perceive_depth", "perceive_max_heads_process")
    config = left_out(draw, config, *optional)
    inputs = {"x": draw.generator.integers(0, tokens, (batch, length))}
    if draw.of(True, False):  # of the prefix, of less, or of the latents' own keys too
        inputs["prefix_mask"] = draw.bits(batch, draw.of(prefix, draw(0, prefix), length))
    if draw.of(True, False, False):
        inputs["labels"] = draw.generator.integers(0, tokens, (batch, length))
        inputs["labels"][0, -1] = 1  # the mean over no labels at all is NaN
    return "perceiver-ar-pytorch", "PerceiverAR", config, live.PerceiverAR(**config), inputs, {}


def nemo(draw: Draw) -> Made:
    live = import_module(NEEDS["nemo"])
    heads = draw(1, 3)
    config = {
        "num_layers": draw(1, 3),
        "hidden_size": heads * draw(1, 4),
        "inner_size": draw(1, 9),
        "mask_future": draw.of(True, False),
        "num_attention_heads": heads,
        "hidden_act": draw.of("relu", "gelu"),
        "pre_ln": draw.of(True, False),
        "pre_ln_final_layer_norm": draw.of(True, False),
        "hidden_steps": draw(1, 5),
        "hidden_init_method": draw.of("default", "params", "bridge"),
        "hidden_blocks": draw(0, 3),
    }
    optional = ("mask_future", "hidden_act", "pre_ln", "pre_ln_final_layer_norm", "hidden_init_method", "hidden_blocks")
    config = left_out(draw, config, *optional)
    batch, length = draw(1, 3), draw(1, 7)
    inputs = {
        "encoder_states": draw.array(batch, length, config["hidden_size"]),
        "encoder_mask": draw.bits(batch, length).astype(draw.of("int64", "bool", "int32")),
    }
    return "nemo", "PerceiverEncoder", config, live.PerceiverEncoder(**config), inputs, {}


KINDS: tuple[Callable[[Draw], Made], ...] = (edgetam, aurora, perceiver_ar, nemo)


def randomise(module: Any, seed: int) -> None:
    """Random weights with which no part is idle: norms near 1, logits of a deviation above 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in module.modules():
            for name, p in part.named_parameters(recurse=False):
                p.normal_(generator=generator)
                if p.ndim == 2 and isinstance(part, torch.nn.Linear):
                    p.mul_(1.5 / p.shape[1] ** 0.5)
                elif p.ndim == 1:
                    p.mul_(0.2).add_(1.0 if isinstance(part, torch.nn.LayerNorm) and name == "weight" else 0.0)


def case(made: Made, seed: int) -> Case:
    """What the live module computes from random weights and cotangents: outputs, gradients and trace points."""
    name, cls, config, module, inputs, call = made
    module = module.double().eval()
    randomise(module, seed)
    params = dict(module.named_parameters())
    arguments = {key: torch.from_numpy(array.copy()) for key, array in inputs.items()}
    floats = {key: t.requires_grad_() for key, t in arguments.items() if t.is_floating_point()}
    with hooked(module) as traced:
        out = module(**arguments, **call)
    parts = {f"out{i}": t for i, t in enumerate(out) if t is not None} if isinstance(out, tuple) else {"out": out}
    differentiable = {key: t for key, t in parts.items() if t.requires_grad}
    rng = np.random.default_rng(seed)
    cotangents = {key: np.asarray(rng.standard_normal(tuple(t.shape))) for key, t in differentiable.items()}
    torch.autograd.backward(list(differentiable.values()), [torch.from_numpy(c) for c in cotangents.values()])
    unknown = r"perceive_layers\.\d+\.0\.dropout"  # of some heads at a time
    return Case(
        {"peer": name, "class": cls, "config": config, "call": call, "dtype": "float64"},
        params={key: p.detach().numpy() for key, p in module.state_dict().items()},
        inputs=inputs,
        outputs={key: t.detach().numpy() for key, t in parts.items()},
        cotangents=cotangents,
        grad_params={key: gradient(p) for key, p in params.items()},
        grad_inputs={key: gradient(t) for key, t in floats.items()},
        trace={key: array for key, array in traced.items() if not re.match(unknown, key)},
    )
