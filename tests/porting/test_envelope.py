"""The envelope of rounding on stored cases: DeepMind's own in JAX's float32 and float16, and others in NumPy's float32.

Peers run live, by the hundred and in bfloat16 too, are in the heavy tests.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
from porting.cases import case_of
from porting.diagnosing import on_backend, subject_of

from perceiver_ref.autograd import ops
from perceiver_ref.porting.cases import Case
from perceiver_ref.porting.cases.execution import rebuild, run
from perceiver_ref.porting.diagnosis.envelope import MORE, RUNS, Roundings
from perceiver_ref.porting.rounding.arithmetic import DIGITS, arithmetic, lowered, rounded
from perceiver_ref.porting.rounding.attention import attention
from perceiver_ref.porting.rounding.steps import EXACT
from perceiver_ref.porting.subject import Arrays, Subject

pytestmark = on_backend

STORED = {
    "deepmind/attend_mask_float16": "float16",
    "deepmind/attend_mask_float32": "float32",
    "deepmind/imagenet_input_mask_float32": "float32",
    "deepmind/imagenet_pixels_float32": "float32",
}
"""Cases that JAX computed in less than float64."""
FLOAT64 = (
    "hf/model_mask_holes",
    "hf/image_fourier_small",
    "hf/masked_lm",
    "hf/multimodal_full",
    "deepmind/flow_nonsquare",
    "lucidrains-flamingo/resampler_4d",
    "open-flamingo/gated_immediate",
    "idefics2/resampler_mqa_sdpa",
)


def narrow(name: str) -> Case:
    """A case in float64 with what NumPy's float32 makes of it."""
    case = case_of(name)
    rebuilt, arrays = rebuild(case)
    points = {name: rebuilt.point(name)[0] for name in case.trace}
    wanted = set(points.values()).__contains__
    made = run(rebuilt, arrays, case.inputs, case.meta["call"], points=wanted, dtype=np.float32)
    trace = {n: made.trace[ours] for n, ours in points.items() if ours in made.trace}
    fits = {n: array for n, array in trace.items() if array.shape == case.trace[n].shape}
    return replace(case, outputs={n: made.outputs[n] for n in case.outputs}, trace=fits)


def measured(case: Case) -> tuple[Subject, Roundings]:
    subject = subject_of(case)
    return subject, Roundings(subject, subject.compute())


@pytest.mark.parametrize(
    ("name", "dtype"), [*STORED.items(), *((name, "float32") for name in FLOAT64)], ids=[*STORED, *FLOAT64]
)
def test_correct_arithmetic_is_within_the_envelope_and_ten_times_as_much_is_not(name: str, dtype: str) -> None:
    subject, roundings = measured(case_of(name) if name in STORED else narrow(name))
    limits = roundings.at(dtype)
    assert roundings.holds(dtype, subject.errors(roundings.ours))
    right = subject.expected
    computed = [name for name, limit in limits.items() if limit]
    for point in {computed[0], computed[len(computed) // 2], computed[-1]}:
        wrong = right[point].astype(np.float64)
        wrong.flat[wrong.size // 2] += 10 * limits[point] * max(float(np.abs(wrong).max()), 1.0)
        subject.expected = {**right, point: wrong}
        errors = subject.errors(roundings.ours)
        formats = list(DIGITS) if dtype == "float32" else [dtype]  # bfloat16's envelope is but 8 times float16's
        assert [d for d in formats if roundings.holds(d, errors)] == [], point


class Drawn(Roundings):
    """Every run is off by one unit in the last place, and the tenth by three."""

    def runs(self, dtype: str, seeds: Sequence[int] | None = None) -> Iterator[Arrays]:
        for seed in range(RUNS) if seeds is None else seeds:
            self.last = seed
            yield off(self.ours, 3 if seed == 9 else 1)


def off(arrays: Arrays, units: int) -> Arrays:
    """By so many units in the last place of float32, each array of its largest number."""
    return {name: array + units * 2.0**-24 * max(float(np.abs(array).max()), 1.0) for name, array in arrays.items()}


@pytest.mark.parametrize(
    ("units", "runs", "held"), [(3, RUNS, True), (4, 10, True), (11, 30, False), (13, RUNS, False)]
)
def test_an_error_just_beyond_the_first_runs_is_judged_by_more(units: int, runs: int, held: bool) -> None:
    """As far as they go: what is within three times the largest needs no others, what is far beyond gets none."""
    subject, measuring = measured(narrow("open-flamingo/gated_immediate"))
    subject.expected = {**off(measuring.ours, 1), "output/out": off(measuring.ours, units)["output/out"]}
    roundings = Drawn(subject, measuring.ours)
    assert roundings.holds("float32", subject.errors(measuring.ours)) == held
    assert roundings.last == runs - 1
    assert runs <= RUNS + MORE


@pytest.mark.parametrize("name", ["open-flamingo/gated_immediate", "lucidrains-flamingo/resampler_4d"])
def test_more_runs_hardly_widen_the_envelope_of_many_numbers(name: str) -> None:
    """An error of two and a half times the limit is none of rounding, however often it is run."""
    subject, roundings = measured(narrow(name))
    limits, right = dict(roundings.at("float32")), subject.expected
    many = [name for name, limit in limits.items() if limit and right[name].size >= 60]
    assert len(many) > 2
    for point in many:
        wrong = right[point].astype(np.float64)
        wrong.flat[wrong.size // 2] += 2.5 * limits[point] * max(float(np.abs(wrong).max()), 1.0)
        subject.expected = {**right, point: wrong}
        again = Roundings(subject, roundings.ours)
        assert not again.holds("float32", subject.errors(roundings.ours)), point


def test_rounding_of_a_format_is_not_that_of_a_coarser_one() -> None:
    """Errors of float32 are far within bfloat16's envelope, and too small for it."""
    subject, roundings = measured(narrow("open-flamingo/gated_immediate"))
    errors = subject.errors(roundings.ours)
    assert all(e <= roundings.at("bfloat16")[name] for name, e in errors.items())
    assert [dtype for dtype in DIGITS if roundings.holds(dtype, errors)] == ["float32"]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_lowered_values_are_those_of_the_format(dtype: str) -> None:
    """In float16 the numbers below 2^-14 too; ties go to the even one. Infinite values stay, huge ones are finite."""
    rng = np.random.default_rng(0)
    x = (rng.standard_normal(4000) * 10.0 ** rng.integers(-9, 4, 4000)).astype(np.float32)
    near = lowered(x, dtype)
    assert near.dtype == np.float32
    if dtype == "float16":
        np.testing.assert_array_equal(near, x.astype(np.float16).astype(np.float32))
    else:
        np.testing.assert_array_equal(near, rounded(x.astype(np.float64), DIGITS[dtype]).astype(np.float32))
    mask = lowered(np.array([-np.inf, np.finfo(np.float64).min]), dtype)
    assert mask[0] == -np.inf
    assert np.isfinite(mask[1])


@pytest.mark.parametrize("dtype", DIGITS)
@pytest.mark.parametrize("steps", [False, True], ids=["fused", "in steps"])
def test_arithmetic_rounds_every_result(dtype: str, steps: bool) -> None:
    """All that a model traces is in the format; nothing is as in float64."""
    case = case_of("open-flamingo/gated_immediate")
    subject = subject_of(case)
    with arithmetic(dtype, np.random.default_rng(0), steps=steps):
        made = subject.compute()
    for name, array in made.items():
        np.testing.assert_array_equal(lowered(array, dtype), array, err_msg=name)
        assert np.abs(array - case.outputs.get(name[7:], case.trace.get(name[6:]))).max() > 0


@pytest.mark.parametrize("rows", ["zero", "uniform"])
@pytest.mark.parametrize("scaled_first", [False, True])
@pytest.mark.parametrize(("steps", "lowered"), [(False, False), (False, True), (True, False)])
def test_attention_that_rounds_nothing_is_the_op(rows: str, scaled_first: bool, steps: bool, lowered: bool) -> None:
    """With a row that has no key and a key that no row has, whose values are not finite."""
    rng = np.random.default_rng(0)
    q, k, v, bias = (rng.normal(size=shape) for shape in ((2, 4, 3), (2, 5, 3), (2, 5, 6), (4, 5)))
    mask = rng.random((2, 4, 5)) < 0.5
    mask[0, 1] = False
    if rows == "zero":
        mask[..., 2] = False
        k[:, 2] = v[:, 2] = np.nan
    options = {"mask": mask, "masked_rows": rows}
    made = attention(EXACT._replace(steps=steps), (q, k, v, bias), options, scaled_first=scaled_first, lowered=lowered)
    # sums of a few products: some units in the last place of float64
    np.testing.assert_allclose(made, ops.attention(q, k, v, bias, **options), rtol=1e-12, atol=1e-12)


def test_errors_are_told_in_units_of_the_envelope() -> None:
    """Relative to the reference, so that a large error counts in full."""
    subject, roundings = measured(narrow("open-flamingo/gated_immediate"))
    limit = roundings.at("float32")["output/out"]
    ours = roundings.ours["output/out"]
    for units in (0.5, 10.0, 1e9):
        wrong = ours.copy()
        wrong.flat[0] += units * limit * max(float(np.abs(ours).max()), 1.0)
        subject.expected["output/out"] = wrong
        assert roundings.units("output/out")["float32"] == pytest.approx(units, rel=1e-6)
    roundings.known["float32"]["output/out"] = 0.0
    assert roundings.units("output/out")["float32"] == np.inf
    subject.expected["output/out"] = ours
    assert roundings.units("output/out")["float32"] == 0.0
