"""A fault planted in a case that passes is found, and the array that holds it is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from porting.cases import case_of

from perceiver_ref.porting import check_case, check_file
from perceiver_ref.porting.cases import Case, write_case

CASES = ["hf/masked_lm", "hf/image_fourier_small", "hf/model_mask4d"]
GROUPS = {"output": "outputs", "trace": "trace", "grad_param": "grad_params", "grad_input": "grad_inputs"}
TOLERANCE = {"output": 1e-10, "trace": 1e-10, "grad_param": 1e-8, "grad_input": 1e-8}
every_case = pytest.mark.parametrize("name", CASES)


def failures(case: Case, backend: str) -> list[tuple[str, str]]:
    result = check_case(case, backend=backend)
    failed = [(a.kind, a.name) for a in result.agreements if not a.passed]
    assert result.status == ("fail" if failed else "pass")
    return failed


@every_case
@settings(max_examples=15)
@given(data=st.data(), sign=st.sampled_from([-1, 1]))
def test_one_wrong_number_is_found_and_one_within_tolerance_is_not(
    backend: str, name: str, data: st.DataObject, sign: int
) -> None:
    case = case_of(name)
    kind = data.draw(st.sampled_from([kind for kind, group in GROUPS.items() if getattr(case, group)]))
    arrays = getattr(case, GROUPS[kind])
    which = data.draw(st.sampled_from(sorted(arrays)))
    original = arrays[which]
    index = data.draw(st.integers(0, original.size - 1))
    allowed = TOLERANCE[kind] * max(np.abs(original).max(), 1)

    def moved(amount: float) -> Case:
        arrays[which] = original.copy()
        arrays[which].flat[index] += sign * amount * allowed
        return case

    assert failures(moved(2), backend) == [(kind, which)]
    assert failures(moved(0.5), backend) == []


@every_case
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=str)
@pytest.mark.parametrize("kind", ["output", "trace", "grad_param"])
def test_a_number_that_is_none_is_found(backend: str, name: str, value: float, kind: str) -> None:
    case = case_of(name)
    arrays = getattr(case, GROUPS[kind])
    which = sorted(arrays)[-1]
    arrays[which] = arrays[which].copy()
    arrays[which].flat[0] = value
    assert failures(case, backend) == [(kind, which)]
    worst = check_case(case, backend=backend).worst
    assert (worst.kind, worst.name, worst.error) == (kind, which, np.inf)


@every_case
@pytest.mark.parametrize("kind", GROUPS)
def test_another_shape_is_found(backend: str, name: str, kind: str, tmp_path: Path) -> None:
    case = case_of(name)
    arrays = getattr(case, GROUPS[kind])
    if not arrays:
        pytest.skip(f"the case has no {kind}")
    which = sorted(arrays)[0]
    arrays[which] = arrays[which][..., None]
    assert failures(case, backend) == [(kind, which)]
    write_case(tmp_path / "case.npz", case)
    assert check_file(tmp_path / "case.npz", backend=backend).status == "fail"


@every_case
def test_a_wrong_weight_spoils_every_output(backend: str, name: str) -> None:
    case = case_of(name)
    weight = next(p for p in case.params if p.endswith("cross_attention.attention.self.value.weight"))
    case.params[weight] = case.params[weight] * 1.001
    failed = failures(case, backend)
    outputs = [("output", output) for output in case.outputs]
    assert [pair for pair in failed if pair[0] == "output"] == outputs


def test_a_transposed_gradient_is_found(backend: str) -> None:
    case = case_of("hf/model_bare")
    square = next(p for p, g in case.grad_params.items() if g.ndim == 2 and g.shape[0] == g.shape[1])
    case.grad_params[square] = case.grad_params[square].T
    assert failures(case, backend) == [("grad_param", square)]


def test_compare_gradients_false_leaves_gradients_alone(backend: str) -> None:
    case = case_of("hf/model_bare")
    which = sorted(case.grad_params)[0]
    case.grad_params[which] = case.grad_params[which] + 1
    assert failures(case, backend) == [("grad_param", which)]
    case.meta["compare_gradients"] = False
    assert failures(case, backend) == []
    assert {a.kind for a in check_case(case, backend=backend).agreements} == {"output", "trace"}


def test_the_cases_own_tolerance_is_used(backend: str) -> None:
    case = case_of("hf/model_bare")
    case.outputs["last_hidden_state"] = case.outputs["last_hidden_state"] * (1 + 1e-6)
    which = max(case.grad_params, key=lambda name: np.abs(case.grad_params[name]).max())
    case.grad_params[which] = case.grad_params[which] * (1 + 1e-6)
    assert failures(case, backend) == [("output", "last_hidden_state"), ("grad_param", which)]
    case.meta["tolerance"] = {"output": 1e-5}
    assert failures(case, backend) == [("grad_param", which)]
    case.meta["tolerance"] = {"output": 1e-5, "gradient": 1e-5}
    assert failures(case, backend) == []


def test_a_tied_alias_stands_for_its_canonical_parameter(backend: str) -> None:
    """The alias is no parameter of its own, and its gradient is the total over all places where it is used."""
    case = case_of("hf/masked_lm")
    canonical, alias = "perceiver.input_preprocessor.embeddings.weight", "embedding_decoder.weight"
    case.params[alias], case.grad_params[alias] = case.params[canonical], case.grad_params[canonical]
    case.meta["tied"] = {alias: canonical}
    assert failures(case, backend) == []
    case.grad_params[alias] = case.grad_params[alias] * 1.01
    assert failures(case, backend) == [("grad_param", alias)]
