"""Weights from a file or a directory of any known format: arrays by the names that they have there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..files import AnyPath, existing_file, read_json
from ..vectors.npz import check_name, read_npz
from .dtypes import cast
from .opcodes import shown
from .pickles import haiku_arrays
from .pytorch import is_pytorch, read_pytorch
from .safetensors_file import read_safetensors

Arrays = dict[str, np.ndarray]
_NAME = 1000  # characters


def _npz(path: Path, dtype: Any) -> tuple[Arrays, list[str]]:
    return read_npz(path, dtype), []


def _safetensors(path: Path, dtype: Any) -> tuple[Arrays, list[str]]:
    return read_safetensors(path, dtype), []


def _pickle(path: Path, dtype: Any) -> tuple[Arrays, list[str]]:
    if is_pytorch(path):
        return read_pytorch(path, dtype)
    return {name: cast(array, dtype, name, path) for name, array in haiku_arrays(path).items()}, []


READERS: dict[str, Callable[[Path, Any], tuple[Arrays, list[str]]]] = {
    ".npz": _npz,
    ".safetensors": _safetensors,
    **dict.fromkeys((".pt", ".pth", ".bin", ".ckpt"), read_pytorch),
    **dict.fromkeys((".pickle", ".pkl", ".pystate"), _pickle),
}
"""By the end of a file's name: what reads it, given a dtype (None: as it is), into arrays and notes for the user."""

DIRECTORY = (
    ("model.safetensors", "model.safetensors.index.json", ".safetensors"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json", ".bin"),
)
"""What a checkpoint directory of Hugging Face holds, in the order of preference: one file, or an index of shards."""


def read_arrays(path: AnyPath, dtype: Any = None) -> tuple[Arrays, list[str]]:
    """(every array of a weights file or directory by name, notes for the user); see `READERS` and `DIRECTORY`.

    Floating-point arrays come in `dtype` if given (bfloat16, which NumPy lacks, in float32 if not). Raises
    `InputError`, one line that names the file, for anything damaged, hostile or of no known format.
    """
    path = Path(path)
    if path.is_dir():
        arrays, notes = _read_directory(path, dtype)
    else:
        known = ", ".join(READERS)
        existing_file(path, f"a weights file ({known}) or a checkpoint directory")
        if path.suffix not in READERS:
            raise InputError(
                f"{path}: weights must be a .pystate, .npz or .safetensors file, or a checkpoint directory; "
                f"known endings are {known}"
            )
        arrays, notes = READERS[path.suffix](path, dtype)
    for name in arrays:
        check_name(path, name)
    return arrays, notes


def _read_directory(folder: Path, dtype: Any) -> tuple[Arrays, list[str]]:
    for single, index, suffix in DIRECTORY:
        if (folder / single).exists():
            return READERS[suffix](folder / single, dtype)
        if (folder / index).exists():
            return _read_shards(folder / index, suffix, dtype)
    (single, index, _), *others = DIRECTORY
    more = ", ".join(name for row in others for name in row[:2])
    raise InputError(
        f"{folder} holds neither {single} nor {index}, {more}; give a checkpoint directory or a weights file"
    )


def _read_shards(index: Path, suffix: str, dtype: Any) -> tuple[Arrays, list[str]]:
    """The arrays that an index lists, each from its shard: a file of the same directory."""
    shards = read_json(index, f"an index of {suffix} files").get("weight_map")
    if not isinstance(shards, dict) or not all(map(_beside, shards.values())):
        raise InputError(f"{index}: weight_map must map names to files of the same directory")
    arrays: Arrays = {}
    notes: list[str] = []
    for shard in sorted(set(shards.values())):
        path = existing_file(index.parent / shard, f"a {suffix} file")
        if path.suffix != suffix:
            raise InputError(f"{index}: the shard {shown(shard)!r} is no {suffix} file")
        part, said = READERS[suffix](path, dtype)
        if both := sorted(set(part) & set(arrays)):
            raise InputError(f"{path}: {shown(both[0])!r} is in another shard, too")
        arrays.update(part)
        notes += said
    if absent := sorted(set(shards) - set(arrays)):
        raise InputError(f"{index}: missing: {len(absent)} arrays that no shard holds, such as {shown(absent[0])!r}")
    return arrays, notes


def _beside(shard: Any) -> bool:
    return isinstance(shard, str) and shard.isprintable() and len(shard) <= _NAME and Path(shard).name == shard


def dtype_of(arrays: Arrays) -> str:
    """The name of the one floating-point dtype of arrays (float32 where there is none); `InputError` for several."""
    dtypes = {str(array.dtype) for array in arrays.values() if array.dtype.kind == "f"} or {"float32"}
    if len(dtypes) != 1:
        raise InputError(f"the weights mix {', '.join(sorted(dtypes))}; choose one with --dtype")
    return dtypes.pop()
