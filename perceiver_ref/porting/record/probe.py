"""A recording as a probe: samples in place of what was computed, a fingerprint in place of weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from ...errors import InputError, listed, one_of, shortened
from ...peers import Given, Rebuilt, peer
from ...peers.base import told
from ...weights.formats.fit import fit
from ..cases import generator
from ..cases.compare import difference
from ..cases.probe import fingerprint
from ..cases.samples import COUNT, MOST, VERSION, Sampled, sampled
from .recognise import UNKNOWN

Arrays = Mapping[str, np.ndarray]
_SAMPLED = ("output", "grad_param", "grad_input")
_MADE = {"input": "inputs", "cotangent": "cotangents"}


@dataclass(frozen=True)
class Probe:
    """What `record(probe=...)` says. `inputs` and `cotangents`: by name, how those are made that the generator made
    (`cases.generator`); the file holds all others."""

    seed: int = 0
    samples: int = COUNT
    inputs: Mapping[str, generator.Spec] = field(default_factory=dict)
    cotangents: Mapping[str, generator.Spec] = field(default_factory=dict)

    @classmethod
    def of(cls, given: Any) -> Probe | None:
        """Of True or of options by name; None of False. `InputError` for others."""
        if isinstance(given, bool):
            return cls() if given else None
        if not isinstance(given, Mapping):
            raise InputError(f"probe must be True, or seed, samples, inputs and cotangents by name: {shortened(given)}")
        for name, value in given.items():
            if name not in cls.__dataclass_fields__:
                raise one_of("option of probe", str(name), cls.__dataclass_fields__)
            if name in ("seed", "samples"):
                least, most = (1, MOST) if name == "samples" else (0, (1 << 63) - 1)
                if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
                    raise InputError(f"probe: {name} must be a whole number from {least} to {most:,}, got {value!r}")
            elif not isinstance(value, Mapping):
                raise InputError(f"probe: {name} must be how each array is made, by name, got {shortened(value)}")
        return cls(**given)


class Store(Protocol):
    """Where arrays of a recording are, by key, each one or the sum of several."""

    def total(self, key: str) -> np.ndarray:
        """One array."""

    def keep(self, key: str, made: Sampled) -> None:
        """Write samples in its place."""

    def drop(self, key: str) -> None:
        """Leave it out."""


def as_probe(probe: Probe, meta: Mapping[str, Any], keys: Iterable[str], store: Store, weights: Arrays) -> Any:
    """`meta.probe` of a recording with arrays of these keys, whose `arrays` lacks what was sampled before.

    Outputs and gradients become samples, parameters and buffers a fingerprint of those that the class has. Raises
    `InputError` for an input or cotangent that the generator makes differently.
    """
    keys = list(keys)
    own: dict[str, Any] = {"version": VERSION, "seed": probe.seed, "samples": probe.samples, "arrays": {}}
    own |= {group: {} for group in _MADE.values()}
    shapes: dict[str, tuple[int, ...]] = {}
    for key in keys:
        group, _, name = key.partition("/")
        if group in _SAMPLED:
            made = sampled(store.total(key), probe.seed, probe.samples)
            own["arrays"][key] = made.spec
            store.keep(key, made)
        elif group in _MADE:
            array = store.total(key)
            if group == "input":
                shapes[name] = array.shape
            specs = getattr(probe, _MADE[group])
            if name in specs:
                _check(key, specs[name], array, probe.seed, meta["dtype"])
                own[_MADE[group]][name] = dict(specs[name])
                store.drop(key)
        elif group != "trace":
            store.drop(key)
    for group, field_name in _MADE.items():
        there = {key.partition("/")[2] for key in keys if key.startswith(f"{group}/")}
        for name in getattr(probe, field_name):
            if name not in there:
                known = listed(sorted(there)) or "none"
                raise InputError(f"probe: there is no {group} {shortened(name)}; there are {known}")
    if names := _needed(meta, shapes, weights):
        own["weights"] = fingerprint(weights, names)
    return own


def _check(key: str, spec: Any, array: np.ndarray, seed: int, dtype: str) -> None:
    made = generator.made(key, spec, seed, "float32" if dtype == "bfloat16" else dtype)
    if made.dtype != array.dtype or difference(array, made) != 0:
        raise InputError(
            f"probe: {key} is not what its specification makes with seed {seed}: "
            f'generator.made("{key}", ...) is {made.dtype} of shape {list(made.shape)}, recorded was {array.dtype} of '
            f"shape {list(array.shape)}"
        )


def _needed(meta: Mapping[str, Any], inputs: Mapping[str, tuple[int, ...]], weights: Arrays) -> list[str]:
    """The names of what the class has of these weights, as `check --weights` finds them; all for an unknown class."""
    alone = [name for name in weights if name not in meta.get("tied", {})]
    if meta["peer"] == UNKNOWN:
        return alone

    def rebuild(found: Arrays) -> Rebuilt:
        params = {name: array.shape for name, array in found.items()}
        return peer(meta["peer"]).rebuild(meta["class"], Given(meta["config"], inputs, params, meta["call"]))

    try:
        with told():
            return list(fit(rebuild, dict(weights), "the module", None, allow_unused=True).arrays)
    except InputError:
        return alone  # what is wrong is said by `check`
