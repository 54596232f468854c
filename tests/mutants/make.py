"""Writes mutants and their answers: `python -m mutants.make OUT --seed S --count N` (tests/ on the path)."""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import combinations, product
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from mutants import models, source
from mutants.deviations import DEVIATIONS, Deviation, NotApplicable
from mutants.kinds import MODELS
from mutants.models import Arrays, Model
from mutants.source import Source

SAME = 1e-6  # a relative error of the outputs below this is no deviation
SEEN = 10.0  # in a lower precision, one below so many times what rounding makes of the right outputs is none either
APART = 1e-9  # two deviations whose outputs and traces differ by less are one
CANNOT_BE_PLANTED = (
    NotApplicable,
    RuntimeError,
    IndexError,
    ValueError,
    AttributeError,
    TypeError,
    AssertionError,
)


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
        except CANNOT_BE_PLANTED:
            return None
        if not run.finite or any(run.outputs[k].shape != v.shape for k, v in self.right.outputs.items()):
            return None
        return run if error(run, self.right) > SAME else None

    def _mutated(self, deviations: Sequence[Deviation]) -> Run:
        module = copy.deepcopy(self.module) if any(row.change for row in deviations) else self.module
        for row in deviations:
            if row.change is not None:
                row.change(module)
        with planted(run_sources(self.model), deviations):
            return Run(*models.execute(self.model, module, self.inputs))

    def lowered(self, precision: str, deviations: Sequence[Deviation] = ()) -> Run:
        """The peer in a lower precision, as it is or with deviations planted, stored as float64.

        Raises what a mutant does that cannot be made, and `RuntimeError` where the peer mixes dtypes.
        """
        run = run_sources(self.model, promote=False)  # its float32 steps as they are
        module = models.build(self.model, run[-1].space)
        models.load(self.model, module, self.state)
        for row in deviations:
            if row.change is not None:
                row.change(module)
        with planted(run, deviations):
            if precision == "tf32":
                with rounded_products():
                    return Run(*models.execute(self.model, module.float(), self.inputs, torch.float32))
            dtype = getattr(torch, precision)
            return Run(*models.execute(self.model, module.to(dtype), self.inputs, dtype))


class Planted(Protocol):
    """What has edits of a source: a deviation, or a wrong backward."""

    @property
    def edits(self) -> tuple[source.Edit, ...]:
        """Of the source."""

    @property
    def scopes(self) -> tuple[str, ...]:
        """Where they hold; everywhere where empty."""


def planted(run: Sequence[Source], deviations: Sequence[Planted]) -> Any:
    """The edits of all of them hold inside the context."""
    scopes = {row.scopes for row in deviations if row.edits}
    if len(scopes) > 1:  # an edit's places are those of the whole source
        raise NotApplicable(scopes)
    edits = tuple(edit for row in deviations for edit in row.edits)
    return source.planted(run, edits, next(iter(scopes), ()))


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


def first_divergence(run: Run, example: Instance) -> str | None:
    """The first stored point, in the order in which the right model reaches them, that differs."""
    right, stored = example.right, set(points(example))
    names = (name for name in right.trace if name in run.trace and name in stored)
    return next((name for name in names if _relative(run.trace[name], right.trace[name]) > APART), None)


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
    apart: Mapping[str, float] = field(default_factory=dict)
    """How far the outputs of each cause that can be planted there are from its own, relative"""


def all_singles(model: Model, seed: int = 0, sample: int = 0) -> list[Single]:
    """What of the table can be planted in this model."""
    example = instance(model, seed)
    found = singles(example, sample)

    outputs = np.array([_scaled(run, example.right) for _, run in found])
    told = []
    for (row, run), own in zip(found, outputs):
        distances = np.abs(outputs - own).max(axis=1)
        near = np.flatnonzero(distances <= APART)
        untraced = {found[k][0].cause for k in near} | {row.cause, *row.also}
        traced = {found[k][0].cause for k in near if alike(found[k][1], run)} | {row.cause, *row.also}
        apart: dict[str, float] = {}
        for k, distance in enumerate(distances):
            cause = found[k][0].cause
            apart[cause] = min(float(distance), apart.get(cause, np.inf))
        told.append(Single(row, model, frozenset(traced), frozenset(untraced), apart))
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

    def several(self, chosen: Sequence[Single]) -> bool:
        """Two deviations or more at once, where that differs from all but one of them."""
        for one, two in combinations(chosen, 2):
            if one.row.cause == two.row.cause or one.as_good_untraced & two.as_good_untraced:
                return False
        example = instance(chosen[0].model, int(self.rng.integers(1, 100_000)))
        rows = [single.row for single in chosen]
        run = example.rerun(rows)
        fewer = [example.rerun([row for row in rows if row is not left]) for left in rows] if run is not None else []
        if run is None or any(other is None or error(run, other) < 100 * SAME for other in fewer):
            return False
        return self._deviation(example, run, chosen)

    def labelled(self, single: Single, precision: str) -> bool:
        """One deviation in a peer that runs in a lower precision, in a case of that precision.

        Whatever rounding does not tell from it is as good.
        """
        example = instance(single.model, int(self.rng.integers(1, 100_000)))
        wide = example.rerun([single.row])
        if wide is None:
            return False
        try:
            right, run = example.lowered(precision), example.lowered(precision, [single.row])
        except CANNOT_BE_PLANTED:
            return False
        noise = error(right, example.right)
        if not (run.finite and right.finite) or error(wide, example.right) < SEEN * noise:
            return False
        near = {cause for cause, distance in single.apart.items() if distance <= noise}
        sets = [[single.row.cause], *([cause] for cause in sorted({*single.row.also, *near}))]
        detail = f"{single.row.variant}, in {precision}"
        self._write(example, run, "deviation", sets, detail, dtype=precision, kind="labelled")
        return True

    def lowered(self, model: Model, precision: str) -> bool:
        """The peer itself in a lower precision."""
        example = instance(model, int(self.rng.integers(1, 100_000)))
        try:
            run = example.lowered(precision)
        except RuntimeError:  # transformers' autoencoder mixes in float32 and does not run in half precision
            return False
        if not run.finite:
            return False
        self._write(example, run, "rounding", [[]], f"whole model in {precision}, stored as float64", kind="lowered")
        return True

    def labelled_right(self, model: Model, precision: str) -> bool:
        """The peer itself in a lower precision, in a case of that precision."""
        example = instance(model, int(self.rng.integers(1, 100_000)))
        try:
            run = example.lowered(precision)
        except RuntimeError:
            return False
        if not run.finite:
            return False
        self._write(example, run, "rounding", [[]], f"in {precision}", dtype=precision, kind="labelled-right")
        return True

    def exact(self, model: Model) -> bool:
        """The peer itself."""
        example = instance(model, int(self.rng.integers(1, 100_000)))
        self._write(example, example.right, "match", [[]], "nothing planted", kind="exact")
        return True

    def _deviation(self, example: Instance, run: Run, planted: Sequence[Single]) -> bool:
        traced = bool(self.rng.integers(2))
        causes = sorted(single.row.cause for single in planted)
        choices = [sorted(s.as_good if traced else s.as_good_untraced) for s in planted]
        sets = [causes, *(sorted(found) for found in product(*choices) if len(set(found)) == len(found))]
        detail = "; ".join(single.row.variant for single in planted)
        kind = {1: "single", 2: "pair", 3: "triple"}[len(planted)]
        self._write(example, run, "deviation", sets, detail, traced=traced, kind=kind)
        return True

    def _write(
        self,
        example: Instance,
        run: Run,
        verdict: str,
        sets: Sequence[Sequence[str]],
        detail: str,
        *,
        kind: str,
        traced: bool | None = None,
        dtype: str = "float64",
    ) -> None:
        traced = bool(self.rng.integers(2)) if traced is None else traced
        name = f"m{len(self.answers):04}.npz"
        write(self.folder / name, example, run, traced=traced, dtype=dtype)
        pointed = traced and verdict == "deviation" and dtype == "float64"
        self.answers[name] = {
            "kind": kind,
            "verdict": verdict,
            "causes": list(sets[0]),
            "acceptable": [list(found) for found in dict.fromkeys(map(tuple, sets))],
            "first_divergence": first_divergence(run, example) if pointed else None,
            "detail": f"{detail}; max relative output error {error(run, example.right):.1e}",
            "model": f"{example.model.peer}/{example.model.name}",
        }
        (self.folder / "answers.json").write_text(json.dumps(self.answers, indent=1), encoding="utf-8")


def write(path: Path, example: Instance, run: Run, *, traced: bool, dtype: str = "float64") -> None:
    """One file in the form of a vector case, with the parameters and inputs of the right implementation.

    dtype: of the case; what is not float64 is lowered to it and stored as float32, which holds all of its numbers.
    """
    model = example.model
    meta: dict[str, Any] = {
        "peer": model.peer,
        "peer_version": models.VERSIONS[model.peer],
        "class": model.path,
        "config": dict(model.config),
        "call": dict(model.call),
        "dtype": dtype,
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
    if dtype != "float64":
        arrays = {key: _lowered(array, dtype) for key, array in arrays.items()}
    np.savez(path, **arrays)  # type: ignore[arg-type]


def _lowered(array: np.ndarray, dtype: str) -> np.ndarray:
    if array.dtype.kind != "f":
        return array
    tensor = torch.from_numpy(np.asarray(array)).to(getattr(torch, dtype))
    made: np.ndarray = (tensor if dtype == "float16" else tensor.float()).numpy()
    return made


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


SHARES = {"single": 153, "pair": 30, "lowered": 22, "exact": 4}
"""Proportions of kinds, as the public examples have them."""
LOWERED = ("float32", "bfloat16", "float16", "tf32")
LABELLED = ("bfloat16", "float16")
KINDS = (*SHARES, "triple", "labelled", "labelled-right")


def generate(
    folder: Path, rows: Sequence[Single], *, seed: int, count: int = 0, wanted: Mapping[str, int] | None = None
) -> dict[str, Entry]:
    """Writes so many mutants of each kind, or `count` in the proportions of `SHARES`."""
    rng = np.random.default_rng(seed)
    writer = Writer(folder, rng)
    by_model: dict[str, list[Single]] = {}
    for single in rows:
        by_model.setdefault(f"{single.model.peer}/{single.model.name}", []).append(single)
    every = list(by_model.values())
    chosen = [found[0].model for found in every]
    if wanted is None:
        wanted = {kind: max(1, round(count * share / sum(SHARES.values()))) for kind, share in SHARES.items()}
    left = {kind: wanted.get(kind, 0) for kind in KINDS}
    for single in spread(rows, rng) if left["single"] else ():
        left["single"] -= writer.single(single)
        if not left["single"]:
            break
    for kind, number in (("pair", 2), ("triple", 3)):
        while left[kind]:
            found = every[rng.integers(len(every))]
            left[kind] -= writer.several([found[k] for k in rng.integers(len(found), size=number)])
    for kind in ("lowered", "exact", "labelled-right"):
        while left[kind]:
            model = chosen[rng.integers(len(chosen))]
            if kind == "lowered":
                left[kind] -= writer.lowered(model, LOWERED[(wanted[kind] - left[kind]) % len(LOWERED)])
            elif kind == "exact":
                left[kind] -= writer.exact(model)
            else:
                left[kind] -= writer.labelled_right(model, LABELLED[left[kind] % len(LABELLED)])
    plain = [single for single in rows if single.row.cause != "dtype"]
    for single in spread(plain, rng) if left["labelled"] else ():
        left["labelled"] -= writer.labelled(single, LABELLED[left["labelled"] % len(LABELLED)])
        if not left["labelled"]:
            break
    return writer.answers


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=250)
    parser.add_argument("--kinds", nargs="+", metavar="KIND=NUMBER", help="in place of --count: " + ", ".join(KINDS))
    parser.add_argument("--only", default="", help="a pattern of peer/model")
    parser.add_argument("--sample", type=int, default=0, help="try only so many rows in each model (0: all)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = table(options.only, options.sample)
    wanted = {kind: int(number) for kind, _, number in (each.partition("=") for each in options.kinds or ())}
    if unknown := set(wanted) - set(KINDS):
        parser.error(f"no kinds: {', '.join(sorted(unknown))}")
    answers = generate(options.out, rows, seed=options.seed, count=options.count, wanted=wanted or None)
    print(f"{len(answers)} cases in {options.out}")


if __name__ == "__main__":
    main()
