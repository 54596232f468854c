"""The rows of resamplers and poolers in use today, on stand-ins of every case there is of them.

A stand-in has the case's parameters, the attributes that the live class has beside them, and answers with the case's
outputs: what is read off it must be the configuration with which the reference gives these, with nothing typed by hand.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from porting.cases import FILES, label
from porting.record_replays import Config, Part, replay
from porting.record_stand_in import Tensor

import perceiver_ref as pr
from perceiver_ref.porting.cases import Case, read_case
from perceiver_ref.porting.record.recognise import rows

Made = dict[str, dict[str, Any]]


def named(name: str, **attributes: Any) -> Any:
    """A part of a class of this name, without parameters."""
    part = type(name, (Part,), {})()
    vars(part).update(attributes)
    return part


def attention(c: Config, heads: int = 8, width: int = 64) -> dict[str, Any]:
    wide = c.get("dim_head", width)
    return {"heads": c.get("heads", heads), "dim_head": wide, "scale": wide**-0.5}


def replaced(c: Config) -> dict[str, int]:
    """The constants of a class that its case has others of."""
    pairs = [new.partition("=") for _, new in c["hard_coded_replacements"]]
    return {name: int(value) for name, sign, value in pairs if sign}


def adapter(c: Config) -> Made:
    made: Made = {"layers.?.0": attention(c, 16)}
    absent = {"pos_emb": c.get("apply_pos_emb"), "to_latents_from_mean_pooled_seq": c.get("num_latents_mean_pooled")}
    return made | {"": {name: None for name, there in absent.items() if not there}}


def projection(c: Config) -> Made:
    own = {name: c[name] for name in ("cross_attention_dim", "num_tokens")}
    return {"": own, "perceiver_resampler.layers.?.0": attention(replaced(c))}


def blocks(c: Config, power: float = -0.5) -> Made:
    return {"layers.?.attn": {"heads": c["heads"], "scale": c["dim_head"] ** power}}


def face(c: Config) -> Made:
    return {**blocks(c), "": {"embed_dim": c["embed_dims"], "num_tokens": c["num_tokens"]}}


def time(c: Config) -> Made:
    names = {"timestep_in_dim": "num_channels", "timestep_flip_sin_to_cos": "flip_sin_to_cos"}
    names |= {"timestep_freq_shift": "downscale_freq_shift"}
    steps = {ours: c[theirs] for theirs, ours in names.items()}
    return {**blocks(c, -0.25), "": {"time_proj": named("Timesteps", scale=1, **steps)}}


def pool(c: Config) -> Made:
    eps = {None: 1e-5, "torch.nn.LayerNorm": 1e-5}.get(c.get("norm_layer"), 1e-6)
    own: dict[str, Any] = {"num_heads": c["num_heads"], "pool": c.get("pool_type", "token"), "fused_attn": True}
    parts = {"q": c.get("q_proj", True), "q_norm": c.get("qk_norm"), "k_norm": c.get("qk_norm")}
    parts["norm"] = c.get("norm_layer") and c.get("out_features") != 0
    own |= {name: named("Identity") for name, there in parts.items() if not there}
    own |= {} if c.get("pos_embed") else {"pos_embed": None}
    own |= {"mlp": None} if c.get("out_features") == 0 else {}
    norm = {"eps": eps, "class": (c.get("norm_layer") or "LayerNorm").rpartition(".")[2]}
    made: Made = {"q_norm": norm, "k_norm": norm, "norm": norm, "": own}
    return made | {"mlp": {"act": named("GELU", approximate="tanh" if c.get("act_layer") == "gelu_tanh" else "none")}}


def attentional(c: Config) -> Made:
    eps = {"eps": c.get("norm_eps", 1e-5)}
    return {"attn": {"num_heads": c["n_head"]}, "ln_q": eps, "ln_k": eps}


def siglip(c: Config) -> Made:
    act = c.get("hidden_act", "gelu_pytorch_tanh")
    made: Made = {
        "attention": {"num_heads": c["num_attention_heads"]},
        "mlp": {"config": SimpleNamespace(hidden_act=act)},
    }
    return made | {"layernorm": {"eps": c.get("layer_norm_eps", 1e-6)}}


def kosmos(c: Config) -> Made:
    config = SimpleNamespace(_attn_implementation=c["attn_implementation"])
    return {"x_attn": {"num_heads": c["text_config"]["attention_heads"], "config": config}}


def aria(c: Config) -> Made:
    table = {int(n): count for n, count in c["projector_patch_to_query_dict"].items()}
    heads = {"num_heads": c["vision_config"]["num_attention_heads"]}
    return {"": {"patch_to_query_dict": table}, "cross_attn.multihead_attn": heads}


def edgetam(c: Config) -> Made:
    sizes = {name.removeprefix("perceiver_resampler_"): value for name, value in c.items()}
    config = SimpleNamespace(**c, _attn_implementation=c.get("attn_implementation", "sdpa"))
    own = {"num_latents_1d": sizes["num_latents"], "num_latents_2d": sizes["num_latents_2d"], "config": config}
    heads = {"num_attention_heads": sizes["num_attention_heads"], "head_dim": sizes["attention_head_dim"]}
    return {"": own, "layers.?.cross_attention": heads}


def speech(c: Config) -> Made:
    attend = named("Attend", causal=False, use_flash=c.get("use_flash_attn", False))
    own = {} if "dim_context" in c and c["dim_context"] != c["dim"] else {"proj_context": named("Identity")}
    layer = {**attention(c), "attend": attend, "cross_attn_include_queries": True}
    return {"": own, "layers.?.0": layer, "layers.?.1": {"1": named("GEGLU")}}


def block(c: Config) -> Made:
    wide = c.get("num_head_channels", -1)
    heads = c.get("num_heads", 1) if wide == -1 else c["channels"] // wide
    scale = c.get("scale") or (c["channels"] // heads) ** -0.5
    inner = named("AttentionQKV", flash=c.get("flash_attention", True), scale=scale, dropout_rate=0.2)
    own: dict[str, Any] = {"num_heads": heads, "channels": c["channels"], "attention": inner}
    return {"": own | ({} if c.get("relative_pos_embeddings") else {"relative_pos_embeddings": None})}


def perceiver(c: Config) -> Made:
    return {"attn": block({"channels": c["embedding_dim"], "num_heads": c["num_attn_heads"]})[""]}


def minicpmv(c: Config) -> Made:
    eps, own = {"eps": 1e-6}, {name: c[name] for name in ("max_size", "max_temporal_size") if name in c}
    if "grid_size" in c:
        own["adaptive"] = c.get("adaptive", False)
    if c.get("kv_dim") in (None, c["embed_dim"]):
        own["kv_proj"] = named("Identity")
    return {"": own, "attn": {"num_heads": c["num_heads"]}, "ln_*": eps}


def autoencoder(c: Config) -> Made:
    own = {name: c[name] for name in ("num_inputs", "num_latents")}
    own |= {} if c.get("decoder_ff") else {"decoder_ff": None}
    own |= {"to_outputs": named("Identity")} if c["output_dim"] is None else {}
    return {"": own, "point_embed": {"embedding_dim": 48}, "layers.?.0.fn": attention(c)}


def vecset(c: Config) -> Made:
    own = {name: c[name] for name in ("num_inputs", "num_latents", "query_type")}
    heads = {"heads": c["dim"] // c["dim_head"], "scale": c["dim_head"] ** -0.5}
    inner = {"kl_weight": c["bottleneck_args"].get("kl_weight"), "class": c["bottleneck"]}
    own |= {} if c["bottleneck_args"] else {"bottleneck": named("Bottleneck")}
    return {"": own, "point_embed": {"embedding_dim": 48}, "decoder_cross_attn.fn": heads, "bottleneck": inner}


def aurora(c: Config) -> Made:
    layer = {"head_dim": c["head_dim"], "num_heads": c["num_heads"], "use_fp16_safe_attention": False}
    plain = {} if c.get("ln_k_q") else {"ln_k": len}
    norms = {"eps": c.get("ln_eps", 1e-5)}
    nets = {"3": named("Dropout", p=0.0)}
    made: Made = {"": {"residual_latent": c.get("residual_latent", True)}, "layers.?.0": layer | plain}
    return made | {"layers.?.[23]": norms, "layers.?.1.net": nets}


def perceiver_ar(c: Config) -> Made:
    own = {name: c[name] for name in ("max_seq_len", "cross_attn_seq_len")}
    layer, dropout = attention(c), {"3": named("Dropout", p=0.0)}
    cross = {**layer, "max_heads_process": 2, "cross_attn_dropout": 0.0}
    made: Made = {"": own, "layers.?.0": layer, "perceive_layers.?.0": cross}
    return made | {"layers.?.1": dropout, "perceive_layers.?.1": dropout}


def nemo(c: Config) -> Made:
    bridge = c.get("hidden_init_method") == "bridge"
    own = {"hidden_steps": c["hidden_steps"], "hidden_init_method": "bridge" if bridge else "params"}
    act = SimpleNamespace(__name__=c.get("hidden_act", "relu"))
    drop = {name: named("Dropout", p=0.0) for name in ("attn_dropout", "layer_dropout")}
    heads = {"hidden_size": c["hidden_size"], "num_attention_heads": c["num_attention_heads"], **drop}
    decoder = {"diagonal": 0 if c.get("mask_future") else None} | (
        {} if c.get("pre_ln") else {"final_layer_norm": None}
    )
    made: Made = {"": own, "*.layers.?": {"pre_ln": c.get("pre_ln", False)}, "*.first_sub_layer": heads}
    made |= {"*.third_sub_layer": {"act_fn": act, **drop}, "init_cross_att": decoder, "cross_att_layers.?": decoder}
    return made | {"att_bridge": {"hidden_size": c["hidden_size"], "bridge_size": c["inner_size"]}}


ATTRIBUTES: dict[str, Any] = {
    "ip_adapter.resampler.PerceiverAttention": lambda c: {"": attention(c)},
    "Resampler": adapter,
    "FacePerceiverResampler": adapter,
    "ProjPlusModel": projection,
    "pulid.encoders_transformer.PerceiverAttention": lambda c: {"": attention(c)},
    "PerceiverAttentionCA": lambda c: {"": attention(c)},
    "IDFormer": lambda c: {"layers.?.0": attention(c), "": {"num_id_token": c["num_id_token"]}},
    "IPAdapterPlusImageProjection": blocks,
    "IPAdapterFaceIDPlusImageProjection": face,
    "IPAdapterTimeImageProjection": time,
    "AttentionPoolLatent": pool,
    "AttentionalPooler": attentional,
    "SiglipMultiheadAttentionPoolingHead": siglip,
    "Siglip2MultiheadAttentionPoolingHead": siglip,
    "Kosmos2ImageToTextProjection": kosmos,
    "Kosmos2_5ImageToTextProjection": kosmos,
    "AriaProjector": aria,
    "EdgeTamVideoPerceiverResampler": edgetam,
    "TTS.tts.layers.xtts.perceiver_encoder.PerceiverResampler": speech,
    "naturalspeech2_pytorch.naturalspeech2_pytorch.PerceiverResampler": speech,
    "AttentionBlock2": block,
    "chatterbox.models.t3.modules.perceiver.Perceiver": perceiver,
    "Resampler2": minicpmv,
    "Resampler2_5": minicpmv,
    "Resampler4_5": minicpmv,
    "AutoEncoder": autoencoder,
    "KLAutoEncoder": autoencoder,
    "models_ae.Attention": lambda c: {"": attention(c)},
    "PointEmbed": lambda c: {"": {"embedding_dim": c["hidden_dim"]}},
    "VecSetAutoEncoder": vecset,
    "aurora.model.perceiver.PerceiverResampler": aurora,
    "PerceiverAR": perceiver_ar,
    "PerceiverEncoder": nemo,
}
"""By class path, or its last name where one class has it."""
ROWS = dict(rows())


def attributes_of(path: str) -> Any:
    return ATTRIBUTES.get(path, ATTRIBUTES.get(path.rpartition(".")[2]))


PEERS = {
    *(
        "ip-adapter",
        "diffusers",
        "pulid",
        "timm",
        "open-clip",
        "siglip",
        "xtts",
        "naturalspeech2",
        "chatterbox",
        "kosmos2",
    ),
    *("aria", "minicpmv", "shape2vecset", "edgetam", "aurora", "perceiver-ar-pytorch", "nemo"),
}
PATHS = {path: read_case(path).meta for path in FILES if path.parent.name in PEERS}
CASES = [path for path, meta in PATHS.items() if not dict(meta.get("call") or {}).get("method")]
"""But of other methods than forward, which are no calls of a module."""


def chance(case: Case) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """The calls of parts in which sampled points and noise are seen."""
    calls = []
    if "fps_index" in case.inputs:
        index = np.asarray(case.inputs["fps_index"])[..., None]
        samples = np.take_along_axis(case.inputs["pc"], index, 1)
        calls.append(("point_embed", samples, samples))
    if "noise" in case.inputs:
        noise, prefix = case.inputs["noise"], "" if "mean_fc.weight" in case.params else "bottleneck."
        calls += [(f"{prefix}{name}", noise, np.zeros_like(noise)) for name in ("mean_fc", "logvar_fc")]
        calls.append((f"{prefix}proj", noise, noise))
    return calls


@pytest.mark.parametrize("path", CASES, ids=label)
def test_what_is_read_off_a_module_gives_its_outputs(tmp_path: Path, path: Path) -> None:
    case = read_case(path)
    cls, call = case.meta["class"], dict(case.meta["call"])
    module = replay(case, cls, attributes_of(cls)(case.meta["config"]), chance(case))
    arguments: dict[str, Any] = {name: Tensor(np.asarray(a)) for name, a in case.inputs.items()}
    if scales := [arguments.pop(name) for name in sorted(arguments) if name.startswith("y.")]:
        arguments["y"] = scales
    for name in ("fps_index", "noise"):
        arguments.pop(name, None)
    if "fused_attn" in call:
        module.fused_attn = call.pop("fused_attn")
    held = ROWS[cls].held
    for name in held:
        default = {"shortcut": False, "shortcut_scale": 1.0}.get(name)
        setattr(module, name, arguments.pop(name, call.pop(name, default)))
    before = {name: getattr(module, name) for name in held}
    with pr.record(module, tmp_path / "case.npz", points=()):
        module(**arguments, **call)
    recorded = read_case(tmp_path / "case.npz")
    assert recorded.meta["peer"] == case.meta["peer"], recorded.meta["notes"]
    assert sorted(recorded.inputs) == sorted(case.inputs)
    result = pr.crosscheck.check_file(tmp_path / "case.npz")
    assert result.status == "pass", (result.message, result.worst, recorded.meta)
    assert {a.kind for a in result.agreements} >= {"output"}
    assert all(getattr(module, name) is value for name, value in before.items())


def test_every_class_has_a_case_here() -> None:
    reached = {PATHS[path]["class"] for path in CASES}
    elsewhere = {"ip_adapter.ip_adapter_faceid_separate", "vecset.models.utils", "transformers_modules.resampler"}
    paths = {path for path, row in ROWS.items() if row.peer in PEERS and path.rpartition(".")[0] not in elsewhere}
    assert paths - reached == {"vllm.model_executor.models.minicpmv.Resampler2"}  # another place of the same class
