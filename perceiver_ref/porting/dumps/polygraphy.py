"""Polygraphy's JSON: what `polygraphy run --save-outputs` or `--save-inputs` writes, arrays as base64 of `.npy`.

Outputs are {"lst": [[runner, [{"outputs": {name: array}}, ...]], ...]}, inputs a list of {name: array}; an array is
{"array": base64, "polygraphy_class": "ndarray"}, or that within {"values": ...}.
"""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError, listed
from ...weights.formats.npz import read_npy
from ...weights.formats.opcodes import first_line, shown
from .held import Held, Printed, read_json_of

LIMIT = 512 << 20
_CLASS = "polygraphy_class"


def is_polygraphy(value: Any) -> bool:
    """Whether a JSON value is one of the two."""
    if isinstance(value, dict):
        return isinstance(value.get("lst"), list)
    return isinstance(value, list) and bool(value) and all(isinstance(feed, dict) for feed in value)


def held_polygraphy(path: Path) -> Held:
    """The arrays of one runner; of several iterations each, as `name@0` and so on."""
    content = read_json_of(path, "outputs of Polygraphy", LIMIT)
    if isinstance(content, dict) and isinstance(content.get("lst"), list):
        iterations = _iterations(path, content["lst"])
    elif isinstance(content, list):
        iterations = content
    else:
        raise InputError(f"{path} holds no outputs of Polygraphy; save them with --save-outputs")
    calls: dict[str, list[np.ndarray | Printed]] = {}
    for feed in iterations:
        if not isinstance(feed, dict):
            raise InputError(f"{path}: an iteration must be an object of arrays by name")
        for name, value in feed.items():
            calls.setdefault(name, []).append(_array(path, name, value))
    made = Held({})
    made.add_calls(path, calls, {})
    return made


def _iterations(path: Path, runners: list[Any]) -> list[Any]:
    """The outputs of the only runner, by iteration."""
    if not all(isinstance(row, list) and len(row) == 2 and isinstance(row[0], str) for row in runners):
        raise InputError(f"{path}: expected pairs of a runner and its iterations")
    if len(runners) != 1:
        names = listed([shown(row[0], 40) for row in runners], 4) or "none"
        raise InputError(f"{path} holds the outputs of {len(runners)} runners ({names}); save those of one")
    iterations = runners[0][1]
    if not isinstance(iterations, list) or not all(isinstance(one, dict) and "outputs" in one for one in iterations):
        raise InputError(f"{path}: expected a list of iterations, each with outputs")
    return [one["outputs"] for one in iterations]


def _array(path: Path, name: str, value: Any) -> np.ndarray:
    where = f"{path}: {shown(name)!r}"
    for _ in range(2):
        if isinstance(value, dict) and "values" in value:
            value = value["values"]
    if not isinstance(value, dict) or not isinstance(value.get("array"), str):
        kind = shown(value.get(_CLASS, "an object"), 40) if isinstance(value, dict) else type(value).__name__
        raise InputError(f"{where} is {kind}; expected an ndarray (tensors of PyTorch: convert them to NumPy's first)")
    try:
        data = base64.b64decode(value["array"].encode(), validate=True)
        return read_npy(path, name, io.BytesIO(data), len(data))
    except InputError:
        raise
    except Exception as error:  # NumPy raises almost anything
        raise InputError(f"{where} is no readable array ({first_line(error)})") from None
