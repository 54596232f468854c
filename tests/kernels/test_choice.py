"""Whether work is done alone or together, given what a stated machine shows."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import pytest

module = sys.modules["perceiver_ref.autograd.kernels.cpu.choice"]


@dataclass
class Machine:
    """Two threads do `faster` times as much as one and need `woken` seconds before; each gets `share` of a core."""

    faster: float
    woken: float
    share: float = 1.0

    def run(self, choice: object, kind: str, seconds: float) -> bool:
        """One piece of work that takes one thread so many seconds; whether it was done together."""
        together = choice.together(kind)  # type: ignore[attr-defined]
        took = (self.woken + seconds / self.faster if together else seconds) / self.share
        choice.took(kind, together, took, (took, took * self.share))  # type: ignore[attr-defined]
        return together

    def settled(self, choice: object, kind: str, seconds: float) -> bool:
        """What is chosen when both ways have been tried."""
        for _ in range(2 * module.TRIALS):
            self.run(choice, kind, seconds)
        return self.run(choice, kind, seconds)


CORES = Machine(faster=1.9, woken=40e-6)
HYPERTHREADS = Machine(faster=1.05, woken=40e-6)


@pytest.mark.parametrize(
    ("machine", "seconds", "together"),
    [
        (CORES, 60e-6, False),  # 60 alone, 72 together
        (CORES, 200e-6, True),
        (CORES, 50e-3, True),
        (HYPERTHREADS, 200e-6, False),  # 230 together
        (HYPERTHREADS, 50e-3, True),  # 47.7
        (Machine(faster=0.9, woken=0.0), 50e-3, False),  # threads that are in each other's way
    ],
)
def test_the_faster_way_of_an_idle_machine(machine: Machine, seconds: float, together: bool) -> None:
    assert machine.settled(module.Choice(), "product", seconds) is together


def test_both_ways_are_tried_equally_often_and_then_no_more() -> None:
    choice = module.Choice()
    tried = [CORES.run(choice, "product", 60e-6) for _ in range(2 * module.TRIALS)]
    assert tried.count(True) == tried.count(False) == module.TRIALS
    assert not any(CORES.run(choice, "product", 60e-6) for _ in range(100))


def test_kinds_are_measured_apart() -> None:
    choice = module.Choice()
    assert CORES.settled(choice, "large", 1e-3)
    assert not CORES.settled(choice, "small", 60e-6)
    assert CORES.run(choice, "large", 1e-3)


def test_one_slow_trial_decides_nothing() -> None:
    choice = module.Choice()
    for i in range(2 * module.TRIALS):
        together = choice.together("product")
        seconds = 8e-3 if i == 0 else 110e-6 if together else 200e-6  # a thread was kept waiting once
        choice.took("product", together, seconds, (1e-4, 1e-4))
    assert choice.together("product")


def test_on_a_busy_machine_two_threads_get_more_than_one() -> None:
    """Small work, too, and it is measured anew when the machine is idle again."""
    choice = module.Choice()
    assert not CORES.settled(choice, "product", 60e-6)
    busy = Machine(faster=1.9, woken=40e-6, share=0.4)
    for _ in range(int(2 * module.WINDOW / 60e-6)):
        busy.run(choice, "product", 60e-6)
    assert choice.busy
    assert busy.run(choice, "product", 60e-6)
    for _ in range(int(2 * module.WINDOW / 60e-6)):
        HYPERTHREADS.run(choice, "other", 1e-3)
    assert not choice.busy
    assert not HYPERTHREADS.settled(choice, "product", 1e-4)


def test_a_moment_is_not_busy() -> None:
    """One slice lost among many computed."""
    choice = module.Choice()
    for i in range(1000):
        choice.took("product", True, 1e-4, (2e-3 if i == 500 else 1e-4, 1e-4))
    assert not choice.busy


def test_between_busy_and_idle_nothing_changes() -> None:
    choice = module.Choice()
    between = (module.BUSY + module.IDLE) / 2
    for start in (False, True):
        choice.busy = start
        for _ in range(10):
            choice.took("product", True, 0.01, (module.WINDOW, module.WINDOW * between))
        assert choice.busy is start
