"""The command line: what it refuses in one line, what it lists, and a quick run from beginning to end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.__main__ import main
from bench.cases import CASES

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--case", "imagenet"], "unknown case 'imagenet'"),
        (["--only", "theirs"], "unknown implementation 'theirs'"),
        (["--tf32"], "--backend cupy"),
        (["--threads", "0"], "--threads must be 1 to"),
        (["--threads", "100000"], "--threads must be 1 to"),
        (["--rounds", "0"], "--rounds must be at least 1"),
        (["--json", "no/such/folder/a.json"], "does not exist"),
        (["--from", "no-such-file.json"], "does not exist"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert text in error


def test_the_list_has_every_case(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in CASES)


def test_a_quick_run(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench", "--quick", "--threads", "1", "--case", "engine", "import"]
    command += ["--only", "ours elementary", "--json", str(tmp_path / "a.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "a.json").read_text())
    measured = [(row["case"], row["implementation"]) for row in result["rows"]]
    assert measured == [("engine", "ours"), ("engine", "ours elementary"), ("import", "ours")]
    assert result["machine"]["threads"] == "1"
    assert {"blas", "tf32", "numpy", "machine"} <= set(result["machine"])
    assert "perceiver-ref, elementary ops" in done.stdout
