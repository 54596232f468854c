"""Where the implementations of one architecture differ: each choice a named option, each dialect a row of values.

The models take a `Conventions`; nothing else in them depends on whose Perceiver it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .autograd.ops.attention import MaskedRows

Activation = Literal["gelu_erf", "gelu_tanh", "relu", "squared_relu", "silu"]
Grid = Literal["float32", "compute"]
Subsampling = Literal["half_open", "grid"]


@dataclass(frozen=True)
class Conventions:
    """The numerical choices of one implementation."""

    activation: Activation
    """Of the MLP. DeepMind's `jax.nn.gelu` is the tanh approximation, PyTorch's `nn.GELU` is exact."""
    masked_rows: MaskedRows
    """What attention gives a query that may attend to nothing: "zero", or the "uniform" average of all values."""
    grid: Grid
    """How grid positions are computed: "float32" always, by `jax.numpy.linspace`'s formula evaluated step by step, or
    in the "compute" dtype, by `torch.linspace`'s formula."""
    subsampling: Subsampling = "half_open"
    """Where a decoder asked for single grid points puts them: "half_open" at -1 + 2 i / n, "grid" where the full grid
    has them."""
    norm_eps: float = 1e-5
    """Added to the variance in layer norms."""


DIALECTS: dict[str, Conventions] = {
    "deepmind": Conventions(activation="gelu_tanh", masked_rows="zero", grid="float32"),
    "hf": Conventions(activation="gelu_erf", masked_rows="uniform", grid="compute"),
    "paper": Conventions(activation="gelu_erf", masked_rows="zero", grid="compute", subsampling="grid"),
}
"""Conventions by the name of the implementation; "deepmind" is the default, since its released code is the papers'."""

DEEPMIND = DIALECTS["deepmind"]
