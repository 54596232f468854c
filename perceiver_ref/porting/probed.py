"""A case's samples and statistics against the reference's: those of a probe, and those beside whole arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ..autograd.backend import to_host
from ..host.files import AnyPath
from ..weights.checkpoints import Choice, read_checkpoint
from .cases import Agreement, Case
from .cases.execution import named_points, rebuild, require, run, spread, unknown_points
from .cases.probe import expanded, kept
from .cases.samples import Sampled, disagreement, read_all, sampled
from .tolerances import Scale


def check_probe(
    probe: Case, path: str, backend: str, dtype: str | None, weights: Mapping[str, np.ndarray] | None
) -> tuple[list[Agreement], list[str]]:
    """Every array of a probe, and what is to be said beside: nothing but samples is kept of what is traced.

    `weights` are those that it is of, by the peer's names.
    """
    theirs, case, own = kept(probe, path), expanded(probe, weights), probe.meta["probe"]
    aliases: dict[str, str] = probe.meta.get("tied", {})
    rebuilt, arrays = rebuild(case)
    named = named_points(rebuilt, case.trace)
    gradients = bool(case.cotangents) and probe.meta.get("compare_gradients", True)

    def sample(array: np.ndarray) -> Sampled:
        return sampled(array, own["seed"], own["samples"])

    def keep(point: str, value: Any) -> dict[str, Sampled]:
        wanting = [name for name, points in named.items() if point in points]
        return {name: sample(spread(to_host(value), case.trace[name])) for name in wanting}

    made = run(
        rebuilt,
        arrays,
        case.inputs,
        case.meta["call"],
        cotangents=case.cotangents if gradients else None,
        points={point for points in named.values() for point in points},
        kept=keep,
        backend=backend,
        dtype=dtype or case.dtype,
        where=probe.name,
    )
    ours: dict[str, Sampled] = {}
    for name, points in named.items():
        if found := next((p for p in points if p in made.trace), None):
            ours[f"trace/{name}"] = made.trace[found][name]  # type: ignore[assignment]
    for kind, there, group in (
        ("output", case.outputs, made.outputs),
        ("grad_param", case.grad_params if gradients else {}, made.grad_params),
        ("grad_input", case.grad_inputs if gradients else {}, made.grad_inputs),
    ):
        require(kind, (aliases.get(name, name) for name in there), group, probe.name)
        ours |= {f"{kind}/{name}": sample(group[aliases.get(name, name)]) for name in there}
    ends = {key: s.ends for key, s in theirs.items() if key.startswith("grad_")}
    scale = Scale(replace(probe, cotangents=case.cotangents, grad_params=ends, grad_inputs={}), dtype)
    compared = [found for key, wanted in ours.items() for found in _pair(key, theirs[key], wanted, scale)]
    notes = [f"a probe: {own['samples']} samples and the statistics of each of {len(ours)} arrays"]
    return compared, notes + unknown_points([n for n in case.trace if f"trace/{n}" not in ours])


def beside(case: Case, path: str = "") -> dict[str, Sampled]:
    """What a case that is no probe has of traced values in their place, by their names."""
    if not case.samples:
        return {}
    held = read_all(path or case.name, case.meta["sampled"], case.samples, case.statistics)
    return {key.removeprefix("trace/"): found for key, found in held.items()}


def check_beside(case: Case, name: str, theirs: Sampled, ours: np.ndarray, scale: Scale) -> list[Agreement]:
    """One of these values, and the reference's whole one."""
    own = case.meta["sampled"]
    wanted = sampled(spread(ours, theirs.like), own["seed"], own["samples"])
    return _pair(f"trace/{name}", theirs, wanted, scale)


def _pair(key: str, theirs: Sampled, ours: Sampled, scale: Scale) -> list[Agreement]:
    """The samples, where there are any, and the statistics of one array."""
    kind, _, name = key.partition("/")
    samples, numbers, note = disagreement(theirs, ours)
    tolerance = scale.tolerance(kind, theirs.ends, ours.ends)
    made = [Agreement(kind, f"{name} (statistics)", numbers, tolerance, note)]
    return made if not len(theirs.samples) else [Agreement(kind, name, samples, tolerance, note), *made]


def weights_of(case: Case, path: AnyPath) -> dict[str, np.ndarray]:
    """The arrays of a checkpoint, or of a case with parameters, that the class of a probe needs."""
    own = case.meta["probe"]
    shapes = {name: tuple(spec["shape"]) for name, spec in (own.get("inputs") or {}).items()}
    inputs = {n: np.broadcast_to(np.zeros(()), s) for n, s in shapes.items()} | case.inputs
    meta = case.meta
    found = read_checkpoint(
        meta["peer"],
        path,
        meta["class"],
        config=meta["config"],
        inputs=inputs,
        call=meta["call"],
        choice=Choice(allow_unused=True),  # the fingerprint says whether it is the part that is meant
    )
    return found.arrays
