"""Where the implementations of one architecture differ: each choice a named option, each dialect a row of values.

The models take a `Conventions`; nothing else in them depends on whose Perceiver it is. `differences` has a row for each
field, and for what is an option of a class or a peer's own, with cases that show it; docs/CONVENTIONS.md is made of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from ..autograd.ops.attention import MaskedRows
from .constraints import NotNegative, check_fields

Activation = Literal[
    "gelu_erf",
    "gelu_tanh",
    "relu",
    "squared_relu",
    "silu",
    "gelu_10",
    "hardswish",
    "identity",
    "laplace",
    "leaky_relu",
    "mish",
    "quick_gelu",
    "relu6",
    "sigmoid",
    "sqrt_softplus",
    "tanh",
]
Norm = Literal["layer", "rms", "l2"]
Grid = Literal["float32", "compute"]
Subsampling = Literal["half_open", "grid"]


@dataclass(frozen=True)
class Conventions:
    """The numerical choices of one implementation."""

    activation: Activation
    """Of the MLP, or of its gate. DeepMind's `jax.nn.gelu` is the tanh approximation, PyTorch's `nn.GELU` is exact."""
    masked_rows: MaskedRows
    """What attention gives a query that may attend to nothing: "zero", or the average of all values, without gradients
    of queries and keys ("uniform", where masked scores are filled in) or with them ("added", where the lowest number is
    added to them)."""
    grid: Grid
    """How grid positions are computed: "float32" always, by `jax.numpy.linspace`'s formula evaluated step by step, or
    in the "compute" dtype, by `torch.linspace`'s formula."""
    subsampling: Subsampling = "half_open"
    """Where a decoder asked for single grid points puts them: "half_open" at -1 + 2 i / n, "grid" where the full grid
    has them."""
    norm: Norm = "layer"
    """What normalises: "layer" norm; the root mean square of "rms" norm, which has no offset; or the length of "l2"
    norm, the same but for what is done with `norm_eps`."""
    norm_eps: NotNegative = 1e-5
    """Added to the variance, or the mean square, in norms; the least length of an "l2" norm."""
    gated_mlp: bool = False
    """Whether the MLP is a gated linear unit: activation(x Wg) * (x W1) in place of activation(x W1)."""
    qkv_bias: bool = True
    """Whether the projections to queries, keys and values have biases."""
    output_bias: bool = True
    """Whether attention's output projection has a bias."""
    mlp_bias: bool = True
    """Whether the linear maps of the MLP have biases."""
    free_widths: bool = False
    """Whether attention's widths are free of the layer's: self-attention's output projection leads back from any width
    of values. Else values must be as wide as the layer, and heads must divide its width."""

    def __post_init__(self) -> None:
        check_fields(self)


DIALECTS: dict[str, Conventions] = {
    "deepmind": Conventions(activation="gelu_tanh", masked_rows="zero", grid="float32"),
    "hf": Conventions(activation="gelu_erf", masked_rows="added", grid="compute"),
    "krasserm": Conventions(activation="gelu_erf", masked_rows="uniform", grid="compute", free_widths=True),
    "lucidrains": Conventions(
        activation="gelu_erf",
        masked_rows="uniform",
        grid="compute",
        gated_mlp=True,
        qkv_bias=False,
        free_widths=True,
    ),
    "paper": Conventions(activation="gelu_erf", masked_rows="zero", grid="compute", subsampling="grid"),
}
"""Conventions by the name of the implementation; "deepmind" is the default, since its released code is the papers'."""

_FLAMINGO = Conventions(
    activation="squared_relu",
    masked_rows="zero",
    grid="compute",
    qkv_bias=False,
    output_bias=False,
    mlp_bias=False,
)
FLAMINGO_DIALECTS: dict[str, Conventions] = {
    "paper": _FLAMINGO,
    "lucidrains-flamingo": replace(_FLAMINGO, activation="gelu_erf", masked_rows="uniform"),
    "open-flamingo": replace(_FLAMINGO, activation="gelu_erf", masked_rows="uniform"),
    "idefics": replace(_FLAMINGO, activation="relu", masked_rows="added"),
    "idefics2": replace(_FLAMINGO, activation="silu", masked_rows="added", norm="rms", norm_eps=1e-6, gated_mlp=True),
    "aurora": replace(_FLAMINGO, activation="gelu_erf", mlp_bias=True),
    "edgetam": replace(_FLAMINGO, activation="gelu_erf", free_widths=True),
}
"""The same for Flamingo's resampler and gated cross-attention; "paper" is the default, since nothing was released."""

AUTOREGRESSIVE_DIALECTS: dict[str, Conventions] = {
    "krasserm": replace(DIALECTS["krasserm"], qkv_bias=False, mlp_bias=False),
    "perceiver-ar-pytorch": replace(DIALECTS["krasserm"], qkv_bias=False, mlp_bias=False),
    "perceiver-ar": Conventions(activation="squared_relu", masked_rows="uniform", grid="float32"),
}
"""The same for Perceiver AR; "perceiver-ar" is the default, since its released code is the paper's."""

_RESAMPLER = replace(_FLAMINGO, activation="gelu_erf")
_XTTS = replace(_RESAMPLER, masked_rows="uniform", norm="l2", norm_eps=1e-12, gated_mlp=True, mlp_bias=True)
RESAMPLER_DIALECTS: dict[str, Conventions] = {
    "ip-adapter": _RESAMPLER,
    "diffusers": _RESAMPLER,
    "pulid": _RESAMPLER,
    "xtts": _XTTS,
    "naturalspeech2": _XTTS,
}
"""The same for resamplers of several layers that came after Flamingo's (`models.resamplers.Resampler`)."""

_POOL = Conventions(activation="gelu_erf", masked_rows="zero", grid="compute")
POOLER_DIALECTS: dict[str, Conventions] = {
    "timm": _POOL,
    "open-clip": _POOL,
    "siglip": replace(_POOL, activation="gelu_tanh", masked_rows="added", norm_eps=1e-6),
    "chatterbox": _POOL,
    "kosmos2": _POOL,
    "aria": replace(_POOL, activation="gelu_tanh", mlp_bias=False),
    "minicpmv": replace(_POOL, norm_eps=1e-6),
}
"""The same for learned queries that attend to features once (`models.resamplers.AttentionPool`)."""

AUTOREGRESSIVE = AUTOREGRESSIVE_DIALECTS["perceiver-ar"]
FLAMINGO = FLAMINGO_DIALECTS["paper"]
DEEPMIND = DIALECTS["deepmind"]
