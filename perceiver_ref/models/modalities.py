"""Several modalities side by side: elements, or queries, of different widths made equally wide.

Each gets a trainable vector of its own for what it lacks, the same for all its elements (Perceiver IO, sections
3.2 and 4.3).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..autograd import ops
from ..autograd.tree import Tree
from .module import Module, Parameter, truncated_normal
from .tracing import point


class Modalities(Module):
    """Parts by name, in the order of names, padded to the width of the widest and `min_padding` more."""

    modalities: Mapping[str, Any]
    min_padding: int

    @property
    def names(self) -> list[str]:
        """The modalities in the order of their elements: sorted by name."""
        return sorted(self.modalities)

    @property
    def channels(self) -> int:
        """The common width of all modalities."""
        widest: int = max(part.channels for part in self.modalities.values())
        return widest + self.min_padding

    def parameters(self) -> Tree:
        lacking = {name: self.channels - self.modalities[name].channels for name in self.names}
        return {
            "modalities": {name: self.modalities[name].parameters() for name in self.names},
            "padding": {name: Parameter((1, n), truncated_normal(0.02)) for name, n in lacking.items()},
        }

    def _padded(self, p: Tree, name: str, x: Any) -> Any:
        """x (B, M, C) of this modality -> (B, M, channels)."""
        padding = point("padding", p["padding"][name])
        padding = ops.broadcast_to(padding, shape=(*x.shape[:2], self.channels - x.shape[-1]))
        return ops.concatenate([x, padding], axis=-1)
