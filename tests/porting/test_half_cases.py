"""Cases of half precision in which a correct implementation is off by more than the usual tolerance.

tests/porting/half has runs of flamingo-pytorch by PyTorch in bfloat16 and float16, of random weights that make
attention sharp (tests/heavy/half_cases.py); half/added has one of transformers' IDEFICS in float16.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from porting.cases import case_of

from perceiver_ref.porting import check_case, diagnose, half
from perceiver_ref.porting.cases import Case, read_case
from perceiver_ref.porting.cases.compare import TOLERANCES
from perceiver_ref.porting.deviations.precision import everything
from perceiver_ref.porting.subject import Subject

FILES = sorted((Path(__file__).parent / "half").glob("*.npz"))
every_case = pytest.mark.parametrize("case", [read_case(path) for path in FILES], ids=[path.stem for path in FILES])


@every_case
def test_what_rounding_makes_passes_and_is_told(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    result = check_case(case)
    assert result.status == "pass", result.worst
    assert any(f"rounding of {case.meta['dtype']} makes in this model" in note for note in result.notes)
    usual = TOLERANCES[case.meta["dtype"]]
    larger = [a for a in result.agreements if a.tolerance > usual["gradient" if "grad" in a.kind else "output"]]
    assert larger
    assert all(a.tolerance <= 0.5 for a in larger)  # these tell something of every array
    monkeypatch.setattr(half, "FORMATS", ())
    assert check_case(case).status == "fail"


@every_case
def test_real_errors_fail(case: Case) -> None:
    """A weight negated or of another order, an output with two features exchanged, twice as large, a gradient
    negated."""
    rng = np.random.default_rng(3)
    out = next(iter(case.outputs))
    spoilt = {
        "exchanged": replace(case, outputs={**case.outputs, out: case.outputs[out][..., ::-1]}),
        "twice": replace(case, outputs={**case.outputs, out: 2 * case.outputs[out]}),
    }
    matrices = [name for name, array in case.params.items() if array.ndim == 2]
    for name in rng.permutation(matrices)[:2]:
        array = case.params[name]
        spoilt[f"-{name}"] = replace(case, params={**case.params, name: -array})
        spoilt[f"rolled {name}"] = replace(case, params={**case.params, name: np.roll(array, 1, 0)})
        gradient = case.grad_params[name]
        if np.abs(gradient).max() > 1:
            spoilt[f"-grad {name}"] = replace(case, grad_params={**case.grad_params, name: -gradient})
    passed = [what for what, wrong in spoilt.items() if check_case(wrong).status == "pass"]
    assert passed == []


def test_scores_that_a_mask_was_added_to_are_rounded_with_it() -> None:
    """Of texts without an image, scores of about 20 on which -65504 was added: float16 has those in steps of 32, so
    that one key in place of all is attended to."""
    case = read_case(Path(__file__).parent / "half" / "added" / "gated_float16.npz")
    found = diagnose(case)
    assert found.verdict == "rounding"
    assert found.dtype == "float16"
    subject = Subject(case, "numpy")
    runs = [subject.deviating((candidate,)) for candidate in everything(subject.survey, "float16")]
    made = [run["trace/cross_attn"] for run in runs if run is not None]
    assert any(np.array_equal(array.astype(np.float16), case.trace["cross_attn"]) for array in made)
    case.outputs["out"] = case.outputs["out"] * np.float16(1.1)
    assert diagnose(case, budget=1.0).verdict != "rounding"


@every_case
def test_errors_beyond_what_rounding_makes_fail(case: Case) -> None:
    usual = TOLERANCES[case.meta["dtype"]]["output"]
    for found in check_case(case).agreements:
        if found.kind == "output":
            beyond = 2 * found.tolerance if found.tolerance > usual else 1.2 * half.OWN
            array = case.outputs[found.name].copy()
            array.flat[1] += beyond * max(np.abs(array).max(), 1)
            wrong = check_case(replace(case, outputs={**case.outputs, found.name: array}))
            assert [a.name for a in wrong.agreements if a.kind == "output" and not a.passed] == [found.name]


def test_a_well_conditioned_model_is_held_to_the_usual_tolerance() -> None:
    """An error of three times that is not taken for rounding."""
    case = case_of("lucidrains-flamingo/resampler_half")
    (name,) = case.outputs
    array = case.outputs[name].copy()
    array.flat[5] += 3 * TOLERANCES["float16"]["output"] * np.abs(array).max()
    result = check_case(replace(case, outputs={name: array}))
    assert [(a.kind, a.name) for a in result.agreements if not a.passed] == [("output", name)]


@every_case
def test_a_tolerance_of_the_case_is_kept(case: Case) -> None:
    meta = {**case.meta, "tolerance": dict(TOLERANCES[case.meta["dtype"]])}
    result = check_case(replace(case, meta=meta))
    assert result.status == "fail"
    assert not any("rounding" in note for note in result.notes)


def test_large_cases_are_not_measured_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(half, "MOST", 10)
    result = check_case(read_case(FILES[0]))
    assert result.status == "fail"
    assert any("it is not measured how much rounding makes" in note for note in result.notes)
