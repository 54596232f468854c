"""`assert_matches`: what passes, and that a failure says which array, how much and where."""

from __future__ import annotations

import re
from importlib.resources import files

import numpy as np
import pytest
from export.exported import case_of

from perceiver_ref.errors import InputError
from perceiver_ref.peers import peer
from perceiver_ref.peers.base import Given
from perceiver_ref.porting import run
from perceiver_ref.porting.cases import Case, read_case, write_case
from perceiver_ref.porting.diagnosis.diagnose import diagnose_file
from perceiver_ref.testing import assert_matches, save


@pytest.fixture(scope="module")
def case() -> Case:
    return case_of("perceiver-io/language")


@pytest.fixture(scope="module")
def multimodal() -> Case:
    return case_of("perceiver-io/multimodal")


def gradients(case: Case) -> dict[str, np.ndarray]:
    return {**case.grad_params, **case.grad_inputs}


def test_the_cases_own_arrays_match(case: Case, multimodal: Case, tmp_path) -> None:
    write_case(tmp_path / "case.npz", case)
    for reference in (case, tmp_path / "case.npz", str(tmp_path / "case.npz")):
        assert_matches(case.outputs["out"], reference)
        assert_matches(case.outputs, reference)
        assert_matches(gradients(case), reference, what="gradients")
        assert_matches(case.trace, reference, what="trace")
    nested = {"out": {name.partition(".")[2]: a for name, a in multimodal.outputs.items()}}
    assert_matches(nested, multimodal)


def test_nested_parameters_are_found_by_their_paths(case: Case) -> None:
    from perceiver_ref.autograd import tree

    assert_matches(tree.unflatten(case.grad_params), case, what="gradients", names=list(case.grad_params))


def test_some_traced_values_are_enough_and_batch_may_be_repeated(case: Case) -> None:
    name = "encoder.cross_attention"
    assert_matches({name: case.trace[name]}, case, what="trace")
    table = case.trace["decoder.queries"]
    assert_matches({"decoder.queries": table[0]}, case, what="trace")
    whole = case.outputs["out"].shape
    with pytest.raises(AssertionError, match=re.escape(f"shape {whole[1:]}, expected {whole}")):
        assert_matches(case.outputs["out"][0], case)


def test_the_message_names_array_error_tolerance_and_place(case: Case) -> None:
    wrong = case.outputs["out"].copy()
    wrong[1, 3, 2] += 0.5
    with pytest.raises(AssertionError) as caught:
        assert_matches(wrong, case)
    text = str(caught.value)
    error = 0.5 / max(np.abs(case.outputs["out"]).max(), 1)
    assert "outputs of perceiver-io/language/plain: 1 of 1 arrays do not match" in text
    assert f"out: error {error:.1e}, tolerance 1e-10; largest at [1, 3, 2]" in text
    assert f"{wrong[1, 3, 2]:.9g}, expected {case.outputs['out'][1, 3, 2]:.9g}" in text
    assert f"1 of {wrong.size} elements differ, all at 1 of the first axis" in text
    assert "perceiver-ref diagnose" in text
    assert case.meta["catches"] in text


def test_nan_missing_and_misshapen_arrays_are_named(multimodal: Case) -> None:
    wrong = dict(multimodal.outputs)
    del wrong["out.label"]
    wrong["out.audio"] = wrong["out.audio"].T
    wrong["out.image"] = np.full_like(wrong["out.image"], np.nan)
    with pytest.raises(AssertionError) as caught:
        assert_matches(wrong, multimodal)
    text = str(caught.value)
    assert "out.label: missing" in text
    rows, columns = multimodal.outputs["out.audio"].shape
    expected = f"out.audio: shape {(columns, rows)}, expected {(rows, columns)}; the reference's, transposed"
    assert expected in text
    assert "out.image: error inf" in text
    assert "nan, expected" in text


def test_a_float32_port_is_told_of_dtype_and_held_to_it(case: Case) -> None:
    rounded = case.outputs["out"].astype(np.float32)
    with pytest.raises(AssertionError, match='dtype="float32"'):
        assert_matches(rounded, case)
    assert_matches(rounded, case, dtype="float32")
    with pytest.raises(AssertionError, match="tolerance 1e-05"):
        assert_matches(rounded + 1e-3, case, dtype="float32")


def test_one_wrong_gradient_of_many_is_found(case: Case) -> None:
    wrong = gradients(case)
    name = "encoder/block/1/mlp/hidden/bias"
    wrong[name] = np.zeros_like(wrong[name])
    with pytest.raises(AssertionError, match=rf"1 of {len(wrong)} arrays.*\n  grad_param/{name}: error"):
        assert_matches(wrong, case, what="gradients")
    assert_matches(wrong, case, what="gradients", names=["encoder/latents"])


@pytest.mark.parametrize(
    ("actual", "options", "message"),
    [
        ({"logits": np.zeros(3)}, {}, "unknown name in outputs 'logits'"),
        (np.zeros(3), {"what": "output"}, "unknown what 'output'; did you mean 'outputs'"),
        (np.zeros(3), {"dtype": "float8"}, "unknown dtype"),
        ({}, {"what": "trace"}, "no traced value was given"),
        ({"encoder": "text"}, {"what": "trace"}, "expected an array of numbers, got str"),
        (np.zeros(3), {"what": "gradients"}, "several gradients: give a dict"),
    ],
)
def test_misuse_is_one_clear_error(case: Case, actual, options, message: str) -> None:
    with pytest.raises(InputError, match=message):
        assert_matches(actual, case, **options)


def test_a_case_without_gradients_says_so() -> None:
    with pytest.raises(InputError, match="has no gradients to compare with"):
        assert_matches({}, case_of("perceiver-io/language", gradients=False), what="gradients")


def test_what_the_message_suggests_works(tmp_path) -> None:
    """The saved case is one that `diagnose` reads and explains."""
    case = read_case(str(files("perceiver_ref") / "porting/cases/packaged/open-flamingo/gated_immediate.npz"))
    save(tmp_path / "mine.npz", case.outputs["out"], case)
    assert diagnose_file(tmp_path / "mine.npz").verdict == "match"
    given = Given({**case.meta["config"], "only_attend_immediate_media": False})
    port = peer("open-flamingo").rebuild(case.meta["class"], given)
    save(tmp_path / "mine.npz", run(port, case.params, case.inputs, {}).outputs["out"], case)
    found = diagnose_file(tmp_path / "mine.npz")
    assert (found.verdict, found.causes) == ("deviation", ["media-mask"])


class Tensor:
    """What PyTorch's tensors look like to NumPy."""

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.dtype, self.steps = array, array.dtype, []

    def detach(self) -> Tensor:
        self.steps.append("detach")
        return self

    def cpu(self) -> Tensor:
        self.steps.append("cpu")
        return self

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        assert self.steps == ["detach", "cpu"]
        return self.array


def test_tensors_are_detached_and_moved(case: Case) -> None:
    assert_matches({"out": Tensor(case.outputs["out"])}, case)
