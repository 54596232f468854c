"""`run --call`: a case is reproduced from its parameters, inputs and call, as text, as a file, among the inputs."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli.command import invoke, prepare

from perceiver_ref.porting.cases import PACKAGED, TOLERANCES, Case, agreement, read_case
from perceiver_ref.weights.formats.npz import read_npz, write_npz

ROOTS = (PACKAGED, Path(__file__).parents[1] / "vectors")
CASES = sorted(path for root in ROOTS for path in root.rglob("*.npz"))


@cache
def one_of_each() -> list[Path]:
    """A case of each class and set of options."""
    found: dict[Any, Path] = {}
    for path in CASES:
        with np.load(path) as arrays:
            meta = json.loads(str(arrays["meta"]))
        options = tuple(sorted(name for name, value in meta.get("call", {}).items() if value is not None))
        if options and options != ("is_training",) and "steps" not in options:
            found.setdefault((meta["class"], options), path)
    return list(found.values())


def ids(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


def prepared(folder: Path, case: Case, inputs: dict[str, np.ndarray]) -> list[object]:
    write_npz(folder / "weights.npz", {**case.params, **case.state})
    write_npz(folder / "inputs.npz", inputs)
    (folder / "config.json").write_text(json.dumps(case.meta["config"]))
    files = {"config": "config.json", "weights": "weights.npz", "inputs": "inputs.npz", "output": "out.npz"}
    arguments = [x for option, name in files.items() for x in (f"--{option}", folder / name)]
    return [
        "run",
        "--peer",
        case.meta["peer"],
        "--class",
        case.meta["class"],
        "--dtype",
        case.meta["dtype"],
        *arguments,
    ]


def assert_reproduced(folder: Path, case: Case) -> None:
    limit = {**TOLERANCES[case.meta["dtype"]], **case.meta.get("tolerance", {})}["output"]
    written = read_npz(folder / "out.npz")
    assert case.outputs
    for name, array in case.outputs.items():
        assert agreement("output", name, written[f"output/{name}"], array, limit).passed, name


@pytest.mark.parametrize("path", one_of_each(), ids=ids)
def test_a_case_of_each_call(tmp_path: Path, capsys: pytest.CaptureFixture[str], path: Path) -> None:
    case = read_case(path)
    arguments = prepared(tmp_path, case, case.inputs)
    finished = invoke(capsys, *arguments, "--call", json.dumps(case.meta["call"]))
    assert finished.code == 0, finished.err
    assert_reproduced(tmp_path, case)


@pytest.mark.parametrize("path", [path for path in one_of_each() if path.parent.name == "krasserm"], ids=ids)
def test_options_among_the_inputs_and_in_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str], path: Path) -> None:
    case = read_case(path)
    single = {n: np.array(v) for n, v in case.meta["call"].items() if isinstance(v, bool | int | float | str)}
    rest = {name: value for name, value in case.meta["call"].items() if name not in single}
    (tmp_path / "call.json").write_text(json.dumps(rest))
    arguments = prepared(tmp_path, case, {**case.inputs, **single})
    finished = invoke(capsys, *arguments, "--call", tmp_path / "call.json")
    assert finished.code == 0, finished.err
    assert_reproduced(tmp_path, case)


@pytest.mark.heavy
@pytest.mark.parametrize("path", CASES, ids=ids)
def test_every_case(tmp_path: Path, capsys: pytest.CaptureFixture[str], path: Path) -> None:
    case = read_case(path)
    finished = invoke(capsys, *prepared(tmp_path, case, case.inputs), "--call", json.dumps(case.meta["call"]))
    assert finished.code == 0, finished.err
    assert_reproduced(tmp_path, case)


BAD = {
    "no JSON": ("{'prefix_len': 3}", "--call is not JSON ("),
    "a list": ("[1]", "[1] does not exist; expected arguments in JSON"),
    "no file": ("call.json", "call.json does not exist"),
    "deep": ('{"x":' + "[" * 100_000, "--call is not JSON ("),
    "unknown": ('{"prefix_le": 3}', "unknown option"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_call_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str) -> None:
    text, said = BAD[what]
    invoke(capsys, *prepare(tmp_path).arguments, "--call", text).assert_refused(said)


def test_a_number_that_is_no_option_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inputs = {"inputs": np.array([[1, 2]]), "interpolate_pos_encodin": np.array(True)}
    files = prepare(tmp_path, **inputs)
    invoke(capsys, *files.arguments).assert_refused(
        "interpolate_pos_encodin", "did you mean 'interpolate_pos_encoding'"
    )
    write_npz(tmp_path / "inputs.npz", {"inputs": inputs["inputs"], "output_hidden_states": np.array(True)})
    assert invoke(capsys, *files.arguments).code == 0
    assert "output/hidden_states.0" in read_npz(tmp_path / "out.npz")
    twice = invoke(capsys, *files.arguments, "--call", '{"output_hidden_states": false}')
    twice.assert_refused("'output_hidden_states' is among the inputs and in --call")


def test_a_number_that_is_an_array_stays_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A scalar that a function takes as an array."""
    write_npz(tmp_path / "w.npz", {})
    (tmp_path / "c.json").write_text("{}")
    write_npz(tmp_path / "in.npz", {"input": np.array(-0.25)})
    arguments = ["run", "--peer", "torch", "--class", "torch.nn.functional.relu", "--config", tmp_path / "c.json"]
    arguments += ["--weights", tmp_path / "w.npz", "--inputs", tmp_path / "in.npz", "--output", tmp_path / "out.npz"]
    finished = invoke(capsys, *arguments)
    assert finished.code == 0, finished.err
    assert [float(a) for a in read_npz(tmp_path / "out.npz").values()] == [0.0]
