"""Random models of the PyTorch peers run in half precision, forward and back, as cases of that precision.

The files of tests/porting/half are `written` with seeds 4 and 70 in bfloat16, and 4 in float16.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from heavy import random_models
from mutants import make, models

Arrays = dict[str, np.ndarray]


def written(path: Path, dtype: str, seed: int) -> bool:
    """Write the case of one seed; False where the peer does not run in `dtype`, or gives what is not finite."""
    example = random_models.instance(seed)
    model, kind = example.model, getattr(torch, dtype)
    if model.peer == "deepmind":  # translated: its gradients have other names than its parameters
        return False
    module = models.build(model, make.run_sources(model, promote=False)[-1].space)
    models.load(model, module, example.state)
    module.to(kind)
    inputs: Arrays = {}
    cotangents: Arrays = {}

    def backward(given: dict[str, Any], outputs: dict[str, Any]) -> None:
        generator = torch.Generator().manual_seed(seed)
        loss: Any = 0
        for name, value in outputs.items():
            if value.requires_grad:
                cotangent = torch.randn(value.shape, generator=generator).to(value.dtype)
                cotangents[name] = _array(cotangent)
                loss = loss + (value * cotangent).sum()
        loss.backward()
        inputs.update({n: _array(t.grad) for n, t in given.items() if t.grad is not None})

    try:
        outputs, trace = models.execute(model, module, example.inputs, kind, backward)
    except RuntimeError:
        return False
    gradients = {name: _array(p.grad) for name, p in module.named_parameters() if p.grad is not None}
    chosen = set(make.points(example))
    groups: dict[str, Arrays] = {
        "param": {name: _lowered(array, kind) for name, array in example.state.items()},
        "input": {name: _lowered(array, kind) for name, array in example.inputs.items()},
        "output": {name: _lowered(array, kind) for name, array in outputs.items()},
        "trace": {name: _lowered(array, kind) for name, array in trace.items() if name in chosen},
        "cotangent": cotangents,
        "grad_param": gradients,
        "grad_input": inputs,
    }
    arrays = {f"{group}/{name}": array for group, named in groups.items() for name, array in named.items()}
    if not all(np.isfinite(array).all() for array in arrays.values() if array.dtype.kind == "f"):
        return False
    meta: dict[str, Any] = {"peer": model.peer, "class": model.path, "config": dict(model.config)}
    meta |= {"call": dict(model.call), "dtype": dtype, "seed": seed, "case": model.name}
    if tied := models.aliases(example.module):
        meta["tied"] = tied
    np.savez(path, meta=np.array(json.dumps(meta)), **arrays)  # type: ignore[arg-type]
    return True


def _array(tensor: Any) -> np.ndarray:
    made: np.ndarray = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).detach().numpy()
    return made


def _lowered(array: np.ndarray, kind: Any) -> np.ndarray:
    return _array(torch.from_numpy(np.asarray(array)).to(kind)) if array.dtype.kind == "f" else array
