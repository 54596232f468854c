"""Small models of DeepMind's."""

from __future__ import annotations

from typing import Any

import numpy as np

from mutants.kinds.inputs import fourier, lengths, masked, normal, tokens
from mutants.models import DEEPMIND, Model

ENCODER = {
    "cross_attend_widening_factor": 1,
    "dropout_prob": 0.0,
    "num_blocks": 2,
    "num_cross_attend_heads": 1,
    "num_self_attend_heads": 3,
    "num_self_attends_per_block": 2,
    "num_z_channels": 6,
    "self_attend_widening_factor": 1,
    "z_index_dim": 3,
    "z_pos_enc_init_scale": 0.02,
}


def deepmind(name: str, cls: str, config: dict[str, Any], shape: tuple[int, ...], inputs: Any, *outputs: str) -> Model:
    """A model of DeepMind's."""
    call = {"is_training": False}
    return Model(name, "deepmind", DEEPMIND, cls, config, inputs, call=call, shape=shape, outputs=outputs)


def part(cls: str, **kwargs: Any) -> dict[str, Any]:
    """A module of DeepMind's as the cases name it."""
    return {"class": cls, "kwargs": kwargs}


def perceiver(preprocessor: Any, encoder: dict[str, Any], decoder: Any) -> dict[str, Any]:
    """DeepMind's Perceiver of these parts."""
    return part(
        "Perceiver",
        decoder=decoder,
        encoder=part("PerceiverEncoder", **encoder),
        input_preprocessor=preprocessor,
        output_postprocessor=None,
    )


def trainable(channels: int) -> dict[str, Any]:
    """Arguments of a trained position encoding."""
    return {"init_scale": 0.02, "num_channels": channels}


CLASSIFIER = part(
    "ClassificationDecoder",
    num_classes=4,
    num_z_channels=6,
    position_encoding_type="trainable",
    trainable_position_encoding_kwargs=trainable(6),
    use_query_residual=True,
)
DM_PIXELS = part(
    "ImagePreprocessor",
    fourier_position_encoding_kwargs=fourier([6, 4]),
    position_encoding_type="fourier",
    prep_type="pixels",
    spatial_downsample=1,
)
DM_MORE = part(
    "ImagePreprocessor",
    fourier_position_encoding_kwargs=fourier([5, 7], 3),
    position_encoding_type="fourier",
    prep_type="pixels",
    spatial_downsample=1,
)
DM_LEARNED = part(
    "ImagePreprocessor",
    concat_or_add_pos="concat",
    num_channels=7,
    position_encoding_type="trainable",
    prep_type="conv1x1",
    project_pos_dim=5,
    spatial_downsample=1,
    trainable_position_encoding_kwargs=trainable(4),
)
DM_FLOW = part(
    "ImagePreprocessor",
    conv_after_patching=True,
    fourier_position_encoding_kwargs=fourier([5, 4]),
    n_extra_pos_mlp=0,
    num_channels=6,
    position_encoding_type="fourier",
    prep_type="patches",
    spatial_downsample=1,
    temporal_downsample=2,
)
FLOW_DECODER = part(
    "FlowDecoder",
    fourier_position_encoding_kwargs=fourier([5, 4]),
    num_heads=2,
    output_image_shape=[3, 4],
    output_num_channels=2,
    position_encoding_type="fourier",
    rescale_factor=100.0,
    use_query_residual=False,
)
MLM = {
    "embed_dim": 6,
    "embedding_decoder": part("EmbeddingDecoder", embedding_matrix="embed.embeddings (tied)"),
    "input_position_encoding": part("TrainablePositionEncoding", index_dim=7, num_channels=6),
    "max_seq_len": 7,
    "perceiver": perceiver(
        None,
        {**ENCODER, "num_cross_attend_heads": 2, "num_self_attend_heads": 2, "qk_channels": 4, "v_channels": 6},
        part(
            "BasicDecoder",
            final_project=False,
            num_heads=3,
            num_z_channels=6,
            output_index_dims=7,
            output_num_channels=6,
            position_encoding_type="trainable",
            qk_channels=3,
            trainable_position_encoding_kwargs=trainable(6),
            use_query_residual=False,
            v_channels=6,
        ),
    ),
    "vocab_size": 14,
}
MLM_CLASS = "masked_language_modelling colab (hk.Embed + TrainablePositionEncoding + Perceiver + EmbeddingDecoder)"
FLOW_CLASS = "optical_flow colab (patches_for_flow + Perceiver with FlowDecoder) * flow_scale_factor"
DM_CLASS = "perceiver.perceiver.Perceiver"
MASK = {"input_mask": lengths((7, 4), 7).astype(np.int32), "query_mask": lengths((7, 4), 7).astype(np.int32)}
EMPTY = {"input_mask": lengths((7, 0), 7).astype(np.int32), "query_mask": lengths((5, 0), 7).astype(np.int32)}
DEEPMIND_MODELS = (
    deepmind(
        "imagenet_pixels_fourier",
        DM_CLASS,
        perceiver(DM_PIXELS, ENCODER, CLASSIFIER),
        (2, 4, 3, 2),
        normal(inputs=(2, 4, 3, 2)),
    ),
    deepmind(
        "imagenet_conv1x1_trainable_project",
        DM_CLASS,
        perceiver(DM_LEARNED, {**ENCODER, "num_blocks": 3}, CLASSIFIER),
        (2, 3, 4, 3),
        normal(inputs=(2, 3, 4, 3)),
    ),
    deepmind(
        "imagenet_input_mask",
        DM_CLASS,
        perceiver(DM_MORE, {**ENCODER, "num_cross_attend_heads": 2}, CLASSIFIER),
        (3, 3, 4, 2),
        masked(normal(inputs=(3, 3, 4, 2)), input_mask=lengths((12, 7, 0), 12).astype(np.int32)),
    ),
    deepmind("mlm_same_masks", MLM_CLASS, MLM, (), masked(tokens(14, (2, 7), kind=np.int32), **MASK)),
    deepmind("mlm_fully_masked_row", MLM_CLASS, MLM, (), masked(tokens(14, (2, 7), kind=np.int32), **EMPTY)),
    deepmind(
        "flow_nonsquare",
        FLOW_CLASS,
        {"flow_scale_factor": 20, "perceiver": perceiver(DM_FLOW, ENCODER, FLOW_DECODER)},
        (2, 2, 3, 4, 3),
        normal(images=(2, 2, 3, 4, 3)),
        "flow",
    ),
    deepmind(
        "encoder_shared_blocks",
        "perceiver.perceiver.PerceiverEncoder",
        part("PerceiverEncoder", **{**ENCODER, "num_blocks": 3, "self_attend_widening_factor": 2}),
        (2, 7, 6),
        normal(inputs=(2, 7, 6)),
        "z",
    ),
)
