"""What transformers' task classes fix in code: the parts of each, with names and values as its source has them.

A case's `hard_coded_replacements` are pairs [old text, new text] that were replaced in that source, so they are
replaced here, and what results is read: assignments of parts (class names with options), numbers, `config.<field>`,
a part's `num_channels`, and arithmetic.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

from ....errors import InputError

_CLASSIFIER = """
decoder = PerceiverClassificationDecoder(
    num_channels=config.d_latents,
    trainable_position_encoding_kwargs={"num_channels": config.d_latents, "index_dims": 1},
    use_query_residual=True,
)
"""

SOURCES: dict[str, str] = {
    "PerceiverForMaskedLM": """
text_preprocessor = PerceiverTextPreprocessor()
input_preprocessor = text_preprocessor
decoder = PerceiverBasicDecoder(
    output_num_channels=config.d_latents,
    output_index_dims=config.max_position_embeddings,
    num_channels=text_preprocessor.num_channels,
    qk_channels=8 * 32,
    v_channels=text_preprocessor.num_channels,
    num_heads=8,
    use_query_residual=False,
    final_project=False,
    trainable_position_encoding_kwargs={
        "num_channels": text_preprocessor.num_channels,
        "index_dims": config.max_position_embeddings,
    },
)
""",
    "PerceiverForSequenceClassification": "input_preprocessor = PerceiverTextPreprocessor()" + _CLASSIFIER,
    "PerceiverForImageClassificationLearned": """
input_preprocessor = PerceiverImagePreprocessor(
    prep_type="conv1x1",
    spatial_downsample=1,
    out_channels=256,
    position_encoding_type="trainable",
    concat_or_add_pos="concat",
    project_pos_dim=256,
    trainable_position_encoding_kwargs={"num_channels": 256, "index_dims": config.image_size**2},
)
"""
    + _CLASSIFIER,
    "PerceiverForImageClassificationFourier": """
input_preprocessor = PerceiverImagePreprocessor(
    prep_type="pixels",
    spatial_downsample=1,
    fourier_position_encoding_kwargs={
        "concat_pos": True,
        "max_resolution": (224, 224),
        "num_bands": 64,
        "sine_only": False,
    },
)
"""
    + _CLASSIFIER,
    "PerceiverForImageClassificationConvProcessing": """
input_preprocessor = PerceiverImagePreprocessor(
    prep_type="conv",
    spatial_downsample=1,
    position_encoding_type="fourier",
    fourier_position_encoding_kwargs={
        "concat_pos": True,
        "max_resolution": (56, 56),
        "num_bands": 64,
        "sine_only": False,
    },
)
"""
    + _CLASSIFIER,
    "PerceiverForOpticalFlow": """
image_preprocessor = PerceiverImagePreprocessor(
    prep_type="patches",
    spatial_downsample=1,
    conv_after_patching=True,
    conv_after_patching_in_channels=54,
    temporal_downsample=2,
    position_encoding_type="fourier",
    # position_encoding_kwargs
    fourier_position_encoding_kwargs={
        "num_bands": 64,
        "max_resolution": config.train_size,
        "sine_only": False,
        "concat_pos": True,
    },
)
input_preprocessor = image_preprocessor
decoder = PerceiverOpticalFlowDecoder(
    num_channels=image_preprocessor.num_channels,
    output_image_shape=config.train_size,
    rescale_factor=100.0,
    # decoder kwargs
    use_query_residual=False,
    output_num_channels=2,
    position_encoding_type="fourier",
    fourier_position_encoding_kwargs={
        "concat_pos": True,
        "max_resolution": config.train_size,
        "num_bands": 64,
        "sine_only": False,
    },
)
""",
    "PerceiverForMultimodalAutoencoding": """
n_audio_samples = config.num_frames * config.audio_samples_per_frame
audio_positions = {
    "num_bands": 192,
    "max_resolution": (n_audio_samples,),
    "sine_only": False,
    "concat_pos": True,
}
image_positions = {
    "num_bands": 32,
    "max_resolution": (config.num_frames, config.image_size, config.image_size),
    "sine_only": False,
    "concat_pos": True,
}
input_preprocessor = PerceiverMultimodalPreprocessor(
    min_padding_size=4,
    modalities={
        "audio": PerceiverAudioPreprocessor(
            position_encoding_type="fourier",
            fourier_position_encoding_kwargs=audio_positions,
            prep_type="patches",
            samples_per_patch=config.samples_per_patch,
        ),
        "image": PerceiverImagePreprocessor(
            position_encoding_type="fourier",
            fourier_position_encoding_kwargs=image_positions,
            prep_type="patches",
            spatial_downsample=4,
            temporal_downsample=1,
        ),
        "label": PerceiverOneHotPreprocessor(),
    },
    mask_probs={"image": 0.0, "audio": 0.0, "label": 1.0},
)
decoder = PerceiverMultimodalDecoder(
    concat_preprocessed_input=False,
    modalities={
        "audio": PerceiverBasicDecoder(
            concat_preprocessed_input=False,
            output_index_dims=(n_audio_samples // config.samples_per_patch,),
            output_num_channels=config.output_num_channels,
            use_query_residual=False,
            position_encoding_only=True,
            position_encoding_type="fourier",
            fourier_position_encoding_kwargs=audio_positions,
        ),
        "image": PerceiverBasicVideoAutoencodingDecoder(
            concat_preprocessed_input=False,
            output_shape=config.output_shape,
            output_num_channels=config.output_num_channels,
            use_query_residual=False,
            position_encoding_only=True,
            position_encoding_type="fourier",
            fourier_position_encoding_kwargs=image_positions,
        ),
        "label": PerceiverClassificationDecoder(
            concat_preprocessed_input=False,
            use_query_residual=False,
            position_encoding_only=True,
            position_encoding_type="trainable",
            trainable_position_encoding_kwargs={
                "num_channels": config._label_trainable_num_channels,
                "index_dims": 1,
            },
        ),
    },
    num_outputs=None,
    output_num_channels=config.output_num_channels,
    use_query_residual=False,
)
output_postprocessor = PerceiverMultimodalPostprocessor(
    modalities={
        "audio": PerceiverAudioPostprocessor(in_channels=config.output_num_channels),
        "image": PerceiverProjectionPostprocessor(in_channels=config.output_num_channels, out_channels=3),
        "label": PerceiverClassificationPostprocessor(in_channels=config.output_num_channels),
    }
)
""",
}

_OPERATORS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Pow: operator.pow,
}
Width = Callable[[Any], int]


def parts(cls: str, config: Mapping[str, Any], replacements: Any, width: Width) -> dict[str, Any]:
    """The parts of a task class, {"input_preprocessor": {"class": ..., "kwargs": ...}, ...}.

    `width` gives a preprocessor's `num_channels`.
    """
    text = SOURCES[cls]
    for pair in replacements or ():
        if not (isinstance(pair, (list, tuple)) and len(pair) == 2 and all(isinstance(t, str) for t in pair)):
            raise InputError(f"hard_coded_replacements must hold pairs of texts, got {pair!r}")
        text = _replaced(cls, text, *pair)
    try:
        names: dict[str, Any] = {}
        for statement in ast.parse(text).body:
            if not (isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name)):
                raise ValueError(f"{ast.unparse(statement)} is no assignment")
            names[statement.targets[0].id] = _value(statement.value, config, names, width)
    except (SyntaxError, ValueError, KeyError, TypeError, ArithmeticError) as error:
        raise InputError(f"hard_coded_replacements of {cls} cannot be read: {error}") from None
    return {name: names[name] for name in ("input_preprocessor", "decoder", "output_postprocessor") if name in names}


def _replaced(cls: str, text: str, old: str, new: str) -> str:
    """`old` replaced wherever it occurs, its white space being any."""
    pattern = r"\s+".join(re.escape(part) for part in old.split())
    if not pattern or not re.search(pattern, text):
        raise InputError(f"hard_coded_replacements: {old!r} is not among the constants of {cls}")
    return re.sub(pattern, lambda _: new, text)


def _value(node: ast.expr, config: Mapping[str, Any], names: Mapping[str, Any], width: Width) -> Any:
    def value(child: ast.expr) -> Any:
        return _value(child, config, names, width)

    match node:
        case ast.Constant():
            return node.value
        case ast.Name(id=name):
            return names[name]
        case ast.Attribute(value=ast.Name(id="config"), attr=field):
            return config[field]
        case ast.Attribute(attr="num_channels"):
            return width(value(node.value))
        case ast.Tuple() | ast.List():
            return tuple(value(element) for element in node.elts)
        case ast.Dict():
            return {value(key): value(item) for key, item in zip(node.keys, node.values) if key is not None}
        case ast.UnaryOp(op=ast.USub()):
            return -value(node.operand)
        case ast.BinOp(op=op) if type(op) in _OPERATORS:
            left, right = value(node.left), value(node.right)
            if isinstance(op, ast.Pow) and right > 8:
                raise ValueError(f"{ast.unparse(node)} is too large")
            return _OPERATORS[type(op)](left, right)
        case ast.Call(func=ast.Name(id=name)) if name.startswith("Perceiver"):
            return {"class": name, "kwargs": {k.arg: value(k.value) for k in node.keywords if k.arg != "config"}}
    raise ValueError(f"{ast.unparse(node)} is neither a constant nor a part")
