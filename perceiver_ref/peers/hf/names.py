"""How transformers' Perceiver names its parameters and modules."""

from __future__ import annotations

from ...decoder import ClassificationDecoder, Decoder, ProjectionDecoder
from ..names import LINEAR, NORM, Table, same

_ATTENTION: Table = {
    "query": ("self.query", LINEAR),
    "key": ("self.key", LINEAR),
    "value": ("self.value", LINEAR),
    "output": ("output.dense", LINEAR),
}
_MLP: Table = {"hidden": ("dense1", LINEAR), "output": ("dense2", LINEAR)}
_LAYER: Table = {
    "query_norm": ("attention.self.layernorm1", NORM),
    "norm": ("attention.self.layernorm1", NORM),
    "key_value_norm": ("attention.self.layernorm2", NORM),
    "attention": ("attention", _ATTENTION),
    "mlp_norm": ("layernorm", NORM),
    "mlp": ("mlp", _MLP),
}
_DECODER: Table = {
    "queries/table": ("output_position_encodings.position_embeddings", same),
    "cross_attention": ("decoding_cross_attention", _LAYER),
    "output": ("final_layer", LINEAR),
}
_INPUT: Table = {
    "embedding": ("embeddings.weight", same),
    "positions/table": ("position_embeddings.weight", same),
}
_PERCEIVER: Table = {
    "input": ("input_preprocessor", _INPUT),
    "encoder/latents": ("embeddings.latents", same),
    "encoder/cross_attention": ("encoder.cross_attention", _LAYER),
    "encoder/block/{i}": ("encoder.self_attends.{i}", _LAYER),
}


def names(decoder: Decoder | ProjectionDecoder | None, prefix: str) -> Table:
    """The renaming of a PerceiverModel below `prefix`, whose decoder sits one level deeper when it classifies."""
    inner = "decoder.decoder" if isinstance(decoder, ClassificationDecoder) else "decoder"
    table: Table = {**_PERCEIVER, "decoder": (inner, _DECODER)}
    if not prefix:
        return table
    return {
        **{path: (f"{prefix}.{name}", rest) for path, (name, rest) in table.items()},
        "output/bias": ("embedding_decoder.bias", same),
    }


def points(decoder: Decoder | ProjectionDecoder | None, prefix: str) -> list[tuple[str, str]]:
    """The trace points of such a PerceiverModel: (regular expression of theirs, ours)."""
    dot = f"{prefix}.".replace(".", r"\.") if prefix else ""
    inner = r"decoder\.decoder" if isinstance(decoder, ClassificationDecoder) else "decoder"
    rows = [
        (r"input_preprocessor", "input"),
        (r"input_preprocessor\.position_embeddings", "input.positions"),
        (r"input_preprocessor\.embeddings", "input.embedding"),
        (r"embeddings", "encoder.latents"),
        (r"encoder", "encoder"),
        (r"encoder\.cross_attention", "encoder.cross_attention"),
        (r"encoder\.self_attends\.(\d+)", r"encoder.blocks.0.\1"),
        (r"encoder\.self_attends\.(\d+)@(\d+)", r"encoder.blocks.\2.\1"),
        (rf"{inner}\.output_position_encodings", "decoder.queries.positions"),
        (rf"{inner}\.decoding_cross_attention", "decoder.cross_attention"),
        (rf"{inner}\.final_layer", "decoder.output"),
        (r"decoder", "decoder"),
    ]
    if isinstance(decoder, ClassificationDecoder):
        rows.append((inner, "decoder.output"))
    return [(dot + pattern, ours) for pattern, ours in rows]
