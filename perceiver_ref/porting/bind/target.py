"""What a port is bound to: a class of the reference, rebuilt, and how the port's arguments become its."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...autograd import tree
from ...errors import InputError, one_of
from ...host.files import read_json
from ...models.call import Call
from ...models.published import PRESETS, VARIANTS
from ...peers import Given, Rebuilt, peer
from ...peers.base import Asked, asked
from ...peers.reference import NAME
from ..cases import Case, read_case
from .hints import words
from .sources import Part
from .views import View

_STATE = "state/"
_TRIED = 400
RUNS = (ValueError, TypeError, IndexError, KeyError, AttributeError, ZeroDivisionError)
"""What running a target on inputs that are not its own may raise."""


@dataclass(frozen=True)
class To:
    """A peer's class and configuration, and the shapes of its arrays where they are known."""

    peer: str
    cls: str
    config: Mapping[str, Any]
    params: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()
    call: Mapping[str, Any] = field(default_factory=dict)

    @property
    def said(self) -> str:
        """How messages name it."""
        return f"{self.peer}'s {self.cls}" if self.peer != NAME else self.cls


def read_to(text: str) -> To:
    """A preset's name, a JSON file (one of our own with "type"; peer, class, config; a map), or a case file.

    Raises `InputError` for anything else.
    """
    if text in PRESETS or text in VARIANTS:
        return To(NAME, text, {})
    path = Path(text)
    if path.suffix == ".npz":
        return of_case(read_case(path))
    if not path.exists() and path.suffix != ".json":
        raise one_of("preset", text, {**PRESETS, **VARIANTS})
    return to_of(read_json(path, "what to bind to, in JSON"), path)


def of_case(case: Case) -> To:
    """The class of a case of a known peer."""
    aliases = case.meta["tied"]
    shapes = {n: a.shape for n, a in (case.params | case.state).items() if n not in aliases}
    return To(case.meta["peer"], case.meta["class"], case.meta["config"], shapes, tuple(case.inputs), case.meta["call"])


def to_of(value: Any, where: object) -> To:
    """From JSON; `InputError` for what is no target."""
    if isinstance(value, Mapping) and isinstance(value.get("type"), str):
        return To(NAME, value["type"], {key: part for key, part in value.items() if key != "type"})
    if not isinstance(value, Mapping) or not {"peer", "class", "config"} <= set(value):
        raise InputError(
            f'{where}: expected {{"type": ...}} of a model of ours, or {{"peer": ..., "class": ..., "config": {{...}}}}'
        )
    name, cls, config, call = value["peer"], value["class"], value["config"], value.get("call", {})
    shapes = value.get("shapes", {})
    fits = isinstance(name, str) and isinstance(cls, str) and isinstance(config, Mapping) and isinstance(call, Mapping)
    if not fits or not isinstance(shapes, Mapping) or not all(map(_is_shape, shapes.values())):
        raise InputError(f"{where}: peer and class must be text, config, call and shapes objects")
    return To(name, cls, dict(config), {str(n): tuple(s) for n, s in shapes.items()}, (), dict(call))


def _is_shape(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 1 << 31 for n in value
    )


@dataclass(frozen=True)
class Arguments:
    """How the port's inputs are given to the target: a part of them for each argument, and the other options."""

    parts: Mapping[str, Part]
    call: Mapping[str, Any]

    def read(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The target's inputs."""
        return {name: part.read(inputs) for name, part in self.parts.items()}


class Target:
    """The class rebuilt, and run on parameters and running statistics by our paths."""

    def __init__(self, to: To, inputs: Mapping[str, np.ndarray], call: Mapping[str, Any]) -> None:
        self.to = to
        shapes = {name: array.shape for name, array in inputs.items()}
        self.rebuilt: Rebuilt = peer(to.peer).rebuild(to.cls, Given(to.config, shapes, to.params, call))
        self.spec, self.state_spec = self.rebuilt.model.parameters(), self.rebuilt.model.state()
        self.shapes = {path: p.shape for path, p in tree.flatten(self.spec).items()}
        if self.rebuilt.state:
            self.shapes |= {f"{_STATE}{path}": p.shape for path, p in tree.flatten(self.state_spec).items()}

    def heads(self) -> list[int]:
        """The numbers of heads in the model."""
        found: set[int] = set()
        _collect(self.rebuilt.model, found, 0)
        return sorted(found)

    def drawn(self) -> dict[str, np.ndarray]:
        """Random parameters, for a run of which only the ops matter."""
        rng = np.random.default_rng(0)
        return {
            path: np.abs(0.1 * rng.standard_normal(shape)) + 0.5
            if path.startswith(_STATE)
            else 0.1 * rng.standard_normal(shape)
            for path, shape in self.shapes.items()
        }

    def run(self, params: Mapping[str, Any], inputs: Mapping[str, Any], call: Mapping[str, Any]) -> dict[str, Any]:
        """Outputs by the target's names."""
        own = tree.unflatten_like(self.spec, [params[path] for path, _ in tree.leaves(self.spec)])
        state = None
        if self.rebuilt.state:
            leaves = [params[f"{_STATE}{path}"] for path, _ in tree.leaves(self.state_spec)]
            state = tree.unflatten_like(self.state_spec, leaves)
        with np.errstate(all="ignore"):
            made = self.rebuilt.run(
                self.rebuilt.model, own, dict(inputs), call, Call(training=bool(call.get("is_training")), state=state)
            )
        return {name: value for name, value in made.items() if value is not None}


def _collect(value: Any, found: set[int], depth: int) -> None:
    """Every field of a model that is a number of heads."""
    if depth > 12:
        return
    if hasattr(value, "__dataclass_fields__"):
        for name in value.__dataclass_fields__:
            part = getattr(value, name)
            if name.endswith("heads") and isinstance(part, int) and not isinstance(part, bool):
                found.add(part)
            else:
                _collect(part, found, depth + 1)
    elif isinstance(value, Mapping):
        for part in value.values():
            _collect(part, found, depth + 1)
    elif isinstance(value, (list, tuple)):
        for part in value:
            _collect(part, found, depth + 1)


def targets(to: To, case: Case) -> Iterator[tuple[Target, Arguments]]:
    """The target with each way in which the port's inputs may be its arguments, the likeliest first.

    Raises `InputError` with the reason of the first where none can be run.
    """
    failed: Exception | None = None
    refused: set[str] = set()
    tried, ran, found = 0, False, False
    for names in _assignments(to, case):
        call = dict(to.call) or _call(case, names)
        for views in itertools.product(*(_views(names[arg], arg, case, to) for arg in names)):
            parts = {arg: Part(names[arg], v, s) for arg, (v, s) in zip(names, views)}
            tried += 1
            if tried > _TRIED:
                break
            arguments = Arguments(parts, call)
            inputs = _wide(arguments.read(case.inputs))
            try:
                target = Target(to, inputs, call)
            except RUNS as error:
                failed = failed or error
                refused.add(str(error))
                continue
            ran = True
            try:
                target.run(target.drawn(), inputs, call)
            except RUNS as error:
                failed = failed or error
                continue
            found = True
            yield target, arguments
    # a configuration of ours stands by itself; another's may take widths from inputs, which differ from way to way
    if failed is not None and not ran and len(refused) == 1 and (to.peer == NAME or tried > 1):
        raise InputError(f"the configuration of {to.said} cannot be used: {failed}")
    if failed is not None and not found:
        raise InputError(f"the port's inputs cannot be given to {to.said}: {failed}")


def _wide(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {n: a.astype(np.float64) if a.dtype.kind == "f" else a for n, a in arrays.items()}


def _call(case: Case, names: Mapping[str, str]) -> dict[str, Any]:
    known = case.meta["peer"] != "unknown"
    return dict(case.meta["call"]) if known else {}


def _assignments(to: To, case: Case) -> Iterator[dict[str, str]]:
    """(target's argument -> the port's input), the likeliest first."""
    theirs = list(case.inputs)
    takes = _takes(to, case)
    if takes is None or all(name.partition(".")[0] in takes.known for name in theirs):
        yield {name: name for name in theirs}
        if takes is None:
            return
    if to.inputs and len(to.inputs) == len(theirs):
        yield dict(zip(to.inputs, theirs))
    slots = [*takes.required, *sorted(takes.known - set(takes.required))]
    if to.inputs:
        slots = [*to.inputs, *(s for s in slots if s not in to.inputs)]
    rows = []
    for count in range(len(theirs), 0, -1):
        for order in itertools.permutations(theirs, count):
            for chosen in itertools.combinations(slots, count):
                names = dict(zip(chosen, order))
                if set(takes.required) <= {name.partition(".")[0] for name in names}:
                    cost = sum(_apart(arg, name, case.inputs[name], slots) for arg, name in names.items())
                    rows.append((cost + 3 * (len(theirs) - count), names))
        if len(rows) > 5000:
            break
    for _, names in sorted(rows, key=lambda row: row[0]):
        yield names


def _apart(arg: str, name: str, array: np.ndarray, slots: list[str]) -> float:
    """How unlikely an input is to be an argument: by kind, then name, then order."""
    mask = "mask" in arg or arg == "locations"
    truth = array.dtype.kind == "b" or (
        array.dtype.kind in "iu" and array.size > 0 and int(array.max()) <= 1 and int(array.min()) >= 0
    )
    cost = 4.0 * (mask != ("mask" in name.lower() or array.dtype.kind == "b")) * (not (mask and truth))
    cost += 4.0 * (mask and not truth)
    cost += 2.0 * (array.dtype.kind in "iub" and arg in ("bias", "latents", "queries", "pos"))
    cost -= 1.0 * bool(set(words(arg)) & set(words(name)))
    return cost + 0.1 * slots.index(arg)


def _takes(to: To, case: Case) -> Asked | None:
    """What the target's call takes; None where it does not say."""
    shapes = {name: array.shape for name, array in case.inputs.items()}
    with asked() as calls:
        try:
            rebuilt = peer(to.peer).rebuild(to.cls, Given(to.config, shapes, to.params, to.call))
            spec = rebuilt.model.parameters()
            params = tree.unflatten_like(spec, [np.zeros(p.shape) for _, p in tree.leaves(spec)])
            rebuilt.run(rebuilt.model, params, {}, {}, Call())
        except RUNS:
            pass
    return calls[0] if calls else None


def _views(name: str, arg: str, case: Case, to: To) -> list[tuple[View, tuple[int, ...]]]:
    """Layouts in which an input may be wanted: as it is, channels moved, a grid flattened, axes of length 1."""
    array = case.inputs[name]
    shape = array.shape
    made: list[tuple[View, tuple[int, ...]]] = [(View(), shape)]
    if "mask" in arg and to.peer == NAME and array.dtype.kind in "iu":
        return made
    if array.dtype.kind == "b" or "mask" in arg:
        return [*made, (View(invert=True), shape)]
    n = len(shape)
    if array.dtype.kind == "f" and n >= 3:
        last, first = (0, *range(2, n), 1), (0, n - 1, *range(1, n - 1))
        for order in dict.fromkeys((last, first)):
            moved = tuple(shape[axis] for axis in order)
            made.append((View(order=order), moved))
            if n > 3:
                size = int(np.prod(moved[1:-1]))
                made.append((View(order=order), (shape[0], size, moved[-1])))
        if n > 3:
            made.append((View(), (shape[0], int(np.prod(shape[1:-1])), shape[-1])))
        made.append((View(), (shape[0], 1, *shape[1:])))
        made.append((View(), (shape[0], 1, 1, *shape[1:])))
    return made


Progress = Callable[[int, int], None]
