"""`perceiver-ref predict`: a saved model on data from a file."""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..autograd.backend import BACKENDS, module
from ..errors import InputError
from ..host.files import existing_file, write_text, write_whole
from ..training.own.pictures import IMAGES, read_image
from ..training.own.saved import MASKED, SavedModel, read_saved
from ..training.tables import read_table
from ..weights.formats.npz import read_npz, write_npz
from .main import OK
from .result import aligned, write_result

TEXTS = (".txt", ".md")
_SHOWN = 20  # rows
_TEXT = 1 << 26  # bytes


def options(command: argparse.ArgumentParser) -> None:
    """The command's options."""
    add = command.add_argument
    add("model", metavar="FILE", help="the model: model.npz of train or fit, or what pr.save or convert wrote")
    add(
        "inputs",
        metavar="PATH",
        help=f"a CSV file, an .npy array, an .npz of arguments by name, a picture, or a text with {MASKED} for each "
        "byte to be filled in",
    )
    add(
        "--output", metavar="F", help="also write what comes out: .csv of classes, .npz or .npy of arrays, .txt of text"
    )
    add("--batch", type=int, default=64, metavar="N", help="examples computed at a time (default: 64)")
    add("--backend", choices=BACKENDS, default="numpy", help="array library (default: numpy)")


def predict(given: argparse.Namespace) -> int:
    """`perceiver-ref predict`: 0 when it is done."""
    module(given.backend)
    if given.batch < 1:
        raise InputError(f"--batch must be at least 1, got {given.batch}")
    path = existing_file(given.inputs, "a CSV file, arrays in .npy or .npz, a picture or a text")
    saved = read_saved(given.model, given.backend)
    found: dict[str, Any] = {"model": str(given.model), "inputs": str(given.inputs), "task": saved.kind}
    if path.suffix.lower() in TEXTS:
        found |= _text(saved, path, given)
    else:
        arguments = _arguments(saved, path)
        if saved.kind == "classify" and set(arguments) == {saved.argument}:
            found |= _classes(saved, arguments[saved.argument], given)
        else:
            found |= _outputs(saved, arguments, given)
    write_result(given.json, found)
    return OK


def _text(saved: SavedModel, path: Path, given: argparse.Namespace) -> dict[str, Any]:
    if path.stat().st_size > _TEXT:
        raise InputError(f"{path} has more than {_TEXT >> 20} MiB; give a part of it")
    made = saved.filled(path.read_bytes().decode("utf-8", errors="surrogateescape"), given.batch)
    print(made, end="" if made.endswith("\n") else "\n")
    _check_suffix(given.output, (".txt", ".md"))
    if given.output:
        write_text(given.output, made)
    return {"text": made}


def _arguments(saved: SavedModel, path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file, by the names of the model's arguments."""
    suffix = path.suffix.lower()
    if suffix == ".csv":
        names = saved.scaling().names if saved.kind == "classify" else None
        values = read_table(path, labelled=False, names=names or ()).values
        return {saved.argument: values if saved.kind == "classify" else values[..., None]}
    if suffix in IMAGES:
        return {saved.argument: read_image(path, saved)}
    if suffix == ".npy":
        return {saved.argument: _read_array(path)}
    arrays = read_npz(path)
    arrays.pop("meta", None)
    for ending in ("labels", "targets", "y"):
        if len(arrays) > 1:
            arrays.pop(ending, None)  # of examples whose classes are known
    return {saved.argument: next(iter(arrays.values()))} if len(arrays) == 1 else arrays


def _read_array(path: Path) -> np.ndarray:
    try:
        made = np.lib.format.open_memmap(path, mode="r")
        if made.dtype.hasobject or made.dtype.kind not in "biuf":
            raise ValueError(f"it holds {made.dtype}")
        return np.array(made)
    except (ValueError, OSError, EOFError, SyntaxError, TypeError, MemoryError) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path} is no .npy file of numbers ({why})") from None


def _classes(saved: SavedModel, inputs: np.ndarray, given: argparse.Namespace) -> dict[str, Any]:
    p = saved.probabilities(inputs, given.batch)
    names = saved.classes(p.shape[1])
    best = p.argmax(-1)
    rows = [["row", "class", "probability"]]
    rows += [[str(i + 1), names[k], f"{p[i, k]:.3f}"] for i, k in enumerate(best[:_SHOWN].tolist())]
    for row in aligned(rows, 2):
        print("  ".join(row))
    if len(best) > _SHOWN:
        print(f"... and {len(best) - _SHOWN:,} more; --output F.csv has them all")
    _check_suffix(given.output, (".csv", ".npz", ".npy"))
    if given.output and Path(given.output).suffix == ".csv":
        table = io.StringIO()
        made = csv.writer(table, lineterminator="\n")
        made.writerow(["class", *names])
        made.writerows([names[k], *(f"{value:.6g}" for value in row)] for k, row in zip(best.tolist(), p))
        write_text(given.output, table.getvalue())
    elif given.output:
        _write_arrays(given.output, {"probabilities": p, "classes": best})
    predictions = [{"class": names[k], "probability": float(p[i, k])} for i, k in enumerate(best.tolist())]
    return {"predictions": predictions}


def _outputs(saved: SavedModel, arguments: Mapping[str, np.ndarray], given: argparse.Namespace) -> dict[str, Any]:
    out = saved.outputs(arguments, given.batch)
    for name, array in out.items():
        print(f"{name}: {array.dtype} of shape {array.shape}, from {array.min():.4g} to {array.max():.4g}")
    if not given.output:
        print("--output F.npz writes them")
    _check_suffix(given.output, (".npz", ".npy"))
    if given.output:
        _write_arrays(given.output, out)
    return {"shapes": {name: list(array.shape) for name, array in out.items()}}


def _write_arrays(output: str, arrays: Mapping[str, np.ndarray]) -> None:
    if Path(output).suffix == ".npz":
        write_npz(output, arrays)
        return
    first = next(iter(arrays.values()))
    write_whole(output, lambda file: np.lib.format.write_array(file, first, allow_pickle=False))


def _check_suffix(output: str | None, known: tuple[str, ...]) -> None:
    if output and Path(output).suffix not in known:
        raise InputError(f"--output {output} must end in {' or '.join(known)} for this")
