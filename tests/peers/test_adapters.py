"""What only IP-Adapter, diffusers, PuLID, XTTS and naturalspeech2 do, and which of their classes are one."""

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

Arrays = dict[str, np.ndarray]

# One function by two names: what each is called elsewhere, read off the loaders of diffusers.

PLUS = [
    (r"layers\.(\d+)\.ln0\.", r"layers.\1.0.norm1."),
    (r"layers\.(\d+)\.ln1\.", r"layers.\1.0.norm2."),
    (r"layers\.(\d+)\.attn\.to_q\.", r"layers.\1.0.to_q."),
    (r"layers\.(\d+)\.attn\.to_out\.0\.", r"layers.\1.0.to_out."),
    (r"layers\.(\d+)\.ff\.0\.", r"layers.\1.1.0."),
    (r"layers\.(\d+)\.ff\.1\.net\.0\.proj\.", r"layers.\1.1.1."),
    (r"layers\.(\d+)\.ff\.1\.net\.2\.", r"layers.\1.1.3."),
]


def original(arrays: Arrays) -> Arrays:
    """diffusers' arrays as IP-Adapter has them: keys and values are one map."""
    made: Arrays = {}
    for name, array in arrays.items():
        if ".attn.to_v." in name:
            continue
        if ".attn.to_k." in name:
            array = np.concatenate([array, arrays[name.replace("to_k", "to_v")]])
            name = re.sub(r"layers\.(\d+)\.attn\.to_k", r"layers.\1.0.to_kv", name)
        for pattern, there in PLUS:
            name = re.sub(rf"^{pattern}", there, name)
        made[name] = array
    return made


def test_diffusers_plus_is_the_resampler_of_ip_adapter(backend: str) -> None:
    case = case_of("diffusers/plus")
    c = case.meta["config"]
    config = {
        "dim": c["hidden_dims"],
        "embedding_dim": c["embed_dims"],
        "output_dim": c["output_dims"],
        "ff_mult": c["ffn_ratio"],
        **{name: c[name] for name in ("depth", "dim_head", "heads", "num_queries")},
    }
    made = peer("ip-adapter").rebuild("Resampler", Given(config))
    there = run(made, original(case.params), {"x": case.inputs["x"]}, {}, backend=backend)
    assert_close(there.outputs["out"], case.outputs["out"])


def test_diffusers_face_id_plus_is_the_projection_of_ip_adapter(backend: str) -> None:
    """With the widths that are constants there: the embedding's maps twice as wide, heads by the latents' width."""
    case = case_of("diffusers/faceid_plus_shortcut")
    c = case.meta["config"]
    width = c["embed_dims"]
    names = {"proj.net.0.proj": "proj.0", "proj.net.2": "proj.2"}
    arrays = {}
    for name, array in original(case.params).items():
        part = name.rpartition(".")[0]
        if name.startswith(("proj.", "norm.")):
            arrays[name.replace(part, names.get(part, part))] = array
        else:
            arrays[f"perceiver_resampler.{name}"] = array
    config = {
        "cross_attention_dim": width,
        "id_embeddings_dim": c["id_embeddings_dim"],
        "clip_embeddings_dim": c["hidden_dims"],
        "num_tokens": c["num_tokens"],
        "hard_coded_replacements": [
            ["depth=4", f"depth={c['depth']}"],
            ["dim_head=64", f"dim_head={c['dim_head']}"],
            ["heads=cross_attention_dim // 64", f"heads=cross_attention_dim // {width // c['heads']}"],
            ["ff_mult=4", f"ff_mult={c['ffn_ratio']}"],
        ],
    }
    made = peer("ip-adapter").rebuild("ProjPlusModel", Given(config))
    clip = case.inputs["clip_embeds"]
    inputs = {"id_embeds": case.inputs["id_embeds"], "clip_embeds": clip.reshape(-1, *clip.shape[2:])}
    there = run(made, arrays, inputs, {"shortcut": True, "scale": 0.6}, backend=backend)
    assert_close(there.outputs["out"], case.outputs["out"])


@pytest.mark.parametrize(
    "name", ["xtts/resampler_mask", "xtts/resampler_proj_context", "naturalspeech2/resampler_mask"]
)
def test_naturalspeech2_has_the_class_of_xtts(backend: str, name: str) -> None:
    case = case_of(name)
    case.meta["peer"] = "naturalspeech2" if name.startswith("xtts") else "xtts"
    assert_close(out(case, backend), case.outputs["out"])


def test_defaults_tell_the_two_apart() -> None:
    config = {"dim": 8, "dim_head": 2}
    models = [
        peer(name).rebuild("PerceiverResampler", Given({**config, "depth": 3})).model
        for name in ("xtts", "naturalspeech2")
    ]
    assert [model.latents for model in models] == [32, 64]
    assert peer("xtts").rebuild("PerceiverResampler", Given(config)).model.layers == 2
    with pytest.raises(InputError, match="needs the option 'depth'"):
        peer("naturalspeech2").rebuild("PerceiverResampler", Given(config))


# Masks of XTTS.


@pytest.mark.parametrize("name", ["xtts/resampler_mask", "xtts/resampler_flash_mask"])
def test_what_is_masked_may_be_left_out(backend: str, name: str) -> None:
    case = case_of(name)
    x, latents = case.inputs["x"], case.params["latents"].shape[0]
    mask = np.ones((len(x), latents + x.shape[1]), bool)
    mask[:, latents + 2 :] = False
    assert_close(out(case, backend, mask=mask), out(case, backend, x=x[:, :2], mask=None))


@pytest.mark.parametrize(("name", "attends"), [("xtts/resampler_mask", True), ("xtts/resampler_flash_mask", False)])
def test_a_row_without_any_key(backend: str, name: str, attends: bool) -> None:
    """Uniform over latents and context, or nothing at all."""
    case = case_of(name)
    x, latents = case.inputs["x"], case.params["latents"].shape[0]
    mask = np.zeros((len(x), latents + x.shape[1]), bool)
    traced = ran(case, backend, mask=mask).trace
    weights = traced["resampler.layers.0.attention.weights"]
    assert_close(weights, np.full_like(weights, attends / mask.shape[1]))
    assert attends == traced["resampler.layers.0.attention"].any()


def test_latents_are_masked_by_the_first_columns(backend: str) -> None:
    case = case_of("xtts/resampler_mask")
    latents = case.params["latents"].shape[0]
    mask = np.ones_like(case.inputs["mask"])
    mask[:, :latents] = False
    weights = ran(case, backend, mask=mask).trace["resampler.layers.1.attention.weights"]
    assert not weights[..., :latents].any()
    assert (weights[..., latents:] > 0).all()


def test_the_end_is_as_long_as_its_scale_says(backend: str) -> None:
    case = case_of("xtts/resampler_proj_context")
    unit = out(case, backend) / case.params["norm.gamma"]
    assert_close((unit**2).sum(-1), np.full(unit.shape[:-1], float(unit.shape[-1])))


# IP-Adapter and PuLID.


def test_learned_positions_and_pooled_latents_are_off_by_default() -> None:
    config = {"dim": 8, "depth": 1, "embedding_dim": 5, "output_dim": 6}
    names = {b.name for b in peer("ip-adapter").rebuild("Resampler", Given(config)).bindings}
    assert not any(name.startswith(("pos_emb", "to_latents")) for name in names)


def test_pooled_latents_come_first(backend: str) -> None:
    """They alone depend on the features before the first layer."""
    case = case_of("ip-adapter/resampler_mean_pooled")
    x = case.inputs["x"]
    one, two = (ran(case, backend, x=given).trace["resampler.latents"] for given in (x, x + 1))
    assert (one[:, :3] != two[:, :3]).all()
    assert np.array_equal(one[:, 3:], two[:, 3:])


def test_the_shortcut_adds_the_normed_latents(backend: str) -> None:
    case = case_of("ip-adapter/proj_plus_shortcut")
    traced = ran(case, backend, {"shortcut": True, "scale": 0.25})
    expected = traced.trace["ids.norm"] + 0.25 * traced.trace["resampler"]
    assert_close(traced.outputs["out"], expected)
    assert_close(out(case, backend, {"scale": 0.25}), traced.trace["resampler"])


def test_num_queries_does_nothing_in_face_id_plus(backend: str) -> None:
    case = case_of("diffusers/faceid_plus")
    case.meta["config"]["num_queries"] = 13
    assert_close(out(case, backend), case.outputs["out"])


def test_one_timestep_serves_the_whole_batch(backend: str) -> None:
    case = case_of("diffusers/time")
    one, every = (ran(case, backend, timestep=np.full(n, 7.5)).outputs for n in (1, 2))
    assert_close(np.repeat(one["out1"], 2, 0), every["out1"])
    assert_close(one["out0"], every["out0"])


def test_a_timestep_moves_latents_and_not_tokens_norms(backend: str) -> None:
    """With maps to shifts and scales of zero nothing of the timestep is left but what is added to the tokens."""
    case = case_of("diffusers/time")
    for name in list(case.params):
        if "adaln_proj" in name:
            case.params[name] = np.zeros_like(case.params[name])
    traced = ran(case, backend).trace
    normed = ran(case, backend, timestep=case.inputs["timestep"] + 3).trace
    assert np.array_equal(traced["resampler.layers.0.latents_norm"], normed["resampler.layers.0.latents_norm"])
    assert not np.array_equal(traced["resampler.features"], normed["resampler.features"])


def test_identities_stay_as_they_were_at_every_scale(backend: str) -> None:
    case = case_of("pulid/idformer")
    tokens = case.meta["config"]["num_id_token"]
    ids = ran(case, backend).trace["maps.5"].reshape(2, tokens, -1)
    params = {n.removeprefix("layers.4.0."): a for n, a in case.params.items() if n.startswith("layers.4.0.")}
    centred = ids - ids.mean(-1, keepdims=True)
    unit = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    normed = ran(case, backend).trace["layers.4.features_norm"]
    assert_close(normed[:, :tokens], unit * params["norm1.weight"] + params["norm1.bias"])


# What is refused.

REFUSED: list[Refused] = [
    (
        "ip-adapter/resampler_pos_emb",
        {},
        None,
        {"x": normal(0, 3, 12, 8)},
        "there are 12 features, and positions for 11",
    ),
    ("ip-adapter/resampler_plain", {"dims": 3}, None, {}, "unknown option of Resampler 'dims'"),
    ("ip-adapter/resampler_plain", {"dim_head": 0}, None, {}, "dim_head must be a whole number above 0"),
    ("ip-adapter/resampler_plain", {}, None, {"x": normal(0, 2, 10)}, "x must be (batch, tokens, dim)"),
    ("ip-adapter/resampler_plain", {}, None, {"x": normal(0, 2, 3, 9)}, "features must be (batch, tokens, 10)"),
    ("ip-adapter/face_resampler", {}, None, {"latents": normal(0, 3, 4, 9)}, "latents must be (2, latents, 9)"),
    ("ip-adapter/face_resampler", {}, None, {"latents": None}, "needs the argument 'latents'"),
    ("ip-adapter/proj_plus", {"hard_coded_replacements": [["a", "b"]]}, None, {}, "unknown text of ProjPlusModel"),
    (
        "ip-adapter/proj_plus",
        {"hard_coded_replacements": [["depth=4", "x=1"]]},
        None,
        {},
        "'x=1' cannot take the place",
    ),
    ("ip-adapter/proj_plus", {"hard_coded_replacements": ["depth=4"]}, None, {}, "must hold pairs of texts"),
    ("ip-adapter/proj_plus", {}, {"shortcuts": True}, {}, "unknown option of ProjPlusModel 'shortcuts'"),
    ("diffusers/faceid_plus", {}, {"shortcut": True}, {}, "output_dims (9) equal to embed_dims (12)"),
    ("diffusers/faceid_plus", {}, None, {"clip_embeds": normal(0, 2, 6, 10)}, "(batch, images, tokens, dim)"),
    ("diffusers/faceid_plus", {}, None, {"id_embeds": normal(0, 3, 7)}, "latents must be (2, latents, 12)"),
    ("diffusers/time", {}, None, {"timestep": np.arange(3.0)}, "timestep must be (2,) or (1,), got (3,)"),
    (
        "diffusers/time",
        {"timestep_in_dim": 2, "timestep_freq_shift": 1},
        None,
        {},
        "must not be half of timestep_in_dim",
    ),
    ("pulid/attention", {"kv_dim": 7}, None, {}, "features of width 7 and latents of width 10 cannot both be keys"),
    ("pulid/idformer", {"depth": 7}, None, {}, "depth (7) must be divisible by the number of scales, 5"),
    ("pulid/idformer", {}, None, {"y.4": None}, "needs the arguments y.0 to y.4"),
    (
        "pulid/idformer",
        {"hard_coded_replacements": [["nn.Linear(1024, 1024)", "nn.Linear(8, 7)"]]},
        None,
        {},
        "features cannot be 8 and 7",
    ),
    ("xtts/resampler_mask", {}, None, {"mask": np.ones((3, 7), bool)}, "(batch, latents + tokens) = (3, 11)"),
    ("xtts/resampler_mask", {}, None, {"mask": np.ones((3, 11), int)}, "True = attend; got int64"),
]


@pytest.mark.parametrize("row", REFUSED, ids=[row[-1] for row in REFUSED])
def test_it_is_refused_in_one_line(row: Refused) -> None:
    with pytest.raises(InputError, match=re.escape(row[-1])) as raised:
        changed(row)
    assert "\n" not in str(raised.value)
