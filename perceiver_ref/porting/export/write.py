"""A folder of cases with an index: all of it, or nothing when anything fails."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError
from ...host.files import AnyPath, read_json, temporary_folder
from ...host.progress import steps
from ...host.signals import held
from ...version import __version__
from ...weights.formats.safetensors_file import write_safetensors
from ..cases import TOLERANCES, Case, write_case
from ..cases.case import groups
from .adversarial import FLAGS

INDEX = "index.json"
FORMAT, VERSION = "perceiver-ref vectors", 1


def write_folder(
    folder: AnyPath,
    cases: Iterable[Case],
    *,
    safetensors: bool = False,
    force: bool = False,
    written: Callable[[dict[str, Any]], None] = lambda row: None,
) -> dict[str, Any]:
    """Write every case as `<id>.npz` (and `<id>.safetensors`), and `index.json`; returns what the index holds.

    A folder that is not empty is an `InputError`, unless `force` and it is empty but for an earlier export, which is
    replaced; files that are none of its cases stay. `written(row)` is called after each case. Cases are made one by one
    and written beside the folder; they are moved into it when all are there.
    """
    folder = check_folder(folder, force=force)
    with temporary_folder(folder) as temporary:
        rows = []
        for case in steps(cases, "case"):
            rows.append(_write(temporary, case, safetensors))
            written(rows[-1])
        index = {
            "format": FORMAT,
            "version": VERSION,
            "perceiver_ref": __version__,
            "tolerances": TOLERANCES,
            "flags": FLAGS,
            "cases": rows,
        }
        _write_index(temporary / INDEX, index)
        _move(temporary, folder, index)
        return index


def check_folder(folder: AnyPath, *, force: bool = False) -> Path:
    """The folder, or an `InputError` when cases cannot be written there: worth asking before long work."""
    path = Path(folder).resolve()
    parent = path.parent
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file; give the name of a folder")
    if not parent.is_dir():
        raise InputError(f"the folder {parent} does not exist; create it first")
    for place in (parent, path) if path.exists() else (parent,):
        if not os.access(place, os.W_OK):
            raise InputError(f"cannot write to the folder {place} (permission denied); choose another")
    if path.is_dir() and any(path.iterdir()):
        if not force:
            raise InputError(f"{path} is not empty; choose another folder, or replace an earlier export with --force")
        if not (path / INDEX).exists():
            raise InputError(f"{path} holds no {INDEX}: it is no earlier export, and --force replaces nothing else")
    return path


def arrays_of(case: Case) -> dict[str, np.ndarray]:
    """The arrays of a case by their keys in the file, without meta."""
    return {f"{group}/{name}": array for group, arrays in groups(case) for name, array in arrays.items()}


def _write(folder: Path, case: Case, safetensors: bool) -> dict[str, Any]:
    """Write one case; its row of the index."""
    meta = case.meta
    path = folder / f"{meta['case']}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_case(path, case, with_list=False)  # the index has it
    arrays = arrays_of(case)
    row = {
        "id": meta["case"],
        "file": path.relative_to(folder).as_posix(),
        "peer": meta["peer"],
        "class": meta["class"],
        "config": meta["config"],
        "call": meta.get("call", {}),
        "dtype": meta["dtype"],
        "seed": meta.get("seed"),
        "shapes": {key: {"dtype": str(array.dtype), "shape": list(array.shape)} for key, array in arrays.items()},
        "tolerance": {**TOLERANCES[meta["dtype"]], **meta.get("tolerance", {})},
        "flags": meta.get("flags", []),
        "catches": meta.get("catches", ""),
        "notes": meta.get("notes", ""),
    }
    if safetensors:
        other = path.with_suffix(".safetensors")
        write_safetensors(other, arrays, {"meta": json.dumps(meta)})
        row["safetensors"] = other.relative_to(folder).as_posix()
    return row


def _write_index(path: Path, index: dict[str, Any]) -> None:
    """One line a case: with every array's shape, an indented index would be a quarter of a pack."""
    head = {key: value for key, value in index.items() if key != "cases"}
    lines = ",\n".join(json.dumps(row, allow_nan=False, separators=(",", ":")) for row in index["cases"])
    text = json.dumps(head, indent=1, allow_nan=False).removesuffix("\n}") + f',\n "cases": [\n{lines}\n]\n}}\n'
    path.write_text(text, encoding="utf-8")


def _move(temporary: Path, folder: Path, index: dict[str, Any]) -> None:
    """Put everything in its place: a new folder by one renaming, over an earlier export file by file, or not at all."""
    with held():  # a signal waits for the end of it
        if folder.exists() and any(folder.iterdir()):
            _replace(temporary, folder, index)
            return
        if folder.exists():
            folder.rmdir()
        temporary.rename(folder)


def _replace(temporary: Path, folder: Path, index: dict[str, Any]) -> None:
    """The earlier export's files go aside, the new ones into their places, the index last; undone when any step fails.

    Until the last step the index is the earlier one's: what is killed here can be exported again.
    """
    old = _files(read_json(folder / INDEX, "the index of an earlier export").get("cases", []))
    new, aside = _files(index["cases"]), temporary / ".before"
    undo: list[tuple[Path, Path]] = []

    def move(a: Path, b: Path) -> None:
        b.parent.mkdir(parents=True, exist_ok=True)
        a.rename(b)
        undo.append((b, a))

    try:
        for name in sorted({*old, *new}):
            there = folder / name
            if folder not in there.resolve().parents and name not in new:
                continue  # an index may name anything
            if there.is_symlink() or there.exists():
                if not there.is_file() and not there.is_symlink():
                    raise InputError(f"{there} is no file of an export; move it away first")
                move(there, aside / name)
            if name in new:
                move(temporary / name, there)
        (temporary / INDEX).replace(folder / INDEX)
    except BaseException:
        for now, before in reversed(undo):
            now.rename(before)
        raise


def _files(rows: Any) -> list[str]:
    """The files of cases, as an index lists them, which may hold anything."""
    rows = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    names = [row.get(key) for row in rows for key in ("file", "safetensors")]
    return [name for name in names if isinstance(name, str) and name and "\0" not in name]
