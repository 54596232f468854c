"""`perceiver-ref train`: a small model of the table of recipes, or of a person's own data, end to end."""

from __future__ import annotations

import argparse
import math
import shlex
import sys
import textwrap
from dataclasses import replace
from typing import Any

from ..autograd import keep_memory
from ..autograd.backend import BACKENDS
from ..errors import InputError, one_of
from ..training.own import KINDS, Chosen
from ..training.recipe import Recipe
from ..training.recipes import MODULES, recipe
from .main import MISMATCH, OK
from .result import write_result
from .words import verdict

_WIDTH = 80
_OWN = {
    "test": ("F", "another file like --data or --text to test on (default: a part of it is held out)", str),
    "label": ("NAME", "the column of a CSV file that says the class (default: label, class, target, or the last)", str),
    "latents": ("N", "number of latents", int),
    "channels": ("N", "channels of a latent", int),
    "layers": ("N", "number of self-attentions", int),
    "heads": ("N", "heads of self-attention", int),
    "length": ("N", "bytes that the model sees", int),
    "steps": ("N", "batches to train on", int),
    "batch": ("N", "examples in a batch", int),
    "learning_rate": ("X", "the highest learning rate", float),
}
"""Options of one's own data: (what stands for the value, what it is, its type)."""


def options(command: argparse.ArgumentParser) -> None:
    """The command's options."""
    add = command.add_argument
    add(
        "recipe",
        nargs="?",
        metavar="RECIPE",
        help=f"one of {', '.join(MODULES)} (without it: the table of them); with --data classify, with --text language "
        "or generate",
    )
    add("--out", metavar="DIR", help="folder for checkpoints, metrics, the model, pictures and the result")
    add("--resume", action="store_true", help="go on from the last checkpoint in DIR, if there is one")
    add("--quick", action="store_true", help="a shorter form, in seconds, with a weaker threshold")
    add("--seed", type=int, default=0, help="of parameters and batches (default: 0)")
    add("--backend", choices=BACKENDS, default="numpy", help="array library (default: numpy)")
    own = command.add_argument_group("a model of your own data")
    own.add_argument(
        "--data",
        metavar="F",
        help="train classify: a CSV file with a line of names, or an .npz with inputs (N, D), (N, M, C) or "
        "(N, H, W, C) and labels (N,), and test_inputs and test_labels if there are some",
    )
    own.add_argument("--text", metavar="F", help="train language or generate: a text, of any encoding")
    for name, (value, what, kind) in _OWN.items():
        own.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar=value, help=what)


def train(given: argparse.Namespace) -> int:
    """`perceiver-ref train`: 0 when the recipe's threshold is met, 1 when it is missed; 0 for one's own data."""
    from ..training.distributed import first
    from ..training.loop import train as run
    from ..training.recipe import Options

    if given.recipe is None:
        return _table(given)
    if given.seed < 0:
        raise InputError(f"--seed must be at least 0, got {given.seed}")
    if given.resume and not given.out:
        raise InputError("--resume needs --out DIR, the folder of the run to go on with")
    chosen = _chosen(given)
    keep_memory()
    result = run(chosen, Options(given.seed, given.quick, given.backend, given.out or None, given.resume))
    if first():
        _say(chosen, result, given)
        write_result(given.json, result)
    return OK if result["passed"] else MISMATCH


def _say(chosen: Recipe, result: dict[str, Any], given: argparse.Namespace) -> None:
    passed, sign = result["passed"], ">=" if chosen.better == "higher" else "<="
    took = f"{result['parameters']:,} parameters, {result['seconds']:.0f} s"
    print(f"\n{chosen.name}: {chosen.metric} {result['value']:.4g}, ", end="")
    if result["threshold"] is not None:
        print(f"expected {sign} {result['threshold']:g}: {verdict('reached' if passed else 'missed')}, ", end="")
    print(took)
    for name, value in result["baselines"].items():
        print(f"  {name}: {value:.4g}")
    if given.out:
        print(f"{given.out}: {', '.join(['result.json', *result['files']])}")


def _chosen(given: argparse.Namespace) -> Recipe:
    """The recipe that is named, or that of one's own data."""
    used = [name for name in _OWN if getattr(given, name) is not None]
    files = [name for name in ("data", "text") if getattr(given, name) is not None]
    kind = KINDS.get(given.recipe)
    if not files:
        if kind is not None and given.recipe not in MODULES:
            raise InputError(f"train {given.recipe} needs --{kind.option} FILE")
        if used:
            raise InputError(f"{_option(used[0])} is for a model of your own data, with --data or --text")
        return recipe(given.recipe)
    if kind is None:
        raise one_of(f"kind of model for --{files[0]}", given.recipe, KINDS)
    if files != [kind.option]:
        raise InputError(f"train {given.recipe} takes --{kind.option} FILE, not --{files[-1]}")
    if unknown := [name for name in used if name not in kind.known]:
        raise InputError(f"train {given.recipe} has no {_option(unknown[0])}")
    if given.quick:
        raise InputError("--quick is for recipes; say --steps N for a short run")
    for name in used:
        value = getattr(given, name)
        if isinstance(value, int) and value < (0 if name == "layers" else 1):
            raise InputError(f"{_option(name)} must be at least {0 if name == 'layers' else 1}, got {value}")
        if isinstance(value, float) and not (0 < value < math.inf):
            raise InputError(f"{_option(name)} must be above 0, got {value}")
    made = kind.recipe(Chosen(getattr(given, kind.option), **{name: getattr(given, name) for name in used}))
    again = [f"--{kind.option}", getattr(given, kind.option)]
    again += [part for name in used for part in (_option(name), str(getattr(given, name)))]
    return replace(made, command=f"{given.recipe} {shlex.join(again)}")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _table(given: argparse.Namespace) -> int:
    """Every recipe: what, model, data, the result to expect, time and its place in the papers."""
    rows: list[dict[str, Any]] = []
    for name in MODULES:
        row = recipe(name)
        sign = ">=" if row.better == "higher" else "<="
        print(_wrapped(f"{name}  ", row.what))
        print(_wrapped("    model     ", row.model))
        print(_wrapped("    data      ", row.data))
        print(_wrapped("    expected  ", f"{row.metric} {row.expected} (passes with {sign} {row.threshold:g})"))
        print(_wrapped("    time      ", f"about {row.minutes:g} min on 2 cores"))
        print(_wrapped("    paper     ", row.paper))
        keys = ("name", "what", "model", "data", "paper", "metric", "better", "threshold", "expected", "minutes")
        rows.append({key: getattr(row, key) for key in keys})
    print("\nof your own: train classify --data FILE, train language --text FILE, train generate --text FILE")
    write_result(given.json, {"recipes": rows})
    return OK


def _wrapped(start: str, text: str) -> str:
    """A text after its start; on a terminal broken at 80 columns and set in below it."""
    if not sys.stdout.isatty():
        return start + text
    return textwrap.fill(text, _WIDTH, initial_indent=start, subsequent_indent=" " * 14, break_long_words=False)
