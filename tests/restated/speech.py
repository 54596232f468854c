"""XTTS, Chatterbox, EdgeTAM, Aurora, perceiver-ar-pytorch, NeMo."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.special import logsumexp

from restated.basics import (
    LOWEST,
    Array,
    Given,
    Model,
    Outputs,
    attention,
    gelu,
    layer_norm,
    masked,
    merge,
    softmax,
    split,
    weights,
)


def xtts(g: Given) -> Outputs:
    """XTTS's and naturalspeech2's PerceiverResampler."""
    c, x = g.config, g.x["x"]
    z = np.broadcast_to(g.p["latents"], (len(x), *g.p["latents"].shape))
    if "proj_context.weight" in g.p:
        x = g.linear("proj_context", x)
    n, mask = z.shape[1], g.x.get("mask")
    added: Any = 0.0
    if mask is not None:
        if g.has("mask of the context first"):
            mask = np.concatenate([mask[:, x.shape[1] :], mask[:, : x.shape[1]]], 1)
        if g.has("mask given with the context first"):
            mask = np.concatenate([mask[:, n:], mask[:, :n]], 1)
        zeros = c.get("use_flash_attn", False) != g.has("fully masked rows the other way")
        added = masked(mask, -np.inf if zeros else LOWEST)[:, None, None]
    for i in range(c["depth"]):
        a = layer_norm(z) if g.has("latents normed before attention") else z
        both = np.concatenate([a, x], 1)
        if g.has("latents left out of the keys"):
            both, added = x, added if np.ndim(added) == 0 else added[..., -x.shape[1] :]
        k, v = np.split(g.linear(f"layers.{i}.0.to_kv", both), 2, -1)
        y = attention(g.linear(f"layers.{i}.0.to_q", a), k, v, c["heads"], added=added)
        z = z + g.linear(f"layers.{i}.0.to_out", y)
        u, gate = np.split(g.linear(f"layers.{i}.1.0", z), 2, -1)
        if g.has("the gate first"):
            u, gate = gate, u
        z = z + g.linear(f"layers.{i}.1.2", u * g.gelu(gate))
    assert z.shape[1] == n
    if g.has("mean square with epsilon 1e-5"):
        return {"out": z / np.sqrt((z**2).mean(-1, keepdims=True) + 1e-5) * g.p["norm.gamma"]}
    length = np.maximum(np.sqrt((z**2).sum(-1, keepdims=True)), 1e-12)
    return {"out": z / length * np.sqrt(z.shape[-1]) * g.p["norm.gamma"]}


def block(g: Given, p: str, x1: Array, x2: Array, heads: int, flash: bool, scale: float | None, mask: Any) -> Array:
    """Chatterbox's AttentionBlock2."""
    n1, n2 = g.norm(f"{p}norm", x1), x2 if g.has("context not normalised") else g.norm(f"{p}norm", x2)
    q, k, v = (split(g.linear(f"{p}to_{name}", x), heads) for name, x in (("q", n1), ("k", n2), ("v", n2)))
    added = 0.0 if mask is None else masked(mask != 0) if mask.dtype.kind != "f" else mask
    if flash or g.has("attention over positions"):
        used = scale if g.has("the scale argument used") else None
        o = weights(q, k, added=added if flash else 0.0, scale=used) @ v
    else:
        s = np.swapaxes(q, -1, -2) @ k * (q.shape[-1] ** -0.5 if scale is None else scale)
        o = v @ np.swapaxes(softmax(s + added), -1, -2)
    return x1 + g.linear(f"{p}proj_out", merge(o))


def attention_block(g: Given) -> Outputs:
    """AttentionBlock2 alone."""
    c = g.config
    heads = c["channels"] // c["num_head_channels"] if "num_head_channels" in c else c["num_heads"]
    flash = c.get("flash_attention", True)
    return {"out": block(g, "", g.x["x1"], g.x["x2"], heads, flash, c.get("scale"), g.x.get("mask"))}


def perceiver(g: Given) -> Outputs:
    """Chatterbox's Perceiver."""
    h, q = g.x["h"], g.p["pre_attention_query"]
    z = block(g, "attn.", np.broadcast_to(q, (len(h), *q.shape[1:])), h, g.config["num_attn_heads"], True, None, None)
    if g.has("one pass"):
        return {"out": z}
    again = h if g.has("the second pass attends to the input again") else z
    return {"out": block(g, "attn.", z, again, g.config["num_attn_heads"], True, None, None)}


def edgetam(g: Given) -> Outputs:
    """EdgeTamVideoPerceiverResampler."""
    c = {name.removeprefix("perceiver_resampler_"): value for name, value in g.config.items()}
    heads, x, pos = c["num_attention_heads"], g.x["hidden_states"].transpose(0, 2, 3, 1), None
    batch, height, width, channels = x.shape
    given = g.x.get("positional_encoding")

    def attend(p: str, q: Array, x: Array, pos: Any, added: Any = 0.0) -> Array:
        q, k, v = (split(g.linear(f"{p}.{name}_proj", a), heads) for name, a in (("q", q), ("k", x), ("v", x)))
        if pos is not None:
            k = k + split(pos, heads)
            v = v if g.has("positions on keys only") else v + split(pos, heads)
        o = weights(q, k, added=added) @ v
        n = o.shape[2]
        flat = merge(o) if g.has("heads merged properly") else o.reshape(len(o), n, -1)
        return g.linear(f"{p}.o_proj", flat)

    def fed(p: str, z: Array) -> Array:
        return g.linear(f"{p}.down_proj", gelu(g.linear(f"{p}.up_proj", g.norm(f"{p}.layer_norm", z))))

    def layers(z: Array, x: Array, pos: Any, added: Any = 0.0) -> Array:
        for i in range(c["num_layers"]):
            p = f"layers.{i}."
            q, kv = g.norm(f"{p}layer_norm_latents", z), g.norm(f"{p}layer_norm_input", x)
            z = z + attend(f"{p}cross_attention", q, kv, pos, added)
            z = z + fed(f"{p}mlp", z)
            s = g.norm(f"{p}layer_norm_self", z)
            z = z + attend(f"{p}self_attention", s, s, None)
            z = z if g.has("no MLP after self-attention") else z + fed(f"{p}self_mlp", z)
        return g.norm("layer_norm", z)

    made = []
    if n1 := c["num_latents"]:
        if given is not None:
            pos = given.transpose(0, 2, 3, 1).reshape(batch, height * width, -1)
        z = np.broadcast_to(g.p["latents_1d"], (batch, n1, channels))
        made.append(layers(z, x.reshape(batch, -1, channels), pos))
    side = int(c["num_latents_2d"] ** 0.5)
    if side:
        w = height // side
        down, across = -(-height // w), -(-width // w)

        def windows(a: Array) -> Array:
            a = np.pad(a, ((0, 0), (0, down * w - height), (0, across * w - width), (0, 0)))
            return a.reshape(batch, down, w, across, w, -1).swapaxes(2, 3).reshape(-1, w * w, a.shape[-1])

        z = np.broadcast_to(g.p["latents_2d"], (batch, side * side, channels)).reshape(-1, 1, channels)
        real = windows(np.ones((batch, height, width, 1)))[..., 0] > 0
        added = masked(real)[:, None, None] if g.has("padding masked out") else 0.0
        made.append(layers(z, windows(x), None, added).reshape(batch, -1, channels))
    out = {"out0": np.concatenate(made, 1)}
    if given is not None:
        places = [np.zeros((batch, n1, channels))]
        if side:
            half, start = channels // 2, 0 if g.has("output positions counted from 0") else 1
            index = np.arange(half)
            e = (np.arange(side) + start) / (side + 1e-6) * 2 * np.pi
            angles = e[:, None] / 10000.0 ** (2 * (index // 2) / half)
            one = np.where(index % 2 == 0, np.sin(angles), np.cos(angles))
            y, x_ = np.repeat(one, side, 0), np.tile(one, (side, 1))
            both = np.concatenate([x_, y] if g.has("output positions x before y") else [y, x_], 1)
            places.append(np.broadcast_to(both, (batch, *both.shape)))
        out["out1"] = np.concatenate(places, 1)
    return out


def aurora(g: Given) -> Outputs:
    """Aurora's PerceiverResampler."""
    c, z, x = g.config, g.x["latents"], g.x["x"]
    heads, eps = c["num_heads"], c.get("ln_eps", 1e-5)
    residual = c.get("residual_latent", True)
    before = g.has("norms before attention and MLP")
    for i in range(c["depth"]):
        p, start = f"layers.{i}.", z
        k, v = np.split(g.linear(f"{p}0.to_kv", x), 2, -1)
        q = g.linear(f"{p}0.to_q", g.norm(f"{p}2", z, eps) if before else z)
        if c.get("ln_k_q") and (i == 0 or g.has("keys and queries normed in every layer")):
            own = eps if g.has("keys and queries normed with the layers' epsilon") else 1e-5
            k, q = g.norm("layers.0.0.ln_k", k, own), g.norm("layers.0.0.ln_q", q, own)
        a = g.linear(f"{p}0.to_out", attention(q, k, v, heads))
        a = a if before else g.norm(f"{p}2", a, eps)
        z = z + a if residual else a
        m = g.norm(f"{p}3", z, eps) if before else z
        m = g.linear(f"{p}1.net.2", gelu(g.linear(f"{p}1.net.0", m)))
        m = m if before else g.norm(f"{p}3", m, eps)
        joined = start if g.has("the layer's input added to the MLP's output") else z
        z = m if g.has("no residual of the MLP either") and not residual else joined + m
    return {"out": z}


def perceiver_ar(g: Given) -> Outputs:
    """perceiver-ar-pytorch's PerceiverAR."""
    c, ids = g.config, g.x["x"]
    length, prefix, d = ids.shape[1], c["cross_attn_seq_len"], c["dim_head"]
    scale = c["dim"] ** 0.5 if g.has("embeddings times the square root of their width") else 1.0
    x = g.p["token_emb.weight"][ids] * scale + g.p["pos_emb.weight"][:length]
    r = max(32, d // 2)
    waves = g.p["rotary_pos_emb.inv_freq"]
    assert len(waves) == -(-r // 2)

    def turned(x: Array, places: Array) -> Array:
        angles = places[:, None] * waves
        n = len(waves)
        a, b, rest = x[..., :n], x[..., n : 2 * n], x[..., 2 * n :]
        if g.has("interleaved rotary pairs"):
            a, b = x[..., 0 : 2 * n : 2], x[..., 1 : 2 * n : 2]
        s, k = np.sin(angles), np.cos(angles)
        if g.has("neighbours rotated by the angles of halves"):
            angles = np.concatenate([angles, angles], -1)
            turned, rest = x[..., : 2 * n], x[..., 2 * n :]
            pairs = np.stack([-turned[..., 1::2], turned[..., ::2]], -1).reshape(turned.shape)
            return np.concatenate([turned * np.cos(angles) + pairs * np.sin(angles), rest], -1)
        a, b = a * k - b * s, b * k + a * s
        if g.has("interleaved rotary pairs"):
            return np.concatenate([np.stack([a, b], -1).reshape(*a.shape[:-1], -1), rest], -1)
        return np.concatenate([a, b, rest], -1)

    start = 0 if g.has("rotary of queries counted from 0") else prefix
    context, z, n = x[:, :prefix], x[:, prefix:], length - prefix
    causal = np.arange(length) <= np.arange(n)[:, None] + prefix
    attend = np.broadcast_to(causal, (len(x), 1, n, length))
    if "prefix_mask" in g.x:
        real = np.concatenate([g.x["prefix_mask"], np.ones((len(x), n), bool)], 1)
        attend = attend & real[:, None, None]

    def fed(p: str, z: Array) -> Array:
        return g.linear(f"{p}.4", gelu(g.linear(f"{p}.1", g.norm(f"{p}.0", z))))

    def attended(q: Array, k: Array, v: Array, key_places: Array, attend: Array) -> Array:
        q, k, v = (split(a, c["heads"]) for a in (q, k, v))
        q, k = turned(q, np.arange(n) + start), turned(k, key_places)
        return merge(weights(q, k, added=masked(attend, LOWEST)) @ v)

    for i in range(c.get("perceive_depth", 1)):
        p = f"perceive_layers.{i}.0."
        s = g.norm(f"{p}norm", z)
        name = "norm" if g.has("prefix normalised by the norm of latents") else "context_norm"
        k, v = np.split(g.linear(f"{p}to_kv", np.concatenate([g.norm(f"{p}{name}", context), s], 1)), 2, -1)
        z = z + g.linear(f"{p}to_out", attended(g.linear(f"{p}to_q", s), k, v, np.arange(length), attend))
        z = z + fed(f"perceive_layers.{i}.1", z)
    own = np.tri(n, dtype=bool)
    for i in range(c["depth"]):
        q, k, v = np.split(g.linear(f"layers.{i}.0.to_qkv", g.norm(f"layers.{i}.0.norm", z)), 3, -1)
        z = z + g.linear(f"layers.{i}.0.to_out", attended(q, k, v, np.arange(n) + start, own))
        z = z + fed(f"layers.{i}.1", z)
    if g.has("a final layer norm"):
        z = layer_norm(z)
    logits = z @ g.p["to_logits.weight"].T
    if "labels" not in g.x:
        return {"out": logits}
    labels = g.x["labels"][:, prefix:]
    each = logsumexp(logits, -1) - np.take_along_axis(logits, labels[..., None], -1)[..., 0]
    counted = np.ones_like(labels, bool) if g.has("label 0 counted") else labels != 0
    return {"out": np.asarray(each[counted].mean())}


def nemo(g: Given) -> Outputs:
    """NeMo's PerceiverEncoder."""
    c, x, mask = g.config, g.x["encoder_states"], g.x["encoder_mask"]
    heads, pre = c["num_attention_heads"], c.get("pre_ln", False)
    bias = masked(mask != 0, LOWEST if g.has("padding filled") else -10000.0)
    n = c["hidden_steps"]
    own = masked(np.tri(n, dtype=bool), -10000.0) if c.get("mask_future") else 0.0

    def attend(p: str, q: Array, x: Array, added: Array) -> Array:
        parts = [g.linear(f"{p}.{name}_net", a) for name, a in (("query", q), ("key", x), ("value", x))]
        return g.linear(f"{p}.out_projection", attention(*parts, heads, added=added))

    def fed(p: str, z: Array) -> Array:
        h = g.linear(f"{p}.dense_in", z)
        h = g.gelu(h) if c.get("hidden_act") == "gelu" else np.maximum(h, 0)
        return g.linear(f"{p}.dense_out", h)

    def joined(norm: str, z: Array, f: Any) -> Array:
        return z + f(g.norm(norm, z)) if pre else g.norm(norm, z + f(z))

    def ended(p: str, z: Array) -> Array:
        return g.norm(f"{p}.final_layer_norm", z) if f"{p}.final_layer_norm.weight" in g.p else z

    def decoder(p: str, z: Array) -> Array:
        q = f"{p}.layers.0."
        z = joined(f"{q}layer_norm_1", z, lambda a: attend(f"{q}first_sub_layer", a, a, own))
        z = joined(f"{q}layer_norm_2", z, lambda a: attend(f"{q}second_sub_layer", a, x, bias[:, None, None]))
        return ended(p, joined(f"{q}layer_norm_3", z, lambda a: fed(f"{q}third_sub_layer", a)))

    def encoder(p: str, z: Array) -> Array:
        for i in range(c["num_layers"]):
            z = layer(f"{p}.layers.{i}.", z)
        return ended(p, z)

    def layer(q: str, z: Array) -> Array:
        z = joined(f"{q}layer_norm_1", z, lambda a: attend(f"{q}first_sub_layer", a, a, own))
        return joined(f"{q}layer_norm_2", z, lambda a: fed(f"{q}second_sub_layer", a))

    if c.get("hidden_init_method") == "bridge":
        s = c["inner_size"] ** 0.25
        h = g.linear("att_bridge.W2", np.maximum(g.linear("att_bridge.W1", x) / s, 0) / s)
        z = softmax(h.swapaxes(1, 2) + bias[:, None]) @ x
    else:
        z = decoder("init_cross_att", np.broadcast_to(g.p["init_hidden"], (len(x), n, x.shape[-1])))
    for b in range(c["hidden_blocks"]):
        made = encoder(f"self_att_layers.{b}", decoder(f"cross_att_layers.{b}", z))
        z = made if g.has("no residual around a pair of blocks") else z + made
    return {"out0": z, "out1": np.ones(z.shape[:2], mask.dtype)}


MODELS: Mapping[str, Model] = {
    "xtts/PerceiverResampler": xtts,
    "naturalspeech2/PerceiverResampler": xtts,
    "chatterbox/AttentionBlock2": attention_block,
    "chatterbox/Perceiver": perceiver,
    "edgetam/EdgeTamVideoPerceiverResampler": edgetam,
    "aurora/PerceiverResampler": aurora,
    "perceiver-ar-pytorch/PerceiverAR": perceiver_ar,
    "nemo/PerceiverEncoder": nemo,
}
