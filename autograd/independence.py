"""A loss that depends on no parameter: whether that is what its author meant."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from . import tree
from .handlers import handle
from .tree import Tree


def warn_if_computed(function: Callable[..., Any], loss: Any, params: Tree, *arguments: Any, **keywords: Any) -> None:
    """Warn that all gradients are zero, where a constant loss was computed from arrays and not just given.

    The function runs once more, to see whether it calls any operation.
    """
    if not any(True for _ in tree.leaves(params)):
        return
    computed = isinstance(loss, np.generic)  # what NumPy's own functions of arrays give
    if not computed:
        last: Any = None

        def watch(op: Any, given: tuple[Any, ...], options: dict[str, Any]) -> Any:
            nonlocal last
            last = op(*given, **options)
            return last

        with handle(watch):
            again = function(params, *arguments, **keywords)
        computed = (again[0] if isinstance(again, tuple) else again) is last
    if computed:
        warnings.warn(
            "the loss does not depend on any parameter that value_and_grad was given, so all gradients are zero: "
            "compute with the function's own argument, not with parameters from outside of it, and without .data",
            stacklevel=3,
        )
