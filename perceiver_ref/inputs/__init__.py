"""Preprocessors by modality: raw inputs -> (B, M, C) for the encoder, and the same without positions."""

from .image import PixelInput
from .text import TextInput

Preprocessor = PixelInput | TextInput

__all__ = ["PixelInput", "Preprocessor", "TextInput"]
