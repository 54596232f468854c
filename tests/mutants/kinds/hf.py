"""Small models of transformers' Perceiver."""

from __future__ import annotations

from typing import Any

import numpy as np

from mutants.kinds.inputs import Rng, fourier, lengths, masked, normal, tokens
from mutants.models import HF, Arrays, Model


def hf(name: str, config: dict[str, Any], inputs: Any, cls: str = "PerceiverModel", **more: Any) -> Model:
    """A model of transformers' Perceiver."""
    parts = {key: more.pop(key) for key in ("input_preprocessor", "decoder", "output_postprocessor") if key in more}
    literal = more.pop("literal", ())
    whole = {"config": config, **parts}
    if literal:
        whole["hard_coded_replacements"] = [list(pair) for pair in literal]
    default = ("last_hidden_state",) if "decoder" not in parts and cls == "PerceiverModel" else ("logits",)
    return Model(
        name, "hf", HF, cls, whole, inputs, literal=tuple((cls, *pair) for pair in literal), outputs=default, **more
    )


BARE = {
    "num_latents": 3,
    "d_latents": 8,
    "d_model": 6,
    "num_blocks": 3,
    "num_self_attends_per_block": 2,
    "num_self_attention_heads": 4,
    "num_cross_attention_heads": 2,
    "self_attention_widening_factor": 2,
}
IMAGE = {
    "num_latents": 4,
    "d_latents": 12,
    "num_blocks": 2,
    "num_self_attends_per_block": 2,
    "num_self_attention_heads": 2,
    "num_cross_attention_heads": 2,
    "num_labels": 3,
}
TEXT = {
    "num_latents": 4,
    "d_latents": 10,
    "d_model": 8,
    "num_blocks": 3,
    "num_self_attends_per_block": 2,
    "num_self_attention_heads": 2,
    "num_cross_attention_heads": 2,
    "vocab_size": 14,
    "max_position_embeddings": 8,
}


def classification(channels: int, heads: int, residual: bool = True) -> dict[str, Any]:
    """A classification decoder of transformers."""
    trainable = {"num_channels": channels, "index_dims": 1}
    kwargs = {"num_channels": channels, "trainable_position_encoding_kwargs": trainable}
    return {
        "class": "PerceiverClassificationDecoder",
        "kwargs": {**kwargs, "use_query_residual": residual, "num_heads": heads},
    }


def pixels(resolution: list[int], channels: int) -> dict[str, Any]:
    """A preprocessor of pixels with Fourier positions."""
    kwargs = {"prep_type": "pixels", "spatial_downsample": 1}
    kwargs |= {"fourier_position_encoding_kwargs": fourier(resolution), "in_channels": channels}
    return {"class": "PerceiverImagePreprocessor", "kwargs": kwargs}


def _multimodal() -> dict[str, Any]:
    video = {
        "prep_type": "patches",
        "in_channels": 2,
        "spatial_downsample": 2,
        "temporal_downsample": 1,
        "position_encoding_type": "fourier",
        "fourier_position_encoding_kwargs": fourier([3, 4, 6]),
    }
    audio = {"prep_type": "patches", "samples_per_patch": 3, "position_encoding_type": "fourier"}
    audio["fourier_position_encoding_kwargs"] = fourier([7])
    queries = {}
    for modality, width, size in (("image", 9, 18), ("audio", 6, 4)):
        queries[modality] = {
            "class": "PerceiverBasicDecoder",
            "kwargs": {
                "output_num_channels": 9,
                "position_encoding_only": True,
                "position_encoding_type": "trainable",
                "output_index_dims": size,
                "trainable_position_encoding_kwargs": {"num_channels": width, "index_dims": size},
            },
        }
    label = {"position_encoding_only": True, "position_encoding_type": "trainable"}
    label["trainable_position_encoding_kwargs"] = {"num_channels": 4, "index_dims": 1}
    queries["label"] = {"class": "PerceiverClassificationDecoder", "kwargs": label}
    outputs = {
        "image": {"class": "PerceiverProjectionPostprocessor", "kwargs": {"in_channels": 9, "out_channels": 3}},
        "audio": {"class": "PerceiverAudioPostprocessor", "kwargs": {"in_channels": 9}},
        "label": {"class": "PerceiverClassificationPostprocessor", "kwargs": {"in_channels": 9}},
    }
    modalities = {
        "image": {"class": "PerceiverImagePreprocessor", "kwargs": video},
        "audio": {"class": "PerceiverAudioPreprocessor", "kwargs": audio},
        "label": {"class": "PerceiverOneHotPreprocessor"},
    }
    decoder = {"num_outputs": None, "output_num_channels": 9, "min_padding_size": 1, "use_query_residual": False}
    return {
        "input_preprocessor": {
            "class": "PerceiverMultimodalPreprocessor",
            "kwargs": {
                "min_padding_size": 3,
                "mask_probs": {"image": 0.0, "audio": 0.0, "label": 1.0},
                "modalities": modalities,
            },
        },
        "decoder": {
            "class": "PerceiverMultimodalDecoder",
            "kwargs": {**decoder, "num_heads": 2, "modalities": queries},
        },
        "output_postprocessor": {"class": "PerceiverMultimodalPostprocessor", "kwargs": {"modalities": outputs}},
    }


def _autoencoder_inputs(rng: Rng) -> Arrays:
    label = np.eye(5)[rng.integers(0, 5, 2)]
    shapes = {"inputs.image": (2, 2, 3, 6, 6), "inputs.audio": (2, 24, 1)}
    points = {"image": np.sort(rng.choice(72, 5, replace=False)), "audio": np.sort(rng.choice(6, 3, replace=False))}
    return {
        **{name: rng.standard_normal(shape) for name, shape in shapes.items()},
        "inputs.label": label,
        **{f"subsampled_output_points.{name}": value.astype(np.int64) for name, value in points.items()},
    }


AUTOENCODER = {
    "num_latents": 5,
    "d_latents": 12,
    "num_blocks": 1,
    "num_self_attends_per_block": 2,
    "num_self_attention_heads": 3,
    "num_cross_attention_heads": 1,
    "num_labels": 5,
    "num_frames": 2,
    "audio_samples_per_frame": 12,
    "samples_per_patch": 4,
    "image_size": 6,
    "output_shape": [1, 2, 6, 6],
    "output_num_channels": 8,
    "_label_trainable_num_channels": 7,
}

HF_MODELS = (
    hf("model_bare", {**BARE, "num_blocks": 2}, normal(inputs=(2, 7, 6))),
    hf("model_mask", BARE, masked(normal(inputs=(2, 7, 6)), attention_mask=lengths((7, 4), 7))),
    hf("model_mask_allmasked_row", BARE, masked(normal(inputs=(3, 7, 6)), attention_mask=lengths((5, 0, 3), 7))),
    hf("model_no_query_residual", {**BARE, "use_query_residual": False}, normal(inputs=(2, 7, 6))),
    hf(
        "masked_lm",
        TEXT,
        masked(tokens(14, (2, 8)), attention_mask=lengths((8, 3), 8)),
        "PerceiverForMaskedLM",
    ),
    hf(
        "sequence_classification",
        {**TEXT, "num_labels": 5, "num_blocks": 2, "max_position_embeddings": 11},
        masked(tokens(14, (2, 9)), attention_mask=lengths((9, 5), 9)),
        "PerceiverForSequenceClassification",
    ),
    hf(
        "image_fourier_small",
        IMAGE,
        normal(inputs=(2, 2, 4, 6)),
        input_preprocessor=pixels([9, 6], 2),
        decoder=classification(12, 3),
    ),
    hf(
        "image_learned",
        {**IMAGE, "image_size": 4, "num_cross_attention_heads": 1, "num_self_attends_per_block": 1},
        normal(inputs=(2, 3, 4, 4)),
        "PerceiverForImageClassificationLearned",
        literal=(
            ('"num_channels": 256', '"num_channels": 12'),
            ("out_channels=256", "out_channels=12"),
            ("project_pos_dim=256", "project_pos_dim=6"),
        ),
    ),
    hf(
        "image_conv",
        {**IMAGE, "num_self_attends_per_block": 1},
        normal(inputs=(2, 3, 21, 26)),
        "PerceiverForImageClassificationConvProcessing",
        literal=(
            ("spatial_downsample=1,", "spatial_downsample=1, out_channels=6,"),
            ('"num_bands": 64', '"num_bands": 3'),
            ("(56, 56)", "(5, 7)"),
        ),
    ),
    hf(
        "optical_flow",
        {**IMAGE, "num_cross_attention_heads": 1, "train_size": [4, 7], "num_self_attends_per_block": 1},
        normal(inputs=(2, 2, 27, 4, 7)),
        "PerceiverForOpticalFlow",
        literal=(
            ('"num_bands": 64', '"num_bands": 2'),
            ("conv_after_patching=True,", "conv_after_patching=True, out_channels=6,"),
            ("# decoder kwargs", "num_heads=2,"),
        ),
    ),
    hf(
        "multimodal_full",
        {**AUTOENCODER, "num_blocks": 2, "num_labels": 4, "samples_per_patch": 3},
        normal(**{"inputs.image": (2, 3, 2, 4, 6), "inputs.audio": (2, 12, 1), "inputs.label": (2, 4)}),
        **_multimodal(),
    ),
    hf(
        "multimodal_subsampled",
        AUTOENCODER,
        _autoencoder_inputs,
        "PerceiverForMultimodalAutoencoding",
        call={"subsampled_output_points.label": None},
        literal=(
            ('"num_bands": 192', '"num_bands": 2'),
            ('"num_bands": 32', '"num_bands": 2'),
            ("spatial_downsample=4", "spatial_downsample=2"),
        ),
    ),
)
