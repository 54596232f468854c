"""The command line: what it refuses in one line, what it lists, and a quick run from beginning to end."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.__main__ import _parser, main
from bench.cases import CASES
from perceiver_ref.host.signals import Stopped, exit_code

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--case", "imagenet"], "unknown case 'imagenet'"),
        (["--only", "theirs"], "unknown implementation 'theirs'"),
        (["--tf32"], "--backend cupy"),
        (["--threads", "0"], "--threads must be 1 to"),
        (["--threads", "100000"], "--threads must be 1 to"),
        (["--beside", "-1"], "--beside must be 0 to 64, got -1"),
        (["--limit", "0"], "--limit must be above 0 seconds"),
        (["--rounds", "0"], "--rounds must be at least 1"),
        (["--json", "no/such/folder/a.json"], "does not exist"),
        (["--from", "no-such-file.json"], "does not exist"),
        (["--from", "a.json", "--json", "./a.json"], "written over a.json, which is read"),
        (["--json", "b.json", "--write", "./b.json"], "are one file"),
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


@pytest.mark.parametrize(
    ("arguments", "want"),
    [
        (["--only", "ours elementary", "--only", "autograd"], {"only": ["ours elementary", "autograd"]}),
        (["--only", "ours elementary", "autograd"], {"only": ["ours elementary", "autograd"]}),
        (["--case", "engine", "--case", "import", "gated"], {"case": ["engine", "import", "gated"]}),
        (["--pass", "forward", "--pass", "forward + backward"], {"passes": ["forward", "forward + backward"]}),
        (["--from", "a", "--from", "b", "c"], {"results": [Path("a"), Path("b"), Path("c")]}),
    ],
)
def test_options_of_several_values_may_be_given_again(arguments: list[str], want: dict[str, object]) -> None:
    given = vars(_parser().parse_args(arguments))
    assert {name: given[name] for name in want} == want


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Stopped(signal.SIGTERM)])
def test_an_interrupted_run_writes_what_it_measured(
    error: KeyboardInterrupt,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    result: dict,
) -> None:
    """Table, JSON and page, and the exit code of the signal."""

    def measure(cases: object, options: object, say: object, keep: Callable[[dict], None]) -> None:
        keep(result)
        raise error

    monkeypatch.setattr("bench.__main__.measure", measure)
    outputs = [str(tmp_path / name) for name in ("a.json", "page.md")]
    assert main(["--threads", "1", "--json", outputs[0], "--write", outputs[1]]) == exit_code(error)
    assert json.loads((tmp_path / "a.json").read_text())["rows"] == result["rows"]
    assert "# Performance" in (tmp_path / "page.md").read_text()
    printed = capsys.readouterr()
    assert result["rows"][0]["case"] in printed.out
    assert printed.err.startswith("bench: error: ")


def test_a_run_that_is_interrupted_before_anything_was_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(*given: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("bench.__main__.measure", measure)
    assert main(["--threads", "1"]) == 130
    assert capsys.readouterr().out == ""
