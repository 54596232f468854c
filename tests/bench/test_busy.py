"""Busy processes run while something is measured, and no longer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from bench import session
from bench.busy import beside
from bench.cases import CASES
from bench.session import Measuring

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("number", [0, 3])
def test_they_end_with_the_context_even_when_it_fails(number: int) -> None:
    processes: list[subprocess.Popen[bytes]] = []

    def fails() -> None:
        with beside(number) as made:
            processes.extend(made)
            assert [process.poll() for process in made] == [None] * number
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert len(processes) == number
    assert all(process.returncode < 0 for process in processes)


@pytest.mark.skipif(os.name != "posix", reason="who is killed leaves nothing to wait for elsewhere")
def test_they_end_when_the_one_who_started_them_is_killed() -> None:
    script = "from bench.busy import beside\nwith beside(1) as made:\n    print(made[0].pid, flush=True)\n    input()"
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdin=-1, stdout=-1, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    try:
        parent.communicate(timeout=60)  # the child has its output open, until it ends
    finally:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


def test_a_run_has_them_around_each_case_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    started: list[subprocess.Popen[bytes]] = []

    def popen(*given: object, **more: object) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE))
        return started[-1]

    def measured(case: object, options: object, say: object, rows: object) -> None:
        seen.append(all(process.poll() is None for process in started))

    monkeypatch.setattr("bench.busy.subprocess", type("Made", (), {"Popen": staticmethod(popen)}))
    monkeypatch.setattr(session, "measure_case", measured)
    made = session.measure([CASES["gated"]], Measuring(beside=2), lambda text: None)
    assert (seen, len(started)) == ([True], 2)
    assert all(process.returncode is not None for process in started)
    for process in started:
        process.communicate()
    assert (made["beside"], made["machine"]["beside"]) == (2, "2 busy processes")
    assert "beside" not in session.measure([], Measuring(), lambda text: None)["machine"]
