"""The number of threads: one setting with BLAS's, for a context or from the environment; work is spread over them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from perceiver_ref.autograd import threads

module = sys.modules["perceiver_ref.autograd.kernels.cpu.threads"]


def test_the_setting_is_that_of_blas() -> None:
    functions = module.openblas()
    if functions is None:
        pytest.skip("this NumPy has another BLAS")
    before = functions[0]()
    with threads(3):
        assert functions[0]() == module.count() == 3
        with threads(1):
            assert functions[0]() == module.count() == 1
        assert module.count() == 3
    assert functions[0]() == module.count() == before


@pytest.mark.parametrize("number", [0, -1, 1.5, "2", True])
def test_other_numbers_are_refused(number: object) -> None:
    with pytest.raises(ValueError, match="the number of threads must be a positive integer, got"), threads(number):  # type: ignore[arg-type]
        pass


def test_without_openblas_kernels_have_one_thread_until_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "openblas", lambda: None)
    monkeypatch.setattr(module, "_setting", module._Setting())
    assert module.count() == 1
    with threads(2):
        assert module.count() == 2
        names: list[str] = []
        module.spread(lambda share: names.append(threading.current_thread().name), [0, 1])
        assert len(set(names)) == 2
    assert module.count() == 1


def test_shares_run_at_the_same_time_each_with_products_of_its_own() -> None:
    together = threading.Barrier(3, timeout=10)  # passed only if all three shares are under way
    seen: list[tuple[int, int]] = []

    def work(share: int) -> None:
        together.wait()
        functions = module.openblas()
        seen.append((module.count(), functions[0]() if functions else 1))

    with threads(3):
        module.spread(work, [0, 1, 2])
        assert seen == [(1, 1)] * 3
        assert module.count() == 3


def test_a_share_that_spreads_work_does_it_itself() -> None:
    names: dict[int, set[str]] = {0: set(), 1: set()}

    def work(share: int) -> None:
        module.spread(lambda _: names[share].add(threading.current_thread().name), [0, 1, 2])

    with threads(2):
        module.spread(work, [0, 1])
    assert all(len(found) == 1 for found in names.values())


@pytest.mark.parametrize("failing", [{0}, {1}, {0, 1}])
def test_errors_come_out_when_all_shares_have_ended(failing: set[int]) -> None:
    ended = []

    def work(share: int) -> None:
        ended.append(share)
        if share in failing:
            raise KeyError(share)

    with threads(2):
        with pytest.raises(KeyError):
            module.spread(work, [0, 1])
        assert sorted(ended) == [0, 1]
        assert module.count() == 2


def test_shares_have_the_callers_handling_of_errors() -> None:
    def work(share: int) -> None:
        np.log(np.zeros(1))

    with threads(2), np.errstate(divide="raise"), pytest.raises(FloatingPointError):
        module.spread(work, [0, 1])


def test_callers_in_several_threads_leave_the_setting_as_it_was() -> None:
    def calls() -> None:
        for _ in range(200):
            module.spread(lambda share: None, [0, 1])

    with threads(2):
        callers = [threading.Thread(target=calls) for _ in range(3)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        assert module.count() == 2
        functions = module.openblas()
        assert functions is None or functions[0]() == 2


@pytest.mark.parametrize(("length", "parts", "want"), [(5, 2, [2, 3]), (2, 4, [1, 1]), (1, 1, [1]), (7, 3, [2, 2, 3])])
def test_work_is_cut_evenly(length: int, parts: int, want: list[int]) -> None:
    items = list(range(length))
    cut = module.cut(items, parts)
    assert [len(part) for part in cut] == want
    assert [item for part in cut for item in part] == items


def run(value: str) -> subprocess.CompletedProcess[str]:
    script = (
        "import sys, perceiver_ref.autograd\nprint(sys.modules['perceiver_ref.autograd.kernels.cpu.threads'].count())\n"
    )
    environment = {**os.environ, "PERCEIVER_REF_THREADS": value, "OPENBLAS_NUM_THREADS": "2"}
    return subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)


def test_the_environment_sets_the_number() -> None:
    assert run("3").stdout.strip() == "3"


@pytest.mark.parametrize("value", ["0", "two", "1.5"])
def test_the_environment_must_hold_a_number(value: str) -> None:
    assert f"ValueError: PERCEIVER_REF_THREADS must be a positive integer, got '{value}'" in run(value).stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_has_threads_of_its_own() -> None:
    script = (
        "import os, sys, perceiver_ref.autograd as ag\n"
        "t = sys.modules['perceiver_ref.autograd.kernels.cpu.threads']\n"
        "work = lambda share: None\n"
        "with ag.threads(2):\n"
        "    t.spread(work, [0, 1])\n"
        "    child = os.fork()\n"
        "    t.spread(work, [0, 1])\n"
        "    if child: sys.exit(os.waitpid(child, 0)[1])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], timeout=60, check=False)
    assert done.returncode == 0
