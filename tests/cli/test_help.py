"""`--help` of each command: an example, the exit codes, lines of a readable length; and colours of verdicts."""

from __future__ import annotations

import io
import re
import shlex
import sys
from pathlib import Path

import pytest
from cli.command import invoke
from porting.cases import case_of, path_of

from perceiver_ref.cli import words
from perceiver_ref.cli.main import _parser
from perceiver_ref.cli.table import COMMANDS
from perceiver_ref.porting.cases import write_case

every_command = pytest.mark.parametrize("command", COMMANDS, ids=[row.name for row in COMMANDS])


@every_command
def test_the_help_of_a_command(command, capsys: pytest.CaptureFixture[str]) -> None:
    finished = invoke(capsys, command.name, "--help")
    assert (finished.code, finished.err) == (0, "")
    assert "\x1b" not in finished.out
    for example, what in command.examples:
        shown = re.escape(f"  perceiver-ref {example}") + (f" {{2,}}{re.escape(what)}" if what else "")
        (line,) = re.findall(rf"^{shown}$", finished.out, re.MULTILINE)
        assert len(line) <= 120
    assert "exit code: 0" in finished.out
    assert "docs/JSON.md" in finished.out


@every_command
def test_every_example_parses(command) -> None:
    for example, _ in command.examples:
        options = _parser(shlex.split(example)).parse_args(shlex.split(example))
        assert options.name == command.name


def test_the_help_of_all(capsys: pytest.CaptureFixture[str]) -> None:
    finished = invoke(capsys, "--help")
    assert (finished.code, finished.err) == (0, "")
    for row in COMMANDS:
        assert f"\n    {row.name} " in finished.out
    assert "examples:" in finished.out


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def on_a_terminal(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> str:
    from perceiver_ref.cli import main

    stream = Terminal()
    monkeypatch.setattr(sys, "stdout", stream)
    main([str(argument) for argument in arguments])
    return stream.getvalue()


@pytest.fixture
def faulty(tmp_path: Path) -> Path:
    case = case_of("hf/model_bare")
    case.outputs["last_hidden_state"][0, 0, 0] += 1e-3
    write_case(tmp_path / "faulty.npz", case)
    return tmp_path / "faulty.npz"


def test_verdicts_have_colours_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch, capsys, faulty: Path) -> None:
    for variable in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(variable, raising=False)
    plain = invoke(capsys, "check", path_of("hf/model_bare"), faulty).out
    assert "\x1b" not in plain
    coloured = on_a_terminal(monkeypatch, "check", path_of("hf/model_bare"), faulty)
    assert "\x1b[32mpass\x1b[0m" in coloured
    assert "\x1b[31mfail\x1b[0m" in coloured
    for colour in ("\x1b[32m", "\x1b[31m", "\x1b[0m"):
        coloured = coloured.replace(colour, "")
    assert coloured == plain  # nothing else is coloured, and columns stay aligned


@pytest.mark.parametrize(("variable", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_no_colours_where_they_are_not_wanted(
    monkeypatch: pytest.MonkeyPatch, faulty: Path, variable: str, value: str
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv(variable, value)
    assert "\x1b" not in on_a_terminal(monkeypatch, "check", faulty)


def test_a_word_keeps_its_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.delenv("TERM", raising=False)
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert words.verdict("pass", 6) == "\x1b[32mpass\x1b[0m  "
    assert words.opened("mismatch: 2 of 4") == "\x1b[31mmismatch\x1b[0m: 2 of 4"
    assert words.opened("first divergence: x") == "first divergence: x"
    assert words.verdict("other") == "other"
