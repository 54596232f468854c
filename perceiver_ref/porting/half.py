"""Cases of half precision whose model loses more to rounding than the usual tolerance: held to what the format can do.

Where the usual tolerance is missed, the reference runs in the case's format a few times, forward and back, rounding
every step as other implementations do. What a correct implementation may be off by is a small multiple of the largest
error of these runs (`diagnosis.envelope`), which is measured for each array, beside the reference in float64. A model
that is well conditioned gains nothing by it: there the usual tolerance is the larger one. Of random models with sharp
attention, run by PyTorch with gradients, the usual tolerance fails 35 of 68 in bfloat16 and 33 of 58 in float16, this 1
and 2; of the 33 that it lets pass in bfloat16, 31 fail with a weight negated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .cases import Agreement, Case
from .diagnosis.envelope import FACTOR, Roundings
from .gradients.diagnose import gradient_rounding, has_gradients
from .subject import CANNOT_BE_RUN, Subject

FORMATS = ("float16", "bfloat16")
MOST = 1 << 24
"""The most elements of parameters, inputs and compared arrays together: a few dozen runs of those take a minute."""
OWN = 0.5
"""An output is wrong when it is off by more than this part of its own size, whatever rounding may do."""


def wanting(case: Case, dtype: str | None, compared: Sequence[Agreement]) -> bool:
    """Whether rounding is to be measured: in half precision, without a tolerance of the case's own, where numbers are
    off and nothing else is."""
    failed = [a for a in compared if not a.passed]
    given = case.meta["dtype"]
    return (
        bool(failed)
        and given in FORMATS
        and dtype in (None, given, case.dtype.name)
        and not case.meta.get("tolerance")
        and all(math.isfinite(a.error) for a in failed)
    )


def relaxed(case: Case, compared: Sequence[Agreement], exact: Sequence[Agreement]) -> tuple[list[Agreement], list[str]]:
    """What was compared, arrays that fail with the tolerance that their rounding gives them where that is larger; and
    what is to be said of it. `exact`: the same arrays beside the reference in float64, which adds no rounding of its
    own."""
    given = case.meta["dtype"]
    groups = (case.params, case.inputs, case.outputs, case.trace, case.grad_params, case.grad_inputs)
    if (elements := sum(array.size for group in groups for array in group.values())) > MOST:
        return list(compared), [
            f"held to the usual tolerance of {given}: of {elements:,} elements, more than {MOST:,}, it is not measured "
            "how much rounding makes"
        ]
    try:
        limits = _limits(case, [a for a in compared if not a.passed])
    except CANNOT_BE_RUN:
        return list(compared), []
    made, larger, blind, capped = [], [], 0, 0
    beside = {(a.kind, a.name): a.error for a in exact}
    for found in compared:
        key = f"{found.kind}/{case.meta.get('tied', {}).get(found.name, found.name)}"
        limit, size = limits.get(key, (0.0, 0.0))
        if found.kind == "output" and limit > OWN * size:
            limit, capped = OWN * size, capped + (not found.passed)
        if not found.passed:
            if limit > found.tolerance:
                larger.append(limit)
                blind += limit > size
            error = beside.get((found.kind, found.name), found.error)
            found = found._replace(tolerance=max(found.tolerance, limit), error=error)
        made.append(found)
    return made, _notes(given, larger, blind, capped)


def _limits(case: Case, failed: Sequence[Agreement]) -> dict[str, tuple[float, float]]:
    """By key of an array, what rounding may make of it and how large it is, both in the units of `difference`."""
    subject, dtype = Subject(case), case.meta["dtype"]
    ours = subject.compute()
    limits = {name: (limit, _size(ours[name])) for name, limit in Roundings(subject, ours).at(dtype).items()}
    if has_gradients(subject) and any(a.kind.startswith("grad") for a in failed):
        for name, (error, array) in gradient_rounding(subject, dtype).items():
            limits[name] = FACTOR * error, _size(array)
    return {name: pair for name, pair in limits.items() if math.isfinite(pair[0])}


def _size(array: np.ndarray) -> float:
    return min(1.0, float(np.abs(array[np.isfinite(array)]).max(initial=0.0)))


def _notes(given: str, larger: Sequence[float], blind: int, capped: int) -> list[str]:
    notes = []
    if larger:
        count = "1 array is" if len(larger) == 1 else f"{len(larger)} arrays are"
        notes.append(
            f"{count} held to what rounding of {given} makes in this model, up to {max(larger):.1e}: {FACTOR:g} times "
            f"the largest error of a few runs of the reference in {given}"
        )
    if blind:
        notes.append(
            f"nothing is told of {blind} of these, which rounding changes by as much as they are large: a case in "
            "float32 or float64 tells"
        )
    if capped:
        notes.append(
            f"rounding of {given} may change an output by half of its size and more: a case in float32 or float64 tells"
        )
    return notes
