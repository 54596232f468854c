"""The end of a run: result.json, curves and what the task shows."""

from __future__ import annotations

import math
import os
import platform
from pathlib import Path
from typing import Any

from ..autograd import tree
from ..autograd.backend import module
from ..autograd.tree import Tree
from ..errors import InputError
from ..host.files import write_json
from ..version import __version__
from ..weights.formats.npz import write_npz
from ..weights.saving import can_be_saved, save
from .pictures import Drawn, curves
from .plan import Outcome
from .recipe import Options, Recipe, Task
from .state import writing

NAME = "result.json"
MODEL = "model.npz"
"""The files of a result and of the trained model."""


def finish(recipe: Recipe, options: Options, outcome: Outcome) -> dict[str, Any]:
    """The result as JSON holds it. With a folder, also written there, with the model, curves and the task's files."""
    task, params, evaluation = outcome.task, outcome.params, outcome.evaluation
    value = float(evaluation[recipe.metric])
    if not math.isfinite(value):
        raise InputError(f"{recipe.metric} is {value} at the end: there is no result")
    baselines = task.baselines()
    result = {
        "version": 1,
        "recipe": recipe.name,
        "metric": recipe.metric,
        "value": value,
        "seconds": round(outcome.seconds, 1),
        "seed": options.seed,
        "quick": options.quick,
        "better": recipe.better,
        "threshold": recipe.expects(options.quick),
        "passed": recipe.reached(value, options.quick),
        "evaluation": evaluation,
        "baselines": baselines,
        "parameters": sum(p.size for _, p in tree.leaves(params)),
        "steps": sum(stage.chosen(options.quick).steps for stage in recipe.stages),
        "backend": options.backend,
        "machine": machine(options.backend, recipe.threads),
        "perceiver_ref": __version__,
    }
    if outcome.first and (folder := options.folder) is not None:
        with writing(folder / NAME):
            files = write_model(task, params, outcome.state, folder / MODEL)
            drawn = Drawn(recipe.name, recipe.metric, recipe.expects(options.quick), baselines)
            files += [*curves(outcome.lines, drawn, folder), *task.show(params, folder)]
            result["files"] = [_relative(path, folder) for path in files]
            write_json(folder / NAME, result)
    return result


def write_model(task: Task, params: Tree, state: Tree, path: Path) -> list[Path]:
    """The file for `load` of what a task has trained; of a class that is not the package's own the arrays alone, by
    path, in `params.npz` or the like. Nothing where the task has no one model."""
    saved = task.saved(params)
    if saved is None:
        return []
    if not can_be_saved(saved[0]):
        path = path.with_name(path.name.replace("model", "params"))
        write_npz(path, tree.flatten(saved[1]))
        return [path]
    save(*saved, path, state=state, task=task.about())
    return [path]


def machine(backend: str, threads: int) -> str:
    """What the time was taken on."""
    if backend == "cupy":
        name: str = module("cupy").cuda.runtime.getDeviceProperties(0)["name"].decode()
        return name
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{threads} of {cores} cores, {platform.machine()}"


def _relative(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()
