"""Runs with deviations many at once give what each gives by itself, or say that they cannot tell."""

from __future__ import annotations

import gc
import random
import tracemalloc
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from porting.cases import case_of
from porting.diagnosing import diagnose

from perceiver_ref.autograd import ops
from perceiver_ref.autograd.observing import observe
from perceiver_ref.porting.deviations import Candidate, candidates
from perceiver_ref.porting.diagnosis.envelope import Roundings
from perceiver_ref.porting.diagnosis.fit import Fit
from perceiver_ref.porting.diagnosis.search import Search, _Score
from perceiver_ref.porting.subject import Arrays, Subject
from perceiver_ref.porting.subject.tiles import Tiles

CASES = (
    "hf/model_mask_holes",
    "hf/image_fourier_small",
    "hf/multimodal_full",
    "lucidrains-perceiver/perceiver_2d_mask",
    "open-flamingo/resampler_embs",
    "open-flamingo/gated_immediate",
    "deepmind/imagenet_conv1x1_trainable_project",
    "perceiver-ar/ar_absolute_fourier",
)
"""Of every kind of input: features, grids, several modalities, media; masks; tables and Fourier features"""
MOST = 130
"""So many deviations of a case are looked at"""
CLOSE = 1e-9
"""Of values of size 1: float64 that was summed in another order leaves 1e-14, of sums of some hundred"""
KINDS: dict[str, Callable[[Candidate], bool]] = {
    "parameters": lambda c: c.change.params is not None,
    "parts": lambda c: c.change.parts is not None and c.change.ops is None and not c.change.keeps,
    "ops": lambda c: c.change.ops is not None and c.change.parts is None and not c.change.keeps,
}


def chosen_of(subject: Subject, seed: int) -> list[Candidate]:
    found = [c for c in candidates(subject.survey) if c.cause != "dtype"]
    return random.Random(seed).sample(found, min(MOST, len(found)))


def same(one: Arrays, other: Arrays) -> bool:
    return one.keys() == other.keys() and all(
        one[n].shape == other[n].shape
        and np.allclose(one[n], other[n], 0.0, CLOSE * max(1.0, _largest(other[n])), equal_nan=True)
        for n in one
    )


def check_each(made: list[Arrays | None], chosen: list[Candidate], alone: Callable[[Candidate], Arrays | None]) -> None:
    """What is told of most of these is what each gives alone."""
    told = [(c, m) for c, m in zip(chosen, made) if m is not None]
    assert len(told) > 0.75 * len(chosen)
    for candidate, arrays in told:
        own = alone(candidate)
        assert own is not None, candidate
        assert same(arrays, own), (candidate.cause, candidate.variant)


def _largest(array: np.ndarray) -> float:
    return float(np.abs(array[np.isfinite(array)]).max(initial=0.0))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kind", [None, *KINDS])
def test_many_at_once_give_what_each_gives(name: str, kind: str | None) -> None:
    subject = Subject(replace(case_of(name), trace={}))
    tiles, chosen = Tiles(subject), chosen_of(subject, len(name))
    first = () if kind is None else tuple(c for c in candidates(subject.survey) if KINDS[kind](c))[3:4]
    assert tiles.usable
    check_each(tiles.run(first, chosen), chosen, lambda candidate: subject.deviating((*first, candidate)))


@pytest.mark.parametrize("name", ["hf/model_mask_holes", "deepmind/mlm_fully_masked_row", "hf/image_fourier_small"])
@pytest.mark.parametrize("kind", [None, "parts"])
def test_so_do_runs_from_the_values_of_a_case(name: str, kind: str | None) -> None:
    case = case_of(name)
    subject = Subject(replace(case, trace={n: a * 1.01 if a.dtype.kind == "f" else a for n, a in case.trace.items()}))
    tiles, chosen = Tiles(subject), chosen_of(subject, 5)
    first = () if kind is None else tuple(c for c in candidates(subject.survey) if KINDS[kind](c))[3:4]
    assert subject.given
    made = tiles.run(first, chosen, subject.given)
    check_each(made, chosen, lambda candidate: subject.from_given((*first, candidate)))


def test_a_run_leaves_no_arrays_behind() -> None:
    """Without the collector, too: searches make thousands of runs, and it does not count what arrays take."""
    subject = Subject(replace(case_of("hf/model_mask_holes"), trace={}))
    tiles, chosen, sizes = Tiles(subject), chosen_of(subject, 7)[:20], []
    with observe(lambda event: sizes.append(sum(a.nbytes for a in event.outputs))):
        subject.run(subject.params, tiles.inputs)
    tiles.run((), chosen)
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        tiles.run((), chosen)
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(4):
            tiles.run((), chosen)
        left = (tracemalloc.get_traced_memory()[0] - before) / 4
    finally:
        tracemalloc.stop()
        gc.enable()
    assert left < 0.2 * sum(sizes)  # classes with exchanged methods, each in a circle with itself


@contextmanager
def run_as(monkeypatch: pytest.MonkeyPatch, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    original = Subject.run
    monkeypatch.setattr(Subject, "run", lambda self, *arguments: change(original(self, *arguments)))
    yield


@pytest.mark.parametrize(
    "change",
    [
        lambda made: {n: ops.subtract(a, ops.mean(a, axis=0, keepdims=True)) for n, a in made.items()},
        lambda made: {n: a[::-1] for n, a in made.items()},
        lambda made: {n: ops.sum(a, axis=None) for n, a in made.items()},
    ],
    ids=["examples that meet", "examples in another order", "no examples"],
)
def test_what_is_not_of_each_example_alone_is_not_run_so(
    change: Callable[[dict[str, Any]], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with run_as(monkeypatch, change):
        case = replace(case_of("hf/model_mask_holes"), trace={})
        subject = Subject(replace(case, outputs={n: np.asarray(a) for n, a in _outputs(case).items()}))
        assert not Tiles(subject).usable


def _outputs(case: Any) -> dict[str, Any]:
    subject = Subject(replace(case, outputs={}))
    return {n: a for n, a in subject.run(subject.params, subject.inputs).items() if n in case.outputs}


def planted(name: str, *wanted: tuple[str, str]) -> tuple[Subject, tuple[Candidate, ...]]:
    """A case without traced points with the outputs of deviations, by cause and variant."""
    subject = Subject(replace(case_of(name), trace={}))
    known = {(c.cause, c.variant): c for c in candidates(subject.survey)}
    chosen = tuple(known[key] for key in wanted)
    made = subject.deviating(chosen)
    assert made is not None
    outputs = {n.removeprefix("output/"): a for n, a in made.items()}
    return Subject(replace(subject.case, outputs=outputs)), chosen


def test_two_of_positions_are_found_though_one_does_nothing_alone() -> None:
    """Frequencies that differ by whole numbers are the same on a grid whose points are -1, 0 and 1."""
    subject, _ = planted(
        "lucidrains-perceiver/perceiver_2d",
        ("fourier-frequencies", "up to the whole resolution"),
        ("position-grid", "from -1/2 to 1/2"),
    )
    found = diagnose(subject.case)
    assert (found.verdict, sorted(found.causes)) == ("deviation", ["fourier-frequencies", "position-grid"])


def test_biases_of_all_but_the_inputs_are_one_deviation() -> None:
    right = case_of("hf/image_learned")
    kept = {
        n: a if "preprocessor" in n or "norm" in n or not n.endswith("bias") else np.zeros_like(a)
        for n, a in right.params.items()
    }
    wrong = Subject(replace(right, params=kept, trace={}, outputs={}))
    outputs = {n: a for n, a in wrong.run(wrong.params, wrong.inputs).items() if n in right.outputs}
    found = diagnose(replace(right, outputs=outputs, trace={}))
    assert (found.verdict, found.causes) == ("deviation", ["bias-missing"])


def test_an_explanation_has_none_that_it_is_as_good_without() -> None:
    """The epsilon of norms that are left out is of no account."""
    subject, (residual, norm) = planted(
        "hf/model_mask_holes",
        ("mlp-residual", "missing in cross-attention"),
        ("norm-missing", "query_norm left out, everywhere"),
    )
    errors, known = subject.errors(subject.ours), {(c.cause, c.variant): c for c in candidates(subject.survey)}
    search = Search(subject, subject.ours, errors, Roundings(subject, subject.ours))
    epsilon = known["layer-norm-eps", "epsilon 1: norms of queries, everywhere"]
    kept = search._needed(_Score(0.0, (epsilon, residual, norm)))
    assert kept.chosen == (residual, norm)
    assert Fit(subject, subject.ours, {}).remaining(subject.deviating(kept.chosen) or {}) < 1e-6
