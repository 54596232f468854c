"""transformers' modules with every float32 step in float64."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch


class _Promoted:
    """The module torch as transformers sees it, with float64 for float32: norms, softmax and positions name that."""

    float32 = torch.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


@contextmanager
def promoted(*modules: ModuleType) -> Iterator[None]:
    """Every float32 step of these modules in float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    for module in modules:
        module.torch = _Promoted()
    try:
        yield
    finally:
        torch.set_default_dtype(before)
        for module in modules:
            module.torch = torch
