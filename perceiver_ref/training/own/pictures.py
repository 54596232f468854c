"""A picture from a file as a model takes it, with the extra `images` (pillow)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")
"""Endings of pictures."""
_PIXELS = 1 << 26


def read_image(path: Path, saved: Any) -> np.ndarray:
    """A picture as (1, H, W, C) of the size and colours of the saved model's inputs.

    Bytes for a classifier that says how examples are scaled; otherwise float32 from -1 to 1. Raises `InputError` for
    what pillow cannot read, and for a model of other inputs.
    """
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise InputError(f"{path}: pictures need pillow; python -m pip install 'perceiver-ref[images]'") from None
    size, channels = _wanted(saved)
    try:
        with Image.open(path) as image:
            if image.width * image.height > _PIXELS:
                raise InputError(f"{path} has {image.width} x {image.height} pixels, too many")
            made = image.convert("L" if channels == 1 else "RGB")
            if size is not None:
                made = made.resize((size[1], size[0]), Image.Resampling.BILINEAR)
            pixels = np.asarray(made)
    except InputError:
        raise
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} is no picture that can be read ({error})") from None
    pixels = pixels[None, ..., None] if channels == 1 else pixels[None]
    return pixels if saved.kind == "classify" else (pixels / 127.5 - 1).astype(np.float32)


def _wanted(saved: Any) -> tuple[tuple[int, int] | None, int]:
    """((height, width), channels) of the model's images; no size where any will do."""
    if saved.kind == "classify":
        scaling = saved.scaling()
        if scaling.kind != "image":
            raise InputError(f"{saved.path} takes {scaling.kind}s, not pictures")
        height, width, channels = scaling.shape
        return (height, width), channels
    preprocessor = getattr(saved.model, "preprocessor", None)
    channels = getattr(getattr(preprocessor, "features", None), "image_channels", None)
    if channels not in (1, 3):
        raise InputError(f"{saved.path} takes no pictures")
    positions = getattr(preprocessor, "positions", None)
    grid = getattr(positions, "max_resolution", None) or getattr(positions, "grid", None)
    features = preprocessor.features if preprocessor is not None else None
    plain = type(features).__name__ in ("Pixels", "Conv1x1") and getattr(features, "space", 1) == 1
    return ((grid[0], grid[1]) if grid is not None and len(grid) == 2 and plain else None), channels
