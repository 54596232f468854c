"""What becomes of a case when one choice of its implementation is exchanged for another's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from perceiver_ref.autograd import tree
from perceiver_ref.errors import InputError
from perceiver_ref.models.conventions import Conventions
from perceiver_ref.models.module import Module
from perceiver_ref.peers import Rebuilt
from perceiver_ref.porting.cases import PACKAGED, TOLERANCES, Case, read_case
from perceiver_ref.porting.cases.compare import difference
from perceiver_ref.porting.cases.execution import rebuild, run
from perceiver_ref.porting.deviations import Candidate, deviating
from perceiver_ref.porting.deviations.base import exchanged as deviation

from .rows import Change, Edit, PartOption

_FOLDERS = (PACKAGED, Path(__file__).resolve().parents[3] / "tests/vectors")


@dataclass(frozen=True)
class Outcome:
    """What an exchange does: the largest error of an output, or of a gradient, as `check` prints it; the tolerance.

    `refused`: the model takes other weights, or cannot be made; why, in one line.
    """

    error: float = 0.0
    tolerance: float = 0.0
    refused: str = ""

    @property
    def agrees(self) -> bool:
        """Whether the case still agrees."""
        return not self.refused and self.error <= self.tolerance


def case_path(name: str) -> Path:
    """The file of a case "peer/name": packaged, or in the folder of tests of a clone, without which it is an error."""
    for folder in _FOLDERS:
        if (path := folder / f"{name}.npz").exists():
            return path
    raise InputError(f"there is no case {name}: most are in tests/vectors of a clone of the repository")


@cache
def _case(name: str) -> Case:
    return read_case(case_path(name))


def rebuilt(name: str) -> tuple[Case, Rebuilt]:
    """A case, and its class rebuilt."""
    case = _case(name)
    return case, rebuild(case)[0]


def outcome(name: str, change: Change | None = None, *, gradients: bool = False) -> Outcome:
    """Run a case with an exchange and compare its outputs, or its outputs and `gradients`."""
    case = _case(name)
    made, arrays = rebuild(case)
    own, limit = _shapes(made.model), TOLERANCES[case.meta["dtype"]] | case.meta.get("tolerance", {})
    try:
        with exchanged(made.model, {} if change is None else change) as model:
            if (others := _shapes(model)) != own:
                return Outcome(refused=_weights(own, others))
            ours = run(
                replace(made, model=model),
                arrays,
                case.inputs,
                case.meta["call"],
                cotangents=case.cotangents if gradients else None,
                dtype=case.dtype,
                where=name,
            )
    except InputError as error:
        if change is None:
            raise
        return Outcome(refused=str(error))
    largest = max(difference(ours.outputs[output], array) for output, array in case.outputs.items())
    if not gradients or largest > limit["output"]:
        return Outcome(largest, limit["output"])
    pairs = [(ours.grad_params[key], array) for key, array in case.grad_params.items()]
    pairs += [(ours.grad_inputs[key], array) for key, array in case.grad_inputs.items()]
    return Outcome(max(difference(a, b) for a, b in pairs), limit["gradient"])


def _shapes(model: Module) -> dict[str, tuple[int, ...]]:
    return {path: parameter.shape for path, parameter in tree.leaves(model.parameters())}


def _weights(own: Mapping[str, Any], others: Mapping[str, Any]) -> str:
    """How the weights differ, by the first path that does."""
    for path in sorted(own.keys() ^ others.keys()):
        return f"{'leaves out' if path in own else 'wants'} the weights `{path}`"
    path = next(path for path in own if own[path] != others[path])
    return f"wants `{path}` to be {others[path]}, not {own[path]}"


@contextmanager
def exchanged(model: Module, change: Change) -> Iterator[Module]:
    """The model to run inside: parts of it do otherwise, or an option has another value in all its parts.

    Raises `InputError` where a part does not allow the value.
    """
    if isinstance(change, Edit):
        yield edited(model, change)
        return
    with deviating([Candidate("", "", deviation(change))], model, None) as (made, _):
        yield made


def edited(value: Any, change: Edit) -> Any:
    """A model, or what a field of one holds, with another value of an option wherever it is."""
    if isinstance(value, (tuple, list)):
        return type(value)(edited(item, change) for item in value)
    if isinstance(value, Mapping):
        return {key: edited(item, change) for key, item in value.items()}
    if not is_dataclass(value) or isinstance(value, (type, Conventions)):
        return value
    made = {field.name: edited(getattr(value, field.name), change) for field in fields(value)}
    for name, old in _kept(value, change.option):
        held = isinstance(old, Conventions)
        new = change.made(getattr(old, change.option.name) if held else old, value)
        made[name] = replace(old, **{change.option.name: new}) if held else new
    changed = {name: new for name, new in made.items() if new != getattr(value, name)}
    return replace(value, **changed) if changed else value


def values(model: Module, option: PartOption) -> set[Any]:
    """The values that an option has in the model's parts."""
    kept = [old for part in parts(model) for _, old in _kept(part, option)]
    return {getattr(old, option.name) if isinstance(old, Conventions) else old for old in kept}


def _kept(part: Any, option: PartOption) -> list[tuple[str, Any]]:
    """(field, value) of an option of a part, or of the conventions that it belongs to."""
    if option.owner == "Conventions":
        held = [(field.name, getattr(part, field.name)) for field in fields(part)]
        return [(name, value) for name, value in held if isinstance(value, Conventions)]
    owns = option.owner in {cls.__name__ for cls in type(part).__mro__}
    return [(option.name, getattr(part, option.name))] if owns else []


def parts(value: Any) -> list[Any]:
    """All parts of a model: dataclasses inside dataclasses, tuples, lists and dicts, the model itself first."""
    found: dict[int, Any] = {}

    def visit(value: Any) -> None:
        if isinstance(value, (tuple, list)):
            for item in value:
                visit(item)
        elif isinstance(value, Mapping):
            visit(list(value.values()))
        elif is_dataclass(value) and not isinstance(value, (type, Conventions)) and id(value) not in found:
            found[id(value)] = value
            for field in fields(value):
                visit(getattr(value, field.name))

    visit(value)
    return list(found.values())
