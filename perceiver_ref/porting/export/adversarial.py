"""The cases that are made of every class: a table of what each does to the usual one, and what that catches."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ...models.perceiver_io import PerceiverIO
from ...models.queries import MultimodalQueries
from .layouts import spread
from .subject import Draft, Exported, Resize

FLAGS: dict[str, str] = {
    "batch": "the number of examples",
    "sizes": "sizes of inputs other than the usual ones",
    "positions": "where elements are",
    "mask": "which elements are real",
    "padding": "values of elements that are not real",
    "numerics": "values for which a formula that is right on paper overflows or cancels",
    "tokens": "integer inputs",
    "media": "which media text sees",
    "gates": "tanh gates",
    "frames": "embeddings of frames",
    "points": "some of the outputs only",
    "prefix": "which tokens are latents",
    "operation": "a single operation",
}
"""What a case exercises; each case of the index lists some."""


@dataclass(frozen=True)
class Kind:
    """A case: `catches` is a sentence for people. `needs` says which subjects have it, `change` alters the draft."""

    id: str
    flags: tuple[str, ...]
    catches: str
    needs: Callable[[Exported], bool] = lambda subject: True
    batch: int = 2
    resize: Resize | None = None
    change: Callable[[Draft], None] = lambda draft: None


def _trait(*names: str) -> Callable[[Exported], bool]:
    return lambda subject: set(names) <= subject.layout.traits


def _masks(subject: Exported) -> bool:
    return subject.layout.mask is not None


def _anywhere(subject: Exported) -> bool:
    """Whether a mask may have holes and rows without any True."""
    return subject.layout.mask is not None and not subject.layout.mask.left


def _pad(draft: Draft) -> None:
    """A different number of real elements in each example, at least one; the rest is finite garbage."""
    mask = draft.subject.layout.mask
    assert mask is not None
    count = draft.subject.layout.elements(draft.inputs)
    real = np.arange(count) < np.array([max(count - 2 - 2 * i, 1) for i in range(draft.batch)])[:, None]
    _masked(draft, real[:, ::-1] if mask.left else real)


def _masked(draft: Draft, real: np.ndarray) -> None:
    mask = draft.subject.layout.mask
    assert mask is not None
    shape = real.shape
    if mask.of is not None:
        of = draft.inputs[mask.of]
        garbage = draft.stream(mask.of).uniform(-30, 30, of.shape)
        if of.dtype.kind == "f":
            draft.inputs[mask.of] = np.where(spread(real, of), of, garbage.astype(of.dtype))
            shape = shape if mask.flat else of.shape[:-1]
    draft.inputs[mask.name] = (real != mask.inverted).reshape(shape).astype(mask.dtype)


def _empty_row(draft: Draft) -> None:
    real = np.ones((draft.batch, draft.subject.layout.elements(draft.inputs)), bool)
    real[0] = False
    _masked(draft, real)


def _holes(draft: Draft) -> None:
    real = draft.stream("holes").random((draft.batch, draft.subject.layout.elements(draft.inputs))) < 0.6
    real[:, 0] = True
    _masked(draft, real)


def _large_logits(draft: Draft) -> None:
    """Queries and keys of the first attention 30 times as large: its logits reach hundreds to thousands."""
    first = next(path.removesuffix("query/weight") for path in draft.params if path.endswith("attention/query/weight"))
    for name in ("query", "key"):
        for part in ("weight", "bias"):
            if (path := f"{first}{name}/{part}") in draft.params:
                draft.params[path] = 30 * draft.params[path]


def _has_attention(subject: Exported) -> bool:
    return any(b.path.endswith("attention/query/weight") for b in subject.rebuilt.bindings)


def _tiny(draft: Draft) -> None:
    """Latents, embeddings and inputs of a variance below eps, and without norms in layers what is added to them."""
    bare = getattr(draft.subject.rebuilt.model, "norms", None) == "none"
    for path in draft.params:
        last = path.rpartition("/")[2]
        if last in ("latents", "table", "embedding", "positions") or last.endswith("_embedding"):
            draft.params[path] = 1e-3 * draft.params[path]
        if bare and path.endswith("/bias"):
            draft.params[path] = 1e-3 * draft.params[path]
    if "vectors" in draft.subject.layout.traits:
        _floats(draft, lambda x: 1e-3 * x)


def _has_gelu(subject: Exported) -> bool:
    bound = any(b.path.endswith("mlp/hidden/bias") for b in subject.rebuilt.bindings)
    return bound and "gelu" in repr(subject.rebuilt.model)


def _tails(draft: Draft) -> None:
    """MLPs whose hidden values are near -2.3, where GELU is small, and its two forms differ by a hundredth of it."""
    for path, array in draft.params.items():
        if path.endswith("mlp/hidden/bias"):
            draft.params[path] = 0.5 * array - 2.3
        elif path.endswith("mlp/hidden/weight"):
            draft.params[path] = 0.2 * array
        elif path.endswith("mlp/output/weight"):
            draft.params[path] = 40 * array


def _rescale(subject: Exported) -> float:
    """What outputs are divided by."""
    return float(getattr(getattr(subject.rebuilt.model, "decoder", None), "rescale", 1.0))


def _undo_rescaling(draft: Draft) -> None:
    factor = 3 * _rescale(draft.subject)
    for name in ("decoder/output/weight", "decoder/output/bias"):
        if name in draft.params:
            draft.params[name] = factor * draft.params[name]


def _far(draft: Draft) -> None:
    _floats(draft, lambda x: x + 1000)


def _floats(draft: Draft, change: Callable[[np.ndarray], np.ndarray]) -> None:
    for name, array in draft.inputs.items():
        if array.dtype.kind == "f":
            draft.inputs[name] = change(array)


def _repeated(draft: Draft) -> None:
    for name, array in draft.inputs.items():
        if array.dtype.kind in "iu":
            draft.inputs[name] = np.full_like(array, array.flat[0])


def _edges(draft: Draft) -> None:
    """Ids 0 and vocabulary - 1 in turn."""
    wanted = draft.subject.layout.arguments(draft.batch, draft.subject.layout.sizes)
    for name, array in draft.inputs.items():
        if array.dtype.kind in "iu" and name in wanted:
            edges = np.array([0, wanted[name].vocabulary - 1], array.dtype)
            draft.inputs[name] = edges[np.indices(array.shape).sum(0) % 2]


def _own_positions(draft: Draft) -> None:
    model = draft.subject.rebuilt.model
    assert isinstance(model, PerceiverIO)
    axes = len(model.preprocessor.positions.max_resolution)  # type: ignore[union-attr]
    shape = (draft.batch, draft.subject.layout.elements(draft.inputs), axes)
    draft.inputs["pos"] = draft.stream("pos").uniform(-1, 1, shape)


def _points(draft: Draft) -> None:
    """A third of the outputs, neither sorted nor without repetition."""
    model = draft.subject.rebuilt.model
    assert isinstance(model, PerceiverIO)
    queries = model.decoder.queries  # type: ignore[union-attr]
    if isinstance(queries, MultimodalQueries):
        sizes: Mapping[str, int] = {name: part.size for name, part in queries.modalities.items() if part.size > 1}
        for name, size in sizes.items():
            draft.inputs[f"points.{name}"] = _some_points(draft, name, size)
    else:
        size = math.prod(queries.index_dims)  # type: ignore[union-attr]
        draft.inputs["points"] = _some_points(draft, "points", size)


def _some_points(draft: Draft, name: str, size: int) -> np.ndarray:
    """A third of so many, at least three: two that differ, and the first once more at the end."""
    points = draft.stream(name).integers(0, size, max(size // 3, 3))
    points[1], points[-1] = (points[0] + 1) % size, points[0]
    return points


def _locations(*columns: int) -> Callable[[Draft], None]:
    """Tags at these tokens of all examples but the last, which has none."""

    def change(draft: Draft) -> None:
        name = "locations" if "locations" in draft.inputs else "media_locations"
        tags = np.zeros_like(draft.inputs[name])
        for column in columns:
            tags[: max(draft.batch - 1, 1), column % tags.shape[1]] = 1
        draft.inputs[name] = tags

    return change


def _all_media(draft: Draft) -> None:
    draft.call = {**draft.call, "which": "all"}


def _closed(draft: Draft) -> None:
    for path in draft.params:
        if path.endswith("_gate"):
            draft.params[path] = np.zeros_like(draft.params[path])


def _turned(draft: Draft) -> None:
    for path in draft.params:
        if path.endswith("_gate"):
            draft.params[path] = -draft.params[path]


def _own_gated(subject: Exported) -> bool:
    return "tags" in subject.layout.traits and subject.peer == "perceiver-ref"


def _no_prefix(draft: Draft) -> None:
    latents = draft.subject.rebuilt.model.latents  # type: ignore[attr-defined]
    draft.inputs = {name: array[:, -latents:] for name, array in draft.inputs.items()}
    draft.call = {**draft.call, "prefix": 0}


def _one_latent(draft: Draft) -> None:
    draft.call = {**draft.call, "prefix": draft.inputs["ids"].shape[1] - 1}


ROWS: tuple[Kind, ...] = (
    Kind("plain", (), "any difference in the computation itself"),
    Kind("batch-1", ("batch",), "an axis of length 1 that is squeezed away or broadcast by accident", batch=1),
    Kind(
        "odd-sizes",
        ("sizes",),
        "sizes that were written into the code, and wrong rounding at borders",
        batch=3,
        resize="odd",
    ),
    Kind("non-square", ("sizes", "positions"), "height and width, or x and y, exchanged", resize="non-square"),
    Kind("single", ("sizes", "numerics"), "0 / 0 in a grid of one position, and softmax over one key", resize="single"),
    Kind(
        "padding",
        ("mask", "padding"),
        "padding that reaches the outputs, and masks inverted or left out",
        _masks,
        change=_pad,
    ),
    Kind(
        "mask-holes",
        ("mask", "padding"),
        "masks reduced to a length, or laid over the wrong axis",
        _anywhere,
        change=_holes,
    ),
    Kind(
        "masked-row",
        ("mask", "numerics"),
        "NaN, or another rule, for an example that has nothing to attend to",
        _anywhere,
        change=_empty_row,
    ),
    Kind(
        "large-logits",
        ("numerics",),
        "softmax that overflows for want of subtracting the largest logit",
        _has_attention,
        change=_large_logits,
    ),
    Kind(
        "tiny-variance",
        ("numerics",),
        "another eps in a norm, or eps outside the square root",
        _trait("latents"),
        change=_tiny,
    ),
    Kind(
        "gelu-tails",
        ("numerics",),
        "GELU's tanh form for that with erf, or the reverse, which float32 hides elsewhere",
        _has_gelu,
        change=_tails,
    ),
    Kind(
        "large-outputs",
        ("numerics",),
        "what is lost in outputs that are divided to a hundredth, and so within the tolerance",
        lambda subject: _rescale(subject) > 1,
        change=_undo_rescaling,
    ),
    Kind(
        "large-mean", ("numerics",), "variance as the difference of two large numbers", _trait("vectors"), change=_far
    ),
    Kind(
        "repeated-tokens",
        ("tokens", "positions"),
        "gradients of an embedding that overwrite instead of adding up",
        _trait("tokens"),
        change=_repeated,
    ),
    Kind(
        "edge-tokens",
        ("tokens",),
        "ids off by one, and a padding id that is treated apart",
        _trait("tokens"),
        change=_edges,
    ),
    Kind(
        "own-positions",
        ("positions", "batch"),
        "positions of the first example used for all",
        _trait("positions"),
        change=_own_positions,
    ),
    Kind(
        "some-points",
        ("points", "positions"),
        "positions of single outputs by another formula, and outputs in another order",
        _trait("points"),
        change=_points,
    ),
    Kind(
        "fewer-frames",
        ("frames",),
        "embeddings of the last frames used in place of the first ones",
        resize="fewer-frames",
    ),
    Kind(
        "more-frames", ("frames",), "embeddings not interpolated, or interpolated with other ends", resize="more-frames"
    ),
    Kind(
        "text-before-media",
        ("media",),
        "text that sees media before any came, and text without media",
        _trait("tags"),
        change=_locations(2, 5),
    ),
    Kind(
        "adjacent-tags", ("media",), "tags next to each other counted as one", _trait("tags"), change=_locations(1, 2)
    ),
    Kind(
        "more-tags-than-media",
        ("media", "mask"),
        "another rule for text whose medium is not there",
        _trait("tags"),
        change=_locations(0, 2, 4, 6),
    ),
    Kind(
        "all-media",
        ("media",),
        "all earlier media mistaken for the last one, or the reverse",
        _own_gated,
        change=_all_media,
    ),
    Kind(
        "gates-closed",
        ("gates",),
        "gates without tanh, and layers that do not begin as the identity",
        _trait("gates"),
        change=_closed,
    ),
    Kind(
        "gates-turned",
        ("gates",),
        "the sign of a gate that is lost, or gates that are only open",
        _trait("gates"),
        change=_turned,
    ),
    Kind("no-prefix", ("prefix",), "a first latent that does not see itself", _trait("prefix"), change=_no_prefix),
    Kind(
        "one-latent",
        ("prefix", "sizes"),
        "a last latent that sees what comes after it, or not itself",
        _trait("prefix"),
        change=_one_latent,
    ),
)
"""Every case that `export` can make of a class, in this order."""


def rows(subject: Exported, chosen: list[str] | None = None) -> list[Kind]:
    """The rows that a subject has, all or those `chosen` by id."""
    found = [row for row in ROWS if row.needs(subject) and (row.resize is None or subject.layout.resized(row.resize))]
    if subject.given is not None:  # arguments are what they are
        found = [
            row
            for row in found
            if row.id in ("plain", "large-logits", "tiny-variance", "gelu-tails", "gates-closed", "gates-turned")
        ]
    return found if chosen is None else [row for row in found if row.id in chosen]
