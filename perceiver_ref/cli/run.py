"""`perceiver-ref run`: a checkpoint of another implementation, run in the reference."""

from __future__ import annotations

import argparse

from ..autograd.backend import module
from ..checkpoints import read_checkpoint
from ..crosscheck import run as execute
from ..errors import InputError
from ..files import check_writable, write_json
from ..formats.read import dtype_of
from ..vectors.npz import write_npz
from .convert import read_inputs, say_notes, weights
from .main import OK, computing


def options(command: argparse.ArgumentParser) -> None:
    """The command's options."""
    weights(command)
    command.add_argument("--inputs", required=True, metavar="F", help=".npz with the arguments by the peer's names")
    command.add_argument("--output", required=True, metavar="F", help=".npz to write")
    command.add_argument("--trace", action="store_true", help="also write every named intermediate value")
    command.add_argument("--grad", action="store_true", help="also write gradients, of the sum of output * cotangent")
    computing(command, "the weights'")


def run(options: argparse.Namespace) -> int:
    """`perceiver-ref run`: outputs (and gradients and traces) of a checkpoint, as an .npz in the vector format."""
    check_writable(options.output)
    if options.json:
        check_writable(options.json)
    module(options.backend)
    inputs = read_inputs(options.inputs)
    arguments = {name: array for name, array in inputs.items() if not name.startswith("cotangent/")}
    cotangents = {n.removeprefix("cotangent/"): a for n, a in inputs.items() if n.startswith("cotangent/")}
    if options.grad and not cotangents:
        raise InputError(f"{options.inputs}: --grad needs cotangent/<output>, an array of the shape of that output")
    checkpoint = read_checkpoint(
        options.peer,
        options.weights,
        options.cls,
        config=options.config,
        dtype=options.dtype,
        inputs=arguments,
    )
    say_notes("run", checkpoint)
    dtype = options.dtype or dtype_of(checkpoint.arrays)
    result = execute(
        checkpoint.rebuilt,
        checkpoint.arrays,
        arguments,
        {},
        cotangents=cotangents if options.grad else None,
        points=(lambda name: True) if options.trace else None,
        backend=options.backend,
        dtype=dtype,
        where=options.weights,
    )
    groups = {
        "output": result.outputs,
        "cotangent": cotangents if options.grad else {},
        "grad_param": result.grad_params,
        "grad_input": result.grad_inputs,
        "trace": result.trace,
    }
    write_npz(options.output, {f"{group}/{name}": a for group, arrays in groups.items() for name, a in arrays.items()})
    print(
        f"{options.output}: computed in {dtype} on {options.backend}, {checkpoint.rebuilt.model.count():,} parameters"
    )
    shapes = {name: list(array.shape) for name, array in result.outputs.items()}
    lines = [(f"output/{name}", str(shape)) for name, shape in shapes.items()]
    lines += [(f"{n}/...", f"{len(groups[n])} arrays") for n in ("grad_param", "grad_input", "trace") if groups[n]]
    width = max(len(name) for name, _ in lines)
    for name, said in lines:
        print(f"  {name:<{width}}  {said}")
    if options.json:
        write_json(options.json, {"version": 1, "output": options.output, "dtype": str(dtype), "shapes": shapes})
    return OK
