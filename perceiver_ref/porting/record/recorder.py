"""What a recording gathers, whatever the framework: arrays by group and name, numbers of the call, and `meta`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ...errors import InputError
from ...weights.formats.dtypes import finite
from ...weights.formats.npz import check_name
from ..cases.case import DTYPES
from ..cases.compare import coarsest
from ..cases.samples import COUNT, VERSION, Sampled
from ..cases.tensors import as_array, dtype_of, is_array
from .choose import Choice
from .keep import Keep, whole
from .probe import Probe, as_probe
from .recognise import UNKNOWN, Recognised
from .spool import Spool, Stored
from .structure import arguments, as_json, plain

_HALF = ("float16", "bfloat16")
_WEIGHTS = ("param", "state")


class Recorder:
    """Gathers one case. Arrays are written aside at once; nothing of them stays in memory."""

    def __init__(self, spool: Spool, choice: Choice, keep: Keep = whole, probe: Probe | None = None) -> None:
        self.spool, self.choice, self.keep, self.probe = spool, choice, keep, probe
        self.recognised = Recognised(UNKNOWN, "", {})
        self.call: dict[str, Any] = {}
        self.notes: list[str] = []
        self.tied: dict[str, str] = {}
        self._arrays: dict[tuple[str, str], list[Stored]] = {}
        self._points: list[tuple[str, int, dict[str, Stored], Sampled | None]] = []
        self._times: Counter[str] = Counter()
        self._dtypes: dict[str, Counter[str]] = {}

    def has(self, group: str) -> bool:
        """Whether there is any array of this group."""
        return any(g == group for g, _ in self._arrays)

    def holds(self, group: str, name: str) -> bool:
        """Whether there is an array of this name."""
        return (group, name) in self._arrays

    def names(self, group: str) -> list[str]:
        """The names of the arrays of a group."""
        return [name for g, name in self._arrays if g == group]

    def array(self, group: str, name: str, value: Any, *, more: bool = False) -> None:
        """Write one array of `param`, `state`, `input`, `output` and so on; with `more` it is added to what is there.

        Raises `InputError` for what is no dense array of numbers, for a parameter that is not finite, and for a second
        array of one name.
        """
        key = f"{group}/{name}"
        array = as_array(value, key)
        check_name(self.spool.path, key)
        if group == "param":
            finite({name: array}, "the module")
        if self.holds(group, name) and not more:
            raise InputError(f"{key} would be recorded twice; two parts of the module or call have one name")
        self._dtypes.setdefault(group, Counter())[dtype_of(value)] += 1
        self._arrays.setdefault((group, name), []).append(self.spool.add(array))

    def arrays(self, group: str, values: Mapping[str, Any]) -> None:
        """Write several."""
        for name, value in values.items():
            self.array(group, name, value)

    def argument(self, name: str, value: Any) -> None:
        """An argument of the call: arrays become inputs; numbers, texts, flags and None go into `meta.call`."""
        if plain(value) and not isinstance(value, Mapping):
            self.call[name] = as_json(value)
            return
        for inner, part in arguments(name, value):
            if plain(part):
                self.call[inner] = as_json(part)
            elif is_array(part):
                self.array("input", inner, part)
            elif type(part).__name__ not in ("dtype", "device", "layout", "memory_format"):
                kind = f"{type(part).__module__}.{type(part).__qualname__}"
                self.notes.append(f"the argument {inner} is left out: a {kind} is neither an array nor a number")

    def point(self, name: str, value: Any) -> None:
        """An intermediate value; a name that comes again is numbered, `name@0`, `name@1`."""
        size = int(np.prod(tuple(value.shape), dtype=np.int64))
        if not self.choice.takes(name, size):
            return
        check_name(self.spool.path, f"trace/{name}@{self._times[name]}")
        array = as_array(value, f"trace/{name}")
        self._dtypes.setdefault("trace", Counter())[dtype_of(value)] += 1
        kept = self.keep(array)
        stored = {} if kept.array is None else {"": self.spool.add(kept.array)}
        if kept.sampled is not None:
            stored |= self.samples(kept.sampled)
        self._points.append((name, self._times[name], stored, kept.sampled))
        self._times[name] += 1

    def samples(self, made: Sampled) -> dict[str, Stored]:
        """Write what is kept of an array in its place, by what its key then begins with."""
        return {"sample/": self.spool.add(made.samples), "statistics/": self.spool.add(made.statistics)}

    def stored(self, group: str, name: str) -> np.ndarray | None:
        """An array that was written, again; None where there is none."""
        parts = self._arrays.get((group, name))
        return None if parts is None else self.spool.read(parts[0])

    def replace(self, axes: Mapping[str, int], value: Any) -> None:
        """An array in place of the argument that it was made of, whose first axes, so many, it has as one."""
        for name, count in axes.items():
            if self.holds("input", name):
                array, lead = as_array(value, f"input/{name}"), self._arrays["input", name][0].shape[:count]
                if math.prod(lead) != array.shape[0]:
                    raise InputError(f"what the encoder made of {name} has {array.shape[0]} rows for {lead}")
                array = array.reshape(*lead, *array.shape[1:])
                self._arrays["input", name] = [self.spool.add(np.ascontiguousarray(array))]

    def write(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Write the case, and return its meta, in which what is `given` has the last word."""
        meta = self.meta(given)
        arrays: dict[str, list[Stored]] = {}
        specs: dict[str, Any] = {}
        for (group, name), parts in self._arrays.items():
            for place, its in self._placed(group, name):
                if f"{place}/{its}" in arrays:
                    raise InputError(f"{place}/{its} would be recorded twice; record a part of the module instead")
                arrays[f"{place}/{its}"] = parts
        if not any(key.startswith("output/") for key in arrays):
            raise InputError("nothing to compare was recorded: the module returned no array, or no output was given")
        if self.probe is not None:
            weights = {name: self.spool.read(parts[0]) for (g, name), parts in self._arrays.items() if g in _WEIGHTS}
            if any(key.startswith("state_out/") for key in arrays):
                meta["notes"] = "; ".join([*filter(None, [meta.get("notes")]), "buffers after the call are left out"])
            meta["probe"] = as_probe(self.probe, meta, list(arrays), _Placed(arrays, self), weights)
            specs = meta["probe"]["arrays"]
        for name, times, stored, made in self._points:
            key = f"trace/{name}" if self._times[name] == 1 else f"trace/{name}@{times}"
            for place, one in stored.items():
                if f"{place}{key}" in arrays:
                    raise InputError(f"two points would both be {key}; give one of them another name")
                arrays[f"{place}{key}"] = [one]
            if made is not None:
                specs[key] = made.spec
        if specs and self.probe is None:
            seed, samples = getattr(self.keep, "seed", 0), getattr(self.keep, "samples", COUNT)
            meta["sampled"] = {"version": VERSION, "seed": seed, "samples": samples, "arrays": specs}
        self.spool.write(meta, arrays)
        return meta

    def _placed(self, group: str, name: str) -> Iterable[tuple[str, str]]:
        """Where an array goes: what the class calls it, and arguments that a module holds as parameters."""
        row = self.recognised
        if group in ("param", "state") and name in row.given:
            yield "input", row.given[name]
        elif group == "grad_param" and name in row.given:
            yield "grad_input", row.given[name]
        elif group == "state_out" and name in row.given:
            yield "output", f"new_{row.given[name]}"
        elif group in ("param", "state", "grad_param", "state_out"):
            if not name.startswith(row.without):
                yield group, name
        elif group in ("input", "grad_input"):
            outer, dot, inner = name.partition(".")
            yield group, row.arguments.get(outer, outer) + dot + inner
        elif group in ("output", "cotangent"):
            if (its := row.outputs.get(name, name)) is not None:
                yield group, its
        else:
            yield group, name

    def meta(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """What is known of the case beside its arrays."""
        row = self.recognised
        call = {row.arguments.get(name, name): value for name, value in self.call.items()}
        meta: dict[str, Any] = {"peer": row.peer, "class": row.cls, "config": dict(row.config)}
        if row.version:
            meta["peer_version"] = row.version
        meta |= {"call": {**row.call, **call}, "dtype": self.dtype()}
        if self.tied:
            meta["tied"] = dict(self.tied)
        notes = [*self.notes, *self.choice.notes]
        if row.tolerance and coarsest(row.inside, meta["dtype"]) != meta["dtype"]:
            meta["tolerance"] = dict(row.tolerance)
            notes.append(f"{row.cls.rpartition('.')[2]} computes a part in {row.inside} whatever its dtype")
        if (own := self._kinds("param")) and coarsest(*own) != meta["dtype"]:
            notes.append(f"computed in {meta['dtype']} from parameters in {coarsest(*own)}, as under autocast")
        if notes:
            meta["notes"] = "; ".join(notes)
        return {**meta, **given}

    def dtype(self) -> str:
        """The dtype computed in: the least precise of parameters' and outputs', and half of any kind in between."""
        params, outputs, inside = (self._kinds(group) for group in ("param", "output", "trace"))
        seen = [*params, *outputs] or [*inside] or self._kinds("input")
        return coarsest(*seen, *(kind for kind in inside if kind in _HALF)) if seen else "float32"

    def _kinds(self, group: str) -> list[str]:
        return [kind for kind in self._dtypes.get(group, ()) if kind in DTYPES]


class _Placed:
    """The arrays of a case to be written, by key, in which `as_probe` exchanges some for samples."""

    def __init__(self, arrays: dict[str, list[Stored]], recorder: Recorder) -> None:
        self.arrays, self.recorder = arrays, recorder

    def total(self, key: str) -> np.ndarray:
        """An array, or the sum of several."""
        return self.recorder.spool.total(self.arrays[key])

    def keep(self, key: str, made: Sampled) -> None:
        """Samples in its place."""
        del self.arrays[key]
        self.arrays |= {f"{place}{key}": [one] for place, one in self.recorder.samples(made).items()}

    def drop(self, key: str) -> None:
        """Nothing in its place."""
        del self.arrays[key]
