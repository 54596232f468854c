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
from perceiver_ref.models.variation import varied
from perceiver_ref.peers import Rebuilt
from perceiver_ref.porting.cases import PACKAGED, TOLERANCES, Case, read_case
from perceiver_ref.porting.cases.compare import difference
from perceiver_ref.porting.cases.execution import rebuild, run

from .rows import Change, Edit, Option

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
        with exchanged(made.model, {} if change is None else change):
            if (others := _shapes(made.model)) != own:
                return Outcome(refused=_weights(own, others))
            ours = run(
                made,
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
def exchanged(model: Module, change: Change) -> Iterator[None]:
    """Within this context the model is another: layers are replaced, or an option has another value in all its parts.

    Options are changed in the frozen parts themselves, and put back: what runs a peer's class holds on to the model.
    Raises `InputError` where a part does not allow the value.
    """
    if not isinstance(change, Edit):
        with varied(change):
            yield
        return
    places = _places(model, change.option)
    try:
        for part, field, old in places:
            if field == change.option.name:
                new = change.made(old, part)
            else:
                new = replace(old, **{change.option.name: change.made(getattr(old, change.option.name), part)})
            replace(part, **{field: new})  # which its own checks may refuse
            object.__setattr__(part, field, new)
        yield
    finally:
        for part, field, old in places:
            object.__setattr__(part, field, old)


def values(model: Module, option: Option) -> set[Any]:
    """The values that an option has in the model's parts."""
    found = _places(model, option)
    return {old if field == option.name else getattr(old, option.name) for _, field, old in found}


def _places(model: Module, option: Option) -> list[tuple[Any, str, Any]]:
    """(part, field, value) of an option, or of the conventions that it belongs to."""
    if option.owner == "Conventions":
        named = [(part, f.name, getattr(part, f.name)) for part in parts(model) for f in fields(part)]
        return [place for place in named if isinstance(place[2], Conventions)]
    owners = [part for part in parts(model) if option.owner in {cls.__name__ for cls in type(part).__mro__}]
    return [(part, option.name, getattr(part, option.name)) for part in owners]


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
