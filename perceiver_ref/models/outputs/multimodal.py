"""Each modality's share of the outputs through its own postprocessor (Perceiver IO, section 4.3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...autograd import ops
from ...autograd.tree import Tree
from ...errors import InputError
from ..module import Module
from ..tracing import scope
from .image import ImageOutput
from .linear import AudioOutput, ClassificationOutput, IdentityOutput, ProjectionOutput

Part = AudioOutput | ClassificationOutput | IdentityOutput | ProjectionOutput | ImageOutput


@dataclass(frozen=True)
class MultimodalOutput(Module):
    """Cut the outputs by modality, in the order of names, and postprocess each."""

    modalities: Mapping[str, Part]

    def parameters(self) -> Tree:
        return {name: self.modalities[name].parameters() for name in sorted(self.modalities)}

    def apply(self, p: Tree, x: Any, *, params: Tree = None, sizes: dict[str, int] | None = None) -> dict[str, Any]:
        """x (B, O, C), or a dict by modality -> dict by modality. sizes: outputs by modality, in order; sum <= O."""
        if not isinstance(x, Mapping):
            x = self._cut(x, sizes)
        if sorted(x) != sorted(self.modalities):
            raise InputError(f"outputs are of {', '.join(sorted(x))}; expected {', '.join(sorted(self.modalities))}")
        results = {}
        for name in sorted(x):
            with scope(name):
                results[name] = self.modalities[name].apply(p[name], x[name], params=params)
        return results

    def _cut(self, x: Any, sizes: dict[str, int] | None) -> dict[str, Any]:
        if sizes is None:
            raise InputError("the number of outputs by modality is not known; the decoder has a single modality")
        pieces, start = {}, 0
        for name in sorted(sizes):
            pieces[name] = ops.getitem(x, index=(slice(None), slice(start, start + sizes[name])))
            start += sizes[name]
        return pieces
