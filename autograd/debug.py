"""Debug mode: stop at the first op that turns finite numbers into NaN or infinity, and say which and where.

    with detect_nonfinite():
        loss, grads = value_and_grad(fn)(params)

Off by default and then free; the environment variable PERCEIVER_REF_DEBUG=1 turns it on for a whole run.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .backend import Array, is_array, xp
from .scoped import Setting

_enabled: Setting[bool] = Setting("_enabled", os.environ.get("PERCEIVER_REF_DEBUG", "0") not in ("", "0"))
enabled = _enabled.get
_HERE = str(Path(__file__).parent) + os.sep


class NonFiniteError(FloatingPointError):
    """An op, or its backward rule, produced a NaN or an infinity."""


@contextmanager
def detect_nonfinite() -> Iterator[None]:
    """Within this context, raise `NonFiniteError` at the first op whose output or gradient is not finite."""
    with _enabled.entered(True):
        yield


def describe(value: Any) -> str:
    """A value as errors show it: `float32[2, 3]` for an array, otherwise its text."""
    return f"{value.dtype}{list(value.shape)}" if is_array(value) else repr(value)


def call_site() -> str:
    """`file:line` of the nearest caller outside the engine."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_HERE):
        frame = frame.f_back  # type: ignore[assignment]
    return "unknown" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"


def check_forward(op: str, out: Any, arguments: Sequence[Any]) -> None:
    """Raise when an output is not finite; the message says whether an argument already was not."""
    for array in out if isinstance(out, tuple) else (out,):
        if bad := _bad(array):
            before = [i + 1 for i, a in enumerate(arguments) if is_array(a) and _bad(a)]
            origin = f"; argument {before[0]} already held one" if before else ""
            shapes = ", ".join(describe(a) for a in arguments)
            raise NonFiniteError(f"{op}({shapes}) produced {bad} in {describe(array)} at {call_site()}{origin}")


def check_backward(op: str, position: int, gradient: Array, upstream: Sequence[Array], site: str | None) -> None:
    """Raise when a gradient is not finite although the gradient that came in was."""
    if (bad := _bad(gradient)) and not any(_bad(g) for g in upstream):
        raise NonFiniteError(
            f"backward of {op} produced {bad} in the gradient of argument {position + 1}, {describe(gradient)}; "
            f"the op was called at {site or 'an unrecorded place (debug mode was off)'}"
        )


def _bad(array: Array) -> str:
    if array.dtype.kind != "f":
        return ""
    library = xp(array)
    if bool(library.isnan(array).any()):
        return "NaN"
    return "an infinity" if bool(library.isinf(array).any()) else ""
