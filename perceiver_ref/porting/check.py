"""Rebuild a case in the reference from its own parameters, run it forward and backward, and compare everything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..autograd import BackendError
from ..autograd.backend import to_host
from ..errors import InputError, shortened
from ..host.files import AnyPath
from ..weights.checkpoints import read_checkpoint
from .cases import TOLERANCES, Agreement, Case, agreement, read_case
from .cases.compare import GRADIENT_NOISE, coarsest, gradient_tolerance, largest_of
from .cases.execution import named_points, rebuild, run, unknown_points
from .cases.probe import expanded, is_probe, kept
from .cases.samples import Sampled, disagreement, sampled
from .cases.summaries import pair
from .heads import Heads
from .measures import MEASURES, Threshold, is_logits, measures, missed
from .patterns import patterns


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
        given = _weights_of(case, weights) if weights is not None and is_probe(case) else None
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
        return _check_probe(case, path, backend, dtype, weights)
    where = case.name
    aliases: dict[str, str] = case.meta.get("tied", {})
    rebuilt, arrays = rebuild(case)
    summaries = _summaries(case)
    points = named_points(rebuilt, [*case.trace, *summaries])
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
    _require("output", case.outputs, ours.outputs, where)
    found = {name: next((n for n in names if n in ours.trace), None) for name, names in points.items()}
    traced = {name: point for name, point in found.items() if point is not None}
    _require("state", case.state_out, ours.state, where)
    pairs = [("output", name, array, ours.outputs[name]) for name, array in case.outputs.items()]
    pairs += [
        ("trace", n, case.trace[n], spread(ours.trace[traced[n]], case.trace[n])) for n in case.trace if n in traced
    ]
    for name, held in summaries.items():
        if name in traced:
            pairs.append(("trace", f"{name} (summary)", *_summary(name, held, ours.trace[traced[name]])))
    pairs += [("state", name, array, ours.state[name]) for name, array in case.state_out.items()]
    if gradients:
        _require("grad_param", (aliases.get(name, name) for name in case.grad_params), ours.grad_params, where)
        _require("grad_input", case.grad_inputs, ours.grad_inputs, where)
        pairs += [
            ("grad_param", name, array, ours.grad_params[aliases.get(name, name)])
            for name, array in case.grad_params.items()
        ]
        pairs += [("grad_input", name, array, ours.grad_inputs[name]) for name, array in case.grad_inputs.items()]
    scale = Scale(case, dtype)
    compared = [agreement(kind, name, a, b, scale.tolerance(kind, a, b)) for kind, name, a, b in pairs]
    if measured or limits:
        masks = masks_of(case.inputs)
        for i, (kind, name, a, b) in enumerate(pairs):
            known = heads.of(traced[name], a.shape) if kind == "trace" else None
            noise = kind.startswith("grad") and scale.is_noise(a, b)
            compared[i] = _measured(compared[i], a, b, limits, known, masks, noise)
    notes = unknown_points([name for name in points if name not in traced])
    notes += _coarser([array for _, _, array, _ in pairs], case, dtype)
    return Result(path, "pass" if all(a.passed for a in compared) else "fail", compared, notes=notes)


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


def masks_of(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Masks (B, M) among a case's inputs, True where something is real: of bool, or of zeros and ones. Those whose name
    speaks of padding are True where nothing is."""
    masks = {name: array for name, array in inputs.items() if "mask" in name.lower() and array.ndim == 2}
    return {
        name: array.astype(bool) ^ ("pad" in name.lower())
        for name, array in masks.items()
        if ((array == 0) | (array == 1)).all()
    }


def _check_probe(
    probe: Case, path: str, backend: str, dtype: str | None, weights: Mapping[str, np.ndarray] | None
) -> Result:
    """The same for a probe: nothing but samples is kept of what is traced."""
    theirs, case, own = kept(probe, path), expanded(probe, weights), probe.meta["probe"]
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
        _require(kind, there, group, probe.name)
        ours |= {f"{kind}/{name}": sample(group[name]) for name in there}
    ends = {key: s.ends for key, s in theirs.items() if key.startswith("grad_")}
    scale = Scale(replace(probe, cotangents=case.cotangents, grad_params=ends, grad_inputs={}), dtype)
    compared = []
    for key, wanted in ours.items():
        kind, _, name = key.partition("/")
        samples, numbers, note = disagreement(theirs[key], wanted)
        tolerance = scale.tolerance(kind, theirs[key].ends, wanted.ends)
        compared.append(Agreement(kind, name, samples, tolerance, note))
        compared.append(Agreement(kind, f"{name} (statistics)", numbers, tolerance, note))
    notes = [f"a probe: {own['samples']} samples and the statistics of each of {len(ours)} arrays"]
    notes += unknown_points([n for n in case.trace if f"trace/{n}" not in ours])
    return Result(path, "pass" if all(a.passed for a in compared) else "fail", compared, notes=notes)


def _weights_of(case: Case, path: AnyPath) -> dict[str, np.ndarray]:
    """The arrays of a checkpoint that the class of a probe needs."""
    own = case.meta["probe"]
    shapes = {name: tuple(spec["shape"]) for name, spec in (own.get("inputs") or {}).items()}
    inputs = {n: np.broadcast_to(np.zeros(()), s) for n, s in shapes.items()} | case.inputs
    meta = case.meta
    found = read_checkpoint(meta["peer"], path, meta["class"], config=meta["config"], inputs=inputs, call=meta["call"])
    return found.arrays


def _require(kind: str, wanted: Iterable[str], given: Iterable[str], where: str) -> None:
    if absent := sorted(set(wanted) - set(given)):
        raise InputError(f"{where}: the reference gives no {kind} {', '.join(absent)}; it gives {', '.join(given)}")


def spread(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Our value in the peer's shape: repeated where the peer repeats it for the whole batch, or has axes of length 1
    before it; one of all equal items, where the peer has it once."""
    if ours.ndim and theirs.shape == (1, *ours.shape[1:]) and len(ours) and (ours == ours[:1]).all():
        return ours[:1]
    first = theirs.ndim - ours.ndim
    return np.broadcast_to(ours, theirs.shape) if first > 0 and ours.shape == theirs.shape[first:] else ours


def _summaries(case: Case) -> dict[str, Any]:
    """What is held of intermediate values in place of them, by their names."""
    given = case.meta.get("summaries", {})
    if not isinstance(given, dict) or not all(key.startswith("trace/") for key in given):
        raise InputError(f"{case.name}: meta.summaries must be {{'trace/<path>': {{...}}}}, got {shortened(given)}")
    return {key.removeprefix("trace/"): value for key, value in given.items()}


def _summary(name: str, held: Any, ours: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of a summary and our own; of another shape where the array is."""
    what = f"trace/{shortened(name, bare=True)}"
    try:
        like = np.broadcast_to(np.float32(0), tuple(held["shape"]))
        dtype = np.dtype(held["dtype"] if held["dtype"] in TOLERANCES else "float64")
    except (KeyError, MemoryError, OverflowError, TypeError, ValueError):
        raise InputError(f"meta.summaries: {what} has no shape and dtype") from None
    ours = spread(ours, like)
    if ours.shape != like.shape:
        return like, ours
    theirs, own = pair(held, ours, what)
    return theirs.astype(dtype), own


class Scale:
    """What the arrays of a case are held to: `tolerance_of`, and gradients to their own size (`gradient_tolerance`)."""

    def __init__(self, case: Case, dtype: str | None = None) -> None:
        self.case, self.dtype = case, dtype
        self.largest = largest_of(case.grad_params, case.grad_inputs, case.cotangents)

    def tolerance(self, kind: str, theirs: np.ndarray, ours: np.ndarray) -> float:
        """That of one array of the case and the reference's."""
        usual = tolerance_of(self.case, kind, theirs, self.dtype)
        if not kind.startswith("grad"):
            return usual
        given = self.case.meta["dtype"]
        least = coarsest(given, self.dtype or given, theirs.dtype.name)
        return gradient_tolerance(usual, least, ours, theirs, self.largest)

    def is_noise(self, theirs: np.ndarray, ours: np.ndarray) -> bool:
        """Whether a gradient of the reference's is zero but for rounding, beside the largest of its pass."""
        given = self.case.meta["dtype"]
        least = coarsest(given, self.dtype or given, theirs.dtype.name)
        return largest_of({"": ours}) <= GRADIENT_NOISE[least] * self.largest


def tolerances(case: Case, dtype: str | None = None) -> dict[str, float]:
    """By kind: the case's own, else those of the coarser of the case's dtype and the one computed in."""
    given = case.meta["dtype"]
    computed = coarsest(given, dtype or given)
    limits, own = TOLERANCES[computed], case.meta.get("tolerance", {})
    if computed == given:
        return {**limits, **own}
    return {kind: max(limit, own.get(kind, 0.0)) for kind, limit in limits.items()}


def tolerance_of(case: Case, kind: str, array: np.ndarray, dtype: str | None = None) -> float:
    """What an array is held to: `tolerances`, or those of its own dtype where it is less precise than the case says."""
    limits = tolerances(case, dtype)
    if is_coarser(case, array, dtype):
        limits = tolerances(case, array.dtype.name)
    return limits["gradient" if kind.startswith("grad") else "output"]


def is_coarser(case: Case, array: np.ndarray, dtype: str | None = None) -> bool:
    """Whether an array is less precise than its case says, and than what is computed in."""
    computed, own = coarsest(case.meta["dtype"], dtype or case.meta["dtype"]), array.dtype.name
    return own in TOLERANCES and own != computed and coarsest(own, computed) == own


def _coarser(arrays: Iterable[np.ndarray], case: Case, dtype: str | None) -> list[str]:
    """What is said where arrays are less precise than their case."""
    counts = Counter(array.dtype.name for array in arrays if is_coarser(case, array, dtype))
    return [
        f"{count} of the arrays {'is' if count == 1 else 'are'} {own} in a case of {case.meta['dtype']}, and held to "
        f"{own}'s tolerance: {TOLERANCES[own]['output']:.0e}, gradients {TOLERANCES[own]['gradient']:.0e}"
        for own, count in counts.items()
    ]
