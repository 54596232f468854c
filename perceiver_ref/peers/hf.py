"""Hugging Face transformers' Perceiver (`transformers.models.perceiver`, version 5.23).

Read off its source: linear weights are (outputs, inputs); images are channels-first; a fully masked row averages all
values, since `finfo.min` is added to its logits; `layer_norm_eps` of the configuration is never used (1e-5 is);
`query_mask` is ignored; sizes that the task classes fix in code are constants here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from ..autograd import engine, ops
from ..autograd.tree import Tree
from ..conventions import DIALECTS, Conventions
from ..decoder import ClassificationDecoder, Decoder, classification_decoder
from ..encoder import Encoder
from ..errors import InputError, one_of
from ..inputs import PixelInput, TextInput
from ..perceiver_io import PerceiverIO
from ..position import FourierPositions, Positions, TrainablePositions
from ..presets import language_model
from ..tracing import trace
from .base import Arguments, Outputs, Peer, Rebuilt, options
from .hf_constants import Constants
from .names import LINEAR, NORM, Table, bind, same

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


def _names(decoder: Decoder | None, prefix: str) -> Table:
    """The renaming of a PerceiverModel below `prefix`, whose decoder sits one level deeper when it classifies."""
    inner = "decoder.decoder" if isinstance(decoder, ClassificationDecoder) else "decoder"
    names: Table = {**_PERCEIVER, "decoder": (inner, _DECODER)}
    if not prefix:
        return names
    return {
        **{path: (f"{prefix}.{name}", rest) for path, (name, rest) in names.items()},
        "output/bias": ("embedding_decoder.bias", same),
    }


def _points(decoder: Decoder | None, prefix: str) -> list[tuple[str, str]]:
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
        (rf"{inner}\.output_position_encodings", "decoder.queries"),
        (rf"{inner}\.decoding_cross_attention", "decoder.cross_attention"),
        (rf"{inner}\.final_layer", "decoder.output"),
        (r"decoder", "decoder"),
    ]
    if isinstance(decoder, ClassificationDecoder):
        rows.append((inner, "decoder.output"))
    return [(dot + pattern, ours) for pattern, ours in rows]


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
    "output_attentions": False,
    "output_hidden_states": False,
}
# Fields that change nothing at inference, or that only other task classes read.
_IGNORED = frozenset(
    "architectures model_type transformers_version torch_dtype dtype label2id return_dict use_cache tie_word_embeddings "
    "attention_probs_dropout_prob initializer_range layer_norm_eps chunk_size_feed_forward is_encoder_decoder "
    "add_cross_attention image_size train_size num_frames audio_samples_per_frame samples_per_patch output_shape "
    "output_num_channels _label_trainable_num_channels _name_or_path _attn_implementation bos_token_id eos_token_id "
    "pad_token_id sep_token_id decoder_start_token_id name_or_path is_decoder tokenizer_class".split()
)
_ACTIVATIONS = {
    "gelu": "gelu_erf",
    "gelu_python": "gelu_erf",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu": "relu",
    "relu2": "squared_relu",
    "silu": "silu",
    "swish": "silu",
}


def _config(given: Mapping[str, Any]) -> dict[str, Any]:
    """A PerceiverConfig, from a case's {"config": ...} or from a config.json."""
    config = options("PerceiverConfig", given.get("config", given), _CONFIG, _IGNORED)
    if config["num_labels"] is None:
        config["num_labels"] = len(config["id2label"]) if config["id2label"] else 2
    return config


def _conventions(config: Mapping[str, Any]) -> Conventions:
    if config["hidden_act"] not in _ACTIVATIONS:
        raise one_of("hidden_act", config["hidden_act"], _ACTIVATIONS)
    return replace(DIALECTS["hf"], activation=_ACTIVATIONS[config["hidden_act"]])  # type: ignore[arg-type]


def _encoder(config: Mapping[str, Any], inputs: int) -> Encoder:
    if config["cross_attention_shape_for_attention"] not in ("kv", "q"):
        raise one_of("cross_attention_shape_for_attention", config["cross_attention_shape_for_attention"], ("kv", "q"))
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
        attend_in=config["cross_attention_shape_for_attention"],
        cross_widening=config["cross_attention_widening_factor"],
        self_widening=config["self_attention_widening_factor"],
        query_residual=config["use_query_residual"],
        conventions=_conventions(config),
    )


# Components that a PerceiverModel is built from: class name -> (our part, from its keyword arguments).


def _fourier(kwargs: Mapping[str, Any], conventions: Conventions) -> FourierPositions:
    known = {"num_bands": None, "max_resolution": None, "concat_pos": True, "sine_only": False}
    chosen = options("fourier_position_encoding_kwargs", kwargs, known)
    return FourierPositions(
        chosen["num_bands"],
        tuple(chosen["max_resolution"]),
        chosen["concat_pos"],
        chosen["sine_only"],
        conventions,
    )


def _trainable(kwargs: Mapping[str, Any]) -> TrainablePositions:
    chosen = options("trainable_position_encoding_kwargs", kwargs, {"index_dims": None, "num_channels": 128})
    dims = chosen["index_dims"]
    size = dims if isinstance(dims, int) else _product(dims)
    return TrainablePositions(size, chosen["num_channels"])


def _image_preprocessor(config: Mapping[str, Any], kwargs: Mapping[str, Any]) -> PixelInput:
    known = {
        "prep_type": "conv",
        "spatial_downsample": 4,
        "in_channels": 3,
        "position_encoding_type": "fourier",
        "concat_or_add_pos": "concat",
        "fourier_position_encoding_kwargs": {},
    }
    chosen = options("PerceiverImagePreprocessor", kwargs, known)
    supported = {
        "prep_type": "pixels",
        "spatial_downsample": 1,
        "position_encoding_type": "fourier",
        "concat_or_add_pos": "concat",
    }
    for key, value in supported.items():
        if chosen[key] != value:
            raise InputError(f"PerceiverImagePreprocessor with {key} {chosen[key]!r} is not supported; only {value!r} is")
    return PixelInput(chosen["in_channels"], _fourier(chosen["fourier_position_encoding_kwargs"], _conventions(config)))


def _text_preprocessor(config: Mapping[str, Any], kwargs: Mapping[str, Any]) -> TextInput:
    options("PerceiverTextPreprocessor", kwargs, {})
    return TextInput(config["vocab_size"], config["max_position_embeddings"], config["d_model"])


_BASIC_DECODER = {
    "output_num_channels": None,
    "position_encoding_type": "trainable",
    "output_index_dims": None,
    "num_channels": 128,
    "subsampled_index_dims": None,
    "qk_channels": None,
    "v_channels": None,
    "num_heads": 1,
    "widening_factor": 1,
    "use_query_residual": False,
    "concat_preprocessed_input": False,
    "final_project": True,
    "trainable_position_encoding_kwargs": None,
}


def _basic_decoder(config: Mapping[str, Any], kwargs: Mapping[str, Any], cls: type[Decoder] = Decoder) -> Decoder:
    chosen = options("PerceiverBasicDecoder", kwargs, _BASIC_DECODER)
    queries: Positions | None = None
    dims: tuple[int, ...] = ()
    if chosen["position_encoding_type"] == "trainable":
        queries = _trainable(chosen["trainable_position_encoding_kwargs"] or {})
        dims = (queries.size,)
    elif chosen["position_encoding_type"] != "none":
        raise InputError(
            f"PerceiverBasicDecoder with position_encoding_type {chosen['position_encoding_type']!r} is not supported; "
            "only 'trainable' and 'none' are"
        )
    return cls(
        config["d_latents"],
        chosen["num_channels"],
        queries=queries,
        index_dims=dims,
        outputs=chosen["output_num_channels"] if chosen["final_project"] else None,
        heads=chosen["num_heads"],
        qk_channels=chosen["qk_channels"],
        v_channels=chosen["v_channels"],
        widening=chosen["widening_factor"],
        query_residual=chosen["use_query_residual"],
        concat_inputs=chosen["concat_preprocessed_input"],
        conventions=_conventions(config),
    )


def _classification_decoder(config: Mapping[str, Any], kwargs: Mapping[str, Any]) -> Decoder:
    return _basic_decoder(config, {**kwargs, "output_num_channels": config["num_labels"]}, ClassificationDecoder)


_PREPROCESSORS = {
    "PerceiverImagePreprocessor": _image_preprocessor,
    "PerceiverTextPreprocessor": _text_preprocessor,
}
_DECODERS = {
    "PerceiverBasicDecoder": _basic_decoder,
    "PerceiverClassificationDecoder": _classification_decoder,
}


def _component(kind: str, table: Mapping[str, Any], config: Mapping[str, Any], given: Any) -> Any:
    if given is None:
        return None
    name = str(given.get("class")).rpartition(".")[2]
    if name not in table:
        raise one_of(kind, name, table)
    return table[name](config, given.get("kwargs", {}))


# The classes.


def _perceiver_model(given: Mapping[str, Any]) -> Rebuilt:
    config = _config(given)
    preprocessor = _component("input_preprocessor", _PREPROCESSORS, config, given.get("input_preprocessor"))
    decoder = _component("decoder", _DECODERS, config, given.get("decoder"))
    if given.get("output_postprocessor") is not None:
        raise InputError("PerceiverModel with an output_postprocessor is not supported")
    inputs = config["d_model"] if preprocessor is None else preprocessor.channels
    return _rebuilt(PerceiverIO(_encoder(config, inputs), preprocessor, decoder), config, "", None)


def _masked_lm(given: Mapping[str, Any]) -> Rebuilt:
    config = _config(given)
    constants = Constants(given)
    model = language_model(
        _conventions(config),
        encoder=_encoder(config, config["d_model"]),
        vocabulary=config["vocab_size"],
        length=config["max_position_embeddings"],
        decoder_qk_channels=constants("qk_channels", 256),
        decoder_heads=constants("num_heads", 8),
    )
    return _rebuilt(model, config, "perceiver", _token_loss)


def _sequence_classification(given: Mapping[str, Any]) -> Rebuilt:
    config = _config(given)
    preprocessor = _text_preprocessor(config, {})
    return _classifier(config, preprocessor, config["d_model"], _sequence_loss)


def _image_fourier(given: Mapping[str, Any]) -> Rebuilt:
    config = _config(given)
    constants = Constants(given)
    positions = FourierPositions(
        constants("num_bands", 64),
        tuple(constants("max_resolution", (224, 224))),
        conventions=_conventions(config),
    )
    preprocessor = PixelInput(constants("in_channels", 3), positions)
    return _classifier(config, preprocessor, preprocessor.channels, _class_loss)


def _classifier(config: Mapping[str, Any], preprocessor: Any, inputs: int, loss: Any) -> Rebuilt:
    decoder = classification_decoder(
        config["d_latents"], config["num_labels"], query_residual=True, conventions=_conventions(config)
    )
    return _rebuilt(PerceiverIO(_encoder(config, inputs), preprocessor, decoder), config, "perceiver", loss)


def _rebuilt(model: PerceiverIO, config: Mapping[str, Any], prefix: str, loss: Any) -> Rebuilt:
    return Rebuilt(
        model,
        bind(model, _names(model.decoder, prefix)),
        partial(_call, model, config, loss),
        _points(model.decoder, prefix),
    )


_ARGUMENTS = {"inputs", "input_ids", "pixel_values", "attention_mask", "labels"}
_OPTIONS = {"output_attentions": False, "output_hidden_states": False, "return_dict": True}


def _call(
    model: PerceiverIO, config: Mapping[str, Any], loss: Any, params: Tree, arguments: Arguments, call: Mapping[str, Any]
) -> Outputs:
    """The peer's forward: outputs by the names of its output classes."""
    for name in arguments:
        if name not in _ARGUMENTS:
            raise one_of("argument", name, _ARGUMENTS)
    wanted = options("forward", call, _OPTIONS)
    names = [name for name in ("inputs", "input_ids", "pixel_values") if name in arguments]
    if len(names) != 1:
        raise InputError("give exactly one of the arguments inputs, input_ids and pixel_values")
    inputs = arguments[names[0]]
    if isinstance(model.preprocessor, PixelInput):
        if len(inputs.shape) != 4:
            raise InputError(f"images must be (batch, channels, height, width), got {tuple(inputs.shape)}")
        inputs = ops.transpose(inputs, axes=(0, 2, 3, 1))
    mask, bias = _masks(arguments.get("attention_mask"))
    wants_maps = wanted["output_attentions"] or config["output_attentions"]
    layers = [f"encoder.blocks.{b}.{i}" for b in range(model.encoder.blocks) for i in range(model.encoder.layers)]
    crosses = ["encoder.cross_attention", *(["decoder.cross_attention"] if model.decoder else [])]
    keep = {"encoder", "encoder.cross_attention", *layers}
    if wants_maps:
        keep |= {f"{layer}.attention.weights" for layer in (*layers, *crosses)}
    with trace(keep.__contains__, tensors=True) as traced:
        out = model.apply(params, inputs, mask=mask, bias=bias)
    results: Outputs = {"last_hidden_state": traced["encoder"]}
    if model.decoder is not None:
        results["logits"] = out
        if loss is not None and "labels" in arguments:
            results["loss"] = loss(config, out, arguments["labels"])
    if wanted["output_hidden_states"] or config["output_hidden_states"]:
        states = _hidden_states(model, traced)
        results |= {f"hidden_states.{i}": state for i, state in enumerate(states)}
    if wants_maps:
        for kind, layer_names in (("attentions", layers), ("cross_attentions", crosses)):
            maps = [traced[f"{layer}.attention.weights"] for layer in layer_names]
            results |= {f"{kind}.{i}": weights for i, weights in enumerate(maps)}
    return results


def _hidden_states(model: PerceiverIO, traced: Mapping[str, Any]) -> list[Any]:
    """The input of every self-attention layer, and each block's output once more."""
    states, state = [], traced["encoder.cross_attention"]
    for b in range(model.encoder.blocks):
        for i in range(model.encoder.layers):
            states.append(state)
            state = traced[f"encoder.blocks.{b}.{i}"]
        states.append(state)
    return states


def _masks(attention_mask: Any) -> tuple[Any, Any]:
    """(mask, bias): a 2-D mask says which inputs are real, a 4-D one is added to the logits as it is."""
    if attention_mask is None:
        return None, None
    if len(attention_mask.shape) == 4:
        return None, attention_mask
    if len(attention_mask.shape) == 2:
        return engine.data(attention_mask) != 0, None
    raise InputError(
        f"attention_mask must be (batch, length), 1 = attend, or (batch, 1, latents, length) to add; "
        f"got {tuple(attention_mask.shape)}"
    )


def _token_loss(config: Mapping[str, Any], logits: Any, labels: Any) -> Any:
    if tuple(labels.shape) != tuple(logits.shape[:-1]):
        raise InputError(f"labels must be {tuple(logits.shape[:-1])} like the logits, got {tuple(labels.shape)}")
    return ops.cross_entropy(logits, labels)


def _class_loss(config: Mapping[str, Any], logits: Any, labels: Any) -> Any:
    return _sequence_loss({**config, "problem_type": config["problem_type"]}, logits, labels)


def _sequence_loss(config: Mapping[str, Any], logits: Any, labels: Any) -> Any:
    """Regression, classification or several independent labels, guessed from labels as the peer does."""
    problem = config["problem_type"]
    if problem is None:
        integers = engine.data(labels).dtype.kind in "iu"
        problem = "regression" if config["num_labels"] == 1 else "single_label" if integers else "multi_label"
    if problem == "regression":
        return ops.squared_error(ops.reshape(logits, shape=tuple(labels.shape)), labels)
    if problem.startswith("single_label"):
        return ops.cross_entropy(logits, labels)
    return ops.binary_cross_entropy(logits, labels)


def _product(dims: Any) -> int:
    total = 1
    for n in dims:
        total *= n
    return total


PEER = Peer(
    "hf",
    {
        "PerceiverModel": _perceiver_model,
        "PerceiverForMaskedLM": _masked_lm,
        "PerceiverForSequenceClassification": _sequence_classification,
        "PerceiverForImageClassificationFourier": _image_fourier,
    },
)
