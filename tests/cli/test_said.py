"""What `check`, `diagnose` and `compare` say of shapes, dtypes, names and gradients: the same things alike."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli.command import invoke
from porting.cases import case_of

from perceiver_ref.errors import InputError
from perceiver_ref.porting import check_case
from perceiver_ref.porting.cases import Case, agreement, read_case, write_case
from perceiver_ref.porting.cases.compare import difference
from perceiver_ref.porting.check import spread
from perceiver_ref.porting.diagnosis.diagnose import diagnose
from perceiver_ref.porting.subject import Subject

Capture = pytest.CaptureFixture[str]
NAME = "hf/sequence_classification"


def written(tmp_path: Path, change: Callable[[Case], None], name: str = NAME) -> Path:
    case = case_of(name)
    change(case)
    write_case(tmp_path / "case.npz", case)
    return tmp_path / "case.npz"


def shorter(case: Case) -> None:
    case.outputs["logits"] = case.outputs["logits"][:1]


def no_number(case: Case) -> None:
    case.outputs["logits"][1, 2] = np.nan


def no_end(case: Case) -> None:
    case.trace["perceiver.encoder"][0, 1, 2] = -np.inf


SAID = {
    "shape": (shorter, "output logits: shape [1, 5] in the case, [3, 5] in the reference"),
    "nan": (no_number, "output logits: error inf, tolerance 1e-10; 1 NaN in the case alone, first at [1, 2]"),
    "infinity": (no_end, "1 negatively infinite in the case alone, first at [0, 1, 2]"),
}


@pytest.mark.parametrize("kind", SAID)
def test_check_says_why_an_error_is_infinite(capsys: Capture, tmp_path: Path, kind: str) -> None:
    change, said = SAID[kind]
    path = written(tmp_path, change)
    done = invoke(capsys, "check", path, "--json", tmp_path / "found.json")
    assert done.code == 1
    assert said in done.out
    assert json.loads((tmp_path / "found.json").read_text())["cases"][0]["reason"] in done.out


@pytest.mark.parametrize(
    ("ours", "theirs", "note"),
    [
        (
            [np.inf],
            [-np.inf],
            "1 infinite in the reference alone, first at [0]; 1 negatively infinite in the case alone",
        ),
        ([1.0, np.nan], [np.nan, np.nan], "1 NaN in the case alone, first at [0]"),
        ([np.nan], [1.0], "1 NaN in the reference alone"),
        ([1.0], [1.5], ""),
    ],
)
def test_what_is_not_finite_is_told(ours: list[float], theirs: list[float], note: str) -> None:
    assert agreement("output", "x", np.array(theirs), np.array(ours), 1e-10).note.startswith(note)


def rounded(dtype: str) -> Callable[[Case], None]:
    def change(case: Case) -> None:
        for group in (case.outputs, case.trace, case.grad_params, case.grad_inputs):
            group.update({n: a.astype(dtype) for n, a in group.items()})

    return change


@pytest.mark.parametrize(("dtype", "limit"), [("float32", "1e-05"), ("float16", "3e-03")])
def test_arrays_less_precise_than_their_case(capsys: Capture, tmp_path: Path, dtype: str, limit: str) -> None:
    """Held to what their own dtype can reach, which is said; a wrong one still fails."""
    done = invoke(capsys, "check", written(tmp_path, rounded(dtype)))
    assert done.code == 0
    assert f"are {dtype} in a case of float64, and held to {dtype}'s tolerance: {limit}" in done.out

    def wrong(case: Case) -> None:
        rounded(dtype)(case)
        case.outputs["logits"] = case.outputs["logits"] + np.asarray(0.2, dtype)

    assert invoke(capsys, "check", written(tmp_path, wrong)).code == 1
    assert invoke(capsys, "check", written(tmp_path, lambda case: None)).out.count("note:") == 0


def test_a_more_precise_array_is_held_to_its_case() -> None:
    case = case_of(NAME)
    case.meta["dtype"] = "float32"
    assert {a.tolerance for a in check_case(case).agreements} == {1e-5, 1e-4}


UNKNOWN: dict[str, tuple[list[str], str]] = {
    "one": (["perceiver.encoder.nowhere"], "1 traced value is not compared"),
    "several": (["nowhere", "elsewhere.0", "perceiver.encoder.self_attends.99"], "3 traced values are not compared"),
    "one call too many": (["perceiver.encoder.self_attends.0@7"], "1 traced value is not compared"),
}


@pytest.mark.parametrize("kind", UNKNOWN)
@pytest.mark.parametrize("command", ["check", "diagnose"])
def test_traced_values_of_unknown_names_are_counted(capsys: Capture, tmp_path: Path, command: str, kind: str) -> None:
    names, said = UNKNOWN[kind]
    path = written(tmp_path, lambda case: case.trace.update({name: np.ones(3) for name in names}))
    done = invoke(capsys, command, path, "--json", tmp_path / "found.json")
    assert done.code == 0
    assert said in done.out
    found = json.loads((tmp_path / "found.json").read_text())
    assert said in "".join(found["cases"][0]["notes"] if command == "check" else found["notes"])


SUBMODULES = (
    "perceiver.encoder.cross_attention.attention.self.layernorm1",
    "perceiver.encoder.self_attends.0.attention.self.dropout@1",
    "perceiver.decoder.decoder.decoding_cross_attention.mlp.dense1",
)


@pytest.mark.parametrize("name", SUBMODULES)
def test_a_wrong_value_of_a_submodule_is_seen(name: str) -> None:
    case = case_of(NAME)
    case.trace[name] = np.ones((3, 7, 4))
    result = check_case(case)
    assert (result.status, result.worst and result.worst.name, result.notes) == ("fail", name, [])


@pytest.mark.parametrize("group", ["grad_params", "grad_inputs"])
def test_gradients_without_a_cotangent_are_refused(capsys: Capture, tmp_path: Path, group: str) -> None:
    """Of a case from a file and of one from memory, by both commands."""
    name = "hf/model_bare"

    def change(case: Case) -> None:
        case.cotangents = {}
        for other in {"grad_params", "grad_inputs"} - {group}:
            setattr(case, other, {})

    path = written(tmp_path, change, name)
    for command in ("check", "diagnose"):
        done = invoke(capsys, command, path)
        assert done.code == 2
        assert "but no cotangent/<output>" in done.err
        assert done.err.count("\n") == 1
    case = case_of(name)
    change(case)
    for command in (check_case, diagnose):
        with pytest.raises(InputError, match="no cotangent"):
            command(case)  # type: ignore[operator]


@pytest.mark.parametrize("factor", [1e-3, 0.5, 10.0, 1e4])
def test_all_commands_divide_errors_by_the_reference(capsys: Capture, tmp_path: Path, factor: float) -> None:
    right = case_of(NAME).outputs["logits"]
    expected = np.abs(factor * right - right).max() / max(np.abs(right).max(), 1)
    path = written(
        tmp_path, lambda case: case.outputs.update(logits=factor * right, loss=factor * case.outputs["loss"])
    )
    reference = written_reference(tmp_path)
    subject = Subject(read_case(path))  # what `diagnose` says, without the search for a cause
    found: dict[str, Any] = {}
    for command, arguments in (("check", [path]), ("compare", [reference, path])):
        invoke(capsys, command, *arguments, "--json", tmp_path / "found.json")
        found[command] = json.loads((tmp_path / "found.json").read_text())
    errors = [found["check"]["cases"][0]["output_error"], subject.errors(subject.ours)["output/logits"]]
    errors.append(next(p["error"] for p in found["compare"]["points"] if p["candidate"] == "output/logits"))
    assert errors == pytest.approx([expected] * 3, rel=1e-9)


def written_reference(tmp_path: Path) -> Path:
    folder = tmp_path / "reference"
    folder.mkdir()
    return written(folder, lambda case: None)


def test_a_scale_of_its_own_gives_errors_one_unit() -> None:
    assert difference(np.array([3.0]), np.array([1.0]), np.array([100.0])) == 0.02


def test_spread_repeats_and_shortens_equal_items_alone() -> None:
    x = np.arange(6.0).reshape(2, 3)
    assert spread(x, np.zeros((4, 2, 3))).shape == (4, 2, 3)
    assert spread(x[0], np.zeros((1, 1, 3))).shape == (1, 1, 3)
    assert spread(np.stack([x, x]), np.zeros((1, 2, 3))).shape == (1, 2, 3)
    assert spread(np.stack([x, x + 1]), np.zeros((1, 2, 3))).shape == (2, 2, 3)
