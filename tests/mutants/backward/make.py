"""Writes backward mutants and their answers: `python -m mutants.backward.make OUT --seed S` (tests/ on the path)."""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mutants import make, models
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


def mutant(rows: Sequence[Row], model: Model, example: make.Instance) -> dict[str, np.ndarray] | None:
    """The arrays of a mutant; None where nothing comes of the rows in this model, or they do not go together."""
    run = make.run_sources(model)
    for each in run:
        each.space["BW"] = wrong
    right = right_of(f"{model.peer}/{model.name}", example.seed)
    module = copy.deepcopy(example.module)
    try:
        for row in rows:
            if row.change is not None:
                row.change(module)
        with make.planted(run, rows):
            made = gradients(model, module, example.inputs, example.seed)
    except NotApplicable:
        return None
    except AssertionError:  # of two, one may replace a line that the other looks for
        if len(rows) > 1:
            return None
        raise
    for name, array in right.items():
        if name.startswith("output/"):
            assert np.abs(made[name] - array).max() <= EXACT * max(np.abs(array).max(), 1), (
                [row.variant for row in rows],
                model.name,
            )
    return made if apart(made, right) > SAME else None


def apart(made: Mapping[str, np.ndarray], right: Mapping[str, np.ndarray]) -> float:
    """The largest relative difference of gradients."""
    return max(
        np.abs(made[n] - a).max(initial=0) / max(np.abs(a).max(initial=0), 1) for n, a in right.items() if "grad" in n
    )


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
        arrays = mutant([row], model, example)
        if arrays is None:
            continue
        name = f"g{len(answers):03}.npz"
        write(folder / name, example, arrays)
        answers[name] = {
            "kind": "backward",
            "causes": list(row.causes),
            "point": row.point,
            "variant": row.variant,
            "model": f"{model.peer}/{model.name}",
        }
    (folder / "answers.json").write_text(json.dumps(answers, indent=1), encoding="utf-8")
    return answers


def generate_pairs(folder: Path, seed: int, count: int) -> dict[str, dict[str, Any]]:
    """So many mutants with two wrong rules of different causes, each of which makes a difference beside the other."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    answers: dict[str, dict[str, Any]] = {}
    by_model: dict[str, list[Row]] = {}
    for row, model in pairs():
        by_model.setdefault(f"{model.peer}/{model.name}", []).append(row)
    several = [name for name, rows in by_model.items() if len(rows) > 1]
    while len(answers) < count:
        model_name = several[rng.integers(len(several))]
        rows = by_model[model_name]
        two = [rows[k] for k in rng.choice(len(rows), 2, replace=False)]
        if set(two[0].causes) & set(two[1].causes):
            continue
        example = example_of(model_name, seed)
        model = _BY_NAME[model_name]
        both, *alone = (mutant(chosen, model, example) for chosen in (two, two[:1], two[1:]))
        if both is None or any(one is None or apart(both, one) < 100 * SAME for one in alone):
            continue
        name = f"h{len(answers):03}.npz"
        write(folder / name, example, both)
        answers[name] = {
            "kind": "backward-pair",
            "causes": [list(row.causes) for row in two],
            "point": [row.point for row in two],
            "variant": "; ".join(row.variant for row in two),
            "model": model_name,
        }
    (folder / "answers.json").write_text(json.dumps(answers, indent=1), encoding="utf-8")
    return answers


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pairs", type=int, help="so many mutants with two wrong rules, in place of the others")
    given = parser.parse_args()
    torch.set_num_threads(1)
    made = generate_pairs(given.out, given.seed, given.pairs) if given.pairs else generate(given.out, given.seed)
    print(len(made), "mutants")
