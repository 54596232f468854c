"""What every preprocessor returns."""

from __future__ import annotations

from typing import Any, NamedTuple


class Preprocessed(NamedTuple):
    """Elements for the encoder (B, M, C), the same without positions (B, M, F), and their number by modality."""

    inputs: Any
    features: Any
    sizes: dict[str, int] | None = None
