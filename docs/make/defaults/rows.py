"""The table: what an argument is where it is left out, by framework, and a case that shows another one.

Values were read off the live packages (tests/heavy/test_defaults.py does so again) or, where no such test is possible,
off the named source.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from perceiver_ref.porting.cases import Case

from . import plants
from .plants import planted


@dataclass(frozen=True)
class Row:
    """A default. `values`: (framework, what it is there, where that is said). `plant` gives the case as it is with
    `planted`, another of them; `cause` is the id that `diagnose` gives to it, "" where there is none and `check` alone
    sees it, for the reason in `alone`."""

    name: str
    what: str
    values: tuple[tuple[str, str, str], ...]
    case: str
    planted: str
    plant: Callable[[Case], Case]
    cause: str
    alone: str = ""


HEADS = 3
"""Of the case in which maps are fused."""


def _per_head(name: str, array: np.ndarray) -> np.ndarray:
    """A fused map of keys and values whose rows are (heads, 2, d), read as (2, heads, d)."""
    if not name.endswith("to_kv.weight"):
        return array
    return array.reshape(HEADS, 2, -1, array.shape[-1]).swapaxes(0, 1).reshape(array.shape)


def _no_gradient(case: Case) -> Case:
    """Row 0 of an embedding without gradient, as of a padding index."""
    made = planted(case)
    return replace(made, grad_inputs={**made.grad_inputs, "weight": _first_zero(made.grad_inputs["weight"])})


def _first_zero(array: np.ndarray) -> np.ndarray:
    return np.concatenate([0 * array[:1], array[1:]])


def _turned(array: np.ndarray) -> np.ndarray:
    return array.T if array.ndim == 2 and array.shape[0] == array.shape[1] else array


TORCH, JAX, FLAX, HAIKU, KERAS, MLX, GGML = "PyTorch", "JAX", "Flax", "Haiku", "Keras", "MLX", "ggml"

ROWS: tuple[Row, ...] = (
    Row(
        "GELU",
        "By the error function, or by its approximation with tanh.",
        (
            (TORCH, "erf", '`gelu(approximate="none")`'),
            (JAX, "tanh", "`jax.nn.gelu(approximate=True)`, which Flax and Haiku call"),
            (KERAS, "erf", "`gelu(approximate=False)`"),
            (MLX, "erf", '`nn.GELU(approx="none")`'),
            (GGML, "tanh", "`ggml_gelu`; `ggml_gelu_erf` is the other"),
            ("ONNX", "erf", '`Gelu`, `approximate="none"`'),
        ),
        "hf/model_mask_holes",
        "tanh",
        partial(planted, change=plants.option(hidden_act="gelu_new")),
        "activation",
    ),
    Row(
        "Epsilon of layer norm",
        "Added to the variance.",
        (
            (TORCH, "1e-5", "`LayerNorm(eps)`"),
            (FLAX, "1e-6", "`linen.LayerNorm(epsilon)`"),
            (HAIKU, "1e-5", "`LayerNorm(eps)`"),
            (KERAS, "1e-3", "`LayerNormalization(epsilon)`"),
            (MLX, "1e-5", "`nn.LayerNorm(eps)`"),
            (GGML, "given in each call", "`ggml_norm`"),
        ),
        "hf/model_mask_holes",
        "1e-6",
        partial(planted, ops=plants.layer_norm(1e-6)),
        "layer-norm-eps",
    ),
    Row(
        "Epsilon of RMS norm",
        "Added to the mean square.",
        (
            (TORCH, "that of the dtype, 1.2e-7 in float32", "`RMSNorm(eps=None)`"),
            (FLAX, "1e-6", "`linen.RMSNorm(epsilon)`"),
            (HAIKU, "1e-5", "`RMSNorm(eps)`"),
            (KERAS, "1e-6", "`RMSNormalization(epsilon)`"),
            (MLX, "1e-5", "`nn.RMSNorm(eps)`"),
        ),
        "idefics2/resampler_mqa_sdpa",
        "1e-5",
        partial(planted, change=plants.option(rms_norm_eps=1e-5)),
        "layer-norm-eps",
    ),
    Row(
        "Variance",
        "Divided by the number of elements, or by one less (unbiased), in a norm that is written by hand.",
        (
            (TORCH, "unbiased", "`Tensor.var(correction=1)`; its norms are biased"),
            ("NumPy", "biased", "`var(ddof=0)`"),
            (JAX, "biased", "`jax.numpy.var(ddof=0)`"),
            (MLX, "biased", "`mx.var(ddof=0)`"),
        ),
        "hf/model_mask_holes",
        "unbiased",
        partial(planted, ops=plants.layer_norm(ddof=1)),
        "layer-norm-eps",
    ),
    Row(
        "Halves of a gated MLP",
        "Which half of a fused map goes through the activation.",
        (
            ("lucidrains", "second", "`x, gates = chunk(2); x * gelu(gates)`"),
            (TORCH, "second", "`glu`, with a sigmoid"),
            (JAX, "second", "`jax.nn.glu`, with a sigmoid"),
            (MLX, "second", "`nn.glu`, with a sigmoid"),
            (GGML, "first", "`ggml_geglu`, `ggml_swiglu`; `..._swapped` the second"),
        ),
        "lucidrains-perceiver/perceiver_2d",
        "first",
        partial(planted, change=plants.halves_swapped("net.0.weight", "net.0.bias")),
        "activation",
    ),
    Row(
        "Order of fused keys and values",
        "Which part of a fused map is keys'.",
        (
            ("lucidrains", "keys first", "`to_kv(x).chunk(2)`"),
            (TORCH, "queries, keys, values", "`MultiheadAttention.in_proj_weight`"),
            ("Haiku, Flax, Keras, MLX", "not fused", "one map each"),
        ),
        "lucidrains-flamingo/resampler_4d",
        "values first",
        partial(planted, change=plants.halves_swapped("to_kv.weight")),
        "key-value-swapped",
    ),
    Row(
        "Fused maps and heads",
        "Whether a fused map is first keys and values, then heads, or the reverse.",
        (
            ("lucidrains", "(2, heads, d)", '`rearrange("b n (h d)")` after `chunk`'),
            (TORCH, "(3, heads, d)", "`MultiheadAttention.in_proj_weight`"),
            ("GPT-NeoX, BLOOM", "(heads, 3, d)", "their `query_key_value`, after Megatron"),
        ),
        "open-flamingo/gated_immediate",
        "(heads, 2, d)",
        partial(planted, change=plants.weights(_per_head)),
        "head-layout",
    ),
    Row(
        "Weight of a linear map",
        "(outputs, inputs) or (inputs, outputs): a square one fits both ways.",
        (
            (TORCH, "(outputs, inputs)", "`Linear.weight`"),
            ("Flax, Haiku, Keras", "(inputs, outputs)", "`kernel`, `w`"),
            (MLX, "(outputs, inputs)", "`nn.Linear.weight`"),
            (GGML, "(outputs, inputs), row-major", "`ne[0]` is inputs"),
        ),
        "hf/model_mask_holes",
        "square ones as they are",
        partial(
            planted,
            change=plants.weights(lambda name, a: _turned(a) if name.endswith("output.dense.weight") else a),
        ),
        "weight-transposed",
    ),
    Row(
        "Polarity of masks",
        "Whether True says that a key is to be attended to, or left out.",
        (
            (TORCH, "True leaves out", "`MultiheadAttention(key_padding_mask)`"),
            ("PyTorch's function", "True attends", "`scaled_dot_product_attention(attn_mask)`"),
            (JAX, "True attends", "`jax.nn.dot_product_attention(mask)`; Flax likewise"),
            (KERAS, "True attends", "`MultiHeadAttention(attention_mask)`"),
            (MLX, "True attends", "`fast.scaled_dot_product_attention(mask)`"),
            ("transformers", "1 attends", "`attention_mask`"),
        ),
        "hf/model_mask_holes",
        "the other one",
        partial(planted, change=plants.inputs(attention_mask=lambda a: 1 - a)),
        "mask-inverted",
    ),
    Row(
        "Rows without any key",
        "What a query gets whose mask leaves nothing.",
        (
            (TORCH, "zeros", "`scaled_dot_product_attention`, since 2.5; `MultiheadAttention` NaN"),
            ("JAX, Flax", "the average of all values", "a large negative number in place of scores"),
            (MLX, "the average of all values", "`fast.scaled_dot_product_attention`"),
            ("transformers", "softmax of the scores, nearly the average", "the lowest number added to the scores"),
            ("DeepMind's Perceiver", "zeros", "`wipe_attn`"),
        ),
        "hf/model_mask_allmasked_row",
        "zeros",
        partial(planted, ops=plants.attention(empty="zero")),
        "fully-masked-row",
    ),
    Row(
        "Axis of softmax",
        "",
        (
            (TORCH, "must be given", "`softmax(dim)`"),
            (JAX, "the last", "`jax.nn.softmax(axis=-1)`"),
            (KERAS, "the last", "`softmax(axis=-1)`"),
            (MLX, "all axes together", "`mx.softmax(axis=None)`, and so SciPy"),
            (GGML, "the last", "`ggml_soft_max`, rows"),
            ("ONNX", "the last", "since opset 13; before, all from axis 1 on together"),
        ),
        "hf/model_bare",
        "that of queries",
        partial(planted, ops=plants.attention(axis=-2)),
        "softmax-axis",
    ),
    Row(
        "Scale of attention",
        "",
        (
            (TORCH, "1 / sqrt(d)", "`scaled_dot_product_attention(scale=None)`"),
            (JAX, "1 / sqrt(d)", "`jax.nn.dot_product_attention(scale=None)`"),
            (MLX, "must be given", "`fast.scaled_dot_product_attention(scale)`"),
            (GGML, "1, unless given", "`ggml_soft_max_ext(scale)`"),
            ("T5", "1", "folded into its weights"),
        ),
        "open-flamingo/gated_immediate",
        "1",
        partial(planted, ops=plants.attention(scale=1.0)),
        "attention-scale",
    ),
    Row(
        "Axes of a grid",
        "Which coordinate varies along the first axis.",
        (
            ("NumPy", "x first", '`meshgrid(indexing="xy")`'),
            (JAX, "x first", '`jax.numpy.meshgrid(indexing="xy")`'),
            (MLX, "x first", '`mx.meshgrid(indexing="xy")`'),
            (TORCH, "y first", '`meshgrid`, of which it warns that "ij" will not stay'),
        ),
        "hf/fourier_encoding_2d",
        "x first",
        partial(planted, grid=plants.x_first),
        "position-axes",
    ),
    Row(
        "Ends of a grid",
        "Positions at the ends of an axis, or at the centres of its cells; with corners aligned, or not.",
        (
            ("DeepMind, transformers, lucidrains", "-1 and 1", "`linspace(-1, 1, n)`"),
            (TORCH, "centres of cells", "`affine_grid(align_corners=False)`"),
        ),
        "hf/fourier_encoding_2d",
        "centres of cells",
        partial(planted, grid=plants.centres),
        "position-grid",
    ),
    Row(
        "Corners in resizing",
        "Whether ends lie on ends, or centres of cells are aligned.",
        (
            (TORCH, "centres", "`interpolate(align_corners=None)`"),
            (JAX, "centres, smoothed where it shrinks", "`jax.image.resize(antialias=True)`"),
            (MLX, "centres", "`nn.Upsample(align_corners=False)`"),
            ("ONNX", "centres", '`Resize`, "half_pixel"'),
        ),
        "torch/interpolate_bilinear_corners",
        "centres",
        partial(planted, change=plants.called(align_corners=False)),
        "",
        "an operation by itself, with one output",
    ),
    Row(
        "Momentum of batch norm",
        "The weight of the new statistics, or of the old ones.",
        (
            (TORCH, "0.1, of the new", "`BatchNorm2d(momentum)`, epsilon 1e-5"),
            (FLAX, "0.99, of the old", "`linen.BatchNorm(momentum)`, epsilon 1e-5"),
            (HAIKU, "must be given, of the old", "`BatchNorm(decay_rate)`, epsilon 1e-5"),
            (KERAS, "0.99, of the old", "`BatchNormalization(momentum)`, epsilon 1e-3"),
            (MLX, "0.1, of the new", "`nn.BatchNorm(momentum)`, epsilon 1e-5"),
        ),
        "torch/batch_norm_train",
        "the reverse",
        partial(planted, change=plants.called(momentum=0.8)),
        "",
        "running statistics are no layer's output",
    ),
    Row(
        "Padding of an embedding",
        "Whether one row of the table is left as it is in training.",
        (
            (TORCH, "none, or one row without gradient", "`Embedding(padding_idx=None)`"),
            ("Flax, Haiku, MLX", "none", "there is no such option"),
            (KERAS, "none, or a mask of row 0, which keeps its gradient", "`Embedding(mask_zero=False)`"),
        ),
        "torch/embedding",
        "row 0 without gradient",
        _no_gradient,
        "embedding-backward",
    ),
    Row(
        "Epsilon of Adam",
        "How large, and whether it is added before or after the correction of the bias.",
        (
            (TORCH, "1e-8, after the correction", "`Adam(eps)`"),
            ("optax", "1e-8, after the correction", "`adam(eps)`; `eps_root` under the root"),
            (KERAS, "1e-7, before it", "`Adam(epsilon)`"),
            (MLX, "1e-8, and no correction", "`Adam(bias_correction=False)`"),
        ),
        "torch/optim_adam",
        "1e-7",
        partial(planted, change=plants.option(eps=1e-7)),
        "",
        "an optimizer, whose steps are no layers",
    ),
)
"""Every default."""

ALSO = """\
What no case can show, as it has the weights: how they are drawn. A linear map's weight is uniform within 1 /
sqrt(inputs) in PyTorch and MLX, normal with deviation 1 / sqrt(inputs) in Flax (`lecun_normal`) and Haiku (truncated),
and uniform within sqrt(6 / (inputs + outputs)) in Keras (`glorot_uniform`). Biases are drawn in PyTorch and MLX and 0
elsewhere. DeepMind's Perceiver draws its latents with deviation 0.02, truncated.
"""
