"""`perceiver-ref info`, `--version` and `--help` say what they should on stdout and succeed."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import numpy as np
import pytest
import scipy
from cli.command import invoke

import perceiver_ref


def test_info_names_versions_and_what_timings_depend_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finished = invoke(capsys, "info", "--json", tmp_path / "info.json")
    assert (finished.code, finished.err) == (0, "")
    rows = json.loads((tmp_path / "info.json").read_text())
    assert rows.pop("version") == 1
    assert rows["perceiver-ref"] == perceiver_ref.__version__
    assert rows["numpy"] == np.__version__
    assert rows["scipy"] == scipy.__version__
    assert platform.python_version() in rows["python"]
    assert int(rows["cores"]) >= 1
    assert rows["blas"]
    assert rows["gpu"]
    for key, value in rows.items():
        assert any(line.split(None, 1) == [key, value] for line in finished.out.splitlines()), key


def test_thread_limits_are_shown(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert any(line.split() == ["OMP_NUM_THREADS", "7"] for line in invoke(capsys, "info").out.splitlines())


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    finished = invoke(capsys, "--version")
    assert (finished.code, finished.out) == (0, f"perceiver-ref {perceiver_ref.__version__}\n")


@pytest.mark.parametrize("arguments", [["--help"], ["check", "--help"], ["run", "--help"], ["info", "--help"]])
def test_help(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    finished = invoke(capsys, *arguments)
    assert (finished.code, finished.err) == (0, "")
    assert "usage: perceiver-ref" in finished.out
