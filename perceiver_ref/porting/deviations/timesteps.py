"""Deviations of resamplers that know a timestep, and of losses and divergences."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ...autograd import ops
from ...autograd.backend import xp
from ...autograd.core import Op
from ...models.tracing import where
from ...peers.diffusers import TimeResampler
from ...peers.shape2vecset.parts import Gaussian
from .base import Candidate, Change, Survey, edited, exchanged, replaced


def fourier_order(found: Survey) -> Iterator[Candidate]:
    """Sines and cosines of the timestep exchanged, or in turn."""
    if found.of_class(TimeResampler):

        def exchanged_halves(original: Any, model: Any, *arguments: Any) -> Any:
            return original(model.with_fields(cosine_first=not model.cosine_first), *arguments)

        change = exchanged({TimeResampler._sinusoids: exchanged_halves})
        yield Candidate("fourier-order", "sines and cosines of the timestep exchanged", change)

        def in_turn(original: Any, model: Any, *arguments: Any) -> Any:
            half = model.sinusoids // 2
            order = np.arange(2 * half).reshape(2, half).T.reshape(-1)
            return original(model, *arguments)[..., [*order, *range(2 * half, model.sinusoids)]]

        change = exchanged({TimeResampler._sinusoids: in_turn})
        yield Candidate("fourier-order", "sine and cosine of each frequency of the timestep in turn", change)


def fourier_frequencies(found: Survey) -> Iterator[Candidate]:
    """Frequencies of the timestep with another shift."""
    if found.of_class(TimeResampler):
        for shift in (0.0, 1.0, 0.5):

            def shifted(original: Any, model: Any, *arguments: Any, shift: float = shift) -> Any:
                return original(model.with_fields(shift=shift), *arguments)

            variant = f"of the timestep 10000^(-j / (half - {shift:g}))"
            yield Candidate("fourier-frequencies", variant, exchanged({TimeResampler._sinusoids: shifted}))


_CHUNKS = {
    "scale before shift": (1, 0, 3, 2),
    "the MLP's before attention's": (2, 3, 0, 1),
    "both shifts before both scales": (0, 2, 1, 3),
    "both scales before both shifts": (1, 3, 0, 2),
}


def modulation(found: Survey) -> Iterator[Candidate]:
    """Shifts and scales of adaptive norms cut in another order; scales without the 1 that is added."""
    meant = {path for path in found.paths if path.split("/")[-2:-1] == ["modulation"]}
    if not meant:
        return
    for name, order in _CHUNKS.items():

        def cut(path: str, array: Any, order: tuple[int, ...] = order) -> Any:
            if path not in meant:
                return array
            parts = xp(array).split(array, 4, axis=-1)
            made: list[Any] = [None] * 4
            for place, part in zip(order, range(4)):
                made[part] = parts[place]
            return xp(array).concatenate(made, axis=-1)

        yield Candidate("modulation", name, Change(params=lambda p, cut=cut: edited(p, cut)))  # type: ignore[misc]

    def bare(path: str, array: Any) -> Any:
        if path not in meant or not path.endswith("bias"):
            return array
        shift1, scale1, shift2, scale2 = xp(array).split(array, 4)
        return xp(array).concatenate([shift1, scale1 - 1, shift2, scale2 - 1])

    yield Candidate("modulation", "times scale, not 1 + scale", Change(params=lambda p: edited(p, bare)))


def loss(found: Survey) -> Iterator[Candidate]:
    """Losses that count other labels, or sum where they average; divergences likewise."""
    if "cross_entropy" in found.ops:
        ways: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "ignored labels counted": lambda static: {**static, "ignore_index": -(1 << 30)},
            "label 0 ignored": lambda static: {**static, "ignore_index": 0},
            "summed": lambda static: {**static, "reduction": "sum"},
            "averaged": lambda static: {**static, "reduction": "mean"},
            "smoothed labels left out": lambda static: {**static, "label_smoothing": 0.0},
        }
        for name, change in ways.items():

            def entropy(op: Op, arguments: Any, static: Any, change: Any = change) -> Any:
                return op(*arguments, **change(static))

            yield Candidate("loss", name, replaced({"cross_entropy": entropy}))
    if found.of_class(Gaussian):
        for name, axes in (("summed", (1, 2)), ("summed over channels", (2,)), ("summed over latents", (1,))):

            def reduced(op: Op, arguments: Any, static: Any, axes: tuple[int, ...] = axes) -> Any:
                if where() != "encoder.bottleneck" or static.get("axis") != (1, 2):
                    return op(*arguments, **static)
                out = ops.sum(arguments[0], axis=axes, keepdims=True)
                return ops.mean(out, axis=(1, 2))

            yield Candidate("loss", f"the divergence {name}", replaced({"mean": reduced}))
