"""Perceiver IO's decoders: latents -> one output for each query (section 3.2)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from ..autograd import ops
from ..autograd.backend import Array
from ..autograd.tensor import array_of
from ..autograd.tree import Tree
from ..errors import InputError
from .attention import CrossAttention
from .conventions import DEEPMIND, Conventions
from .inputs.base import Preprocessed
from .layers import Linear
from .masks import check_mask
from .module import Module, part
from .positions import TrainablePositions
from .queries import InputQueries, MultimodalQueries, Points, PositionQueries, Queries
from .tracing import point, scope

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Decoder(Module):
    """Queries cross-attend to the latents; an optional linear map gives the outputs.

    `queries` makes the queries, `query_channels` wide; without it, `apply` is given them. Channel options are the
    layer's.
    """

    latent_channels: int
    query_channels: int
    queries: Queries | None = None
    outputs: int | None = None
    heads: int = 1
    qk_channels: int | None = None
    v_channels: int | None = None
    widening: int = 1
    query_residual: bool = False
    conventions: Conventions = DEEPMIND
    attend_in: Literal["kv", "q"] = "kv"

    @part
    def cross_attention(self) -> CrossAttention:
        """The layer in which queries attend to latents."""
        return CrossAttention(
            q_inputs=self.query_channels,
            kv_inputs=self.latent_channels,
            heads=self.heads,
            qk_channels=self.qk_channels,
            v_channels=self.v_channels,
            attend_in=self.attend_in,
            widening=self.widening,
            query_residual=self.query_residual,
            conventions=self.conventions,
        )

    @part
    def output(self) -> Linear | None:
        """The map of what queries have become to outputs."""
        return None if self.outputs is None else Linear(self.query_channels, self.outputs)

    def parameters(self) -> Tree:
        return {
            "queries": self.queries.parameters() if self.queries else {},
            "cross_attention": self.cross_attention.parameters(),
            "output": self.output.parameters() if self.output else {},
        }

    def sizes(self, points: Points | None = None) -> dict[str, int] | None:
        """The number of outputs by modality, for a decoder of several."""
        return self.queries.sizes(points) if isinstance(self.queries, MultimodalQueries) else None

    def apply(
        self,
        p: Tree,
        latents: Any,
        *,
        given: Preprocessed | None = None,
        queries: Any = None,
        query_mask: Array | None = None,
        points: Points | None = None,
        chunk: int | None = None,
        progress: Progress | None = None,
    ) -> Any:
        """latents (B, N, latent_channels) -> (B, O, outputs), or (B, O, query_channels) without a final map.

        given: the preprocessed inputs, where queries are made of them. queries (B, O, query_channels): in place of the
        decoder's own. query_mask (B, O): a query where it is False attends to nothing, see `Conventions.masked_rows`.
        points: flat indices of the only grid points to decode. chunk: decode so many queries at a time, with the same
        result and without holding all queries; progress(done, total) is called after each.
        """
        if query_mask is not None and chunk is not None:
            raise InputError("query_mask and chunk cannot be combined")
        with scope("decoder"):
            if chunk is not None:
                return self._finish(self._in_chunks(p, latents, given, queries, points, chunk, progress), points)
            if queries is None:
                queries = self._make(p, latents, given, points, None)
            return point("", self._finish(self._decode(p, latents, queries, query_mask), points))

    def _make(self, p: Tree, latents: Any, given: Preprocessed | None, points: Any, rows: Any) -> Any:
        if self.queries is None:
            raise InputError("this decoder makes no queries: pass queries (batch, outputs, channels)")
        like = array_of(latents)
        own = given or Preprocessed(latents, None)
        with scope("queries"):
            return point("", self.queries.apply(p["queries"], own, like=like, points=points, rows=rows))

    def _decode(self, p: Tree, latents: Any, queries: Any, query_mask: Array | None) -> Any:
        if len(queries.shape) != 3 or queries.shape[-1] != self.query_channels:
            raise InputError(f"queries must be (batch, outputs, {self.query_channels}), got {tuple(queries.shape)}")
        if query_mask is not None:
            query_mask = check_mask(query_mask, tuple(queries.shape[:2]), "query_mask")[:, :, None]  # (B, O, 1)
        with scope("cross_attention"):
            x = self.cross_attention.apply(p["cross_attention"], queries, latents, mask=query_mask)
        return point("output", x if self.output is None else self.output.apply(p["output"], x))

    def _in_chunks(
        self,
        p: Tree,
        latents: Any,
        given: Preprocessed | None,
        queries: Any,
        points: Any,
        chunk: int,
        progress: Progress | None,
    ) -> Any:
        total = queries.shape[1] if queries is not None else self.size(given, points)
        parts = []
        for start in range(0, total, chunk):
            rows = (start, min(start + chunk, total))
            part = queries[:, rows[0] : rows[1]] if queries is not None else self._make(p, latents, given, points, rows)
            parts.append(self._decode(p, latents, part, None))
            if progress is not None:
                progress(rows[1], total)
        return ops.concatenate(parts, axis=1)

    def size(self, given: Preprocessed | None, points: Points | None = None) -> int:
        """The number of queries that the decoder makes."""
        if isinstance(self.queries, MultimodalQueries):
            return sum(self.queries.sizes(points).values())
        if points is not None:
            return len(points)
        if isinstance(self.queries, PositionQueries):
            return self.queries.size
        if isinstance(self.queries, InputQueries) and given is not None:
            return int(given.inputs.shape[1])
        raise InputError("this decoder makes no queries: pass queries (batch, outputs, channels)")

    def _finish(self, x: Any, points: Points | None) -> Any:
        return x


@dataclass(frozen=True)
class ClassificationDecoder(Decoder):
    """One trainable query, whose output is the vector of class logits: (B, classes)."""

    def _finish(self, x: Any, points: Points | None) -> Any:
        return x[:, 0]


@dataclass(frozen=True)
class GridDecoder(Decoder):
    """Outputs laid out as a grid and divided by `rescale`: optical flow (section 4.2), video (section 4.3)."""

    grid: tuple[int, ...] = ()
    rescale: float = 1.0

    def _finish(self, x: Any, points: Points | None) -> Any:
        x = ops.divide(x, self.rescale) if self.rescale != 1.0 else x
        return x if points is not None else ops.reshape(x, shape=(x.shape[0], *self.grid, x.shape[-1]))


@dataclass(frozen=True)
class ProjectionDecoder(Module):
    """The mean of the latents through a linear map, without attention: the head of Perceiver (section 3.1)."""

    latent_channels: int
    outputs: int

    @part
    def output(self) -> Linear:
        """The map of the mean."""
        return Linear(self.latent_channels, self.outputs)

    def sizes(self, points: Points | None = None) -> None:
        """One output: no sizes by modality."""
        return None

    def apply(self, p: Tree, latents: Any, **_: Any) -> Any:
        """latents (B, N, latent_channels) -> (B, outputs)."""
        with scope("decoder"):
            mean = point("mean", ops.mean(latents, axis=1))
            return point("", self.output.apply(p["output"], mean))


def trainable_queries(size: int, channels: int) -> PositionQueries:
    """One trainable vector for each of `size` outputs."""
    return PositionQueries(TrainablePositions(size, channels), (size,))


def classification_decoder(latent_channels: int, classes: int, **options: Any) -> ClassificationDecoder:
    """A `ClassificationDecoder` whose query is as wide as the latents, unless `query_channels` says otherwise."""
    query_channels = options.pop("query_channels", latent_channels)
    return ClassificationDecoder(
        latent_channels, query_channels, queries=trainable_queries(1, query_channels), outputs=classes, **options
    )
