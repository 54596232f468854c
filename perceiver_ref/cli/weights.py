"""Whose weights a command is given, and what they are run on: the options that `run` and `convert` share."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np

from ..errors import InputError
from ..host import json_text
from ..host.files import existing_file, read_json
from ..porting.bind.files import mapped_checkpoint, mapped_inputs, run_mapped
from ..porting.bind.maps import read_map
from ..porting.cases.execution import Run
from ..weights.checkpoints import Checkpoint, Choice, read_checkpoint
from ..weights.checkpoints import read_weights as port_weights
from ..weights.formats.npz import read_npz
from ..weights.formats.opcodes import first_line
from .main import complain
from .mapping import mapping

Arrays = dict[str, np.ndarray]
_Result = TypeVar("_Result")
_COTANGENT = "cotangent/"
_NUMBERS = 6


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
    mapping(command)
    command.add_argument(
        "--key",
        metavar="K",
        help="where in a file of more than weights they are, such as ema or checkpoint.model; . is its outermost level "
        "(default: state_dict, model and the like)",
    )
    command.add_argument(
        "--prefix",
        metavar="P",
        help="what the names of the class begin with where it is a part of a whole model, such as perceiver. "
        '(default: found where exactly one fits; "" for none)',
    )
    command.add_argument(
        "--allow-unused", action="store_true", help="leave out and list arrays that the class has no use for"
    )
    command.add_argument(
        "--call",
        metavar="JSON",
        help="the class's arguments beyond arrays, an object or a file of one, such as '{\"prefix_len\": 4}'; "
        "a number among the inputs is one, too",
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


def read_call(given: argparse.Namespace) -> dict[str, Any]:
    """The arguments beyond arrays that --call gives: JSON text, or a file of it."""
    text: str | None = given.call
    if text is None:
        return {}
    if not text.lstrip().startswith("{"):
        return read_json(text, "arguments in JSON, an object (--call)")
    try:
        made: dict[str, Any] = json_text.parse(text.encode())
    except ValueError as error:
        raise InputError(f"--call is not JSON ({first_line(error)}); expected an object of arguments") from None
    return made


def with_numbers(
    execute: Callable[[Arrays, Mapping[str, Any]], _Result], arguments: Arrays, call: Mapping[str, Any]
) -> _Result:
    """`execute(arguments, call)`; single numbers among the arguments are options of the call where the class has such.

    Which they are only the class knows: it is asked with all of them as options first, then with fewer.
    """
    numbers = _numbers(arguments, call)
    failed: InputError | None = None
    for count in range(len(numbers), -1, -1):
        for names in itertools.combinations(numbers, count):
            arrays = {name: array for name, array in arguments.items() if name not in names}
            try:
                return execute(arrays, {**call, **{name: numbers[name] for name in names}})
            except InputError as error:
                failed = failed if failed and "unknown argument" in str(error) else error
    assert failed is not None  # at least one way was tried
    raise failed


def _numbers(arguments: Arrays, call: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that are single numbers or texts, as Python's."""
    numbers = {name: array.item() for name, array in arguments.items() if not array.shape}
    if len(numbers) > _NUMBERS:
        raise InputError(f"the inputs hold {len(numbers)} single numbers; give options of the call with --call")
    if twice := [name for name in numbers if name in call]:
        raise InputError(f"{twice[0]!r} is among the inputs and in --call; leave it out of one")
    return numbers


def read_weights(given: argparse.Namespace, arguments: Arrays, call: Mapping[str, Any]) -> Checkpoint:
    """The weights that the options name; one line on stderr for each choice, and what was done to make a file fit."""
    if given.map is not None:
        return _mapped(given, arguments)
    checkpoint = read_checkpoint(
        given.peer,
        given.weights,
        given.cls,
        config=given.config,
        dtype=given.dtype,
        inputs={name: array for name, array in arguments.items() if array.shape},
        call={**call, **_numbers(arguments, call)},
        choice=Choice(given.key, given.prefix, given.allow_unused),
    )
    for note in checkpoint.notes:
        complain(given.name, note, "note", whole=True)
    return checkpoint


def _mapped(given: argparse.Namespace, arguments: Arrays) -> Checkpoint:
    """The weights of a port under names of its own."""
    if given.peer or given.cls or given.config:
        raise InputError("the map says which class and configuration; leave out --peer, --class and --config")
    made = read_map(given.map)
    inputs = mapped_inputs(made, arguments, given.inputs) if arguments else {}
    checkpoint = mapped_checkpoint(made, port_weights(given.weights, given.dtype, given.key), inputs, given.weights)
    for note in checkpoint.notes:
        complain(given.name, note, "note", whole=True)
    return checkpoint


def run_by_map(given: argparse.Namespace, arguments: Arrays, cotangents: Arrays | None, dtype: Any) -> Run:
    """A port's weights on its inputs, by its names."""
    return run_mapped(
        read_map(given.map),
        port_weights(given.weights, given.dtype, given.key),
        arguments,
        cotangents,
        where=given.weights,
        points=(lambda name: True) if given.trace else None,
        backend=given.backend,
        dtype=dtype,
    )
