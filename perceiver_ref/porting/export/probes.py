"""Probes of a subject: kilobytes for a model of any size (`cases.probe`), of weights that are given or made again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...autograd import tree
from ...autograd.backend import to_host
from ...models.module import Parameter
from ..cases import TOLERANCES, Case
from ..cases.execution import Run, run
from ..cases.generator import made
from ..cases.probe import fingerprint, keep, new_probe
from ..cases.samples import COUNT, Sampled, disagreement, sampled
from .adversarial import Kind
from .draw import TABLES, Argument
from .make import ExportOptions, described, peer_trace
from .subject import Arrays, Exported, paths_by_name

Specs = dict[str, dict[str, Any]]


def make_probe(subject: Exported, row: Kind, options: ExportOptions, samples: int = COUNT) -> Case:
    """The probe of a subject. Its inputs are made by the generator, unless they were given; its weights likewise.

    Everything is computed in `options.dtype` by the reference; in float32 in float64, too, for the tolerance.
    """
    params = {} if subject.weights is not None else _weights(subject)
    inputs = {} if subject.given is not None else _inputs(subject, options.batch or row.batch)
    meta = described(subject, row, dict(subject.layout.call), options)
    probe = new_probe(meta, seed=options.seed, samples=samples)
    own = probe.meta["probe"]
    own["inputs"] = inputs
    if subject.weights is not None:
        own["weights"] = fingerprint(subject.weights)
    else:
        own["params"] = params
    if subject.given is not None:
        probe.inputs = {name: _cast(np.asarray(array), options.dtype) for name, array in subject.given.items()}
    found = _answers(subject, probe, options, options.dtype)
    if options.dtype == "float32":
        exact = _answers(subject, probe, options, "float64")
        probe.meta["tolerance"] = _measured(found, exact)
    for key, array in found.items():
        keep(probe, key, array)
    return probe


def _weights(subject: Exported) -> Specs:
    """Specifications of all parameters and buffers by the peer's names: as `draw` has them, of values that any language
    can make."""
    model = subject.rebuilt.model
    known: dict[str, Parameter] = {**tree.flatten(model.parameters()), **dict(tree.leaves(model.state()))}
    return {
        name: {"shape": list(shape), **_weight(path, known[path].shape)}
        for name, (path, shape) in paths_by_name(subject.rebuilt).items()
    }


def _weight(path: str, shape: tuple[int, ...]) -> dict[str, Any]:
    last = path.rpartition("/")[2].removesuffix("_hidden")
    if last == "count":
        return {"kind": "constant", "value": 3.0}
    if last in ("scale", "average", "var", "variance"):
        return {"kind": "scale"}
    if last in TABLES or last.endswith("embedding"):
        return {"kind": "signed", "exponent": 7}
    if len(shape) > 1:  # of a standard deviation of about 1 / sqrt(inputs)
        return {"kind": "signed", "exponent": 7 + round(math.log2(max(math.prod(shape[:-1]), 1)) / 2)}
    return {"kind": "signed", "exponent": 8}


def _inputs(subject: Exported, batch: int) -> Specs:
    return {
        name: {"shape": list(argument.shape), **_input(argument)}
        for name, argument in subject.layout.arguments(batch, subject.layout.sizes).items()
    }


def _input(argument: Argument) -> dict[str, Any]:
    dtype = {"dtype": argument.dtype} if argument.dtype else {}
    if argument.kind == "ids":
        return {"kind": "ids", "modulus": argument.vocabulary, **dtype}
    if argument.kind in ("one-hot", "tags"):
        return {"kind": argument.kind, **dtype}
    if argument.kind == "real":
        return {"kind": "constant", "value": 1, "dtype": argument.dtype or "bool"}
    return {"kind": "signed", "exponent": 7 if argument.kind == "normal" else 8, **dtype}


def _answers(subject: Exported, probe: Case, options: ExportOptions, dtype: str) -> dict[str, Sampled]:
    """Everything that is kept, by key, computed in `dtype`."""
    own = probe.meta["probe"]
    given = _made("param", own.get("params"), own, options.dtype)
    arrays = given if subject.weights is None else subject.weights
    inputs = _made("input", own["inputs"], own, options.dtype) | probe.inputs

    def sample(array: Any) -> Sampled:
        return sampled(to_host(array), own["seed"], own["samples"])

    def computed(cotangents: Arrays | None) -> Run:
        return run(
            subject.rebuilt,
            arrays,
            inputs,
            probe.meta["call"],
            cotangents=cotangents,
            points=(lambda name: True) if options.trace and cotangents is None else None,
            kept=lambda name, value: sample(value),
            dtype=dtype,
            where=subject.id,
        )

    first = computed(None)
    outputs = {name: array for name, array in first.outputs.items() if subject.layout.outputs(name)}
    kept = {f"output/{name}": sample(array) for name, array in outputs.items()}
    traced = peer_trace(subject.rebuilt, first.trace) if options.trace else {}
    floats = {name: array for name, array in outputs.items() if array.dtype.kind == "f"}
    if options.gradients and floats:
        own["cotangents"] = {
            name: {"shape": list(array.shape), "kind": "signed", "exponent": 7} for name, array in floats.items()
        }
        second = computed(_made("cotangent", own["cotangents"], own, options.dtype))
        kept |= {f"grad_param/{name}": sample(array) for name, array in second.grad_params.items()}
        kept |= {f"grad_input/{name}": sample(array) for name, array in second.grad_inputs.items()}
    return {**kept, **{f"trace/{name}": value for name, value in traced.items()}}


def _made(group: str, specs: Mapping[str, Any] | None, own: Mapping[str, Any], dtype: str) -> Arrays:
    return {name: made(f"{group}/{name}", spec, own["seed"], dtype) for name, spec in (specs or {}).items()}


def _measured(found: Mapping[str, Sampled], exact: Mapping[str, Sampled]) -> dict[str, float]:
    """Tolerances where float32 needs more than the usual ones, from its difference to float64 (as `make` has them)."""
    errors = {"output": 0.0, "gradient": 0.0}
    for key, value in exact.items():
        kind = "gradient" if key.startswith("grad_") else "output"
        errors[kind] = max(errors[kind], *disagreement(found[key], value)[:2])
    usual = TOLERANCES["float32"]
    return {kind: float(f"{4 * error:.1e}") for kind, error in errors.items() if 4 * error > usual[kind]}


def _cast(array: np.ndarray, dtype: str) -> np.ndarray:
    return array.astype(dtype) if array.dtype.kind == "f" else array
