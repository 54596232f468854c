"""perceiver-io: its task models keep their configuration, a dataclass; its parts are read off their attributes."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

from .base import Row, Unread


def model(module: Any) -> dict[str, Any]:
    """`ImageClassifier`, `TextClassifier` and `MaskedLanguageModel`."""
    config = module.config
    parts = {name: dataclasses.asdict(getattr(config, name)) for name in ("encoder", "decoder")}
    return {"num_latents": config.num_latents, "num_latent_channels": config.num_latent_channels, **parts}


def causal(module: Any) -> dict[str, Any]:
    """`CausalSequenceModel` and the models that are only other names of it."""
    return dataclasses.asdict(module.config)


def attention(module: Any) -> dict[str, Any]:
    """`MultiHeadAttention`."""
    return {
        "num_heads": module.num_heads,
        "num_q_input_channels": module.q_proj.in_features,
        "num_kv_input_channels": module.k_proj.in_features,
        "num_qk_channels": module.num_qk_channels,
        "num_v_channels": module.num_v_channels,
        "num_output_channels": module.o_proj.out_features,
        "causal_attention": bool(module.causal_attention),
        "qkv_bias": module.q_proj.bias is not None,
        "out_bias": module.o_proj.bias is not None,
    }


def encoder(module: Any) -> dict[str, Any]:
    """`PerceiverEncoder`, on inputs as they are."""
    if list(module.input_adapter.parameters()):
        raise Unread("an encoder whose input adapter has parameters; record the model, or the part behind the adapter")
    cross = _layer(module.cross_attn_1)
    return {"num_input_channels": cross.kv_norm.normalized_shape[0], **_encoder(module)}


def decoder(module: Any) -> dict[str, Any]:
    """`PerceiverDecoder` with trained queries, whose outputs are left as they are."""
    if list(module.output_adapter.parameters()):
        raise Unread("a decoder whose output adapter has parameters; record the model")
    count, width = module.output_query_provider._query.shape
    return {"num_queries": count, "num_query_channels": width, **_decoder(module)}


def positions(module: Any) -> dict[str, Any]:
    """`FourierPositionEncoding`."""
    return {"input_shape": list(module.input_shape), "num_frequency_bands": module.num_frequency_bands}


def flow(module: Any) -> dict[str, Any]:
    """`OpticalFlow`, which keeps no configuration."""
    into, out = module[0], module[1]
    adapter, width = into.input_adapter, _encoder(into)
    patch, rest = divmod(adapter.linear.in_features, 2)
    if rest:
        raise Unread(f"patches of {adapter.linear.in_features} channels in two frames")
    own = {
        "image_shape": list(adapter.position_encoding.input_shape),
        "num_patch_input_channels": patch,
        "num_patch_hidden_channels": adapter.linear.out_features,
        "num_frequency_bands": adapter.position_encoding.num_frequency_bands,
    }
    sizes = {name: width.pop(name) for name in ("num_latents", "num_latent_channels")}
    ends = {"image_shape": list(out.output_adapter.image_shape), "rescale_factor": out.output_adapter.rescale_factor}
    rest_of = {name: value for name, value in _decoder(out).items() if name != "num_latent_channels"}
    return {**sizes, "encoder": {**width, **own}, "decoder": {**rest_of, **ends}}


def _layer(layer: Any) -> Any:
    """The attention of a layer, inside its residual where it has one."""
    return getattr(layer[0], "module", layer[0])


def _sizes(attend: Any, kind: str) -> dict[str, Any]:
    return {
        f"num_{kind}_attention_heads": attend.num_heads,
        f"num_{kind}_attention_qk_channels": attend.num_qk_channels,
        f"num_{kind}_attention_v_channels": attend.num_v_channels,
    }


def _widening(layer: Any) -> int:
    mlp = layer[1].module
    return int(mlp[1].out_features // mlp[1].in_features)


def _encoder(module: Any) -> dict[str, Any]:
    count, width = module.latent_provider._query.shape
    first, own = module.cross_attn_1, module.self_attn_1[0]
    return {
        "num_latents": count,
        "num_latent_channels": width,
        **_sizes(_layer(first).attention, "cross"),
        **_sizes(_layer(own).attention, "self"),
        "num_cross_attention_layers": module.num_cross_attention_layers,
        "first_cross_attention_layer_shared": bool(module.first_cross_attention_layer_shared),
        "cross_attention_widening_factor": _widening(first),
        "num_self_attention_layers_per_block": len(module.self_attn_1),
        "num_self_attention_blocks": module.num_self_attention_blocks,
        "first_self_attention_block_shared": bool(module.first_self_attention_block_shared),
        "self_attention_widening_factor": _widening(own),
    }


def _decoder(module: Any) -> dict[str, Any]:
    layer = module.cross_attn
    return {
        "num_latent_channels": _layer(layer).kv_norm.normalized_shape[0],
        **_sizes(_layer(layer).attention, "cross"),
        "cross_attention_widening_factor": _widening(layer),
        "cross_attention_residual": hasattr(layer[0], "module"),
    }


def _angles(name: str, embedding: Any) -> dict[str, Any]:
    """A `RotaryPositionEmbedding`: its angles (B, 1, n, r) without the axis of heads, and which end they belong to."""
    return {name: embedding.frq_pos_enc[:, 0], "right_align": bool(embedding.right_align)}


def _in_pieces(module: Any) -> frozenset[str]:
    """The dropouts of attention maps that are made for a few heads at a time."""
    attentions = [(path, part) for path, part in module.named_modules() if hasattr(part, "max_heads_parallel")]
    return frozenset(
        f"{path}.dropout" if path else "dropout"
        for path, part in attentions
        if part.max_heads_parallel < part.num_heads
    )


_CORE = "perceiver.model.core.modules"
_READERS = {
    f"{_CORE}.MultiHeadAttention": attention,
    f"{_CORE}.PerceiverEncoder": encoder,
    f"{_CORE}.PerceiverDecoder": decoder,
    f"{_CORE}.CausalSequenceModel": causal,
    "perceiver.model.core.position.FourierPositionEncoding": positions,
    "perceiver.model.vision.image_classifier.backend.ImageClassifier": model,
    "perceiver.model.vision.optical_flow.backend.OpticalFlow": flow,
    "perceiver.model.text.classifier.backend.TextClassifier": model,
    "perceiver.model.text.mlm.backend.MaskedLanguageModel": model,
    "perceiver.model.text.clm.backend.CausalLanguageModel": causal,
    "perceiver.model.audio.symbolic.backend.SymbolicAudioModel": causal,
}
_ANGLES = {f"rot_pos_emb_{side}": partial(_angles, f"frq_{side}") for side in "qk"}
ROWS = {
    path: Row("krasserm", reader, "perceiver-io", opened=_ANGLES, partial=_in_pieces)
    for path, reader in _READERS.items()
}
