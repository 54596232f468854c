"""`perceiver-ref explain`: what a published or a configured model costs, layer by layer."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import Any

from ..errors import InputError
from ..models.flamingo import PerceiverResampler
from ..models.ledger import RULE, Ledger, default_sizes, example, ledger, parse_sizes
from ..models.ledger.printed import PRINTED, agrees
from ..models.ledger.sizes import Shape, Sizes, own_arguments
from ..models.module import Module
from ..models.perceiver_io import PerceiverIO
from ..models.published import INPUTS, is_preset, preset
from ..peers.base import told
from ..weights.checkpoints import ignored_fields, read_config, rebuild
from .main import OK
from .result import aligned, write_result
from .words import verdict

Lines = list[tuple[str, ...]]


def options(command: argparse.ArgumentParser) -> None:
    """The command's options."""
    command.add_argument("model", metavar="PRESET|CONFIG", help="a published model, or a configuration in JSON")
    command.add_argument("--peer", help="the implementation that a CONFIG is of, such as hf")
    command.add_argument("--class", dest="cls", metavar="CLASS", help="its class (default: what CONFIG names)")
    command.add_argument("--batch", type=int, default=1, metavar="B", help="examples (default: 1)")
    command.add_argument(
        "--inputs",
        metavar="SIZES",
        help="shape of one example, such as 2048, 224x224x3 or audio=30720x1,image=16x224x224x3,label=700 "
        "(default: the published one)",
    )
    command.add_argument("--dtype", choices=("float32", "float64"), default="float32", help="default: float32")


def explain(given: argparse.Namespace) -> int:
    """`perceiver-ref explain`: a table, totals, and what the papers print; always 0."""
    model = _model(given)
    sizes = parse_sizes(given.inputs) if given.inputs else INPUTS.get(given.model) or default_sizes(model)
    result = ledger(model, example(model, sizes, batch=given.batch, dtype=given.dtype), dtype=given.dtype)
    published = given.batch == 1 and not given.inputs
    print(f"{given.model}: batch {given.batch}, inputs {_written(sizes)}, {given.dtype}\n")
    _print_rows(result)
    _print_totals(result)
    _print_printed(given.model, result, published)
    write_result(given.json, _json(given, sizes, result))
    return OK


def _model(given: argparse.Namespace) -> Module:
    if is_preset(given.model, peer=given.peer, cls=given.cls):
        made: Module = preset(given.model)
        return made
    if not given.peer:
        raise InputError(f"{given.model}: say which implementation the configuration is of, such as --peer hf")
    with told() as ignored:
        model = rebuild(given.peer, given.cls, read_config(given.model), given.model, {}).model
    if ignored:
        print(f"perceiver-ref explain: note: {ignored_fields(ignored)}", file=sys.stderr)
    if not isinstance(model, PerceiverIO | PerceiverResampler) and own_arguments(model) is None:
        raise InputError(f"{given.model} configures a part, {type(model).__name__}; explain takes whole models")
    return model


def _print_rows(result: Ledger) -> None:
    head = ("layer", "times", "output", "parameters", "FLOPs", "kept bytes")
    lines: Lines = [
        (
            row.name,
            f"{row.repeats}" if row.repeats > 1 else "",
            _shape(row.shape),
            _number(row.parameters),
            _number(row.flops),
            _number(row.kept),
        )
        for row in result.rows
    ]
    total = ("total", "", "", _number(result.parameters), _number(result.flops), _number(result.training))
    for line in aligned((head, *lines, total)):
        print("  ".join(line).rstrip())


def _print_totals(result: Ledger) -> None:
    print(f"\nparameters             {result.parameters:,}")
    print(f"FLOPs                  {result.flops:,}")
    print(f"memory, training       {result.training:,} bytes kept for the way back")
    print(f"memory, inference      {result.inference:,} bytes at most, attention in tiles")
    print(f"                       {result.inference_plain:,} bytes at most, attention with all scores")
    print(f"\nFLOPs: {RULE}.")
    print("A layer repeated `times` has the figures of all its repetitions; shared weights count once.")
    print("Memory: activations only, without parameters, inputs, gradients and optimizer state.")


def _print_printed(name: str, result: Ledger, published: bool) -> None:
    printed = PRINTED.get(name)
    if printed is None:
        return
    print(f"\n{printed.source}, prints:")
    pairs = [("parameters", result.parameters, printed.parameters), ("FLOPs", result.flops, printed.flops)]
    for what, computed, figure in pairs:
        if figure is None:
            continue
        if what == "FLOPs" and not published:
            print(f"  {figure} {what}, for one example of the published size")
        else:
            same = agrees(computed, figure)
            print(
                f"  {figure} {what}: {verdict('agrees' if same else 'differs')}{'' if same else f' from {computed:,}'}"
            )
    if printed.remark:
        print(f"  {printed.remark}")


def _json(given: argparse.Namespace, sizes: Sizes, result: Ledger) -> dict[str, Any]:
    printed = PRINTED.get(given.model)
    return {
        "model": given.model,
        "batch": given.batch,
        "inputs": sizes,
        "dtype": given.dtype,
        "parameters": result.parameters,
        "flops": result.flops,
        "flops_rule": RULE,
        "activation_bytes": {
            "inference": result.inference,
            "inference_plain": result.inference_plain,
            "training": result.training,
        },
        "layers": [
            {
                "name": row.name,
                "repeats": row.repeats,
                "shape": row.shape,
                "parameters": row.parameters,
                "flops": row.flops,
                "activation_bytes": row.kept,
            }
            for row in result.rows
        ],
        "printed": None if printed is None else vars(printed),
    }


def _written(sizes: Sizes) -> str:
    if isinstance(sizes, Mapping):
        return ", ".join(f"{name} {_shape(shape)}" for name, shape in sizes.items())
    return _shape(sizes)


def _shape(shape: Shape) -> str:
    return "x".join(map(str, shape))


def _number(value: int) -> str:
    return f"{value:,}" if value else ""
