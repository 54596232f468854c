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
        choice.took(kind, together, 1, took, (took, took * self.share))  # type: ignore[attr-defined]
        return together

    def settled(self, choice: object, kind: str, seconds: float) -> bool:
        """What is chosen when both ways have been tried: of an odd number of calls the last is no trial."""
        for _ in range(module.SPACED * module.TRIALS):
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


@pytest.mark.parametrize(("seconds", "together"), [(60e-6, False), (200e-6, True)])
def test_both_ways_are_tried_at_once_and_then_the_slower_one_seldom(seconds: float, together: bool) -> None:
    choice = module.Choice()
    tried = [CORES.run(choice, "product", seconds) for _ in range(2 * module.TRIALS)]
    assert tried.count(not together) == module.TRIALS
    later = [CORES.run(choice, "product", seconds) for _ in range(10 * module.SELDOM)]
    assert later.count(not together) == 10


def test_long_work_is_left_to_one_thread_once() -> None:
    """Which takes it nearly twice as long; once of all kinds."""
    choice = module.Choice()
    tried = [CORES.run(choice, "product", 50e-3) for _ in range(module.SPACED * module.TRIALS)]
    assert tried.index(False) == module.SPACED - 1
    assert tried.count(False) == 1
    others = [CORES.run(choice, kind, 5e-3) for kind in ("larger", "attention") for _ in range(2 * module.SELDOM)]
    assert all(others)
    assert not CORES.settled(choice, "small", 60e-6)  # which hangs on the hand-over still


def test_long_work_is_tried_more_often_where_threads_share_a_core() -> None:
    choice = module.Choice()
    tried = [HYPERTHREADS.run(choice, "product", 50e-3) for _ in range(module.SPACED * module.TRIALS)]
    assert tried.count(False) == module.TRIALS


def test_long_work_that_was_disturbed_is_done_together_all_the_same() -> None:
    """All its first calls together took longer than alone; another kind has shown what the threads can do."""
    choice = module.Choice()
    for _ in range(2 * module.SPACED):
        together = choice.together("product")
        choice.took("product", together, 1, 80e-3 if together else 50e-3, (1e-4, 1e-4))
    assert not choice.together("product")
    for _ in range(module.SPACED):
        CORES.run(choice, "attention", 50e-3)
    assert choice.together("product")


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
        choice.took("product", together, 1, seconds, (1e-4, 1e-4))
    assert choice.together("product")


def test_times_are_compared_by_the_size_of_the_work() -> None:
    """All of one kind, which is of about one size."""
    choice = module.Choice()
    for _ in range(4 * module.TRIALS):
        together = choice.together("product")
        size = 150 if together else 100
        choice.took("product", together, size, (1e-6 if together else 1.2e-6) * size, (1e-4, 1e-4))
    assert choice.together("product")


def test_a_wrong_impression_passes() -> None:
    """All first trials together were disturbed."""
    choice = module.Choice()
    for i in range(3 * module.SELDOM):
        together = choice.together("product")
        seconds = 200e-6 if not together else 300e-6 if i < 20 else 110e-6
        choice.took("product", together, 1, seconds, (1e-4, 1e-4))
        if i == 20:
            assert not choice.together("product")
    assert choice.together("product")


def test_on_a_busy_machine_two_threads_get_more_than_one() -> None:
    """Small work, too; when the machine is idle again, what was known of it holds."""
    choice = module.Choice()
    assert not CORES.settled(choice, "product", 60e-6)
    busy = Machine(faster=1.9, woken=40e-6, share=0.4)
    for _ in range(int(2 * module.WINDOW / 60e-6)):
        busy.run(choice, "product", 60e-6)
    assert choice.busy
    assert busy.run(choice, "product", 60e-6)
    for _ in range(int(2 * module.WINDOW / 60e-6)):
        CORES.run(choice, "other", 60e-6)
    assert not choice.busy
    assert not CORES.run(choice, "product", 60e-6)


def test_times_on_a_busy_machine_are_no_measure() -> None:
    choice = module.Choice()
    choice.busy = True
    for _ in range(100):
        assert choice.together("product")
        choice.took("product", True, 1, 1e-9, (1e-9, 0.0))
    choice.busy = False
    assert not CORES.settled(choice, "product", 60e-6)


def test_a_moment_is_not_busy() -> None:
    """One slice lost among many computed."""
    choice = module.Choice()
    for i in range(1000):
        choice.took("product", True, 1, 1e-4, (2e-3 if i == 500 else 1e-4, 1e-4))
    assert not choice.busy


def test_between_busy_and_idle_nothing_changes() -> None:
    choice = module.Choice()
    between = (module.BUSY + module.IDLE) / 2
    for start in (False, True):
        choice.busy = start
        for _ in range(10):
            choice.took("product", True, 1, 0.01, (module.WINDOW, module.WINDOW * between))
        assert choice.busy is start
