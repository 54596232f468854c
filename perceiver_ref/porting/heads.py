"""How many heads an array of attention has: as a run of the model shows, or as a model's parts say."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

from ..autograd.observing import Event, observe
from ..models.module import Module
from ..models.tracing import where

_WORDS = ("attention", "attn")


class Heads:
    """`shapes`: the place of an attention, the scopes that it runs in, -> the shape of its queries (..., H, N, d)."""

    def __init__(self) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Within this context attention is noted where it runs."""

        def watch(event: Event) -> None:
            if event.op.name == "attention":
                self.shapes.setdefault(where(), event.arguments[0].shape)

        with observe(watch):
            yield

    def of(self, point: str, shape: tuple[int, ...]) -> int | None:
        """That of an array of this shape at one of our points: channels (..., N, C) or weights (..., H, N, M)."""
        place = max((p for p in self.shapes if point == p or point.startswith(f"{p}.")), key=len, default=None)
        rank = len(shape)
        if place is None or rank < 2:
            return None
        queries = self.shapes[place]
        if rank >= 4 and shape[-3] == math.prod(queries[rank - 3 : -2]) > 1:
            return shape[-3]
        heads = math.prod(queries[rank - 2 : -2])
        return heads if heads > 1 and shape[-1] % heads == 0 else None


def heads_of(model: Module, point: str, shape: tuple[int, ...]) -> int | None:
    """As far as a model tells without a run: that of an array of this shape at a point that is called attention.

    None where its attentions have several numbers of heads that fit.
    """
    if not any(word in point.lower() for word in _WORDS) or len(shape) < 2:
        return None
    fits = {n for n in _counts(model) if (len(shape) >= 4 and shape[-3] == n) or shape[-1] % n == 0}
    return fits.pop() if len(fits) == 1 else None


def _counts(model: Module) -> set[int]:
    own = getattr(model, "heads", 1)
    inner = (_counts(part) for part in model.parts().values())
    return {own} - {1} | {n for counts in inner for n in counts} if isinstance(own, int) else set()
