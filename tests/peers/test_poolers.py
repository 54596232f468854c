"""What only timm, open_clip, SigLIP, Chatterbox, Kosmos-2 and Aria do, and which of their classes are one."""

from __future__ import annotations

import re

import numpy as np
import pytest
from peers.runs import Refused, changed, out, ran
from porting.cases import case_of
from support import assert_close, normal

from perceiver_ref import InputError
from perceiver_ref.peers import Given, peer
from perceiver_ref.porting import run
from perceiver_ref.porting.cases import Case

# SigLIP's head and timm's pool.


@pytest.mark.parametrize(("name", "eps"), [("siglip/head", 1e-6), ("siglip/head2_no_mask", 1e-6)])
def test_the_head_of_siglip_is_the_pool_of_timm(backend: str, name: str, eps: float) -> None:
    case = case_of(name)
    c, p = case.meta["config"], case.params
    width = c["hidden_size"]
    assert eps == 1e-6  # timm's own layer norm
    config = {
        "in_features": width,
        "num_heads": c["num_attention_heads"],
        "mlp_ratio": c["intermediate_size"] / width,
        "norm_layer": "timm.layers.LayerNorm",
        "act_layer": "gelu_tanh",
    }
    arrays = {
        "latent": p["probe"],
        "q.weight": p["attention.in_proj_weight"][:width],
        "q.bias": p["attention.in_proj_bias"][:width],
        "kv.weight": p["attention.in_proj_weight"][width:],
        "kv.bias": p["attention.in_proj_bias"][width:],
        **{n.replace("attention.out_proj", "proj"): a for n, a in p.items() if n.startswith("attention.out")},
        **{n.replace("layernorm", "norm"): a for n, a in p.items() if n.startswith("layernorm")},
        **{n: a for n, a in p.items() if n.startswith("mlp")},
    }
    made = peer("timm").rebuild("AttentionPoolLatent", Given(config))
    assert_close(
        run(made, arrays, {"x": case.inputs["hidden_state"]}, {}, backend=backend).outputs["out"], case.outputs["out"]
    )


def test_padding_of_siglip2_may_be_left_out(backend: str) -> None:
    case = case_of("siglip/head2_mask")
    x = case.inputs["hidden_state"]
    mask = np.ones(x.shape[:2], bool)
    mask[:, 3:] = False
    short = out(case, backend, hidden_state=x[:, :3], attention_mask=None)
    for kind in (bool, np.int64, np.float64):
        assert_close(out(case, backend, attention_mask=mask.astype(kind)), short)


def test_the_configuration_of_a_whole_siglip_holds_that_of_its_tower() -> None:
    tower = {"hidden_size": 12, "num_attention_heads": 3, "intermediate_size": 17, "patch_size": 4, "image_size": 8}
    whole = {"architectures": ["SiglipModel"], "vision_config": tower, "text_config": {"hidden_size": 5}}
    name = "SiglipMultiheadAttentionPoolingHead"
    alone, inside = (peer("siglip").rebuild(name, Given(config)).model for config in (tower, whole))
    assert alone == inside


# timm's masks: two rules.


def pool(case: Case, mask: np.ndarray, fused: bool, backend: str) -> np.ndarray:
    return out(case, backend, {"fused_attn": fused}, attn_mask=mask)


def test_a_bool_mask_attends_or_is_added(backend: str) -> None:
    case = case_of("timm/pool_unfused_bool_mask")
    x = case.inputs["x"]
    mask = np.arange(x.shape[1]) < 2
    assert_close(pool(case, mask, True, backend), out(case, backend, x=x[:, :2], attn_mask=None))
    assert_close(pool(case, mask, False, backend), pool(case, mask.astype(float), True, backend))
    assert_close(pool(case, mask.astype(np.int64), False, backend), pool(case, mask.astype(float), True, backend))


def test_each_head_may_have_a_mask_of_its_own(backend: str) -> None:
    case = case_of("timm/pool_bool_mask_all_latents")
    x, heads, latents = case.inputs["x"], 5, 3
    mask = np.random.default_rng(0).random((len(x), heads, latents, x.shape[1])) < 0.6
    mask[..., 0] = True
    weights = ran(case, backend, attn_mask=mask).trace["pool.attention.weights"]
    assert np.array_equal(weights > 0, mask)
    assert_close(pool(case, np.where(mask, 0.0, -np.inf), True, backend), pool(case, mask, True, backend))


def test_a_row_without_any_token(backend: str) -> None:
    """Zero by the fused rule, whether it is masked by bools or by infinities; NaN by the other one."""
    case = case_of("timm/pool_bool_mask_all_latents")
    x = case.inputs["x"]
    none = np.zeros((1, 1, 1, x.shape[1]), bool)
    for mask in (none, np.where(none, 0.0, -np.inf)):
        assert not ran(case, backend, attn_mask=mask).trace["pool.attention.mixed"].any()
    with np.errstate(invalid="ignore"):
        assert np.isnan(pool(case, np.where(none, 0.0, -np.inf), False, backend)).all()


def test_a_pool_without_norm_still_norms_queries_and_keys() -> None:
    config = {"in_features": 6, "num_heads": 2, "qk_norm": True}
    model = peer("timm").rebuild("AttentionPoolLatent", Given(config)).model
    assert model.mlp_norm is None
    assert (model.attention.query_norm.channels, model.attention.query_norm.eps) == (3, 1e-5)


# open_clip, Kosmos-2.


def test_weights_are_one_array_where_widths_are_equal() -> None:
    names = [
        {
            b.name
            for b in peer("open-clip").rebuild("AttentionalPooler", Given({"d_model": 8, "context_dim": c})).bindings
        }
        for c in (8, 6)
    ]
    assert "attn.in_proj_weight" in names[0] - names[1]
    assert {"attn.q_proj_weight", "attn.k_proj_weight", "attn.v_proj_weight"} <= names[1] - names[0]
    assert "attn.in_proj_bias" in names[0] & names[1]


@pytest.mark.parametrize("name", ["kosmos2/kosmos2_eager", "kosmos2/kosmos2_5_eager"])
def test_maps_are_of_eager_attention_alone_and_features_first(backend: str, name: str) -> None:
    case = case_of(name)
    maps = ran(case, backend).outputs["out1"]
    features = case.inputs["features"].shape[1]
    assert maps.shape[-1] == features + case.params["latent_query"].shape[0]
    assert_close(maps.sum(-1), np.ones(maps.shape[:-1]))
    x = case.inputs["features"].copy()
    x[:, 0] += 100 * case.params["dense.weight"][0]  # only the first token's weights can change against each other
    other = ran(case, backend, features=x).outputs["out1"]
    ratio = other[..., 1:] / maps[..., 1:]
    assert_close(ratio, np.broadcast_to(ratio[..., :1], ratio.shape), tolerance=1e-6)
    case.meta["config"]["attn_implementation"] = "sdpa"
    assert set(ran(case, backend).outputs) == {"out0"}


def test_sizes_may_have_transformers_common_names() -> None:
    one = {"text_config": {"embed_dim": 12, "attention_heads": 3}, "vision_config": {"hidden_size": 7}}
    two = {
        "text_config": {"hidden_size": 12, "num_attention_heads": 3, "layers": 2},
        "vision_config": {"hidden_size": 7},
    }
    models = [peer("kosmos2").rebuild("Kosmos2ImageToTextProjection", Given(config)).model for config in (one, two)]
    assert models[0] == models[1]
    assert models[0].latents == 64


# Aria.


def test_arias_mask_says_what_to_leave_out(backend: str) -> None:
    case = case_of("aria/projector_mask")
    case.meta["config"]["projector_patch_to_query_dict"] = {"9": 5, "4": 5}
    x = case.inputs["key_value_states"]
    mask = np.zeros(x.shape[:2], bool)
    mask[:, 4:] = True
    short = out(case, backend, key_value_states=x[:, :4], attn_mask=None)
    assert_close(out(case, backend, attn_mask=mask), short)
    assert_close(out(case, backend, attn_mask=np.where(mask, -np.inf, 0.0)), short)


def test_a_fully_masked_row_of_aria_is_nan(backend: str) -> None:
    case = case_of("aria/projector_mask")
    mask = np.zeros_like(case.inputs["attn_mask"])
    mask[1] = True
    with np.errstate(invalid="ignore"):
        made = out(case, backend, attn_mask=mask)
    assert np.isfinite(made[0]).all()
    assert np.isnan(made[1]).all()


# Chatterbox.


def test_scale_is_ignored_but_by_channels(backend: str) -> None:
    for name, ignored in (("chatterbox/block_flash_bool_mask", True), ("chatterbox/block_channels_mask", False)):
        case = case_of(name)
        case.meta["config"]["scale"] = 3.0
        same = np.allclose(out(case, backend), case.outputs["out"], atol=1e-10)
        assert same == ignored


def test_channels_attend_to_channels(backend: str) -> None:
    """The scores by their definition: sums over positions."""
    case = case_of("chatterbox/block_channels")
    traced = ran(case, backend).trace
    heads = case.meta["config"]["num_heads"]
    q, k = (traced[f"attention.{name}"].reshape(2, 5, heads, -1) for name in ("query", "key"))
    scores = np.einsum("blht,blhs->bhts", q, k) / np.sqrt(q.shape[-1])
    e = np.exp(scores - scores.max(-1, keepdims=True))
    assert_close(traced["attention.weights"], e / e.sum(-1, keepdims=True))


def test_channels_without_any_other_are_nan(backend: str) -> None:
    case = case_of("chatterbox/block_channels_mask")
    mask = case.inputs["mask"].copy()
    mask[2] = 0
    with np.errstate(invalid="ignore"):
        made = ran(case, backend, mask=mask).trace["attention.mixed"].reshape(2, 6, 3, 4)
    assert np.isnan(made[..., 2]).all()
    assert np.isfinite(made[..., [0, 1, 3]]).all()


def test_the_block_runs_again_on_its_own_result(backend: str) -> None:
    case = case_of("chatterbox/perceiver")
    traced = ran(case, backend).trace
    assert np.array_equal(traced["block.norm@2"], traced["block.norm@3"])
    one = peer("chatterbox").rebuild("AttentionBlock2", Given({"channels": 12, "num_heads": 3}))
    params = {n.removeprefix("attn."): a for n, a in case.params.items() if n.startswith("attn.")}
    again = run(one, params, {"x1": traced["block"], "x2": traced["block"]}, {}, backend=backend)
    assert_close(again.outputs["out"], case.outputs["out"])


# What is refused.

POOL = "timm/pool_map"
REFUSED: list[Refused] = [
    (POOL, {"embed_dim": 5}, None, {}, "embed_dim (5) must equal in_features (12)"),
    (POOL, {"pos_embed": "abs"}, None, {}, "needs feat_size"),
    (POOL, {"pos_embed": "rel"}, None, {}, "unknown pos_embed"),
    (POOL, {"pool_type": "max"}, None, {}, "unknown pool_type"),
    (POOL, {"norm_layer": "BatchNorm"}, None, {}, "unknown norm_layer"),
    (POOL, {"act_layer": "glue"}, None, {}, "unknown act_layer"),
    (POOL, {"q_proj": False, "latent_dim": 5}, None, {}, "latent_dim (5) must equal in_features (12)"),
    (POOL, {"num_heads": 5}, None, {}, "must be divisible by the number of heads (5)"),
    (
        POOL,
        {},
        None,
        {"attn_mask": np.ones((2, 7), bool)},
        "must broadcast to (batch, heads, latents, tokens) = (2, 3, 1, 7)",
    ),
    (POOL, {}, None, {"attn_mask": np.ones((1, 7), int)}, "must be bool (True = attend) or floating point"),
    (
        "timm/pool_qknorm_pos_avg",
        {},
        None,
        {"x": normal(0, 2, 4, 12)},
        "there are 4 features, and positions for exactly 5",
    ),
    ("open-clip/pooler", {"norm_layer": "x"}, None, {}, "unknown option of AttentionalPooler 'norm_layer'"),
    ("open-clip/pooler", {}, None, {"x": normal(0, 2, 3, 9)}, "features must be (batch, tokens, 10)"),
    ("siglip/head", {}, None, {"attention_mask": np.ones((2, 7))}, "unknown argument"),
    ("siglip/head2_mask", {}, None, {"attention_mask": np.ones((3, 6))}, "attention_mask must be (3, 7)"),
    ("siglip/head", {"hidden_act": "glue"}, None, {}, "glue"),
    ("chatterbox/perceiver", {"pre_attention_query_size": 6}, None, {}, "(6) must equal embedding_dim (12)"),
    ("chatterbox/block_channels", {"num_head_channels": 5}, None, {}, "must be divisible by num_head_channels (5)"),
    ("chatterbox/block_channels", {}, None, {"x2": normal(0, 2, 4, 12)}, "x1 and x2 must be equally long"),
    ("chatterbox/block_flash_bool_mask", {}, None, {"mask": np.ones((2, 6), bool)}, "mask must broadcast to"),
    ("chatterbox/block_flash_bool_mask", {}, None, {"mask": np.ones((4, 6), int)}, "got int64"),
    (
        "kosmos2/kosmos2_eager",
        {"text_config": {"attention_heads": 5, "embed_dim": 12}},
        None,
        {},
        "number of heads (5)",
    ),
    ("kosmos2/kosmos2_eager", {"latents": 5}, None, {}, "unknown option"),
    ("aria/projector", {}, None, {"key_value_states": normal(0, 2, 5, 12)}, "no queries for 5 patches, only for 7, 9"),
    ("aria/projector_mask", {}, None, {"attn_mask": np.ones((2, 9), int)}, "must be bool (True = masked)"),
    ("aria/projector_mask", {}, None, {"attn_mask": np.ones((2, 8), bool)}, "attn_mask must be (2, 9)"),
    ("aria/projector", {"projector_patch_to_query_dict": {"x": 3}}, None, {}, "must map numbers of patches"),
    ("aria/projector", {"projector_patch_to_query_dict": {}}, None, {}, "is empty"),
]


@pytest.mark.parametrize("row", REFUSED, ids=[row[-1] for row in REFUSED])
def test_it_is_refused_in_one_line(row: Refused) -> None:
    with pytest.raises(InputError, match=re.escape(row[-1])) as raised:
        changed(row)
    assert "\n" not in str(raised.value)
