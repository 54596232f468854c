"""Ports drawn at random: stored cases of peers renamed, fused, transposed and cut down, so that the truth is known.

A variant holds the same numbers as its case, laid out as a stranger might have them. What `bind` makes of it is judged
by values alone: each of the reference's parameters, read by the map, must be the case's own array.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from perceiver_ref.models.attention import Attention
from perceiver_ref.porting.bind.bind import Binding, bind
from perceiver_ref.porting.bind.target import of_case
from perceiver_ref.porting.bind.translate import translate
from perceiver_ref.porting.cases import Case
from perceiver_ref.porting.cases.execution import named_points, rebuild, run

WORDS = [
    "attn",
    "mixer",
    "block",
    "stage",
    "unit",
    "ctx",
    "cross",
    "self_attn",
    "proj",
    "fc",
    "dense",
    "inner",
    "outer",
    "lin",
    "norm",
    "ln",
    "gain",
    "shift",
    "w",
    "b",
    "kernel",
    "to_out",
    "wo",
    "wi",
    "trunk",
    "net",
    "core",
    "body",
    "head",
    "tail",
    "reader",
    "writer",
    "slots",
    "probe",
    "tower",
    "stack",
    "layer",
    "mod",
    "sub",
    "gate",
    "film",
    "up",
    "down",
    "left",
    "right",
    "alpha",
    "beta",
    "enc",
    "dec",
    "mem",
    "bank",
    "sa",
    "ca",
    "ffn",
    "mlp",
    "feed",
    "post",
    "pre",
    "res",
    "skip",
]
Rng = np.random.Generator


@dataclass(frozen=True)
class Style:
    """How a port differs from the case that it is made of."""

    names: str = "words"
    """"words": modules and words of a stranger's; "letters": nothing that can be read."""
    order: str = "kept"
    """Of the arrays: "kept" or "shuffled"."""
    fused: str = "none"
    """"none", "qkv", "kv", or "some", each attention as it comes; "biases": those of qkv alone, in order."""
    layout: str = "(3 h d)"
    """Of fused ones: "(3 h d)", "(h 3 d)" or "(h d 3)", the parts in a random order."""
    matrices: str = "kept"
    """"kept" (inputs, outputs), "transposed", "each" at random, "conv" [o, i, 1, 1] or "conv1d" [o, i, 1]."""
    heads: str = "merged"
    """Of maps of attention that are not fused: "merged" or "split", an axis of their own."""
    trace: str = "all"
    """"all" renamed, "blocks" alone, or "none"."""
    gradients: bool = True
    stacked: int | None = None
    """The axis along which layers are one array, alike in all they do; None: each has its own."""
    arguments: str = "kept"
    """Names of inputs and outputs: "kept" or "renamed"."""

    def said(self) -> str:
        """The options that are not the plain ones."""
        options = {name: value for name, value in vars(self).items() if value != getattr(Style, name)}
        return ", ".join(f"{name} {value}" for name, value in options.items()) or "renamed"


CHOICES: dict[str, tuple[Any, ...]] = {
    "names": ("words", "letters"),
    "order": ("kept", "shuffled"),
    "fused": ("none", "none", "qkv", "kv", "some"),
    "layout": ("(3 h d)", "(3 h d)", "(h 3 d)", "(h d 3)"),
    "matrices": ("kept", "transposed", "transposed", "each", "conv", "conv1d"),
    "heads": ("merged", "merged", "merged", "split"),
    "trace": ("all", "all", "blocks", "none"),
    "gradients": (True, True, False),
    "arguments": ("kept", "renamed"),
}


def drawn(rng: Rng) -> Style:
    """A style, each option of it at random."""
    return Style(**{name: choices[int(rng.integers(len(choices)))] for name, choices in CHOICES.items()})


@dataclass
class Variant:
    """A port, the case that it is made of, and what its parameters are by our paths."""

    port: Case
    case: Case
    style: Style
    truth: dict[str, np.ndarray] = field(default_factory=dict)


def variant(case: Case, style: Style, seed: int, absent: Collection[str] = ()) -> Variant:
    """The case as a port of this style. The port's file says nothing of the peer, and holds the same numbers, but for
    the paths in `absent`, which are 0."""
    rng = np.random.default_rng(seed)
    rebuilt, arrays = rebuild(case)
    truth = {b.path: np.asarray(b.view(arrays[b.name])) for b in rebuilt.bindings}
    graded = bool(case.cotangents) and style.gradients and all(b.name in case.grad_params for b in rebuilt.bindings)
    gradients = {b.path: np.asarray(b.view(case.grad_params[b.name])) for b in rebuilt.bindings} if graded else {}
    made = _Port(style, rng, {p: a for p, a in truth.items() if p not in absent}, gradients, _heads(case, truth))
    used = {b.name for b in (*rebuilt.bindings, *rebuilt.state)}
    own = list(made.groups()) if style.stacked is None else _stacked(list(made.groups()), style.stacked)
    groups = [*own, *((name, arrays[name], None) for name in arrays if name not in used)]
    names = _names(rng, style.names, [name for name, *_ in groups])
    order = rng.permutation(len(groups)) if style.order == "shuffled" else range(len(groups))
    port = Case({"peer": "unknown", "class": "mine.Port", "config": {}, "call": {}, "tied": {}})
    port.meta |= {key: case.meta[key] for key in ("dtype", "tolerance") if key in case.meta}
    for i in order:
        name, array, gradient = groups[i]
        port.params[names[name]] = array
        if gradient is not None:
            port.grad_params[names[name]] = gradient
    port.state = {f"{word}.buffer": case.state[name] for word, name in zip(WORDS, case.state)}
    _arguments(port, case, style, graded)
    points = named_points(rebuilt, case.trace)
    port.trace = {f"p{i}.{_word(rng)}": array for i, array in enumerate(_kept(case, points, style))}
    return Variant(port, case, style, truth)


def outcome(made: Variant, seconds: float = 20) -> tuple[str, Binding]:
    """ "right", "ambiguous", "refused" or "WRONG", and what `bind` gave.

    Ambiguous is a map that verified, some parameter of which is another array than the truth's and is said to be
    ambiguous.
    """
    found = bind(made.port, replace(of_case(made.case), config=made.case.meta["config"]), seconds=seconds)
    if not found.verified:
        return "refused", found
    translated = translate(made.port, found.map)
    rebuilt, _ = rebuild(made.case)
    other = [b.path for b in rebuilt.bindings if not _same(b.view(translated.params[b.name]), made.truth[b.path])]
    if any(path not in found.ambiguous for path in other):
        return "WRONG", found
    return ("ambiguous" if other else "right"), found


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


class _Port:
    """The parameters of a port, each as (name to be replaced, array, its gradient or None)."""

    def __init__(
        self,
        style: Style,
        rng: Rng,
        truth: dict[str, np.ndarray],
        gradients: dict[str, np.ndarray],
        heads: dict[str, tuple[int, int]],
    ) -> None:
        self.style, self.rng, self.truth, self.gradients, self.heads = style, rng, truth, gradients, heads
        self.seen: set[bytes] = set()
        self.choices: dict[str, int] = {}
        self.orders: dict[str, list[str]] = {}

    def groups(self) -> Iterator[tuple[str, np.ndarray, np.ndarray | None]]:
        fused = self._fused()
        kinds = ("bias",) if self.style.fused == "biases" else ("weight", "bias")
        for path in self.truth:
            prefix, _, last = path.rpartition("/")
            whole, _, part = prefix.rpartition("/")
            if part in fused.get(whole, ()) and last in kinds:
                if part == fused[whole][0]:
                    yield self._made(f"{whole}/{'_'.join(fused[whole])}/{last}", self._fuse(whole, fused[whole], last))
                continue
            if self._is_tied(path):
                continue
            yield self._made(path, self._single(path))

    def _made(self, name: str, lay: Callable[[dict[str, np.ndarray]], np.ndarray]) -> tuple[str, Any, Any]:
        return (
            name,
            np.ascontiguousarray(lay(self.truth)),
            np.ascontiguousarray(lay(self.gradients)) if self.gradients else None,
        )

    def _is_tied(self, path: str) -> bool:
        """Whether these numbers, many of them, have been written: one array of the peer in two places."""
        array = self.truth[path]
        if array.ndim < 2 or array.size < 12:
            return False
        keys = {a.tobytes() for a in (array, array.T)}
        tied = bool(keys & self.seen)
        self.seen |= keys
        return tied

    def _fused(self) -> dict[str, tuple[str, ...]]:
        """Attention -> the parts that are one array in the port, in their order."""
        chosen: dict[str, tuple[str, ...]] = {}
        for whole in self.heads:
            kind = self.style.fused
            kind = ("none", "qkv", "kv")[self._drawn(whole, 3)] if kind == "some" else kind
            qkv = ("query", "key", "value")
            parts = {"none": (), "qkv": qkv, "kv": ("key", "value"), "biases": qkv}[kind]
            if parts and self._fusible(whole, parts):
                order = parts if kind == "biases" else self._permuted(whole, parts)
                chosen[whole] = tuple(str(part) for part in order)
        return chosen

    def _fusible(self, whole: str, parts: tuple[str, ...]) -> bool:
        arrays = [self.truth.get(f"{whole}/{part}/weight") for part in parts]
        biases = [f"{whole}/{part}/bias" in self.truth for part in parts]
        if any(a is None or a.ndim != 2 for a in arrays) or len(set(biases)) > 1:
            return False
        if self.style.fused == "biases":
            return all(biases)
        shapes = {a.shape for a in arrays if a is not None}
        return len(shapes) == 1 and (self.style.layout == "(3 h d)" or self.heads[whole][0] == self.heads[whole][1])

    def _fuse(self, whole: str, parts: tuple[str, ...], last: str) -> Callable[[dict[str, np.ndarray]], np.ndarray]:
        h, orient = self.heads[whole][0], self._orientation(whole)
        axis = {"(3 h d)": -3, "(h 3 d)": -2, "(h d 3)": -1}[self.style.layout]

        def lay(arrays: dict[str, np.ndarray]) -> np.ndarray:
            found = [arrays[f"{whole}/{part}/{last}"] for part in parts]
            split = [a.reshape(*a.shape[:-1], h, a.shape[-1] // h) for a in found]
            stacked = np.stack(split, axis=axis)
            fused = stacked.reshape(*found[0].shape[:-1], -1)
            return orient(fused) if last == "weight" else fused

        return lay

    def _single(self, path: str) -> Callable[[dict[str, np.ndarray]], np.ndarray]:
        prefix, _, last = path.rpartition("/")
        whole, _, part = prefix.rpartition("/")
        if last != "weight" or self.truth[path].ndim != 2:
            return lambda arrays: arrays[path]
        if whole in self.heads and self.style.heads == "split" and part in ("query", "key", "value", "output"):
            return self._split(path, part, self.heads[whole][part in ("key", "value")])
        orient = self._orientation(path)
        return lambda arrays: orient(arrays[path])

    def _split(self, path: str, part: str, h: int) -> Callable[[dict[str, np.ndarray]], np.ndarray]:
        """A matrix for each head: (h, in, d), (in, h, d) or (h, d, in); of the output (h, d, out), (out, h, d)."""
        way = self._drawn(path, 3)
        orders = [(0, 1, 2), (2, 0, 1), (0, 1, 2)] if part == "output" else [(1, 0, 2), (0, 1, 2), (1, 2, 0)]

        def lay(arrays: dict[str, np.ndarray]) -> np.ndarray:
            a = arrays[path]
            shape = (h, a.shape[0] // h, a.shape[1]) if part == "output" else (a.shape[0], h, a.shape[1] // h)
            return a.reshape(shape).transpose(orders[way])

        return lay

    def _drawn(self, path: str, count: int) -> int:
        """A number below `count`: the same for all layers where they are stacked."""
        if self.style.stacked is None:
            return int(self.rng.integers(count))
        return self.choices.setdefault(re.sub(r"\d+", "#", path), int(self.rng.integers(count)))

    def _permuted(self, path: str, parts: tuple[str, ...]) -> list[str]:
        """The parts in an order: the same for all layers where they are stacked."""
        if self.style.stacked is None:
            return list(self.rng.permutation(parts))
        return self.orders.setdefault(re.sub(r"\d+", "#", path), list(self.rng.permutation(parts)))

    def _orientation(self, path: str) -> Callable[[np.ndarray], np.ndarray]:
        kind = self.style.matrices
        if kind == "each":
            kind = ("kept", "transposed")[self._drawn(path, 2)]
        extra = {"conv": (1, 1), "conv1d": (1,)}.get(kind, ())
        return (lambda a: a) if kind == "kept" else (lambda a: a.T.reshape(*a.T.shape, *extra))


_Group = tuple[str, np.ndarray, np.ndarray | None]


def _stacked(groups: list[_Group], axis: int) -> list[_Group]:
    """Arrays that differ in one number of their names alone as one, where the first of them is; vectors' axis is 0."""
    layers: dict[str, list[_Group]] = {}
    for name, array, gradient in groups:
        layers.setdefault(re.sub(r"/\d+/", "/", name), []).append((name, array, gradient))
    made: list[_Group] = []
    for name, rows in layers.items():
        along = min(axis, rows[0][1].ndim)
        if len(rows) == 1 or any(array.shape != rows[0][1].shape for _, array, _ in rows):
            made += rows
            continue
        gradients = [gradient for _, _, gradient in rows if gradient is not None]
        graded = np.stack(gradients, axis=along) if len(gradients) == len(rows) else None
        made.append((name, np.stack([array for _, array, _ in rows], axis=along), graded))
    return made


@contextmanager
def _attentions() -> Iterator[list[tuple[Any, Any]]]:
    """Every attention that is computed meanwhile, with its parameters."""
    found: list[tuple[Any, Any]] = []
    inside = Attention.keys_values, Attention.apply

    def keys_values(self: Any, p: Any, *rest: Any, **options: Any) -> Any:
        found.append((self, p))
        return inside[0](self, p, *rest, **options)

    def apply(self: Any, p: Any, *rest: Any, **options: Any) -> Any:
        found.append((self, p))
        return inside[1](self, p, *rest, **options)

    Attention.keys_values, Attention.apply = keys_values, apply  # type: ignore[method-assign]
    try:
        yield found
    finally:
        Attention.keys_values, Attention.apply = inside  # type: ignore[method-assign]


def _heads(case: Case, truth: dict[str, np.ndarray]) -> dict[str, tuple[int, int]]:
    """Path of an attention -> its heads of queries, and of keys and values."""
    rebuilt, arrays = rebuild(case)
    with _attentions() as found:
        run(rebuilt, arrays, case.inputs, case.meta["call"], dtype=case.dtype)
    prefixes = {path.removesuffix("/query/weight") for path in truth if path.endswith("/query/weight")}
    by_value = {truth[f"{prefix}/query/weight"].tobytes(): prefix for prefix in prefixes}
    heads: dict[str, tuple[int, int]] = {}
    for layer, p in found:
        key = np.ascontiguousarray(p["query"]["weight"]).tobytes() if "weight" in p.get("query", {}) else b""
        if key in by_value:
            heads[by_value[key]] = (layer.heads, layer.shared)
    return heads


def _word(rng: Rng) -> str:
    return WORDS[int(rng.integers(len(WORDS)))]


def _names(rng: Rng, kind: str, paths: Iterable[str]) -> dict[str, str]:
    """Path -> the port's name: part by part, or letters; no two alike."""
    words: dict[tuple[str, ...], str] = {}
    taken: set[str] = set()

    def name(path: str) -> str:
        if kind == "letters":
            return "".join(chr(97 + int(i)) for i in rng.integers(0, 26, size=9))
        parts = tuple(re.split("[/.]", path))
        made = [part if part.isdigit() else words.setdefault((part,), _word(rng)) for part in parts]
        return ".".join(made)

    found: dict[str, str] = {}
    for path in paths:
        new = name(path)
        while new in taken:
            new += f"_{len(taken)}"
        taken.add(new)
        found[path] = new
    return found


def _arguments(port: Case, case: Case, style: Style, graded: bool) -> None:
    """Inputs and outputs, their gradients and cotangents."""
    renamed = style.arguments == "renamed"
    into = {name: f"arg{i}" if renamed else name for i, name in enumerate(case.inputs)}
    out = {name: f"result{i}" if renamed else name for i, name in enumerate(case.outputs)}
    port.inputs = {into[name]: array for name, array in case.inputs.items()}
    port.outputs = {out[name]: array for name, array in case.outputs.items()}
    if graded:
        port.cotangents = {out[name]: array for name, array in case.cotangents.items()}
        port.grad_inputs = {into[name]: array for name, array in case.grad_inputs.items()}


def _kept(case: Case, points: dict[str, list[str]], style: Style) -> list[np.ndarray]:
    """The traced values that the port has; where query, key and value are one map, none of theirs alone."""
    if style.trace == "none":
        return []
    if style.trace == "blocks":
        ours = {point for found in points.values() for point in found}
        names = [name for name, found in points.items() if any(_is_block(point, ours) for point in found)]
    else:
        names = list(case.trace)
    alone = re.compile(r"(^|[./])(query|key|value|key_value)$")
    if style.fused != "none":
        names = [name for name in names if not any(alone.search(point) for point in points[name])]
    return [case.trace[name] for name in names if math.prod(case.trace[name].shape)]


def _is_block(point: str, points: set[str]) -> bool:
    """Whether a layer, or the whole, is called so: it has points inside, and is no attention or MLP."""
    return point.split(".")[-1] not in ("attention", "mlp", "queries") and any(
        other.startswith(point + ".") for other in points
    )
