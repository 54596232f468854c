"""The small models that deviations are planted in: peers' classes, configurations, inputs and traced points."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from mutants import deepmind

Arrays = dict[str, np.ndarray]
HF = ("transformers.models.perceiver.modeling_perceiver",)
LUCIDRAINS = ("perceiver_pytorch.perceiver_pytorch", "perceiver_pytorch.perceiver_io")
FLAMINGO = ("flamingo_pytorch.flamingo_pytorch",)
OPEN_FLAMINGO = ("mutants.open_flamingo",)
IDEFICS_RESAMPLER = ("transformers.models.idefics.perceiver",)
IDEFICS_GATED = ("transformers.models.idefics.modeling_idefics",)
IDEFICS2 = ("transformers.models.idefics2.modeling_idefics2",)
DEEPMIND = ("mutants.deepmind_layers", "mutants.deepmind")

VERSIONS = {
    "hf": "transformers 5.23.0, torch 2.13.0+cpu",
    "lucidrains-perceiver": "perceiver-pytorch 0.11.0, torch 2.13.0+cpu",
    "lucidrains-flamingo": "flamingo-pytorch 0.1.2, torch 2.13.0+cpu",
    "open-flamingo": "open_flamingo 2.0.1 (src/helpers.py), torch 2.13.0+cpu",
    "idefics": "transformers 5.23.0, torch 2.13.0+cpu",
    "idefics2": "transformers 5.23.0, torch 2.13.0+cpu",
    "deepmind": "deepmind-research@f5de0ed; jax 0.10.2; dm-haiku 0.0.17",
}
TRACED = {
    "hf": r"(input_preprocessor(\.modalities\.\w+)?(\.(position_embeddings|convnet))?|embeddings|encoder"
    r"(\.cross_attention|\.self_attends\.\d+)?|decoder(\.decoder)?(\.decoding_cross_attention)?|decoder.*\.output_position_encodings)$",
    "lucidrains-perceiver": r"(layers\.\d+(\.cross_attn|\.cross_ff|\.self_attns\.\d+\.\d+)?|cross_attend_block"
    r"(\.cross_attn|\.cross_ff)?|decoder_cross_attn|decoder_ff)$",
    "lucidrains-flamingo": r"(layers\.\d+\.[01]|norm|attn|ff)$",
    "open-flamingo": r"(layers\.\d+\.[01]|norm|attn|ff)$",
    "idefics": r"(blocks\.\d+\.[01]|layer_norm|input_layernorm|cross_attn|post_attention_layernorm|mlp)$",
    "idefics2": r"(layers\.\d+(\.self_attn|\.mlp)?|norm)$",
    "deepmind": r"$^",  # its stand-in records its own points
}
"""Paths of the modules whose outputs a case of the peer traces (transformers' `perceiver.` before them is allowed)."""


@dataclass(frozen=True)
class Model:
    """One small model of a peer."""

    name: str
    peer: str
    modules: tuple[str, ...]
    cls: str
    config: Mapping[str, Any]
    inputs: Callable[[np.random.Generator], Arrays]
    call: Mapping[str, Any] = field(default_factory=dict)
    literal: tuple[tuple[str, str, str], ...] = ()
    outputs: tuple[str, ...] = ()
    hidden_call: Mapping[str, Any] = field(default_factory=dict)
    shape: tuple[int, ...] = ()

    @property
    def path(self) -> str:
        """The class as the cases' meta names it."""
        if self.peer == "deepmind":
            return self.cls
        module = "open_flamingo.src.helpers" if self.peer == "open-flamingo" else self.modules[-1]
        if self.peer == "lucidrains-perceiver" and self.cls == "Perceiver":
            module = self.modules[0]
        return f"{module}.{self.cls}"


def build(model: Model, space: Mapping[str, Any]) -> nn.Module:
    """The model from the classes of `space` (a rebuilt source), its modules marked with where they stand."""
    made = BUILDERS[model.peer](model, space).double().eval()
    made.recorded = space.get("TRACE", {})  # a stand-in records its own points
    for path, module in made.named_modules():
        module.where = _where(path)
        module.path = path
    return made


def _where(path: str) -> str:
    if "decod" in path:
        return "decoder"
    if "self_att" in path or re.match(r"layers\.\d+\.self_attns", path):
        return "self"
    return "cross" if "cross" in path else "first" if re.match(r"(layers|blocks)\.0", path) else ""


def randomise(model: Model, module: nn.Module, rng: np.random.Generator) -> Arrays:
    """Random parameters and buffers in place, none of them idle; returned by name."""
    weights, biases = (0.3, 0.1) if model.peer == "deepmind" else (0.35, 0.2)
    drawn_at: set[int] = set()
    state = named_state(model, module)
    with torch.no_grad():
        for name, tensor in state.items():
            if not tensor.dtype.is_floating_point or tensor.data_ptr() in drawn_at:  # a tied one has been drawn
                continue
            drawn_at.add(tensor.data_ptr())
            tensor.copy_(torch.from_numpy(np.asarray(_drawn(name, tuple(tensor.shape), rng, weights, biases))))
    return {name: tensor.detach().numpy().copy() for name, tensor in state.items()}


def _drawn(name: str, shape: tuple[int, ...], rng: np.random.Generator, weights: float, biases: float) -> Any:
    last, drawn = re.split(r"[./]", name)[-1], rng.standard_normal(shape)
    if "gate" in last or last.startswith("alpha"):
        return 0.5 + 0.15 * drawn
    if last == "running_var":
        return 1 + 0.3 * np.abs(drawn)
    if last == "scale" or (last == "weight" and len(shape) == 1):
        return 1 + biases * drawn
    if last in ("bias", "b", "offset", "running_mean"):
        return biases * drawn
    if re.search("latents|pos_emb|position_emb|time_embs|frame_embs|token_emb|embeddings.weight", name):
        return 0.6 * drawn if weights > 0.3 else weights * drawn
    return weights * drawn


# ---------------------------------------------------------------------------------------------------------- builders


def _hf(model: Model, space: Mapping[str, Any]) -> nn.Module:
    from transformers import PerceiverConfig

    config = PerceiverConfig(**model.config["config"])
    if model.cls != "PerceiverModel":
        return space[model.cls](config)

    def component(spec: Any) -> Any:
        if spec is None:
            return None
        cls, kwargs = space[spec["class"]], dict(spec.get("kwargs", {}))
        if "modalities" in kwargs:
            kwargs["modalities"] = {name: component(part) for name, part in kwargs["modalities"].items()}
        free = ("PerceiverProjectionPostprocessor", "PerceiverMultimodalP")
        takes_config = spec["class"] != free[0] and not spec["class"].startswith(free[1])
        return cls(config, **kwargs) if takes_config else cls(**kwargs)

    parts = ("input_preprocessor", "decoder", "output_postprocessor")
    return space["PerceiverModel"](config, **{part: component(model.config.get(part)) for part in parts})


def _plain(model: Model, space: Mapping[str, Any]) -> nn.Module:
    return space[model.cls](**model.config)


def _idefics(model: Model, space: Mapping[str, Any]) -> nn.Module:
    from transformers import IdeficsConfig

    if model.cls == "IdeficsPerceiverResampler":
        own = dict(model.config)
        norms = own.pop("qk_layer_norms")
        config = IdeficsConfig(
            vision_config={"embed_dim": own["embed_dim"]}, perceiver_config={"qk_layer_norms_perceiver": norms}
        )
        return space[model.cls](config, **own)
    own = {k: v for k, v in model.config.items() if k != "attn_implementation"}
    config = IdeficsConfig(**own)
    config._attn_implementation = "eager"
    return space[model.cls](config, layer_idx=0)


def _idefics2(model: Model, space: Mapping[str, Any]) -> nn.Module:
    from transformers.models.idefics2.configuration_idefics2 import Idefics2PerceiverConfig

    own = dict(model.config)
    implementation = own.pop("attn_implementation", "eager")
    config = Idefics2PerceiverConfig(**own)
    config._attn_implementation = implementation
    return space[model.cls](config)


def _deepmind(model: Model, space: Mapping[str, Any]) -> nn.Module:
    return space["build"](model.config, model.shape)


BUILDERS: dict[str, Callable[[Model, Mapping[str, Any]], nn.Module]] = {
    "hf": _hf,
    "lucidrains-perceiver": _plain,
    "lucidrains-flamingo": _plain,
    "open-flamingo": _plain,
    "idefics": _idefics,
    "idefics2": _idefics2,
    "deepmind": _deepmind,
}


def named_state(model: Model, module: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers by the names that cases store them under."""
    return deepmind.named_state(module) if model.peer == "deepmind" else module.state_dict(keep_vars=True)


def aliases(module: nn.Module) -> dict[str, str]:
    """Names of tied parameters, with the first name of each."""
    first: dict[int, str] = {}
    return {
        name: first[id(p)]
        for name, p in module.named_parameters(remove_duplicate=False)
        if first.setdefault(id(p), name) != name
    }


def load(model: Model, module: nn.Module, state: Mapping[str, np.ndarray]) -> None:
    """Set parameters and buffers, in place."""
    with torch.no_grad():
        for name, tensor in named_state(model, module).items():
            tensor.copy_(torch.from_numpy(np.asarray(state[name])))


Backward = Callable[[dict[str, torch.Tensor], dict[str, torch.Tensor]], None]


def execute(
    model: Model,
    module: nn.Module,
    inputs: Arrays,
    dtype: torch.dtype = torch.float64,
    backward: Backward | None = None,
) -> tuple[Arrays, Arrays]:
    """Outputs by name, and the traced points in the order in which they were reached.

    With `backward` the run is recorded, and it is given the inputs and the outputs, both by name.
    """
    points: dict[str, list[torch.Tensor]] = {}

    def hook(path: str) -> Callable[..., None]:
        def keep(_: Any, __: Any, out: Any) -> None:
            if not torch.is_tensor(out):
                out = out[0] if isinstance(out, tuple) else next(iter(out.values()))
            points.setdefault(path, []).append(out.detach().clone())

        return keep

    named = [(path, part) for path, part in module.named_modules() if not isinstance(part, nn.Embedding)]
    pattern = re.compile(r"(perceiver(_io)?\.)?(" + TRACED[model.peer] + ")")
    hooks = [part.register_forward_hook(hook(path)) for path, part in named if path and pattern.match(path)]
    module.recorded.clear()
    arguments: dict[str, Any] = {}
    given: dict[str, torch.Tensor] = {}
    for key, array in inputs.items():
        tensor = torch.from_numpy(array)
        tensor = tensor.to(dtype) if tensor.dtype.is_floating_point else tensor
        if backward is not None and tensor.dtype.is_floating_point:
            tensor = tensor.clone().requires_grad_()
        given[key] = tensor
        outer, _, inner = key.partition(".")
        if inner:
            arguments.setdefault(outer, {})[inner] = tensor
        else:
            arguments[key] = tensor
    extra: dict[str, Any] = {}
    if model.cls == "IdeficsGatedCrossAttentionLayer":
        extra = _idefics_masks(arguments, model.call["tokens_per_image"])
    for key, value in {**model.call, **model.hidden_call}.items():
        outer, _, inner = key.partition(".")
        if inner:
            arguments.setdefault(outer, {})[inner] = value
    before = torch.get_default_dtype()
    # positions are computed in the default dtype: float32 where the weights are in half precision
    torch.set_default_dtype(torch.float32 if dtype.itemsize < 4 and model.peer != "deepmind" else dtype)
    try:
        with torch.set_grad_enabled(backward is not None):
            out = module(**arguments)
    finally:
        torch.set_default_dtype(before)
        for handle in hooks:
            handle.remove()
    flat = _flat({"out": out, **extra} if extra else out, model.outputs)
    if backward is not None:
        backward(given, flat)
    for name, tensor in module.recorded.items():
        points[name] = [tensor]
    trace = {
        path if len(found) == 1 else f"{path}@{i}": _array(tensor)
        for path, found in points.items()
        for i, tensor in enumerate(found)
    }
    return {name: _array(tensor) for name, tensor in flat.items()}, trace


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().to(torch.float64).numpy().copy()


def _flat(out: Any, names: tuple[str, ...]) -> dict[str, torch.Tensor]:
    if torch.is_tensor(out):
        return {names[0] if names else "out": out}
    found: dict[str, torch.Tensor] = {}
    for name, value in out.items():
        if (names and name not in names) or value is None:
            continue
        if isinstance(value, Mapping):
            found.update({f"{name}.{key}": part for key, part in value.items()})
        else:
            found[name] = value
    return found


def _idefics_masks(arguments: dict[str, Any], tokens: int) -> dict[str, Any]:
    """Turns image_index (B, T), -1 for none, into the additive mask (B, 1, T, S) and the gate (B, T) of the layer."""
    index, images = arguments.pop("image_index"), arguments["image_hidden_states"].shape[1] // tokens
    seen = (torch.arange(images) == index[:, :, None]).repeat_interleave(tokens, dim=2)[:, None]
    dtype = arguments["hidden_states"].dtype
    mask = torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)
    arguments["image_attention_mask"], arguments["cross_attention_gate"] = mask, seen.any(-1)[:, 0].to(dtype)
    return {key: arguments[key].clone() for key in ("image_attention_mask", "cross_attention_gate")}


PROMOTED = ("hf", "idefics", "idefics2")
"""Peers that compute some steps in float32 whatever their weights' dtype."""
