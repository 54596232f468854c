"""The measure of several processes: the same losses, a row for each number."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from training.test_distributed import mpi

from bench import parallel


@mpi
def test_a_row_for_each_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = parallel.main(["--size", "quick", "--steps", "2", "--json", str(tmp_path / "rows.json")])
    assert code == 0, capsys.readouterr().err
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert [row["processes"] for row in rows] == [1, 2]
    assert math.isclose(rows[0]["loss"], rows[1]["loss"], rel_tol=1e-5)
    assert rows[0]["efficiency"] == 1
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_without_a_launcher_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(parallel.shutil, "which", lambda name: None)
    monkeypatch.setattr(parallel.sys, "executable", "/nowhere/python")
    assert parallel.main(["--processes", "2"]) == 2
    assert "need an MPI launcher" in capsys.readouterr().err
