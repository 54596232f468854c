"""The table of cases: every row builds and computes at its quick sizes, in each of our forms."""

from __future__ import annotations

import numpy as np
import pytest

from bench.base import Spec, difference
from bench.case import BOTH, IMPORT, PASSES, STEP, BenchCase
from bench.cases import CASES, case, chosen
from bench.implementations import IMPLEMENTATIONS, build, measured
from bench.scaling import AXES, POINTS, points
from bench.subjects import subject
from bench.targets import TARGETS, TORCH
from perceiver_ref.errors import InputError

ROWS = {**CASES, **{next(name for name in POINTS if f"-{axis}-" in name): None for axis in AXES}}
OURS = [
    (name, implementation)
    for name in ROWS
    for implementation in case(name).implementations
    if implementation in ("ours", "plain", "checkpointed", "recorded", "recorded 3xtf32", "ours elementary")
]
ROUNDING = 1e-4
"""Of float32 results that two orders of summation give, as a share of the largest: some hundred roundings of 6e-8."""


def only_on_a_gpu(implementation: str, backend: str) -> None:
    if IMPLEMENTATIONS[implementation].gpu and backend == "numpy":
        pytest.skip("needs a GPU: pytest --backend cupy")


@pytest.mark.parametrize(("name", "implementation"), OURS)
def test_a_row_computes_at_its_quick_sizes(name: str, implementation: str, backend: str) -> None:
    only_on_a_gpu(implementation, backend)
    made = build(Spec(name, implementation, quick=True, backend=backend))
    assert made.passes
    for pass_name, run in made.passes.items():
        vector = made.summaries[pass_name](run())
        assert np.isfinite(vector).all()
        assert pass_name == IMPORT or np.abs(vector).max() > 1e-3  # not a comparison of zeros


@pytest.mark.parametrize("implementation", ["plain", "checkpointed", "recorded", "recorded 3xtf32"])
@pytest.mark.parametrize("name", ["imagenet-1", "language-1"])
def test_our_forms_compute_the_same(name: str, implementation: str, backend: str) -> None:
    only_on_a_gpu(implementation, backend)
    vectors = []
    for which in ("ours", implementation):
        made = build(Spec(name, which, quick=True, backend=backend))
        vectors.append(made.summaries[BOTH](made.passes[BOTH]()))
    assert difference(*vectors) < ROUNDING


def test_a_checkpointed_model_keeps_less(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its layers run twice, forward and on the way back; a model that is not checkpointed runs them once."""
    from perceiver_ref.models.attention import SelfAttention

    layers = 4  # two blocks of two at the quick sizes
    for which, times in (("ours", 1), ("checkpointed", 2)):
        made = build(Spec("imagenet-1", which, quick=True))
        runs: list[int] = []
        original = SelfAttention._finished
        monkeypatch.setattr(SelfAttention, "_finished", lambda *a, f=original, r=runs: (r.append(1), f(*a))[1])
        made.passes[BOTH]()
        monkeypatch.undo()
        assert len(runs) == times * layers, which


def test_the_steps_of_training_learn(backend: str) -> None:
    made = build(Spec("training-step", "ours", quick=True, backend=backend))
    losses = [float(made.summaries[STEP](made.passes[STEP]())[0]) for _ in range(20)]
    assert losses[-1] < losses[0]


def test_the_engine_written_twice_is_one_function(backend: str) -> None:
    vectors = []
    for which in ("ours", "ours elementary"):
        made = build(Spec("engine", which, quick=True, backend=backend))
        vectors.append(made.summaries[BOTH](made.passes[BOTH]()))
    assert difference(*vectors) < ROUNDING


def test_flops_are_those_of_the_ledger() -> None:
    """Of a resampler, counted by the ledger from shapes alone."""
    from perceiver_ref.models.ledger import ledger

    row = CASES["resampler"]
    made = subject(row.kind, row.quick)
    counted = build(Spec("resampler", "ours", quick=True)).flops
    flops = ledger(made.rebuild().model, made.inputs["x"]).flops
    assert counted("forward") == flops
    assert counted("forward + backward") == 3 * flops


def test_rows_name_what_there_is() -> None:
    for row in (*CASES.values(), *POINTS.values()):
        assert row.implementations[0] == "ours"
        assert set(row.implementations) <= set(IMPLEMENTATIONS)
        assert set(row.passes) <= set(PASSES)
        assert set(row.full) == set(row.quick)
        assert all(who in row.implementations and name in row.passes for who, name in row.gib)


def test_targets_name_what_there_is() -> None:
    for target in TARGETS:
        if target.case.startswith("scaling-"):
            assert target.case.removeprefix("scaling-") in AXES
            continue
        row = case(target.case)
        assert target.name in row.passes
        assert target.implementation in row.implementations
        assert target.against in ("", TORCH, *row.implementations)


def test_an_unknown_case_lists_all() -> None:
    with pytest.raises(InputError) as caught:
        chosen(["imagenet"])
    assert all(name in str(caught.value) for name in (*CASES, *POINTS))


@pytest.mark.parametrize("on", ["numpy", "cupy"])
def test_scaling_stands_for_its_points(on: str) -> None:
    assert chosen(["scaling"], on) == points(on)
    sizes = AXES["M"].full if on == "numpy" else AXES["M"].gpu
    assert [row.name for row in chosen(["scaling-M", "engine"], on)] == [*(f"scaling-M-{n}" for n in sizes), "engine"]
    assert chosen(["scaling-depth"], on) == [POINTS[f"scaling-depth-{n}"] for n in AXES["depth"].full]
    assert chosen(None, on) == [*CASES.values(), *points(on)]


def test_compiled_peers_are_measured_on_a_gpu_or_when_named() -> None:
    row: BenchCase = CASES["resampler"]
    assert "flamingo-pytorch compiled" not in measured(row, "numpy", None, False)
    assert "flamingo-pytorch compiled" in measured(row, "cupy", None, False)
    assert measured(row, "numpy", ["flamingo-pytorch compiled"], False) == ["ours", "flamingo-pytorch compiled"]
