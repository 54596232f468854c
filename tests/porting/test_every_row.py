"""Every row of the tables of deviations, on a case of every class: `diagnose` ends in a verdict, never in an exception.

The heavy test plants each row wherever it makes a difference, with and without traces, in float64 and in float32, and
each wrong backward rule; the others take a few of them that stay the same.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import support
from porting.cases import FILES
from porting.diagnosing import diagnose, on_backend, subject_of
from support import on

from perceiver_ref.porting.cases import Case, read_case
from perceiver_ref.porting.deviations import CAUSES, Candidate, Survey, candidates
from perceiver_ref.porting.deviations.base import layer_of
from perceiver_ref.porting.gradients.backward import ROWS, Wrong, flows
from perceiver_ref.porting.gradients.graph import Graph, record
from perceiver_ref.porting.gradients.target import Target
from perceiver_ref.porting.subject import Arrays, Subject

pytestmark = on_backend

VERDICTS = ("match", "rounding", "deviation", "unexplained")
BRIEF = 6.0
"""Seconds for a search that finds nothing anyway, and goes on as long as it may"""
SAMPLE = 499
"""Of the non-heavy pairs of class and row one in so many, by a checksum of their names."""


@cache
def smallest() -> dict[str, Path]:
    """The smallest file of each class, with traces where any has some."""
    found: dict[str, list[tuple[bool, int, Path]]] = {}
    for path in FILES:
        case = read_case(path)
        name = f"{case.meta['peer']}/{case.meta['class'].rpartition('.')[2]}"
        found.setdefault(name, []).append((not case.trace, path.stat().st_size, path))
    return {name: min(files)[2] for name, files in found.items()}


def chosen(*names: str) -> bool:
    """Whether a pair is in the sample."""
    return zlib.crc32("/".join(names).encode()) % SAMPLE == 0


def made_of(case: Case, arrays: Arrays, *, traced: bool, narrow: bool) -> Case:
    """The case with these outputs and traces, in float32 if they are to be `narrow`."""

    def group(name: str) -> dict[str, np.ndarray]:
        own = {n.removeprefix(f"{name}/"): np.asarray(a) for n, a in arrays.items() if n.startswith(f"{name}/")}
        return {n: a.astype(np.float32) if narrow and a.dtype.kind == "f" else a for n, a in own.items()}

    meta = {**case.meta, "dtype": "float32"} if narrow else case.meta
    return replace(case, meta=meta, outputs=group("output"), trace=group("trace") if traced else {})


def planted(subject: Subject, cause: str) -> Iterator[Candidate]:
    """Of the candidates of a row those that change an output, the first and the last."""
    with np.errstate(all="ignore"):
        made = [(c, subject.deviating((c,))) for c in CAUSES[cause](subject.survey)]
    ours = subject.ours
    fitting = [
        c
        for c, arrays in made
        if arrays is not None
        and all(n in arrays and arrays[n].shape == a.shape for n, a in ours.items())
        and any(not np.array_equal(arrays[n], a, equal_nan=True) for n, a in ours.items() if n.startswith("output/"))
    ]
    yield from dict.fromkeys((*fitting[:1], *fitting[-1:]))


def without_gradients(path: Path) -> Case:
    return replace(read_case(path), cotangents={}, grad_params={}, grad_inputs={})


def judged(case: Case, *said: object, budget: float | None = None) -> str:
    """The verdict; a failure says on what."""
    try:
        return diagnose(case, budget=budget).verdict
    except Exception as error:
        raise AssertionError(f"{said}: {type(error).__name__}: {error}") from error


def sweep(name: str, cause: str) -> None:
    case = without_gradients(smallest()[name])
    subject = subject_of(case)
    for number, candidate in enumerate(planted(subject, cause)):
        arrays = subject.deviating((candidate,))
        assert arrays is not None
        for traced in {bool(case.trace), False}:
            wrong = made_of(case, arrays, traced=traced, narrow=(number + traced) % 2 == 1)
            assert judged(wrong, name, candidate.variant, traced) in VERDICTS


@pytest.mark.parametrize("cause", CAUSES)
def test_a_row_planted_in_some_classes_gets_a_verdict(cause: str) -> None:
    for name in smallest():
        if chosen(name, cause):
            sweep(name, cause)


@pytest.mark.heavy
@pytest.mark.parametrize("name", smallest())
def test_every_row_planted_in_every_class_gets_a_verdict(name: str) -> None:
    for cause in CAUSES:
        sweep(name, cause)


def parts(found: Survey) -> Iterator[Survey]:
    """The survey of each layer, of what is before and after attention in it, and of single ops."""
    for layer in dict.fromkeys(layer_of(used.place) for used in found.events):
        here = [used for used in found.events if layer_of(used.place) == layer]
        at = next((i for i, used in enumerate(here) if used.op == "attention"), len(here))
        for some in (here, here[:at], here[at + 1 :], *([used] for used in here)):
            yield replace(found, events=some, partial=True)


def surveyed(name: str, *, few: bool = False) -> None:
    """The table for parts of a run, which lack what whole models have."""
    seen: set[frozenset[tuple[str, tuple[str, ...]]]] = set()
    for part in parts(subject_of(without_gradients(smallest()[name])).survey):
        key = frozenset((used.op, tuple(path.rpartition("/")[2] for path in used.paths)) for used in part.events)
        if key not in seen or not few:
            seen.add(key)
            assert all(isinstance(candidate, Candidate) for candidate in candidates(part))


LAYERED = ("PerceiverResampler", "GatedCrossAttentionBlock", "PerceiverForMaskedLM", "Perceiver")


@pytest.mark.parametrize("name", [n for n in smallest() if n.rpartition("/")[2] in LAYERED])
def test_the_table_fits_every_part_of_a_model(name: str) -> None:
    surveyed(name, few=True)


@pytest.mark.heavy
@pytest.mark.parametrize("name", smallest())
def test_the_table_fits_every_part_of_every_class(name: str) -> None:
    surveyed(name)


def wrong_gradients(graph: Graph) -> Iterator[tuple[str, Wrong]]:
    """Of each wrong backward rule one, and some gradients that stop."""
    for row in ROWS:
        yield from ((f"{row.cause} {row.variant}", wrong) for wrong in list(row.candidates(graph))[:1])
    stopped = list(flows(graph))
    yield from (("stopped", wrong) for wrong in stopped[:: max(len(stopped) // 3, 1)])


def backward(name: str, *, all_rows: bool) -> None:
    """Wrong gradients of a class, beside right outputs and beside wrong ones."""
    case = read_case(smallest()[name])
    if not case.cotangents or not (case.grad_params or case.grad_inputs):
        return
    case = replace(case, trace={})
    subject = subject_of(case)
    with np.errstate(all="ignore"):
        graph = record(subject.run, subject.params, subject.inputs, on(support.BACKEND, case.cotangents))
        target = Target(subject, graph, dict)
        for number, (words, wrong) in enumerate(wrong_gradients(graph)):
            if not all_rows and not chosen(name, words):
                continue
            changes = wrong.changes or {
                i: lambda step, g: [None if x is None else 0.0 * x for x in step.pull(g)] for i, _ in wrong.places
            }
            try:
                named = {**target.named, **target.changed(graph.again(changes))}
            except (ValueError, TypeError, IndexError):  # the rule does not fit the shapes here
                continue
            params = {n.removeprefix("grad_param/"): a for n, a in named.items() if n.startswith("grad_param/")}
            inputs = {n.removeprefix("grad_input/"): a for n, a in named.items() if n.startswith("grad_input/")}
            outputs = {n: a + (number % 3 == 2) for n, a in case.outputs.items()}
            bad = replace(case, grad_params=params, grad_inputs=inputs, outputs=outputs)
            assert judged(bad, name, words) in VERDICTS


@pytest.mark.parametrize("peer", ["idefics2", "lucidrains-flamingo", "open-flamingo"])
def test_wrong_gradients_of_some_classes_get_a_verdict(peer: str) -> None:
    for name in smallest():
        if name.startswith(f"{peer}/"):
            backward(name, all_rows=False)


@pytest.mark.heavy
@pytest.mark.parametrize("name", smallest())
def test_wrong_gradients_of_every_class_get_a_verdict(name: str) -> None:
    backward(name, all_rows=True)


STRANGE = {
    "zeros": np.zeros_like,
    "NaN": lambda a: np.full_like(a, np.nan),
    "one infinity": lambda a: np.where(np.arange(a.size).reshape(a.shape) == 0, np.inf, a),
    "huge": lambda a: a * 1e300,
    "constants": np.ones_like,
}
"""What a broken port may give."""


@pytest.mark.parametrize("strange", STRANGE)
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_what_a_broken_port_gives_gets_a_verdict(strange: str, dtype: str) -> None:
    case = read_case(smallest()["open-flamingo/GatedCrossAttentionBlock"])
    outputs = {n: STRANGE[strange](a) for n, a in case.outputs.items()}
    made = replace(case, meta={**case.meta, "dtype": dtype}, outputs=outputs)
    assert judged(made, strange, budget=BRIEF) in VERDICTS
