"""Measures, patterns and thresholds on the command line: printed in lines that fit, whole in JSON, and exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli.command import execute, invoke
from porting.cases import case_of, path_of
from support import normal

from perceiver_ref.porting.cases import Case, write_case
from perceiver_ref.porting.measures import MEASURES
from perceiver_ref.weights.formats.npz import write_npz

Capture = pytest.CaptureFixture[str]
COLUMNS = 100
PLAIN = {row.name for row in MEASURES.values() if not row.logits}


def half_of_the_last_class() -> Case:
    case = case_of("hf/sequence_classification")
    case.outputs["logits"] = case.outputs["logits"].copy()
    case.outputs["logits"][:, -1] *= 0.5
    return case


@pytest.fixture
def wrong(tmp_path: Path) -> Path:
    write_case(tmp_path / "wrong.npz", half_of_the_last_class())
    return tmp_path / "wrong.npz"


def pair(tmp_path: Path, **changes: np.ndarray) -> tuple[Path, Path]:
    """A dump of two points and logits, and one with changes."""
    arrays = {"a": normal(0, 2, 7, 12), "b": normal(1, 2, 7, 12), "logits": 5 * normal(2, 3, 11)}
    write_npz(tmp_path / "reference.npz", arrays)
    write_npz(tmp_path / "candidate.npz", {**arrays, **changes})
    return tmp_path / "reference.npz", tmp_path / "candidate.npz"


def test_check_says_how_far_and_what_it_looks_like(wrong: Path, tmp_path: Path, capsys: Capture) -> None:
    done = invoke(capsys, "check", wrong, "--json", tmp_path / "out.json")
    assert (done.code, done.err) == (1, "")
    case, a = half_of_the_last_class(), case_of("hf/sequence_classification")
    b, other = a.outputs["logits"], case.outputs["logits"]
    nmse = 10 * np.log10(((other - b) ** 2).sum() / (b**2).sum())
    assert f"NMSE {nmse:.1f} dB" in done.out
    assert "beyond 20 %" in done.out  # one of five classes
    assert "looks like: the last column only (4 of 5); there: constant factor 0.50000 = 1/2" in done.out
    (made,) = json.loads((tmp_path / "out.json").read_text())["cases"]
    arrays = {row["name"]: row for row in made["arrays"]}
    assert arrays["output/logits"]["measures"]["nmse"] == pytest.approx(nmse, abs=1e-9)
    assert [row["pattern"] for row in arrays["output/logits"]["found"]] == ["range", "factor"]
    assert set(arrays["output/logits"]["measures"]) == set(MEASURES)
    assert all(set(row["measures"]) == PLAIN for name, row in arrays.items() if "logits" not in name)
    assert [name for name, row in arrays.items() if not row["passed"]] == ["output/logits"]
    assert made["measures"]["beyond"] == pytest.approx(0.2)


@pytest.mark.parametrize("command", ["check", "diagnose"])
def test_all_measures_are_printed_when_asked_for(command: str, capsys: Capture) -> None:
    right = path_of("hf/sequence_classification")
    done = invoke(capsys, command, right, "--measures")
    plain = [row for row in MEASURES.values() if row.name in PLAIN]
    for row in plain:
        assert done.out.count(f"{row.said} ") >= len(case_of("hf/sequence_classification").trace), row.name
    assert all(len(line) <= COLUMNS for line in done.out.splitlines() if line.startswith("    ") and ": " not in line)
    assert invoke(capsys, command, right, "-v").out == done.out


def test_compare_says_how_far_and_what_it_looks_like(tmp_path: Path, capsys: Capture) -> None:
    b = normal(1, 2, 7, 12)
    b[1] = -b[1]
    files = pair(tmp_path, b=b)
    done = invoke(capsys, "compare", *files, "--json", tmp_path / "out.json", "--html", tmp_path / "page.html")
    assert done.code == 1
    assert "looks like: rows of item 1 only (2 items); there: sign flipped" in done.out
    assert all(len(line) <= COLUMNS for line in done.out.splitlines() if not line.startswith("first divergence"))
    points = json.loads((tmp_path / "out.json").read_text())["points"]
    assert [point["measures"]["cosine"] for point in points] == [1, pytest.approx(points[1]["measures"]["cosine"]), 1]
    assert [set(point["measures"]) == set(MEASURES) for point in points] == [False, False, True]
    assert points[1]["found"][1] == {"pattern": "sign", "said": "there: sign flipped"}
    assert 'class="picture"' in (tmp_path / "page.html").read_text()


def test_of_two_shapes_check_says_what_fits(tmp_path: Path, capsys: Capture) -> None:
    case = case_of("hf/sequence_classification")
    case.outputs["logits"] = case.outputs["logits"].T.copy()
    write_case(tmp_path / "case.npz", case)
    done = invoke(capsys, "check", tmp_path / "case.npz")
    assert done.code == 1
    assert "shape [5, 3] in the case, [3, 5] in the reference" in done.out
    assert "shape [5, 3] instead of [3, 5]: axes 0 and 1 swapped, it agrees" in " ".join(done.out.split())
    done = invoke(capsys, "diagnose", tmp_path / "case.npz")
    done.assert_refused("axes 0 and 1 swapped, it agrees")


# -------------------------------------------------------------------------------------------------------- thresholds


@pytest.mark.parametrize("command", ["check", "compare"])
@pytest.mark.parametrize("name", MEASURES)
def test_a_threshold_decides(command: str, name: str, tmp_path: Path, capsys: Capture) -> None:
    """Whatever the tolerance says: what is as close passes, and what is not fails."""
    b = 5 * normal(2, 3, 11)
    a = b + 0.3 * normal(3, 3, 11)
    if command == "compare":
        arguments = [command, *pair(tmp_path, logits=a)]
        points = "points"
    else:
        case = case_of("hf/sequence_classification")
        logits = case.outputs["logits"]
        case.outputs["logits"] = logits + np.abs(logits).max() * normal(3, *logits.shape)
        write_case(tmp_path / "case.npz", case)
        arguments = [command, tmp_path / "case.npz"]
        points = "arrays"
    out = tmp_path / "out.json"
    assert invoke(capsys, *arguments, "--json", out).code == 1
    made = json.loads(out.read_text())
    rows = made[points] if command == "compare" else made["cases"][0][points]
    (value,) = [row["measures"][name] for row in rows if row["name"].endswith("logits")]
    row, size = MEASURES[name], 1e-6 * abs(value) + 1e-9
    looser, tighter = (value + size, value - size) if row.better == "lower" else (value - size, value + size)
    done = invoke(capsys, *arguments, f"{row.option}={looser!r}", "--json", out)
    assert done.code == 0, done.out
    assert json.loads(out.read_text())["thresholds"] == {name: pytest.approx(looser)}
    done = invoke(capsys, *arguments, f"{row.option}={tighter!r}", "--json", out)
    assert done.code == 1
    assert f"misses {row.option} " in done.out
    assert "instead of tolerances" in done.out


def test_a_threshold_can_be_stricter_than_the_tolerance(tmp_path: Path, capsys: Capture) -> None:
    a = normal(0, 2, 7, 12)
    files = pair(tmp_path, a=(a * (1 + 1e-7 * normal(4, 2, 7, 12))).astype(np.float32))
    assert invoke(capsys, "compare", *files).code == 0
    assert invoke(capsys, "compare", *files, "--max-nmse", "-120").code == 0
    assert invoke(capsys, "compare", *files, "--max-nmse", "-160").code == 1
    assert invoke(capsys, "compare", *files, "--max-nmse", "-120", "--min-cosine", "1").code == 1


def test_no_threshold_lets_a_nan_or_another_shape_pass(tmp_path: Path, capsys: Capture) -> None:
    b = normal(1, 2, 7, 12)
    b[0, 0, 0] = np.nan
    assert invoke(capsys, "compare", *pair(tmp_path, b=b), "--max-beyond", "1").code == 1
    assert invoke(capsys, "compare", *pair(tmp_path, b=b[:, :5]), "--max-beyond", "1").code == 1


def test_zeros_and_gradients_that_are_noise_are_held_to_their_tolerances(tmp_path: Path, capsys: Capture) -> None:
    """Of rounding around zero no ratio means anything: biases of keys change no output."""
    case = case_of("hf/sequence_classification")
    assert any(name.endswith("key.bias") and np.abs(array).max() < 1e-12 for name, array in case.grad_params.items())
    write_case(tmp_path / "case.npz", case)
    assert invoke(capsys, "check", tmp_path / "case.npz", "--max-nmse", "-200").code == 0
    zero = normal(0, 2, 7, 12)
    files = pair(tmp_path, a=zero)
    write_npz(files[0], {**dict(np.load(files[0])), "z": np.zeros((4, 5))})
    write_npz(files[1], {**dict(np.load(files[1])), "z": np.full((4, 5), 1e-13)})
    assert invoke(capsys, "compare", *files, "--max-nmse", "-100").code == 0


@pytest.mark.parametrize("value", ["nan", "much", ""])
def test_a_threshold_is_a_number(value: str, tmp_path: Path) -> None:
    execute("compare", *pair(tmp_path), f"--max-nmse={value}").assert_refused("--max-nmse", "must be a number")


def test_what_lower_precision_leaves_is_told(tmp_path: Path, capsys: Capture) -> None:
    """The weights of all linear maps in int8, one scale for each output channel, by its definition."""
    from perceiver_ref.porting import run
    from perceiver_ref.porting.cases.execution import rebuild

    case = case_of("open-flamingo/gated_immediate")
    rebuilt, arrays = rebuild(case)
    weights: dict[str, Any] = dict(arrays)
    for name, array in arrays.items():
        if array.ndim == 2:
            scale = np.abs(array).max(1, keepdims=True) / 127
            weights[name] = np.round(array / scale) * scale
    outputs = run(rebuilt, weights, case.inputs, case.meta["call"]).outputs
    write_case(tmp_path / "case.npz", Case(case.meta, case.params, case.state, case.inputs, outputs))
    done = invoke(capsys, "diagnose", tmp_path / "case.npz", "--json", tmp_path / "out.json")
    made = json.loads((tmp_path / "out.json").read_text())
    assert (done.code, made["verdict"], made["causes"]) == (1, "deviation", ["dtype"])
    best = made["formats"][0]
    assert (
        best["variant"] == made["explanation"][0]["variant"] == "weights in int8 per output channel, of all linear maps"
    )
    assert best["remaining"] < 1e-3
    assert f"  {best['variant']}" in done.out
    assert all(row["used"] for row in made["parameters"])


@pytest.mark.parametrize("command", ["check", "diagnose"])
def test_what_is_not_finite_is_counted_and_placed(command: str, tmp_path: Path, capsys: Capture) -> None:
    case = case_of("open-flamingo/gated_immediate")
    case.outputs["out"] = case.outputs["out"].copy()
    case.outputs["out"][1, 2:4, 3] = np.nan
    case.outputs["out"][0, 1, 1] = np.inf
    write_case(tmp_path / "case.npz", case)
    done = invoke(capsys, command, tmp_path / "case.npz")
    assert done.code == 1
    said = " ".join(done.out.split())
    assert "2 NaN in the case alone, first at [1, 2, 3]" in said
    assert "1 infinite in the case alone, first at [0, 1, 1]" in said
