"""One case of a subject: draw what it is given, let the adversarial row change it, and compute what it answers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import InputError
from ...peers import Rebuilt
from ...version import __version__
from ...weights.formats.dtypes import finite
from ..cases import TOLERANCES, Case
from ..cases.case import groups
from ..cases.compare import difference
from ..cases.execution import Run, run
from . import draw
from .adversarial import Kind
from .subject import Arrays, Draft, Exported, arrays_by_name, paths_of


@dataclass(frozen=True)
class ExportOptions:
    """What every case of an export has in common. `batch` overrides that of the rows but "batch-1"."""

    seed: int = 0
    dtype: str = "float64"
    gradients: bool = True
    trace: bool = True
    batch: int | None = None


def make(subject: Exported, row: Kind, options: ExportOptions) -> Case:
    """The case of this row.

    Everything is computed in `options.dtype` by the reference. In float32 the same is computed in float64, too: where
    the two differ by more than a quarter of the usual tolerance, the case's own is four times the difference.
    """
    draft = drafted(subject, row, options)
    arrays = {name: _cast(a, options.dtype) for name, a in _arrays(draft).items()}
    inputs = {name: _cast(a, options.dtype) for name, a in draft.inputs.items()}
    found = _computed(subject, arrays, inputs, draft.call, options, options.dtype)
    meta = described(subject, row, draft.call, options)
    if options.dtype == "float32":
        exact = _computed(subject, _wide(arrays), _wide(inputs), draft.call, options, "float64")
        if tolerance := _measured(found, exact):
            meta["tolerance"] = tolerance
    stateful = {b.name for b in subject.rebuilt.state}
    case = Case(
        meta,
        params={name: a for name, a in arrays.items() if name not in stateful},
        state={name: a for name, a in arrays.items() if name in stateful},
        inputs=inputs,
        outputs=found.outputs,
        cotangents=_cotangents(found, options) if found.grad_params or found.grad_inputs else {},
        grad_params=found.grad_params,
        grad_inputs=found.grad_inputs,
        trace=peer_trace(subject.rebuilt, found.trace) if options.trace else {},
    )
    for group, named in groups(case):
        if group != "param":
            finite(named, f"{subject.id}/{row.id}: {group}")
        named.update({name: np.asarray(array, order="C") for name, array in named.items()})  # as other readers expect
    return case


def drafted(subject: Exported, row: Kind, options: ExportOptions) -> Draft:
    """Parameters, inputs and call of a case, before any of them is computed with; float64."""
    batch = row.batch if options.batch is None or row.id == "batch-1" else options.batch
    layout, model = subject.layout, subject.rebuilt.model
    sizes = layout.sizes if row.resize is None else layout.resized(row.resize)
    if sizes is None:
        raise InputError(f"{subject.id} has no case {row.id!r}")
    if subject.weights is None:
        params, state = draw.parameters(model, options.seed), draw.state(model, options.seed)
    else:
        params, state = paths_of(subject.rebuilt, subject.weights)
    if subject.given is None:
        wanted = layout.arguments(batch, sizes)
        inputs = {name: draw.argument(name, argument, options.seed) for name, argument in wanted.items()}
    else:
        inputs = {name: np.array(array) for name, array in subject.given.items()}
    draft = Draft(subject, params, state, inputs, dict(layout.call), options.seed)
    row.change(draft)
    return draft


def _arrays(draft: Draft) -> Arrays:
    """The peer's arrays, those of its weights that no parameter of ours comes from included."""
    weights = draft.subject.weights
    if weights is None:
        return arrays_by_name(draft.subject.rebuilt, draft.params, draft.state)
    made = {name: np.array(array) for name, array in weights.items()}
    for group, bindings in ((draft.params, draft.subject.rebuilt.bindings), (draft.state, draft.subject.rebuilt.state)):
        for b in bindings:
            b.view(made[b.name])[...] = group[b.path]
    return made


def _computed(
    subject: Exported, arrays: Arrays, inputs: Arrays, call: dict[str, Any], options: ExportOptions, dtype: str
) -> Run:
    """Outputs, then with cotangents drawn for their shapes the gradients."""
    arguments: dict[str, Any] = {"dtype": dtype, "where": subject.id}
    first = run(
        subject.rebuilt, arrays, inputs, call, points=(lambda name: True) if options.trace else None, **arguments
    )
    first.outputs = {name: array for name, array in first.outputs.items() if subject.layout.outputs(name)}
    if not options.gradients or not any(o.dtype.kind == "f" for o in first.outputs.values()):
        return first
    variables = [a for a in inputs.values() if a.dtype.kind == "f"]
    if not variables and not arrays:
        return first
    cotangents = {name: _cast(a, dtype) for name, a in _cotangents(first, options).items()}
    second = run(subject.rebuilt, arrays, inputs, call, cotangents=cotangents, **arguments)
    first.grad_params, first.grad_inputs = second.grad_params, second.grad_inputs
    return first


def _cotangents(found: Run, options: ExportOptions) -> Arrays:
    """In the case's dtype, whatever `found` was computed in."""
    drawn = draw.cotangents(found.outputs, options.seed) if options.gradients else {}
    return {name: _cast(array, options.dtype) for name, array in drawn.items()}


def described(subject: Exported, row: Kind, call: dict[str, Any], options: ExportOptions) -> dict[str, Any]:
    """The meta of a case."""
    return {
        "case": f"{subject.id}/{row.id}",
        "peer": subject.peer,
        "peer_version": __version__ if subject.peer == "perceiver-ref" else "computed by perceiver-ref",
        "class": subject.cls,
        "config": dict(subject.config),
        "call": call,
        "dtype": options.dtype,
        "seed": options.seed,
        "flags": list(row.flags),
        "catches": row.catches,
        "notes": subject.notes,
    }


def _measured(found: Run, exact: Run) -> dict[str, float]:
    """Tolerances where float32 needs more than the usual ones, from its difference to float64."""
    usual, made = TOLERANCES["float32"], {}
    pairs = {
        "output": [(found.outputs, exact.outputs), (found.trace, exact.trace)],
        "gradient": [(found.grad_params, exact.grad_params), (found.grad_inputs, exact.grad_inputs)],
    }
    for kind, both in pairs.items():
        error = max((difference(a[name], b[name]) for a, b in both for name in b), default=0.0)
        if 4 * error > usual[kind]:
            made[kind] = float(f"{4 * error:.1e}")
    return made


def peer_trace(rebuilt: Rebuilt, trace: Mapping[str, Any]) -> dict[str, Any]:
    """Traced values by the peer's module paths, where its rows lead back from our names."""
    made: dict[str, Any] = {}
    for name, array in trace.items():
        for theirs in _their_names(rebuilt.points, name):
            if theirs not in made and next((n for n in rebuilt.point(theirs) if n in trace), None) == name:
                made[theirs] = array
                break
    return made


def _their_names(points: Iterable[tuple[str, str]], name: str) -> Iterable[str]:
    for pattern, ours in points:
        for alternative in ours.split("|"):
            literal = re.escape(alternative)
            found = re.fullmatch(re.sub(r"\\\\(\d)", r"(?P<g\1>.+)", literal), name) if _unique(alternative) else None
            if found is None:
                continue
            groups = {int(key[1:]): value for key, value in found.groupdict().items()}
            theirs = _filled(pattern, groups)
            if theirs is not None and re.fullmatch(pattern, theirs):
                yield theirs


def _unique(alternative: str) -> bool:
    numbers = re.findall(r"\\(\d)", alternative)
    return len(numbers) == len(set(numbers))


def _filled(pattern: str, groups: dict[int, str]) -> str | None:
    """A pattern of literals and groups with the groups filled in; None for any other pattern."""
    count = 0

    def fill(match: re.Match[str]) -> str:
        nonlocal count
        count += 1
        return groups.get(count, "\0")

    made = re.sub(r"\((?!\?)[^()]*\)", fill, pattern).replace("\\.", ".")
    return None if "\0" in made or re.search(r"[\\()\[\]*+?|]", made) else made


def _cast(array: np.ndarray, dtype: str) -> np.ndarray:
    return array.astype(dtype) if array.dtype.kind == "f" else array


def _wide(arrays: Arrays) -> Arrays:
    return {name: _cast(array, "float64") for name, array in arrays.items()}
