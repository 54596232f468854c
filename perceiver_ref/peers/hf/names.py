"""How transformers' Perceiver names its parameters and modules: one table for each kind of part."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..names import LINEAR, NORM, Rows, Table, below, inside, same


@dataclass(frozen=True)
class Component:
    """A part of a model with its names below the part's own: of parameters, running statistics and trace points.

    A row of `points` is (regular expression of the peer's module path, our name), both "" for the part itself.
    """

    module: Any
    table: Table = field(default_factory=dict)
    points: Rows = field(default_factory=list)
    state: Table = field(default_factory=dict)


def _window(array: Any) -> Any:
    """PyTorch keeps a convolution's weight as (outputs, inputs, height, width)."""
    return array.transpose(2, 3, 1, 0)


def _pointwise(array: Any) -> Any:
    """A 1x1 convolution as a linear map."""
    return array[:, :, 0, 0].T


_ATTENTION: Table = {
    "query": ("self.query", LINEAR),
    "key": ("self.key", LINEAR),
    "value": ("self.value", LINEAR),
    "output": ("output.dense", LINEAR),
}
LAYER: Table = {
    "query_norm": ("attention.self.layernorm1", NORM),
    "norm": ("attention.self.layernorm1", NORM),
    "key_value_norm": ("attention.self.layernorm2", NORM),
    "attention": ("attention", _ATTENTION),
    "mlp_norm": ("layernorm", NORM),
    "mlp": ("mlp", {"hidden": ("dense1", LINEAR), "output": ("dense2", LINEAR)}),
}
TEXT: Table = {"embedding": ("embeddings.weight", same), "positions/table": ("position_embeddings.weight", same)}
GRID: Table = {
    "features/0/convolution": ("convnet.conv.weight", _window),
    "features/0/norm": ("convnet.batchnorm", NORM),
    "features/convolution/weight": ("convnet_1x1.weight", _pointwise),
    "features/convolution/bias": ("convnet_1x1.bias", same),
    "features/linear": ("conv_after_patches", LINEAR),
    "positions/table": ("position_embeddings.position_embeddings", same),
    "positions/encoding/table": ("position_embeddings.position_embeddings", same),
    "positions/projection": ("positions_projection", LINEAR),
}
GRID_STATE: Table = {
    "features/0/mean": ("convnet.batchnorm.running_mean", same),
    "features/0/variance": ("convnet.batchnorm.running_var", same),
}
IGNORED = ("num_batches_tracked",)
CROSS_ATTENTION: Table = {"cross_attention": ("decoding_cross_attention", LAYER), "output": ("final_layer", LINEAR)}
QUERIES: Table = {
    "table": ("output_position_encodings.position_embeddings", same),
    "encoding/table": ("output_position_encodings.position_embeddings", same),
    "projection": ("positions_projection", LINEAR),
    "unused": ("", CROSS_ATTENTION),
}
DECODER: Table = {"queries": ("", QUERIES), **CROSS_ATTENTION}
PROJECTION: Table = {"output": ("classifier", LINEAR)}
CLASSIFIER: Table = {"linear": ("classifier", LINEAR)}
ENCODER: Table = {
    "latents": ("embeddings.latents", same),
    "cross_attention": ("encoder.cross_attention", LAYER),
    "block/{i}": ("encoder.self_attends.{i}", LAYER),
}

LAYER_POINTS: Rows = [
    ("", ""),
    ("attention", "attention_residual|attention"),
    (r"attention\.output", "attention"),
    (r"attention\.output\.dense", "attention"),
    (r"attention\.self", "attention.mixed"),
    (r"attention\.self\.layernorm1", "query_norm|norm"),
    (r"attention\.self\.layernorm2", "key_value_norm"),
    (r"attention\.self\.query", "attention.query"),
    (r"attention\.self\.key", "attention.key"),
    (r"attention\.self\.value", "attention.value"),
    (r"attention\.self\.dropout", "attention.weights"),
    ("layernorm", "mlp_norm"),
    ("mlp", "mlp"),
    (r"mlp\.dense2", "mlp"),
    (r"mlp\.dense1", "mlp.hidden"),
    (r"mlp\.intermediate_act_fn", "mlp.activation"),
]
TEXT_POINTS: Rows = [("", ""), ("embeddings", "embedding"), ("position_embeddings", "positions")]
STEM_POINTS: Rows = [
    ("convnet", "stem.channels_first"),
    (r"convnet\.max_pool", "stem.channels_first"),
    (r"convnet\.conv\.zero_pad_2d", "0.padded.channels_first"),
    (r"convnet\.conv", "0.convolution.channels_first"),
    (r"convnet\.batchnorm", "0.norm.channels_first|0.convolution.channels_first"),
    (r"convnet\.relu", "0.activation.channels_first"),
    ("convnet_1x1", "convolution.channels_first"),
    ("conv_after_patches", "linear|patches"),
]
QUERIES_POINTS: Rows = [
    ("output_position_encodings", "positions"),
    ("positions_projection", "projected_positions|positions"),
]
DECODER_POINTS: Rows = [
    *below("decoding_cross_attention", "cross_attention", LAYER_POINTS),
    ("final_layer", "output"),
]
ENCODER_POINTS: Rows = [
    ("embeddings", "latents"),
    ("encoder", ""),
    *inside(r"encoder\.cross_attention", "cross_attention", LAYER_POINTS),
    *inside(r"encoder\.self_attends\.(\d+)", r"blocks.0.\1", LAYER_POINTS),
    *inside(r"encoder\.self_attends\.(\d+)", r"blocks.\2.\1", LAYER_POINTS, r"@(\d+)"),
]


def by_modality(parts: Mapping[str, Component], names: Iterable[str], ours: str = "") -> tuple[Table, Rows, Table]:
    """Tables, points and state of parts side by side, which the peer calls modalities.<name>."""
    table: dict[str, Any] = {}
    state: dict[str, Any] = {}
    rows: Rows = []
    for name in names:
        part = parts[name]
        table[f"{ours}/{name}" if ours else name] = (f"modalities.{name}", part.table)
        state[name] = (f"modalities.{name}", part.state)
        rows += below(f"modalities.{name}", name, part.points)
    return table, rows, state
