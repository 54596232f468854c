"""Two runs at once, in one folder or one process; signals of the system; and what is told of a damaged checkpoint."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from training import small
from training.test_resuming import CHECKPOINT, PREVIOUS, assert_same_run, names

from perceiver_ref.autograd import threads
from perceiver_ref.errors import InputError
from perceiver_ref.training.interrupts import Interrupted
from perceiver_ref.training.lock import NAME, alone
from perceiver_ref.training.turns import Turns

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX locks and signals")
cpu_threads = sys.modules["perceiver_ref.autograd.kernels.cpu.threads"]


@posix
def test_a_folder_has_one_run_at_a_time(tmp_path: Path) -> None:
    refused: list[str] = []

    def second(stage: int, step: int) -> None:
        if (stage, step) in ((0, 0), (0, 13), (1, 3)):
            before = names(tmp_path)
            for resume in (True, False):
                with pytest.raises(InputError) as error:
                    small.run(tmp_path, resume=resume)
                refused.append(str(error.value))
            assert names(tmp_path) == before, "the second run has taken nothing away"

    small.run(tmp_path, on_batch=second)
    want = f"{tmp_path} is in use: process {os.getpid()} is training in it; wait for its end, or choose another folder"
    assert refused == [want] * 6
    assert NAME not in names(tmp_path)


@posix
def test_a_lock_of_a_process_that_was_killed_is_taken_over(tmp_path: Path) -> None:
    command = [sys.executable, small.__file__, str(tmp_path), "--pause", "0.05"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as child:
        deadline = time.monotonic() + 60
        while not (tmp_path / CHECKPOINT).exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        with pytest.raises(InputError, match=f"is in use: process {child.pid} is training"):
            small.run(tmp_path, resume=True)
        child.kill()
    assert NAME in names(tmp_path)
    small.run(tmp_path, resume=True)
    whole = tmp_path / "whole"
    small.run(whole)
    (tmp_path / "whole").rename(tmp_path.with_name(f"{tmp_path.name}-whole"))
    assert_same_run(tmp_path, tmp_path.with_name(f"{tmp_path.name}-whole"))


@posix
def test_a_lock_is_never_held_twice(tmp_path: Path) -> None:
    """Threads that come and go: each takes the file away when it leaves, and another may have opened it before."""
    inside: list[int] = []
    most: list[int] = []

    def work() -> None:
        got = 0
        while got < 40:
            try:
                with alone(tmp_path):
                    inside.append(1)
                    most.append(len(inside))
                    inside.pop()
                    got += 1
            except InputError:
                continue

    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert set(most) == {1}
    assert names(tmp_path) == set()


@posix
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_the_system_stops_a_run_as_ctrl_c_does(tmp_path: Path, number: int) -> None:
    def on_batch(stage: int, step: int) -> None:
        if (stage, step) == (0, 6):
            os.kill(os.getpid(), number)

    with pytest.raises(Interrupted, match="after step 7, which is saved; go on with: ") as stopped:
        small.run(tmp_path / "run", on_batch=on_batch)
    assert stopped.value.number == number
    assert signal.getsignal(number) is signal.SIG_DFL
    small.run(tmp_path / "run", resume=True)
    small.run(tmp_path / "whole")
    (tmp_path / "run" / PREVIOUS).touch()
    assert_same_run(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", None], ids=["empty", "cut off", "another file"])
def test_a_newest_checkpoint_that_cannot_be_read_is_told(tmp_path: Path, capsys, content: bytes | None) -> None:
    out, whole = tmp_path / "run", tmp_path / "whole"
    small.run(whole)
    small.run(out)
    newest = out / CHECKPOINT
    if content is None:
        np.savez(newest, a=np.zeros(3))
    else:
        newest.write_bytes(content)
    capsys.readouterr()
    small.run(out, resume=True)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"note: {newest} ")
    assert line.endswith(f"; going on from the one before, {out / PREVIOUS}")
    assert_same_run(out, whole)
    small.run(out, resume=True)
    assert capsys.readouterr().err == ""


def started(work: Any) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


@pytest.mark.parametrize("outside", [1, 2, 3])
def test_runs_in_two_threads_are_those_that_each_is_alone(tmp_path: Path, outside: int) -> None:
    """One ends while the other goes on, and the program around them has another number of threads."""
    numbers: list[int] = []

    def on_batch(stage: int, step: int) -> None:
        numbers.append(cpu_threads.count())

    before = cpu_threads.count()
    small.run(tmp_path / "whole")
    with threads(outside):
        runs = []
        for name in ("a", "b"):
            runs.append(started(lambda name=name: small.run(tmp_path / name, on_batch=on_batch)))
            while len(runs) == 1 and len(numbers) < 5:
                time.sleep(0.001)
        for run in runs:
            run.join()
        assert cpu_threads.count() == outside
    assert cpu_threads.count() == before
    assert set(numbers) == {1}, "a recipe's own number, whatever else begins or ends"
    assert len(numbers) == 2 * small.STEPS
    for name in ("a", "b"):
        assert_same_run(tmp_path / name, tmp_path / "whole")
        lines = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == small.LOGGED


def test_turns_go_to_who_waits_longest() -> None:
    turns, order = Turns(), []
    waiting: list[threading.Thread] = []

    def work(name: int) -> None:
        with turns:
            order.append(name)

    with turns:
        for name in range(4):
            waiting.append(started(lambda name=name: work(name)))
            while len(turns._waiting) <= name:
                time.sleep(0.001)
    for thread in waiting:
        thread.join()
    assert order == [0, 1, 2, 3]


def test_who_no_longer_waits_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while waiting."""
    turns = Turns()

    class Impatient:
        def __init__(self) -> None:
            self.times = 0

        def acquire(self) -> None:
            self.times += 1
            if self.times == 2:
                raise KeyboardInterrupt

        def release(self) -> None:
            pytest.fail("nobody waits any more")

    with turns:
        monkeypatch.setattr("perceiver_ref.training.turns.threading.Lock", Impatient)
        with pytest.raises(KeyboardInterrupt), turns:
            pass
        monkeypatch.undo()
    with turns:
        pass
