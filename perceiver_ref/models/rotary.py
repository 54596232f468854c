"""Rotary position embedding: queries and keys are turned by angles that grow with their positions.

Su et al. 2021, arXiv 2104.09864, section 3.2. A product of a turned query and a turned key depends on the distance of
their positions alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..autograd import ops
from ..autograd.backend import Array, to_host, xp
from ..autograd.core import array_of
from ..errors import InputError
from .constraints import check_fields

Pairing = Literal["interleaved", "half_split"]
Spacing = Literal["half_open", "closed"]


def frequencies(channels: int, longest: float = 10_000.0, spacing: Spacing = "half_open") -> tuple[float, ...]:
    """Radians a position, by which each of the n = channels / 2 pairs of channels turns, from 1 downwards.

        half_open    w_i = longest^(-i / n)            Su et al., section 3.2.2
        closed       w_i = longest^(-i / (n - 1))      both ends: the last is 1 / longest (Perceiver AR's released code)

    Raises `InputError` for an odd number of channels and a wavelength that is not positive.
    """
    if channels < 0 or channels % 2:
        raise InputError(f"rotary embedding turns pairs of channels: {channels} is not an even number of them")
    if longest <= 0:
        raise InputError(f"the longest wavelength must be positive, got {longest}")
    n = channels // 2
    exponents = np.linspace(0, 1, n, endpoint=spacing == "closed")
    return tuple(float(w) for w in 1 / np.float64(longest) ** exponents)


def even_part(channels: int, fraction: float) -> int:
    """The number of channels of a head that turn when this fraction of them is to: the next lower even number."""
    if not 0 < fraction <= 1:
        raise InputError(f"the fraction of channels that turn must be in (0, 1], got {fraction}")
    return 2 * math.floor(channels * fraction / 2)


def rotate(x: Any, cosine: Any, sine: Any, pairing: Pairing = "interleaved") -> Any:
    """Turn the first r channels of x; the others stay as they are (Su et al., eq. 34).

        y = x cos + x' sin        x' is x with every pair (a, b) replaced by (-b, a)

    Pairs are neighbours ("interleaved"), or channel i and channel i + r / 2 ("half_split").
    x (..., N, d); cosine and sine (..., N, r), r <= d, of every channel's angle -> (..., N, d).
    """
    r = cosine.shape[-1]
    if r % 2 or r > x.shape[-1]:
        raise InputError(f"the number of channels that turn ({r}) must be even and at most a head's {x.shape[-1]}")
    turned, rest = x[..., :r], x[..., r:]
    if pairing == "interleaved":
        pairs = ops.reshape(turned, shape=(*turned.shape[:-1], r // 2, 2))
        quarter = ops.stack([ops.negative(pairs[..., 1]), pairs[..., 0]], axis=-1)
        quarter = ops.reshape(quarter, shape=turned.shape)
    else:
        quarter = ops.concatenate([ops.negative(turned[..., r // 2 :]), turned[..., : r // 2]], axis=-1)
    turned = ops.add(ops.multiply(turned, cosine), ops.multiply(quarter, sine))
    return turned if r == x.shape[-1] else ops.concatenate([turned, rest], axis=-1)


@dataclass(frozen=True)
class Rotary:
    """Which channels of which heads turn, and how fast: `frequencies` (see the function) of the pairs, in radians.

    `heads` says of every head whether it turns; all do without it.
    """

    frequencies: tuple[float, ...]
    pairing: Pairing = "interleaved"
    heads: tuple[bool, ...] | None = None

    def __post_init__(self) -> None:
        check_fields(self)

    def apply(self, x: Any, positions: Any) -> Any:
        """x (..., H, N, d), positions (..., N) in tokens -> the same shape as x."""
        cosine, sine = self.turn(positions, array_of(x))
        return rotate(x, cosine, sine, self.pairing)

    def turn(self, positions: Any, like: Array) -> tuple[Any, Any]:
        """Cosine and sine of the angles of every channel that turns, (..., 1 or H, N, r), in the dtype of `like`.

        The angles themselves are float64: rounded to float32, those of far positions would be off by thousandths.
        """
        library = xp(like)
        place = library.asarray(positions if xp(positions) is library else to_host(positions), np.float64)
        angles = place[..., None, :, None] * library.asarray(self.frequencies, np.float64)
        both = library.repeat(angles, 2, -1) if self.pairing == "interleaved" else library.tile(angles, 2)
        if self.heads is not None:
            if len(self.heads) != like.shape[-3]:
                raise InputError(f"rotary embedding was made for {len(self.heads)} heads, not for {like.shape[-3]}")
            both = both * library.asarray(self.heads, np.float64)[:, None, None]
        return library.cos(both).astype(like.dtype), library.sin(both).astype(like.dtype)
