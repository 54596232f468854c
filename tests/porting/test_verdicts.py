"""Verdicts that were wrong: a right port is accused of nothing, and a format is named only where it fits.

`narrow_resampler.npz` holds what flamingo-pytorch's resampler gave in PyTorch 2.13 on the case of the package: under
autocast on a CPU, with `torch.quantize_per_channel` and `quantize_per_tensor` of the weights of its linear maps, with
weights that were in half precision, and whole in bfloat16.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from porting.cases import case_of
from porting.diagnosing import diagnose, on_backend
from porting.test_diagnose import option, outputs_of
from porting.test_gradients import GATED, RESAMPLER, TEXT, computed, detached

from perceiver_ref.porting import check_case
from perceiver_ref.porting.cases import Case, read_case, write_case
from perceiver_ref.porting.cases.compare import GRADIENT_NOISE, gradient_tolerance, largest_of
from perceiver_ref.porting.deviations.quantized import E4M3, E5M2, FORMS
from perceiver_ref.testing import assert_matches

pytestmark = on_backend

RECORDED = Path(__file__).with_name("narrow_resampler.npz")


def stated(case: Case, dtype: str) -> Case:
    return replace(case, meta={**case.meta, "dtype": dtype})


def bare(name: str) -> Case:
    """A case without gradients."""
    return replace(case_of(name), cotangents={}, grad_params={}, grad_inputs={})


def to_bfloat16(array: np.ndarray) -> np.ndarray:
    """The nearest, ties to even, by the bits of float32."""
    bits = array.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)).view(np.float32)


def in_format(case: Case, change: Callable[[np.ndarray], np.ndarray]) -> Case:
    def group(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {n: change(a) if a.dtype.kind == "f" else a for n, a in arrays.items()}

    return replace(
        case,
        outputs=group(case.outputs),
        trace=group(case.trace),
        grad_params=group(case.grad_params),
        grad_inputs=group(case.grad_inputs),
    )


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("name", [GATED, TEXT, "torch/attention_bool_mask", "optax/adamw_warmup_cosine"])
def test_an_exact_port_matches_whatever_precision_is_stated(name: str, dtype: str) -> None:
    found = diagnose(stated(case_of(name), dtype))
    assert (found.verdict, found.causes) == ("match", [])
    assert found.gradients is None or found.gradients.verdict == "match"


CASTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "float32": lambda a: a.astype(np.float32),
    "float16": lambda a: a.astype(np.float16),
    "bfloat16": to_bfloat16,
}


@pytest.mark.parametrize("dtype", CASTS)
@pytest.mark.parametrize("name", [GATED, RESAMPLER])
def test_exact_values_stored_in_a_format_match_in_it_and_are_its_rounding_elsewhere(name: str, dtype: str) -> None:
    narrow = in_format(bare(name), CASTS[dtype])
    assert diagnose(stated(narrow, dtype)).verdict == "match"
    found = diagnose(stated(narrow, "float64"))
    assert (found.verdict, found.dtype, found.causes) == ("rounding", dtype, [])


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize(
    "name", [GATED, RESAMPLER, "deepmind/fourier_features_3d", "lucidrains-perceiver/fourier_encode"]
)
def test_float32_is_never_accused_whatever_precision_is_stated(name: str, dtype: str) -> None:
    found = diagnose(stated(outputs_of(bare(name), dtype=np.float32), dtype))
    assert found.verdict in ("match", "rounding")
    assert found.causes == []
    assert found.dtype in (None, "float32")


def test_bfloat16_is_a_dtype_of_a_case(tmp_path: Path) -> None:
    """Held in float32, with tolerances of three units of its own rounding."""
    case = in_format(stated(case_of(GATED), "bfloat16"), to_bfloat16)
    write_case(tmp_path / "case.npz", case)
    again = read_case(tmp_path / "case.npz")
    assert again.dtype == np.float32
    result = check_case(again)
    assert result.status == "pass"
    assert 1e-4 < (result.error("output") or 0) < 2.0**-8
    assert_matches(again.outputs, case)
    again.outputs["out"][0, 0] += 1
    assert check_case(again).status == "fail"


# -------------------------------------------------------------------------------------------------- narrower formats

NARROW = {
    "autocast": ("rounding", "bfloat16 autocast", ""),
    "bfloat16": ("rounding", "bfloat16", ""),
    "bfloat16_weights": ("rounding", "bfloat16 weights", ""),
    "float16_weights": ("rounding", "float16 weights", ""),
    "int8_rows": ("deviation", None, "weights in int8 per output channel, of all linear maps"),
    "int8_tensor": ("deviation", None, "weights in int8 per tensor, of all linear maps"),
}


@pytest.mark.parametrize(
    "dtype", ["float32", *(pytest.param(d, marks=pytest.mark.heavy) for d in ("float64", "bfloat16"))]
)
@pytest.mark.parametrize("what", NARROW)
def test_the_format_that_fits_is_named(what: str, dtype: str) -> None:
    verdict, name, variant = NARROW[what]
    with np.load(RECORDED) as recorded:
        case = stated(replace(bare(RESAMPLER), outputs={"out": recorded[what]}, trace={}), dtype)
    found = diagnose(case)
    assert (found.verdict, found.dtype) == (verdict, name)
    assert [cause.variant for cause in found.explanation] == ([variant] if variant else [])
    assert found.causes == (["dtype"] if variant else [])


@pytest.mark.heavy
def test_what_fits_no_format_is_no_rounding() -> None:
    """Errors of the size that bfloat16 makes, but not its own: they were drawn at random."""
    case = bare(RESAMPLER)
    case.trace.clear()
    with np.load(RECORDED) as recorded:
        size = float(np.abs(recorded["autocast"] - case.outputs["out"]).std())
    case.outputs["out"] = case.outputs["out"] + size * np.random.default_rng(0).normal(size=case.outputs["out"].shape)
    assert diagnose(case).verdict == "unexplained"


STORED: dict[str, tuple[Any, Callable[[np.ndarray], float]]] = {
    # the largest distance that the nearest number of a format can have
    "int8": (FORMS["int8 per tensor"], lambda a: np.abs(a).max() / 127 / 2),
    "int8 per row": (FORMS["int8 per output channel"], lambda a: np.abs(a).max() / 127 / 2),
    "int8 with a zero point": (FORMS["int8 per tensor with a zero point"], lambda a: (a.max() - a.min()) / 255),
    "int4": (FORMS["int4 per tensor"], lambda a: np.abs(a).max() / 7 / 2),
    "int4 in groups": (FORMS["int4 in groups of 32"], lambda a: np.abs(a).max() / 7 / 2),
    "float8_e4m3": (E4M3, lambda a: np.abs(a).max() / 16),
    "float8_e5m2": (E5M2, lambda a: np.abs(a).max() / 8),
}


@pytest.mark.parametrize("form", STORED)
def test_stored_weights_are_the_nearest_numbers_of_their_form(form: str) -> None:
    """Half a step away at most, and the same when they are stored again."""
    stored, bound = STORED[form]
    a = np.random.default_rng(0).normal(size=(16, 32)).astype(np.float32)
    near = np.asarray(stored(a), np.float64)
    assert np.abs(near - a).max() <= 1.0001 * bound(a)  # scales are in float32
    again = np.asarray(stored(near.astype(np.float32)), np.float64)
    np.testing.assert_allclose(again, near, rtol=1e-6, atol=1e-6 * np.abs(a).max())


def test_the_two_formats_of_eight_bits_are_those_of_the_paper() -> None:
    """Largest and smallest numbers of arXiv 2209.05433, table 1."""
    x = np.array([448.0, 1e6, 2.0**-9, 2.0**-6, 1.0625, 57344.0, 2.0**-16])
    np.testing.assert_array_equal(E4M3(x), [448, 448, 2.0**-9, 2.0**-6, 1, 448, 0])
    np.testing.assert_array_equal(E5M2(x), [448, 57344, 2.0**-9, 2.0**-6, 1, 57344, 2.0**-16])


@pytest.mark.parametrize("eps", [1e-5, 1e-4, 1e-2])
def test_the_epsilon_that_fits_best_is_named_beside_rounding(eps: float) -> None:
    """Others leave less than the rounding that is allowed, too."""
    case = bare("idefics2/resampler_mqa_sdpa")
    wrong = outputs_of(option(rms_norm_eps=eps)(case), dtype=np.float32)
    found = diagnose(stated(replace(case, outputs=wrong.outputs, trace={}), "float32"))
    assert found.causes == ["layer-norm-eps"]
    assert found.explanation[0].variant.startswith(f"epsilon {eps:g}:")


# ---------------------------------------------------------------------------------------------------------- gradients


def in_float32(case: Case) -> Case:
    return in_format(stated(case, "float32"), CASTS["float32"])


@pytest.mark.parametrize("zeroed", [False, True], ids=["as computed", "zeros set to 0"])
@pytest.mark.parametrize("dtype", [pytest.param("float64", marks=pytest.mark.heavy), "float32"])
def test_noise_in_gradients_that_are_zero_is_rounding(dtype: str, zeroed: bool) -> None:
    """Of keys' biases, which change no output: float32 gives 1e-8 or so, and a port that knows it gives 0."""
    case = computed(case_of(TEXT), np.float32)
    if zeroed:
        case.grad_params |= {n: 0 * a for n, a in case.grad_params.items() if n.endswith("key.bias")}
    found = diagnose(in_float32(case) if dtype == "float32" else case)
    assert (found.verdict, found.dtype, found.causes) == ("rounding", "float32", [])


@pytest.mark.parametrize("position", [0, 1, 2], ids=["queries", "keys", "values"])
@pytest.mark.parametrize("name", [TEXT, RESAMPLER, GATED])
def test_a_detached_value_in_float32_is_found_beside_noise(name: str, position: int) -> None:
    with detached("attention", "", position):
        case = computed(case_of(name), np.float32)
    found = diagnose(in_float32(case))
    assert (found.verdict, found.causes) == ("deviation", ["gradient-stopped"])
    assert found.explanation[0].remaining < 1e-2


def scaled(case: Case, factor: float, wrong: Callable[[np.ndarray], np.ndarray] = lambda a: a) -> Case:
    """The loss times a factor, and what a wrong port makes of the gradients."""
    return replace(
        case,
        cotangents={n: a * factor for n, a in case.cotangents.items()},
        grad_params={n: wrong(a * factor) for n, a in case.grad_params.items()},
        grad_inputs={n: wrong(a * factor) for n, a in case.grad_inputs.items()},
    )


WRONG: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "turned": lambda a: -a,
    "none": lambda a: 0 * a,
    "double": lambda a: 2 * a,
    "noise": lambda a: np.abs(a).max(initial=0.0) * np.random.default_rng(0).normal(size=a.shape),
}


@pytest.mark.parametrize("factor", [1e-12, 1e-7, 1.0])
@pytest.mark.parametrize("narrow", [False, True], ids=["float64", "float32"])
@pytest.mark.parametrize("name", [TEXT, GATED])
def test_the_unit_of_the_loss_changes_no_verdict(name: str, narrow: bool, factor: float) -> None:
    case = computed(case_of(name), np.float32 if narrow else np.float64)
    finish = in_float32 if narrow else (lambda made: made)
    right = finish(scaled(case, factor))
    assert check_case(right).status == "pass"
    assert diagnose(right).verdict == ("rounding" if narrow else "match")
    for words, wrong in WRONG.items():
        bad = finish(scaled(case, factor, wrong))
        assert check_case(bad).status == "fail", words
        gradients = {f"grad_param/{n}": a for n, a in bad.grad_params.items()}
        with pytest.raises(AssertionError, match="do not match"):
            assert_matches(gradients, right, what="gradients", names=list(gradients))
    found = diagnose(finish(scaled(case, factor, WRONG["turned"])))
    assert (found.verdict, found.causes) == ("deviation", ["gradient-sign"])


@pytest.mark.parametrize(("dtype", "part"), [("float64", 1e-9), ("float64", 1e-10), ("float32", 1e-4)])
def test_one_small_gradient_that_is_wrong_is_not_hidden_by_large_ones(dtype: str, part: float) -> None:
    """Half as large as the tolerance for what is around 1, or smaller."""
    limit, largest = {"float64": 1e-8, "float32": 1e-4}[dtype], 1.0
    right = part * np.random.default_rng(1).uniform(-1, 1, 20)
    for wrong in WRONG.values():
        error = float(np.abs(wrong(right) - right).max())
        assert error > gradient_tolerance(limit, dtype, right, wrong(right), largest)
    noise = right * (1 + 1e-2)
    assert float(np.abs(noise - right).max()) <= gradient_tolerance(limit, dtype, right, noise, largest)


@pytest.mark.parametrize("dtype", GRADIENT_NOISE)
def test_a_gradient_of_1_or_more_is_held_to_what_it_was(dtype: str) -> None:
    a = np.array([3.0, np.nan])
    assert gradient_tolerance(1e-3, dtype, a, a, largest_of({"a": a}, {"out": np.ones(1)})) == 1e-3
    assert gradient_tolerance(1e-3, dtype, np.zeros(2), np.zeros(2), 3.0) == 1e-3  # noise may be here
    assert gradient_tolerance(1e-3, dtype, np.zeros(2), np.zeros(2), 0.0) > 0
