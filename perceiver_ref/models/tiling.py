"""Optical flow of large images: overlapping tiles, stitched with weights that fall off towards a tile's edge
(Perceiver IO, appendix H; DeepMind's released notebook)."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from ..autograd import ops
from ..autograd.backend import xp
from ..autograd.core import array_of
from ..errors import InputError

Size = tuple[int, int]
_MOST = 100_000  # tiles: each is a forward pass


def tile_origins(image: Size, tile: Size, overlap: int) -> list[Size]:
    """The (y, x) of every tile, row by row: `tile - overlap` apart, one that would stick out moved back to the border.

    Two of them may so be the same, which counts that tile twice, as in DeepMind's code.
    """
    if overlap >= min(tile) or any(n < t for n, t in zip(image, tile)):
        raise InputError(f"tiles {tile} must be larger than their overlap {overlap} and fit the image {image}")
    if math.prod(n // (t - overlap) + 1 for n, t in zip(image, tile)) > _MOST:
        raise InputError(f"an image of {image} has more than {_MOST:,} tiles of {tile} that overlap by {overlap}")
    rows, columns = ([min(start, n - t) for start in range(0, n, t - overlap)] for n, t in zip(image, tile))
    return list(itertools.product(rows, columns))


def stitch(tiles: Any, origins: list[Size], image: Size) -> Any:
    """The weighted mean of overlapping tiles: tiles (T, B, h, w, C), one for each origin -> (B, *image, C).

    The weight of a pixel is its distance from the tile's nearest edge, counted from 1.
    """
    count, _, height, width, _ = tiles.shape
    if count != len(origins):
        raise InputError(f"{count} tiles were given for {len(origins)} origins")
    data = array_of(tiles)
    away = [np.minimum(np.arange(n) + 1, n - np.arange(n)) for n in (height, width)]
    weights = xp(data).asarray(np.minimum(away[0][:, None], away[1])[None, :, :, None].astype(data.dtype))
    total: Any = 0.0
    share: Any = 0.0
    for i, (y, x) in enumerate(origins):
        around = ((0, 0), (y, image[0] - y - height), (x, image[1] - x - width), (0, 0))
        total = ops.add(ops.pad(ops.multiply(tiles[i], weights), widths=around), total)
        share = ops.add(ops.pad(weights, widths=around), share)
    return ops.divide(total, share)
