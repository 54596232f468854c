"""`save`: a model with its parameters as one file, which `load` and the commands read (`formats.own`)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..autograd import tree
from ..autograd.backend import to_host
from ..autograd.tree import Tree
from ..errors import InputError, input_errors
from ..host.files import AnyPath
from ..models.module import Module
from ..peers import Given, Rebuilt, peer
from ..peers.reference import NAME, rebuilt, to_config
from ..peers.reference.models import caller
from .checkpoints import ORIGIN, Origin
from .formats.dtypes import finite
from .formats.npz import write_npz
from .formats.own import by_key, own_header, tuned
from .formats.read import Arrays


def save(model: Any, params: Tree, path: AnyPath, *, state: Tree = None, task: Mapping[str, Any] | None = None) -> None:
    """Write a model, its parameters and, for batch norm, its running statistics as one `.npz`, whole or not at all.

    The model is one of ours, built by hand or a preset, or one that `load` gave of another implementation's checkpoint,
    whose parameters may have been tuned since: its file then leads back to that implementation's names
    (`perceiver-ref convert --to-peer`). `task` says what the model is for, as JSON, such as the names of its classes:
    `perceiver-ref predict` uses it. Parameters may be on any backend.

    Raises `InputError` for parameters that do not fit the model or are not finite, for a model with batch norm without
    its state, and for a class that is not the package's own: its parameters alone are then saved with `numpy.savez`.
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise InputError(f"{path}: a model is saved as an .npz file; give such a name")
    model.check(params)
    wanted = tree.flatten(model.state()) if isinstance(model, Module) else {}
    if {p: tuple(a.shape) for p, a in tree.leaves(state)} != {p: w.shape for p, w in wanted.items()}:
        raise InputError(f"{type(model).__name__} has batch norm: save it with its running statistics, state=...")
    ours = {key: to_host(array) for key, array in by_key(params, state if wanted else None).items()}
    finite(ours, path)
    header, beside = _header_of(model, ours, path)
    if task is not None:
        header["task"] = dict(task)
    with input_errors("task is no JSON"):
        text = json.dumps(header, allow_nan=False)
    write_npz(path, {"meta": np.array(text), **ours, **{f"peer/{name}": array for name, array in beside.items()}})


def first_argument(model: Any) -> str:
    """What the first argument of a model of ours is called in its file's runs: "inputs", "ids", ..."""
    return caller(model).required[0]


def can_be_saved(model: Any) -> bool:
    """Whether `save` knows the class of a model, and of all its parts."""
    try:
        if vars(model).get(ORIGIN) is None or vars(model)[ORIGIN].peer == NAME:
            to_config(model)
            rebuilt(model)
    except (InputError, StopIteration):
        return False
    return True


def _header_of(model: Any, ours: Arrays, path: Path) -> tuple[dict[str, Any], Arrays]:
    """`meta` of the file, and what is written beside our arrays."""
    origin: Origin | None = vars(model).get(ORIGIN)
    if origin is not None and origin.peer != NAME and (made := _rebuilt(origin)).model == model:
        beside = tuned(made, ours, origin.kept, origin.shapes, path)
        values = [*ours.values(), *beside.values()]
        header = own_header(origin.peer, origin.cls, origin.config, values, origin.shapes, origin.tied, origin.inputs)
        return header, beside
    with input_errors(f"a {type(model).__name__} cannot be saved as a configuration; save its parameters alone"):
        made = rebuilt(model)
    config = to_config(model)
    shapes = {b.name: b.shape for b in (*made.bindings, *made.state)}
    return own_header(NAME, type(model).__name__, config, ours.values(), shapes, {}, {}), {}


def _rebuilt(origin: Origin) -> Rebuilt:
    return peer(origin.peer).rebuild(origin.cls, Given(origin.config, origin.inputs, origin.shapes))
