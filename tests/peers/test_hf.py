"""What only transformers' Perceiver does, and how its parts and constants are read."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conventions.exchange import case_path

import perceiver_ref as pr
from perceiver_ref.models.call import Call
from perceiver_ref.models.conventions import DIALECTS
from perceiver_ref.models.decoder import Decoder
from perceiver_ref.models.inputs import ConvStem, Pixels, Preprocessed
from perceiver_ref.models.positions import FourierPositions, TrainablePositions
from perceiver_ref.models.queries import PositionQueries
from perceiver_ref.peers import Given, Rebuilt, peer
from perceiver_ref.peers.transformers.perceiver.quirks import FirstItemFourier, FlattenedGridQueries
from perceiver_ref.porting import check_case, check_file, run
from perceiver_ref.porting.cases import read_case

RNG = np.random.default_rng(5)
TINY = {
    "num_latents": 3,
    "d_latents": 4,
    "num_self_attends_per_block": 1,
    "num_self_attention_heads": 2,
    "num_cross_attention_heads": 1,
    "num_labels": 3,
}
VECTORS = sorted((Path(__file__).parents[1] / "vectors" / "hf").glob("*.npz"))


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
def test_vectors_agree(path: Path) -> None:
    result = check_file(path)
    assert result.status == "pass", result.message or result.worst


def rebuild(cls: str, config: dict[str, Any] | None = None, **arrays: np.ndarray) -> Rebuilt:
    given = config or {}
    if not given.keys() & {"config", "num_latents"}:
        given = {"config": {}, **given}
    return peer("hf").rebuild(cls, Given(given, {name: array.shape for name, array in arrays.items()}))


def weights(rebuilt: Rebuilt) -> dict[str, np.ndarray]:
    """Random arrays by the peer's names."""
    from perceiver_ref.autograd import tree

    arrays = {}
    spec = tree.flatten(rebuilt.model.parameters()) | tree.flatten(rebuilt.model.state())
    for path, shape, name, view in [*rebuilt.bindings, *rebuilt.state]:
        own = _shape_before(view, shape)
        arrays[name] = np.abs(RNG.standard_normal(own)) + 0.1 if path.endswith("variance") else RNG.standard_normal(own)
        assert spec[path].shape == shape
    return arrays


def _shape_before(view: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    candidates = [shape, shape[::-1], (*shape[::-1][:2], *shape[:2]), (*shape[::-1], 1, 1)]
    for own in candidates:
        try:
            if view(np.zeros(own)).shape == shape:
                return own
        except (IndexError, ValueError):
            continue
    raise AssertionError(shape)


def outputs(rebuilt: Rebuilt, inputs: dict[str, np.ndarray], **options: Any) -> dict[str, np.ndarray]:
    return run(rebuilt, weights(rebuilt), inputs, options).outputs


PIXELS = {
    "prep_type": "pixels",
    "spatial_downsample": 2,
    "fourier_position_encoding_kwargs": {"num_bands": 2, "max_resolution": [4, 6]},
}


def test_downsampled_pixels_of_an_image_slice_batch_and_channels() -> None:
    images = RNG.standard_normal((3, 3, 4, 6))
    made = outputs(rebuild("PerceiverImagePreprocessor", {"kwargs": PIXELS}), {"inputs": images})
    assert np.array_equal(made["out2"], images[::2, ::2].transpose(0, 2, 3, 1).reshape(2, 24, 2))
    ours = Pixels(3, space=2).apply({}, images.transpose(0, 2, 3, 1), Call())
    assert ours.shape == (3, 2, 3, 3)


def test_the_convolutional_stem_pads_both_sides_alike_and_has_one_layer_whatever_the_downsampling() -> None:
    positions = {"fourier_position_encoding_kwargs": {"num_bands": 1, "max_resolution": [55, 55]}}
    for downsample in (1, 4, 16):
        kwargs = {"prep_type": "conv", "spatial_downsample": downsample, "out_channels": 2, **positions}
        rebuilt = rebuild("PerceiverImagePreprocessor", {"kwargs": kwargs})
        made = outputs(rebuilt, {"inputs": RNG.standard_normal((1, 3, 224, 224))})
        assert made["out2"].shape == (1, 55 * 55, 2)
    stem = ConvStem(3, 2, batch_norm=False)
    assert stem.apply(stem.init(dtype=np.float64), np.zeros((1, 224, 224, 3)), Call()).shape == (1, 56, 56, 2)


def test_fourier_features_of_given_positions_are_those_of_the_first_batch_item() -> None:
    pos = RNG.uniform(-1, 1, (2, 5, 2))
    theirs, ours = (cls(3, (4, 6)).apply({}, (), like=pos, pos=pos) for cls in (FirstItemFourier, FourierPositions))
    assert np.array_equal(theirs[0], ours[0])
    assert np.array_equal(theirs[..., :2], pos)
    assert np.array_equal(theirs[1, :, 2:], theirs[0, :, 2:])
    assert not np.allclose(ours[1, :, 2:], ours[0, :, 2:])


def test_all_fourier_queries_are_those_of_a_line_as_long_as_the_inputs_are_wide() -> None:
    given = Preprocessed(np.zeros((2, 9, 7)), None)
    line, grid = (
        cls(FirstItemFourier(2, (9,)), (9,)).apply({}, given, like=given.inputs)
        for cls in (FlattenedGridQueries, PositionQueries)
    )
    assert line.shape == (2, 7, 5)
    assert grid.shape == (2, 9, 5)


def test_trainable_queries_are_all_used_whatever_points_are_asked_for() -> None:
    given, table, points = Preprocessed(np.zeros((1, 2, 2)), None), RNG.standard_normal((4, 3)), np.array([2])
    theirs, ours = (
        cls(TrainablePositions(4, 3), (4,)).apply({"table": table}, given, like=table, points=points)
        for cls in (FlattenedGridQueries, PositionQueries)
    )
    assert np.array_equal(theirs[0], table)
    assert np.array_equal(ours[0], table[[2]])


def test_a_fully_masked_row_averages_all_values_and_is_zero_in_deepmind_conventions() -> None:
    theirs, ours = (DIALECTS[name].masked_rows for name in ("hf", "deepmind"))
    assert (theirs, ours) == ("added", "zero")


def test_a_fully_masked_row_has_the_gradients_of_an_added_number() -> None:
    """Which the peer recorded with the case, beside the request not to compare them."""
    case = read_case(case_path("hf/model_mask_allmasked_row"))
    case.meta["compare_gradients"] = True
    result = check_case(case)
    assert result.status == "pass", result.worst
    assert any("key.weight" in a.name for a in result.agreements)


def test_query_mask_is_ignored() -> None:
    config = {"config": TINY, "kwargs": {"output_num_channels": 2, "num_channels": 4, "position_encoding_type": "none"}}
    rebuilt = rebuild("PerceiverBasicDecoder", config)
    arrays = weights(rebuilt)
    inputs = {"query": RNG.standard_normal((1, 2, 4)), "z": RNG.standard_normal((1, 3, 4))}
    masked = {**inputs, "query_mask": np.array([[True, False]])}
    free, given = (run(rebuilt, arrays, x, {}).outputs["logits"] for x in (inputs, masked))
    assert np.array_equal(free, given)
    assert isinstance(rebuilt.model, Decoder)


def test_batch_norm_takes_the_running_averages_as_they_are() -> None:
    kwargs = {"prep_type": "conv", "out_channels": 2, "fourier_position_encoding_kwargs": PIXELS_POSITIONS}
    rebuilt = rebuild("PerceiverImagePreprocessor", {"kwargs": kwargs})
    assert sorted(b.name for b in rebuilt.state) == ["convnet.batchnorm.running_mean", "convnet.batchnorm.running_var"]
    arrays = weights(rebuilt) | {"convnet.batchnorm.num_batches_tracked": np.array(7)}
    run(rebuilt, arrays, {"inputs": RNG.standard_normal((1, 3, 13, 17))}, {})  # the counter is not needed


PIXELS_POSITIONS = PIXELS["fourier_position_encoding_kwargs"]


@pytest.mark.parametrize(
    ("cls", "config", "message"),
    [
        ("PerceiverForImage", {}, "unknown class of peer hf 'PerceiverForImage'"),
        (
            "PerceiverImagePreprocessor",
            {"kwargs": {"prep_kind": "conv"}},
            "Known: prep_type, ",
        ),
        ("PerceiverImagePreprocessor", {"kwargs": {**PIXELS, "prep_type": "conv3d"}}, "conv, conv1x1, patches, pixels"),
        ("PerceiverImagePreprocessor", {"kwargs": {}}, "needs fourier_position_encoding_kwargs"),
        ("PerceiverModel", {"decoder": {"class": "PerceiverDecoder"}}, "unknown decoder 'PerceiverDecoder'"),
        ("PerceiverModel", {"decoder": "PerceiverBasicDecoder"}, "decoder must be"),
        ("PerceiverModel", {"output_postprocessor": {"class": "X"}}, "PerceiverMultimodalPostprocessor"),
        ("PerceiverLayer", {"kwargs": {"is_cross_attention": True, "q_dim": 3}}, "PerceiverLayer needs kv_dim"),
        ("PerceiverModel", {"config": {"latents": 3}}, "unknown option of PerceiverConfig 'latents'"),
        ("PerceiverModel", {"config": {"hidden_act": "prelu"}}, "unknown hidden_act 'prelu'"),
    ],
)
def test_what_is_unknown_gives_one_error_naming_the_known(cls: str, config: dict[str, Any], message: str) -> None:
    with pytest.raises(pr.InputError, match=re.escape(message)) as error:
        rebuild(cls, config)
    assert "\n" not in str(error.value)


def learned(*replacements: list[str]) -> Any:
    config = {"config": {**TINY, "image_size": 3}, "hard_coded_replacements": list(replacements)}
    return rebuild("PerceiverForImageClassificationLearned", config).model


def test_constants_of_a_class_are_replaced_as_text() -> None:
    assert learned().preprocessor.channels == 512
    assert learned(["project_pos_dim=256", "project_pos_dim=7"]).preprocessor.channels == 263
    added = learned(["spatial_downsample=1,", "spatial_downsample=1, in_channels=5,"])
    assert added.preprocessor.features.image_channels == 5
    computed = learned(['"num_channels": config.d_latents', '"num_channels": 2 * config.num_latents'])
    assert computed.decoder.queries.channels == 6
    assert not learned(["use_query_residual=True", "use_query_residual=False"]).decoder.query_residual
    assert not learned(["use_query_residual=True,", ""]).decoder.query_residual


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (["num_bands=64", "num_bands=3"], "'num_bands=64' is not among the constants of PerceiverForImage"),
        (["prep_type=", "prep_type"], "cannot be read"),
        (["256", ""], "neither arguments nor items nor a value"),
        (["out_channels=256", '"out_channels": 256'], "cannot take the place of"),
        (["out_channels=256", "out_channels=open('x')"], "neither a constant nor computed from config"),
        (["out_channels=256", "out_channels=9**9**9"], "too large"),
        (["out_channels=256"], "pairs of texts"),
    ],
)
def test_replacements_that_cannot_be_read_are_refused(pair: list[str], message: str) -> None:
    with pytest.raises(pr.InputError, match=re.escape(message)):
        learned(pair)


def test_only_square_tables_are_interpolated() -> None:
    rebuilt = rebuild("PerceiverTrainablePositionEncoding", {"kwargs": {"index_dims": 6, "num_channels": 2}})
    with pytest.raises(pr.InputError, match="6 positions cannot be resized"):
        outputs(rebuilt, {}, interpolate_pos_encoding=True, input_size=[3, 3], batch_size=1)


def test_released_sizes() -> None:
    counts = {
        "PerceiverForImageClassificationLearned": ({"d_model": 512, "image_size": 224}, 62_255_848),
        "PerceiverForImageClassificationConvProcessing": ({"d_model": 322}, 48_646_522),
    }
    image = {
        "num_latents": 512,
        "d_latents": 1024,
        "num_blocks": 8,
        "num_self_attends_per_block": 6,
        "num_cross_attention_heads": 1,
        "num_labels": 1000,
    }
    for cls, (own, count) in counts.items():
        assert rebuild(cls, json.loads(json.dumps(image | own))).model.count() == count
    flow = {"num_latents": 2048, "d_latents": 512, "num_self_attends_per_block": 24, "num_self_attention_heads": 16}
    flow |= {"num_cross_attention_heads": 1}
    assert rebuild("PerceiverForOpticalFlow", flow).model.count() == 41_057_134
    video = {"num_latents": 784, "d_latents": 512, "num_self_attends_per_block": 8, "num_cross_attention_heads": 1}
    video |= {"num_labels": 700}
    assert rebuild("PerceiverForMultimodalAutoencoding", video).model.count() == 19_858_855


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("imagenet-learned", 62_255_848),
        ("imagenet-fourier", 48_440_627),
        ("imagenet-conv", 48_646_522),
        ("language", 201_108_230),
        ("optical-flow", 41_057_134),
        ("multimodal", 19_858_855),
    ],
)
def test_presets_have_the_released_numbers_of_parameters(name: str, count: int) -> None:
    assert pr.preset(f"perceiver-io/{name}").count() == count
