"""PyTorch beyond its vectors: options in the name of a class, missing batches, and what errors say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from perceiver_ref import InputError
from perceiver_ref.autograd import ops, value_and_grad
from perceiver_ref.models.call import Call
from perceiver_ref.peers import peer
from perceiver_ref.peers.base import Given


def run(cls: str, config: dict[str, Any] | None = None, call: dict[str, Any] | None = None, **inputs: Any) -> Any:
    shapes = {name: array.shape for name, array in inputs.items()}
    rebuilt = peer("torch").rebuild(cls, Given(config or {}, inputs=shapes, call=call or {}))
    return rebuilt.run(rebuilt.model, {}, inputs, call or {}, Call())


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape)


def test_options_may_stand_in_the_name_of_a_class() -> None:
    x = random(3, 4)
    named = run("torch.nn.functional.normalize(p=1, eps=1e-8, dim=-1)", input=x)["out"]
    np.testing.assert_array_equal(named, run("normalize", call={"p": 1, "eps": 1e-8, "dim": -1}, input=x)["out"])
    np.testing.assert_allclose(abs(named).sum(-1), 1, rtol=1e-14)


def test_a_zero_vector_stays_zero_and_its_gradient_finite() -> None:
    x = np.zeros((1, 3))
    for p in (1.0, 2.0, 3.0, float("inf")):
        _, gradient = value_and_grad(
            lambda x, p=p: ops.sum(run("normalize", call={"p": p, "eps": 0.5}, input=x)["out"])
        )(x)
        np.testing.assert_array_equal(gradient, 2.0)  # x / eps


@pytest.mark.parametrize(
    ("cls", "call", "shape"),
    [
        ("conv2d", {"padding": "same"}, (2, 5, 6)),
        ("max_pool2d", {"kernel_size": 2}, (2, 5, 6)),
        ("avg_pool2d", {"kernel_size": 2}, (2, 5, 6)),
        ("unfold", {"kernel_size": 2}, (2, 5, 6)),
    ],
)
def test_the_batch_may_be_missing(cls: str, call: dict[str, Any], shape: tuple[int, ...]) -> None:
    x = random(*shape)
    extra = {"weight": random(3, 2, 2, 3)} if cls == "conv2d" else {}
    alone, batched = run(cls, call=call, input=x, **extra), run(cls, call=call, input=x[None], **extra)
    for name in batched:
        np.testing.assert_array_equal(alone[name], batched[name][0])


SAME_SIZE = [
    ("bilinear", [0.10714285714285715, 0.14285714285714285, 0.32142857142857145, 0.42857142857142855]),
    ("bicubic", [0.08554730983302414, 0.12159554730983303, 0.3274397031539889, 0.46541743970315397]),
]


@pytest.mark.parametrize(("mode", "gradient"), SAME_SIZE)
def test_smoothing_to_the_same_size_copies_but_its_gradient_smooths(mode: str, gradient: list[float]) -> None:
    """In PyTorch, where a factor is given; of the last output alone, as PyTorch 2.13 has it."""
    x, call = np.array([[[[1.0, 2.0], [4.0, 8.0]]]]), {"scale_factor": [1.2, 1.4], "mode": mode, "antialias": True}

    def last(x: Any) -> Any:
        return run("interpolate", call=call, input=x)["out"][0, 0, 1, 1]

    np.testing.assert_array_equal(run("interpolate", call=call, input=x)["out"], x)
    np.testing.assert_allclose(value_and_grad(last)(x)[1].ravel(), gradient, rtol=1e-12)  # a few roundings


def test_a_last_window_must_start_inside() -> None:
    """5 elements in windows of 2, 3 apart: with `ceil_mode` a third would start behind them, and is dropped."""
    x = np.arange(5.0).reshape(1, 1, 5)
    out = run("max_pool1d", call={"kernel_size": 2, "stride": 3, "padding": 1, "ceil_mode": True}, input=x)
    np.testing.assert_array_equal(out["out"], [[[0, 3]]])
    np.testing.assert_array_equal(out["indices"], [[[0, 3]]])


def test_padding_counts_in_an_average_unless_told_otherwise() -> None:
    x = np.full((1, 1, 3), 6.0)
    call = {"kernel_size": 3, "stride": 1, "padding": 1}
    np.testing.assert_allclose(run("avg_pool1d", call=call, input=x)["out"], [[[4, 6, 4]]])
    np.testing.assert_allclose(run("avg_pool1d", call={**call, "count_include_pad": False}, input=x)["out"], 6)


def test_a_padding_row_of_an_embedding_learns_nothing() -> None:
    ids = np.array([0, 2, 2])

    def total(weight: Any) -> Any:
        return ops.sum(run("embedding", call={"padding_idx": -1}, indices=ids, weight=weight)["out"])

    _, gradient = value_and_grad(total)(random(3, 2))
    np.testing.assert_array_equal(gradient, [[1, 1], [0, 0], [0, 0]])


X = random(2, 3, 4)
BAD: list[tuple[str, dict[str, Any], dict[str, Any], dict[str, Any], str]] = [
    ("conv9d", {}, {}, {"input": X}, "unknown class of peer torch 'conv9d'"),
    ("conv1d", {}, {}, {"input": X}, "the function needs the argument 'weight'"),
    (
        "conv1d",
        {},
        {"stride": [1, 2]},
        {"input": X, "weight": X},
        r"stride must be a whole number or 1 of them, got \[1, 2\]",
    ),
    ("conv1d", {}, {"strides": 1}, {"input": X, "weight": X}, "unknown option of the function 'strides'"),
    (
        "conv2d",
        {},
        {},
        {"input": random(3, 4), "weight": random(1, 1, 2, 2)},
        r"the input must be \(batch, channels, 2 axes\)",
    ),
    ("max_pool1d", {}, {}, {"input": X}, "the function needs the option 'kernel_size'"),
    (
        "layer_norm",
        {},
        {"normalized_shape": [5]},
        {"input": X},
        r"normalized_shape is \(5,\), but the input ends in \(4,\)",
    ),
    ("interpolate", {}, {"mode": "cubic", "size": 2}, {"input": X}, "unknown mode 'cubic'"),
    ("interpolate", {}, {"mode": "bicubic", "size": 2}, {"input": X}, "mode bicubic needs 2 axes after the channels"),
    ("interpolate", {}, {"size": 2, "scale_factor": 2}, {"input": X}, "either size or scale_factor"),
    ("mse_loss", {}, {"reduction": "all"}, {"input": X, "target": X}, "unknown reduction 'all'"),
    ("normalize(p=)", {}, {}, {"input": X}, r"options of 'normalize\(p=\)' cannot be read"),
    ("MultiheadAttention", {"embed_dim": 4, "num_heads": 3}, {}, {}, "embed_dim 4 cannot be cut into 3 heads"),
    ("SGD", {"nesterov": True}, {}, {}, "nesterov needs a momentum and no dampening"),
    ("Adam", {"beta1": 0.9}, {}, {}, "unknown option of the optimizer 'beta1'"),
    ("SGD", {}, {}, {"p0": X}, "every parameter needs gradients"),
    ("SGD", {}, {}, {"p0": X, "grad_p0": X}, r"grad_p0 must be \(steps, \*\(2, 3, 4\)\), got \(2, 3, 4\)"),
]


@pytest.mark.parametrize(("cls", "config", "call", "inputs", "message"), BAD, ids=[f"{b[0]}: {b[4][:30]}" for b in BAD])
def test_what_cannot_be_is_one_clear_line(cls: str, config: Any, call: Any, inputs: Any, message: str) -> None:
    with pytest.raises((InputError, ValueError), match=message) as caught:
        run(cls, config, call, **inputs)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["padding", "bools", "numbers"])
def test_an_item_without_keys_is_nan_where_maps_are_asked_for(kind: str) -> None:
    """As PyTorch's softmax has it; its fused attention, taken without maps, gives zeros."""
    masks = {
        "padding": {"key_padding_mask": np.array([[True, True], [False, True]])},
        "bools": {"attn_mask": np.array([[[True, True]] * 3, [[False, True]] * 3])},
        "numbers": {"attn_mask": np.array([[[-np.inf, -np.inf]] * 3, [[0.5, -np.inf]] * 3])},
    }
    config = {"embed_dim": 2, "num_heads": 1, "batch_first": True}
    params = {"in_proj_weight": random(6, 2), "out_proj.weight": np.eye(2)}
    params |= {"in_proj_bias": random(6), "out_proj.bias": np.full(2, 3.0)}
    arrays = {"query": random(2, 3, 2), "key": random(2, 2, 2), "value": random(2, 2, 2), **masks[kind]}
    shapes = {name: array.shape for name, array in arrays.items()}

    def out(**call: Any) -> Any:
        rebuilt = peer("torch").rebuild("torch.nn.MultiheadAttention", Given(config, inputs=shapes, call=call))
        return rebuilt.run(rebuilt.model, params, arrays, call, Call())

    with_maps, without = out(), out(need_weights=False)
    assert np.isnan(with_maps["out"][0]).all()
    assert np.isnan(with_maps["attn"][0]).all()
    np.testing.assert_array_equal(without["out"][0], 3.0)
    np.testing.assert_allclose(with_maps["out"][1], without["out"][1], rtol=1e-14)


def test_dropout_is_refused() -> None:
    q = random(1, 2, 3, 4)
    with pytest.raises(InputError, match="only at 0"):
        run("scaled_dot_product_attention", call={"dropout_p": 0.1}, query=q, key=q, value=q)
