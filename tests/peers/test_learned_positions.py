"""Images, video, audio and text of another size than positions were trained for: refused, resized, or first rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from support import normal, random_parameters

import perceiver_ref as pr
from perceiver_ref.autograd import tree
from perceiver_ref.models.call import Call
from perceiver_ref.models.inputs import AudioPatches, Conv1x1, ConvStem, GridInput, MultimodalInput, Patches, Pixels
from perceiver_ref.models.positions import ProjectedPositions, TrainablePositions, interpolate
from perceiver_ref.models.resize import resize_bicubic
from perceiver_ref.peers import Given, peer

TABLE = {"position_encoding_type": "trainable"}
HF = {"num_latents": 2, "d_latents": 4, "num_self_attends_per_block": 1, "num_self_attention_heads": 1}
HF |= {"num_cross_attention_heads": 1, "num_labels": 2, "max_position_embeddings": 6, "d_model": 4, "vocab_size": 9}


def image(prep: str, dims: list[int], **kwargs: Any) -> dict[str, Any]:
    table = {"index_dims": dims, "num_channels": 3}
    return {"prep_type": prep, **TABLE, "trainable_position_encoding_kwargs": table, "spatial_downsample": 1, **kwargs}


def hf_part(cls: str, kwargs: dict[str, Any]) -> tuple[str, str, dict[str, Any]]:
    return "hf", cls, {"config": HF, "kwargs": kwargs}


def hf_model(kwargs: dict[str, Any]) -> tuple[str, str, dict[str, Any]]:
    part = {"class": "PerceiverImagePreprocessor", "kwargs": kwargs}
    return "hf", "PerceiverModel", {"config": HF, "input_preprocessor": part}


LEARNED = "PerceiverForImageClassificationLearned"
AUDIO = {"samples_per_patch": 2, **TABLE, "trainable_position_encoding_kwargs": {"index_dims": 4, "num_channels": 2}}
VIDEO = image("patches", [2, 2, 2], spatial_downsample=2)
SMALLER = [["config.image_size**2", "36"]]
FLOW = {"image_shape": [4, 4], "num_patch_input_channels": 3, "num_patch_hidden_channels": 4, "num_frequency_bands": 2}
KRASSERM = {
    "num_latents": 2,
    "num_latent_channels": 4,
    "encoder": {**FLOW, "num_cross_attention_heads": 1, "num_self_attention_heads": 1},
    "decoder": {"image_shape": [4, 4], "num_cross_attention_heads": 1},
}
PEERS = {
    "conv1x1": (hf_part("PerceiverImagePreprocessor", image("conv1x1", [6, 6])), (1, 3, 6, 6)),
    "conv1x1 added": (
        hf_part("PerceiverImagePreprocessor", image("conv1x1", [6, 6], concat_or_add_pos="add", out_channels=3)),
        (1, 3, 6, 6),
    ),
    "stem": (hf_part("PerceiverImagePreprocessor", image("conv", [3, 3], spatial_downsample=4)), (1, 3, 16, 16)),
    "pixels": (hf_part("PerceiverImagePreprocessor", image("pixels", [6, 6])), (1, 3, 6, 6)),
    "video": (hf_part("PerceiverImagePreprocessor", VIDEO), (1, 2, 3, 4, 4)),
    "projected": (hf_model(image("conv1x1", [6, 6], project_pos_dim=5)), (2, 3, 6, 6)),
    "task": (("hf", LEARNED, {"config": HF, "hard_coded_replacements": SMALLER}), (1, 3, 6, 6)),
    "audio": (hf_part("PerceiverAudioPreprocessor", AUDIO), (1, 8, 1)),
    "flow, whose table is a buffer": (("krasserm", "OpticalFlow", KRASSERM), (1, 2, 3, 4, 4)),
}


def other(shape: tuple[int, ...], factor: float) -> tuple[int, ...]:
    """Grids of another size: the last axes of images, the samples of audio."""
    if len(shape) == 3:
        return (shape[0], int(shape[1] * factor), 1)
    return (*shape[:-2], *(int(n * factor) for n in shape[-2:]))


def outcome(kind: str, shape: tuple[int, ...], **call: Any) -> Mapping[str, Any]:
    (name, cls, config), made_for = PEERS[kind]
    argument = "x" if name == "krasserm" else "inputs"
    rebuilt = peer(name).rebuild(cls, Given(config, inputs={argument: made_for}))
    state = tree.map(lambda p: p.initializer(np.random.default_rng(0), p.shape) + 1.0, rebuilt.model.state())
    return rebuilt.run(
        rebuilt.model, random_parameters(rebuilt.model), {argument: normal(0, *shape)}, call, Call(state=state)
    )


@pytest.mark.parametrize("factor", [0.5, 2])
@pytest.mark.parametrize("kind", PEERS)
def test_another_size_is_refused(kind: str, factor: float) -> None:
    shape = PEERS[kind][1]
    assert outcome(kind, shape)
    with pytest.raises(pr.InputError, match="interpolate"):
        outcome(kind, other(shape, factor))


@pytest.mark.parametrize("kind", ["conv1x1", "conv1x1 added", "stem", "pixels", "projected", "task"])
@pytest.mark.parametrize("factor", [0.5, 1.5])
def test_another_size_is_resized_on_request(kind: str, factor: float) -> None:
    shape = other(PEERS[kind][1], factor)
    assert outcome(kind, shape, interpolate_pos_encoding=True)


def test_text_gets_the_first_rows() -> None:
    """As `nn.Embedding` looked up at 0, 1, ... in transformers, perceiver-pytorch and krasserm's code."""
    rebuilt = peer("hf").rebuild("PerceiverTextPreprocessor", Given({"config": HF, "kwargs": {}}))
    p, ids = random_parameters(rebuilt.model), np.array([[1, 8, 0]])
    made = rebuilt.run(rebuilt.model, p, {"inputs": ids}, {}, Call())["out0"]
    np.testing.assert_array_equal(made, p["embedding"][ids] + p["positions"]["table"][:3])
    with pytest.raises(pr.InputError, match="7 positions, but the model was made for at most 6"):
        rebuilt.run(rebuilt.model, p, {"inputs": np.zeros((1, 7), int)}, {}, Call())


OWN: dict[str, tuple[Any, tuple[int, ...], tuple[int, ...]]] = {
    "pixels": (GridInput(Pixels(2), TrainablePositions(12, 4)), (1, 3, 4, 2), (1, 3, 3, 2)),
    "larger": (GridInput(Pixels(2), TrainablePositions(12, 4)), (1, 3, 4, 2), (1, 4, 4, 2)),
    "another grid of as many": (
        GridInput(Pixels(2), TrainablePositions(12, 4, grid=(3, 4))),
        (1, 3, 4, 2),
        (1, 2, 6, 2),
    ),
    "added": (GridInput(Conv1x1(2, 4), TrainablePositions(12, 4), "add"), (1, 3, 4, 2), (1, 1, 4, 2)),
    "projected": (
        GridInput(Pixels(2), ProjectedPositions(TrainablePositions(12, 4), 3)),
        (1, 3, 4, 2),
        (1, 3, 1, 2),
    ),
    "stem": (GridInput(ConvStem(2, 4, batch_norm=False), TrainablePositions(6, 4)), (1, 8, 12, 2), (1, 4, 12, 2)),
    "video": (
        GridInput(Patches(2, 2, video=True), TrainablePositions(8, 4)),
        (1, 2, 4, 4, 2),
        (1, 2, 4, 2, 2),
    ),
    "audio": (GridInput(AudioPatches(2), TrainablePositions(5, 4)), (1, 10, 1), (1, 8, 1)),
}


@pytest.mark.parametrize("kind", OWN)
def test_own_models_refuse_another_size(kind: str) -> None:
    model, made_for, size = OWN[kind]
    p = random_parameters(model)
    assert model.apply(p, normal(0, *made_for)).inputs.shape[0] == 1
    with pytest.raises(pr.InputError, match=r"interpolate\(model\)"):
        model.apply(p, normal(0, *size))


@pytest.mark.parametrize("kind", [kind for kind, (_, shape, _) in OWN.items() if len(shape) == 4])
def test_own_models_resize_on_request(kind: str) -> None:
    model, made_for, size = OWN[kind]
    grid = (2, 3) if kind == "stem" else (3, 4)
    p, resizing = random_parameters(model), interpolate(model, grid)
    whole = model.apply(p, normal(0, *made_for)).inputs
    np.testing.assert_array_equal(resizing.apply(p, normal(0, *made_for)).inputs, whole)
    assert resizing.apply(p, normal(0, *size)).inputs.shape[-1] == whole.shape[-1]


def test_a_preset_of_trained_positions_is_made_for_its_images_alone() -> None:
    model = pr.preset("perceiver-io/imagenet-learned")
    positions = model.preprocessor.positions
    assert positions.encoding.grid == (224, 224)
    small = replace(positions.encoding, size=16, grid=(4, 4), channels=3)
    part = replace(model.preprocessor, positions=replace(positions, encoding=small, channels=3))
    p, wide = random_parameters(part), normal(0, 1, 2, 8, 3)
    with pytest.raises(pr.InputError, match="the input has 2 x 8 positions, but the model has trained ones for 4 x 4"):
        part.apply(p, wide)
    table = p["positions"]["encoding"]["table"]
    made = interpolate(part).apply(p, wide).inputs[0, :, -3:]
    weight, bias = (p["positions"]["projection"][name] for name in ("weight", "bias"))
    np.testing.assert_allclose(made, resize_bicubic(table, (4, 4), (2, 8)) @ weight + bias, rtol=1e-12)


def test_interpolate_reaches_the_parts_of_a_model_and_says_what_it_needs() -> None:
    several = MultimodalInput({"image": OWN["pixels"][0], "audio": OWN["audio"][0]})
    with pytest.raises(pr.InputError, match=r"grid .height, width. of a table of 12 positions, not .3, 3."):
        interpolate(several)
    one = MultimodalInput({"image": GridInput(Pixels(2), TrainablePositions(16, 4))})
    assert interpolate(one).modalities["image"].positions.resize == (4, 4)
