"""The reference against transformers itself, on configurations that hypothesis draws: outputs, gradients, traces."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perceiver_ref.porting import check_case

pytest.importorskip("torch")
pytest.importorskip("transformers")
from heavy import hf_configurations

pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("ignore")]
DRAWS = 105


class Draw:
    """Numbers and choices of one example."""

    def __init__(self, data: st.DataObject) -> None:
        self.data = data

    def __call__(self, low: int, high: int) -> int:
        return self.data.draw(st.integers(low, high))

    def of(self, *choices: Any) -> Any:
        return self.data.draw(st.sampled_from(choices))

    def array(self, *shape: int) -> np.ndarray:
        return np.random.default_rng(self(0, 1 << 16)).standard_normal(shape)


def config(draw: Draw, **own: Any) -> dict[str, Any]:
    """A tiny PerceiverConfig; options with small defaults are left out of some."""
    heads = draw.of(1, 2, 3, 5, 7)
    width = heads * draw(1, 4)
    side = draw.of("kv", "q")
    made = {
        "num_latents": draw(1, 4),
        "d_latents": width,
        "num_blocks": draw(1, 2),
        "num_self_attends_per_block": draw(0, 2),
        "num_self_attention_heads": heads,
        "num_cross_attention_heads": 1,
        "cross_attention_shape_for_attention": side,
        "self_attention_widening_factor": draw(1, 2),
        "cross_attention_widening_factor": draw(1, 2),
        "hidden_act": draw.of(
            "gelu", "gelu_new", "quick_gelu", "mish", "tanh", "hardswish", "sqrtsoftplus", "leaky_relu"
        ),
        "use_query_residual": draw.of(True, False),
        "num_labels": draw(2, 4),
        **({"qk_channels": heads * draw(1, 3), "v_channels": width} if draw.of(True, False) else {}),
        **own,
    }
    optional = ("num_blocks", "cross_attention_shape_for_attention", "hidden_act", "use_query_residual")
    absent = draw.data.draw(st.sets(st.sampled_from([*optional, "self_attention_widening_factor"]), max_size=3))
    return {name: value for name, value in made.items() if name not in absent}


def image_learned(draw: Draw) -> Any:
    side, width = draw(1, 5), draw(1, 6)
    replacements = [
        ['"num_channels": 256', f'"num_channels": {width}'],
        ["out_channels=256", f"out_channels={width}"],
        ["project_pos_dim=256", f"project_pos_dim={draw(1, 5)}"],
        ["use_query_residual=True", f"use_query_residual={draw.of(True, False)}"],
    ]
    stride = draw(1, 2)
    resized = stride > 1 or draw.of(True, False)
    height, breadth = (draw(1, 7), draw(1, 7)) if resized else (side, side)
    call = {"interpolate_pos_encoding": True} if resized else {}
    replacements.append(["spatial_downsample=1", f"spatial_downsample={stride}"])
    batch = draw(1, 2)
    made = config(draw, image_size=side)
    pixels = -(-height // stride) * -(-breadth // stride)
    inputs = {"inputs": draw.array(batch, 3, height, breadth), **labels(draw, batch, made), **mask(draw, batch, pixels)}
    return "PerceiverForImageClassificationLearned", replacements, made, inputs, call


def image_conv(draw: Draw) -> Any:
    replacements = [
        ["spatial_downsample=1,", f"spatial_downsample=1, out_channels={draw(1, 4)},"],
        ['"num_bands": 64', f'"num_bands": {draw(1, 3)}'],
        ["(56, 56)", f"({draw(2, 9)}, {draw(2, 9)})"],
        ['"sine_only": False', f'"sine_only": {draw.of(True, False)}'],
    ]
    if draw.of(True, False):
        replacements.append(['prep_type="conv",', 'prep_type="conv", conv2d_use_batchnorm=False, in_channels=2,'])
    channels = 2 if len(replacements) == 5 else 3
    batch = draw(1, 2)
    made = config(draw)
    inputs = {"inputs": draw.array(batch, channels, draw(9, 24), draw(9, 24)), **labels(draw, batch, made)}
    return "PerceiverForImageClassificationConvProcessing", replacements, made, inputs, {}


def optical_flow(draw: Draw) -> Any:
    channels, size, time = draw(1, 4), [draw(1, 4), draw(1, 5)], draw(1, 3)
    replacements = [
        ['"num_bands": 64', f'"num_bands": {draw(1, 3)}'],
        ["conv_after_patching=True,", f"conv_after_patching=True, out_channels={draw(1, 5)},"],
        ["conv_after_patching_in_channels=54", f"conv_after_patching_in_channels={channels * time}"],
        ["temporal_downsample=2", f"temporal_downsample={time}"],
        ["rescale_factor=100.0", f"rescale_factor={draw.of(1.0, 10.0, 0.5)}"],
        ["output_num_channels=2", f"output_num_channels={draw(1, 3)}"],
        ["# decoder kwargs", f"widening_factor={draw(1, 2)},"],
    ]
    batch = draw(1, 2)
    inputs = {"inputs": draw.array(batch, time, channels, *size), **mask(draw, batch, size[0] * size[1])}
    return "PerceiverForOpticalFlow", replacements, config(draw, train_size=size), inputs, {}


def multimodal(draw: Draw) -> Any:
    space, patch, frames = draw(1, 2), draw(1, 3), draw(2, 3)  # one frame raises: its time axis is dropped
    side, per_frame, width = space * draw(1, 3), patch * draw(1, 3), draw(2, 5)
    replacements = [
        ['"num_bands": 192', f'"num_bands": {draw(1, 3)}'],
        ['"num_bands": 32', f'"num_bands": {draw(1, 2)}'],
        ["spatial_downsample=4", f"spatial_downsample={space}"],
        ["min_padding_size=4", f"min_padding_size={draw(1, 4)}"],
        ['"label": 1.0', f'"label": {draw.of(0.0, 1.0)}'],
        ["out_channels=3", f"out_channels={draw(1, 3)}"],
    ]
    made = config(
        draw,
        num_frames=frames,
        audio_samples_per_frame=per_frame,
        samples_per_patch=patch,
        image_size=side,
        output_shape=[1, frames, side + draw(0, 2), side],
        output_num_channels=width,
        _label_trainable_num_channels=draw(1, 8),
    )
    batch, samples = draw(1, 2), frames * per_frame
    points = {"image": int(np.prod(made["output_shape"])), "audio": samples // patch}
    inputs = {
        "inputs.image": draw.array(batch, frames, 3, side, side),
        "inputs.audio": draw.array(batch, samples, 1),
        "inputs.label": draw.array(batch, made["num_labels"]),
    } | {
        f"subsampled_output_points.{name}": np.random.default_rng(draw(0, 99)).integers(0, n, draw(1, 5))
        for name, n in points.items()
    }
    return "PerceiverForMultimodalAutoencoding", replacements, made, inputs, {"subsampled_output_points.label": None}


def mask(draw: Draw, batch: int, length: int) -> dict[str, np.ndarray]:
    """None, or any, of any dtype; whole items may be masked."""
    if draw.of(True, False):
        return {}
    share = draw.of(0.0, 0.5, 1.0)
    bits = np.random.default_rng(draw(0, 99)).random((batch, length)) < share
    return {"attention_mask": bits.astype(draw.of("int64", "bool", "float64"))}


def labels(draw: Draw, batch: int, made: dict[str, Any]) -> dict[str, np.ndarray]:
    if draw.of(True, False):
        return {}
    return {"labels": np.array([draw(0, made["num_labels"] - 1) for _ in range(batch)])}


@pytest.mark.parametrize("kind", [image_learned, image_conv, optical_flow, multimodal])
def test_task_classes_agree_with_the_live_peer(kind: Any) -> None:
    worst: list[tuple[float, float]] = []

    @settings(max_examples=DRAWS, deadline=None, derandomize=True)
    @given(st.data())
    def run(data: st.DataObject) -> None:
        draw = Draw(data)
        name, replacements, made, inputs, call = kind(draw)
        if draw.of(True, False):
            call = {**call, "output_attentions": True, "output_hidden_states": True}
        given = {"config": made, "hard_coded_replacements": replacements}
        result = check_case(hf_configurations.case(name, given, inputs, call, seed=draw(0, 1000)))
        assert result.status == "pass", result.worst
        assert result.notes == []  # every module that was hooked is known
        worst.append((result.error("output", "trace") or 0.0, result.error("grad_param", "grad_input") or 0.0))

    run()
    outputs, gradients = (max(column) for column in zip(*worst))
    print(f"\n{kind.__name__}: {len(worst)} draws, largest error {outputs:.1e} (outputs), {gradients:.1e} (gradients)")
    assert len(worst) >= 100
