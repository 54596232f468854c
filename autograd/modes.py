"""Kernels or definitions: `with kernels("plain"):`, `--kernels plain`, or PERCEIVER_REF_KERNELS=plain for a whole run.

`"fast"`, the default, uses the kernels that there are. A mode is a handler like any other: it turns an op into the same
op by its definition, or by its kernels, and the innermost mode holds.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from .core import Op
from .handlers import Function, Handler, always, handle, handlers

VARIABLE = "PERCEIVER_REF_KERNELS"


def _plain(op: Op, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    return op.plain(*arguments, **options)


def _fast(op: Op, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    return op.fast(*arguments, **options)


MODES: dict[str, Function] = {"fast": _fast, "plain": _plain}
"""Mode -> its handler."""


@contextmanager
def kernels(mode: str) -> Iterator[None]:
    """Within this context use `"fast"` kernels where there are any, or only the `"plain"` definitions."""
    if mode not in MODES:
        raise ValueError(f"unknown kernels mode {mode!r}; known: {', '.join(MODES)}")
    with handle(MODES[mode]):
        yield


def mode() -> str:
    """The mode that holds here."""
    known = {function: name for name, function in MODES.items()}
    return next((known[h.function] for h in reversed(handlers()) if h.function in known), "fast")


def recorded(function: Callable[..., Any]) -> Callable[..., Any]:
    """Where there are no kernels: the function itself, since CUDA graphs are theirs."""
    return function


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Where there are no kernels: nothing, since only they divide work over threads."""
    yield


if (_chosen := os.environ.get(VARIABLE) or "fast") not in MODES:  # the variable may hold anything
    raise ValueError(f"{VARIABLE} must be {' or '.join(MODES)}, got {_chosen[:40]!r}")
if _chosen != "fast":
    always.append(Handler(MODES[_chosen]))
