"""Which options of a command name what it reads and what it writes: nothing is written over what is read.

The table holds every option whose value is a path; `json` is one of every command.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError
from ..host.files import check_apart, check_writable


@dataclass(frozen=True)
class Places:
    """Options by what they name: inputs, files to write, folders to write; `owned` are the files that it writes there.

    An input may be a file, a folder, or what is neither (the name of a preset).
    """

    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    owned: tuple[str, ...] = ()


PLACES: dict[str, Places] = {
    "check": Places(inputs=("paths", "outputs", "weights", "map", "peer_file")),
    "run": Places(inputs=("weights", "config", "inputs", "map", "peer_file"), outputs=("output",)),
    "convert": Places(inputs=("weights", "config", "inputs", "map", "peer_file"), outputs=("output",)),
    "diagnose": Places(inputs=("case", "mine", "map", "peer_file"), outputs=("html", "excerpt")),
    "compare": Places(inputs=("reference", "candidate", "peer_file"), outputs=("html",)),
    "bind": Places(inputs=("case", "to", "peer_file"), outputs=("out",)),
    "export": Places(
        inputs=("model", "weights", "inputs"), folders=("out", "pack"), owned=("index.json", ".npz", ".safetensors")
    ),
    "explain": Places(inputs=("model",)),
    "train": Places(
        inputs=("data", "text", "test"),
        folders=("out",),
        owned=("result.json", ".npz", ".jsonl", ".png", ".txt"),
    ),
    "predict": Places(inputs=("model", "inputs"), outputs=("output",)),
    "generate": Places(inputs=("model",), outputs=("output",)),
    "info": Places(),
}

_READ = (
    *(".npz", ".safetensors", ".gguf", ".bin", ".pt", ".pth", ".ckpt", ".pickle", ".pkl", ".pystate"),
    *(".npy", ".raw", ".pb", ".tensorproto"),
)
"""Endings of files that a command may read in a folder that it is given."""
_NAMED = ("config.json", "index.json", "meta.json")


def check_places(given: argparse.Namespace) -> None:
    """Raise `InputError` where an output cannot be written, is an input as well, or is named twice."""
    places = PLACES[given.name]
    outputs = {f"--{name}": getattr(given, name) for name in (*places.outputs, "json") if getattr(given, name)}
    for path in outputs.values():
        check_writable(path)
    if given.name == "diagnose" and not given.excerpt:
        outputs["the excerpt"] = excerpt_beside(given.mine or given.case)
    inputs = [path for name in places.inputs for path in _values(given, name)]
    folders = {f"--{name}": getattr(given, name) for name in places.folders if getattr(given, name)}
    check_apart({**outputs, **folders}, [found for path in inputs for found in _read(path, outputs)])
    for option, folder in folders.items():
        for what, path in [*outputs.items(), *(("the input", path) for path in inputs)]:
            _check_outside(option, Path(folder), what, Path(path), places.owned)


def excerpt_beside(case: str) -> Path:
    """Where `diagnose` writes an excerpt unless it is told."""
    path = Path(case)
    return path.with_name(f"{path.stem}.excerpt.npz") if path.name else path


def _values(given: argparse.Namespace, name: str) -> list[str]:
    value = getattr(given, name)
    return [] if value is None else list(value) if isinstance(value, list) else [value]


def _read(path: str, outputs: dict[str, str]) -> Iterator[Path]:
    """The files that an input stands for, where one of the outputs may be among them."""
    place = Path(path)
    if not place.is_dir():
        yield place
    elif any(Path(output).exists() for output in outputs.values()):
        yield from (file for file in place.rglob("*") if _is_read(file) and file.is_file())


def _is_read(file: Path) -> bool:
    """Whether a file of an input folder counts as read: weights, cases and configurations, not the reports of an
    earlier run."""
    return file.suffix in _READ or file.name in _NAMED or file.name.endswith((".index.json", "_FULL_TENSORS.json"))


def _check_outside(option: str, folder: Path, what: str, path: Path, owned: tuple[str, ...]) -> None:
    """What the command itself writes into its folder is no place for another of its files."""
    try:
        path, folder = path.resolve(), folder.resolve()
    except (OSError, ValueError, RuntimeError):
        return
    if folder in path.parents and (path.name in owned or path.suffix in owned):
        raise InputError(f"{what} {path} may be one of the files that {option} {folder} is for; choose another place")
