"""A port under its own names bound to the reference: arguments, parameters, outputs and recorded values, verified."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from ...autograd import Tensor, ops, value_and_grad
from ...errors import InputError, input_errors, listed
from ...host.files import AnyPath
from ...models.tracing import trace
from ..cases import TOLERANCES, Case, read_case
from ..cases.execution import run
from ..check import Result, check_case
from .clock import clock
from .doubts import Doubt, Doubts
from .maps import Map, Point
from .propose import Proposal, propose
from .quick import Quick, Whole
from .records import Records
from .solve import Solver, absent_value
from .sources import Part, Pool
from .stacks import Apart, apart
from .tape import Tape, record
from .target import RUNS, Arguments, Target, To, read_to, targets
from .translate import own_names, rebuild, translate
from .views import View

SECONDS = 60.0
_QUICK, _ALONE = 0.7, 0.95
"""The share of the time that whole guesses have before the search op by op, which lives on recorded values."""
_PLAIN, _FIRST, _LEAST = 0.9, 0.6, 0.05
"""Shares of the time: of inputs under the arguments' names, of the likeliest way, and the least that is worth a try."""
_APART, _BETTER = 2, 0.7
"""Ways to take stacked layers apart that are tried beside the arrays as they are, and the share of the time of one."""
_WAYS = 3
"""Ways of giving the inputs that are gone through where the first does not verify."""


@dataclass(frozen=True)
class Row:
    """A parameter of ours in the table, what it is read from, and why.

    `status` is "certain", "ambiguous", "by order" or "unknown"; the last two are of what is not verified.
    """

    path: str
    source: str
    status: str
    why: str


@dataclass
class Binding:
    """What `bind` found. `map` is to be trusted when `verified`."""

    map: Map
    rows: list[Row]
    verified: bool
    left_over: list[str]
    """The port's arrays, or how much of them, that nothing of ours is read from."""
    unmatched: list[str]
    """The port's recorded values that are none of the reference's named ones."""
    message: str = ""
    """Where it first fails."""
    notes: list[str] = field(default_factory=list)
    result: Result | None = None
    proposal: Proposal | None = None
    """The configurations that were tried, where none was given."""

    @property
    def ambiguous(self) -> list[str]:
        """Our paths for which other arrays would do as well."""
        return [row.path for row in self.rows if row.status == "ambiguous"]


def bind_file(path: AnyPath, to: str | None, **options: Any) -> Binding:
    """`bind` on a case file; `to` is a preset's name, or a JSON or case file."""
    return bind(read_case(path), to, **options)


def bind(
    case: Case,
    to: To | str | None = None,
    *,
    seconds: float = SECONDS,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Binding:
    """Find which of the port's arrays is which of the parameters of `to`, and verify it by running the reference.

    A binding is `verified` when the reference with the port's parameters gives the port's outputs, recorded values and
    gradients within the case's tolerances. `seconds` of computing by this thread bound the search: what is found does
    not hang on what else the machine does. Raises `InputError` where the inputs cannot be those of `to`, or the port
    has no array that a parameter could be.
    Without `to` configurations are proposed from the port's shapes and tried; `map.to` then is the one that verified.
    """
    with input_errors(f"{case.name} cannot be bound"):
        if to is None:
            return proposed(case, seconds=seconds)
        return _best(case, read_to(to) if isinstance(to, str) else to, seconds, progress)


def _best(case: Case, to: To, seconds: float, progress: Callable[[int, int], None]) -> Binding:
    """Of the ways of giving the inputs the first that verifies, or the one with the most evidence."""
    best: Binding | None = None
    deadline = clock() + seconds
    ways = _ways(case, to)
    way = next(ways, None)
    for _ in range(_WAYS):
        left = deadline - clock()
        if way is None or (best is not None and left < _LEAST * seconds):
            break
        after = next(ways, None)
        plain = all(part.name == name and part.view == View() for name, part in way.arguments.parts.items())
        share = 1.0 if after is None else _PLAIN if plain else _FIRST
        made = _bound(case, way, left * share, progress)
        if made.verified:
            return made
        if best is None or _evidence(made) > _evidence(best):
            best = made
        way = after
    if best is None:
        raise InputError(f"{case.name} has no input that {to.said} takes")
    return best


@dataclass
class _Way:
    """A way of giving the port's inputs to the target, run once."""

    target: Target
    arguments: Arguments
    inputs: dict[str, np.ndarray]
    pool: Pool
    tape: Tape
    """The ops of the target, of which no parameter is known."""

    def sample(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Parameters drawn, and the gradients of some sum of the outputs."""
        rng = np.random.default_rng(2)

        def loss(params: dict[str, Any]) -> Any:
            return _some(self.target.run(params, self.inputs, self.arguments.call).values(), rng)

        params = self.target.drawn()
        return params, value_and_grad(loss)(params)[1]


def _ways(case: Case, to: To) -> Iterator[_Way]:
    """Ways of giving the inputs in which every parameter has an array; `InputError` where there is none."""
    failed: InputError | None = None
    found, pools = False, dict[tuple[int, ...], Pool]()
    for target, arguments in targets(to, case):
        inputs = {n: a.astype(np.float64) if a.dtype.kind == "f" else a for n, a in arguments.read(case.inputs).items()}
        heads = tuple(h for h in target.heads() if h > 1)
        tied = case.meta["tied"]
        arrays = {name: a for name, a in (case.params | case.state).items() if name not in tied}
        pool = pools.setdefault(heads, Pool(arrays, heads))
        try:  # points of no run so far: of inputs with an axis too many, say, there are none
            tape = record(target.drawn(), partial(target.run, inputs=inputs, call=arguments.call))
        except RUNS as error:
            failed = failed or InputError(f"the port's inputs cannot be given to {to.said}: {error}")
            continue
        absent = [path for path, shape in target.shapes.items() if not pool.sources(shape, absent_value(path))]
        if absent:
            shapes = ", ".join(f"{path} {list(target.shapes[path])}" for path in absent[:3])
            failed = failed or InputError(
                f"the port has no array that {shapes} could be read from ({len(absent)} of {len(target.shapes)} "
                f"parameters of {to.said}): another configuration?"
            )
            continue
        found = True
        yield _Way(target, arguments, inputs, pool, tape)
    if not found and failed is not None:
        raise failed


def proposed(case: Case, *, seconds: float = SECONDS) -> Binding:
    """The binding to the configuration that verified, or to the nearest, with the `proposal` that it is of."""
    made = propose(case, bind, seconds=seconds)
    found: Binding = made.binding
    found.proposal = made
    return found


def _evidence(made: Binding) -> int:
    return sum(row.why.startswith("value") for row in made.rows)


def _bound(case: Case, way: _Way, seconds: float, progress: Callable[[int, int], None]) -> Binding:
    deadline = clock() + seconds
    target, arguments, pool = way.target, way.arguments, way.pool
    tolerance = _tolerance(case)
    recorded = {f"output/{n}": a for n, a in case.outputs.items()} | {f"trace/{n}": a for n, a in case.trace.items()}
    records = Records(recorded, tolerance, pool.heads)
    until = clock() + (_QUICK if case.trace else _ALONE) * seconds
    whole: tuple[Whole, Apart] | None = None
    ways = apart(pool.arrays, target.shapes)
    ways = [*ways[:_APART], *(each for each in ways[_APART:] if not each.origin)]
    for left, each in zip(range(len(ways), 0, -1), ways):
        own = Pool(each.arrays, pool.heads) if each.origin else pool
        graded = each.gradients(case.grad_params)
        share = (until - clock()) * (1 if left == 1 else _BETTER)
        quick = Quick(way.tape.again(), target.shapes, own, records, graded, share, progress, way.sample)
        found = quick.find()
        if found is None:
            if quick.nearest is not None and quick.nearest.better(whole and whole[0]):
                whole = (quick.nearest, each)
            continue
        solver = Solver(way.tape.again(), target.shapes, pool, records, deadline, progress)
        for path, (source, seen) in found.items():
            solver.bind({path: each.source(source, pool.arrays)}, seen)
        if (made := _finished(case, target, arguments, solver, records, solver.tape)).verified:
            return made
        values = records.given(_results(solver.tape))
        kept = Whole({path: source for path, (source, _) in found.items()}, len(values), 0, 0.0)
        if kept.better(whole and whole[0]):
            whole = (kept, each)
    solver = Solver(way.tape.again(), target.shapes, pool, records, deadline, progress)
    solver.run()
    if whole is not None and whole[0].values >= len(records.given(_results(solver.tape))):
        late = clock() >= deadline
        solver = Solver(way.tape.again(), target.shapes, pool, records, deadline, progress)
        solver.bind({p: whole[1].source(s, pool.arrays) for p, s in whole[0].sources.items()}, "")
        solver.bound.seen.update(_shown(solver.tape, records))
        made = _finished(case, target, arguments, solver, records, solver.tape, by_order=True)
    else:
        made = _finished(case, target, arguments, solver, records, solver.tape)
        late = clock() >= deadline
    if not made.verified:
        if whole is None and (missing := _missing(target.shapes, pool)):
            made.message = f"{missing}; {made.message}"
        made.message += _missed(case, late)
    return made


def _results(tape: Tape) -> Iterator[Any]:
    """The result of each op, of a tape of which all parameters are known."""
    return (tape.value(place, {}) for place in range(len(tape.entries)))


def _shown(tape: Tape, records: Records) -> dict[str, str]:
    """The parameters on which some result hangs that the port recorded, too, and the first such value."""
    made: dict[str, str] = {}
    for entry, value in zip(tape.entries, _results(tape)):
        if names := records.given([value]):
            for path in entry.needs:
                made.setdefault(path, min(names, key=list(records.arrays).index))
    return made


def _missing(shapes: Mapping[str, tuple[int, ...]], pool: Pool) -> str:
    """A parameter that the port keeps nowhere in this size, and the array of its that comes nearest; "" for none.

    Of maps of an attention, which are fused in many ways, and of what may be left out nothing is said.
    """
    gated = ("gate", "hidden") if any("/gate/" in path for path in shapes) else ()
    kinds = Counter(re.sub(r"\d+", "#", path) for path in shapes)
    sizes = {math.prod(array.shape) for array in pool.arrays.values()}
    wanted = {math.prod(shape) * n for shape in shapes.values() for n in (1, 2, 3)}
    for path, shape in shapes.items():
        size, count = math.prod(shape), kinds[re.sub(r"\d+", "#", path)]  # layers may be kept as one array
        own = path.rpartition("/")[0].rpartition("/")[2]
        fused = own in gated or (own in ("query", "key", "value", "output") and "attention" in path)
        if fused or absent_value(path) is not None or {size, size * count} & sizes:
            continue
        near = [
            (math.prod(array.shape) in wanted, -len(set(array.shape) & set(shape)), name, list(array.shape))
            for name, array in pool.arrays.items()
            if array.ndim == len(shape) and set(array.shape) & set(shape)
        ]
        said = f"no array of the port has the shape {list(shape)} of {path}"
        return said + (f"; {min(near)[2]} is {min(near)[3]}" if near else "")
    return ""


def _missed(case: Case, late: bool) -> str:
    """What a search that found nothing lacked: time, or what a port may record."""
    lacks = []
    if not case.grad_params:
        lacks.append("without gradients, arrays in an order of their own are found by recorded values alone")
    if not case.trace:
        lacks.append("no values inside were recorded")
    if late:
        lacks.append("the time was over (--seconds gives more)")
    return "".join(f"; {each}" for each in lacks)


def _tolerance(case: Case) -> float:
    limits: dict[str, float] = {**TOLERANCES[case.meta["dtype"]], **case.meta["tolerance"]}
    own = [TOLERANCES[a.dtype.name]["output"] for a in case.outputs.values() if a.dtype.name in TOLERANCES]
    return max([limits["output"], *own])


def _finished(
    case: Case,
    target: Target,
    arguments: Arguments,
    solver: Solver,
    records: Records,
    tape: Tape,
    *,
    by_order: bool = False,
) -> Binding:
    """What the solver has bound, run and compared; `by_order` is a whole guess that gave not all that was recorded."""
    to = replace(target.to, call=arguments.call)
    outputs, points = _outputs(case, records, tape), _points(case, records, tape)
    plain = Map(to, dict(solver.bound.sources), _loose_inputs(arguments, case), outputs, points, False)
    made, doubts = plain, dict[str, Doubt]()
    result, message = _verified(case, plain, records, solver, by_order)
    if not by_order and outputs and (not message or all(solver.bound.seen.values())):
        gradients = _gradients(case, plain)
        felt = _felt(target, arguments, solver, case, points)
        doubts = Doubts(solver, records, case.grad_params, gradients, felt).settle()
        made = replace(plain, parameters=dict(solver.bound.sources), ambiguous=tuple(doubts))
        result, message = _verified(case, made, records, solver, by_order)
    if not message and (lost := _lost(case, outputs, tape)):
        message = f"the port's output {lost} is none of the reference's, which has one of that size"
    verified = not message
    rows = [_row(path, solver, doubts.get(path), verified) for path in target.shapes]
    if by_order and not verified:
        rows = [replace(row, status="by order") for row in rows]
    traced = {p.part.name for p in points.values()}
    unmatched = [name for name in case.trace if name not in traced]
    return Binding(replace(made, verified=verified), rows, verified, _left_over(solver), unmatched, message, [], result)


def _row(path: str, solver: Solver, doubt: Doubt | None, verified: bool) -> Row:
    source, seen = solver.bound.sources.get(path), solver.bound.seen.get(path, "")
    if source is None:
        return Row(path, "", "unknown", "nothing fits")
    if doubt is not None:
        if not doubt.others:
            return Row(path, source.said(), "ambiguous", "no time was left to look for others")
        others = listed([s.said() for s in doubt.others], 3)
        same = "equal values" if doubt.equal else "changes nothing that was recorded"
        return Row(path, source.said(), "ambiguous", f"{same}; as well: {others}")
    why = f"value {seen}" if seen.startswith(("trace/", "output/")) else seen or "by shape, names and order"
    return Row(path, source.said(), "certain" if verified else "unknown", why)


def _left_over(solver: Solver) -> list[str]:
    """Arrays of which something is read by nothing of ours, and is not zero."""
    read = {name: np.zeros(array.shape, np.int8) for name, array in solver.pool.arrays.items()}
    for source in solver.bound.sources.values():
        for part in source.parts:
            part.view.add(read[part.name], np.ones(part.shape or (), np.int8))
    made = []
    for name, seen in read.items():
        if (left := int((seen == 0).sum())) and seen.size:
            zero = "" if np.any(solver.pool.arrays[name][seen == 0]) else ", all zero"
            made.append(f"{name}{zero}" if left == seen.size else f"{name} ({left:,} of {seen.size:,} elements{zero})")
    return made


def _outputs(case: Case, records: Records, tape: Tape) -> dict[str, Part]:
    """For each output of the target the port's output that it is."""
    made: dict[str, Part] = {}
    for name, ref in tape.outputs.items():
        value = np.asarray(tape.at(ref, {}))
        if value.dtype.kind != "f":
            continue
        for found in records.all(value):
            kind, _, theirs = found.name.partition("/")
            if kind == "output":
                made[name] = _loose(theirs, found.view, case.outputs[theirs].shape, value.shape)
                break
        else:
            if name in case.outputs and case.outputs[name].shape == value.shape:
                made[name] = Part(name, View(), None)
    if not made and len(case.outputs) == 1:  # what verification will then find wrong
        theirs, array = next(iter(case.outputs.items()))
        for name, ref in tape.outputs.items():
            if np.shape(tape.at(ref, {})) == array.shape:
                made[name] = Part(theirs, View(), None)
    return made


def _lost(case: Case, outputs: Mapping[str, Part], tape: Tape) -> str:
    """An output of the port that the reference has one as large as, neither being matched; "" where there is none.

    A map that gives some outputs alone is no match: what the others are made of was not seen.
    """
    used = {part.name for part in outputs.values()}
    sizes = {np.size(tape.at(ref, {})) for name, ref in tape.outputs.items() if name not in outputs}
    lost = (n for n, a in case.outputs.items() if a.dtype.kind == "f" and n not in used and a.size in sizes)
    return next(lost, "")


def _points(case: Case, records: Records, tape: Tape) -> dict[str, Point]:
    """The port's recorded values that are named values of ours, in the order of both where several fit."""
    fits: dict[str, list[tuple[str, View, tuple[int, ...]]]] = {}
    for ours, ref in tape.points.items():
        value = np.asarray(tape.at(ref, {}))
        if value.dtype.kind != "f" or not value.size:
            continue
        for found in records.all(value):
            if found.name.startswith("trace/"):
                fits.setdefault(found.name.removeprefix("trace/"), []).append((ours, found.view, value.shape))
    made: dict[str, Point] = {}
    order = {name: i for i, name in enumerate(tape.points)}
    used: set[str] = set()
    last = -1
    for theirs in case.trace:
        rows = fits.get(theirs, [])
        whole = [row for row in rows if row[1].plain]
        for ours, view, shape in [_next(whole, order, used, last)] if whole else rows:
            name = theirs if whole else f"{theirs}:{ours}"
            made[name] = Point(ours, _loose(theirs, view, case.trace[theirs].shape, shape))
            used.add(ours)
            last = max(last, order[ours]) if whole else last
    return made


def _next(rows: list[Any], order: Mapping[str, int], used: set[str], last: int) -> Any:
    """Of several points of one value the first after the one before that no other has."""
    return min(rows, key=lambda row: (row[0] in used, order[row[0]] < last, order[row[0]]))


def _loose(name: str, view: View, given: tuple[int, ...], wanted: tuple[int, ...]) -> Part:
    """A part for any batch: shapes without their first axis, and none where axes only change places."""
    if view.plain and view.shape is None and view.split is None and len(given) == len(wanted):
        return Part(name, view, None)

    def open_(shape: tuple[int, ...] | None) -> tuple[int, ...] | None:
        return (-1, *shape[1:]) if shape and shape[0] == given[0] else shape

    return Part(name, replace(view, shape=open_(view.shape), split=open_(view.split)), open_(wanted))


def _loose_inputs(arguments: Arguments, case: Case) -> dict[str, Part]:
    return {
        arg: _loose(part.name, part.view, case.inputs[part.name].shape, part.shape or ())
        for arg, part in arguments.parts.items()
    }


def _gradients(case: Case, made: Map) -> dict[str, np.ndarray]:
    """The reference's gradients by our paths, where the port has any of the same loss."""
    new = translate(case, made)
    if not new.cotangents or not case.meta.get("compare_gradients", True):
        return {}
    rebuilt = rebuild(made, new.inputs, new.outputs)
    own, arrays = own_names(made, rebuilt, case.params | case.state, case.name)
    try:
        result = run(own, arrays, new.inputs, new.meta["call"], cotangents=new.cotangents, where=case.name)
    except InputError:
        return {}
    return result.grad_params


def _felt(
    target: Target, arguments: Arguments, solver: Solver, case: Case, points: Mapping[str, Point]
) -> dict[str, np.ndarray]:
    """The gradients of some sum of everything that was recorded and matched, outputs and points."""
    inputs = {n: a.astype(np.float64) if a.dtype.kind == "f" else a for n, a in arguments.read(case.inputs).items()}
    wanted = {point.ours for point in points.values()}
    rng = np.random.default_rng(1)

    def loss(params: dict[str, Any]) -> Any:
        with trace(wanted, tensors=True) as traced:
            outputs = target.run(params, inputs, arguments.call)
        return _some((*outputs.values(), *traced.values()), rng)

    params = {path: np.array(solver.bound.sources[path].value) for path in target.shapes}
    gradients: dict[str, np.ndarray] = value_and_grad(loss)(params)[1]
    return gradients


def _some(values: Iterable[Any], rng: np.random.Generator) -> Any:
    """A sum of all elements of values, each with a factor of its own."""
    total: Any = np.zeros(())
    for value in values:
        if type(value) is Tensor and value.dtype.kind == "f":
            total = ops.add(ops.sum(ops.multiply(value, rng.standard_normal(value.shape))), total)
    return total


def _verified(case: Case, made: Map, records: Records, solver: Solver, by_order: bool) -> tuple[Result | None, str]:
    """The check of the translated case, and where it first fails, "" where it does not."""
    if not made.outputs:
        return None, _first_failure(case, records, solver, None, by_order)
    result = check_case(translate(case, made), case.name)
    if result.status == "pass":
        return result, ""
    return result, _first_failure(case, records, solver, result, by_order)


def _first_failure(case: Case, records: Records, solver: Solver, result: Result | None, by_order: bool) -> str:
    """In one line: what is bound, and the first of the port's values that the reference does not give."""
    seen = solver.bound.seen
    guessed = [path for path in solver.paths if not seen.get(path, "")]
    values = records.given(_results(solver.tape))
    lost = [name for name in records.arrays if name not in values]
    lost.sort(key=lambda name: name.startswith("output/"))
    if by_order:
        parts = [
            f"all {len(seen)} parameters are guessed by shapes, names and order; recorded "
            f"values show {len(seen) - len(guessed)} of them"
        ]
    else:
        parts = [f"{len(seen) - len(guessed)} of {len(solver.paths)} parameters are bound by values"]
    if guessed and not by_order:
        parts.append(f"from {guessed[0]} on nothing fits")
    if lost:
        parts.append(f"the first of the port's values that the reference does not give is {lost[0]}")
    failed = [a for a in result.agreements if not a.passed] if result is not None else []
    if failed:
        failed.sort(key=lambda a: a.kind != "output")
        a = failed[0]
        parts.append(f"{a.kind} {a.name} is off by {a.error:.1e}, tolerance {a.tolerance:.0e}")
    return "; ".join(parts)


__all__ = ["SECONDS", "Binding", "Row", "bind", "bind_file"]
