"""Wrong gradients of attention: its softmax, scale and mask. Equations as in `autograd.ops.attention`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from ....autograd import ops
from ....autograd.ops.attention import scale_factor
from ...rounding.grid import cast_to
from ..graph import Ran
from .base import Rule, Slip

_Scores = Callable[[Any, Any, Any], Any]


def _options(step: Ran) -> dict[str, Any]:
    return {name: step.options[name] for name in ("mask", "scale", "masked_rows")}


def _weights(step: Ran, **changed: Any) -> Any:
    """p, (..., N, M); with other options or another bias."""
    q, k, _, bias = (*step.arguments, None)[:4]
    options = {"bias": bias, **_options(step), **changed}
    return ops.attention_weights(q, k, options.pop("bias"), **options)


def _of_weights(step: Ran, gradient: Any) -> Any:
    """The gradient of the weights, (..., N, M), of masked keys as well, unless their values are not finite."""
    v = step.arguments[2]
    return gradient @ np.where(np.isfinite(v), v, 0.0).swapaxes(-1, -2)


def _of_scores(step: Ran, ds: Any, *, leaking: bool = False) -> dict[int, Any]:
    """Gradients of queries, keys and bias from those of the scores; zero where masked unless `leaking`."""
    (q, k, *_), options = step.arguments, _options(step)
    mask = options["mask"]
    if mask is not None and not leaking:
        ds = np.where(mask, ds, 0.0)
    scaled = ds * scale_factor(q, options["scale"])
    return {0: scaled @ np.where(np.isfinite(k), k, 0.0), 1: scaled.swapaxes(-1, -2) @ q, 3: ds}


def _softmax(rule: _Scores, *, leaking: bool = False) -> Rule:
    """The rule from the weights, their gradient and the sum of their products to the gradient of the scores."""

    def run(step: Ran, gradient: Any) -> dict[int, Any]:
        p, g = _weights(step), _of_weights(step, gradient)
        return _of_scores(step, rule(p, g, (p * g).sum(-1, keepdims=True)), leaking=leaking)

    return run


def _scaled(power: float, *positions: int) -> Rule:
    """Gradients of queries or keys times a power of the scale."""

    def run(step: Ran, gradient: Any) -> dict[int, Any]:
        made, factor = step.pull(gradient), scale_factor(step.arguments[0], _options(step)["scale"])
        return {p: made[p] * factor**power for p in positions}

    return run


def _again(**changed: Any) -> Rule:
    """Everything with weights that are computed again with other options."""

    def run(step: Ran, gradient: Any) -> dict[int, Any]:
        p = _weights(step, **changed)
        p_g = gradient @ step.arguments[2].swapaxes(-1, -2)
        ds = p * (p_g - (p * p_g).sum(-1, keepdims=True))
        return {**_of_scores(step, ds, leaking="mask" in changed), 2: p.swapaxes(-1, -2) @ gradient}

    return run


def _leaking(step: Ran, gradient: Any) -> dict[int, Any]:
    """Rows without any key: the gradient passes through the fill of the scores."""
    p = _weights(step, masked_rows="uniform")
    p_g = _of_weights(step, gradient)
    return _of_scores(step, p * (p_g - (p * p_g).sum(-1, keepdims=True)), leaking=True)


def _filled(step: Ran, gradient: Any) -> dict[int, Any]:
    """Rows without any key: masked scores were filled in, not added to, so that nothing passes through them."""
    p, p_g = _weights(step), _of_weights(step, gradient)
    return _of_scores(step, p * (p_g - (p * p_g).sum(-1, keepdims=True)))


def _wiped(step: Ran, gradient: Any) -> dict[int, Any]:
    """Values of rows without any key get the gradient that their zeros stop."""
    return {2: _weights(step, masked_rows="uniform").swapaxes(-1, -2) @ gradient}


def _narrow_scores(cast: Callable[[Any], Any], p: Any, g: Any, s: Any) -> Any:
    return cast(p * (g - s))


def _empty_rows(step: Ran) -> bool:
    mask = _options(step)["mask"]
    return mask is not None and not mask.any(-1).all()


def _filling(step: Ran) -> bool:
    return _empty_rows(step) and _options(step)["masked_rows"] != "added"


def _adding(step: Ran) -> bool:
    return _empty_rows(step) and _options(step)["masked_rows"] == "added"


def _biased(step: Ran) -> bool:
    return len(step.arguments) > 3 and step.arguments[3] is not None


def _masked(step: Ran) -> bool:
    return _options(step)["mask"] is not None


def _row(
    cause: str, variant: str, rule: Rule, *positions: int, when: Callable[[Ran], bool] = lambda step: True
) -> Slip:
    return Slip(cause, variant, ("attention",), positions or (0, 1, 3), rule, when)


_STEPS: dict[str, _Scores] = {
    "without the sum over keys": lambda p, g, s: p * g,
    "its diagonal alone, p (1 - p)": lambda p, g, s: p * (1 - p) * g,
    "with the sum averaged over keys": lambda p, g, s: p * (g - s / p.shape[-1]),
    "with the sum over queries": lambda p, g, s: p * (g - (p * g).sum(-2, keepdims=True)),
    "with the sum of gradients that are not weighted": lambda p, g, s: p * (g - g.sum(-1, keepdims=True)),
    "with the mean of gradients that are not weighted": lambda p, g, s: p * (g - g.mean(-1, keepdims=True)),
    "not multiplied by the weights": lambda p, g, s: g - s,
    "left out, the scores get the weights' gradient": lambda p, g, s: g,
    "with the sum added": lambda p, g, s: p * (g + s),
}

_UNWEIGHTED = ("not multiplied by the weights", "left out, the scores get the weights' gradient")

ATTENTION: tuple[Slip, ...] = (
    _row("gradient-stopped", "through the attention weights", _softmax(lambda p, g, s: 0.0 * p)),
    *(_row("softmax-backward", variant, _softmax(rule)) for variant, rule in _STEPS.items()),
    *(
        _row("softmax-backward", f"{variant}, of masked keys as well", _softmax(_STEPS[variant], leaking=True))
        for variant in _UNWEIGHTED
    ),
    *(
        _row("gradient-dtype", f"the scores' gradient in {dtype}", _softmax(partial(_narrow_scores, cast_to(dtype))))
        for dtype in ("float16", "bfloat16", "float32")
    ),
    *(
        _row("attention-scale-backward", f"{what}{of}", _scaled(power, *positions), *positions)
        for positions, of in (((0, 1), ""), ((0,), " for queries alone"), ((1,), " for keys alone"))
        for power, what in ((-1, "scale left out"), (1, "scale applied twice"), (-2, "divided by the scale"))
    ),
    _row("gradient-recomputed", "attention weights again without the mask", _again(mask=None), 0, 1, 2, when=_masked),
    _row("gradient-recomputed", "attention weights again without the scale", _again(scale=1.0), 0, 1, 2),
    _row("gradient-recomputed", "attention weights again without the bias", _again(bias=None), 0, 1, 2, when=_biased),
    _row("mask-backward", "rows without any key give gradient to queries and keys", _leaking, 0, 1, when=_filling),
    _row("mask-backward", "rows without any key give none to queries and keys", _filled, 0, 1, when=_adding),
    _row("mask-backward", "rows without any key give gradient to values", _wiped, 2, when=_empty_rows),
)
"""Rows about the op `attention`."""

__all__ = ["ATTENTION"]
