"""`perceiver-ref check`: exit codes, the table for people and the JSON for machines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli.command import invoke
from porting.cases import PACKAGED, case_of, path_of

from perceiver_ref.porting.cases import write_case


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One case that passes, one with a planted fault, one that cannot be run."""
    made = tmp_path / "cases"
    made.mkdir()
    write_case(made / "good.npz", case_of("hf/model_bare"))
    faulty = case_of("hf/model_bare")
    faulty.outputs["last_hidden_state"][0, 0, 0] += 1e-3
    write_case(made / "faulty.npz", faulty)
    broken = case_of("hf/model_bare")
    del broken.params["embeddings.latents"]
    broken.grad_params.pop("embeddings.latents")
    write_case(made / "broken.npz", broken)
    return made


def check(capsys: pytest.CaptureFixture[str], tmp_path: Path, *arguments: object) -> tuple[int, dict[str, Any], Any]:
    finished = invoke(capsys, "check", *arguments, "--json", tmp_path / "result.json")
    return finished.code, json.loads((tmp_path / "result.json").read_text()), finished


def test_the_packaged_vectors_pass(capsys: pytest.CaptureFixture[str], tmp_path: Path, backend: str) -> None:
    code, result, finished = check(capsys, tmp_path, "--backend", backend)
    assert code == 0
    assert finished.err == ""
    assert result["passed"] == len(list(PACKAGED.rglob("*.npz"))) == len(result["cases"])
    assert result["failed"] == 0
    for case in result["cases"]:
        assert case["status"] == "pass"
        assert 0 <= case["output_error"] <= 1e-10
        assert case["gradient_error"] is None or 0 <= case["gradient_error"] <= 1e-8
        assert Path(case["path"]).is_file()
    assert f"{result['passed']} passed, 0 failed" in finished.out


def test_several_processes_say_the_same_in_the_same_order(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, folder: Path
) -> None:
    alone = check(capsys, tmp_path, folder)
    together = check(capsys, tmp_path, folder, "--jobs", "2")
    assert together[:2] == alone[:2]
    assert together[2].out == alone[2].out
    assert invoke(capsys, "check", folder, "--jobs", "0").code == 2


def test_each_case_has_its_verdict(capsys: pytest.CaptureFixture[str], tmp_path: Path, folder: Path) -> None:
    code, result, finished = check(capsys, tmp_path, folder)
    assert code == 1  # a mismatch, whatever else went wrong
    verdicts = {Path(case["path"]).stem: case for case in result["cases"]}
    assert {name: case["status"] for name, case in verdicts.items()} == {
        "good": "pass",
        "faulty": "fail",
        "broken": "error",
    }
    assert (result["passed"], result["failed"]) == (1, 2)
    assert verdicts["faulty"]["worst"] == "output/last_hidden_state"
    assert 1e-5 < verdicts["faulty"]["output_error"] <= 1e-3
    assert verdicts["broken"]["output_error"] is verdicts["broken"]["gradient_error"] is None
    assert "missing: embeddings.latents" in verdicts["broken"]["message"]
    assert "output last_hidden_state: error" in finished.out
    assert finished.err.count("\n") == 1


@pytest.mark.parametrize(("names", "code"), [(["good"], 0), (["faulty"], 1), (["broken"], 2), (["good", "broken"], 2)])
def test_exit_codes(capsys: pytest.CaptureFixture[str], folder: Path, names: list[str], code: int) -> None:
    assert invoke(capsys, "check", *(folder / f"{name}.npz" for name in names)).code == code


def test_an_infinite_error_is_null_in_json(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    case = case_of("hf/model_bare")
    case.outputs["last_hidden_state"][0, 0, 0] = np.nan
    write_case(tmp_path / "case.npz", case)
    code, result, finished = check(capsys, tmp_path, tmp_path / "case.npz")
    assert code == 1
    assert result["cases"][0]["status"] == "fail"
    assert result["cases"][0]["output_error"] is None
    assert "output last_hidden_state: error inf" in finished.out


@pytest.mark.parametrize("kernels", ["plain", "fast"])
def test_options_change_what_is_computed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, backend: str, kernels: str
) -> None:
    arguments = ["--kernels", kernels, "--backend", backend, path_of("hf/model_bare")]
    _, double, _ = check(capsys, tmp_path, *arguments)
    code, single, finished = check(capsys, tmp_path, *arguments, "--dtype", "float32")
    assert code == 0
    assert double["cases"][0]["output_error"] < 1e-12 < 1e-8 < single["cases"][0]["output_error"] < 1e-5
    assert "1e-05 and 1e-04 in float32" in finished.out


def test_an_array_beyond_its_tolerance_is_listed_with_both(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    out = invoke(capsys, "check", folder / "faulty.npz").out
    line = next(line for line in out.splitlines() if "last_hidden_state" in line)
    assert "tolerance 1e-10" in line


def test_nothing_is_written_without_json(
    capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    invoke(capsys, "check", folder)
    assert sorted(tmp_path.rglob("*")) == before
