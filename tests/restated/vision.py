"""IP-Adapter, diffusers, PuLID, timm, open_clip, SigLIP."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from restated.basics import (
    LOWEST,
    Array,
    Given,
    Model,
    Outputs,
    attention,
    gelu,
    gelu_tanh,
    layer_norm,
    masked,
    merge,
    silu,
    softmax,
    split,
)


def latents_attend(g: Given, name: str, x: Array, z: Array, heads: int, *, in_keys: bool = True) -> Array:
    """IP-Adapter's attention: keys from the normed features and the normed latents."""
    eps = 1e-6 if g.has("epsilon 1e-6") else 1e-5
    t, q = g.norm(f"{name}norm1", x, eps), g.norm(f"{name}norm2", z, eps)
    own = {"un-normed latents among the keys": z}.get(g.mistake, q)
    if g.has("latents among the keys with the features' norm"):
        own = g.norm(f"{name}norm1", z, eps)
    both = np.concatenate([t, own], -2) if in_keys and not g.has("latents left out of the keys") else t
    if g.has("latents before the features among the keys"):
        both = np.concatenate([own, t], -2)
    k, v = np.split(g.linear(f"{name}to_kv", both), 2, -1)
    if g.has("values before keys"):
        k, v = v, k
    if g.has("weights of latents zero"):
        v = v * (np.arange(v.shape[-2]) < t.shape[-2])[:, None]
    wide = g.has("heads split width first")
    scale = 1.0 if g.has("no scale") else None
    return g.linear(f"{name}to_out", attention(g.linear(f"{name}to_q", q), k, v, heads, scale=scale, width_first=wide))


def feed(g: Given, name: str, x: Array) -> Array:
    """Norm, map, GELU, map."""
    eps = 1e-6 if g.has("epsilon 1e-6") else 1e-5
    return g.linear(f"{name}3", g.gelu(g.linear(f"{name}1", g.norm(f"{name}0", x, eps))))


def alone(g: Given) -> Outputs:
    """PerceiverAttention, PerceiverAttentionCA."""
    in_keys = "latents_in_keys" not in g.call
    return {"out": latents_attend(g, "", g.x["x"], g.x["latents"], g.config["heads"], in_keys=in_keys)}


def cross_alone(g: Given) -> Outputs:
    """PuLID's attention to the features alone."""
    return alone(replace(g, call={**g.call, "latents_in_keys": False}))


def resampled(g: Given, p: str, x: Array, z: Array, depth: int, heads: int) -> Array:
    """proj_in is done; the layers, proj_out and norm_out."""
    for i in range(depth):
        z = z + latents_attend(g, f"{p}layers.{i}.0.", x, z, heads)
        z = z + feed(g, f"{p}layers.{i}.1.", z)
    eps = 1e-6 if g.has("epsilon 1e-6") else 1e-5
    if g.has("the last norm before the last map"):
        return g.linear(f"{p}proj_out", g.norm(f"{p}norm_out", z, eps))
    if g.has("a plain norm before the last map, none after it"):
        return g.linear(f"{p}proj_out", layer_norm(z, eps))
    return g.norm(f"{p}norm_out", g.linear(f"{p}proj_out", z), eps)


def resampler(g: Given) -> Outputs:
    """IP-Adapter's Resampler."""
    x, c = g.x["x"], g.config
    if c.get("apply_pos_emb"):
        n, table = x.shape[1], g.p["pos_emb.weight"]
        rows = {"positions one later": table[1 : n + 1], "positions in reverse": table[:n][::-1]}
        x = x + rows.get(g.mistake, table[:n])
    x = g.linear("proj_in", x)
    z = np.broadcast_to(g.p["latents"], (len(x), *g.p["latents"].shape[1:]))
    if pooled := c.get("num_latents_mean_pooled", 0):
        mean = g.norm("to_latents_from_mean_pooled_seq.0", x.mean(1))
        rows = g.linear("to_latents_from_mean_pooled_seq.1", mean).reshape(len(x), pooled, -1)
        z = np.concatenate([z, rows] if g.has("pooled latents last") else [rows, z], 1)
    return {"out": resampled(g, "", x, z, c["depth"], c["heads"])}


def face(g: Given) -> Outputs:
    """FacePerceiverResampler."""
    x = g.linear("proj_in", g.x["x"])
    return {"out": resampled(g, "", x, g.x["latents"], g.config["depth"], g.config["heads"])}


def projection(g: Given) -> Outputs:
    """ProjPlusModel."""
    said = dict(pair[1].split("=") for pair in g.config["hard_coded_replacements"])
    depth, heads = int(said["depth"]), int(said["heads"])
    e = g.linear("proj.2", g.gelu(g.linear("proj.0", g.x["id_embeds"])))
    e = g.norm("norm", e.reshape(-1, g.config["num_tokens"], g.config["cross_attention_dim"]))
    p = "perceiver_resampler."
    r = resampled(g, p, g.linear(f"{p}proj_in", g.x["clip_embeds"]), e, depth, heads)
    return {"out": e + g.call["scale"] * r if g.call.get("shortcut") else r}


def time_resampler(g: Given) -> Outputs:
    """diffusers' IPAdapterTimeImageProjection."""
    c, x = g.config, g.x["x"]
    half = c["timestep_in_dim"] // 2
    shift = c["timestep_freq_shift"] if not g.has("the other frequency shift") else 1 - c["timestep_freq_shift"]
    angles = g.x["timestep"][:, None] * np.exp(-np.log(10000) * np.arange(half) / (half - shift))
    first = bool(c["timestep_flip_sin_to_cos"]) != g.has("sines and cosines exchanged")
    parts = [np.cos(angles), np.sin(angles)] if first else [np.sin(angles), np.cos(angles)]
    e = np.concatenate([*parts, np.zeros((len(angles), c["timestep_in_dim"] % 2))], -1)
    e = g.linear("time_embedding.linear_2", silu(g.linear("time_embedding.linear_1", e)))
    x = g.linear("proj_in", x) + e[:, None]
    z = np.broadcast_to(g.p["latents"], (len(x), *g.p["latents"].shape[1:]))
    for i in range(c["depth"]):
        p = f"layers.{i}."
        moved = np.split(g.linear(f"{p}adaln_proj", silu(e))[:, None], 4, -1)
        shift1, scale1, shift2, scale2 = moved
        if g.has("chunks read as scale, shift"):
            scale1, shift1, scale2, shift2 = moved
        t, n = g.norm(f"{p}ln0", x), g.norm(f"{p}ln1", z) * (1 + scale1) + shift1
        k, v = np.split(g.linear(f"{p}attn.to_kv", np.concatenate([t, n], 1)), 2, -1)
        z = z + g.linear(f"{p}attn.to_out.0", attention(g.linear(f"{p}attn.to_q", n), k, v, c["heads"]))
        h = g.norm(f"{p}adaln_norm", z) * (1 + scale2) + shift2
        z = z + g.linear(f"{p}ff.net.2", g.gelu(g.linear(f"{p}ff.net.0.proj", h)))
    return {"out0": g.norm("norm_out", g.linear("proj_out", z)), "out1": e}


def id_former(g: Given) -> Outputs:
    """PuLID's IDFormer."""
    c = g.config
    activation: Any = lambda x: np.where(x > 0, x, 0.01 * x)  # noqa: E731
    activation = {"ReLU in the maps": lambda x: np.maximum(x, 0), "GELU in the maps": gelu}.get(g.mistake, activation)

    def mapped(name: str, x: Array) -> Array:
        for i in (0, 3):
            x = activation(g.norm(f"{name}.{i + 1}", g.linear(f"{name}.{i}", x)))
        return g.linear(f"{name}.6", x)

    x = g.x["x"]
    ids = mapped("id_embedding_mapping", x).reshape(len(x), -1, c["dim"])
    z = np.concatenate([np.broadcast_to(g.p["latents"], (len(x), *g.p["latents"].shape[1:])), ids], 1)
    per = c["depth"] // 5
    for s in range(5):
        kept = z[:, c["num_queries"] :] if g.has("updated identities in the context") else ids
        y = mapped(f"mapping_{s}", g.x[f"y.{s}"])
        context = y if g.has("identities left out of the context") else np.concatenate([kept, y], 1)
        for i in range(s * per, (s + 1) * per):
            z = z + latents_attend(g, f"layers.{i}.0.", context, z, c["heads"])
            z = z + feed(g, f"layers.{i}.1.", z)
    n = c["num_queries"]
    return {"out": (z[:, -n:] if g.has("the last latents returned") else z[:, :n]) @ g.p["proj_out"]}


def timm_pool(g: Given) -> Outputs:
    """AttentionPoolLatent."""
    c, p, x = g.config, g.p, g.x["x"]
    heads, latents = c["num_heads"], p["latent"][0]
    kind = c.get("norm_layer")
    eps = {None: 1e-5, "torch.nn.LayerNorm": 1e-5}.get(kind, 1e-6)
    eps = {1e-5: 1e-6, 1e-6: 1e-5}[eps] if g.has("the other epsilon") else eps

    def normed(name: str, x: Array) -> Array:
        if kind == "timm.layers.RmsNorm":
            return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * p[f"{name}.weight"]
        return g.norm(name, x, eps)

    if c.get("pos_embed"):
        x = x + p["pos_embed"]
    q = latents if c.get("q_proj") is False else g.linear("q", latents)
    k, v = np.split(g.linear("kv", x), 2, -1)
    q, k, v = (split(np.broadcast_to(a, (len(x), *a.shape[-2:])), heads) for a in (q, k, v))
    if c.get("qk_norm"):
        q, k = normed("q_norm", q), normed("k_norm", k)
    mask, fused = g.x.get("attn_mask"), g.call.get("fused_attn", True) != g.has("the other attention's rule of masks")
    added: Any = 0.0
    if mask is not None:
        mask = ~mask if g.has("True taken for padding") else mask
        lowest = LOWEST if g.has("empty row uniform") else -np.inf
        added = masked(mask, lowest) if fused and mask.dtype == bool else mask.astype(np.float64)
    y = merge(softmax(q @ np.swapaxes(k, -1, -2) / np.sqrt(q.shape[-1]) + added) @ v)
    if c.get("out_features") != 0:
        y = g.linear("proj", y)
        h = g.linear("mlp.fc1", normed("norm", y) if kind else y)
        form = {"gelu": gelu, "gelu_tanh": gelu_tanh}
        name = c.get("act_layer", "gelu")
        name = {"gelu": "gelu_tanh", "gelu_tanh": "gelu"}[name] if g.has("the other GELU") else name
        made = g.linear("mlp.fc2", form[name](h))
        y = y + (form[name](made) if g.has("the activation once more") else made)
    return {"out": {"token": lambda: y[:, 0], "avg": lambda: y.mean(1), "": lambda: y}[c.get("pool_type", "token")]()}


_ORDERS = {"keys, queries, values": (1, 0, 2), "values, keys, queries": (2, 1, 0), "keys, values, queries": (2, 0, 1)}


def _cut(rows: Array, axes: tuple[int, ...]) -> Array:
    """Rows of all three maps, laid out along these axes, as (3, h d, ...)."""
    seen = rows.reshape(*axes, *rows.shape[1:])
    return np.moveaxis(seen, axes.index(3), 0).reshape(3, -1, *rows.shape[1:])


def triple(g: Given, name: str, q: Array, x: Array, heads: int, added: Array = 0.0, keys: Array = None) -> Array:
    """`torch.nn.MultiheadAttention` without its output map."""
    if f"{name}.in_proj_weight" in g.p:
        ws = np.split(g.p[f"{name}.in_proj_weight"], 3)
    else:
        ws = [g.p[f"{name}.{letter}_proj_weight"] for letter in "qkv"]
    given = (q, x if keys is None else keys, x)
    bs = np.split(g.p[f"{name}.in_proj_bias"], 3)
    if g.mistake in _ORDERS:
        ws, bs = ([part[i] for i in _ORDERS[g.mistake]] for part in (ws, bs))
    if g.has("(h 3 d)", "(h d 3)"):
        axes = (heads, 3, -1) if g.has("(h 3 d)") else (heads, -1, 3)
        ws, bs = (list(_cut(np.concatenate(part), axes)) for part in (ws, bs))
    parts = [a @ w.T + b for a, w, b in zip(given, ws, bs)]
    return attention(*parts, heads, added=added)


def clip_pool(g: Given) -> Outputs:
    """open_clip's AttentionalPooler."""
    eps = g.config.get("norm_eps", 1e-5)
    if g.has("the norm of queries for tokens"):
        g = replace(g, p={**g.p, **{f"ln_k.{kind}": g.p[f"ln_q.{kind}"] for kind in ("weight", "bias")}})
    q = g.p["query"] if g.has("queries un-normed") else g.norm("ln_q", g.p["query"], eps)
    x = g.x["x"] if g.has("tokens un-normed") else g.norm("ln_k", g.x["x"], eps)
    raw = g.x["x"] if g.has("keys of un-normed tokens", "values of un-normed tokens") else x
    keys, values = (raw, x) if g.has("keys of un-normed tokens") else (x, raw)
    y = triple(g, "attn", np.broadcast_to(q, (len(x), *q.shape)), values, g.config["n_head"], keys=keys)
    return {"out": g.linear("attn.out_proj", y)}


def siglip(g: Given) -> Outputs:
    """The pooling heads of SigLIP and SigLIP 2."""
    c, x, probe = g.config, g.x["hidden_state"], g.p["probe"]
    mask = g.x.get("attention_mask")
    mask = None if mask is None else mask == 0 if g.has("1 taken for padding") else mask != 0
    added = 0.0 if mask is None else masked(mask, -np.inf if g.has("empty row zero") else LOWEST)[:, None, None]
    y = triple(g, "attention", np.broadcast_to(probe, (len(x), *probe.shape[1:])), x, c["num_attention_heads"], added)
    y = g.linear("attention.out_proj", y)
    if g.has("a residual to the probe"):
        y = y + probe
    exact = (c.get("hidden_act") == "gelu") != g.has("the other GELU")
    h = g.linear("mlp.fc1", g.norm("layernorm", y, c.get("layer_norm_eps", 1e-6)))
    return {"out": (y + g.linear("mlp.fc2", (gelu if exact else gelu_tanh)(h)))[:, 0]}


def embedded(g: Given, p: str, x: Array) -> Array:
    """PointEmbed."""
    basis = g.p[f"{p}basis"]
    m = basis.shape[1] // 3
    if g.has("pi in float64"):
        basis = np.kron(np.eye(3), np.pi * 2.0 ** np.arange(m))
    if g.has("columns of a frequency together"):
        basis = basis.reshape(3, 3, m).swapaxes(1, 2).reshape(3, -1)
    s, c = np.sin(x @ basis), np.cos(x @ basis)
    if g.has("sines and cosines in turn"):
        s, c = np.split(np.stack([s, c], -1).reshape(*s.shape[:-1], -1), 2, -1)
    return g.linear(f"{p}mlp", np.concatenate([x, s, c] if g.has("the point first") else [s, c, x], -1))


def set_attention(g: Given, p: str, q: Array, x: Array, heads: int, added: Array = 0.0) -> Array:
    """Attention with keys and values in one map."""
    k, v = np.split(g.linear(f"{p}to_kv", x), 2, -1)
    return g.linear(f"{p}to_out", attention(g.linear(f"{p}to_q", q), k, v, heads, added=added))


def gated(g: Given, p: str, x: Array) -> Array:
    """A norm and GEGLU, whose second half is the gate."""
    u, gate = np.split(g.linear(f"{p}.fn.net.0", g.norm(f"{p}.norm", x)), 2, -1)
    if g.has("the gate first"):
        u, gate = gate, u
    return g.linear(f"{p}.fn.net.2", u * gelu(gate))


def crossed(g: Given, p: str, q: Array, x: Array, heads: int) -> Array:
    """Attention to a context, which is normed where it has a norm."""
    if f"{p}.norm_context.weight" in g.p:
        x = x if g.has("context un-normed") else g.norm(f"{p}.norm_context", x)
    elif g.has("a norm of the context"):
        x = layer_norm(x)
    return set_attention(g, f"{p}.fn.", g.norm(f"{p}.norm", q), x, heads)


def point_embed(g: Given) -> Outputs:
    """PointEmbed."""
    return {"out": embedded(g, "", g.x["input"])}


def set_auto_encoder(g: Given) -> Outputs:
    """AutoEncoder, KLAutoEncoder, VecSetAutoEncoder, from points to values."""
    c, p = g.config, g.p
    heads = c["dim"] // c["dim_head"] if "query_type" in c else c["heads"]
    cross_heads = heads if "query_type" in c else 1
    points, start = embedded(g, "point_embed.", g.x["pc"]), p.get("latents.weight")
    if start is None:
        rows = np.take_along_axis(g.x["pc"], g.x["fps_index"][..., None], 1)
        x = embedded(g, "point_embed.", rows)
    else:
        x = np.broadcast_to(start, (len(points), *start.shape))
    x = x + crossed(g, "cross_attend_blocks.0", x, points, cross_heads)
    x = x + gated(g, "cross_attend_blocks.1", x)
    out: Outputs = {}
    b = "bottleneck." if "query_type" in c else ""
    if f"{b}mean_fc.weight" in p:
        mean, v = g.linear(f"{b}mean_fc", x), np.clip(g.linear(f"{b}logvar_fc", x), -30, 20)
        z = mean + np.exp(v / 2) * g.x["noise"]
        apart = (mean**2 + np.exp(v) - 1 - v).reshape(len(x), -1)
        kl = (apart.sum(1) if g.has("the divergence summed") else apart.mean(1)) / 2
        out["kl"] = kl * c.get("bottleneck_args", {}).get("kl_weight", 1.0)
        x = g.linear(f"{b}proj", z)
    elif f"{b}gamma" in p:
        z = layer_norm(g.linear(f"{b}pre_bottleneck_proj", x), 1e-6)
        x = g.linear(f"{b}post_bottleneck_proj", z * p[f"{b}gamma"] + p[f"{b}beta"])
    else:
        z = x
    if start is not None and not g.has("learned queries not added again"):
        x = x + start
    for i in range(c["depth"]):
        n = g.norm(f"layers.{i}.0.norm", x)
        x = x + set_attention(g, f"layers.{i}.0.fn.", n, n, heads)
        x = x + gated(g, f"layers.{i}.1", x)
    q = embedded(g, "point_embed.", g.x["queries"])
    y = crossed(g, "decoder_cross_attn", q, x, cross_heads)
    if g.has("a residual around the decoder's attention"):
        y = y + q
    if c.get("decoder_ff"):
        y = y + gated(g, "decoder_ff", y)
    if "query_type" in c:
        y = g.linear("to_outputs.1", g.norm("to_outputs.0", y))
        out["x"] = z
    else:
        y = g.linear("to_outputs", y)
    out["o" if "query_type" in c else "logits"] = y[..., 0] if y.shape[-1] == 1 else y
    return out


MODELS: dict[str, Model] = {
    "ip-adapter/PerceiverAttention": alone,
    "ip-adapter/Resampler": resampler,
    "ip-adapter/FacePerceiverResampler": face,
    "ip-adapter/ProjPlusModel": projection,
    "diffusers/IPAdapterTimeImageProjection": time_resampler,
    "pulid/PerceiverAttention": alone,
    "pulid/PerceiverAttentionCA": cross_alone,
    "pulid/IDFormer": id_former,
    "timm/AttentionPoolLatent": timm_pool,
    "open-clip/AttentionalPooler": clip_pool,
    "siglip/SiglipMultiheadAttentionPoolingHead": siglip,
    "siglip/Siglip2MultiheadAttentionPoolingHead": siglip,
    "shape2vecset/PointEmbed": point_embed,
    "shape2vecset/AutoEncoder": set_auto_encoder,
    "shape2vecset/KLAutoEncoder": set_auto_encoder,
    "shape2vecset/VecSetAutoEncoder": set_auto_encoder,
}
