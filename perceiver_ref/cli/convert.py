"""`perceiver-ref convert`: weights from a peer's file to our own checkpoint, and back to the peer's names."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..weights.checkpoints import Checkpoint
from ..weights.formats.npz import write_npz
from ..weights.formats.own import to_own
from ..weights.formats.safetensors_file import write_safetensors
from . import weights
from .main import OK
from .result import write_result

WRITERS = {".npz": write_npz, ".safetensors": write_safetensors}


def options(command: argparse.ArgumentParser) -> None:
    """The command's options."""
    weights.options(command)
    command.add_argument("--output", required=True, metavar="F", help=".npz to write; .safetensors with --to-peer")
    command.add_argument("--to-peer", action="store_true", help="write the peer's names instead of our own checkpoint")
    command.add_argument("--inputs", metavar="F", help=".npz with arguments, for classes that take sizes from them")
    command.add_argument("--dtype", choices=("float64", "float32", "float16"), help="precision (default: the file's)")


def convert(options: argparse.Namespace) -> int:
    """`perceiver-ref convert`: 0 when the file is written."""
    output = Path(options.output)
    known = tuple(WRITERS) if options.to_peer else (".npz",)
    if output.suffix not in known:
        why = "" if options.to_peer else "; our own checkpoint is an .npz, see --to-peer"
        raise InputError(f"{output}: the output must end in {' or '.join(known)}{why}")
    arguments = weights.read_inputs(options.inputs)[0] if options.inputs else {}
    checkpoint = weights.read_weights(options, arguments, weights.read_call(options))
    arrays = _to_peer(checkpoint, options.weights) if options.to_peer else _to_own(checkpoint, options.weights)
    WRITERS[output.suffix](output, arrays)
    names = f"names of {checkpoint.peer}" if options.to_peer else "our names"
    count, parameters = len(arrays) - ("meta" in arrays), checkpoint.rebuilt.model.count()
    print(f"{output}: {checkpoint.cls}, {parameters:,} parameters in {count} arrays by {names}")
    found = {"output": str(output), "peer": checkpoint.peer, "class": checkpoint.cls, "arrays": count}
    write_result(options.json, {**found, "parameters": parameters, "notes": checkpoint.notes})
    return OK


def _to_own(checkpoint: Checkpoint, where: str | Path) -> dict[str, np.ndarray]:
    return to_own(checkpoint.fitted, checkpoint.peer, checkpoint.cls, checkpoint.config, where, checkpoint.inputs)


def _to_peer(checkpoint: Checkpoint, where: str | Path) -> dict[str, np.ndarray]:
    """The peer's arrays, with a tied parameter under each of its names."""
    checkpoint.rebuilt.load(checkpoint.arrays, where)  # all are there and fit
    tied = {alias: checkpoint.arrays[name] for alias, name in checkpoint.fitted.tied.items()}
    return {**checkpoint.arrays, **tied}
