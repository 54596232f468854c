"""`perceiver-ref train`: a small model of the table of recipes, end to end."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..autograd import keep_memory
from ..autograd.backend import BACKENDS
from ..errors import InputError
from ..training.recipes import MODULES, recipe
from .main import MISMATCH, OK
from .result import write_result
from .words import verdict


def options(command: argparse.ArgumentParser) -> None:
    """The command's options."""
    add = command.add_argument
    add("recipe", nargs="?", metavar="RECIPE", help=f"one of {', '.join(MODULES)} (without it: the table of them)")
    add("--out", metavar="DIR", help="folder for checkpoints, metrics, pictures and the result")
    add("--resume", action="store_true", help="go on from the last checkpoint in DIR, if there is one")
    add("--quick", action="store_true", help="a shorter form, in seconds, with a weaker threshold")
    add("--seed", type=int, default=0, help="of parameters and batches (default: 0)")
    add("--backend", choices=BACKENDS, default="numpy", help="array library (default: numpy)")


def train(given: argparse.Namespace) -> int:
    """`perceiver-ref train`: 0 when the recipe's threshold is met, 1 when it is missed."""
    from ..training.loop import train as run
    from ..training.recipe import Options

    if given.recipe is None:
        return _table(given)
    chosen = recipe(given.recipe)
    if given.seed < 0:
        raise InputError(f"--seed must be at least 0, got {given.seed}")
    if given.resume and not given.out:
        raise InputError("--resume needs --out DIR, the folder of the run to go on with")
    out = Path(given.out) if given.out else None
    keep_memory()
    result = run(chosen, Options(given.seed, given.quick, given.backend, out, given.resume))
    passed, sign = result["passed"], ">=" if chosen.better == "higher" else "<="
    print(f"\n{chosen.name}: {chosen.metric} {result['value']:.4g}, expected {sign} {result['threshold']:g}: ", end="")
    print(
        f"{verdict('reached' if passed else 'missed')}, {result['parameters']:,} parameters, {result['seconds']:.0f} s"
    )
    for name, value in result["baselines"].items():
        print(f"  {name}: {value:.4g}")
    if out is not None:
        print(f"{out}: {', '.join(['result.json', *result['files']])}")
    write_result(given.json, result)
    return OK if passed else MISMATCH


def _table(given: argparse.Namespace) -> int:
    """Every recipe: what, model, data, the result to expect, time and its place in the papers."""
    rows: list[dict[str, Any]] = []
    for name in MODULES:
        row = recipe(name)
        sign = ">=" if row.better == "higher" else "<="
        print(f"{name}  {row.what}")
        print(f"    model     {row.model}\n    data      {row.data}")
        print(f"    expected  {row.metric} {row.expected} (passes with {sign} {row.threshold:g})")
        print(f"    time      about {row.minutes:g} min on 2 cores\n    paper     {row.paper}")
        keys = ("name", "what", "model", "data", "paper", "metric", "better", "threshold", "expected", "minutes")
        rows.append({key: getattr(row, key) for key in keys})
    write_result(given.json, {"recipes": rows})
    return OK
