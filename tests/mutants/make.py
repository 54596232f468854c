"""Writes mutants and their answers: `python -m mutants.make OUT --seed S --count N` (tests/ on the path)."""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mutants import models, source
from mutants.deviations import DEVIATIONS, Deviation, NotApplicable
from mutants.kinds import MODELS
from mutants.models import Arrays, Model
from mutants.source import Source

SAME = 1e-6  # a relative error of the outputs below this is no deviation
APART = 1e-9  # two deviations whose outputs and traces differ by less are one


@dataclass(frozen=True)
class Run:
    """What one model, right or not, gave."""

    outputs: Arrays
    trace: Arrays

    @property
    def finite(self) -> bool:
        """No NaN and no infinity: what a mutant must give to be of use."""
        return all(np.isfinite(array).all() for array in self.outputs.values())


@dataclass(frozen=True)
class Instance:
    """A model with its parameters and inputs drawn from one seed, and what the right implementation makes of them."""

    model: Model
    seed: int
    state: Arrays
    inputs: Arrays
    right: Run
    module: nn.Module

    def rerun(self, deviations: Sequence[Deviation]) -> Run | None:
        """The same with deviations planted; None where they cannot be, or where nothing comes of them."""
        try:
            run = self._mutated(deviations)
        except (NotApplicable, RuntimeError, IndexError, ValueError, AttributeError, TypeError, AssertionError):
            return None
        if not run.finite or any(run.outputs[k].shape != v.shape for k, v in self.right.outputs.items()):
            return None
        return run if error(run, self.right) > SAME else None

    def _mutated(self, deviations: Sequence[Deviation]) -> Run:
        scopes = {row.scopes for row in deviations if row.edits}
        if len(scopes) > 1:  # an edit's places are those of the whole source
            raise NotApplicable(scopes)
        edits = tuple(edit for row in deviations for edit in row.edits)
        module = copy.deepcopy(self.module) if any(row.change for row in deviations) else self.module
        for row in deviations:
            if row.change is not None:
                row.change(module)
        with source.planted(run_sources(self.model), edits, next(iter(scopes), ())):
            return Run(*models.execute(self.model, module, self.inputs))

    def lowered(self, precision: str) -> Run:
        """The unmutated peer in a lower precision, stored as float64."""
        space = run_sources(self.model, promote=False)[-1].space  # its float32 steps as they are
        module = models.build(self.model, space)
        models.load(self.model, module, self.state)
        if precision == "tf32":
            with rounded_products():
                return Run(*models.execute(self.model, module.float(), self.inputs, torch.float32))
        dtype = getattr(torch, precision)
        return Run(*models.execute(self.model, module.to(dtype), self.inputs, dtype))


def run_sources(model: Model, *, promote: bool = True) -> list[Source]:
    """The peer's modules; its float32 steps in float64 unless told otherwise."""
    return _sources(model.modules, model.literal, promote and model.peer in models.PROMOTED)


@cache
def _sources(modules: tuple[str, ...], literal: tuple[tuple[str, str, str], ...], promote: bool) -> list[Source]:
    return source.sources(modules, literal, promote=promote)


def instance(model: Model, seed: int) -> Instance:
    """Draw parameters and inputs."""
    rng = np.random.default_rng(seed)
    module = models.build(model, run_sources(model)[-1].space)
    state = models.randomise(model, module, rng)
    inputs = model.inputs(rng)
    right = Run(*models.execute(model, module, inputs))
    assert right.finite, (model, seed)
    return Instance(model, seed, state, inputs, right, module)


@contextlib.contextmanager
def rounded_products() -> Any:
    """Matrix products round their factors to the 10 mantissa bits of TF32."""

    def rounded(tensor: Any) -> Any:
        bits = tensor.contiguous().view(torch.int32)
        return ((bits + 0x1000) & ~0x1FFF).view(torch.float32).view(tensor.shape)

    originals = {name: getattr(torch, name) for name in ("matmul", "einsum")}
    linear, method, operator = torch.nn.functional.linear, torch.Tensor.matmul, torch.Tensor.__matmul__
    matmul = originals["matmul"]
    torch.matmul = lambda a, b: matmul(rounded(a), rounded(b))
    torch.einsum = lambda equation, *parts: originals["einsum"](equation, *(rounded(part) for part in parts))
    torch.Tensor.matmul = torch.Tensor.__matmul__ = lambda a, b: matmul(rounded(a), rounded(b))
    torch.nn.functional.linear = lambda x, w, b=None: linear(rounded(x), rounded(w), b)
    try:
        yield
    finally:
        torch.matmul, torch.einsum = originals["matmul"], originals["einsum"]
        torch.nn.functional.linear, torch.Tensor.matmul, torch.Tensor.__matmul__ = linear, method, operator


def error(a: Run, b: Run) -> float:
    """The largest relative error of the outputs: max |a - b| / max |b|."""
    return max(_relative(a.outputs[name], b.outputs[name]) for name in b.outputs)


def _relative(a: np.ndarray, b: np.ndarray) -> float:
    if a.shape != b.shape:
        return float("inf")
    return float(np.max(np.abs(a - b), initial=0.0) / max(np.max(np.abs(b), initial=0.0), 1e-30))


def points(example: Instance) -> list[str]:
    """The traced points that are stored: DeepMind's cases leave out those that are an output under another name."""
    right = example.right
    if example.model.peer != "deepmind":
        return list(right.trace)
    copies = list(right.outputs.values())
    return [key for key, value in right.trace.items() if not any(np.array_equal(value, copy) for copy in copies)]


def first_divergence(run: Run, right: Run) -> str | None:
    """The first traced point, in the order in which the right model reaches them, that differs."""
    points = (name for name in right.trace if name in run.trace)
    return next((name for name in points if _relative(run.trace[name], right.trace[name]) > APART), None)


def alike(a: Run, b: Run) -> bool:
    """Whether the traces of two runs with the same outputs cannot be told apart."""
    return all(_relative(a.trace.get(name, np.zeros(())), b.trace[name]) <= APART for name in b.trace)


def singles(example: Instance, sample: int = 0) -> list[tuple[Deviation, Run]]:
    """Every deviation (or so many, drawn) that makes a difference in this instance, and what comes of it."""
    rows = [row for row in DEVIATIONS if row.concerns(example.model)]
    if sample:
        rows = [rows[k] for k in np.random.default_rng(0).permutation(len(rows))[:sample]]
    return [(row, run) for row in rows if (run := example.rerun([row])) is not None]


@dataclass(frozen=True)
class Single:
    """A deviation that makes a difference in a model, and the causes that cannot be told from its own there."""

    row: Deviation
    model: Model
    as_good: frozenset[str]
    as_good_untraced: frozenset[str]


def all_singles(model: Model, seed: int = 0, sample: int = 0) -> list[Single]:
    """What of the table can be planted in this model."""
    example = instance(model, seed)
    found = singles(example, sample)

    outputs = np.array([_scaled(run, example.right) for _, run in found])
    told = []
    for (row, run), own in zip(found, outputs):
        near = np.flatnonzero(np.abs(outputs - own).max(axis=1) <= APART)
        untraced = {found[k][0].cause for k in near} | {row.cause, *row.also}
        traced = {found[k][0].cause for k in near if alike(found[k][1], run)} | {row.cause, *row.also}
        told.append(Single(row, model, frozenset(traced), frozenset(untraced)))
    return told


def _scaled(run: Run, right: Run) -> np.ndarray:
    """All outputs in one row, in units of the right ones' largest magnitudes."""
    return np.concatenate([(run.outputs[key] / np.max(np.abs(value))).ravel() for key, value in right.outputs.items()])


Entry = dict[str, Any]


class Writer:
    """Writes files and their answers, and gives each its name."""

    def __init__(self, folder: Path, rng: np.random.Generator) -> None:
        self.folder, self.rng = folder, rng
        self.answers: dict[str, Entry] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def single(self, single: Single) -> bool:
        """One deviation."""
        example = instance(single.model, int(self.rng.integers(1, 100_000)))
        run = example.rerun([single.row])
        return run is not None and self._deviation(example, run, [single])

    def pair(self, one: Single, two: Single) -> bool:
        """Two deviations at once, where that differs from each alone."""
        if one.row.cause == two.row.cause or one.as_good_untraced & two.as_good_untraced:
            return False
        example = instance(one.model, int(self.rng.integers(1, 100_000)))
        run = example.rerun([one.row, two.row])
        alone = [example.rerun([single.row]) for single in (one, two)]
        if run is None or any(other is None or error(run, other) < 100 * SAME for other in alone):
            return False
        return self._deviation(example, run, [one, two])

    def lowered(self, model: Model, precision: str) -> bool:
        """The peer itself in a lower precision."""
        example = instance(model, int(self.rng.integers(1, 100_000)))
        try:
            run = example.lowered(precision)
        except RuntimeError:  # transformers' autoencoder mixes in float32 and does not run in half precision
            return False
        if not run.finite:
            return False
        self._write(example, run, "rounding", [[]], f"whole model in {precision}, stored as float64")
        return True

    def exact(self, model: Model) -> bool:
        """The peer itself."""
        example = instance(model, int(self.rng.integers(1, 100_000)))
        self._write(example, example.right, "match", [[]], "nothing planted")
        return True

    def _deviation(self, example: Instance, run: Run, planted: Sequence[Single]) -> bool:
        traced = bool(self.rng.integers(2))
        causes = sorted(single.row.cause for single in planted)
        choices = [sorted(s.as_good if traced else s.as_good_untraced) for s in planted]
        sets = [causes, *(sorted(found) for found in product(*choices) if len(set(found)) == len(found))]
        detail = "; ".join(single.row.variant for single in planted)
        self._write(example, run, "deviation", sets, detail, traced=traced)
        return True

    def _write(
        self,
        example: Instance,
        run: Run,
        verdict: str,
        sets: Sequence[Sequence[str]],
        detail: str,
        *,
        traced: bool | None = None,
    ) -> None:
        traced = bool(self.rng.integers(2)) if traced is None else traced
        name = f"m{len(self.answers):04}.npz"
        write(self.folder / name, example, run, traced=traced)
        self.answers[name] = {
            "verdict": verdict,
            "causes": list(sets[0]),
            "acceptable": [list(found) for found in dict.fromkeys(map(tuple, sets))],
            "first_divergence": first_divergence(run, example.right) if traced and verdict == "deviation" else None,
            "detail": f"{detail}; max relative output error {error(run, example.right):.1e}",
            "model": f"{example.model.peer}/{example.model.name}",
        }
        (self.folder / "answers.json").write_text(json.dumps(self.answers, indent=1), encoding="utf-8")


def write(path: Path, example: Instance, run: Run, *, traced: bool) -> None:
    """One file in the form of a vector case, with the parameters and inputs of the right implementation."""
    model = example.model
    meta: dict[str, Any] = {
        "peer": model.peer,
        "peer_version": models.VERSIONS[model.peer],
        "class": model.path,
        "config": dict(model.config),
        "call": dict(model.call),
        "dtype": "float64",
        "seed": example.seed,
        "case": model.name,
        "notes": "",
    }
    if tied := models.aliases(example.module):
        meta["tied"] = tied
    arrays = {"meta": np.array(json.dumps(meta))}
    arrays |= {f"param/{key}": value for key, value in example.state.items()}
    arrays |= {f"input/{key}": value for key, value in example.inputs.items()}
    arrays |= {f"output/{key}": value for key, value in run.outputs.items()}
    if traced:
        arrays |= {f"trace/{key}": run.trace[key] for key in points(example) if key in run.trace}
    np.savez(path, **arrays)  # type: ignore[arg-type]


def spread(rows: Sequence[Single], rng: np.random.Generator) -> Iterator[Single]:
    """All of them, in turn the next of a cause and the next of a cause in a model, so that none of these comes late."""
    shuffled = [rows[k] for k in rng.permutation(len(rows))]
    by_cause = _in_turn(shuffled, lambda single: single.row.cause, rng)
    by_model = _in_turn(shuffled, lambda single: (id(single.model), single.row.cause), rng)
    given: set[int] = set()
    for pair in zip(by_cause, by_model):
        for single in pair:
            if id(single) not in given:
                given.add(id(single))
                yield single


def _in_turn(rows: Sequence[Single], group: Callable[[Single], Any], rng: np.random.Generator) -> Iterator[Single]:
    """One of each group, in any order, then a second one of each, and so on."""
    groups: dict[Any, list[Single]] = {}
    for single in rows:
        groups.setdefault(group(single), []).append(single)
    waiting = list(groups.values())
    while waiting:
        for k in rng.permutation(len(waiting)):
            yield waiting[k].pop()
        waiting = [found for found in waiting if found]


def table(only: str = "", sample: int = 0) -> list[Single]:
    """What can be planted in each model whose "peer/name" matches (sample: of so many rows of the table only)."""
    chosen = [model for model in MODELS if re.search(only, f"{model.peer}/{model.name}")]
    return [single for model in chosen for single in all_singles(model, sample=sample)]


def generate(folder: Path, rows: Sequence[Single], *, seed: int, count: int) -> dict[str, Entry]:
    """Writes `count` mutants, in the proportions of 153 single, 30 double, 22 in lower precision, 4 exact."""
    rng = np.random.default_rng(seed)
    writer = Writer(folder, rng)
    by_model: dict[str, list[Single]] = {}
    for single in rows:
        by_model.setdefault(f"{single.model.peer}/{single.model.name}", []).append(single)
    chosen = [found[0].model for found in by_model.values()]
    shares = {"single": 153, "pair": 30, "lowered": 22, "exact": 4}
    wanted = {kind: max(1, round(count * share / 209)) for kind, share in shares.items()}
    made = 0
    for single in spread(rows, rng):
        made += writer.single(single)
        if made == wanted["single"]:
            break
    made = 0
    while made < wanted["pair"]:
        found = list(by_model.values())[rng.integers(len(by_model))]
        one, two = (found[k] for k in rng.integers(len(found), size=2))
        made += writer.pair(one, two)
    for kind in ("lowered", "exact"):
        made = 0
        while made < wanted[kind]:
            model = chosen[rng.integers(len(chosen))]
            precision = ("float32", "bfloat16", "float16", "tf32")[made % 4]
            made += writer.lowered(model, precision) if kind == "lowered" else writer.exact(model)
    return writer.answers


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=250)
    parser.add_argument("--only", default="", help="a pattern of peer/model")
    parser.add_argument("--sample", type=int, default=0, help="try only so many rows in each model (0: all)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = table(options.only, options.sample)
    answers = generate(options.out, rows, seed=options.seed, count=options.count)
    print(f"{len(answers)} cases in {options.out}")


if __name__ == "__main__":
    main()
