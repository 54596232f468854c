"""How far long work is: on stderr, after two seconds, on a terminal or when asked for, and never in what is written."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cli.command import invoke
from porting.cases import path_of

from perceiver_ref.host import progress
from perceiver_ref.host.progress import counting, duration, showing, steps


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def clock(seconds: float) -> Callable[[], float]:
    """One that goes on by so much whenever it is looked at."""
    now = [0.0]

    def look() -> float:
        now[0] += seconds
        return now[0]

    return look


def shown(monkeypatch: pytest.MonkeyPatch, work: Callable[[], object], *, asked: bool, terminal: bool) -> str:
    stream = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with showing(asked, clock=clock(1.0)):
        work()
    return stream.getvalue()


def ten() -> None:
    assert list(steps(range(10), "case")) == list(range(10))


def test_nothing_is_shown_where_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(monkeypatch, ten, asked=False, terminal=False) == ""
    ten()  # outside of a command


def test_a_terminal_has_one_line_that_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(monkeypatch, ten, asked=False, terminal=True)
    assert "\n" not in text
    lines = text.split("\r\x1b[K")
    assert lines[0] == lines[-1] == ""
    assert lines[-2] == "case 10/10, 0:01 left"  # ten ticks for nine
    assert "case 5/10, 0:08 left" in lines  # five ticks for four cases, six are left


def test_elsewhere_there_are_lines_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(monkeypatch, ten, asked=True, terminal=False)
    assert "\x1b" not in text
    assert 2 <= len(text.splitlines()) <= 4  # ten seconds, a line every five after two


def test_the_first_two_seconds_are_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    with showing(clock=clock(0.1)):
        list(steps(range(10), "case"))
        assert stream.getvalue() == ""
        list(steps(range(20), "case"))
        assert stream.getvalue() != ""


def test_steps_within_steps_and_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    def work() -> None:
        for _ in steps(range(3), "case"):
            count = counting("operation")
            for _ in range(5):
                count()
            for _ in steps((i for i in range(4)), "pair"):
                pass

    text = shown(monkeypatch, work, asked=True, terminal=True)
    assert "case 2/3, " in text
    assert ": operation 4, 0:04 so far" in text
    assert ": pair 3, 0:" in text
    assert "case 3/3, 0:" in text


def test_what_is_left_early_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    def work() -> None:
        for item in steps(range(9), "first"):
            if item == 4:
                break
        for _ in steps(range(9), "second"):
            pass

    lines = shown(monkeypatch, work, asked=False, terminal=True).split("\r\x1b[K")
    assert lines[-2].startswith("second 9/9")


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (59.6, "1:00"), (3723, "1:02:03")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_command_shows_it_on_stderr_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    case = path_of("hf/model_bare")
    quiet = invoke(capsys, "check", case, "--json", tmp_path / "quiet.json")
    assert quiet.err == ""
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    monkeypatch.setattr(progress, "_BETWEEN", {True: 0.0, False: 0.0})
    loud = invoke(capsys, "check", case, "--json", tmp_path / "loud.json", "--progress")
    assert "case 1/1: operation " in loud.err
    assert (loud.code, loud.out) == (quiet.code, quiet.out)
    assert (tmp_path / "loud.json").read_bytes() == (tmp_path / "quiet.json").read_bytes()
