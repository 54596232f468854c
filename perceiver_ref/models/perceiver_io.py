"""Perceiver IO: preprocess, encode, decode, postprocess (Jaegle et al. 2021, arXiv 2107.14795, figure 2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..autograd.backend import Array
from ..autograd.tree import Tree
from .call import Call
from .decoder import Decoder, Progress, ProjectionDecoder
from .encoder import Encoder
from .inputs import Preprocessed, Preprocessor
from .module import Module, explains_parameters
from .outputs import Postprocessor
from .queries import Points
from .tracing import scope


@dataclass(frozen=True)
class PerceiverIO(Module):
    """Inputs -> outputs, each part optional but the encoder.

    Without `preprocessor` the inputs are the encoder's (B, M, C); without `decoder` the result is the latents.
    """

    encoder: Encoder
    preprocessor: Preprocessor | None = None
    decoder: Decoder | ProjectionDecoder | None = None
    postprocessor: Postprocessor | None = None

    def _named(self) -> dict[str, Module]:
        """The parts by the names of their parameters."""
        names = ("input", "encoder", "decoder", "output")
        parts = (self.preprocessor, self.encoder, self.decoder, self.postprocessor)
        return {name: part for name, part in zip(names, parts) if part is not None}

    def parameters(self) -> Tree:
        return {name: part.parameters() for name, part in self._named().items()}

    def state(self) -> Tree:
        return {name: part.state() for name, part in self._named().items()}

    @explains_parameters
    def apply(
        self,
        params: Tree,
        inputs: Any,
        *,
        mask: Array | None = None,
        bias: Any = None,
        latents: Any = None,
        pos: Any = None,
        queries: Any = None,
        query_mask: Array | None = None,
        points: Points | None = None,
        chunk: int | None = None,
        progress: Progress | None = None,
        call: Call | None = None,
    ) -> Any:
        """Outputs of the last part present; see the parts for shapes. Several modalities are dicts by name.

        mask (B, M): True where an input is real. bias: added to the logits of the encoder's cross-attention.
        latents, as in `Encoder.apply`; queries, query_mask, points, chunk, progress, as in `Decoder.apply`. pos: the
        inputs' positions, where they are not a grid's. call: training, random key and running statistics.
        """
        call = call or Call()
        given = Preprocessed(inputs, inputs)
        if self.preprocessor is not None:
            with scope("input"):
                given = self.preprocessor.apply(params["input"], inputs, call.at("input"), pos=pos)
        x = self.encoder.apply(params["encoder"], given.inputs, mask=mask, bias=bias, latents=latents)
        sizes = given.sizes
        if self.decoder is not None:
            x = self.decoder.apply(
                params["decoder"],
                x,
                given=given,
                queries=queries,
                query_mask=query_mask,
                points=points,
                chunk=chunk,
                progress=progress,
            )
            sizes = self.decoder.sizes(points) or sizes
        if self.postprocessor is not None:
            with scope("output"):
                x = self.postprocessor.apply(params["output"], x, params=params, sizes=sizes)
        return x
