"""Perceiver IO: preprocess, encode, decode, postprocess (Jaegle et al. 2021, arXiv 2107.14795, figure 2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..autograd.backend import Array
from ..autograd.tree import Tree
from ..errors import InputError
from .call import Call
from .decoder import Decoder, ProjectionDecoder
from .encoder import Encoder
from .inputs import Preprocessed, Preprocessor
from .module import Module, explains_parameters
from .outputs import Postprocessor
from .queries import EVERYTHING, Points, Progress, Request
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

    def __post_init__(self) -> None:
        """Refuses parts whose widths differ: what comes out of one goes into the next."""
        encoder, decoder = self.encoder, self.decoder
        given, wanted = getattr(self.preprocessor, "channels", None), getattr(encoder, "inputs", None)
        if isinstance(given, int) and isinstance(wanted, int) and given != wanted:
            raise InputError(
                f"the preprocessor gives elements of {given} channels, but the encoder takes inputs={wanted}; make it "
                f"with inputs={given}"
            )
        made, read = getattr(encoder, "channels", None), getattr(decoder, "latent_channels", None)
        if isinstance(made, int) and isinstance(read, int) and made != read:
            raise InputError(
                f"the encoder's latents have {made} channels, but the decoder takes latent_channels={read}; make it "
                f"with latent_channels={made}"
            )

    def _named(self) -> dict[str, Module]:
        """The parts by the names of their parameters."""
        names = ("input", "encoder", "decoder", "output")
        parts = (self.preprocessor, self.encoder, self.decoder, self.postprocessor)
        return {name: part for name, part in zip(names, parts) if part is not None}

    def parameters(self) -> Tree:
        return {name: part.parameters() for name, part in self._named().items()}

    def state(self) -> Tree:
        return {name: part.state() for name, part in self._named().items()}

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

        mask, bias, latents, pos and call as in `encode`; queries, query_mask, points, chunk, progress as in `Request`.
        """
        request = Request(queries, query_mask, points, chunk, progress)
        latents, elements = self.encode(params, inputs, mask=mask, bias=bias, latents=latents, pos=pos, call=call)
        return self.decode(params, latents, request, elements)

    @explains_parameters
    def encode(
        self,
        params: Tree,
        inputs: Any,
        *,
        mask: Array | None = None,
        bias: Any = None,
        latents: Any = None,
        pos: Any = None,
        call: Call | None = None,
    ) -> tuple[Any, Preprocessed]:
        """inputs -> latents (B, N, D), and the elements (B, M, C) that they attended to.

        mask (B, M): True where an input is real. bias: added to the logits of the encoder's cross-attention. latents:
        the initial ones, as in `Encoder.apply`. pos: the inputs' positions, where they are not a grid's. call:
        training, random key and running statistics.
        """
        elements = self.preprocess(params, inputs, pos=pos, call=call)
        x = self.encoder.apply(params["encoder"], elements.inputs, mask=mask, bias=bias, latents=latents)
        return x, elements

    @explains_parameters
    def decode(
        self, params: Tree, latents: Any, request: Request = EVERYTHING, elements: Preprocessed | None = None
    ) -> Any:
        """latents (B, N, D) -> the outputs that are asked for, as `apply` gives them.

        elements: as `encode` gives them, where queries are made of the inputs or the postprocessor needs their sizes.
        """
        if self.decoder is not None:
            latents = self.decoder.apply(params["decoder"], latents, request, elements)
        return self.postprocess(params, latents, request, elements)

    def preprocess(self, params: Tree, inputs: Any, *, pos: Any = None, call: Call | None = None) -> Preprocessed:
        """The elements for the encoder; pos and call as in `encode`."""
        if self.preprocessor is None:
            return Preprocessed(inputs, inputs)
        with scope("input"):
            return self.preprocessor.apply(params["input"], inputs, (call or Call()).at("input"), pos=pos)

    def postprocess(
        self, params: Tree, x: Any, request: Request = EVERYTHING, elements: Preprocessed | None = None
    ) -> Any:
        """What the decoder gave for a request -> the outputs."""
        if self.postprocessor is None:
            return x
        sizes = None if self.decoder is None else self.decoder.sizes(request.points)
        sizes = sizes or (None if elements is None else elements.sizes)
        with scope("output"):
            return self.postprocessor.apply(params["output"], x, params=params, sizes=sizes)
