"""Decoder outputs -> logits over a vocabulary, by the input embedding itself (Perceiver IO, section 4.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...autograd import ops
from ...autograd.tree import Tree
from ..module import Module, Parameter, zeros
from ..tracing import point


@dataclass(frozen=True)
class TiedEmbedding(Module):
    """logits = x E^T + b, with E the embedding table of the input."""

    vocabulary: int

    def parameters(self) -> Tree:
        return {"bias": Parameter((self.vocabulary,), zeros)}

    def apply(self, p: Tree, x: Any, *, params: Tree, sizes: dict[str, int] | None = None) -> Any:
        """x (B, O, C), params the whole model's, with an embedding (vocabulary, C) -> (B, O, vocabulary)."""
        table = params["input"]["embedding"]
        return point("", ops.linear(x, ops.transpose(table), p["bias"]))
