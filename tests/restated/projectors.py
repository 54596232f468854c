"""Kosmos-2, Aria, MiniCPM-V."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from restated.basics import Array, Given, Model, Outputs, attention, gelu, gelu_tanh, masked, merge, split, weights
from restated.vision import triple


def kosmos2(g: Given) -> Outputs:
    """The image-to-text projections of Kosmos-2 and 2.5."""
    x = g.linear("dense", g.x["features"])
    z = np.broadcast_to(g.p["latent_query"], (len(x), *g.p["latent_query"].shape))
    both = np.concatenate([z, x] if g.has("latents first") else [x, z], 1)
    both = x if g.has("latents left out of the keys") else both
    heads = g.config["text_config"]["attention_heads"]
    q, k, v = (split(g.linear(f"x_attn.{name}_proj", a), heads) for name, a in (("q", z), ("k", both), ("v", both)))
    a = weights(q, k)
    y = g.linear("x_attn.out_proj", merge(a @ v)) + (z if g.has("a residual around the attention") else 0.0)
    return {"out0": y, **({"out1": a} if g.config["attn_implementation"] == "eager" else {})}


def aria(g: Given) -> Outputs:
    """AriaProjector."""
    x, mask = g.x["key_value_states"], g.x.get("attn_mask")
    queries = g.p["query"][: g.config["projector_patch_to_query_dict"][str(x.shape[1])]]
    q, t = g.norm("cross_attn.layer_norm", queries), g.norm("cross_attn.layer_norm_kv", x)
    parts = [g.linear(f"cross_attn.{n}_proj", a) for n, a in (("q", q), ("k", t), ("v", t))]
    m = "cross_attn.multihead_attn"
    ws, bs = np.split(g.p[f"{m}.in_proj_weight"], 3), np.split(g.p[f"{m}.in_proj_bias"], 3)
    q, k, v = (a @ w.T + b for a, w, b in zip(parts, ws, bs))
    added: Any = 0.0
    if mask is not None:
        attend = mask if g.has("True taken for what to attend to") else ~mask if mask.dtype == bool else None
        added = (mask if attend is None else masked(attend))[:, None, None]
    q = np.broadcast_to(q, (len(x), *q.shape))
    o = attention(q, k, v, g.config["vision_config"]["num_attention_heads"], added=added)
    o = g.linear("cross_attn.linear", g.linear(f"{m}.out_proj", o))
    if g.has("the queries added"):
        o = o + queries
    form = gelu if g.has("exact GELU") else gelu_tanh
    return {
        "out": g.linear("feed_forward.linear_out", form(g.linear("feed_forward.linear_in", g.norm("layer_norm", o))))
    }


def sines(places: Array, channels: int) -> Array:
    """[sin, cos] of places, 10000 being the longest wavelength over 2 pi."""
    half = channels // 2
    angles = np.asarray(places, np.float64)[..., None] / 10000.0 ** (np.arange(half) / half)
    return np.concatenate([np.sin(angles), np.cos(angles)], -1)


def grid(g: Given, height: int, width: int, channels: int) -> Array:
    """The table of a grid, row by row: width, then height."""
    y, x = np.divmod(np.arange(height * width), max(width, 1))
    both = [sines(x, channels // 2), sines(y, channels // 2)]
    return np.concatenate(both[::-1] if g.has("height before width") else both, -1)


def cubic(n: int, m: int, a: float) -> Array:
    """(m, n): bicubic resizing of an axis from n to m places, at half-pixel centres, without antialias."""
    out = np.zeros((m, n))
    for i in range(m):
        at = (i + 0.5) * n / m - 0.5
        base = int(np.floor(at))
        for j in range(base - 1, base + 3):
            t = abs(at - j)
            if t <= 1:
                w = (a + 2) * t**3 - (a + 3) * t**2 + 1
            else:
                w = a * (t**3 - 5 * t**2 + 8 * t - 4)
            out[i, min(max(j, 0), n - 1)] += w
    return out


def minicpmv(g: Given) -> Outputs:
    """Resampler2, Resampler2_5, Resampler4_5."""
    c, x, d = g.config, g.x["x"], g.config["embed_dim"]
    eps = 1e-5 if g.has("epsilon 1e-5") else 1e-6
    if "kv_proj.weight" in g.p:
        x = x @ g.p["kv_proj.weight"].T
    x, q = g.norm("ln_kv", x, eps), g.norm("ln_q", g.p["query"], eps)
    values = x
    added: Any = 0.0
    if "grid_size" in c:
        side, (h, w) = c["grid_size"], g.call["tgt_sizes"]
        table = g.p["pos_embed"]
        q = q if g.has("no positions on queries") else q + table
        if c.get("adaptive"):
            keys = x + grid(g, h, w, d)
        else:
            a = -0.5 if g.has("bicubic with a = -0.5") else -0.75
            square = table.reshape(side, side, d)
            square = np.einsum("hy,wx,yxd->hwd", cubic(side, h, a), cubic(side, w, a), square)
            keys = x + square.reshape(h * w, d)
        if "attn_mask" in g.x:
            added = masked(~g.x["attn_mask"])
    else:
        sizes = g.x["tgt_sizes"]
        places, real = np.zeros((*x.shape[:2], d)), np.arange(x.shape[1]) < sizes.prod(1)[:, None]
        for row, (h, w) in zip(places, sizes):
            row[: h * w] = grid(g, h, w, d)
        tables = places.copy()
        times = g.call.get("temporal_ids")
        flat = [t for group in times or [] for t in group]
        if times and max(flat) > -1:
            for row, t in zip(places, flat):
                if t >= 0 or g.has("id -1 taken for id 0"):
                    row += sines(max(t, 0), d)
            keys = x + places
            if g.has("positions of the grid on values too"):
                values = x + tables
            longest = max(map(len, times)) * x.shape[1]
            merged: list[list[Array]] = [[], [], []]
            start = 0
            for group in times:
                for kept, part in zip(merged, (keys, values, real)):
                    rows = part[start : start + len(group)]
                    rows = rows.reshape(-1, *rows.shape[2:])
                    kept.append(np.pad(rows, ((0, longest - len(rows)),) + ((0, 0),) * (rows.ndim - 1)))
                start += len(group)
            keys, values, real = (np.stack(part) for part in merged)
        else:
            keys = x + places
        added = masked(real)[:, None, None]
    if g.has("positions on values too"):
        values = keys
    q = np.broadcast_to(q, (len(keys), *q.shape))
    z = g.linear("attn.out_proj", triple(g, "attn", q, values, c["num_heads"], added, keys))
    if c.get("do_post_projection") is False:
        return {"out": z}
    return {"out": g.norm("ln_post", z, eps) @ g.p["proj"]}


MODELS: Mapping[str, Model] = {
    "kosmos2/Kosmos2ImageToTextProjection": kosmos2,
    "kosmos2/Kosmos2_5ImageToTextProjection": kosmos2,
    "aria/AriaProjector": aria,
    "minicpmv/Resampler2": minicpmv,
    "minicpmv/Resampler2_5": minicpmv,
    "minicpmv/Resampler4_5": minicpmv,
}
