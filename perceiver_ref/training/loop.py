"""The whole of training: batch, gradients, optimizer, metrics, evaluation, checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..autograd import backend as backends
from ..autograd import tree, value_and_grad
from ..autograd.backend import to_host
from ..autograd.optim import Optimizer
from ..autograd.tree import Tree
from ..call import Call
from ..errors import InputError
from ..files import write_json
from ..recipes.base import Recipe, Stage, Task

Step = Callable[[Tree, Tree, int], tuple[Tree, Tree, Any, dict[str, Any]]]


def train(
    recipe: Recipe, *, seed: int = 0, quick: bool = False, backend: str = "numpy", out: Path | None = None
) -> dict[str, Any]:
    """Train all stages and return the result, which is also written to `out`/result.json."""
    started, params = time.perf_counter(), None
    for stage in recipe.stages:
        task = stage.task(seed, quick)
        params = task.init(params)
        params = _train_stage(stage, task, params, seed, quick, backend)
    placed = tree.map(lambda a: backends.to_backend(a, backend), params)
    evaluation = task.evaluate(placed)
    value = evaluation[recipe.metric]
    result = {
        "recipe": recipe.name,
        "metric": recipe.metric,
        "value": value,
        "seconds": time.perf_counter() - started,
        "seed": seed,
        "passed": recipe.reached(value, quick),
        "evaluation": evaluation,
    }
    if out is not None:
        write_json(out / "result.json", result)
    return result


def _train_stage(stage: Stage, task: Task, params: Tree, seed: int, quick: bool, backend: str) -> Tree:
    settings = stage.chosen(quick)
    optimizer = settings.make_optimizer(task.decays)
    step = training_step(task, params, optimizer, seed, backend)
    flat = {path: backends.to_backend(p, backend) for path, p in tree.leaves(params)}
    state = optimizer.init({path: p for path, p in flat.items() if task.trainable(path)})
    for i in range(settings.steps):
        flat, state, loss, metrics = step(flat, state, i)
        if (i + 1) % settings.log_every == 0:
            print(f"step {i + 1}/{settings.steps}  loss {_finite(loss, i):.4f}", flush=True)
    return tree.unflatten_like(params, [to_host(p) for p in flat.values()])


def training_step(task: Task, structure: Tree, optimizer: Optimizer, seed: int, backend: str) -> Step:
    """(parameters by path, optimizer's state, number of the step) -> the same after it, its loss and metrics.

    `structure`: a tree of the parameters. Nothing waits for a device.
    """

    def loss(trained: Tree, frozen: Tree, batch: dict[str, Any], call: Call) -> tuple[Any, dict[str, Any]]:
        every = {**frozen, **trained}
        return task.loss(tree.unflatten_like(structure, [every[path] for path, _ in leaves]), batch, call)

    leaves = list(tree.leaves(structure))
    gradients_of = value_and_grad(loss, has_aux=True)

    def step(flat: Tree, state: Tree, i: int) -> tuple[Tree, Tree, Any, dict[str, Any]]:
        trained = {path: p for path, p in flat.items() if task.trainable(path)}
        frozen = {path: p for path, p in flat.items() if not task.trainable(path)}
        batch = {
            name: a if a.dtype.kind in "iu" else backends.to_backend(a, backend) for name, a in task.batch(i).items()
        }
        (value, metrics), gradients = gradients_of(trained, frozen, batch, Call(training=True, key=(seed, i)))
        trained, state = optimizer.step(trained, gradients, state)
        return {path: trained.get(path, p) for path, p in flat.items()}, state, value, metrics

    return step


def _finite(loss: Any, i: int) -> float:
    value = float(loss)
    if not np.isfinite(value):
        raise InputError(f"the loss of step {i + 1} is {value}")
    return value
