"""A case of the vector format, read for the parameters in it; `porting.cases` reads the whole of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import InputError
from .own import meta_of, own_meta
from .read import Arrays

_PARAMETERS = ("param/", "state/")
_INPUT = "input/"


@dataclass(frozen=True)
class Said:
    """What a case says its parameters are of; `inputs` and `call` are what the class was called with."""

    peer: str
    cls: str
    config: Mapping[str, Any]
    inputs: Arrays
    call: Mapping[str, Any]
    tied: Mapping[str, str]


def said_by(arrays: Arrays, where: object) -> Said | None:
    """What a case says; None for any other file, and for arrays named as a case's are without its `meta`.

    Raises `InputError` for a case of one operation, which has no parameters.
    """
    meta = meta_of(arrays, where)
    if meta is None or own_meta(dict(arrays), where) is not None:
        return None
    peer, cls = meta.get("peer"), meta.get("class")
    config, call, tied = meta.get("config"), meta.get("call", {}), meta.get("tied", {})
    if not (isinstance(peer, str) and isinstance(cls, str)):
        return None
    if not (isinstance(config, dict) and isinstance(call, dict) and isinstance(tied, dict)):
        raise InputError(f"{where}: meta: config, call and tied must be objects")
    if not is_case(arrays, where):
        raise InputError(f"{where} is a case of {cls}, which has no parameters to load; check it")
    inputs = {name.removeprefix(_INPUT): array for name, array in arrays.items() if name.startswith(_INPUT)}
    return Said(peer, cls, config, inputs, call, tied)


def is_case(arrays: Arrays, where: object) -> bool:
    """Whether arrays are named as a case's are; our own checkpoint's are named so, too, and are none."""
    return any(name.startswith("param/") for name in arrays) and own_meta(dict(arrays), where) is None


def parameters(arrays: Arrays, where: object) -> Arrays:
    """Of a case, parameters and buffers by their names; those of our own checkpoint and other files as they are."""
    if not is_case(arrays, where):
        return arrays
    return {name.partition("/")[2]: array for name, array in arrays.items() if name.startswith(_PARAMETERS)}
