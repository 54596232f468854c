"""Writes backward mutants and their answers: `python -m mutants.backward.make OUT --seed S` (tests/ on the path)."""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mutants import make, models, source
from mutants.backward import wrong
from mutants.backward.rows import ROWS, Row
from mutants.deviations.row import NotApplicable
from mutants.kinds import MODELS
from mutants.models import Arrays, Model

EXACT = 1e-13  # outputs of a mutant are right: a sum with what it takes away again may move the last digit
SAME = 1e-6  # a relative error of all gradients below this is no mutant


def gradients(
    model: Model, module: Any, inputs: Arrays, seed: int, dtype: Any = torch.float64
) -> dict[str, np.ndarray]:
    """Outputs, cotangents and gradients under the keys of a case."""
    arrays: dict[str, np.ndarray] = {}
    state = models.named_state(model, module)
    for tensor in state.values():
        tensor.grad = None
        if tensor.dtype.is_floating_point and isinstance(tensor, torch.nn.Parameter):
            tensor.requires_grad_()

    def backward(given: dict[str, Any], flat: dict[str, Any]) -> None:
        rng, loss = np.random.default_rng(seed), 0.0
        for name, output in flat.items():
            arrays[f"output/{name}"] = models._array(output)
            if output.requires_grad:
                cotangent = rng.standard_normal(tuple(output.shape))
                arrays[f"cotangent/{name}"] = cotangent
                loss = loss + (output * torch.from_numpy(cotangent).to(output.dtype)).sum()
        assert torch.is_tensor(loss), "nothing was recorded"
        loss.backward()  # type: ignore[attr-defined]
        for name, tensor in given.items():
            if tensor.dtype.is_floating_point:
                arrays[f"grad_input/{name}"] = _grad(tensor)

    models.execute(model, module, inputs, dtype, backward)
    for name, tensor in state.items():
        if tensor.requires_grad:
            arrays[f"grad_param/{name}"] = _grad(tensor)
    return arrays


def _grad(tensor: Any) -> np.ndarray:
    return np.zeros(tuple(tensor.shape)) if tensor.grad is None else models._array(tensor.grad)


_BY_NAME = {f"{model.peer}/{model.name}": model for model in MODELS}


@cache
def example_of(name: str, seed: int) -> make.Instance:
    """The model "peer/name" with its parameters and inputs."""
    return make.instance(_BY_NAME[name], seed)


@cache
def right_of(name: str, seed: int) -> dict[str, np.ndarray]:
    """What the right implementation gives."""
    example = example_of(name, seed)
    return gradients(example.model, copy.deepcopy(example.module), example.inputs, seed)


def mutant(row: Row, model: Model, example: make.Instance) -> dict[str, np.ndarray] | None:
    """The arrays of a mutant; None where nothing comes of the row in this model."""
    run = make.run_sources(model)
    for each in run:
        each.space["BW"] = wrong
    right = right_of(f"{model.peer}/{model.name}", example.seed)
    module = copy.deepcopy(example.module)
    try:
        if row.change is not None:
            row.change(module)
        with source.planted(run, row.edits, row.scopes):
            made = gradients(model, module, example.inputs, example.seed)
    except NotApplicable:
        return None
    for name, array in right.items():
        if name.startswith("output/"):
            assert np.abs(made[name] - array).max() <= EXACT * max(np.abs(array).max(), 1), (row.variant, model.name)
    apart = [
        np.abs(made[n] - a).max(initial=0) / max(np.abs(a).max(initial=0), 1) for n, a in right.items() if "grad" in n
    ]
    return made if max(apart) > SAME else None


def lowered(model: Model, example: make.Instance) -> dict[str, np.ndarray]:
    """The unmutated peer in float32."""
    space = make.run_sources(model, promote=False)[-1].space
    module = models.build(model, space)
    models.load(model, module, example.state)
    return gradients(model, module.float(), example.inputs, example.seed, torch.float32)


def write(path: Path, example: make.Instance, arrays: dict[str, np.ndarray]) -> None:
    """One case."""
    make.write(path, example, example.right, traced=False)
    with np.load(path) as case:
        kept = {key: case[key] for key in case.files if not key.startswith("output/")}
    np.savez(path, **kept, **arrays)  # type: ignore[arg-type]


def pairs() -> Iterator[tuple[Row, Model]]:
    """Every row with every model that it concerns."""
    yield from ((row, model) for row in ROWS for model in MODELS if row.concerns(model))


def generate(folder: Path, seed: int) -> dict[str, dict[str, Any]]:
    """All mutants."""
    folder.mkdir(parents=True, exist_ok=True)
    answers: dict[str, dict[str, Any]] = {}
    for row, model in pairs():
        example = example_of(f"{model.peer}/{model.name}", seed)
        arrays = mutant(row, model, example)
        if arrays is None:
            continue
        name = f"g{len(answers):03}.npz"
        write(folder / name, example, arrays)
        answers[name] = {
            "causes": list(row.causes),
            "point": row.point,
            "variant": row.variant,
            "model": f"{model.peer}/{model.name}",
        }
    (folder / "answers.json").write_text(json.dumps(answers, indent=1), encoding="utf-8")
    return answers


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    print(len(generate(given.out, given.seed)), "mutants")
