"""Perceiver and Perceiver IO: differences of positions, masks and preprocessing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from perceiver_ref.models.decoder import Decoder
from perceiver_ref.models.encoder import Encoder
from perceiver_ref.models.inputs.features import ConvStem
from perceiver_ref.models.positions import FourierPositions
from perceiver_ref.peers.lucidrains.perceiver.quirks import axis_major
from perceiver_ref.peers.transformers.perceiver.quirks import STEM_PADDING
from perceiver_ref.porting.exchange import Replacement

from .rows import Change, Convention, Evidence

# Exchanges of what is no option: each takes the place of a layer or function, as in `deviations.base.Exchange`.


def _by_axis(original: Any, encoding: Any, *arguments: Any, **options: Any) -> Any:
    return axis_major(original(encoding, *arguments, **options), encoding.num_bands)


def _by_kind(original: Any, features: Any, num_bands: int) -> Any:
    return features


def _up_to_the_grid(original: Any, encoding: Any, p: Any, index_dims: Any, **options: Any) -> Any:
    return original(encoding.with_fields(max_resolution=tuple(index_dims)), p, index_dims, **options)


def _padding_attended(original: Any, encoder: Any, p: Any, b: int, x: Any, inputs: Any, mask: Any, bias: Any) -> Any:
    return original(encoder, p, b, x, inputs, None if mask is None else ~mask, bias)


def _every_query(original: Any, decoder: Any, p: Any, latents: Any, request: Any, elements: Any) -> Any:
    return original(decoder, p, latents, replace(request, query_mask=None), elements)


def _same_for_queries() -> Change:
    """The mask of the inputs, which the encoder is given, for the queries, too."""
    masks: list[Any] = []

    def encode(original: Any, encoder: Any, p: Any, inputs: Any, *, mask: Any = None, **options: Any) -> Any:
        masks.append(mask)
        return original(encoder, p, inputs, mask=mask, **options)

    def decode(original: Any, decoder: Any, p: Any, latents: Any, request: Any, elements: Any) -> Any:
        return original(decoder, p, latents, replace(request, query_mask=masks.pop()), elements)

    return {Encoder.apply: encode, Decoder.apply: decode}


def _stem(**padding: Any) -> Replacement:
    def padded(original: Any, stem: Any, *arguments: Any, **options: Any) -> Any:
        return original(stem.with_fields(**padding), *arguments, **options)

    return padded


_UP_TO_THE_GRID: dict[Any, Change] = {"the grid's": {FourierPositions.apply: _up_to_the_grid}}
_BY_AXIS: dict[Any, Change] = {"by axis": {FourierPositions.apply: _by_axis}}
_PADDING: dict[Any, Change] = {"True is padding": {Encoder.cross_attended: _padding_attended}}

POSITIONS = (
    Convention(
        "Order of Fourier features",
        "How the channels follow each other: positions of all axes, all sines, all cosines (by kind), or the sines, "
        "cosines and position of one axis after the other (by axis).",
        {
            "paper": "by kind",
            "deepmind": "by kind",
            "hf": "by kind",
            "lucidrains-perceiver": "by axis",
            "krasserm": "by kind",
        },
        "`fourier_features`; the other in peers/lucidrains/perceiver/quirks.py",
        (
            Evidence("deepmind/imagenet_pixels_fourier", "by kind", _BY_AXIS),
            Evidence("hf/image_fourier_small", "by kind", _BY_AXIS),
            Evidence("lucidrains-perceiver/perceiver_2d", "by axis", {"by kind": {"axis_major": _by_kind}}),
        ),
    ),
    Convention(
        "Highest frequency",
        "Half of which resolution the frequencies reach. It stays as it was trained when images of another size come "
        "in, but for krasserm's, which follows the grid.",
        {
            "paper": "one for each axis",
            "deepmind": "`max_resolution` by axis, else the grid's",
            "hf": "`max_resolution` by axis; 224 x 224 in its image models",
            "lucidrains-perceiver": "`max_freq`, one for all axes",
            "krasserm": "the grid's",
        },
        "`FourierPositions.max_resolution`",
        (
            Evidence("hf/image_fourier", "224 x 224", _UP_TO_THE_GRID),
            Evidence("lucidrains-perceiver/perceiver_2d", "8 x 8", _UP_TO_THE_GRID),
            Evidence("krasserm/fourier_position_encoding", "the grid's, in a buffer"),
        ),
    ),
    Convention(
        "Fourier features as weights",
        "Whether they are computed, or stored with the weights in the dtype of their making and read from there.",
        {
            "paper": "computed",
            "deepmind": "computed",
            "hf": "computed",
            "lucidrains-perceiver": "computed",
            "krasserm": "a buffer, of float32 unless made otherwise",
        },
        "peers/krasserm/quirks.py",
        (
            Evidence("deepmind/imagenet_pixels_fourier", "computed"),
            Evidence("krasserm/image_classifier_float32_buffer", "a buffer"),
        ),
    ),
    Convention(
        "Given positions",
        "Fourier features of positions that differ in each item of a batch: of every item, or sines and cosines of the "
        "first item for all.",
        {"deepmind": "of every item", "hf": "of the first item"},
        "`FourierPositions`; the other in peers/transformers/perceiver/quirks.py",
        (
            Evidence("deepmind/fourier_encoding_user_pos", "of every item"),
            Evidence("hf/fourier_features_batched_pos", "of the first item"),
        ),
    ),
    Convention(
        "Queries of a full grid",
        "Where queries of a Fourier encoding are when all points are decoded: on the output grid, or on a line of as "
        "many points as inputs have channels.",
        {"paper": "output grid", "deepmind": "output grid", "hf": "a line"},
        "`PositionQueries`; the other in peers/transformers/perceiver/quirks.py",
        (
            Evidence("deepmind/multimodal_full_grid", "output grid"),
            Evidence("hf/multimodal_full", "a line"),
        ),
    ),
)

INPUTS = (
    Convention(
        "Polarity of masks",
        "What True, or 1, means in the mask that a user gives.",
        {
            "deepmind": "attend",
            "hf": "attend; a mask of four axes is added",
            "lucidrains-perceiver": "attend",
            "krasserm": "padding",
        },
        "True is attend; turned around in peers/krasserm/parts.py",
        (
            Evidence("deepmind/encoder_input_mask", "True is attend", _PADDING),
            Evidence("hf/model_mask", "True is attend", _PADDING),
            Evidence("lucidrains-perceiver/perceiver_2d_mask", "True is attend", _PADDING),
            Evidence(
                "krasserm/encoder_pad_mask",
                "True is padding",
                {"True is attend": {Encoder.cross_attended: _padding_attended}},
            ),
        ),
    ),
    Convention(
        "Mask of queries",
        "Whether queries of padding attend to nothing in the decoder of a language model. transformers takes such a "
        "mask and never uses it.",
        {
            "deepmind": "BasicDecoder alone",
            "hf": "ignored",
            "lucidrains-perceiver": "none",
            "krasserm": "none",
        },
        "`query_mask` of `Request`",
        (
            Evidence("deepmind/mlm_different_masks", "used", {"ignored": {Decoder.apply: _every_query}}),
            Evidence("hf/masked_lm", "ignored", {"used, as the inputs' mask": _same_for_queries()}),
        ),
    ),
    Convention(
        "Length of language outputs",
        "How many positions a masked language model answers for when its input is shorter than the longest.",
        {
            "deepmind": "the longest",
            "hf": "the longest",
            "lucidrains-perceiver": "the input's",
            "krasserm": "the input's",
        },
        "the length of the queries; cut in peers/krasserm/models.py",
        (
            Evidence("hf/masked_lm_short", "13 for 7"),
            Evidence("krasserm/mlm_tied", "7 for 7, of 9"),
            Evidence("lucidrains-perceiver/lm", "9 for 9, of 12"),
        ),
    ),
    Convention(
        "Padding of the convolutional stem",
        "How its convolution and pooling are padded: as SAME, or 3 on both sides and not at all. 224 pixels become 56 "
        "or 55 tokens on a side.",
        {"deepmind": "SAME", "hf": "(3, 3), none"},
        "`ConvStem`; `STEM_PADDING` in peers/transformers/perceiver/quirks.py",
        (
            Evidence(
                "deepmind/imagenet_conv_batchnorm_eval",
                "SAME",
                {"(3, 3), none": {ConvStem.apply: _stem(**STEM_PADDING)}},
            ),
            Evidence(
                "hf/image_conv",
                "(3, 3), none",
                {"SAME": {ConvStem.apply: _stem(convolution_padding=None, pool_padding=None)}},
            ),
        ),
    ),
    Convention(
        "Downsampled pixels",
        "Which axes `spatial_downsample` skips along, for images that are not cut into patches: height and width, or, "
        "for images but not video, batch and channels.",
        {"deepmind": "height and width", "hf": "batch and channels"},
        "`Pixels`; the other in peers/transformers/perceiver/quirks.py",
        (
            Evidence("deepmind/imagenet_pixels_downsample_odd", "height and width"),
            Evidence("hf/preproc_pixels_4d_downsample", "batch and channels"),
        ),
    ),
)
