"""DeepMind's Perceiver beyond its vectors: where its dialect differs from transformers', and what errors say."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from perceiver_ref import DIALECTS, InputError
from perceiver_ref.autograd import ops
from perceiver_ref.models.attention import Attention
from perceiver_ref.models.call import Call
from perceiver_ref.models.classification import soft_cross_entropy, soft_labels
from perceiver_ref.models.decoder import Decoder
from perceiver_ref.models.inputs import ConvStem, Preprocessed
from perceiver_ref.models.layers import MLP
from perceiver_ref.models.positions import FourierPositions
from perceiver_ref.models.queries import PositionQueries, Request
from perceiver_ref.models.tiling import stitch, tile_origins
from perceiver_ref.peers import peer
from perceiver_ref.peers.base import Given
from perceiver_ref.peers.deepmind.names import Names
from perceiver_ref.porting import check_case
from perceiver_ref.porting.cases import read_case

VECTORS = Path(__file__).parents[1] / "vectors" / "deepmind"
DEEPMIND, HF = DIALECTS["deepmind"], DIALECTS["hf"]
PEER = peer("deepmind")


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def rebuilt(case):
    shapes = {name: array.shape for name, array in case.inputs.items()}
    params = {name: array.shape for name, array in case.params.items()}
    return PEER.rebuild(case.meta["class"], Given(case.meta["config"], shapes, params, case.meta["call"]))


def run(case, **inputs):
    """The outputs of a case, with other inputs in place of some."""
    made = rebuilt(case)
    params, state = made.load({**case.params, **case.state}, "the case")
    return made.run(made.model, params, {**case.inputs, **inputs}, case.meta["call"], Call(state=state))


# the dialect


def test_a_fully_masked_row_gives_the_output_bias_where_transformers_averages():
    x, z = random(1, 2, 4), random(1, 3, 6)
    mask = np.array([[[True, True, False], [False, False, False]]])
    ours = Attention(4, 6, 4, 4, 5, conventions=DEEPMIND)
    params = ours.init(dtype=np.float64)
    params["output"]["bias"] = random(5)
    wiped = ours.apply(params, x, z, mask=mask)[0]
    averaged = replace(ours, conventions=HF).apply(params, x, z, mask=mask)[0]
    np.testing.assert_array_equal(wiped[1], params["output"]["bias"])
    values = z[0] @ params["value"]["weight"] + params["value"]["bias"]
    expected = values.mean(0) @ params["output"]["weight"] + params["output"]["bias"]
    np.testing.assert_allclose(averaged[1], expected, rtol=1e-12)
    np.testing.assert_array_equal(wiped[0], averaged[0])


def test_the_language_model_wipes_masked_queries():
    case = read_case(VECTORS / "mlm_same_masks.npz")
    everything = run(case, query_mask=np.ones_like(case.inputs["query_mask"]))["logits"]
    keep = np.ones_like(case.inputs["query_mask"])
    keep[:, 2] = 0
    masked = run(case, query_mask=keep)["logits"]
    np.testing.assert_array_equal(masked[:, 3:], everything[:, 3:])
    np.testing.assert_allclose(masked[:, 2], np.broadcast_to(masked[0, 2], masked[:, 2].shape), atol=1e-13)
    assert np.abs(masked[:, 2] - everything[:, 2]).max() > 1e-3


def test_other_decoders_ignore_the_query_mask():
    case = read_case(VECTORS / "imagenet_pixels_fourier.npz")
    plain = run(case)["out"]
    np.testing.assert_array_equal(run(case, query_mask=np.zeros((2, 1), np.int32))["out"], plain)


def test_gelu_is_the_tanh_approximation():
    x = np.linspace(-5, 5, 1001)[:, None]
    identity = {name: {"weight": np.ones((1, 1)), "bias": np.zeros(1)} for name in ("hidden", "output")}
    difference = np.abs(MLP(1, conventions=DEEPMIND).apply(identity, x) - MLP(1, conventions=HF).apply(identity, x))
    assert 4e-4 < difference.max() < 4.8e-4


@pytest.mark.parametrize(("dialect", "same"), [("deepmind", False), ("paper", True)])
def test_decoding_all_points_one_by_one_is_not_decoding_the_grid(dialect, same):
    conventions = DIALECTS[dialect]
    queries = PositionQueries(FourierPositions(2, (3, 4), conventions=conventions), (3, 4), conventions=conventions)
    decoder = Decoder(6, queries.channels, queries=queries, outputs=2, conventions=conventions)
    params, latents = decoder.init(dtype=np.float64), random(1, 3, 6)
    whole = decoder.apply(params, latents, elements=Preprocessed(latents, None))
    single = decoder.apply(params, latents, Request(points=np.arange(12)), Preprocessed(latents, None))
    assert np.allclose(whole, single, atol=1e-12) == same


def test_the_stem_pads_like_tensorflow():
    assert ops.same_padding((224, 224), (7, 7), (2, 2)) == ((2, 3), (2, 3))
    image = random(1, 32, 32, 3)
    theirs = ConvStem(3, 4, batch_norm=False)
    transformers = replace(theirs, convolution_padding=((3, 3), (3, 3)), pool_padding=((0, 0), (0, 0)))
    params = theirs.init(dtype=np.float64)
    assert theirs.apply(params, image, Call()).shape == (1, 8, 8, 4)
    assert transformers.apply(params, image, Call()).shape == (1, 7, 7, 4)


def test_audio_patches_interleave_channels():
    config = {"samples_per_patch": 3, "fourier_position_encoding_kwargs": {"num_bands": 1, "max_resolution": [8]}}
    given = Given({"class": "AudioPreprocessor", "kwargs": config}, {"x": (1, 6, 2)})
    made = PEER.rebuild("AudioPreprocessor", given)
    out = made.run(
        made.model, {"features": {}, "positions": {}, "position_layers": {}}, {"x": random(1, 6, 2)}, {}, Call()
    )
    np.testing.assert_array_equal(out["inputs_without_pos"], random(1, 6, 2).reshape(1, 4, 3))


def test_modules_of_one_name_are_numbered():
    names = Names()
    assert [names("linear"), names("mlp"), names("linear"), names("linear")] == [
        "linear",
        "mlp",
        "linear_1",
        "linear_2",
    ]


# errors


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("kwargs", "encoder", "kwargs", "z_index"), 3, "unknown option of PerceiverEncoder 'z_index'; did you mean"),
        (("kwargs", "decoder", "class"), "FlowDecode", "unknown decoder 'FlowDecode'; did you mean 'FlowDecoder'"),
        (("kwargs", "decoder", "kwargs", "widening"), 2, "unknown option of BasicDecoder 'widening'"),
        (("kwargs", "input_preprocessor", "kwargs", "prep_type"), "pixel", "did you mean 'pixels'"),
        (("kwargs", "output_postprocessor"), {"class": "Nothing"}, "unknown output_postprocessor 'Nothing'"),
        (("kwargs", "encoder", "kwargs", "cross_attention_shape_for_attn"), "v", "unknown shape_for_attn 'v'"),
        (("kwargs", "preprocessor"), None, "unknown option of Perceiver 'preprocessor'"),
        (("kwargs", "decoder", "kwargs", "num_heads"), 3, "must be divisible by the number of heads"),
    ],
)
def test_a_wrong_configuration_is_one_clear_error(path, value, message):
    case = read_case(VECTORS / "imagenet_pixels_fourier.npz")
    config = json.loads(json.dumps(case.meta["config"]))
    *parents, last = path
    node = config
    for key in parents:
        node = node[key]
    node[last] = value
    case.meta["config"] = config
    with pytest.raises(InputError, match=message) as raised:
        check_case(case)
    assert "\n" not in str(raised.value)


def test_an_unknown_class_is_named():
    with pytest.raises(InputError, match="unknown class of peer deepmind 'Perceive'; did you mean 'Perceiver'"):
        PEER.rebuild("perceiver.perceiver.Perceive", Given({}))


def test_missing_and_unused_parameters_are_listed():
    case = read_case(VECTORS / "imagenet_pixels_fourier.npz")
    case.params["perceiver_encoder/~/stray"] = case.params.pop("classification_decoder/~/basic_decoder/output/b")
    with pytest.raises(InputError, match=r"missing: classification_decoder/~/basic_decoder/output/b; unused: .*stray"):
        rebuilt(case).load(case.params, "the case")


def test_an_unknown_argument_or_flag_of_a_call_is_an_error():
    case = read_case(VECTORS / "imagenet_pixels_fourier.npz")
    with pytest.raises(InputError, match="unknown argument of Perceiver 'mask'"):
        run(case, mask=np.ones((2, 24)))
    case.meta["call"] = {"training": True}
    with pytest.raises(InputError, match="unknown option of a call of Perceiver 'training'"):
        run(case)


def test_dropout_in_training_is_refused():
    case = read_case(VECTORS / "imagenet_pixels_fourier.npz")
    case.meta["config"]["kwargs"]["encoder"]["kwargs"]["dropout_prob"] = 0.1
    run(case)
    case.meta["call"] = {"is_training": True}
    with pytest.raises(InputError, match="random in training"):
        run(case)


def test_random_masking_of_modalities_needs_a_key():
    case = read_case(VECTORS / "multimodal_subsampled.npz")
    case.meta["config"]["kwargs"]["input_preprocessor"]["kwargs"]["mask_probs"]["image"] = 0.5
    with pytest.raises(InputError, match="give the call a key"):
        run(case)


def test_every_class_has_a_vector():
    covered = set()
    for path in VECTORS.glob("*.npz"):
        with np.load(path) as arrays:
            cls = json.loads(str(arrays["meta"]))["class"]
        covered.add(cls if cls in PEER.classes else cls.rpartition(".")[2])
    assert set(PEER.classes) - covered == {"Conv3D", "Conv3DTranspose"}  # as their two-dimensional kin


def test_a_model_is_rebuilt_from_its_parameters_alone():
    for name in (
        "imagenet_patches_fourier",
        "imagenet_conv_two_layers",
        "flow_nonsquare",
        "imagenet_conv1x1_stride_add",
    ):
        case = read_case(VECTORS / f"{name}.npz")
        params = {path: array.shape for path, array in case.params.items()}
        alone = PEER.rebuild(case.meta["class"], Given(case.meta["config"], {}, params))
        assert alone.model == rebuilt(case).model


# what the peer needed in the core


def test_soft_labels_agree_with_smoothed_cross_entropy():
    logits, labels = random(5, 7), np.array([0, 6, 3, 3, 1])
    targets = soft_labels(labels, 7, like=logits, smoothing=0.1)
    expected = ops.cross_entropy(logits, labels, label_smoothing=0.1, reduction="none")
    np.testing.assert_allclose(soft_cross_entropy(logits, targets), expected, rtol=1e-13)
    mixed = soft_labels(labels, 7, like=logits, mix_labels=labels[::-1], ratio=np.full(5, 0.25))
    np.testing.assert_allclose(mixed.sum(-1), 1)


@pytest.mark.parametrize("image", [(8, 10), (5, 6), (13, 13), (9, 6)])
def test_tiles_cover_an_image_and_agree_where_they_overlap(image):
    origins = tile_origins(image, (5, 6), 2)
    flow = random(1, *image, 2)
    tiles = np.stack([flow[:, y : y + 5, x : x + 6] for y, x in origins])
    np.testing.assert_allclose(stitch(tiles, origins, image), flow, rtol=1e-12)


def test_tiles_larger_than_the_image_are_refused():
    with pytest.raises(InputError, match="must be larger than their overlap 2 and fit the image"):
        tile_origins((4, 10), (5, 6), 2)
