"""What each array of a case is held to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np

from .cases import TOLERANCES, Case
from .cases.compare import GRADIENT_NOISE, coarsest, gradient_tolerance, largest_of


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


def coarser_notes(arrays: Iterable[np.ndarray], case: Case, dtype: str | None) -> list[str]:
    """What is said where arrays are less precise than their case."""
    counts = Counter(array.dtype.name for array in arrays if is_coarser(case, array, dtype))
    return [
        f"{count} of the arrays {'is' if count == 1 else 'are'} {own} in a case of {case.meta['dtype']}, and held to "
        f"{own}'s tolerance: {TOLERANCES[own]['output']:.0e}, gradients {TOLERANCES[own]['gradient']:.0e}"
        for own, count in counts.items()
    ]
