"""Contexts that are left in another order than they were entered in, in another thread, or both at the same time."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pytest

import perceiver_ref as pr
from perceiver_ref.autograd import NonFiniteError, detect_nonfinite, kernels, ops, products, threads
from perceiver_ref.autograd.handlers import Step, handle, handlers
from perceiver_ref.autograd.modes import mode, products_mode
from perceiver_ref.autograd.observing import observe
from perceiver_ref.models.tracing import point, scope
from perceiver_ref.porting.exchange import exchanged_steps
from perceiver_ref.porting.rounding.arithmetic import arithmetic, exempt

X = np.array([0.1, 0.2], np.float64)


def fixed(name: str) -> Any:
    """A handler that gives its name for every sum."""
    return lambda op, arguments, static: name if op.name == "sum" else op(*arguments, **static)


@Step
def varying() -> str:
    return "outside"


seen: list[str] = []


def watching(name: str) -> Any:
    return lambda event: seen.append(name)


def observed() -> list[str]:
    """Who is told of an op, in order."""
    seen.clear()
    ops.sum(X)
    return list(seen)


traces: dict[str, Any] = {}


class Traced:
    """A trace that is known by name."""

    def __init__(self, name: str) -> None:
        self.name, self.context = name, pr.trace()

    def __enter__(self) -> None:
        traces[self.name] = self.context.__enter__()

    def __exit__(self, *exception: Any) -> None:
        self.context.__exit__(*exception)


def tracing() -> list[str]:
    """The traces that get a value."""
    for made in traces.values():
        made.clear()
    point("value", X)
    return [name for name, made in traces.items() if made]


def looking() -> bool:
    """Whether an op may not make an infinity."""
    try:
        ops.negative(np.array([np.inf]))
    except NonFiniteError:
        return True
    return False


def exempted() -> bool:
    """Whether float16 arithmetic leaves a float64 result alone."""
    with arithmetic("float16"):
        return bool(ops.add(X, X).dtype == np.float64)


Make, See, Expected = Callable[[str], AbstractContextManager[Any]], Callable[[], Any], Callable[[list[str]], Any]
CONTEXTS: dict[str, tuple[Make, See, Expected]] = {
    "kernels": (lambda name: kernels({"a": "plain", "b": "fast", "c": "plain"}[name]), mode,
                lambda open_: {"a": "plain", "b": "fast", "c": "plain"}[open_[-1]] if open_ else DEFAULT),
    "products": (lambda name: products({"a": "3xtf32", "b": "default", "c": "3xtf32"}[name]), products_mode,
                 lambda open_: {"a": "3xtf32", "b": "default", "c": "3xtf32"}[open_[-1]] if open_ else PRODUCTS),
    "debug": (lambda name: detect_nonfinite(), looking, lambda open_: bool(open_)),
    "exempt": (lambda name: exempt(), exempted, lambda open_: bool(open_)),
    "handle": (lambda name: handle(fixed(name)), lambda: ops.sum(X), lambda open_: open_[-1] if open_ else 0.1 + 0.2),
    "observe": (lambda name: observe(watching(name)), observed, lambda open_: open_),
    "trace": (Traced, tracing, lambda open_: sorted(open_)),
    "steps": (lambda name: exchanged_steps({"varying": lambda original: name}), varying,
               lambda open_: open_[-1] if open_ else "outside"),
    "threads": (lambda name: threads({"a": 2, "b": 3, "c": 5}[name]), lambda: count(),
                lambda open_: {"a": 2, "b": 3, "c": 5}[open_[-1]] if open_ else BEFORE),
}  # fmt: skip
"""How a context of a name is made, what is seen within it, and what should be while these are open, innermost last."""


def count() -> int:
    import sys

    return int(sys.modules["perceiver_ref.autograd.kernels.cpu.threads"].count())


BEFORE = count()
DEFAULT, PRODUCTS = mode(), products_mode()


def generator(context: AbstractContextManager[Any]) -> Iterator[None]:
    """A generator that holds a context while it waits."""
    with context:
        yield


@pytest.mark.parametrize("kind", CONTEXTS)
@pytest.mark.parametrize("order", list(itertools.permutations("abc")), ids="".join)
def test_contexts_may_be_left_in_any_order(kind: str, order: tuple[str, ...]) -> None:
    make, see, expected = CONTEXTS[kind]
    traces.clear()
    under_way: dict[str, Iterator[None]] = {}
    assert see() == expected([])
    for name in "abc":
        under_way[name] = generator(make(name))
        next(under_way[name])
        assert see() == expected(list(under_way))
    for name in order:
        next(under_way.pop(name), None)
        assert see() == expected(list(under_way))


@pytest.mark.parametrize("kind", [kind for kind in CONTEXTS if kind != "threads"])
def test_threads_have_contexts_of_their_own(kind: str) -> None:
    """All are open at the same time, and left in the order of entering."""
    make, see, expected = CONTEXTS[kind]
    if kind in ("trace", "observe"):  # whose record is one for all threads here
        make, see, expected = CONTEXTS["kernels"]
    together = threading.Barrier(3, timeout=10)
    wrong: list[Any] = []

    def work(name: str, turn: int) -> None:
        context = make(name)
        for leaving in (False, True):
            for step in range(3):
                together.wait()
                if step == turn:
                    context.__exit__(None, None, None) if leaving else context.__enter__()
                together.wait()
                if see() != expected([name] if (step >= turn) != leaving else []):
                    wrong.append((name, leaving, step))

    workers = [threading.Thread(target=work, args=(name, turn)) for turn, name in enumerate("abc")]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []
    assert see() == expected([])


@pytest.mark.parametrize("kind", CONTEXTS)
def test_a_context_may_be_left_in_another_thread(kind: str) -> None:
    """As that of a generator which another thread closes."""
    make, see, expected = CONTEXTS[kind]
    traces.clear()
    held = generator(make("a"))
    next(held)
    closer = threading.Thread(target=lambda: next(held, None))
    closer.start()
    closer.join()
    assert see() == expected([])
    assert kind != "steps" or not any(handler.steps for handler in handlers())


def test_the_number_of_threads_is_that_of_the_context_entered_last() -> None:
    """Of any thread: it is one number of the process, and the first to leave must not take it from the other."""
    entered, leave = threading.Event(), threading.Event()

    def first() -> None:
        with threads(2):
            entered.set()
            leave.wait(10)

    worker = threading.Thread(target=first)
    worker.start()
    entered.wait(10)
    with threads(3):
        leave.set()
        worker.join()
        assert count() == 3
    assert count() == BEFORE


def test_scopes_may_be_left_in_any_order() -> None:
    with pr.trace() as traced:
        outer, inner = scope("outer"), scope("inner")
        outer.__enter__()
        inner.__enter__()
        point("both", X)
        outer.__exit__(None, None, None)
        point("one", X)
        inner.__exit__(None, None, None)
        point("none", X)
    assert list(traced) == ["outer.inner.both", "inner.one", "none"]


def test_a_handler_that_leaves_a_context_leaves_it() -> None:
    """Inside a handler the ones around it are in place; what it leaves there does not come back."""
    held = generator(handle(fixed("left")))

    def leaving(op: Any, arguments: Any, static: Any) -> Any:
        next(held, None)
        return op(*arguments, **static)

    next(held)
    with handle(leaving):
        assert ops.sum(X) == pytest.approx(0.3)
    assert ops.sum(X) == pytest.approx(0.3)
