"""Drawing the next token from logits: greedy, by temperature, and from the nucleus (Holtzman et al. 2020, arXiv
1904.09751).

Everything is computed on the host in float64 from random numbers drawn there, so that a seed gives the same tokens on
every backend whose logits agree.
"""

from __future__ import annotations

import math

import numpy as np

from ..autograd import backend as backends
from ..autograd.backend import Array
from ..errors import InputError

_ROUNDING = 1e-12  # a sum of probabilities this close to top_p has reached it: eight tenths are 0.7999999999999999


def sample(logits: Array, rng: np.random.Generator | None, *, temperature: float = 1.0, top_p: float = 1.0) -> Array:
    """Token ids (...), int64 on the library of `logits` (..., V), drawn from `token_probabilities`.

    One number is drawn from `rng` for each id, in their order; with temperature 0 none, and `rng` may be None. Raises
    `InputError` as `token_probabilities` does.
    """
    p = token_probabilities(logits, temperature=temperature, top_p=top_p)
    if temperature == 0:
        ids = p.argmax(-1)
    elif not isinstance(rng, np.random.Generator):
        raise InputError(f"sampling at temperature {temperature} needs a numpy.random.Generator, got {rng!r}")
    else:
        ids = _inverse(p, rng.random(p.shape[:-1]))
    return backends.to_backend(np.asarray(ids, np.int64), backends.name(logits))


def token_probabilities(logits: Array, *, temperature: float = 1.0, top_p: float = 1.0) -> np.ndarray:
    """The distribution that `sample` draws from: logits (..., V) -> (..., V), float64 on the host.

        p = softmax(logits / temperature), then 0 outside the nucleus and divided by the nucleus' mass

    The nucleus is the smallest set of the likeliest tokens whose mass is at least `top_p`; of tokens that tie, those of
    smaller ids come first. temperature 0 (greedy) gives 1 to the largest logit, the first of those that tie. A logit of
    -inf excludes its token. Raises `InputError` for a temperature below 0, top_p outside (0, 1], no token at all, and
    logits that are NaN or +inf, or all -inf.
    """
    if not (0 <= temperature < math.inf):
        raise InputError(f"temperature must be finite and at least 0, got {temperature}")
    if not (0 < top_p <= 1):
        raise InputError(f"top_p must be in (0, 1], got {top_p}")
    values = backends.to_host(logits).astype(np.float64)
    if values.ndim < 1 or values.shape[-1] == 0:
        raise InputError(f"logits must be (..., vocabulary) with at least one token, got {values.shape}")
    top = values.max(-1, keepdims=True)
    if not np.isfinite(top).all():  # the largest is NaN where any is
        raise InputError("each row of logits needs a finite largest one, and none may be NaN")
    if temperature == 0:
        p = np.zeros_like(values)
        np.put_along_axis(p, values.argmax(-1)[..., None], 1.0, -1)
        return p
    with np.errstate(over="ignore"):  # a difference over a tiny temperature is -inf, and its probability 0
        p = np.exp((values - top) / temperature)
    p /= p.sum(-1, keepdims=True)
    return p if top_p == 1 else _nucleus(p, values, top_p)


def _nucleus(p: np.ndarray, values: np.ndarray, top_p: float) -> np.ndarray:
    order = np.argsort(-values, axis=-1, kind="stable")  # by logits, which tell apart what rounds to one probability
    mass = np.cumsum(np.take_along_axis(p, order, -1), -1)
    before = np.concatenate([np.zeros_like(mass[..., :1]), mass[..., :-1]], -1)  # of the likelier tokens
    kept = np.zeros(p.shape, bool)
    np.put_along_axis(kept, order, before < top_p * (1 - _ROUNDING), -1)
    p = np.where(kept, p, 0.0)
    return np.asarray(p / p.sum(-1, keepdims=True))


def _inverse(p: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """The first token up to which the mass exceeds `uniform` (...), numbers in [0, 1): never one of probability 0."""
    mass = np.cumsum(p, -1)
    at = uniform[..., None] * mass[..., -1:]  # below the total, also rounded: the factor is at most 1 - 2^-53
    return np.asarray((mass <= at).sum(-1))
