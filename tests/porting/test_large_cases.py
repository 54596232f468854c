"""Large cases are diagnosed from one traced point to the next; here small ones are taken for large.

What is planted are other options, weights or inputs of the model, as in `test_diagnose`; the full sizes, with what is
planted in the live peer, are in tests/heavy/test_full_size_diagnosis.py.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import support
from porting.diagnosing import diagnose, on_backend, subject_of
from porting.test_diagnose import PLANTED, case_of, option, outputs_of, planted, taller

from perceiver_ref.cli import main
from perceiver_ref.host.budget import Budget, in_time, spending
from perceiver_ref.porting.cases import Case, write_case
from perceiver_ref.porting.deviations import Candidate
from perceiver_ref.porting.diagnosis.screen import Screen
from perceiver_ref.porting.subject import Subject, course, large

pytestmark = on_backend


@pytest.fixture(autouse=True)
def all_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large, "LARGE", 0)


def in_float32(case: Case) -> Case:
    """The case with everything stored in float32."""

    def narrow(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {n: a.astype(np.float32) if a.dtype.kind == "f" else a for n, a in arrays.items()}

    fields: dict[str, Any] = {n: narrow(getattr(case, n)) for n in ("params", "state", "inputs", "outputs", "trace")}
    return replace(case, meta={**case.meta, "dtype": "float32"}, **fields)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("plant", PLANTED)
def test_a_planted_deviation_is_named(plant: str, dtype: str) -> None:
    cause, name, change = PLANTED[plant]
    case = planted(name, change, traced=True)
    found = diagnose(in_float32(case) if dtype == "float32" else case)
    assert (found.verdict, found.causes) == ("deviation", [cause])
    assert found.first_divergence == diagnosed_whole(case).first_divergence
    # float32's rounding from the last traced point on, in parts of what the deviation changes
    assert found.explanation[0].remaining < (1e-6 if dtype == "float64" else 1e-3)


def diagnosed_whole(case: Case) -> Any:
    """The first traced point that is off by more than rounding, by the errors of a float64 run."""
    subject = subject_of(case)
    errors = subject.errors(subject.ours)
    first = next((n for n, e in errors.items() if e > 1e-9), "")

    class Found:
        first_divergence = first.removeprefix("trace/") if first.startswith("trace/") else None

    return Found


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_what_agrees_has_no_deviation(dtype: str) -> None:
    case = outputs_of(case_of("hf/model_mask_holes"), traced=True)
    found = diagnose(in_float32(case) if dtype == "float32" else case)
    assert found.verdict in (("match",) if dtype == "float64" else ("match", "rounding"))
    assert found.causes == []


def test_two_at_once_are_found_one_after_the_other() -> None:
    def change(case: Case) -> Case:
        return PLANTED["another activation"][2](PLANTED["padding not left out"][2](case))

    found = diagnose(in_float32(planted("hf/model_mask_holes", change, traced=True)))
    assert (found.verdict, sorted(found.causes)) == ("deviation", ["activation", "mask-ignored"])


def test_one_layer_among_many_is_named_where_it_is() -> None:
    case = taller(case_of("hf/model_mask_holes"))
    name = "encoder.self_attends.2.attention.self.value.bias"
    wrong = outputs_of(replace(case, params=case.params | {name: 0 * case.params[name]}), traced=True)
    found = diagnose(in_float32(replace(case, outputs=wrong.outputs, trace=wrong.trace)))
    assert (found.verdict, found.causes) == ("deviation", ["bias-missing"])
    assert found.explanation[0].variant.endswith("in encoder.blocks.0.2")


def test_few_rows_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every array with more than two rows is taken for one of many."""
    for name, value in (("ROWS", 2), ("MANY", 2), ("HEAVY", 1)):
        monkeypatch.setattr(course, name, value)
    looked: list[int] = []
    rows_of = course.rows_of
    from perceiver_ref.porting.diagnosis import local

    monkeypatch.setattr(local, "rows_of", lambda apart: looked.append(len(rows := rows_of(apart))) or rows)
    found = diagnose(in_float32(planted("hf/model_mask_holes", option(hidden_act="gelu_new"), traced=True)))
    assert (found.verdict, found.causes) == ("deviation", ["activation"])
    assert looked
    assert max(looked) <= 2


def test_a_budget_ends_a_search(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clock = iter(range(100))
    with spending(Budget(3, lambda: float(next(clock)))) as budget:
        assert list(in_time("abcdef")) == ["a", "b"]
    assert budget.stopped
    case = outputs_of(case_of("hf/model_mask_holes"), traced=True)
    case.outputs["last_hidden_state"] = case.outputs["last_hidden_state"] + np.random.default_rng(0).random(())
    write_case(tmp_path / "case.npz", case)
    assert main(["diagnose", str(tmp_path / "case.npz"), "--budget", "1e-9"]) == 1
    said = capsys.readouterr().out
    assert said.startswith("unexplained")
    assert "stopped after the budget" in said
    with pytest.raises(SystemExit):
        main(["diagnose", str(tmp_path / "case.npz"), "--budget", "-1"])


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("plant", PLANTED)
def test_without_points_a_planted_deviation_is_named(plant: str, dtype: str) -> None:
    cause, name, change = PLANTED[plant]
    case = planted(name, change, traced=False)
    found = diagnose(in_float32(case) if dtype == "float32" else case)
    assert (found.verdict, found.causes) == ("deviation", [cause])


def test_without_points_the_last_layers_tell_what_is_run_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 231 deviations that are everywhere few are run in the whole model: 270 numbers tell that much."""
    case = taller(case_of("hf/model_mask_holes"))
    wrong = outputs_of(option(hidden_act="quick_gelu")(case), traced=False)
    case = in_float32(replace(case, outputs=wrong.outputs, trace={}))
    whole: list[Candidate] = []
    screened: list[Candidate] = []
    deviating, ending = Subject.deviating, large.LargeSubject.ending

    def counted(self: Any, chosen: Any, gate: Any = None) -> Any:
        whole.append(chosen[0])
        return deviating(self, chosen, gate)

    def looked(self: Any, part: Any, *chosen: Any) -> Any:
        screened.extend(chosen)
        return ending(self, part, *chosen)

    monkeypatch.setattr(Subject, "deviating", counted)
    monkeypatch.setattr(large.LargeSubject, "ending", looked)
    found = diagnose(case)
    assert (found.verdict, found.causes) == ("deviation", ["activation"])
    assert len(screened) > 200
    assert len({candidate for candidate in whole if candidate.cause != "dtype"}) <= 12


def test_the_last_layers_are_run_from_what_is_known_before_them() -> None:
    """Without a deviation they give our outputs again, by far fewer operations."""
    case = replace(taller(case_of("hf/model_mask_holes")), trace={})
    subject = large.LargeSubject(outputs_of(case, traced=False), support.BACKEND)
    screen = Screen(subject, [])
    made = subject.ending(screen.part)
    assert made is not None
    assert 2 * len(screen.part.needed) < len(subject.course.steps)
    for name, ours in made.items():
        np.testing.assert_array_equal(ours, subject.ours[name])
