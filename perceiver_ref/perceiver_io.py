"""Perceiver IO: preprocess, encode, decode, postprocess (Jaegle et al. 2021, arXiv 2107.14795, figure 2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .autograd.backend import Array
from .autograd.tree import Tree
from .decoder import Decoder
from .encoder import Encoder
from .inputs import Preprocessor
from .outputs import TiedEmbedding
from .parameters import Module
from .tracing import point


@dataclass(frozen=True)
class PerceiverIO(Module):
    """Inputs -> outputs, each part optional but the encoder.

    Without `preprocessor` the inputs are the encoder's (B, M, C); without `decoder` the result is the latents.
    """

    encoder: Encoder
    preprocessor: Preprocessor | None = None
    decoder: Decoder | None = None
    postprocessor: TiedEmbedding | None = None

    def parameters(self) -> Tree:
        parts = {
            "input": self.preprocessor,
            "encoder": self.encoder,
            "decoder": self.decoder,
            "output": self.postprocessor,
        }
        return {name: part.parameters() for name, part in parts.items() if part is not None}

    def apply(
        self,
        params: Tree,
        inputs: Any,
        *,
        mask: Array | None = None,
        bias: Any = None,
        latents: Any = None,
        queries: Any = None,
        query_mask: Array | None = None,
    ) -> Any:
        """Outputs of the last part present; see the parts for shapes.

        mask (B, M): True where an input is real. bias: added to the logits of the encoder's cross-attention.
        latents, queries, query_mask: as in `Encoder.apply` and `Decoder.apply`.
        """
        features = None
        if self.preprocessor is not None:
            inputs, features = self.preprocessor.apply(params["input"], inputs)
        x = self.encoder.apply(params["encoder"], inputs, mask=mask, bias=bias, latents=latents)
        if self.decoder is not None:
            x = self.decoder.apply(params["decoder"], x, queries=queries, features=features, query_mask=query_mask)
        if self.postprocessor is not None:
            x = point("output", self.postprocessor.apply(params["output"], x, params["input"]["embedding"]))
        return x
