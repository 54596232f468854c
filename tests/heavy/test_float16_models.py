"""Whole models in float16: as near to float64 as the live peers in `.half()` are, outputs and gradients."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

pytest.importorskip("perceiver_pytorch", reason="needs the extra: perceiver-ref[peers]")
pytest.importorskip("flamingo_pytorch", reason="needs the extra: perceiver-ref[peers]")
import perceiver_pytorch
import torch
from flamingo_pytorch import GatedCrossAttentionBlock, PerceiverResampler
from heavy import flamingo_configurations as flamingo
from transformers import PerceiverConfig, PerceiverModel

from perceiver_ref.porting import check_case
from perceiver_ref.porting.cases import Case
from perceiver_ref.porting.cases.execution import rebuild, run

pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("ignore")]
Arrays = dict[str, np.ndarray]

SIZES = {"dim": 64, "dim_head": 32, "heads": 4}
PERCEIVER = {
    "num_freq_bands": 6,
    "depth": 2,
    "max_freq": 10.0,
    "input_channels": 5,
    "input_axis": 2,
    "num_latents": 12,
    "latent_dim": 48,
    "cross_heads": 2,
    "latent_heads": 4,
    "cross_dim_head": 16,
    "latent_dim_head": 12,
    "num_classes": 10,
}
HF = {
    "num_latents": 12,
    "d_latents": 48,
    "d_model": 40,
    "num_blocks": 1,
    "num_self_attends_per_block": 3,
    "num_self_attention_heads": 4,
    "num_cross_attention_heads": 2,
    "attention_probs_dropout_prob": 0.0,
}


def hot(x: np.ndarray, level: float) -> np.ndarray:
    """One channel at a level, as trained vision models have them."""
    x[..., 3] = level
    return x


def drawn(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).standard_normal(shape)


MODELS: Mapping[str, Callable[[], tuple[str, str, Any, Any, Arrays]]] = {
    "flamingo resampler, one channel at 400": lambda: (
        *("lucidrains-flamingo", "PerceiverResampler", {**SIZES, "depth": 2, "num_latents": 16, "num_media_embeds": 4}),
        PerceiverResampler(**SIZES, depth=2, num_latents=16, num_media_embeds=4),
        {"x": hot(drawn(2, 2, 50, 64), 400.0)},
    ),
    "flamingo resampler, small": lambda: (
        *("lucidrains-flamingo", "PerceiverResampler", {**SIZES, "depth": 3, "num_latents": 16, "num_media_embeds": 4}),
        PerceiverResampler(**SIZES, depth=3, num_latents=16, num_media_embeds=4),
        {"x": 1e-3 * drawn(2, 2, 50, 64)},
    ),
    "flamingo gated block, one channel at 400": lambda: (
        *("lucidrains-flamingo", "GatedCrossAttentionBlock", SIZES),
        GatedCrossAttentionBlock(**SIZES),
        {"x": hot(drawn(2, 9, 64), 400.0), "media": hot(drawn(2, 3, 16, 64), -300.0)},
    ),
    "perceiver": lambda: (
        *("lucidrains-perceiver", "Perceiver", PERCEIVER),
        perceiver_pytorch.Perceiver(**PERCEIVER),
        {"data": hot(drawn(2, 12, 12, 5), 100.0)},
    ),
    "transformers, one channel at 300": lambda: (
        *("hf", "PerceiverModel", {"config": HF}),
        PerceiverModel(PerceiverConfig(**HF)),
        {"inputs": hot(drawn(2, 60, 40), 300.0)},
    ),
}


def computed(module: Any, inputs: Arrays, dtype: Any, cotangent: np.ndarray | None = None) -> tuple[Arrays, Arrays]:
    """The peer's output, and its gradients by name, computed in a dtype."""
    module = copy.deepcopy(module).to(dtype)
    given = {key: torch.from_numpy(x).to(dtype).requires_grad_() for key, x in inputs.items()}
    out = module(**given)
    out = out.last_hidden_state if hasattr(out, "last_hidden_state") else out
    name = "last_hidden_state" if isinstance(module, PerceiverModel) else "out"
    if cotangent is None:
        cotangent = np.random.default_rng(0).standard_normal(tuple(out.shape)).astype(np.float16)
    (out * torch.from_numpy(cotangent).to(dtype)).sum().backward()
    named = {**dict(module.named_parameters()), **given}
    gradients = {key: t.grad.double().numpy() for key, t in named.items() if t.grad is not None}
    return {name: out.detach().double().numpy()}, gradients


def error(made: Arrays, exact: Arrays) -> float:
    """The root of the mean square, over all arrays, of errors relative to an array's scale (that of all, if larger).

    Gradients that are zero but for rounding, such as the keys' biases', have no scale of their own.
    """
    scales = {key: float(abs(x).max()) for key, x in exact.items()}
    least = 1e-3 * max(scales.values())
    errors = [((np.asarray(made[k], float) - x) / max(scales[k], least)).ravel() for k, x in exact.items()]
    return float(np.sqrt(np.square(np.concatenate(errors)).mean()))


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_as_near_to_float64_as_the_peer_in_half(name: str, seed: int) -> None:
    peer, cls, config, module, inputs = MODELS[name]()
    flamingo.randomise(module, seed)
    module = module.half().eval()
    inputs = {key: x.astype(np.float16) for key, x in inputs.items()}
    exact, slopes = computed(module, inputs, torch.float64)
    theirs, their_slopes = computed(module, inputs, torch.float16)
    cotangent = np.random.default_rng(0).standard_normal(next(iter(exact.values())).shape).astype(np.float16)
    key = next(iter(exact))
    case = Case(
        {"peer": peer, "class": cls, "config": config, "call": {}, "dtype": "float16"},
        params={k: p.detach().numpy() for k, p in module.state_dict().items()},
        inputs=inputs,
        outputs={key: theirs[key].astype(np.float16)},
        cotangents={key: cotangent},
    )
    rebuilt, arrays = rebuild(case)
    made = run(rebuilt, arrays, inputs, {}, cotangents={key: cotangent}, dtype=np.float16)
    grads = made.grad_params | made.grad_inputs
    print(f"\n{name}: outputs {error(made.outputs, exact):.1e} (theirs {error(theirs, exact):.1e}),", end=" ")
    print(f"gradients {error(grads, slopes):.1e} (theirs {error(their_slopes, slopes):.1e})")
    # both round from op to op, but not at the same places: as near as the peer but for chance
    assert error(made.outputs, exact) <= 1.3 * error(theirs, exact)
    assert error(grads, slopes) <= 1.3 * error(their_slopes, slopes)
    assert check_case(case).status == "pass"
