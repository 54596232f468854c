"""Weights from a file or a directory of any known format: arrays by the names that they have there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError
from ...host.contents import GGUF, NPZ, PICKLE, PYTORCH, SAFETENSORS, contents
from ...host.files import AnyPath, existing_file, read_json
from .dtypes import cast
from .gguf import read_gguf
from .npz import check_name, read_npz
from .opcodes import shown
from .pickles import read_haiku
from .pytorch import read_pytorch
from .safetensors_file import read_safetensors, shared, with_shared
from .state_dict import Found

Arrays = dict[str, np.ndarray]
_NAME = 1000  # characters


def _npz(path: Path, dtype: Any, key: str | None, prefix: str) -> Found:
    _no_key(path, key)
    return Found(dict(read_npz(path, dtype)))


def _safetensors(path: Path, dtype: Any, key: str | None, prefix: str) -> Found:
    _no_key(path, key)
    return Found(dict(read_safetensors(path, dtype, prefix)))


def _gguf(path: Path, dtype: Any, key: str | None, prefix: str) -> Found:
    _no_key(path, key)
    return Found(dict(read_gguf(path, dtype, prefix)[0]))


def _pickle(path: Path, dtype: Any, key: str | None, prefix: str) -> Found:
    found = read_haiku(path, key)
    return Found({name: cast(array, dtype, name, path) for name, array in found.arrays.items()}, found.notes)


def _no_key(path: Path, key: str | None) -> None:
    if key is not None:
        raise InputError(
            f"{path} holds arrays by name and nothing else; a key (--key) is for PyTorch files and pickles"
        )


READERS: dict[str, Callable[[Path, Any, str | None, str], Found]] = {
    ".npz": _npz,
    ".safetensors": _safetensors,
    **dict.fromkeys((".pt", ".pth", ".bin", ".ckpt"), read_pytorch),
    **dict.fromkeys((".pickle", ".pkl", ".pystate"), _pickle),
    ".gguf": _gguf,
}
"""By the end of a file's name: what reads it, given a dtype (None: as it is), a key (None: the usual ones) and a
prefix: what large formats hold under names without it is listed and not read (see `dtypes.unread`)."""
_BY_CONTENTS = {PYTORCH: read_pytorch, NPZ: _npz, SAFETENSORS: _safetensors, PICKLE: _pickle, GGUF: _gguf}

DIRECTORY = (
    ("model.safetensors", "model.safetensors.index.json", ".safetensors"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json", ".bin"),
)
"""What a checkpoint directory of Hugging Face holds, in the order of preference: one file, or an index of shards."""


def read_arrays(path: AnyPath, dtype: Any = None, key: str | None = None, prefix: str = "") -> Found:
    """Every array of a weights file or directory by name, and notes for the user; see `READERS` and `DIRECTORY`.

    Floating-point arrays come in `dtype` if given (formats that NumPy lacks, such as bfloat16, in float32 if not);
    `key` says where in a checkpoint they are, and `prefix` that those of other names need not be read. One format under
    another's name is read as what it is, and said. Raises `InputError`, one line that names the file, for anything
    damaged, hostile or of no known format.
    """
    path = Path(path)
    if path.is_dir():
        found = _read_directory(path, dtype, key, prefix)
    else:
        known = ", ".join(READERS)
        existing_file(path, f"a weights file ({known}) or a checkpoint directory")
        if path.suffix not in READERS:
            raise InputError(
                f"{path}: weights must be a .pystate, .npz, .safetensors or .gguf file, or a checkpoint directory; "
                f"known endings are {known}"
            )
        found = _read_file(path, dtype, key, prefix)
    for name in found.arrays:
        check_name(path, name)
    return found


def _read_file(path: Path, dtype: Any, key: str | None, prefix: str) -> Found:
    """By the reader of what a file is, or where that is unknown of what its name says."""
    usual = READERS[existing_file(path, "a weights file").suffix]
    what = contents(path)
    reader = _BY_CONTENTS.get(what, usual)
    if reader is usual or (reader is read_pytorch and usual is _pickle):
        return reader(path, dtype, key, prefix)
    wanted = next(kind for kind, known in _BY_CONTENTS.items() if known is usual)
    try:
        found = reader(path, dtype, key, prefix)
    except InputError as error:
        why = str(error).removeprefix(str(path)).lstrip(": ")
        raise InputError(f"{path} is no {wanted.partition(' ')[2]} but {what}: {why}") from None
    return Found(found.arrays, [f"{path} is {what}, whatever its name says", *found.notes])


def _read_directory(folder: Path, dtype: Any, key: str | None, prefix: str) -> Found:
    for single, index, suffix in DIRECTORY:
        if (folder / single).exists():
            return _read_file(folder / single, dtype, key, prefix)
        if (folder / index).exists():
            return _read_shards(folder / index, suffix, dtype, key, prefix)
    (single, index, _), *others = DIRECTORY
    more = ", ".join(name for row in others for name in row[:2])
    raise InputError(
        f"{folder} holds neither {single} nor {index}, {more}; give a checkpoint directory or a weights file"
    )


def _read_shards(index: Path, suffix: str, dtype: Any, key: str | None, prefix: str) -> Found:
    """The arrays that an index lists, each from its shard: a file of the same directory."""
    content = read_json(index, f"an index of {suffix} files")
    shards, metadata = content.get("weight_map"), content.get("metadata")
    if not isinstance(shards, dict) or not all(map(_beside, shards.values())):
        raise InputError(f"{index}: weight_map must map names to files of the same directory")
    if shared(metadata, shards):  # one of another name may be needed
        prefix = ""
    arrays: dict[str, Any] = {}
    notes: list[str] = []
    for shard in sorted(set(shards.values())):
        path = existing_file(index.parent / shard, f"a {suffix} file")
        if path.suffix != suffix:
            raise InputError(f"{index}: the shard {shown(shard)!r} is no {suffix} file")
        part = _read_file(path, dtype, key, prefix)
        if both := sorted(set(part.arrays) & set(arrays)):
            raise InputError(f"{path}: {shown(both[0])!r} is in another shard, too")
        arrays.update(part.arrays)
        notes += part.notes
    if absent := sorted(set(shards) - set(arrays)):
        raise InputError(f"{index}: missing: {len(absent)} arrays that no shard holds, such as {shown(absent[0])!r}")
    return Found(with_shared(arrays, metadata), notes)


def _beside(shard: Any) -> bool:
    return isinstance(shard, str) and shard.isprintable() and len(shard) <= _NAME and Path(shard).name == shard


def dtype_of(arrays: Arrays) -> str:
    """The name of the one floating-point dtype of arrays (float32 where there is none); `InputError` for several."""
    dtypes = {str(array.dtype) for array in arrays.values() if array.dtype.kind == "f"} or {"float32"}
    if len(dtypes) != 1:
        raise InputError(f"the weights mix {', '.join(sorted(dtypes))}; choose one with --dtype")
    return dtypes.pop()
