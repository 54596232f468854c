"""ip-adapter, PuLID and diffusers' image projections: what their modules were made with, read off shapes.

PuLID and IP-Adapter's ProjPlusModel have sizes as constants of their source; others than those become the
`hard_coded_replacements` of a case.
"""

from __future__ import annotations

import math
from typing import Any

from .base import Row, Unread
from .lucidrains import heads, multiple


def attention(module: Any) -> dict[str, Any]:
    """`PerceiverAttention` of IP-Adapter."""
    return {"dim": module.to_q.in_features, **heads(module)}


def wide_attention(module: Any) -> dict[str, Any]:
    """`PerceiverAttention` and `PerceiverAttentionCA` of PuLID, whose features have a width of their own."""
    return {**attention(module), "kv_dim": module.to_kv.in_features}


def layers(module: Any, width: int) -> dict[str, Any]:
    """What every resampler of these says of its layers, as wide as this; without any their options have no effect."""
    made: dict[str, Any] = {"dim": width, "depth": len(module.layers)}
    if made["depth"]:
        attend, ff = module.layers[0]
        made |= {**heads(attend), "ff_mult": multiple(ff[1].out_features, width)}
    return made


def resampler(module: Any) -> dict[str, Any]:
    """`Resampler`."""
    _, count, width = module.latents.shape
    made = {**layers(module, width), **_ends(module), "num_queries": count}
    if module.pos_emb is not None:
        made |= {"apply_pos_emb": True, "max_seq_len": module.pos_emb.num_embeddings}
    if module.to_latents_from_mean_pooled_seq is not None:
        made["num_latents_mean_pooled"] = module.to_latents_from_mean_pooled_seq[1].out_features // width
    return made


def face_resampler(module: Any) -> dict[str, Any]:
    """`FacePerceiverResampler`."""
    return {**layers(module, module.proj_in.out_features), **_ends(module)}


def projection(module: Any) -> dict[str, Any]:
    """`ProjPlusModel`."""
    inner = face_resampler(module.perceiver_resampler)
    width, ids = module.cross_attention_dim, module.proj[0].in_features
    if (inner["dim"], inner["output_dim"], module.proj[0].out_features) != (width, width, 2 * ids):
        raise Unread(f"widths that do not follow from {width} channels and embeddings of {ids}")
    made = {
        "cross_attention_dim": width,
        "id_embeddings_dim": ids,
        "clip_embeddings_dim": inner["embedding_dim"],
        "num_tokens": module.num_tokens,
    }
    usual = {"depth": ("4", 4), "dim_head": ("64", 64), "heads": ("cross_attention_dim // 64", width // 64)}
    return made | _replaced([
        [f"{name}={text}", f"{name}={_whole(inner[name])}"]
        for name, (text, value) in {**usual, "ff_mult": ("4", 4)}.items()
        if inner[name] != value
    ])  # fmt: skip


def former(module: Any) -> dict[str, Any]:
    """`IDFormer`."""
    _, count, width = module.latents.shape
    ids, features = module.id_embedding_mapping[0].in_features, module.mapping_0[0].in_features
    made = {
        **layers(module, width),
        "num_id_token": module.num_id_token,
        "num_queries": count,
        "output_dim": module.proj_out.shape[1],
    }
    usual = (ids, features) == (1280, 1024)
    return made | _replaced([] if usual else [["nn.Linear(1280, 1024)", f"nn.Linear({ids}, {features})"]])


def plus(module: Any) -> dict[str, Any]:
    """`IPAdapterPlusImageProjection` of diffusers."""
    _, count, width = module.latents.shape
    sizes = {"embed_dims": module.proj_in.in_features, "output_dims": module.proj_out.out_features}
    return {**sizes, "hidden_dims": width, "num_queries": count, **_blocks(module, width)}


def face(module: Any) -> dict[str, Any]:
    """`IPAdapterFaceIDPlusImageProjection` of diffusers."""
    width, first = module.embed_dim, module.proj.net[0].proj
    return {
        "embed_dims": width,
        "output_dims": module.proj_out.out_features,
        "hidden_dims": module.proj_in.in_features,
        "id_embeddings_dim": first.in_features,
        "num_tokens": module.num_tokens,
        "ffproj_ratio": multiple(first.out_features, first.in_features),
        **_blocks(module, width),
    }


def time(module: Any) -> dict[str, Any]:
    """`IPAdapterTimeImageProjection` of diffusers."""
    _, count, width = module.latents.shape
    steps = module.time_proj
    if steps.scale != 1:
        raise Unread(f"timesteps times {steps.scale}")
    return {
        "embed_dim": module.proj_in.in_features,
        "output_dim": module.proj_out.out_features,
        "hidden_dim": width,
        "num_queries": count,
        "timestep_in_dim": steps.num_channels,
        "timestep_flip_sin_to_cos": bool(steps.flip_sin_to_cos),
        "timestep_freq_shift": steps.downscale_freq_shift,
        **_blocks(module, width, -0.25),
    }


def _ends(module: Any) -> dict[str, int]:
    return {"embedding_dim": module.proj_in.in_features, "output_dim": module.proj_out.out_features}


def _blocks(module: Any, width: int, power: float = -0.5) -> dict[str, Any]:
    """The layers of diffusers, whose scores have the scale that this power of the heads' width gives."""
    made: dict[str, Any] = {"depth": len(module.layers)}
    if made["depth"]:
        first = module.layers[0]
        inner, count = first.attn.to_q.out_features, first.attn.heads
        if inner % count or not math.isclose(first.attn.scale, (inner // count) ** power):
            raise Unread(f"{count} heads of {inner} channels with scale {first.attn.scale}")
        ff = first.ff if power == -0.25 else first.ff[1]
        hidden = ff.net[0].proj.out_features
        made |= {"heads": count, "dim_head": inner // count, "ffn_ratio": multiple(hidden, width)}
    return made


def _whole(number: float) -> int:
    if number != int(number):
        raise Unread(f"a multiple of {number} in the place of a whole number")
    return int(number)


def _replaced(pairs: list[list[str]]) -> dict[str, Any]:
    return {"hard_coded_replacements": pairs} if pairs else {}


_ADAPTER, _FACES = "ip_adapter.resampler", ("ip_adapter_faceid", "ip_adapter_faceid_separate")
_PULID, _DIFFUSERS = "pulid.encoders_transformer", "diffusers.models.embeddings"
_SOFTMAX = frozenset({"PerceiverAttention", "PerceiverAttentionCA"})
"""Their scores are cast to float32."""
_STEPS = 1000.0
"""What timesteps are below."""
_PIP = "ip-adapter"
ROWS: dict[str, Row] = {
    f"{_ADAPTER}.PerceiverAttention": Row("ip-adapter", attention, _PIP, float32=_SOFTMAX),
    f"{_ADAPTER}.Resampler": Row("ip-adapter", resampler, _PIP, float32=_SOFTMAX),
    **{
        f"ip_adapter.{file}.{name}": Row("ip-adapter", reader, _PIP, float32=_SOFTMAX)
        for file in _FACES
        for name, reader in (("FacePerceiverResampler", face_resampler), ("ProjPlusModel", projection))
    },
    f"{_PULID}.PerceiverAttention": Row("pulid", wide_attention, "pulid", float32=_SOFTMAX),
    f"{_PULID}.PerceiverAttentionCA": Row("pulid", wide_attention, "pulid", float32=_SOFTMAX),
    f"{_PULID}.IDFormer": Row("pulid", former, "pulid", float32=_SOFTMAX),
    f"{_DIFFUSERS}.IPAdapterPlusImageProjection": Row("diffusers", plus, "diffusers"),
    f"{_DIFFUSERS}.IPAdapterFaceIDPlusImageProjection": Row(
        "diffusers", face, "diffusers", held=("clip_embeds", "shortcut", "shortcut_scale")
    ),
    f"{_DIFFUSERS}.IPAdapterTimeImageProjection": Row(
        "diffusers", time, "diffusers", float32=frozenset({"Timesteps"}), angles=lambda module: _STEPS
    ),
}
