"""docs/EXACTNESS.md and the README's table have a row for everything that there are cases of, within tolerance."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import exactness
import numpy as np
import pytest
from docs.blocks import ROOT
from porting.cases import FILES, path_of

from perceiver_ref.porting.cases import TOLERANCES, read_case, write_case

PAGE = (ROOT / "docs" / "EXACTNESS.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
AGAIN = "write them again: python docs/make exactness"
PART = "hf/model_bare", "idefics/gated_xattn_float", "deepmind/mlm_different_masks"


def test_the_page_has_every_class_with_its_cases() -> None:
    metas = []
    for path in FILES:
        with np.load(path, allow_pickle=False) as archive:  # read_case would read every array
            metas.append(json.loads(str(archive["meta"])))
    counted = Counter((m["peer"], exactness.class_of(m["class"]), m["dtype"]) for m in metas)
    shown: Counter[tuple[str, str, str]] = Counter()
    for line in exactness.lines_of(PAGE):
        shown[line.peer, line.cls, line.dtype] += line.cases
    assert shown == counted, AGAIN


def test_every_error_is_within_the_tolerance() -> None:
    for line in exactness.lines_of(PAGE):
        limits = TOLERANCES[line.dtype]
        assert (line.outputs or 0) <= limits["output"], line
        assert (line.gradients or 0) <= limits["gradient"], line


def test_the_page_and_the_readme_are_made_of_these_lines() -> None:
    lines = exactness.lines_of(PAGE)
    assert exactness.page(lines) == PAGE, AGAIN
    if exactness.BEGIN in README:
        shown = README.partition(exactness.BEGIN)[2].partition(exactness.END)[0]
        assert exactness.BEGIN + shown + exactness.END == exactness.readme_table(lines), AGAIN


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three cases, and a README with an old table."""
    made = tmp_path / "cases"
    made.mkdir()
    for name in PART:
        shutil.copy(path_of(name), made)
    (tmp_path / "README.md").write_text(f"before\n{exactness.BEGIN}\nold\n{exactness.END}\nafter\n", encoding="utf-8")
    return made


def command(folder: Path) -> int:
    files = ["--page", str(folder.parent / "page.md"), "--readme", str(folder.parent / "README.md")]
    return exactness.main(["--cases", str(folder), *files])


def test_the_command_writes_both(folder: Path) -> None:
    assert command(folder) == 0
    lines = exactness.lines_of((folder.parent / "page.md").read_text(encoding="utf-8"))
    shown = {(line.peer, line.cls, line.model, line.dtype): line.cases for line in exactness.lines_of(PAGE)}
    assert {line.peer for line in lines} == {name.partition("/")[0] for name in PART}
    assert {(line.peer, line.cls, line.model, line.dtype) for line in lines} <= set(shown)
    assert all(line.cases == 1 and 0 < line.outputs < 1e-10 and 0 < line.gradients < 1e-8 for line in lines)
    readme = (folder.parent / "README.md").read_text(encoding="utf-8")
    assert readme == f"before\n{exactness.readme_table(lines)}\nafter\n"


def test_a_case_that_does_not_agree_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = read_case(folder / "model_bare.npz")
    wrong = {name: array + np.float64(1e-3) for name, array in case.outputs.items()}
    write_case(folder / "model_bare.npz", replace(case, outputs=wrong))
    assert command(folder) == 2
    assert "model_bare.npz does not agree: perceiver-ref check" in capsys.readouterr().err
    assert not (folder.parent / "page.md").exists()
    assert "old" in (folder.parent / "README.md").read_text(encoding="utf-8")


def test_without_markers_nothing_is_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder.parent / "README.md").write_text("no table\n", encoding="utf-8")
    assert command(folder) == 2
    assert "has no table between" in capsys.readouterr().err


def test_lines_of_one_class_become_one() -> None:
    a = exactness.Line("p", "C", "m", "float64", 1, 1e-16, None)
    b = replace(a, cases=2, outputs=3e-16, gradients=2e-15)
    assert exactness.merged([a, replace(b, dtype="float32"), b]) == [
        replace(b, dtype="float32"),
        replace(b, cases=3),
    ]
