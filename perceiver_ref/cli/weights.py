"""Whose weights a command is given, and what they are run on: the options that `run` and `convert` share."""

from __future__ import annotations

import argparse

import numpy as np

from ..checkpoints import Checkpoint, read_checkpoint
from ..files import existing_file
from ..vectors.npz import read_npz
from .main import complain

Arrays = dict[str, np.ndarray]
_COTANGENT = "cotangent/"


def options(command: argparse.ArgumentParser) -> None:
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


def read_inputs(path: str) -> tuple[Arrays, Arrays]:
    """(arrays by argument name, cotangents by output); arguments may have a leading `input/`, as in a case."""
    existing_file(path, "an .npz file of the inputs")
    arrays = read_npz(path)
    arrays.pop("meta", None)
    cotangents = {n.removeprefix(_COTANGENT): a for n, a in arrays.items() if n.startswith(_COTANGENT)}
    if any(name.startswith("input/") for name in arrays):  # a case of the vector format
        return {n.removeprefix("input/"): a for n, a in arrays.items() if n.startswith("input/")}, cotangents
    return {name: array for name, array in arrays.items() if not name.startswith(_COTANGENT)}, cotangents


def read_weights(given: argparse.Namespace, arguments: Arrays) -> Checkpoint:
    """The weights that the options name; one line on stderr for each thing that was done to make a file fit."""
    checkpoint = read_checkpoint(
        given.peer, given.weights, given.cls, config=given.config, dtype=given.dtype, inputs=arguments
    )
    for note in checkpoint.notes:
        complain(given.name, note, "note", whole=True)
    return checkpoint
