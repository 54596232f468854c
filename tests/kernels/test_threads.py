"""The number of threads: one setting with BLAS's, for a context or from the environment; work is spread over them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest

from perceiver_ref.autograd import kernels, ops, threads, value_and_grad, vjp

module = sys.modules["perceiver_ref.autograd.kernels.cpu.threads"]


def blas() -> Any:
    """What reads and sets the number of threads of NumPy's BLAS."""
    found = module.control()
    return found if found is not None else pytest.skip("this NumPy has another BLAS")


def test_the_setting_is_that_of_blas() -> None:
    before = blas().read()
    with threads(3):
        assert blas().read() == module.count() == 3
        with threads(1):
            assert blas().read() == module.count() == 1
        assert module.count() == 3
    assert blas().read() == module.count() == before


@pytest.mark.parametrize("number", [0, -1, 1.5, "2", True])
def test_other_numbers_are_refused(number: object) -> None:
    with pytest.raises(ValueError, match="the number of threads must be a positive integer, got"), threads(number):  # type: ignore[arg-type]
        pass


def test_without_a_known_blas_kernels_have_one_thread_until_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "control", lambda: None)
    monkeypatch.setattr(module, "_setting", module._Setting())
    assert module.count() == 1
    with threads(2):
        assert module.count() == 2
        together = threading.Barrier(2, timeout=10)  # passed only by two threads
        module.spread(lambda share: together.wait(), [0, 1])
    assert module.count() == 1


def test_shares_run_at_the_same_time_each_with_products_of_its_own() -> None:
    together = threading.Barrier(3, timeout=10)  # passed only if all three shares are under way
    seen: list[tuple[int, int]] = []

    def work(share: int) -> None:
        together.wait()
        found = module.control()
        seen.append((module.count(), found.read() if found else 1))

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
        found = module.control()
        assert found is None or found.read() == 2


def test_a_late_thread_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The helper is told when all is done: it finds no work, and holds on to nothing."""
    told: list[Any] = []
    helpers = module._helpers(1)
    monkeypatch.setattr(module._Worker, "tell", lambda self, job: told.append(job))
    names: list[str] = []
    with threads(2):
        module.spread(lambda share: names.append(threading.current_thread().name), [0, 1, 2])
    assert names == [threading.current_thread().name] * 3
    monkeypatch.undo()
    (late,) = told
    assert late._work is None
    assert late._shares == ()
    helpers[0].tell(late)
    late.help()
    assert len(names) == 3


def test_no_share_is_done_twice() -> None:
    done: list[int] = []
    with threads(4):
        for _ in range(50):
            done.clear()
            module.spread(done.append, range(23))
            assert sorted(done) == list(range(23))


@pytest.mark.parametrize("together", [True, False])
def test_whoever_computes_the_bits_are_the_same(together: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A linear map, a norm, GELU and attention, of sizes that are divided, forward and backward."""
    rng = np.random.default_rng(0)
    x, w, b = rng.standard_normal((700, 384)), rng.standard_normal((384, 261)), rng.standard_normal(261)
    scale, q, v = rng.standard_normal(384), rng.standard_normal((3, 260, 17)), rng.standard_normal((3, 520, 5))
    k = rng.standard_normal((3, 520, 17))

    def computed() -> list[np.ndarray]:
        found = []
        for op, given in (
            (ops.linear, (x, w, b)),
            (ops.matmul, (q, k.swapaxes(1, 2))),
            (ops.layer_norm, (x, scale, scale)),
            (ops.gelu_erf, (x,)),
            (ops.attention, (q, k, v)),
        ):
            arrays = [a.astype(np.float32) for a in given]
            out, pull = vjp(op, *arrays)
            found += [out, *pull(out)]
        return found

    calls: list[int] = []
    monkeypatch.setattr(module.choice, "together", lambda kind: calls.append(1) or together)
    with kernels("fast"), threads(3):
        first = computed()
        assert calls
        monkeypatch.setattr(module.choice, "together", lambda kind: not together)
        for a, b in zip(first, computed(), strict=True):
            np.testing.assert_array_equal(a, b)


def test_blas_rests_while_gradients_are_computed() -> None:
    """On the thread that asks, forward and back, nested and when something fails; afterwards the number is back."""
    seen: list[int] = []

    def loss(params: Any, wrong: bool) -> Any:
        seen.append(blas().read())
        with module.single():
            seen.append(blas().read())
        seen.append(blas().read())
        if wrong:
            raise KeyError
        return ops.sum(params)

    with threads(3), kernels("fast"):
        value_and_grad(loss)(np.ones(2), False)
        assert (seen, blas().read()) == ([1, 1, 1], 3)
        with pytest.raises(KeyError):
            value_and_grad(loss)(np.ones(2), True)
        assert blas().read() == 3
    seen.clear()
    with threads(3), kernels("plain"):  # definitions are as NumPy computes them
        value_and_grad(loss)(np.ones(2), False)
    assert seen == [3, 1, 3]


def test_holds_of_several_threads_overlap() -> None:
    """The first to begin is the first to end; a number that is set meanwhile holds afterwards."""
    with threads(3):
        first, second = module.single(), module.single()
        first.__enter__()
        thread = threading.Thread(target=second.__enter__)
        thread.start()
        thread.join()
        first.__exit__(None, None, None)
        assert (blas().read(), module.count()) == (1, 3)
        with threads(2):
            assert (blas().read(), module.count()) == (1, 2)
            second.__exit__(None, None, None)
            assert blas().read() == 2
        assert blas().read() == 3


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
