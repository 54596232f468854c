"""`perceiver-ref compare`: what it prints and writes, its exit codes, and one clear line for bad input."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli.command import execute, invoke
from support import normal

from perceiver_ref.weights.formats.npz import write_npz

Capture = pytest.CaptureFixture[str]


def dump(path: Path, **changes: Any) -> Path:
    """Three points and an output; None leaves one out."""
    arrays: dict[str, Any] = {"trace/a": normal(0, 2, 3), "trace/b": normal(1, 2, 3), "trace/c": normal(2, 4)}
    arrays |= {"output/y": normal(3, 2)}
    arrays |= {key.replace("__", "/"): value for key, value in changes.items()}
    write_npz(path, {key: np.asarray(array) for key, array in arrays.items() if array is not None})
    return path


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    return dump(tmp_path / "reference.npz")


def test_equal_dumps_match(reference: Path, capsys: Capture) -> None:
    done = invoke(capsys, "compare", reference, reference)
    assert (done.code, done.err) == (0, "")
    assert "matched: 4 by name" in done.out
    assert "match: 4 pairs agree; the largest error is 0.0e+00" in done.out


def test_the_first_divergence_and_the_growth(reference: Path, tmp_path: Path, capsys: Capture) -> None:
    b, c = normal(1, 2, 3), normal(2, 4)
    b[1, 2] += 2.0**-10
    c[3] += 2.0**-4
    candidate = dump(tmp_path / "candidate.npz", trace__b=b, trace__c=c)
    done = invoke(capsys, "compare", reference, candidate, "--json", tmp_path / "out.json")
    assert (done.code, done.err) == (1, "")
    assert "mismatch: 2 of 4 pairs differ" in done.out
    assert "first divergence: b: error" in done.out
    assert f"most at [1, 2], {b[1, 2]:.8g} instead of {normal(1, 2, 3)[1, 2]:.8g}" in done.out
    assert "just before it, a agrees: error 0.0e+00" in done.out
    made = json.loads((tmp_path / "out.json").read_text())
    assert (made["verdict"], made["first_divergence"]) == ("mismatch", "b")
    assert [point["name"] for point in made["points"]] == ["a", "b", "c", "output/y"]
    assert [point["passed"] for point in made["points"]] == [True, False, False, True]
    scales = [max(1.0, np.abs(normal(1, 2, 3)).max()), max(1.0, np.abs(normal(2, 4)).max())]
    assert made["points"][1]["error"] == pytest.approx(2.0**-10 / scales[0], rel=1e-12)
    assert made["points"][2]["ratio"] == pytest.approx(2.0**6 * scales[0] / scales[1], rel=1e-12)
    assert made["points"][2]["index"] == [3]


def test_a_tolerance_for_all(reference: Path, tmp_path: Path, capsys: Capture) -> None:
    candidate = dump(tmp_path / "candidate.npz", trace__b=normal(1, 2, 3) + 1e-3)
    assert invoke(capsys, "compare", reference, candidate).code == 1
    assert invoke(capsys, "compare", reference, candidate, "--tolerance", "1e-2").code == 0
    assert invoke(capsys, "compare", reference, candidate, "--tolerance", "0").code == 1


def test_names_and_layouts_that_differ_are_shown(reference: Path, tmp_path: Path, capsys: Capture) -> None:
    other = {"u": normal(0, 2, 3).T, "v": normal(1, 2, 3).T.astype(np.float32), "w": normal(7, 9), "y": normal(3, 2)}
    write_npz(tmp_path / "candidate.npz", other)
    done = invoke(capsys, "compare", reference, tmp_path / "candidate.npz")
    assert done.code == 0
    lines = done.out.splitlines()
    assert "4 arrays in the reference, 4 in the candidate; matched: 1 by name, 2 by their values" in lines
    assert "in the reference alone: c" in lines
    assert "in the candidate alone: w" in lines
    rows = [line.split() for line in lines]
    assert ["a", "u"] in [row[:2] for row in rows]
    assert ["b", "v"] in [row[:2] for row in rows]
    assert lines.count("    matched by their values") == 2
    assert lines.count("    axes 0 and 1 swapped") == 2
    assert lines.count("    float64 in the reference, float32 in the candidate") == 1


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"trace__b": np.full((2, 3), np.nan)}, "6 NaN in the candidate alone, first at [0, 0]"),
        ({"trace__b": normal(1, 2, 5)}, "first divergence: b: shape [2, 3] in the reference, [2, 5] in the candidate"),
        ({"output__y": None, "output__z": normal(9, 7)}, "missing in the candidate: output/y"),
    ],
)
def test_mismatches_are_explained(
    reference: Path, tmp_path: Path, capsys: Capture, changes: dict[str, Any], text: str
) -> None:
    candidate = dump(tmp_path / "candidate.npz", **changes)
    done = invoke(capsys, "compare", reference, candidate, "--json", tmp_path / "out.json", "--html", tmp_path / "x")
    assert done.code == 1
    assert text in done.out
    assert "mismatch: " in done.out
    json.loads((tmp_path / "out.json").read_text(), parse_constant=pytest.fail)  # no NaN, no Infinity


def test_a_page_with_the_same_verdict(reference: Path, tmp_path: Path, capsys: Capture) -> None:
    candidate = dump(tmp_path / "candidate.npz", trace__b=normal(1, 2, 3) + 1e-3)
    invoke(capsys, "compare", reference, candidate, "--html", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "mismatch: 1 of 4 pairs differs" in page
    assert "b: around the largest difference, at [" in page
    assert "://" not in page


def test_bad_input_is_one_line(reference: Path, tmp_path: Path, capsys: Capture) -> None:
    write_npz(tmp_path / "empty.npz", {})
    write_npz(tmp_path / "other.npz", {"z": normal(0, 11)})
    (tmp_path / "broken.npz").write_bytes(b"no archive")
    invoke(capsys, "compare", reference, tmp_path / "empty.npz").assert_refused("empty.npz", "it holds nothing")
    invoke(capsys, "compare", reference, tmp_path / "other.npz").assert_refused("can be matched")
    invoke(capsys, "compare", reference, tmp_path / "broken.npz").assert_refused("broken.npz")
    invoke(capsys, "compare", tmp_path / "none.npz", reference).assert_refused("none.npz", "does not exist")
    for option in ("--html", "--json"):
        invoke(capsys, "compare", reference, reference, option, tmp_path).assert_refused("is a directory")
    for tolerance in ("x", "-1", "inf", "nan"):
        invoke(capsys, "compare", reference, reference, f"--tolerance={tolerance}").assert_refused("--tolerance")
    invoke(capsys, "compare", reference).assert_refused("CANDIDATE")


def test_names_that_the_terminal_cannot_show(tmp_path: Path) -> None:
    write_npz(tmp_path / "x.npz", {"größe": normal(0, 2)})
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = execute("compare", tmp_path / "x.npz", tmp_path / "x.npz", env=environment)
    assert (done.code, done.err) == (0, "")
    assert r"gr\xf6\xdfe" in done.out
