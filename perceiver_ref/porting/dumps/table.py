"""Which reader a file or folder gets, by what it holds and not by what it is called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...errors import InputError, one_line
from ...host import json_text
from ...host.contents import GGUF, NPY, NPZ, PYTORCH, SAFETENSORS, contents
from ...host.files import AnyPath
from .containers import held_gguf, held_npy, held_npz, held_pytorch, held_safetensors
from .debugger import FULL, held_debugger, is_tree
from .ggml_text import held_ggml_text, is_ggml_text
from .held import META, Held
from .look import Look, has_npy
from .npy_folder import META_FILE, held_npy_folder
from .onnx_tensor import ENDINGS, held_onnx
from .polygraphy import held_polygraphy, is_polygraphy
from .raw import INDEX, held_raw, is_index


@dataclass(frozen=True)
class Format:
    """A row: `is_it` recognises it, `case` says whether it can hold a whole case, `written` how a port writes it."""

    what: str
    is_it: Callable[[Look], bool]
    read: Callable[[Path], Held]
    case: bool
    written: str


FORMATS: dict[str, Format] = {
    "npz": Format(
        "an `.npz` file",
        lambda look: look.contents == NPZ,
        held_npz,
        True,
        "Python: `numpy.savez`; C++: cnpy's `npz_save`; Rust: `ndarray-npy`",
    ),
    "safetensors": Format(
        "a `.safetensors` file",
        lambda look: look.contents == SAFETENSORS,
        held_safetensors,
        True,
        "C: `write_case` of [vectors.h](porting/vectors.h); Rust: `safetensors::serialize_to_file`; MLX Swift: "
        "`save(arrays:metadata:url:)`",
    ),
    "pytorch": Format(
        "a `.pt` file of tensors in dicts",
        lambda look: look.contents == PYTORCH,
        held_pytorch,
        True,
        '`torch.save({"output": {"logits": logits}}, "mine.pt")`; it is read without PyTorch, and nothing in it runs',
    ),
    "raw": Format(
        "raw numbers with a JSON index",
        lambda look: is_index(look.json) or look.begins(b'"arrays"'),
        held_raw,
        True,
        "C, C++, Rust, Swift: `fwrite` or its like of each array, and `index.json`, below",
    ),
    "npy": Format(
        "a single `.npy` file",
        lambda look: look.contents == NPY,
        held_npy,
        False,
        "`numpy.save`; its name is the file's",
    ),
    "gguf": Format(
        "GGUF tensors",
        lambda look: look.contents == GGUF,
        held_gguf,
        False,
        "`gguf_write_to_file`, `gguf.GGUFWriter`: F32, F16, BF16, Q8_0 and integers",
    ),
    "debugger": Format(
        "a folder of transformers' model debugger",
        lambda look: look.has_ending(FULL) or is_tree(look.json) or look.begins(b'"module_path"'),
        held_debugger,
        False,
        "`with model_addition_debugger_context(model, debug_path=...)`; whole tensors with `use_repr=False`, "
        "else what PyTorch prints",
    ),
    "onnx": Format(
        "ONNX tensors, `.pb` or `.tensorproto`",
        lambda look: look.has_ending(*ENDINGS),
        held_onnx,
        False,
        "`onnx.save_tensor`, a test data set, or ONNX Runtime with `ORT_DEBUG_NODE_IO_DUMP_DATA_DESTINATION=files`",
    ),
    "polygraphy": Format(
        "Polygraphy's JSON",
        lambda look: is_polygraphy(look.json) or look.begins(b'"lst"', b'"polygraphy_class"'),
        held_polygraphy,
        False,
        "`polygraphy run ... --save-outputs mine.json`",
    ),
    "ggml-text": Format(
        "tensors as ggml's tools print them",
        lambda look: is_ggml_text(look.start),
        held_ggml_text,
        False,
        "`llama-eval-callback ... > mine.txt`, or `common_debug_cb_eval` as `cb_eval`: corners and sums",
    ),
    "npy-folder": Format(
        "a folder of `.npy`",
        lambda look: look.is_folder and (META_FILE in look.names or has_npy(look.path)),
        held_npy_folder,
        True,
        "a file for each array, `output/logits.npy`, and `meta.json`; C++: cnpy's `npy_save`; Rust: "
        "`ndarray_npy::write_npy`",
    ),
}
"""By id; the first that recognises something reads it. What is none of these is given to the reader of `.npz` files,
which says what it is."""


def kind_of(path: AnyPath) -> str:
    """The id of the format of a file or folder; "" where it is none of `FORMATS`, or not there."""
    path = Path(path)
    try:
        if not path.is_dir() and not path.is_file():
            return ""
        look = Look(path)
        return next((kind for kind, row in FORMATS.items() if row.is_it(look)), "")
    except (OSError, ValueError):
        return ""


def read_held(path: AnyPath) -> Held:
    """What a file or folder of any known format holds; `InputError`, one line that names it, for anything else."""
    return _held(Path(path), kind_of(path))


def _held(path: Path, kind: str) -> Held:
    kind = kind or ("safetensors" if path.suffix == ".safetensors" and path.is_file() else "")
    if not kind and path.is_dir():
        raise InputError(
            f"{path} is a directory without arrays; expected .npy files, {INDEX} of raw arrays, ONNX tensors, or what "
            "transformers' model debugger writes"
        )
    if not kind and path.suffix != ".npz" and path.is_file():
        found = contents(path)
        known = "; ".join(row.what for row in FORMATS.values())
        raise InputError(f"{path} is {found or 'of no known format'}; expected arrays: {known}")
    try:
        return FORMATS[kind or "npz"].read(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({one_line(error.strerror or error, 80)})") from None


def read_arrays(path: AnyPath) -> dict[str, np.ndarray]:
    """The arrays of a case's file or folder, `meta` among them; `InputError` for a format that cannot hold a case."""
    path = Path(path)
    kind = kind_of(path)
    if kind and not FORMATS[kind].case:
        raise InputError(
            f"{path} is {FORMATS[kind].what}, which holds no whole case; name the case that it answers first: "
            f"diagnose CASE {path.name}, check CASE --outputs {path.name}"
        )
    return {name: array for name, array in _held(path, kind).arrays.items() if isinstance(array, np.ndarray)}


def case_files(folder: Path) -> list[Path]:
    """The cases in a folder and below it, sorted: `.npz` files, `.safetensors` files with a case's meta where no `.npz`
    of that name is beside them (an export may have both), and folders that are a case."""
    found: dict[Path, Path] = {}
    for ending in (".npz", ".safetensors"):
        for path in folder.rglob(f"*{ending}"):
            if ending == ".npz" or _has_meta(path):
                found.setdefault(path.with_suffix(""), path)
    for name in (META_FILE, INDEX):
        for path in folder.rglob(name):
            if is_case(path.parent):
                found.setdefault(path.parent, path.parent)
    within = {path for path in found.values() if path.is_dir()}
    return sorted(path for path in found.values() if not within & set(path.parents))


def _has_meta(path: Path) -> bool:
    """Whether the header of a `.safetensors` file has the meta of a case, which weights have not."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json_text.parse(file.read(length)) if length <= json_text.LIMIT else None
    except (OSError, ValueError):
        return False
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    return isinstance(metadata, dict) and META in metadata


def is_case(folder: Path) -> bool:
    """Whether a folder is one case, and not one of cases: `.npy` files with their meta, or an index of raw arrays."""
    try:
        kind = kind_of(folder)
    except InputError:
        return False
    return kind == "raw" or (kind == "npy-folder" and (folder / META_FILE).exists())
