"""Perceiver IO's decoders: latents -> one output for each query (section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ..autograd import ops
from ..autograd.backend import Array
from ..autograd.core import array_of
from ..autograd.tree import Tree
from ..errors import InputError
from .attention import CrossAttention
from .conventions import DEEPMIND, Conventions
from .inputs.base import Preprocessed
from .layers import Linear
from .masks import check_mask
from .module import Module, part
from .positions import TrainablePositions
from .queries import EVERYTHING, InputQueries, MultimodalQueries, Points, PositionQueries, Queries, Request, Rows
from .tracing import point, scope

_NO_QUERIES = "this decoder makes no queries: pass queries (batch, outputs, channels)"


@dataclass(frozen=True)
class Decoder(Module):
    """Queries cross-attend to the latents; an optional linear map gives the outputs.

    `queries` makes the queries, `query_channels` wide; without it, a request must have them. Channel options are the
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

    def apply(self, p: Tree, latents: Any, request: Request = EVERYTHING, elements: Preprocessed | None = None) -> Any:
        """latents (B, N, latent_channels) -> (B, O, outputs), or (B, O, query_channels) without a final map.

        elements: the preprocessed inputs, where queries are made of them.
        """
        with scope("decoder"):
            if request.chunk is not None:
                x = self._in_chunks(p, latents, request, request.chunk, elements)
                return self._finish(x, request.points)
            queries = self.output_queries(p, latents, request, elements)
            x = self._decode(p, latents, queries, request.query_mask)
            return point("", self._finish(x, request.points))

    def output_queries(
        self,
        p: Tree,
        latents: Any,
        request: Request = EVERYTHING,
        elements: Preprocessed | None = None,
        rows: Rows | None = None,
    ) -> Any:
        """The queries of a request or a range of `rows` of them, (B, O, query_channels): its own, or the decoder's."""
        if request.queries is not None:
            return request.queries if rows is None else request.queries[:, rows[0] : rows[1]]
        if self.queries is None:
            raise InputError(_NO_QUERIES)
        elements, like = elements or Preprocessed(latents, None), array_of(latents)
        with scope("queries"):
            return point("", self.queries.apply(p["queries"], elements, like=like, points=request.points, rows=rows))

    def _decode(self, p: Tree, latents: Any, queries: Any, query_mask: Array | None) -> Any:
        if len(queries.shape) != 3 or queries.shape[-1] != self.query_channels:
            raise InputError(f"queries must be (batch, outputs, {self.query_channels}), got {tuple(queries.shape)}")
        if query_mask is not None:
            query_mask = check_mask(query_mask, tuple(queries.shape[:2]), "query_mask")[:, :, None]  # (B, O, 1)
        with scope("cross_attention"):
            x = self.cross_attention.apply(p["cross_attention"], queries, latents, mask=query_mask)
        return point("output", x if self.output is None else self.output.apply(p["output"], x))

    def _in_chunks(self, p: Tree, latents: Any, request: Request, chunk: int, elements: Preprocessed | None) -> Any:
        total = self._count(request, elements)
        parts = []
        for start in range(0, total, chunk):
            stop = min(start + chunk, total)
            queries = self.output_queries(p, latents, request, elements, (start, stop))
            parts.append(self._decode(p, latents, queries, None))
            if request.progress is not None:
                request.progress(stop, total)
        return ops.concatenate(parts, axis=1)

    def _count(self, request: Request, elements: Preprocessed | None) -> int:
        """The number of queries of a request."""
        if request.queries is not None:
            return int(request.queries.shape[1])
        if isinstance(self.queries, MultimodalQueries):
            return sum(self.queries.sizes(request.points).values())
        if request.points is not None:
            return len(request.points)
        if isinstance(self.queries, PositionQueries):
            return self.queries.size
        if isinstance(self.queries, InputQueries) and elements is not None:
            return int(elements.inputs.shape[1])
        raise InputError(_NO_QUERIES)

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

    def apply(self, p: Tree, latents: Any, *_: Any) -> Any:
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
