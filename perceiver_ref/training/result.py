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
from .pictures import curves
from .recipe import Options, Recipe, Task
from .state import writing

NAME = "result.json"


def finish(
    recipe: Recipe,
    options: Options,
    task: Task,
    params: Tree,
    evaluation: dict[str, float],
    lines: list[dict[str, Any]],
    seconds: float,
) -> dict[str, Any]:
    """The result as JSON holds it. With a folder, also written there, with curves and what the task shows.

    params: NumPy arrays. lines: those of metrics.jsonl. seconds: of training and evaluation, all processes together.
    """
    value = float(evaluation[recipe.metric])
    if not math.isfinite(value):
        raise InputError(f"{recipe.metric} is {value} at the end: there is no result")
    result = {
        "version": 1,
        "recipe": recipe.name,
        "metric": recipe.metric,
        "value": value,
        "seconds": round(seconds, 1),
        "seed": options.seed,
        "quick": options.quick,
        "better": recipe.better,
        "threshold": recipe.quick_threshold if options.quick else recipe.threshold,
        "passed": recipe.reached(value, options.quick),
        "evaluation": evaluation,
        "baselines": task.baselines(),
        "parameters": sum(p.size for _, p in tree.leaves(params)),
        "steps": sum(stage.chosen(options.quick).steps for stage in recipe.stages),
        "backend": options.backend,
        "machine": _machine(options.backend, recipe.threads),
        "perceiver_ref": __version__,
    }
    if options.out is not None:
        with writing(options.out / NAME):
            files = [*curves(lines, recipe, options.out), *task.show(params, options.out)]
            result["files"] = [_relative(path, options.out) for path in files]
            write_json(options.out / NAME, result)
    return result


def _machine(backend: str, threads: int) -> str:
    """What the time was taken on."""
    if backend == "cupy":
        name: str = module("cupy").cuda.runtime.getDeviceProperties(0)["name"].decode()
        return name
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{threads} of {cores} cores, {platform.machine()}"


def _relative(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()
