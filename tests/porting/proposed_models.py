"""Small models of ours whose configurations are to be found again from a case that does not hold them."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
from porting.port_variants import Style, Variant, variant

from perceiver_ref.autograd import tree
from perceiver_ref.models.conventions import AUTOREGRESSIVE, DIALECTS, FLAMINGO
from perceiver_ref.peers import Given, peer
from perceiver_ref.porting.cases import Case
from perceiver_ref.porting.cases.execution import run

Config = dict[str, Any]


def conventions(base: Any, **options: Any) -> Config:
    return {"type": "Conventions", **vars(replace(base, **options))}


HF = conventions(DIALECTS["hf"], masked_rows="zero", free_widths=True)
TANH = {**HF, "activation": "gelu_tanh"}
ENCODER: Config = {"type": "Encoder", "inputs": 7, "latents": 5, "channels": 12, "layers": 2, "cross_heads": 1,
                   "self_heads": 3, "qk_channels": 7, "v_channels": 7,
                   "self_qk_channels": 12, "self_v_channels": 12, "cross_widening": 1, "self_widening": 2,
                   "conventions": HF}  # fmt: skip


def queries(size: int, channels: int) -> Config:
    positions = {"type": "TrainablePositions", "size": size, "channels": channels}
    return {"type": "PositionQueries", "positions": positions, "index_dims": [size]}


DECODER: Config = {"type": "Decoder", "latent_channels": 12, "query_channels": 10,
                   "queries": queries(4, 10), "outputs": 3,
                   "heads": 2, "qk_channels": 10, "v_channels": 10, "conventions": HF}  # fmt: skip
FLOATS: dict[str, tuple[int, ...]] = {"inputs": (2, 9, 7)}
MODELS: dict[str, tuple[Config, dict[str, tuple[int, ...]], Config]] = {
    "encoder": ({"type": "PerceiverIO", "encoder": ENCODER}, FLOATS, {}),
    "wider heads": ({"type": "PerceiverIO", "encoder": {**ENCODER, "self_heads": 2, "self_widening": 4}}, FLOATS, {}),
    "tanh": ({"type": "PerceiverIO", "encoder": {**ENCODER, "self_heads": 4, "conventions": TANH}}, FLOATS, {}),
    "decoder": ({"type": "PerceiverIO", "encoder": ENCODER, "decoder": DECODER}, FLOATS, {}),
    "mean": (
        {
            "type": "PerceiverIO",
            "encoder": ENCODER,
            "decoder": {"type": "ProjectionDecoder", "latent_channels": 12, "outputs": 3},
        },
        FLOATS,
        {},
    ),
    "classes": (
        {
            "type": "PerceiverIO",
            "encoder": ENCODER,
            "decoder": {**DECODER, "type": "ClassificationDecoder", "queries": queries(1, 10), "outputs": 6},
        },
        FLOATS,
        {},
    ),
    "resampler": (
        {
            "type": "PerceiverResampler",
            "channels": 12,
            "latents": 5,
            "layers": 2,
            "heads": 3,
            "head_channels": 4,
            "widening": 2,
            "conventions": conventions(FLAMINGO, activation="gelu_erf"),
        },
        {"features": (2, 1, 1, 9, 12)},
        {},
    ),
    "gated": (
        {
            "type": "GatedCrossAttention",
            "channels": 10,
            "media_channels": 7,
            "heads": 2,
            "head_channels": 4,
            "widening": 3,
            "gate": "scalar",
            "conventions": conventions(FLAMINGO, activation="gelu_erf"),
        },
        {"text": (2, 8, 10), "media": (2, 1, 9, 7)},
        {},
    ),
    "gated vector": (
        {
            "type": "GatedCrossAttention",
            "channels": 8,
            "media_channels": 7,
            "heads": 2,
            "head_channels": 4,
            "widening": 4,
            "gate": "vector",
            "conventions": conventions(FLAMINGO),
        },
        {"text": (2, 9, 8), "media": (2, 1, 5, 7)},
        {},
    ),
    "autoregressive": (
        {
            "type": "PerceiverAR",
            "vocabulary": 17,
            "length": 11,
            "latents": 4,
            "channels": 12,
            "layers": 2,
            "cross_heads": 2,
            "self_heads": 3,
            "cross_widening": 2,
            "self_widening": 2,
            "position_table": True,
            "conventions": conventions(AUTOREGRESSIVE, activation="gelu_erf"),
        },
        {"ids": (2, 9)},
        {"prefix": 5},
    ),
}


def made(name: str, *, traced: bool = True, style: Style | None = None, seed: int = 0) -> tuple[Case, Config]:
    """A port of the model, which does not say what it is, and the configuration."""
    return port(name, traced=traced, style=style, seed=seed).port, MODELS[name][0]


def port(
    name: str,
    *,
    traced: bool = True,
    graded: bool = False,
    style: Style | None = None,
    seed: int = 0,
    without: str = "(?!)",
    fresh: bool = False,
) -> Variant:
    """A port of the model, with gradients where `graded`; biases `without` are 0 and the port does not have them.

    `fresh`: as before training, biases and offsets are 0 and scales 1.
    """
    config, shapes, call = MODELS[name]
    rng = np.random.default_rng(seed)
    inputs = {
        n: rng.integers(0, config["vocabulary"], shape) if n == "ids" else rng.standard_normal(shape)
        for n, shape in shapes.items()
    }
    given = Given({k: v for k, v in config.items() if k != "type"}, shapes, {}, call)
    rebuilt = peer("perceiver-ref").rebuild(config["type"], given)
    params, absent = {}, set()
    for path, parameter in tree.flatten(rebuilt.model.parameters()).items():
        values = rng.standard_normal(parameter.shape)
        plain = 0.0 if fresh else 0.3
        weight = path.endswith(("weight", "table", "latents", "embedding"))
        params[path] = values / np.sqrt(parameter.shape[0]) if weight else plain * values + path.endswith("scale")
        if re.search(without, path):
            params[path] = np.zeros(parameter.shape)
            absent.add(path)
    ours = run(rebuilt, params, inputs, call, points=lambda point: True if traced else None)
    meta: Config = {"peer": "perceiver-ref", "class": config["type"], "dtype": "float64", "call": call, "tied": {},
                    "tolerance": {}, "config": {k: v for k, v in config.items() if k != "type"}}  # fmt: skip
    case = Case(meta, params, inputs=inputs, outputs=dict(ours.outputs))
    case.trace = {n: a for n, a in ours.trace.items() if traced and isinstance(a, np.ndarray) and a.size}
    if graded:
        case.cotangents = {n: rng.standard_normal(a.shape) for n, a in case.outputs.items()}
        graded_run = run(rebuilt, params, inputs, call, cotangents=case.cotangents)
        case.grad_params, case.grad_inputs = graded_run.grad_params, graded_run.grad_inputs
    return variant(case, style or Style(matrices="transposed"), seed, absent)


def wrong(config: Config, proposed: Config, undecided: dict[str, list[Any]], where: str = "") -> list[str]:
    """The fields that are proposed otherwise and are not said to be undecided."""
    found = []
    for key, value in config.items():
        path = f"{where}.{key}".removeprefix(".")
        if isinstance(value, dict):
            found += wrong(value, proposed.get(key) or {}, undecided, path)
        elif proposed.get(key, value) != value:
            short = path if "conventions" not in path else f"conventions.{key}"
            if short not in undecided and key not in ("grid", "subsampling", "masked_rows", "free_widths"):
                found.append(f"{path}: {proposed.get(key)}, not {value}")
    return found
