"""What a difference looks like, in words: where it is, and what makes one array of the other.

`patterns` looks for a place ("head 3 of 8 only", `places`) and, there, for what was done to the values ("constant
factor 0.70711"): a row of `VALUES` is one kind of that. It is named where it leaves at most `FITS` of the difference,
which noise does not by chance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from .cases.compare import difference, shape_text
from .compare.layouts import in_layout_of, same_shape_transposed
from .moved import described, order_along, shifted
from .places import FEW, FITS, SAMPLED, Box, Difference, axis_word, place_of
from .rounding.grid import is_stored_in

LARGEST = 1 << 24
"""Elements of the largest array in which patterns are looked for: some 1 GB of float64 and masks."""
STANDS_OUT = 10.0
"""An index stands out where its error is this many times that of the next; of noise it is hardly ever 3."""


class Finding(NamedTuple):
    """What was found: the name of its row, and in words."""

    pattern: str
    said: str


def patterns(
    candidate: np.ndarray,
    reference: np.ndarray,
    tolerance: float,
    *,
    heads: int | None = None,
    masks: Mapping[str, np.ndarray] | None = None,
) -> list[Finding]:
    """What is to be said of how `candidate` differs from `reference`; nothing where it agrees, or looks like noise.

    tolerance: as everywhere, in units of max(max |reference|, 1). `heads` and `masks`: see `Difference`. Arrays of two
    shapes are held against each other in every order of axes. Indices count from 0.

    >>> b = np.arange(12.0).reshape(3, 4)
    >>> [found.said for found in patterns(np.where([0, 0, 0, 1], 0.5 * b, b), b, 1e-6)]
    ['the last column only (3 of 4)', 'there: constant factor 0.50000 = 1/2']
    """
    if candidate.shape != reference.shape:
        return shapes(candidate, reference, tolerance)
    if not 0 < candidate.size <= LARGEST:
        return []
    a, b = (np.asarray(x).astype(np.float64) for x in (candidate, reference))
    size = np.abs(b[np.isfinite(b)]).max(initial=1.0)
    given = Difference(a, b, tolerance * float(size), heads, masks or {})
    if not given.beyond.any() or difference(candidate, reference) <= tolerance:
        return []
    place = place_of(given)
    found = [] if place is None else [Finding(*place[:2])]
    for box in _boxes(given, place[2] if place else None):
        if words := _values(given if box is None else given.within(box)):
            found += [Finding(each.pattern, f"{'there: ' if box is not None else ''}{each.said}") for each in words]
            break
    return found or _outstanding(given)


def _boxes(given: Difference, box: Box | None) -> Iterator[Box | None]:
    """Where to look for what was done to the values: the box, then the same with all of one axis, then everything."""
    if box is not None:
        yield box
        whole = [np.arange(n) for n in given.b.shape]
        cut = [axis for axis, indices in enumerate(box) if len(indices) < len(whole[axis])]
        for axis in cut if len(cut) > 1 else []:
            yield (*box[:axis], whole[axis], *box[axis + 1 :])
    yield None


def shapes(candidate: np.ndarray, reference: np.ndarray, tolerance: float) -> list[Finding]:
    """Of arrays of two shapes: both, and which order of axes or other shape fits, by the values where they tell."""
    both = f"shape {shape_text(candidate)} instead of {shape_text(reference)}"
    layout = in_layout_of(candidate, reference) if 0 < candidate.size <= LARGEST else None
    if layout is None:
        same = candidate.size == reference.size
        return [Finding("shape", f"{both}: no order of axes has {'those values' if same else 'that shape'}")]
    error = difference(layout.array, reference)
    fits = "it agrees" if error <= tolerance else f"it has that shape, but values differ (error {error:.1e})"
    how = layout.said
    if how.startswith(("shape [", "axes [")):
        _, _, moved = how.partition("], ")
        how = f"reshaped, {moved}" if moved else "reshaped"
    return [Finding("shape", f"{both}: {how}, {fits}")]


# --------------------------------------------------------------------------------------------------------------- values


def _values(given: Difference) -> list[Finding]:
    """What makes the candidate of the reference: the first row that does."""
    sample, corner = (given.sample(), given.corner()) if given.a.size > 2 * SAMPLED else (given, given)
    for name, row in VALUES.items():
        first = corner if name in _ALONG else sample
        if name != "order" and first is not given and first.beyond.any() and not row(first):
            continue
        if words := row(given):
            return [Finding(name, words)]
    return []


def _varied(x: np.ndarray) -> bool:
    return x.size > 1 and bool((x != x.flat[0]).any())


def _constant(given: Difference) -> str:
    """The candidate is one number throughout, where the reference is not."""
    if not np.isfinite(given.a).all() or given.a.size < 2:
        return ""
    finite = given.b[np.isfinite(given.b)]
    if np.ptp(given.a) > given.limit or not finite.size or np.ptp(finite) <= 100 * given.limit:
        return ""
    value = float(np.median(given.a))
    return "zeros throughout" if abs(value) <= given.limit else f"{value:.6g} throughout"


def _sign(given: Difference) -> str:
    if not given.a.size >= 2 or not given.b.any():
        return ""
    if given.fitted(-given.b):
        return "sign flipped"
    flipped = np.sign(given.a) == -np.sign(given.b)
    wrong = given.beyond & flipped
    if given.beyond.sum() >= FEW and (wrong == given.beyond).all() and given.fitted(np.where(wrong, -given.b, given.b)):
        return f"sign flipped in {int(wrong.sum())} of {given.a.size} elements"
    return ""


def _offset(given: Difference) -> str:
    """The same number added everywhere."""
    if given.a.size < 3 or not np.isfinite(given.largest):
        return ""
    finite = np.isfinite(given.b)
    apart = (given.a - given.b)[finite]
    offset = float(np.median(apart))
    return f"constant offset {offset:.5g}" if offset and given.fitted(given.b + offset) else ""


def _factor(given: Difference) -> str:
    finite = np.isfinite(given.b) & np.isfinite(given.a)
    a, b = given.a[finite], given.b[finite]
    scale = float(np.abs(b).max(initial=0.0))
    if a.size < 3 or not scale or not np.isfinite(given.largest):
        return ""
    factor = float((a / scale) @ (b / scale) / ((b / scale) @ (b / scale)))
    if factor == 0 or not given.fitted(factor * given.b):
        return ""
    return f"constant factor {factor:.5f}{_known(factor)}" if abs(factor) >= 0.01 else f"constant factor {factor:.4e}"


def _known(factor: float) -> str:
    """A root or a whole number that a factor is."""
    for value, said in (
        *((n, "") for n in range(2, 65)),
        *((n**0.5, f"sqrt({n})") for n in range(2, 4097)),
    ):
        for made, words in ((value, said), (1 / value, f"1/{said or value}")):
            if words and abs(factor - made) <= 2e-6 * made:
                return f" = {words}"
    return ""


def _shift(given: Difference) -> str:
    """By some positions along an axis."""
    made = shifted(given.a, given.b)
    if made is None:
        return ""
    axis, by, wrapped = made
    word = axis_word(axis, given.a.ndim).replace("row", "position")
    count = f"one {word}" if abs(by) == 1 else f"{abs(by)} {word}s"
    return (
        f"shifted by {count}, {'later' if by > 0 else 'earlier'}{', around the end' if wrapped else ''} (axis {axis})"
    )


def _order(given: Difference) -> str:
    """Rows, columns or items in another order."""
    for axis in reversed(range(given.a.ndim) if given.axes is None else given.axes):
        first = given.corner(axis) if given.a.size > 2 * SAMPLED else given
        if first is not given and first.beyond.any() and order_along(first.a, first.b, axis) is None:
            continue
        made = order_along(given.a, given.b, axis)
        if made is not None:
            word = axis_word(axis, given.a.ndim)
            return f"{described(made, word)} (axis {axis})"
    return ""


def _stored(given: Difference) -> str:
    """Rounded to another format, and nothing more."""
    if not _varied(given.b) or given.a.size < FEW:
        return ""
    fits = (dtype for dtype in ("bfloat16", "float16") if is_stored_in(given.a, given.b, dtype))
    return next((f"the reference's values rounded to {dtype}" for dtype in fits), "")


def _transposed(given: Difference) -> str:
    if not np.isfinite(given.largest) or given.a.size < 4:
        return ""
    size = float(np.abs(given.b).max(initial=1.0))
    said = same_shape_transposed(given.a, given.b, FITS * given.largest / max(size, 1.0))
    return f"transposed: {said}" if said else ""


VALUES: dict[str, Callable[[Difference], str]] = {
    "constant": _constant,
    "sign": _sign,
    "offset": _offset,
    "factor": _factor,
    "shift": _shift,
    "order": _order,
    "transposed": _transposed,
    "stored": _stored,
}
"""Name -> a function that says what was done to the values, "" where that was not done."""
_ALONG = ("shift", "transposed")
"""Those that are told by neighbours, of which a sample has none"""


# ------------------------------------------------------------------------------------------------------ what stands out


def _outstanding(given: Difference) -> list[Finding]:
    """An item, row, column or head whose error is far above those of all others."""
    if not np.isfinite(given.largest):
        return []
    square = np.square(np.minimum(given.apart, 1e150))
    for n, word, error in _errors_by_index(given, square):
        if n < 3 or square.size < FEW * n:
            continue
        order = np.argsort(error)
        top, second = float(error[order[-1]]), float(error[order[-2]])
        if top > STANDS_OUT * second and second > 0:
            name = f"{word} {int(order[-1])} of {n}"
            return [Finding("stands-out", f"{name} stands out: RMS error {top:.1e}, the others' up to {second:.1e}")]
    return []


def _errors_by_index(given: Difference, square: np.ndarray) -> Iterator[tuple[int, str, np.ndarray]]:
    """(length, word, RMS error by index) of heads, where they are known, and of every axis from the last."""
    shape, ndim, heads = given.b.shape, given.b.ndim, given.heads
    if heads and shape[-1] % heads == 0 and 1 < heads < shape[-1] and not given.has_axis_of_heads:
        parts = square.reshape(-1, heads, shape[-1] // heads)
        yield heads, "head", np.sqrt(parts.mean((0, 2)))
    for axis in reversed(range(ndim)):
        others = tuple(i for i in range(ndim) if i != axis)
        word = "head" if given.has_axis_of_heads and axis == ndim - 3 else axis_word(axis, ndim)
        yield shape[axis], word, np.sqrt(square.mean(others))


def said(found: Sequence[Finding]) -> str:
    """Findings in one line."""
    return "; ".join(each.said for each in found)


def masks_of(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Masks (B, M) among a case's inputs, True where something is real: of bool, or of zeros and ones. Those whose name
    speaks of padding are True where nothing is."""
    masks = {name: array for name, array in inputs.items() if "mask" in name.lower() and array.ndim == 2}
    return {
        name: array.astype(bool) ^ ("pad" in name.lower())
        for name, array in masks.items()
        if ((array == 0) | (array == 1)).all()
    }
