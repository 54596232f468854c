"""What a deviation is: a small change of the parameters, of a part or of an op of the reference."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, NamedTuple, TypeVar

from ...autograd import tree
from ...autograd.backend import is_array, xp
from ...autograd.core import Op, array_of
from ...autograd.handlers import Step, handle
from ...autograd.observing import observe
from ...autograd.tree import Tree
from ...errors import InputError
from ...models.module import Module
from ...models.tracing import trace, where
from ...peers.names import View
from ..exchange import Replacement, exchanged_steps

M = TypeVar("M", bound=Module)
OpReplacement = Callable[[Op, tuple[Any, ...], dict[str, Any]], Any]
Method = Callable[..., Any]
Exchange = Mapping[str | Method, Replacement]
"""A method of a class of parts, or the name of a function -> what is called in its place: with the original and its
arguments, of which a method's first is the part."""
Match = Callable[[str], bool]
"""Whether a place, the dotted scopes that an op runs in or the path of a parameter, is meant."""


class Paths:
    """A function from a parameter to its path; "" for any other value."""

    def __init__(self, params: Tree) -> None:
        self.known = {id(array_of(array)): name for name, array in tree.leaves(params)}

    def __call__(self, value: Any) -> str:
        return self.known.get(id(array_of(value)), "")

    def also(self, array: Any, path: str) -> None:
        """An array that stands for a parameter, and lives as long as this."""
        self.known[id(array)] = path


@dataclass(frozen=True)
class Change:
    """What a deviation does to one run: each part is left out where it has nothing to do.

    `params` gives the changed parameter tree; `parts` exchange methods of the model's parts, such as `Attention.apply`,
    and functions by name (`exchange.exchanged_steps`); `ops` makes, from a function that tells the path of a parameter,
    a replacement for every op by name. `straight`: the gradients of the changed parameters are those of the parameters,
    as where weights are only stored otherwise. `keeps`: an op is put off, from one call to a later one.
    """

    params: Callable[[Tree], Tree] | None = None
    parts: Callable[[], Exchange] | None = None
    ops: Callable[[Paths], Mapping[str, OpReplacement]] | None = None
    straight: bool = False
    keeps: bool = False


def exchanged(table: Exchange) -> Change:
    """Methods of parts, or named functions, exchanged for others that keep nothing between runs."""
    return Change(parts=lambda: table)


def replaced(table: Mapping[str, OpReplacement]) -> Change:
    """Ops exchanged wherever they run."""
    return Change(ops=lambda path: table)


@dataclass(frozen=True)
class At:
    """A replacement of an op in the scopes that match."""

    replacement: OpReplacement
    match: Match

    def is_here(self) -> bool:
        """Whether the scope that the reference runs in matches."""
        return self.match(where())

    def __call__(self, op: Op, arguments: tuple[Any, ...], static: dict[str, Any]) -> Any:
        return self.replacement(op, arguments, static) if self.is_here() else op(*arguments, **static)


def at(table: Mapping[str, OpReplacement], match: Match) -> Mapping[str, OpReplacement]:
    """The replacements, in the scopes that match."""
    return {name: At(replacement, match) for name, replacement in table.items()}


@dataclass(frozen=True)
class Candidate:
    """One deviation that could explain a difference: the cause's id, the variant in words, and what it changes.

    `rare` ones are tried when nothing else explains the difference. `here` tells, while the reference runs, whether
    layers and ops deviate where it has come to; without it they do wherever they run.
    """

    cause: str
    variant: str
    change: Change
    rare: bool = False
    here: Callable[[], bool] | None = None


class Used(NamedTuple):
    """An op that a run of the reference computed: the scopes that it ran in, and the paths of parameters it was given.

    `passed`: the number of points that had been traced before it. `biased`: whether attention was given a bias.
    """

    op: str
    place: str
    paths: tuple[str, ...]
    masked: bool
    passed: int
    biased: bool = False


@dataclass
class Survey:
    """What a run of the reference used, so that only deviations that can occur are tried."""

    params: Tree
    events: list[Used] = field(default_factory=list)
    """In the order of the run"""
    stored: Mapping[str, Any] = field(default_factory=dict)
    """Parameters as the peer stores them, by its names"""
    bound: Mapping[str, tuple[str, View]] = field(default_factory=dict)
    """Our path of a parameter -> the peer's name of the array that it is a view of, and the view"""
    given: set[str] = field(default_factory=set)
    """Paths of the parameters of which an op was given all or a part"""
    partial: bool = False
    """Whether this is a part of a run: only the parameters that it uses are then meant"""
    steps: set[str] = field(default_factory=set)
    """Names of the `Step`s that ran"""
    model: Module | None = None
    """What ran; None where that is not known, so that deviations of classes of parts do not come"""

    @cached_property
    def ops(self) -> dict[str, list[str]]:
        """op -> the scopes that it ran in"""
        made: dict[str, list[str]] = {}
        for used in self.events:
            made.setdefault(used.op, []).append(used.place)
        return made

    @cached_property
    def used(self) -> dict[str, set[str]]:
        """op -> the paths of parameters among its arguments"""
        made: dict[str, set[str]] = {}
        for used in self.events:
            if used.paths:
                made.setdefault(used.op, set()).update(used.paths)
        return made

    @cached_property
    def masked(self) -> set[str]:
        """Scopes in which attention had a mask"""
        return {used.place for used in self.events if used.op == "attention" and used.masked}

    @cached_property
    def biased(self) -> set[str]:
        """Scopes in which attention had a bias"""
        return {used.place for used in self.events if used.op == "attention" and used.biased}

    @cached_property
    def modules(self) -> list[Module]:
        """The model and all its parts"""
        made: list[Module] = []

        def kept(part: Module) -> Module:
            made.append(part)
            return part

        if self.model is not None:
            with suppress(InputError):  # a part that never runs may have sizes that none can have
                kept(self.model.map_parts(kept))
        return made

    def of_class(self, cls: type[M]) -> list[M]:
        """The parts of the model, and itself, that are of a class."""
        return [part for part in self.modules if isinstance(part, cls)]

    def part(self, chosen: Callable[[Used], bool]) -> Survey:
        """The same of a part of the run."""
        return replace(self, events=[used for used in self.events if chosen(used)], partial=True)

    def restored(self, names: set[str], edit: Callable[[str, Any], Any]) -> Change:
        """The peer's arrays of these names edited, by name and array, before they are read."""

        def part(path: str, array: Any) -> Any:
            name, view = self.bound.get(path, ("", None))
            if view is None or name not in names:
                return array
            return xp(array).asarray(view(edit(name, self.stored[name])).astype(array.dtype))

        return Change(params=lambda given: edited(given, part))

    @property
    def paths(self) -> dict[str, Any]:
        """Parameters by path."""
        every = tree.flatten(self.params)
        if not self.partial:
            return every
        here = {path for used in self.events for path in used.paths}
        return {path: array for path, array in every.items() if path in here}

    @property
    def scopes(self) -> list[str]:
        """Every scope, in the order of the run."""
        return list(dict.fromkeys(place for places in self.ops.values() for place in places))


def survey(params: Tree, run: Callable[[], Any], passed: Callable[[], int] = lambda: 0) -> Survey:
    """Run the reference once and note what it used; `passed` tells the number of points traced so far."""
    made, path = Survey(params), Paths(params)
    whole = {id(_whole(array)): name for name, array in tree.leaves(params) if array is not None}

    def watch(event: Any) -> None:
        paths = tuple(name for argument in event.arguments if (name := path(argument)))
        biased = event.op.name == "attention" and len(event.arguments) > 3 and event.arguments[3] is not None
        parts = (whole.get(id(_whole(a))) for a in event.arguments if is_array(a))
        made.given.update(paths, (name for name in parts if name is not None))
        made.events.append(Used(event.op.name, where(), paths, event.options.get("mask") is not None, passed(), biased))

    def noted(step: Step, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        made.steps.add(step.name)
        return step(*arguments, **options)

    with trace(lambda name: False), observe(watch), handle(noted, steps=True):
        run()
    return made


def _whole(array: Any) -> Any:
    """The array that a view is a part of."""
    while getattr(array, "base", None) is not None and is_array(array.base):
        array = array.base
    return array


@contextmanager
def deviating(candidates: Sequence[Candidate], model: M, params: Tree) -> Iterator[tuple[M, Tree]]:
    """The reference with these deviations; gives the model and the parameters to run inside."""
    with ExitStack() as stack:
        methods: dict[Method, list[Replacement]] = {}
        for candidate in candidates:
            if candidate.change.params is not None:
                params = candidate.change.params(params)
        path = Paths(params)
        for candidate in candidates:
            if candidate.change.parts is not None:
                table = {key: only(made, candidate.here) for key, made in candidate.change.parts().items()}
                stack.enter_context(exchanged_steps({key: made for key, made in table.items() if isinstance(key, str)}))
                for key, made in table.items():
                    if not isinstance(key, str):
                        methods.setdefault(key, []).append(made)
        # arithmetic outside of the others: then it is that of the ops that come in the place of those of the model
        for candidate in sorted(candidates, key=lambda c: c.cause != "dtype"):
            if candidate.change.ops is not None:
                stack.enter_context(handle(_by_name(candidate.change.ops(path), candidate.here)))
        yield with_methods(model, methods) if methods else model, params


def with_methods(model: M, methods: Mapping[Method, Sequence[Replacement]]) -> M:
    """The model with these methods of its parts, and of itself, replaced; the last replacement is called first."""

    def change(part: Module) -> Module:
        for method, replacements in methods.items():
            owner = next((cls for cls in type(part).__mro__ if cls.__dict__.get(method.__name__) is method), None)
            if owner is not None:
                part = _with_method(part, owner, method, replacements)
        return part

    made: Any = change(model.map_parts(change))
    return made  # type: ignore[no-any-return]


def _with_method(part: Module, owner: type, method: Method, replacements: Sequence[Replacement]) -> Module:
    """A copy of the part whose class differs in the method that `owner`, a base of its class, has."""
    call = method
    for replacement in replacements:
        call = partial(replacement, call)

    def exchanged(self: Module, *arguments: Any, **options: Any) -> Any:
        return call(self, *arguments, **options)

    own = type(owner.__name__, (owner,), {method.__name__: exchanged, _MADE: True})
    cls = own if type(part) is owner else type(type(part).__name__, (type(part), own), {_MADE: True})
    made: Module = object.__new__(cls)
    made.__dict__.update(part.__dict__)
    return made


_MADE = "_made_of_another"


def class_of(part: Module) -> type:
    """The class of a part, whatever methods of it are exchanged."""
    return next(cls for cls in type(part).__mro__ if _MADE not in vars(cls))


def only(replacement: Replacement, here: Callable[[], bool] | None) -> Replacement:
    """The replacement where `here` holds, or everywhere without it."""

    def run(original: Any, *arguments: Any, **options: Any) -> Any:
        if here is None or here():
            return replacement(original, *arguments, **options)
        return original(*arguments, **options)

    return run


def _by_name(table: Mapping[str, OpReplacement], here: Callable[[], bool] | None) -> Any:
    def handler(op: Op, arguments: tuple[Any, ...], static: dict[str, Any]) -> Any:
        replacement = table.get(op.name)
        if replacement is None or not (here is None or here()):
            return op(*arguments, **static)
        return replacement(op, arguments, static)

    return handler


class Group(NamedTuple):
    """Some of the places where a deviation can be."""

    label: str
    match: Match
    rare: bool = False


def groups(places: Iterable[str]) -> list[Group]:
    """The ways in which deviations come: everywhere, in one kind or part of the model, in its first or last layer.

    Only groups that some place belongs to and some other does not are named beside "everywhere".
    """
    places = list(places)
    found = [Group("everywhere", lambda place: True)]
    kinds: list[tuple[str, Match]] = [
        ("in cross-attention", is_cross),
        ("in self-attention", lambda place: not is_cross(place)),
        ("in the encoder", lambda place: _part(place) == "encoder"),
        ("in the decoder", lambda place: _part(place) == "decoder"),
        ("in the encoder's cross-attention", lambda place: _part(place) == "encoder" and is_cross(place)),
        ("outside the encoder and decoder", lambda place: _part(place) not in ("encoder", "decoder")),
    ]
    seen: list[tuple[bool, ...]] = [tuple(True for _ in places)]
    for label, match in kinds:
        hits = tuple(match(place) for place in places)
        if any(hits) and hits not in seen:
            seen.append(hits)
            found.append(Group(label, match))
    layers = list(dict.fromkeys(map(layer_of, places)))
    if len(layers) > 1:
        for layer in (layers[0], layers[-1]):
            found.append(Group(f"in {layer or 'the outermost layer'}", partial(_same_layer, layer), rare=True))
    return found


def is_cross(place: str) -> bool:
    """Whether a place, or the path of a parameter, is in cross-attention."""
    for part in reversed(place.replace("/", ".").split(".")):
        if "cross_attention" in part or part == "cross":
            return True
        if part == "own":
            return False
    return False


def layer_of(place: str) -> str:
    """The scopes of a layer, or the path of its parameters, without those of its parts."""
    parts = place.replace("/", ".").split(".")
    while len(parts) > 1 and not parts[-1].isdigit() and parts[-1] not in ("cross_attention", "encoder", "decoder"):
        parts.pop()
    return ".".join(parts)


def _same_layer(layer: str, place: str) -> bool:
    return layer_of(place) == layer


def _part(place: str) -> str:
    return place.replace("/", ".").split(".")[0]


def edited(params: Tree, edit: Callable[[str, Any], Any]) -> Tree:
    """The parameters with each array replaced by `edit(path, array)`."""
    return tree.unflatten_like(params, [edit(path, array) for path, array in tree.leaves(params)])


def edits(meant: set[str], edit: Callable[[Any], Any]) -> Change:
    """The parameters at these paths edited."""
    return Change(params=lambda params: edited(params, lambda path, a: edit(a) if path in meant else a))


def module_of(path: str) -> str:
    """The path of the layer that a parameter belongs to: "a/mlp_norm" for "a/mlp_norm/scale"."""
    return path.rpartition("/")[0]


def role_of(path: str) -> str:
    """What a parameter is for: the names of its layer and, within attention and MLP, of those."""
    parts = module_of(path).split("/")
    if len(parts) > 1 and parts[-2] in ("attention", "mlp"):
        return "/".join(parts[-2:])
    return parts[-1]
