"""Small dumps in files, and comparing two of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from support import normal

from perceiver_ref.porting.compare.dumps import Comparison, compare_files
from perceiver_ref.weights.formats.npz import write_npz


def compared(folder: Path, reference: dict[str, Any], candidate: dict[str, Any], **options: Any) -> Comparison:
    for name, arrays in (("reference", reference), ("candidate", candidate)):
        write_npz(folder / f"{name}.npz", {key: np.asarray(array) for key, array in arrays.items()})
    return compare_files(folder / "reference.npz", folder / "candidate.npz", **options)


def chain(count: int = 4, *shape: int) -> dict[str, np.ndarray]:
    """Unrelated values with names in order."""
    return {f"layer.{i}": normal(i, *(shape or (2, 3))) for i in range(count)}


def matched(result: Comparison) -> dict[str, str]:
    return {pair.name: pair.other for pair in result.pairs}
