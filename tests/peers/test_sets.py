"""What only EdgeTAM, Aurora, perceiver-ar-pytorch, NeMo and the set auto-encoders do."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from peers.runs import out, ran, rebuilt
from porting.cases import case_of
from support import assert_close, normal

from perceiver_ref import InputError
from perceiver_ref.models.attention import Attention
from perceiver_ref.peers.shape2vecset.parts import Gaussian, PointEmbedding
from perceiver_ref.peers.transformers.edgetam import MemoryResampler, PlacedAttention
from perceiver_ref.porting import run
from perceiver_ref.porting.cases import Case


def outputs(case: Case, call: dict[str, Any] | None = None, **changed: Any) -> dict[str, np.ndarray]:
    return ran(case, call=call, **changed).outputs


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


# EdgeTAM


def test_heads_and_queries_lie_mixed_in_edgetams_rows() -> None:
    b, n, m, d, heads, width = 2, 3, 5, 7, 4, 6
    layer = PlacedAttention(d, d, heads * width, heads * width, d, heads)
    p = layer.init(seed=1, dtype=np.float64)
    x, z, places = normal(0, b, n, d), normal(1, b, m, d), normal(2, b, m, heads * width)

    def split(a: np.ndarray) -> np.ndarray:
        return a.reshape(b, -1, heads, width).swapaxes(1, 2)

    q = split(x @ p["query"]["weight"] + p["query"]["bias"])
    k = split(z @ p["key"]["weight"] + p["key"]["bias"] + places)
    v = split(z @ p["value"]["weight"] + p["value"]["bias"] + places)
    mixed = softmax(q @ k.swapaxes(-1, -2) / math.sqrt(width)) @ v
    rows = mixed.reshape(b, n, heads * width)  # (heads, n, width) as it lies, where (n, heads, width) was meant
    want = rows @ p["output"]["weight"] + p["output"]["bias"]
    assert_close(layer.apply(p, x, z, key_positions=places), want)


@pytest.mark.parametrize(("name", "same"), [("resampler_window_grid", True), ("resampler_1d_2d", False)])
def test_with_one_head_nothing_is_mixed(name: str, same: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    case = case_of(f"edgetam/{name}")
    right = outputs(case)["out0"]
    monkeypatch.setattr(PlacedAttention, "_mixed", Attention._mixed)
    assert np.allclose(outputs(case)["out0"], right, rtol=0, atol=1e-12) == same


def test_a_padded_map_is_one_with_zeros_beside_it() -> None:
    case = case_of("edgetam/resampler_2d_padded")
    x = case.inputs["hidden_states"]  # 7 columns, in windows of 5
    wide = np.pad(x, ((0, 0), (0, 0), (0, 0), (0, 3)))
    assert_close(outputs(case, hidden_states=wide)["out0"], outputs(case)["out0"])


def test_positions_of_windows_count_rows_and_columns_from_one() -> None:
    case = case_of("edgetam/resampler_window_grid")
    model = rebuilt(case).model
    assert isinstance(model, MemoryResampler)
    side, half = 6, model.channels // 2
    found = model.window_positions(np.zeros((1, model.channels, 9, 4)))
    for j in range(side * side):
        for c in range(model.channels):
            place = (j // side if c < half else j % side) + 1
            wavelength = 10_000 ** (2 * (c % half // 2) / half)
            angle = place / (side + 1e-6) * 2 * math.pi / wavelength
            assert found[0, j, c] == pytest.approx((math.sin, math.cos)[c % 2](angle), abs=1e-12)


def test_positions_change_nothing_in_windows_and_ask_for_the_second_output() -> None:
    case = case_of("edgetam/resampler_2d_padded")
    without = outputs(case, positional_encoding=None)
    assert set(without) == {"out0"}
    assert_close(without["out0"], outputs(case)["out0"])
    assert set(outputs(case)) == {"out0", "out1"}


EDGETAM: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"num_latents_2d": 5}, {}, "square of a whole number, got 5"),
    ({"num_latents": 0, "num_latents_2d": 0}, {}, "there must be latents"),
    ({"hidden_size": 6}, {}, "hidden_size that 4 divides, got 6"),
    ({"num_attention_heads": 0}, {}, "num_attention_heads must be a whole number above 0"),
    ({}, {"hidden_states": np.zeros((2, 8, 6, 6))}, "one map at a time .* got 2"),
    ({}, {"hidden_states": np.zeros((1, 8, 5, 6))}, "5 x 6 gives 3 x 3 windows of 2 x 2, and there are 4 latents"),
    ({}, {"hidden_states": np.zeros((1, 8, 1, 6))}, "1 rows cannot be cut"),
    ({}, {"hidden_states": np.zeros((1, 9, 6, 6))}, "must have 8 channels"),
    ({}, {"hidden_states": np.zeros((1, 8, 6))}, "must be .batch, channels, height, width"),
    ({}, {"positional_encoding": np.zeros((1, 8, 6, 6))}, r"positional_encoding must be \(1, 10, 6, 6\)"),
    ({"hidden_act": "relu"}, {}, "unknown option"),
]


@pytest.mark.parametrize(("config", "inputs", "message"), EDGETAM)
def test_what_edgetam_cannot_run_is_refused(config: dict[str, Any], inputs: dict[str, Any], message: str) -> None:
    case = case_of("edgetam/resampler_1d_2d")
    renamed = {name if name == "hidden_act" else f"perceiver_resampler_{name}": n for name, n in config.items()}
    with pytest.raises(InputError, match=message):
        run(rebuilt(case, **renamed), case.params, {**case.inputs, **inputs}, {})


# Aurora


def test_another_order_of_attentions_arithmetic_is_the_same_attention() -> None:
    case = case_of("aurora/resampler_ln_k_q")
    assert_close(out(case, call={"use_fp16_safe_attention": True}), out(case))


def test_the_first_layer_alone_norms_queries_and_keys_however_large_they_are() -> None:
    case = case_of("aurora/resampler_ln_k_q")
    for layer, same in ((0, True), (1, False)):
        wide = {n: 3 * a if n == f"layers.{layer}.0.to_q.weight" else a for n, a in case.params.items()}
        changed = run(rebuilt(case), wide, case.inputs, {}).outputs["out"]
        assert np.allclose(changed, out(case), rtol=0, atol=1e-3) == same  # but for the epsilon


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"mlp_ratio": 0.01}, "mlp_ratio.* must be a whole number above 0, got 0"),
        ({"num_heads": 0}, "num_heads must be a whole number above 0"),
        ({"latent_dim": "8"}, "latent_dim.* must be a whole number"),
        ({"ln_kq": True}, "unknown option .*did you mean 'ln_k_q'"),
    ],
)
def test_impossible_options_of_aurora_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        rebuilt(case_of("aurora/resampler"), **config)


# perceiver-ar-pytorch


def test_a_masked_token_of_the_prefix_may_be_any_and_keeps_its_place() -> None:
    case = case_of("perceiver-ar-pytorch/prefix_mask")
    ids, mask = case.inputs["x"], case.inputs["prefix_mask"]
    others = np.where(np.pad(~mask, ((0, 0), (0, ids.shape[1] - mask.shape[1]))), (ids + 1) % 7, ids)
    assert not np.array_equal(others, ids)
    assert_close(out(case, x=others), out(case))
    assert not np.allclose(out(case, prefix_mask=None), out(case))


def test_a_mask_may_be_shorter_than_the_prefix_or_reach_into_the_latents() -> None:
    case = case_of("perceiver-ar-pytorch/prefix_mask")
    mask = case.inputs["prefix_mask"].copy()
    mask[:, 2:] = True
    whole = np.pad(mask, ((0, 0), (0, 6)), constant_values=True)
    assert_close(out(case, prefix_mask=mask[:, :2]), out(case, prefix_mask=mask))
    assert_close(out(case, prefix_mask=whole), out(case, prefix_mask=mask))


@pytest.mark.parametrize("masked", [False, True])
def test_a_latent_without_any_key_attends_to_all_even_to_later_ones(masked: bool) -> None:
    case = case_of("perceiver-ar-pytorch/prefix_mask")
    ids = case.inputs["x"]
    later = np.concatenate([ids[:, :-1], (ids[:, -1:] + 1) % 7], 1)
    mask = np.full(ids.shape, not masked)
    same = np.allclose(out(case, x=later, prefix_mask=mask)[:, :-1], out(case, prefix_mask=mask)[:, :-1])
    assert same != masked


def test_the_loss_is_the_mean_over_labels_after_the_prefix_that_are_not_0() -> None:
    case = case_of("perceiver-ar-pytorch/loss")
    logits = out(case, labels=None)
    labels = case.inputs["labels"][:, 2:]
    each = np.log(np.exp(logits).sum(-1)) - np.take_along_axis(logits, labels[..., None], -1)[..., 0]
    assert (labels == 0).any()
    assert_close(out(case), each[labels != 0].mean())


@pytest.mark.parametrize(
    ("config", "inputs", "message"),
    [
        ({"dim_head": 31}, {}, "dim_head must be at least 32"),
        ({"max_seq_len": 5}, {}, r"max_seq_len \(5\) must be greater than cross_attn_seq_len \(5\)"),
        ({"perceive_max_heads_process": 0}, {}, "perceive_max_heads_process must be a whole number above 0"),
        ({"heads": 0}, {}, "heads must be a whole number above 0"),
        ({}, {"x": np.zeros((3, 5), int)}, "more tokens than 5 and at most 12, got 5"),
        ({}, {"x": np.zeros((3, 13), int)}, "more tokens than 5 and at most 12, got 13"),
        ({}, {"prefix_mask": np.ones((3, 5), int)}, "prefix_mask must be bool"),
        ({}, {"prefix_mask": np.ones((3, 12), bool)}, "prefix_mask must be bool .batch, up to 11"),
        ({}, {"labels": np.ones((3, 6), int)}, r"labels must be \(3, 11\)"),
    ],
)
def test_what_perceiver_ar_cannot_run_is_refused(config: Any, inputs: Any, message: str) -> None:
    case = case_of("perceiver-ar-pytorch/prefix_mask")
    with pytest.raises(InputError, match=message):
        run(rebuilt(case, **config), case.params, {**case.inputs, **inputs}, {})


# NeMo


def test_a_context_of_padding_alone_is_attended_to_as_if_it_were_real() -> None:
    case = case_of("nemo/perceiver_params")
    mask = case.inputs["encoder_mask"]
    nothing, everything = (outputs(case, encoder_mask=np.full_like(mask, n))["out0"] for n in (0, 1))
    assert_close(nothing, everything)
    assert not np.allclose(outputs(case)["out0"], everything)


@pytest.mark.parametrize(("config", "same"), [({}, True), ({"mask_future": False}, False)])
def test_latents_see_no_later_ones_where_the_future_is_masked(config: dict[str, Any], same: bool) -> None:
    case = case_of("nemo/perceiver_pre_ln_causal")
    changed = {**case.params, "init_hidden": case.params["init_hidden"] + np.eye(5)[:, -1:] * normal(0, 6)}
    one, other = (
        run(rebuilt(case, **config), params, case.inputs, {}).outputs["out0"] for params in (case.params, changed)
    )
    assert np.allclose(one[:, :-1], other[:, :-1], rtol=0, atol=1e-12) == same


def test_the_mask_of_latents_has_the_dtype_of_the_contexts() -> None:
    case = case_of("nemo/perceiver_params")
    for dtype in ("int64", "bool", "uint8"):
        made = outputs(case, encoder_mask=case.inputs["encoder_mask"].astype(dtype))
        assert made["out1"].dtype == dtype
        assert made["out1"].all()
        assert_close(made["out0"], outputs(case)["out0"])


@pytest.mark.parametrize(
    ("config", "inputs", "message"),
    [
        ({"hidden_act": "silu"}, {}, "unknown hidden_act 'silu'"),
        ({"hidden_init_method": "zeros"}, {}, "unknown hidden_init_method 'zeros'"),
        ({"num_attention_heads": 4}, {}, r"hidden_size \(6\) must be divisible by num_attention_heads \(4\)"),
        ({"num_layers": 0}, {}, "num_layers, where a norm follows"),
        ({}, {"encoder_mask": np.ones((2, 6), int)}, r"encoder_mask must be \(2, 7\)"),
        ({}, {"encoder_states": np.ones((2, 7))}, "encoder_states must be .batch, tokens, channels"),
    ],
)
def test_what_nemo_cannot_run_is_refused(config: Any, inputs: Any, message: str) -> None:
    case = case_of("nemo/perceiver_pre_ln_causal")
    with pytest.raises(InputError, match=message):
        run(rebuilt(case, **config), case.params, {**case.inputs, **inputs}, {})


# 3DShape2VecSet and VecSetX


def test_an_embedding_has_sines_and_cosines_of_pi_times_powers_of_two() -> None:
    made = PointEmbedding(4, 27)
    weights = {"mlp": {"weight": np.eye(27), "bias": np.zeros(27)}}
    x = normal(3, 2, 5, 3)
    found = made.apply(weights, x)
    for axis in range(3):
        for k in range(4):
            angle = np.float64(np.float32(math.pi)) * 2.0**k * x[..., axis]
            assert_close(found[..., 4 * axis + k], np.sin(angle))
            assert_close(found[..., 12 + 4 * axis + k], np.cos(angle))
    assert_close(found[..., 24:], x)


@pytest.mark.parametrize("name", ["autoencoder", "kl_autoencoder", "vecset_point", "vecset_learnable_normalized"])
def test_the_methods_one_after_the_other_are_the_forward_pass(name: str) -> None:
    case = case_of(f"shape2vecset/{name}")
    rest = dict.fromkeys(case.inputs)
    kept = outputs(case, {"method": "encode"}, queries=None)
    x = kept.get("x", kept.get("out"))
    vec_set = "VecSet" in case.meta["class"]
    if vec_set:
        x = outputs(case, {"method": "learn"}, **rest, x=x)["out"]
    made = outputs(case, {"method": "decode"}, **{**rest, "queries": case.inputs["queries"]}, x=x)["out"]
    whole = outputs(case)
    assert_close(made[..., 0] if made.shape[-1] == 1 else made, whole["o" if vec_set else "logits"])


def test_values_at_a_point_do_not_depend_on_other_queries() -> None:
    case = case_of("shape2vecset/autoencoder")
    some = outputs(case, queries=case.inputs["queries"][:, 1:3])["logits"]
    assert_close(some, outputs(case)["logits"][:, 1:3])


def test_a_cloud_in_another_order_is_the_same_cloud() -> None:
    case = case_of("shape2vecset/autoencoder")
    order = np.random.default_rng(0).permutation(case.inputs["pc"].shape[1])
    where = np.argsort(order)[case.inputs["fps_index"]]
    turned = outputs(case, pc=case.inputs["pc"][:, order], fps_index=where)["logits"]
    assert_close(turned, outputs(case)["logits"])


def test_a_latent_is_its_mean_without_noise_and_diverges_by_half_the_mean() -> None:
    made = Gaussian(6, 4, 0.25)
    p = made.init(seed=2, dtype=np.float64)
    x, noise = normal(1, 3, 5, 6), normal(2, 3, 5, 4)
    mean = x @ p["mean"]["weight"] + p["mean"]["bias"]
    v = x @ p["log_variance"]["weight"] + p["log_variance"]["bias"]
    z, apart = made.encode(p, x, noise)
    assert_close(z, mean + np.exp(v / 2) * noise)
    assert_close(apart, 0.25 / 2 * (mean**2 + np.exp(v) - 1 - v).mean((1, 2)))
    assert_close(made.encode(p, x, 0 * noise)[0], mean)


@pytest.mark.parametrize(
    ("name", "config", "inputs", "message"),
    [
        ("autoencoder", {"queries_dim": 8}, {}, r"queries_dim \(8\) must be dim \(7\)"),
        ("autoencoder", {"num_inputs": 8}, {}, r"pc must be \(batch, 8, 3\)"),
        ("autoencoder", {}, {"fps_index": np.full((2, 4), 9)}, r"must be points of each cloud, in \[0, 9\)"),
        ("autoencoder", {}, {"fps_index": np.zeros(4, int)}, "fps_index must be integers .batch, samples"),
        ("autoencoder", {}, {"fps_index": None}, "needs the argument 'fps_index'"),
        ("autoencoder", {}, {"noise": np.zeros((2, 4, 7))}, "unknown argument"),
        ("autoencoder", {}, {"queries": np.zeros((2, 5, 2))}, r"points must be \(batch, points, 3\)"),
        ("kl_autoencoder", {}, {"noise": None}, "needs the argument 'noise'"),
        ("kl_autoencoder", {}, {"noise": np.zeros((2, 4, 7))}, r"noise must be \(2, 4, 8\)"),
        ("point_embed", {"hidden_dim": 20}, {}, "hidden_dim must be a multiple of 6, got 20"),
        ("vecset_kl", {"bottleneck": "VQ"}, {}, "unknown bottleneck 'VQ'"),
        ("vecset_kl", {"bottleneck_args": {"dim": 6, "latent_dim": 5}}, {}, "needs the option 'kl_weight'"),
        ("vecset_kl", {"query_type": "random"}, {}, "unknown query_type 'random'"),
        ("vecset_kl", {"dim_head": 7}, {}, r"dim_head \(7\) must not be more than dim \(6\)"),
        ("vecset_point", {"bottleneck_args": {"dim": 6}}, {}, "unknown option of Bottleneck"),
    ],
)
def test_what_the_auto_encoders_cannot_run_is_refused(name: str, config: Any, inputs: Any, message: str) -> None:
    case = case_of(f"shape2vecset/{name}")
    given = {key: array for key, array in {**case.inputs, **inputs}.items() if array is not None}
    with pytest.raises(InputError, match=message):
        run(rebuilt(case, **config), case.params, given, case.meta["call"])


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(InputError, match="unknown method of AutoEncoder 'learn'"):
        outputs(case_of("shape2vecset/autoencoder"), {"method": "learn"})
