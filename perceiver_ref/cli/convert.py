"""`perceiver-ref convert`: weights from a peer's file to our own checkpoint, and back to the peer's names."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from ..checkpoints import Checkpoint, read_checkpoint
from ..errors import InputError
from ..files import check_writable, existing_file, write_json
from ..formats.own import to_own
from ..formats.safetensors_file import write_safetensors
from ..vectors.npz import read_npz, write_npz

WRITERS = {".npz": write_npz, ".safetensors": write_safetensors}


def options(command: argparse.ArgumentParser) -> None:
    """The command's options."""
    weights(command)
    command.add_argument("--output", required=True, metavar="F", help=".npz to write; .safetensors with --to-peer")
    command.add_argument("--to-peer", action="store_true", help="write the peer's names instead of our own checkpoint")
    command.add_argument("--inputs", metavar="F", help=".npz with arguments, for classes that take sizes from them")
    command.add_argument("--dtype", choices=("float64", "float32", "float16"), help="precision (default: the file's)")


def weights(command: argparse.ArgumentParser) -> None:
    """The options that say which weights, and what they are for."""
    command.add_argument("--peer", help="the implementation that the weights come from, such as hf")
    command.add_argument(
        "--class", dest="cls", metavar="CLASS", help="its class (default: what the configuration names)"
    )
    command.add_argument(
        "--config", metavar="F", help="its configuration, JSON (default: config.json beside the weights)"
    )
    command.add_argument(
        "--weights",
        required=True,
        metavar="F",
        help="checkpoint directory, or .npz, .safetensors, .pt, .bin, .ckpt or .pystate file; "
        "one that convert wrote needs no --peer, --class and --config",
    )


def read_inputs(path: str) -> dict[str, np.ndarray]:
    """Arrays by argument name, with or without a leading `input/`; cotangents keep theirs."""
    existing_file(path, "an .npz file of the inputs")
    arrays = read_npz(path)
    arrays.pop("meta", None)
    if any(name.startswith("input/") for name in arrays):  # a case of the vector format
        arrays = {n.removeprefix("input/"): a for n, a in arrays.items() if n.startswith(("input/", "cotangent/"))}
    return arrays


def say_notes(command: str, checkpoint: Checkpoint) -> None:
    """One line on stderr for each thing that was done to make a file fit."""
    for note in checkpoint.notes:
        print(f"perceiver-ref {command}: note: {note}", file=sys.stderr)


def convert(options: argparse.Namespace) -> int:
    """`perceiver-ref convert`: 0 when the file is written."""
    output = check_writable(options.output)
    if options.json:
        check_writable(options.json)
    known = tuple(WRITERS) if options.to_peer else (".npz",)
    if output.suffix not in known:
        why = "" if options.to_peer else "; our own checkpoint is an .npz, see --to-peer"
        raise InputError(f"{output}: the output must end in {' or '.join(known)}{why}")
    inputs = read_inputs(options.inputs) if options.inputs else {}
    checkpoint = read_checkpoint(
        options.peer,
        options.weights,
        options.cls,
        config=options.config,
        dtype=options.dtype,
        inputs={name: array for name, array in inputs.items() if not name.startswith("cotangent/")},
    )
    say_notes("convert", checkpoint)
    arrays = _to_peer(checkpoint, options.weights) if options.to_peer else _to_own(checkpoint, options.weights)
    WRITERS[output.suffix](output, arrays)
    names = f"names of {checkpoint.peer}" if options.to_peer else "our names"
    count = len(arrays) - ("meta" in arrays)
    print(f"{output}: {checkpoint.cls}, {checkpoint.rebuilt.model.count():,} parameters in {count} arrays by {names}")
    if options.json:
        report = {
            "version": 1,
            "output": str(output),
            "peer": checkpoint.peer,
            "class": checkpoint.cls,
            "arrays": count,
        }
        report |= {"parameters": checkpoint.rebuilt.model.count(), "notes": list(checkpoint.notes)}
        write_json(options.json, report)
    return 0


def _to_own(checkpoint: Checkpoint, where: str | Path) -> dict[str, np.ndarray]:
    known = checkpoint
    return to_own(known.fitted, known.peer, known.cls, known.config, where, known.inputs)


def _to_peer(checkpoint: Checkpoint, where: str | Path) -> dict[str, np.ndarray]:
    """The peer's arrays, with a tied parameter under each of its names."""
    checkpoint.rebuilt.load(checkpoint.arrays, where)  # all are there and fit
    tied = {alias: checkpoint.arrays[name] for alias, name in checkpoint.fitted.tied.items()}
    return {**checkpoint.arrays, **tied}
