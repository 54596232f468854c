"""Handlers that only look: `observe` tells of every op that ran, `detect_nonfinite` stops at the first NaN or infinity.

    with detect_nonfinite():
        loss, grads = value_and_grad(fn)(params)

Off by default and then free; the environment variable PERCEIVER_REF_DEBUG=1 turns the second on for a whole run.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from .backend import Array, is_array, xp
from .checks import bound, describe
from .core import Node, Op, Rule, Tensor, array_of
from .handlers import Handler, always, handle

_HERE = str(Path(__file__).parent) + os.sep


class Event(NamedTuple):
    """One op as it ran: plain arrays (and numbers) in and plain arrays out, and its node where it was recorded."""

    op: Op
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    outputs: tuple[Any, ...]
    node: Node | None


@contextmanager
def observe(watch: Callable[[Event], None]) -> Iterator[None]:
    """Within this context, call `watch` after every op, recorded or not, that is called within it."""

    def run(op: Op, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        out = op(*arguments, **options)
        given, chosen = bound(op, arguments, options)
        outputs = out if isinstance(out, tuple) else (out,)
        watch(Event(op, tuple(map(array_of, given)), chosen, tuple(map(array_of, outputs)), _node(outputs)))
        return out

    with handle(run, watches=True):
        yield


def _node(outputs: Sequence[Any]) -> Node | None:
    return outputs[0].node if outputs and type(outputs[0]) is Tensor else None


class NonFiniteError(FloatingPointError):
    """An op, or its backward rule, produced a NaN or an infinity."""


@contextmanager
def detect_nonfinite() -> Iterator[None]:
    """Within this context, raise `NonFiniteError` at the first op whose output or gradient is not finite."""
    with handle(_finite, watches=True):
        yield


def _finite(op: Op, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """The op, its outputs looked at, and its rule changed so that gradients are, too."""
    site = _call_site()
    out = op(*arguments, **options)
    outputs = out if isinstance(out, tuple) else (out,)
    for array in map(array_of, outputs):
        if bad := _bad(array):
            given = tuple(map(array_of, bound(op, arguments, options)[0]))
            before = [i + 1 for i, a in enumerate(given) if is_array(a) and _bad(a)]
            origin = f"; argument {before[0]} already held one" if before else ""
            shapes = ", ".join(describe(a) for a in given)
            raise NonFiniteError(f"{op.name}({shapes}) produced {bad} in {describe(array)} at {site}{origin}")
    if (node := _node(outputs)) is not None and node.op is not None and node.rule is not None:
        node.rule = _Finite(node.rule, node.op.name, site)
    return out


class _Finite(Rule):
    """A rule whose gradients must be finite where those that come in are."""

    def __init__(self, rule: Rule, op: str, site: str) -> None:
        super().__init__(rule.forward, rule.backward)
        self.op, self.site = op, site
        self.__dict__["names"] = rule.names

    def pull(self, gradient: Any, residuals: Sequence[Any], options: Mapping[str, Any], needs: tuple[bool, ...]) -> Any:
        made = super().pull(gradient, residuals, options, needs)
        arrived = gradient if isinstance(gradient, tuple) else (gradient,)
        for i, sent in enumerate(made):
            if sent is not None and (bad := _bad(sent)) and not any(map(_bad, arrived)):
                raise NonFiniteError(
                    f"backward of {self.op} produced {bad} in the gradient of argument {i + 1}, {describe(sent)}; "
                    f"the op was called at {self.site}"
                )
        return made


def _call_site() -> str:
    """`file:line` of the nearest caller outside the engine."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_HERE):
        frame = frame.f_back  # type: ignore[assignment]
    return "unknown" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"


def _bad(array: Array) -> str:
    if array.dtype.kind != "f":
        return ""
    library = xp(array)
    if bool(library.isnan(array).any()):
        return "NaN"
    return "an infinity" if bool(library.isinf(array).any()) else ""


if os.environ.get("PERCEIVER_REF_DEBUG", "0") not in ("", "0"):
    always.append(Handler(_finite))
