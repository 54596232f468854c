"""A probe: a case of kilobytes for a model of any size. Its arrays are made again, its answers are samples.

`meta.probe` says how: `seed` and `samples`, the number of samples of an array; `inputs` and `cotangents`, by name, how
each is made (`generator`); `params`, the same for weights, or `weights`, the fingerprint of those that are given to
whoever runs it; `arrays`, by key, the shape and dtype of everything that was sampled.

    probe = new_probe(meta, seed=0)             # record and export
    keep(probe, "output/logits", array)
    full = expanded(probe, weights)             # check: the case to run, without answers
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ...errors import InputError
from . import generator
from .case import Case
from .samples import COUNT, GIVEN, MOST, VERSION, Sampled, read_all, sampled

_GROUPS = {"params": "param", "inputs": "input", "cotangents": "cotangent"}


def is_probe(case: Case) -> bool:
    """Whether a case holds samples in place of its arrays."""
    return "probe" in case.meta


def new_probe(meta: Mapping[str, Any], *, seed: int = 0, samples: int = COUNT) -> Case:
    """An empty probe; `meta` is that of a case. `samples`: how many elements of an array are kept."""
    if not 0 < samples <= MOST:
        raise InputError(f"a probe keeps 1 to {MOST:,} samples of an array, not {samples}")
    own = {"version": VERSION, "seed": seed, "samples": samples, "arrays": {}}
    return Case({"call": {}, "tied": {}, "tolerance": {}, "compare_gradients": True, **meta, "probe": own})


def keep(probe: Case, key: str, array: Any) -> Sampled:
    """Keep of an array on the host what a probe keeps, or a `Sampled`; `key` is "output/logits" and so on."""
    own = probe.meta["probe"]
    made = array if isinstance(array, Sampled) else sampled(array, own["seed"], own["samples"])
    probe.samples[key], probe.statistics[key] = made.samples, made.statistics
    own["arrays"][key] = made.spec
    return made


def fingerprint(arrays: Mapping[str, np.ndarray], names: Iterable[str] | None = None) -> dict[str, Any]:
    """`meta.probe.weights` of these arrays (of some names alone): their number, elements, and sha256.

    Hashed are, in the order of their names, for each array its name in UTF-8, its dtype and its shape as NumPy writes
    them ("float32", "(2, 3)"), a byte 0 after each of the three, and its elements, row-major and little-endian.
    """
    digest, elements = hashlib.sha256(), 0
    chosen = sorted(set(arrays) if names is None else set(names) & set(arrays))
    for name in chosen:
        array = np.asarray(arrays[name])
        for text in (name, array.dtype.name, str(tuple(int(n) for n in array.shape))):
            digest.update(text.encode() + b"\0")
        digest.update(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).data)
        elements += array.size
    return {"sha256": digest.hexdigest(), "arrays": len(chosen), "elements": elements}


def expanded(probe: Case, weights: Mapping[str, np.ndarray] | None = None) -> Case:
    """The case that a probe is of: with its parameters, inputs and cotangents, and zeros for answers.

    `weights` are those whose fingerprint it has. Raises `InputError` where they are needed and missing, or others.
    """
    own, wide = probe.meta["probe"], probe.dtype.name
    made: dict[str, dict[str, np.ndarray]] = {}
    for group in GIVEN:
        there = getattr(probe, group)
        specs = own.get(group) or {}
        made[group] = dict(there)
        for name, spec in specs.items():
            made[group][name] = generator.made(f"{_GROUPS[group]}/{name}", spec, own["seed"], wide)
    if (wanted := own.get("weights")) is not None:
        if weights is None:
            short = wanted["sha256"][:12]
            raise InputError(f"a probe needs its weights, check --weights FILE: those with sha256 {short}...")
        found = fingerprint(weights)
        if found["sha256"] != wanted["sha256"]:
            raise InputError(
                f"these are not the weights of {probe.name}: {found['arrays']} arrays, {found['elements']:,} elements, "
                f"sha256 {found['sha256'][:12]}..., not {wanted['arrays']}, {wanted['elements']:,}, "
                f"{wanted['sha256'][:12]}..."
            )
        made["params"] |= weights
    meta = copy.deepcopy({key: value for key, value in probe.meta.items() if key != "probe"})
    return replace(probe, meta=meta, **made, **_stubs(own["arrays"], probe.samples), samples={}, statistics={})


def _stubs(specs: Mapping[str, Any], keys: Iterable[str]) -> dict[str, dict[str, np.ndarray]]:
    """Zeros of the shapes of all answers, by field of `Case`, without memory for them."""
    fields = {"output": "outputs", "trace": "trace", "grad_param": "grad_params", "grad_input": "grad_inputs"}
    made: dict[str, dict[str, np.ndarray]] = {field: {} for field in fields.values()}
    for key in keys:
        group, _, name = key.partition("/")
        made[fields[group]][name] = np.broadcast_to(np.zeros((), specs[key]["dtype"]), specs[key]["shape"])
    return made


def kept(probe: Case, path: object = "") -> dict[str, Sampled]:
    """All that a probe has of arrays, by key; `InputError` for what cannot be."""
    return read_all(path or probe.name, probe.meta["probe"], probe.samples, probe.statistics)
