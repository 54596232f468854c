"""Perceiver IO's decoders: latents -> one output for each query (section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .attention import CrossAttention
from .autograd import engine, ops
from .autograd.backend import Array
from .autograd.tree import Tree
from .conventions import DEEPMIND, Conventions
from .encoder import check_mask
from .errors import InputError
from .layers import Linear
from .parameters import Module
from .position import Positions, TrainablePositions
from .tracing import point, scope


@dataclass(frozen=True)
class Decoder(Module):
    """Queries cross-attend to the latents; an optional linear map gives the outputs.

    `queries` makes the queries (`index_dims` is the grid of outputs); without it, `apply` is given them. With
    `concat_inputs` the preprocessed inputs without positions precede each query's own channels.
    """

    latent_channels: int
    query_channels: int
    queries: Positions | None = None
    index_dims: tuple[int, ...] = ()
    outputs: int | None = None
    heads: int = 1
    qk_channels: int | None = None
    v_channels: int | None = None
    widening: int = 1
    query_residual: bool = False
    concat_inputs: bool = False
    conventions: Conventions = DEEPMIND

    def _cross_attention(self) -> CrossAttention:
        return CrossAttention(
            q_inputs=self.query_channels,
            kv_inputs=self.latent_channels,
            heads=self.heads,
            qk_channels=self.qk_channels,
            v_channels=self.v_channels,
            widening=self.widening,
            query_residual=self.query_residual,
            conventions=self.conventions,
        )

    def _output(self) -> Linear | None:
        return None if self.outputs is None else Linear(self.query_channels, self.outputs)

    def parameters(self) -> Tree:
        output = self._output()
        return {
            "queries": self.queries.parameters() if self.queries else {},
            "cross_attention": self._cross_attention().parameters(),
            "output": output.parameters() if output else {},
        }

    def make_queries(self, p: Tree, latents: Any, features: Any = None) -> Any:
        """The decoder's own queries, (B, O, query_channels); `features` (B, O, F) as `concat_inputs` needs them."""
        if self.queries is None:
            raise InputError("this decoder makes no queries: pass queries (batch, outputs, channels)")
        made = self.queries.apply(p["queries"], self.index_dims, like=engine.data(latents))
        made = point("queries", ops.broadcast_to(made, shape=(latents.shape[0], *made.shape)))
        return ops.concatenate([features, made], axis=-1) if self.concat_inputs else made

    def apply(
        self, p: Tree, latents: Any, *, queries: Any = None, features: Any = None, query_mask: Array | None = None
    ) -> Any:
        """latents (B, N, latent_channels) -> (B, O, outputs), or (B, O, query_channels) without a final map.

        queries (B, O, query_channels): in place of the decoder's own. query_mask (B, O): a query where it is False
        attends to nothing, see `Conventions.masked_rows`.
        """
        output = self._output()
        with scope("decoder"):
            if queries is None:
                queries = self.make_queries(p, latents, features)
            if len(queries.shape) != 3 or queries.shape[-1] != self.query_channels:
                raise InputError(f"queries must be (batch, outputs, {self.query_channels}), got {tuple(queries.shape)}")
            if query_mask is not None:
                query_mask = check_mask(query_mask, tuple(queries.shape[:2]), "query_mask")[:, :, None]  # (B, O, 1)
            with scope("cross_attention"):
                x = self._cross_attention().apply(p["cross_attention"], queries, latents, mask=query_mask)
            x = point("output", x if output is None else output.apply(p["output"], x))
            return point("", self._finish(x))

    def _finish(self, x: Any) -> Any:
        return x


@dataclass(frozen=True)
class ClassificationDecoder(Decoder):
    """One trainable query, whose output is the vector of class logits: (B, classes)."""

    def _finish(self, x: Any) -> Any:
        return x[:, 0]


def classification_decoder(latent_channels: int, classes: int, **options: Any) -> ClassificationDecoder:
    """A `ClassificationDecoder` whose query is as wide as the latents, unless `query_channels` says otherwise."""
    query_channels = options.pop("query_channels", latent_channels)
    return ClassificationDecoder(
        latent_channels,
        query_channels,
        queries=TrainablePositions(1, query_channels),
        index_dims=(1,),
        outputs=classes,
        **options,
    )
