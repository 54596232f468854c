"""What an audit says of cases: weak ones are found weak, by the name of what they would let pass; strong ones are not.

A pack is planted weak by sizes alone: with 2 heads of width 2 a scale of 1 / sqrt(heads) is 1 / sqrt(width), so that no
case of such a model can fail for it. That follows from arithmetic, not from our own runs.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cli.command import invoke

import perceiver_ref as pr
from perceiver_ref.cli.main import main
from perceiver_ref.porting.audit import Audit, audited
from perceiver_ref.porting.audit.alike import alike
from perceiver_ref.porting.audit.cover import cover
from perceiver_ref.porting.audit.equal import EQUAL, reason
from perceiver_ref.porting.audit.matrix import ModelAudit
from perceiver_ref.porting.audit.trial import CaseUnderAudit, Clock, Trial
from perceiver_ref.porting.cases import Case, write_case
from perceiver_ref.porting.cases.execution import rebuild, run
from perceiver_ref.porting.deviations import CAUSES
from perceiver_ref.porting.export.adversarial import rows
from perceiver_ref.porting.export.make import ExportOptions, make
from perceiver_ref.porting.export.pack import own_subject
from perceiver_ref.porting.export.small import Small, small
from perceiver_ref.porting.gradients.backward import GRADIENT_CAUSES

WEAK = Small(latents=3, channels=4, heads=2, layers=1)
STRONG = Small(latents=5, channels=15, heads=3, layers=2)
RESAMPLER = "flamingo/resampler-3b"
BY_HEADS = ("attention-scale", "scale 1 / sqrt(heads), everywhere")


def cases(preset: str, to: Small, chosen: list[str] | None = None, *, gradients: bool = False) -> Iterator[Case]:
    model, sizes = small(pr.preset(preset), to)
    subject = own_subject(preset, preset, model, sizes, "")
    for row in rows(subject, chosen):
        yield make(subject, row, ExportOptions(trace=False, gradients=gradients))


def only(made: Audit) -> ModelAudit:
    (model,) = made.models.values()
    return model


@pytest.fixture(scope="module")
def strong() -> ModelAudit:
    return only(audited(cases(RESAMPLER, STRONG, gradients=True), every=False))


@pytest.fixture(scope="module")
def weak() -> ModelAudit:
    return only(audited(cases(RESAMPLER, WEAK, ["plain"]), every=False))


def test_two_heads_of_width_two_are_found_weak(weak: ModelAudit) -> None:
    assert BY_HEADS in weak.missed
    assert weak.score < 1


def test_three_heads_of_width_five_tell_all_apart(strong: ModelAudit) -> None:
    assert strong.missed == []
    assert strong.score == 1
    assert BY_HEADS in strong.told


def test_every_kind_of_deviation_of_the_model_is_there(strong: ModelAudit) -> None:
    causes = strong.causes()
    assert {"attention-scale", "latents-not-in-keys", "time-embedding", "dtype", "block-order"} <= set(causes)
    assert {"gradient-stopped", "softmax-backward", "norm-backward"} <= set(causes)
    assert set(causes) <= {*CAUSES, *GRADIENT_CAUSES}
    assert all(told == every > 0 for told, every in causes.values())


def test_what_a_model_has_not_got_does_not_count(strong: ModelAudit) -> None:
    """A resampler has no Fourier features, so that nothing of them is tried; what is tried and changes nothing is told
    apart from what counts."""
    assert strong.idle
    assert not set(strong.idle) & strong.told
    assert not {"fourier-order", "fourier-frequencies", "position-grid"} & set(strong.causes())


def test_a_few_cases_are_enough(strong: ModelAudit) -> None:
    chosen = {name for name, _ in strong.cover()}
    assert set().union(*(case.told for case in strong.cases if case.name in chosen)) == strong.told
    assert len(chosen) < len(strong.cases)


def test_the_weakness_is_told_by_the_case_alone_whatever_the_seed() -> None:
    for case in cases(RESAMPLER, WEAK, ["plain"]):
        under = CaseUnderAudit(case)
        (trial,) = under.forward(lambda key: key == BY_HEADS, Clock())
        assert trial.touched
        assert not trial.told
        assert trial.tolerances == 0


def test_a_table_of_positions_that_was_made_before_touches_nothing() -> None:
    (case,) = cases("perceiver-io/imagenet-fourier", Small(latents=5, channels=15, heads=3, layers=1), ["plain"])

    def of_the_case_itself(key: tuple[str, str]) -> bool:
        return key == ("layer-norm-eps", "epsilon 1e-05: everywhere, everywhere")

    first = list(CaseUnderAudit(case).forward(of_the_case_itself, Clock()))
    run(*rebuild(case), case.inputs, case.meta["call"])  # keeps the table
    again = list(CaseUnderAudit(case).forward(of_the_case_itself, Clock()))
    assert [trial.touched for trial in (*first, *again)] == [False, False]


def test_deviations_that_there_is_no_time_for_are_named() -> None:
    made = audited(cases(RESAMPLER, WEAK, ["plain"]), seconds=1e-9)
    assert only(made).untried
    assert not made.complete


def of_keys(variant: str) -> bool:
    return variant.startswith("bias of attention/key,") or variant.endswith("attention/key/bias alone")


def test_a_bias_of_keys_cannot_be_told_and_the_reason_is_given() -> None:
    """Softmax does not change with what is added to all logits of a query: bias . q is the same for every key."""
    (case,) = cases("perceiver-io/starcraft", replace(STRONG, length=5), ["plain"])
    made = Audit(gradients=False)
    under = CaseUnderAudit(case)
    made.models["m"] = model = ModelAudit("m")
    for trial in under.forward(lambda key: key[0] == "bias-missing", Clock()):
        model.largest[trial.key] = trial.tolerances
        assert trial.told != of_keys(trial.key[1])
    equal = [variant for cause, variant in model.equal]
    assert equal
    assert all(map(of_keys, equal))


@pytest.mark.parametrize("row", EQUAL, ids=lambda row: f"{row.cause}: {row.why}")
def test_no_reason_excuses_what_can_be_seen(row) -> None:
    variant = {r"bias of attention/key,|.*attention/key/bias alone$": "bias of attention/key, everywhere"}.get(
        row.variant, row.variant
    )
    assert reason((row.cause, variant), {}, 50.0) == ""


def test_a_head_layout_is_excused_by_one_head_alone() -> None:
    from perceiver_ref.porting.audit.equal import Attended

    key = ("head-layout", "(d h) in splitting, everywhere")
    assert reason(key, {"a.attention": Attended(1, False, False, True, True, 5, True)}, 0.0)
    assert not reason(key, {"a.attention": Attended(2, False, False, True, True, 5, True)}, 0.0)


def test_joining_without_a_transpose_is_excused_by_one_query_alone() -> None:
    from perceiver_ref.porting.audit.equal import Attended

    key = ("head-layout", "joined by a reshape without a transpose, everywhere")
    assert reason(key, {"a.attention": Attended(3, False, False, True, True, 1, True)}, 0.0)
    assert not reason(key, {"a.attention": Attended(3, False, False, True, True, 5, True)}, 0.0)


def test_normed_queries_are_excused_where_nothing_is_normed() -> None:
    from perceiver_ref.porting.audit.equal import Attended

    for key in (
        ("query-residual", "the normed queries are added, everywhere"),
        ("mlp-residual", "the normed input is added to the MLP's output, everywhere"),
    ):
        assert reason(key, {"a.attention": Attended(3, False, False, True, False, 5, True)}, 0.0)
        assert not reason(key, {"a.attention": Attended(3, False, False, True, True, 5, True)}, 0.0)


def trial(*marks: float) -> Trial:
    array = np.array(marks)
    return Trial(("a", str(marks)), float(np.abs(array).max()), True, array)


def test_what_does_the_same_has_one_number_and_what_is_not_told_has_none() -> None:
    numbers = alike([trial(1e6, 0), trial(1e6, 50), trial(0, 1e6), trial(3, 4), trial(1e6, 0, 0), trial(-1e6, 0)])
    assert numbers[0] == numbers[1] != 0
    assert numbers[3] == 0
    assert len({numbers[0], *numbers[2:]}) == 5


def test_sets_are_those_of_comparing_every_two() -> None:
    rng = np.random.default_rng(0)
    centres = rng.uniform(-3e4, 3e4, (30, 7))
    trials = [trial(*(centres[i % 30] + rng.uniform(-40, 40, 7))) for i in range(150)]
    numbers = alike(trials)
    for i, j in itertools.combinations(range(150), 2):
        near = np.abs(trials[i].marks - trials[j].marks).max() <= 100
        assert (numbers[i] == numbers[j]) == near


def test_a_cover_tells_all_and_takes_the_largest_first() -> None:
    told = {"a": {1, 2, 3}, "b": {3, 4, 5, 6}, "c": {1, 2}, "d": {7}}
    assert cover(told) == [("b", 4), ("a", 2), ("d", 1)]


def test_the_command_names_what_is_missed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for case in cases(RESAMPLER, WEAK, ["plain"]):
        write_case(tmp_path / "weak.npz", case)
    report = tmp_path / "report.json"
    assert main(["export", str(tmp_path / "weak.npz"), "--audit", "--json", str(report)]) == 1
    assert f"not told apart: {BY_HEADS[0]} ({BY_HEADS[1]})" in capsys.readouterr().out
    found = json.loads(report.read_text())["audit"]
    assert found["complete"] is False
    assert {"cause": BY_HEADS[0], "variant": BY_HEADS[1], "tolerances": 0.0} in found["models"][0]["missed"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--budget", "3", "flamingo/resampler-3b", "--out", "x"], "--budget"),
        (["--audit", "--budget", "0"], "--budget"),
        (["--audit", "."], "no cases"),
        (["--audit", ".", "--sizes", "heads=2"], "leave out"),
        ([], "--pack"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    done = invoke(capsys, "export", *arguments)
    assert done.code == 2
    (line,) = done.err.strip().splitlines()
    assert says in line
