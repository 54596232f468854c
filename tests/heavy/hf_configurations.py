"""transformers' Perceiver run live: a case of the vector format from any of its classes, in float64 throughout."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import torch
from heavy.hooks import hooked
from heavy.precision import promoted
from transformers import PerceiverConfig
from transformers.models.perceiver import modeling_perceiver as peer

from perceiver_ref.vectors import Case

torch.set_num_threads(1)  # for arrays this small


@cache
def _source(name: str) -> str:
    return inspect.getsource(getattr(peer, name))


def replaced(name: str, replacements: list[list[str]]) -> Any:
    """A class with pieces of its source replaced."""
    source = _source(name)
    for old, new in replacements:
        assert old in source, (name, old)
        source = source.replace(old, new)
    source = source[source.index(f"class {name}") :].replace("    @auto_docstring\n", "")
    space = dict(vars(peer))
    exec(source, space)
    return space[name]


def build(config: PerceiverConfig, spec: Any) -> Any:
    """A component from {"class": ..., "kwargs": ...}, its modalities built likewise."""
    if spec is None:
        return None
    cls, kwargs = getattr(peer, spec["class"]), dict(spec.get("kwargs") or {})
    if isinstance(kwargs.get("modalities"), Mapping):
        kwargs["modalities"] = {name: build(config, part) for name, part in kwargs["modalities"].items()}
    takes_config = "config" in inspect.signature(cls.__init__).parameters
    return cls(config, **kwargs) if takes_config else cls(**kwargs)


def model(name: str, config: Mapping[str, Any]) -> Any:
    """The peer's class of this name from a case's `config`."""
    made = PerceiverConfig(**config.get("config", {}))
    if name.startswith("PerceiverFor"):
        return replaced(name, config.get("hard_coded_replacements", []))(made)
    if name == "PerceiverModel":
        parts = ("input_preprocessor", "decoder", "output_postprocessor")
        return peer.PerceiverModel(made, **{part: build(made, config.get(part)) for part in parts})
    return build(made, {"class": name, "kwargs": config.get("kwargs")})


def case(
    name: str,
    config: Mapping[str, Any],
    inputs: Mapping[str, np.ndarray],
    call: Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
    positional: bool = False,
) -> Case:
    """Outputs, gradients and module outputs of the peer with random weights on these inputs."""
    rng = np.random.default_rng(seed)
    with promoted(peer):
        module = model(name, config).double().eval()
        for key, array in module.state_dict().items():
            scale = 0.2 if "bias" in key else 0.5
            drawn = rng.standard_normal(tuple(array.shape)) * scale + ("norm" in key and "weight" in key)
            array.copy_(torch.tensor(np.abs(drawn) + 0.5 if "running_var" in key else drawn).to(array.dtype))
        tensors = {key: torch.tensor(array, requires_grad=array.dtype.kind == "f") for key, array in inputs.items()}
        arguments = _nested({**tensors, **(call or {})})
        first = [arguments.pop("inputs")] if positional else []
        with hooked(module) as traces:
            outputs = _flat(module(*first, **arguments))
        cotangents = {key: rng.standard_normal(tuple(out.shape)) for key, out in outputs.items() if out.requires_grad}
        loss = sum((outputs[key] * torch.tensor(weights)).sum() for key, weights in cotangents.items())
        if cotangents:
            loss.backward()
    state = {key: array.detach().numpy().copy() for key, array in module.state_dict().items()}
    grads = {key: _gradient(parameter) for key, parameter in module.named_parameters()}
    return Case(
        {"peer": "hf", "class": name, "config": dict(config), "dtype": "float64", "call": dict(call or {})},
        params=state,
        inputs=dict(inputs),
        outputs={key: out.detach().numpy() for key, out in outputs.items()},
        cotangents=cotangents,
        grad_params=grads,
        grad_inputs={key: _gradient(tensor) for key, tensor in tensors.items() if tensor.requires_grad},
        trace=traces,
    )


def _gradient(tensor: torch.Tensor) -> np.ndarray:
    return np.zeros(tensor.shape) if tensor.grad is None else tensor.grad.numpy()


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        outer, _, inner = key.partition(".")
        if inner:
            nested.setdefault(outer, {})[inner] = value
        else:
            nested[key] = value
    return nested


def _flat(out: Any, name: str = "") -> dict[str, torch.Tensor]:
    if torch.is_tensor(out):
        return {name or "out": out} if out.dtype.is_floating_point else {}
    if isinstance(out, Mapping):
        return {k: v for key, part in out.items() for k, v in _flat(part, f"{name}.{key}" if name else key).items()}
    if isinstance(out, tuple):
        joined = f"{name}." if name else "out"
        return {k: v for i, part in enumerate(out) for k, v in _flat(part, f"{joined}{i}").items()}
    return {}
