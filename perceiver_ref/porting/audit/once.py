"""Ops that run again on equal arrays give the array that they gave before.

A memo then knows of each value one array, and a run of the same model computes nothing anew: what a deviation touches
shows in what is computed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Any

from ...autograd.backend import is_array, to_host
from ...autograd.core import array_of
from ...autograd.handlers import handle


@contextmanager
def once() -> Iterator[None]:
    """Within this context equal ops give one array."""
    known: dict[Hashable, Any] = {}

    def run(op: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        key = (op.name, _frozen(arguments), _frozen(options))
        if key not in known:
            known[key] = op(*arguments, **options)
        return known[key]

    with handle(run):
        yield


def _frozen(value: Any) -> Hashable:
    value = array_of(value)
    if is_array(value):
        host = to_host(value)
        return (host.shape, host.dtype.str, hashlib.blake2b(host.tobytes(), digest_size=16).digest())
    if isinstance(value, (tuple, list)):
        return tuple(map(_frozen, value))
    if isinstance(value, dict):
        return tuple(sorted((name, _frozen(part)) for name, part in value.items()))
    return repr(value)
