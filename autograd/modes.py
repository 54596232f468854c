"""Kernels or definitions: `with kernels("plain"):`, `--kernels plain`, or PERCEIVER_REF_KERNELS=plain for a whole run.

`"fast"`, the default, uses the kernels that there are. A mode is a handler like any other: it turns an op into the same
op by its definition, or by its kernels, and the innermost mode holds.

And how kernels on a GPU multiply float32: `with products("3xtf32"):`, or PERCEIVER_REF_PRODUCTS=3xtf32 for a whole run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from .core import Op
from .handlers import Function, Handler, always, handle, handlers
from .scoped import Setting

VARIABLE = "PERCEIVER_REF_KERNELS"
PRODUCTS_VARIABLE = "PERCEIVER_REF_PRODUCTS"
PRODUCTS = ("default", "3xtf32")
"""How linear maps and attention multiply float32 on a GPU: as CuPy is set, or from three products of TF32."""


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
    with handle(MODES[mode], watches=True):
        yield


def mode() -> str:
    """The mode that holds here."""
    known = {function: name for name, function in MODES.items()}
    return next((known[h.function] for h in reversed(handlers()) if h.function in known), "fast")


@contextmanager
def products(how: str) -> Iterator[None]:
    """Within this context kernels on a GPU multiply float32 as `how` says, one of `PRODUCTS`.

    `"3xtf32"`: on the tensor cores of NVIDIA's Hopper, from three products of TF32, where that takes less time (Ootomo
    and Yokota 2022, arXiv 2203.03341); errors are of float32's size, bounds are in docs/RUNNING.md. Other dtypes, other
    ops and NumPy arrays compute as ever; on another GPU a product raises `BackendError`.
    """
    if how not in PRODUCTS:
        raise ValueError(f"unknown products {how!r}; known: {', '.join(PRODUCTS)}")
    with _products.entered(how):
        yield


def products_mode() -> str:
    """How float32 is multiplied here, one of `PRODUCTS`."""
    return _products.get()


def recorded(function: Callable[..., Any]) -> Callable[..., Any]:
    """Where there are no kernels: the function itself, since CUDA graphs are theirs."""
    return function


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Where there are no kernels: nothing, since only they divide work over threads."""
    yield


def _from_environment(variable: str, default: str, known: Iterable[str]) -> str:
    value = os.environ.get(variable) or default
    if value not in known:  # the variable may hold anything
        raise ValueError(f"{variable} must be {' or '.join(known)}, got {value[:40]!r}")
    return value


_products: Setting[str] = Setting("_products", _from_environment(PRODUCTS_VARIABLE, "default", PRODUCTS))
if (_chosen := _from_environment(VARIABLE, "fast", MODES)) != "fast":
    always.append(Handler(MODES[_chosen]))
