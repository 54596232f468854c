"""What every module of a live PyTorch model gives, as a user's forward hooks would save it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra: perceiver-ref[peers]")


@contextmanager
def hooked(model: Any) -> Iterator[dict[str, np.ndarray]]:
    """Fills a dict, in the order of the calls: module path -> its output, `path@k` for the k-th of several calls.

    Of a tuple the first element is kept, of a transformers' output its first field, of a dict each entry as
    `path.<name>`. The model itself has the empty path, and is left out.
    """
    calls: dict[str, list[np.ndarray]] = {}
    order: list[tuple[str, int]] = []

    def keep(path: str, out: Any) -> None:
        for name, array in _arrays(path, out):
            found = calls.setdefault(name, [])
            order.append((name, len(found)))
            found.append(array)

    handles = [
        part.register_forward_hook(lambda _, __, out, path=path: keep(path, out))
        for path, part in model.named_modules(remove_duplicate=True)
        if path
    ]
    made: dict[str, np.ndarray] = {}
    try:
        yield made
    finally:
        for handle in handles:
            handle.remove()
        for name, i in order:
            made[name if len(calls[name]) == 1 else f"{name}@{i}"] = calls[name][i]


def _arrays(path: str, out: Any) -> Iterator[tuple[str, np.ndarray]]:
    if torch.is_tensor(out):
        yield path, out.detach().cpu().numpy().copy()
    elif hasattr(out, "to_tuple"):
        yield from _arrays(path, out.to_tuple()[0])
    elif isinstance(out, (tuple, list)) and len(out):
        yield from _arrays(path, out[0])
    elif isinstance(out, Mapping):
        for name, part in out.items():
            yield from _arrays(f"{path}.{name}", part)
