"""Case files, and weights, of a port under names of its own, read with the map that `bind` wrote."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...errors import InputError
from ...host.files import AnyPath
from ...weights.checkpoints import Checkpoint
from ...weights.formats.dtypes import finite
from ...weights.formats.fit import Fitted
from ..cases import Case, read_case
from ..cases.execution import Run, run
from .maps import Map, read_map, read_part
from .translate import back, outputs_back, own_names, peer_arrays, rebuild, translate

Arrays = dict[str, np.ndarray]
UNVERIFIED = "the map is not verified: what follows may be of wrongly bound arrays"


def read_mapped(path: AnyPath, map_path: AnyPath | None) -> Case:
    """A case file; with a map, the case of the map's class. Raises `InputError` where the two do not go together."""
    case = read_case(path)
    return case if map_path is None else translate(case, read_map(map_path))


def mapped_inputs(made: Map, arrays: Mapping[str, np.ndarray], where: object) -> Arrays:
    """The map's arguments from the port's, or as they are where they have the map's names already."""
    if set(made.inputs) == set(arrays):
        return dict(arrays)
    return {name: read_part(part, arrays, f"{where}: input {name}") for name, part in made.inputs.items()}


def run_mapped(
    made: Map,
    arrays: Arrays,
    inputs: Arrays,
    cotangents: Arrays | None,
    *,
    where: str,
    **options: Any,
) -> Run:
    """`run` of the map's class on a port's weights and inputs, everything but traces by the port's names."""
    arguments = mapped_inputs(made, inputs, where)
    weights = None
    if cotangents is not None:
        named = {part.name: (name, part) for name, part in made.outputs.items()}
        if unknown := sorted(set(cotangents) - set(named)):
            raise InputError(f"{where}: the map has no output {unknown[0]!r}, which there is a cotangent for")
        weights = {named[n][0]: read_part(named[n][1], cotangents, f"{where}: cotangent {n}") for n in cotangents}
    own, found = own_names(made, rebuild(made, arguments), arrays, where)
    result = run(own, found, arguments, made.to.call, cotangents=weights, where=where, **options)
    shapes = {name: tuple(array.shape) for name, array in arrays.items()}
    theirs = {part.name: result.grad_inputs[n] for n, part in made.inputs.items() if n in result.grad_inputs}
    return Run(
        outputs_back(made, result.outputs), back(made, result.grad_params, shapes), theirs, result.state, result.trace
    )


def mapped_checkpoint(
    made: Map, arrays: Mapping[str, np.ndarray], inputs: Mapping[str, np.ndarray], where: AnyPath
) -> Checkpoint:
    """The port's weights as a checkpoint of the map's class; `inputs` by its names."""
    finite(arrays, where)
    rebuilt = rebuild(made, inputs)
    params, state = peer_arrays(made, rebuilt, arrays, str(where))
    notes = () if made.verified else (UNVERIFIED,)
    shapes = {name: tuple(array.shape) for name, array in inputs.items()}
    fitted = Fitted(rebuilt, params | state, {}, notes)
    if not fitted.arrays:
        raise InputError(f"{where}: the map binds no parameter")
    return Checkpoint(made.to.peer, made.to.cls, made.to.config, fitted, shapes)
