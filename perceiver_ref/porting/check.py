"""Rebuild a case in the reference from its own parameters, run it forward and backward, and compare everything."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

import numpy as np

from ..autograd import BackendError
from ..errors import InputError
from ..host.files import AnyPath
from .cases import Agreement, Case, agreement, read_case
from .cases.execution import named_points, rebuild, require, run, spread, unknown_points
from .cases.probe import is_probe
from .heads import Heads
from .measures import MEASURES, Threshold, is_logits, measures, missed
from .patterns import masks_of, patterns
from .probed import beside, check_beside, check_probe, weights_of
from .tolerances import Scale, coarser_notes, tolerance_of, tolerances

__all__ = ["Result", "Scale", "check_case", "check_file", "masks_of", "spread", "tolerance_of", "tolerances"]


@dataclass
class Result:
    """The verdict on one case. `status` is "pass", "fail" or "error" (the case could not be run: see `message`)."""

    path: str
    status: str
    agreements: list[Agreement] = field(default_factory=list)
    message: str = ""
    notes: list[str] = field(default_factory=list)
    """What is to be said beside the verdict: what was not compared, and tolerances that are not the case's."""

    def error(self, *kinds: str) -> float | None:
        """The largest error among these kinds of arrays; None when none was compared."""
        return max((a.error for a in self.agreements if a.kind in kinds), default=None)

    @property
    def worst(self) -> Agreement | None:
        """The array that is farthest beyond, or closest to, its tolerance; of those that fail where some do."""
        return max(self.agreements, key=lambda a: (not a.passed, a.error / a.tolerance), default=None)

    def extreme(self, name: str, *kinds: str) -> float | None:
        """The worst value of a measure among these kinds of arrays; None where none has it."""
        values = [a.measures[name] for a in self.agreements if a.kind in kinds and name in a.measures]
        return MEASURES[name].worst(values)


def check_file(
    path: AnyPath,
    mine: AnyPath | None = None,
    *,
    backend: str = "numpy",
    dtype: str | None = None,
    weights: AnyPath | None = None,
    measured: bool = False,
    limits: Sequence[Threshold] = (),
    read: Callable[[AnyPath], Case] = read_case,
) -> Result:
    """`check_case` on a case; with `mine`, on what that file or folder answers in place of the case (`answered`).

    `weights`: a checkpoint, for the probes of its weights. What is wrong with files or their contents becomes a result
    with status "error". `read` makes the case of the file, where it is none of a known peer.
    """
    try:
        case, notes = read(path), list[str]()
        if mine is not None:
            from .compare.answers import answered

            case, notes = answered(case, mine)
        given = weights_of(case, weights) if weights is not None and is_probe(case) else None
        result = check_case(
            case, str(path), backend=backend, dtype=dtype, weights=given, measured=measured, limits=limits
        )
        result.notes[:0] = notes
        return result
    except BackendError:
        raise  # concerns every file
    except InputError as error:
        text = str(error)
        return Result(str(path), "error", message=text if text.startswith(str(path)) else f"{path}: {text}")


def check_case(
    case: Case,
    path: str = "",
    *,
    backend: str = "numpy",
    dtype: str | None = None,
    measured: bool = False,
    limits: Sequence[Threshold] = (),
    weights: Mapping[str, np.ndarray] | None = None,
) -> Result:
    """Compare every output, gradient and traced value of a case with the reference's.

    `dtype` computes in another dtype than the case's; the tolerance of an array is that of the coarsest of the two and
    its own (`tolerance_of`). Traced values of names that the reference does not know are not compared, and counted in a
    note. `measured`: with every measure of each array (`measures`), and what wrong ones look like (`patterns`).
    `limits` are thresholds that arrays are held to instead of their tolerances. Raises `InputError` when the case names
    a peer, class, option or parameter that the reference does not know.
    A probe is compared by its samples and statistics; `weights` are those that it is of, by the peer's names.
    """
    if is_probe(case):
        compared, notes = check_probe(case, path, backend, dtype, weights)
        return Result(path, _status(compared), compared, notes=notes)
    where = case.name
    aliases: dict[str, str] = case.meta.get("tied", {})
    rebuilt, arrays = rebuild(case)
    samples = beside(case, path)
    points = named_points(rebuilt, [*case.trace, *samples])
    gradients = bool(case.cotangents) and case.meta.get("compare_gradients", True)
    heads = Heads()
    with heads.watching() if measured else nullcontext():
        ours = run(
            rebuilt,
            arrays,
            case.inputs,
            case.meta["call"],
            cotangents=case.cotangents if gradients else None,
            points={ours for names in points.values() for ours in names},
            backend=backend,
            dtype=dtype or case.dtype,
            where=where,
        )
    require("output", case.outputs, ours.outputs, where)
    found = {name: next((n for n in names if n in ours.trace), None) for name, names in points.items()}
    traced = {name: point for name, point in found.items() if point is not None}
    require("state", case.state_out, ours.state, where)
    pairs = [("output", name, array, ours.outputs[name]) for name, array in case.outputs.items()]
    pairs += [
        ("trace", n, case.trace[n], spread(ours.trace[traced[n]], case.trace[n])) for n in case.trace if n in traced
    ]
    pairs += [("state", name, array, ours.state[name]) for name, array in case.state_out.items()]
    if gradients:
        require("grad_param", (aliases.get(name, name) for name in case.grad_params), ours.grad_params, where)
        require("grad_input", case.grad_inputs, ours.grad_inputs, where)
        pairs += [
            ("grad_param", name, array, ours.grad_params[aliases.get(name, name)])
            for name, array in case.grad_params.items()
        ]
        pairs += [("grad_input", name, array, ours.grad_inputs[name]) for name, array in case.grad_inputs.items()]
    scale = Scale(case, dtype)
    compared = [agreement(kind, name, a, b, scale.tolerance(kind, a, b)) for kind, name, a, b in pairs]
    said: list[str] = []
    if not limits and case.meta["dtype"] in ("float16", "bfloat16") and _status(compared) == "fail":
        from .half import relaxed, wanting  # with all of the deviations, which nothing else here needs

        if wanting(case, dtype, compared):
            exact = check_case(case, path, backend=backend, dtype="float64")
            compared, said = relaxed(case, compared, exact.agreements)
    if measured or limits:
        masks = masks_of(case.inputs)
        for i, (kind, name, a, b) in enumerate(pairs):
            known = heads.of(traced[name], a.shape) if kind == "trace" else None
            noise = kind.startswith("grad") and scale.is_noise(a, b)
            compared[i] = _measured(compared[i], a, b, limits, known, masks, noise)
    for name, held in samples.items():
        if name in traced:
            compared += check_beside(case, name, held, ours.trace[traced[name]], scale)
    notes = unknown_points([name for name in points if name not in traced])
    notes += said + coarser_notes([array for _, _, array, _ in pairs], case, dtype)
    return Result(path, _status(compared), compared, notes=notes)


def _status(compared: Sequence[Agreement]) -> str:
    return "pass" if all(a.passed for a in compared) else "fail"


def _measured(
    found: Agreement,
    theirs: np.ndarray,
    ours: np.ndarray,
    limits: Sequence[Threshold],
    heads: int | None,
    masks: Mapping[str, np.ndarray],
    noise: bool,
) -> Agreement:
    """With every measure, the thresholds that it misses, and, where it fails, what the difference looks like."""
    logits = is_logits(found.name, ours)
    made = measures(theirs, ours, tolerance=found.tolerance, error=found.error, logits=logits)
    found = found._replace(measures=made, missed=missed(limits, made, ours, noise=noise))
    if found.passed:
        return found
    least = min(found.tolerance, 1e-3 * found.error)  # where thresholds are missed, that may be beyond none
    return found._replace(found=tuple(patterns(theirs, ours, least, heads=heads, masks=masks)))
