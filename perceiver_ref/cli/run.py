"""`perceiver-ref run`: a checkpoint of another implementation, run in the reference."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from ..autograd.backend import module
from ..errors import InputError
from ..porting import Run
from ..porting import run as compute
from ..weights.formats.npz import write_npz
from ..weights.formats.read import dtype_of
from . import weights
from .main import OK, computing
from .result import aligned, write_result


def options(command: argparse.ArgumentParser) -> None:
    """The command's options."""
    weights.options(command)
    command.add_argument("--inputs", required=True, metavar="F", help=".npz with the arguments by the peer's names")
    command.add_argument("--output", required=True, metavar="F", help=".npz to write")
    command.add_argument("--trace", action="store_true", help="also write every named intermediate value")
    command.add_argument("--grad", action="store_true", help="also write gradients, of the sum of output * cotangent")
    computing(command, "the weights'")


def run(options: argparse.Namespace) -> int:
    """`perceiver-ref run`: outputs (and gradients and traces) of a checkpoint, as an .npz in the vector format."""
    module(options.backend)
    arguments, cotangents = weights.read_inputs(options.inputs)
    if options.grad and not cotangents:
        raise InputError(f"{options.inputs}: --grad needs cotangent/<output>, an array of the shape of that output")
    call = weights.read_call(options)
    checkpoint = weights.read_weights(options, arguments, call)
    dtype = options.dtype or dtype_of(checkpoint.arrays)

    def execute(arguments: weights.Arrays, call: Mapping[str, Any]) -> Run:
        if options.map is not None:
            return weights.run_by_map(options, arguments, cotangents if options.grad else None, dtype)
        return compute(
            checkpoint.rebuilt,
            checkpoint.arrays,
            arguments,
            call,
            cotangents=cotangents if options.grad else None,
            points=(lambda name: True) if options.trace else None,
            backend=options.backend,
            dtype=dtype,
            where=options.weights,
        )

    result = weights.with_numbers(execute, arguments, call)
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
    for line in aligned(lines, left=2):
        print(f"  {'  '.join(line).rstrip()}")
    found = {"output": options.output, "dtype": str(dtype), "shapes": shapes, "notes": checkpoint.notes}
    write_result(options.json, found)
    return OK
