"""PerceiverConfig, and the parts of a model that it determines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from ...conventions import DIALECTS, Activation, Conventions
from ...encoder import Encoder
from ...errors import InputError, one_of
from ..base import options

# The configuration: PerceiverConfig's fields and defaults that shape a model.
_CONFIG: dict[str, Any] = {
    "num_latents": 256,
    "d_latents": 1280,
    "d_model": 768,
    "num_blocks": 1,
    "num_self_attends_per_block": 26,
    "num_self_attention_heads": 8,
    "num_cross_attention_heads": 8,
    "qk_channels": None,
    "v_channels": None,
    "cross_attention_shape_for_attention": "kv",
    "self_attention_widening_factor": 1,
    "cross_attention_widening_factor": 1,
    "hidden_act": "gelu",
    "use_query_residual": True,
    "vocab_size": 262,
    "max_position_embeddings": 2048,
    "num_labels": None,
    "id2label": None,
    "problem_type": None,
    "image_size": 56,
    "train_size": (368, 496),
    "num_frames": 16,
    "audio_samples_per_frame": 1920,
    "samples_per_patch": 16,
    "output_shape": (1, 16, 224, 224),
    "output_num_channels": 512,
    "_label_trainable_num_channels": 1024,
    "output_attentions": False,
    "output_hidden_states": False,
    "return_dict": True,
}
PRETRAINED = frozenset(
    [
        "_attn_implementation",
        "_name_or_path",
        "add_cross_attention",
        "architectures",
        "attn_implementation",
        "bos_token_id",
        "chunk_size_feed_forward",
        "decoder_start_token_id",
        "dtype",
        "eos_token_id",
        "initializer_range",
        "is_decoder",
        "is_encoder_decoder",
        "label2id",
        "model_type",
        "name_or_path",
        "pad_token_id",
        "return_dict",
        "sep_token_id",
        "tie_word_embeddings",
        "tokenizer_class",
        "torch_dtype",
        "transformers_version",
        "use_cache",
    ]
)
"""Fields of every configuration of transformers that change nothing at inference."""
_IGNORED = PRETRAINED | {"attention_probs_dropout_prob", "layer_norm_eps"}
_ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu_erf",
    "gelu_10": "gelu_10",
    "gelu_accurate": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_python": "gelu_erf",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "hardswish": "hardswish",
    "laplace": "laplace",
    "leaky_relu": "leaky_relu",
    "linear": "identity",
    "mish": "mish",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "relu2": "squared_relu",
    "relu6": "relu6",
    "sigmoid": "sigmoid",
    "silu": "silu",
    "sqrtsoftplus": "sqrt_softplus",
    "swish": "silu",
    "tanh": "tanh",
}
"""transformers' names of activations without parameters."""


def read_config(given: Mapping[str, Any]) -> dict[str, Any]:
    """A PerceiverConfig, from a case's {"config": ...} or from a config.json. `image_size` may be a pair."""
    fields = given.get("config", given)
    size = fields.get("image_size") if isinstance(fields, Mapping) else None
    pair = tuple(size) if isinstance(size, (list, tuple)) else None
    if pair is not None:
        if len(pair) != 2 or not all(type(n) is int and n > 0 for n in pair):
            raise InputError(f"option 'image_size' of PerceiverConfig must be a whole number or a pair, got {size!r}")
        fields = {name: value for name, value in fields.items() if name != "image_size"}
    config = options("PerceiverConfig", fields, _CONFIG, _IGNORED)
    config["image_size"] = config["image_size"] if pair is None else pair
    if config["num_labels"] is None:
        config["num_labels"] = len(config["id2label"]) if config["id2label"] else 2
    return config


def activation(name: str) -> Activation:
    """Our name of one of transformers' activations."""
    if name not in _ACTIVATIONS:
        raise one_of("hidden_act", name, _ACTIVATIONS)
    return _ACTIVATIONS[name]


def conventions(config: Mapping[str, Any]) -> Conventions:
    """The conventions of a configuration: those of the dialect, with its activation."""
    return replace(DIALECTS["hf"], activation=activation(config["hidden_act"]))


def attend_in(config: Mapping[str, Any]) -> Literal["kv", "q"]:
    """Whose width cross-attention takes, in the encoder and in decoders."""
    side = config["cross_attention_shape_for_attention"]
    if side not in ("kv", "q"):
        raise one_of("cross_attention_shape_for_attention", side, ("kv", "q"))
    return side  # type: ignore[no-any-return]


def encoder(config: Mapping[str, Any], inputs: int) -> Encoder:
    """The encoder of a configuration."""
    return Encoder(
        inputs=inputs,
        latents=config["num_latents"],
        channels=config["d_latents"],
        blocks=config["num_blocks"],
        layers=config["num_self_attends_per_block"],
        cross_heads=config["num_cross_attention_heads"],
        self_heads=config["num_self_attention_heads"],
        qk_channels=config["qk_channels"],
        v_channels=config["v_channels"],
        attend_in=attend_in(config),
        cross_widening=config["cross_attention_widening_factor"],
        self_widening=config["self_attention_widening_factor"],
        query_residual=config["use_query_residual"],
        conventions=conventions(config),
    )
