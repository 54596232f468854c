"""Token ids -> embeddings plus trainable positions (Perceiver IO, section 4.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...autograd import ops
from ...autograd.backend import Array, recording
from ...autograd.tree import Tree
from ...errors import InputError
from ..call import Call
from ..module import Module, Parameter, part, truncated_normal
from ..positions import TrainablePositions
from ..tracing import point
from .base import Preprocessed


@dataclass(frozen=True)
class TextInput(Module):
    """x_i = embedding[token_i] + position[i]."""

    vocabulary: int
    length: int
    channels: int

    @part
    def positions(self) -> TrainablePositions:
        """A row for each place."""
        return TrainablePositions(self.length, self.channels, first_rows=True)

    def parameters(self) -> Tree:
        return {
            "embedding": Parameter((self.vocabulary, self.channels), truncated_normal(1.0)),
            "positions": self.positions.parameters(),
        }

    def apply(self, p: Tree, ids: Any, call: Call | None = None, *, pos: Any = None) -> Preprocessed:
        """ids (B, M) integers in [0, vocabulary), M <= length -> elements (B, M, channels)."""
        if pos is not None:
            raise InputError("text has trainable positions; it takes no pos")
        check_ids(ids, self.vocabulary)
        embedded = point("embedding", ops.take(p["embedding"], ids, axis=0))
        positions = self.positions.apply(p["positions"], ids.shape[1:], like=ids)
        return Preprocessed(point("", ops.add(embedded, positions)), embedded)


def check_ids(ids: Array, vocabulary: int) -> None:
    """Raise `InputError` unless these are token ids (B, M), integers in [0, vocabulary)."""
    if len(ids.shape) != 2 or ids.dtype.kind not in "iu":
        came = f"{ids.dtype} of {tuple(ids.shape)}"
        raise InputError(f"token ids must be integers of shape (batch, length), got {came}")
    if ids.size and not recording(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < vocabulary:
        raise InputError(f"token ids must be in [0, {vocabulary}), got {int(ids.min())} to {int(ids.max())}")
