"""Where a difference begins as a case of its own: the operation, or the few of them, between what is right and it.

The case is one of perceiver-ref: its inputs and parameters are what the reference gives the operations there, its
output is the implementation's, and `expected/` has the reference's. So `check` fails at that output alone, until it is
right. For a gradient the outputs are the reference's, and the gradient of one array is the implementation's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...autograd import tree
from ...autograd.backend import is_array, rounded_to, to_host
from ...autograd.core import Op, Tape, array_of, leaf, registry
from ...autograd.observing import Event, observe
from ...errors import InputError
from ...models.tracing import trace
from ...peers.reference import NAME, OPERATIONS
from ...peers.reference.steps import MOST, UnwrittenError, encoded
from ...peers.reference.steps import NAME as STEPS
from ...version import __version__
from ..cases import Case
from ..cases.execution import rebuild, run
from ..gradients.graph import Graph
from ..gradients.graph import Ran as Recorded
from ..gradients.target import Target
from ..subject import CANNOT_BE_RUN, Subject

_LISTED = 8
"""So many operations are named, the last of them"""


def _listed(names: Sequence[str]) -> str:
    """How many operations, and which; of many the last, which are nearest to what differs."""
    more = len(names) - _LISTED
    before = f"{more} others and then " if more > 0 else ""
    return f"{len(names)} operation{'s' * (len(names) > 1)}: {before}{', '.join(names[-_LISTED:])}"


@dataclass(frozen=True)
class _Ran:
    """An operation as it ran: plain arrays in and out."""

    op: Op
    arguments: Sequence[Any]
    options: Mapping[str, Any]
    outputs: Sequence[Any]


def forward_excerpt(subject: Subject, name: str) -> Case | None:
    """What leads from the traced points before to the compared array `name` ("trace/..." or "output/..."), as a case.

    Where no operation of ours makes that array, the array itself; None where the reference has none.
    """
    theirs = np.asarray(subject.expected[name])
    try:
        ran, target, right = _span(subject, name)
        writing = _Writing(subject, ran, right)
        made = writing.case(name, {"out": writing.shaped(target, theirs)})
        made.outputs["out"] = theirs
        return _answered(made)
    except (UnwrittenError, *CANNOT_BE_RUN):
        itself = _itself(subject, name, subject.ours[name]) if name in subject.ours else None
        if itself is None:
            return None
        itself.outputs["out"] = theirs
        return _answered(itself)


def backward_excerpt(subject: Subject, target: Target, affected: Sequence[str], step: int | None) -> Case | None:
    """The operations from a parameter or input whose gradient is wrong to the step (its number) that is thought to be
    the first on the way back, as a case with gradients; where there are none, the gradient itself."""
    graph = target.graph
    found = [(len(ran), path, key, ran) for path, key, ran in _regions(target, affected, step)]
    if not found and step is not None:
        return backward_excerpt(subject, target, affected, None)
    if not found:
        return _gradient_itself(subject, target, affected)
    _, path, key, ran = min(found, key=lambda row: row[:3])
    try:
        return _backward(subject, target, path, key, [(i, n) for i in ran if isinstance(n := graph.nodes[i], Recorded)])
    except (UnwrittenError, *CANNOT_BE_RUN):
        return _gradient_itself(subject, target, affected)


def _itself(subject: Subject, place: str, value: np.ndarray) -> Case | None:
    """An array that comes from no operation: as input and output of one that does nothing; None where it cannot be."""
    out = value[()] if value.ndim else value.reshape(())
    try:
        return _Writing(subject, [_Ran(registry["getitem"], [value], {"index": ()}, [out])]).case(place, {"out": out})
    except UnwrittenError:
        return None


def _gradient_itself(subject: Subject, target: Target, affected: Sequence[str]) -> Case | None:
    """The same for a gradient, which is what such an output is then multiplied by."""
    key = next((name for name in affected if name in target.named), None)
    if key is None:
        return None
    group, _, name = key.partition("/")
    made = _itself(subject, key, subject.arrays[name] if group == "grad_param" else to_host(subject.inputs[name]))
    if made is None:
        return None
    made.outputs["out"] = made.inputs["x"]
    made.cotangents["out"] = target.named[key].astype(made.dtype)
    made.grad_inputs["x"] = np.array(target.expected[key])
    made.expected["grad_input/x"] = made.cotangents["out"]
    return made


def _span(subject: Subject, name: str) -> tuple[list[_Ran], Any, list[Any]]:
    """What ran until the compared array `name` was made, in order; that array; those of the compared points before it,
    which are right, as far as they are others."""
    order = list(subject.numbers)
    ours = subject.points.get(name.removeprefix("trace/")) if name.startswith("trace/") else None
    before = order.index(ours) if ours in order else len(order)
    ran: list[_Ran] = []

    def watch(event: Event) -> None:
        if len(traced) <= before:
            ran.append(_Ran(event.op, event.arguments, event.options, event.outputs))

    tape = Tape()  # of tensors, indexing is an operation as well
    params = tree.map(lambda array: leaf(array, tape), subject.params)
    inputs = {n: leaf(array, tape) if array.dtype.kind == "f" else array for n, array in subject.inputs.items()}
    with trace(subject.kept) as traced, observe(watch), np.errstate(all="ignore"):
        outputs = subject.run(params, inputs)
    target = traced[ours] if ours is not None else array_of(outputs[name.removeprefix("output/")])
    return ran, target, [array for array in list(traced.values())[:before] if array is not target]


class _Writing:
    """Operations that ran, as steps with names for all arrays; only those that `case` needs are written."""

    def __init__(self, subject: Subject, ran: Iterable[_Ran], right: Iterable[Any] = ()) -> None:
        """`right`: arrays that are given, though an operation made them."""
        self.subject = subject
        self.ran = list(ran)
        given = {id(array) for array in right}
        self.made = {
            id(array): number for number, row in enumerate(self.ran) for array in row.outputs if id(array) not in given
        }
        self.parameters = {id(array_of(array)): path for path, array in tree.leaves(subject.params)}
        self.names: dict[int, str] = {}
        self.taken: set[str] = set()
        self.inputs: dict[str, np.ndarray] = {}
        self.params: dict[str, np.ndarray] = {}
        self.held: list[Any] = []

    def shaped(self, array: Any, like: np.ndarray) -> Any:
        """`array` in the shape in which the implementation has it: once for all items, or repeated for all."""
        shape, wanted = tuple(array.shape), tuple(like.shape)
        if shape == wanted:
            return array
        if len(shape) == len(wanted) and wanted == (1, *shape[1:]):
            row = _Ran(registry["getitem"], [array], {"index": slice(0, 1)}, [array[:1]])
        else:
            row = _Ran(registry["broadcast_to"], [array], {"shape": wanted}, [np.broadcast_to(array, wanted)])
        self.made[id(row.outputs[0])] = len(self.ran)
        self.ran.append(row)
        return row.outputs[0]

    def case(self, place: str, outputs: Mapping[str, Any], *, all_of: bool = False) -> Case:
        """A case of what `outputs`, arrays by name, are computed from; with `all_of`, of everything that ran."""
        chosen = range(len(self.ran)) if all_of else self._needed(outputs.values())
        if not chosen or len(chosen) > MOST or any(id(array) not in self.made for array in outputs.values()):
            raise UnwrittenError
        rows = [self.ran[i] for i in chosen]
        config, cls = self._one(rows[0], outputs) if len(rows) == 1 and _is_operation(rows[0]) else (None, STEPS)
        call: dict[str, Any] = {}
        if config is None:
            steps = [self._step(row) for row in rows]
            config = {"steps": steps, "outputs": {name: self.names[id(array)] for name, array in outputs.items()}}
        else:
            call, config = config, {}
        given = self.subject.case.meta
        wide = {"bfloat16": "float32"}.get(given["dtype"], given["dtype"])
        meta = {
            "case": f"{self.subject.case.name}/{place}",
            "peer": NAME,
            "peer_version": __version__,
            "class": cls,
            "config": config,
            "call": call,
            "dtype": given["dtype"],
            "tolerance": given.get("tolerance", {}),
            "notes": _listed([row.op.name for row in rows]),
            "excerpt": {"case": self.subject.case.name, "class": given["class"], "peer": given["peer"], "point": place},
        }
        cast = {
            group: {name: _in_format(array, wide) for name, array in arrays.items()}
            for group, arrays in (("params", self.params), ("inputs", self.inputs))
        }
        return Case({"tied": {}, "compare_gradients": True, **meta}, **cast)

    def _needed(self, outputs: Iterable[Any]) -> list[int]:
        wanted = [self.made[id(array)] for array in outputs if id(array) in self.made]
        found: set[int] = set()
        while wanted:
            if (number := wanted.pop()) not in found:
                found.add(number)
                row = self.ran[number]
                given = [*row.arguments, *row.options.values()]
                wanted += [self.made[id(a)] for a in given if self.made.get(id(a), number) < number]
        return sorted(found)

    def _one(self, row: _Ran, outputs: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
        """The options of a single operation, whose arguments become inputs of their own names."""
        call = {}
        for name, value in [*zip(row.op.arrays, row.arguments), *row.options.items()]:
            value = array_of(value)
            if is_array(value):
                self.inputs[name] = to_host(value)
                self.names[id(value)] = name
            elif name in row.op.arrays and value is not None:
                self.inputs[name] = np.asarray(value)
            elif name not in row.op.arrays and value is not None:
                call[name] = encoded(value, self._name)
        return call, row.op.name

    def _step(self, row: _Ran) -> dict[str, Any]:
        arguments = [self._name(a, p) if is_array(array_of(a)) else encoded(a, str) for a, p in _named(row)]
        options = {key: encoded(value, lambda a: self._name(a, "constant")) for key, value in row.options.items()}
        kept = {key: value for key, value in options.items() if value != _default(row.op, key)}
        results = []
        for array in row.outputs:
            results.append(self._new(row.op.name, array))
        made: dict[str, Any] = {"op": row.op.name, "arguments": arguments, "results": results}
        return {**made, "options": kept} if kept else made

    def _name(self, array: Any, hint: str = "x") -> str:
        """What an array is called: a parameter's path, or a new name for an input."""
        array = array_of(array)
        if id(array) in self.names:
            return self.names[id(array)]
        path = self.parameters.get(id(array))
        name = self._new(path or hint, array)
        (self.params if path else self.inputs)[name] = to_host(array)
        return name

    def _new(self, hint: str, array: Any) -> str:
        name, count = hint, 1
        while name in self.taken:
            count += 1
            name = f"{hint}_{count}"
        self.taken.add(name)
        self.names[id(array)] = name
        self.held.append(array)
        return name


def _named(row: _Ran) -> list[tuple[Any, str]]:
    """Each argument with the name of its parameter."""
    names = [*row.op.arrays, *["x"] * len(row.arguments)] if not row.op.traits.variadic else ["x"] * len(row.arguments)
    return list(zip(row.arguments, names))


def _default(op: Op, key: str) -> Any:
    """What an option is unless given, as JSON; what cannot be one where it must be given."""
    try:
        return encoded(op.defaults[key], str)
    except UnwrittenError:
        return UnwrittenError


def _in_format(array: np.ndarray, dtype: Any) -> np.ndarray:
    """An array in the format of a case; `UnwrittenError` where that has no number for one of its numbers."""
    made = rounded_to(dtype, array) if array.dtype.kind == "f" else array
    if not np.array_equal(np.isfinite(made), np.isfinite(array)):
        raise UnwrittenError
    return np.array(made, order="C")


def _is_operation(row: _Ran) -> bool:
    return OPERATIONS.get(row.op.name) is registry[row.op.name] and len(row.outputs) == 1 and not row.op.traits.variadic


def _answered(case: Case) -> Case:
    """With what the reference gives for its outputs, from the arrays as they are in the case; `InputError` where that
    has another shape than the implementation's."""
    rebuilt, arrays = rebuild(case)
    with np.errstate(all="ignore"):
        made = run(rebuilt, arrays, case.inputs, case.meta["call"], dtype=case.dtype)
    for name, theirs in case.outputs.items():
        if made.outputs[name].shape != theirs.shape:
            raise InputError(f"{name} has shape {theirs.shape}, not {made.outputs[name].shape}")
    case.expected |= {f"output/{name}": array for name, array in made.outputs.items()}
    return case


def _regions(target: Target, affected: Sequence[str], last: int | None) -> Iterable[tuple[str, str, list[int]]]:
    """For each leaf whose gradient is wrong: its path, the key of that gradient, and the numbers of the steps, up to
    `last`, that depend on it."""
    graph = target.graph
    for path, names in target.names.items():
        wrong = [name for name in names if name in affected]
        bit = graph.leaves.get(path, 0)
        own = [b for b in target.bindings.get(wrong[0], ()) if b.path == path] if wrong else []
        if not wrong or not bit or len(names) != 1 or (not own and not wrong[0].startswith("grad_input/")):
            continue
        steps = [i for i, _ in graph.steps if graph.upstream[i] & bit]
        inside = [i for i in steps if last is None or i <= last]
        if inside:
            yield path, wrong[0], inside


def _backward(subject: Subject, target: Target, path: str, key: str, steps: list[tuple[int, Recorded]]) -> Case:
    graph = target.graph
    ran = [_Ran(s.op, s.arguments, dict(s.node.options), s.outputs) for _, s in steps]
    writing = _Writing(subject, ran)
    given = next(
        array_of(s.arguments[edge.position])
        for _, s in steps
        for edge in s.edges
        if graph.nodes[edge.node.serial] == path
    )
    is_input = path.startswith("input/")
    writing.parameters = {} if is_input else {id(given): path}  # whatever else is given has no gradient here
    if is_input:
        writing._name(given, path.removeprefix("input/"))
    outputs: dict[str, Any] = {}
    cotangents: dict[str, Any] = {}
    inside = {i for i, _ in steps}
    for i, step in steps:
        for array, cotangent in zip(step.outputs, _leaving(graph, i, inside)):
            if cotangent is not None:
                name = f"out_{len(outputs)}" if outputs else "out"
                outputs[name], cotangents[name] = array, cotangent
    made = writing.case(key, outputs, all_of=True)
    own = writing.names[id(given)]
    theirs = target.expected[key]
    if not is_input:
        theirs = next(b.view(theirs) for b in target.bindings[key] if b.path == path)
    made.cotangents = {name: np.array(to_host(c).astype(made.dtype)) for name, c in cotangents.items()}
    made.outputs = {name: np.zeros(array.shape) for name, array in outputs.items()}
    _answered(made)
    made.outputs = {name: made.expected.pop(f"output/{name}") for name in outputs}
    rebuilt, arrays = rebuild(made)
    found = run(rebuilt, arrays, made.inputs, made.meta["call"], cotangents=made.cotangents, dtype=made.dtype)
    in_params = own in made.params
    group = "grad_param" if in_params else "grad_input"
    (made.grad_params if in_params else made.grad_inputs)[own] = np.array(theirs)
    made.expected[f"{group}/{own}"] = (found.grad_params if in_params else found.grad_inputs)[own]
    return made


def _leaving(graph: Graph, i: int, inside: set[int]) -> list[Any]:
    """For each output of a step the gradient that comes from outside of some steps; None where nothing does."""
    total: list[Any] = [None] * len(graph.shapes[i])

    def add(output: int, gradient: Any) -> None:
        total[output] = gradient if total[output] is None else total[output] + gradient

    for output, cotangent, _ in graph.loss.get(i, ()):
        add(output, cotangent)
    for step, edge in graph.consumers[i]:
        if step not in inside:
            add(edge.output, graph.sent[step, edge.position])
    return total
