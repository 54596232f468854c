"""Deviations planted in Idefics' resampler and gated layer and in Idefics2's resampler."""

from __future__ import annotations

from mutants.deviations.row import (
    Deviation,
    changed,
    copied,
    eps,
    lowered,
    one,
    reread,
    scoped,
    skip,
    transposed,
    zero,
)
from mutants.source import Edit

ONE, TWO = ("idefics",), ("idefics2",)
BOTH = ONE + TWO
RESAMPLER, GATED = "resampler", "gated"
FIRST = ((), ("first",))


def _weights() -> list[Deviation]:
    rows: list[Deviation] = []
    for name in ("q_proj", "k_proj", "v_proj", "(o|output)_proj"):
        said = name.replace("(o|output)", "output")
        rows += changed("weight-transposed", BOTH, {f"{said} transposed": transposed(rf"{name}\.weight$")})
        rows += changed(
            "weight-transposed", BOTH, {f"{said} reshaped where it should be transposed": reread(rf"{name}\.weight$")}
        )
    rows += changed(
        "weight-transposed",
        BOTH,
        {
            "feed-forward's first weights reshaped where they should be transposed": reread(
                r"(fc|gate_proj|up_proj)\.weight$"
            ),
            "feed-forward's last weights reshaped where they should be transposed": reread(
                r"(c_proj|down_proj)\.weight$"
            ),
        },
    )
    rows += changed(
        "bias-missing", ONE, {"offsets of the layer norms left out": zero(r"(ln|layer_norm)\.bias$")}, RESAMPLER
    )
    rows += changed(
        "weight-sharing",
        BOTH,
        {
            "layer 1 uses the weights of layer 0": copied(r"\1.0.", r"^(layers|blocks)\.1\."),
            "layer 0 uses the weights of layer 1": copied(r"\1.1.", r"^(layers|blocks)\.0\."),
        },
        RESAMPLER,
    )
    rows += changed(
        "weight-sharing",
        ONE,
        {"layer 1 uses the attention of layer 0": copied("blocks.0.0.", r"^blocks\.1\.0\.")},
        RESAMPLER,
    )
    return rows


def _norms() -> list[Deviation]:
    rows = changed(
        "norm-missing",
        BOTH,
        {
            "context norm skipped": skip(r"context_(layer_)?norm$"),
            "latents' norm before attention skipped": skip(r"latents_(layer_)?norm$"),
            "norm before the feed-forward skipped": skip(r"(1\.ln|post_attention_layernorm)$"),
            "norm of the text before attention skipped": skip(r"^input_layernorm$"),
            "norms of queries and keys skipped": skip(r"[qk]_layer_norm$"),
            "norm of the queries skipped": skip(r"q_layer_norm$"),
            "norm of the keys skipped": skip(r"k_layer_norm$"),
            "context norm skipped (first layer only)": skip(r"0\.(0\.)?(input_)?context_(layer_)?norm$"),
        },
    )
    rows += changed("final-norm", BOTH, {"final norm left out": skip(r"^(layer_)?norm$")}, RESAMPLER)
    rows += changed("final-norm", BOTH, {"final norm without its scale": one(r"^(layer_)?norm\.weight$")}, RESAMPLER)
    rows += changed(
        "layer-norm-eps",
        BOTH,
        {
            f"eps {value:g} in {where}": eps(pattern, value)
            for where, pattern in (("all norms", r"(norm|ln)$"), ("the final norm", r"^(layer_)?norm$"))
            for value in (1e-12, 1e-3)
        },
    )
    return rows


def _attention() -> list[Deviation]:
    rows: list[Deviation] = []
    scores = 'scores = torch.einsum("... i d, ... j d -> ... i j", q * self.qk_scale, k)'
    two = "attn_weights = torch.matmul(query, key.transpose(2, 3)) * scaling"
    gated = "attn_weights = torch.matmul(query, key.transpose(-1, -2)) * scaling"
    for variant, form in {
        "no scale": "1.0",
        "1/d in place of 1/sqrt(d)": "SCALE**2",
        "scale by the full width": "SCALE * HEADS**-0.5",
        "scale by the number of heads": "HEADS**-0.5",
    }.items():
        resampler = Edit(
            scores,
            scores.replace("self.qk_scale", form.replace("SCALE", "self.qk_scale").replace("HEADS", "self.n_heads")),
        )
        rows += scoped(
            "attention-scale", variant, ONE, resampler, scopes=FIRST if form == "1.0" else ((),), only=RESAMPLER
        )
        for peers, old, only in ((TWO, two, "gqa"), (ONE, gated, GATED)):
            new = form.replace("SCALE", "scaling").replace("HEADS", "module.num_heads")
            rows += scoped(
                "attention-scale",
                variant,
                peers,
                Edit(old, old.replace("* scaling", f"* {new}"), "eager_attention_forward"),
                only=only,
            )
        sdpa = "scaling=self.scaling,"
        new = form.replace("SCALE", "self.scaling").replace("HEADS", "self.num_heads")
        rows += scoped(
            "attention-scale", variant, TWO, Edit(sdpa, f"scaling={new},", "Idefics2PerceiverAttention"), only="sdpa"
        )
    split = (
        "q, k, v = [x.reshape(batch_size, x.shape[1], self.n_heads, self.head_dim).transpose(1, 2) for x in (q, k, v)]"
    )
    new_split = split.replace("n_heads, self.head_dim).transpose(1, 2)", "head_dim, self.n_heads).permute(0, 3, 1, 2)")
    straight = "q, k, v = [x.reshape(batch_size, self.n_heads, x.shape[1], self.head_dim) for x in (q, k, v)]"
    merge, new_merge = (
        "return self.output_proj(resampled.transpose(1, 2).flatten(-2))",
        "return self.output_proj(resampled.permute(0, 2, 3, 1).flatten(-2))",
    )
    flat = "return self.output_proj(resampled.reshape(batch_size, resampled.shape[2], -1))"
    for variant, edits in {
        "channels split and merged as (d h)": (Edit(split, new_split), Edit(merge, new_merge)),
        "channels split as (d h), merged as (h d)": (Edit(split, new_split),),
        "heads merged as (d h)": (Edit(merge, new_merge),),
        "heads split and merged by a reshape without a transpose": (Edit(split, straight), Edit(merge, flat)),
        "heads merged by a reshape without a transpose": (Edit(merge, flat),),
    }.items():
        rows += scoped("head-layout", variant, ONE, *edits, only=RESAMPLER)
    views = (
        "queries = queries.view(bsz, q_len, self.num_heads, self.head_dim).transpose(1, 2)",
        "keys = keys.view(bsz, kv_seq_len, self.num_key_value_heads, self.head_dim).transpose(1, 2)",
        "values = values.view(bsz, kv_seq_len, self.num_key_value_heads, self.head_dim).transpose(1, 2)",
    )
    other = tuple(
        Edit(
            v,
            v.replace("self.num_heads, self.head_dim", "self.head_dim, self.num_heads")
            .replace("self.num_key_value_heads, self.head_dim", "self.head_dim, self.num_key_value_heads")
            .replace(".transpose(1, 2)", ".permute(0, 3, 1, 2)"),
        )
        for v in views
    )
    joined = "attn_output = attn_output.reshape(bsz, q_len, self.num_heads * self.head_dim)"
    last = Edit(joined, "attn_output = attn_output.transpose(2, 3).reshape(bsz, q_len, self.num_heads * self.head_dim)")
    rows += scoped("head-layout", "channels split and merged as (d h)", TWO, *other, last)
    rows += scoped("head-layout", "channels split as (d h), merged as (h d)", TWO, *other)
    rows += scoped("head-layout", "heads merged as (d h)", TWO, last)
    groups = "hidden_states = hidden_states[:, :, None, :, :].expand(batch, num_key_value_heads, n_rep, slen, head_dim)"
    tiled = groups.replace(
        "[:, :, None, :, :].expand(batch, num_key_value_heads, n_rep,",
        "[:, None].expand(batch, n_rep, num_key_value_heads,",
    )
    rows += scoped(
        "head-layout", "key and value heads tiled in place of repeated", TWO, Edit(groups, tiled), only="gqa"
    )
    layer_merge = "attn_output = attn_output.reshape(bsz, q_len, -1).contiguous()"
    rows += scoped(
        "head-layout",
        "heads merged as (d h)",
        ONE,
        Edit(layer_merge, "attn_output = attn_output.transpose(2, 3).reshape(bsz, q_len, -1)"),
        only=GATED,
    )
    k, v = (
        "k = self.k_proj(torch.cat([context, latents], dim=-2))",
        "v = self.v_proj(torch.cat([context, latents], dim=-2))",
    )
    rows += scoped(
        "key-value-swapped",
        "k_proj and v_proj exchanged",
        ONE,
        Edit(k, k.replace("k_proj", "v_proj")),
        Edit(v, v.replace("v_proj", "k_proj")),
        scopes=FIRST,
        only=RESAMPLER,
    )
    k2, v2 = "keys = self.k_proj(hidden_states)", "values = self.v_proj(hidden_states)"
    rows += scoped(
        "key-value-swapped",
        "k_proj and v_proj exchanged",
        TWO,
        Edit(k2, k2.replace("k_proj", "v_proj")),
        Edit(v2, v2.replace("v_proj", "k_proj")),
    )
    inner = (
        "key_states = self.k_proj(key_value_states).view(bsz, kv_len, self.num_heads, self.head_dim).transpose(1, 2)"
    )
    value = "    self.v_proj(key_value_states).view(bsz, kv_len, self.num_heads, self.head_dim).transpose(1, 2)"
    joint = f"{inner}\nvalue_states = (\n{value}\n)"
    rows += scoped(
        "key-value-swapped",
        "k_proj and v_proj exchanged",
        ONE,
        Edit(joint, joint.replace("k_proj", "X").replace("v_proj", "k_proj").replace("X", "v_proj")),
        only=GATED,
    )
    for variant, dim in {"softmax over the queries": -2, "softmax over the heads": 1}.items():
        old = "attn = stabilized_scores.softmax(dim=-1)"
        rows += scoped(
            "softmax-axis",
            variant,
            ONE,
            Edit(old, old.replace("-1", str(dim))),
            scopes=FIRST if dim < 0 else ((),),
            only=RESAMPLER,
        )
        old = "attn_weights = nn.functional.softmax(attn_weights, dim=-1, dtype=torch.float64).to(query.dtype)"
        rows += scoped(
            "softmax-axis",
            variant,
            TWO,
            Edit(old, old.replace("dim=-1", f"dim={dim}"), "eager_attention_forward"),
            only="gqa",
        )
        rows += scoped(
            "softmax-axis",
            variant,
            ONE,
            Edit(old, old.replace("dim=-1", f"dim={dim}"), "eager_attention_forward"),
            only=GATED,
        )
    for dtype in ("float16", "bfloat16"):
        low = Edit(
            "attn = stabilized_scores.softmax(dim=-1)",
            f"attn = stabilized_scores.to(torch.{dtype}).softmax(dim=-1).to(q.dtype)",
        )
        rows += scoped("dtype", f"softmax in {dtype}", ONE, low, only=RESAMPLER)
        old = "attn_weights = nn.functional.softmax(attn_weights, dim=-1, dtype=torch.float64).to(query.dtype)"
        low = Edit(old, old.replace("torch.float64", f"torch.{dtype}"), "eager_attention_forward")
        rows += scoped("dtype", f"softmax in {dtype}", BOTH, low, only="gqa|gated")
        parts = {
            "norms": r"(norm|ln)$",
            "feed-forwards": r"^(mlp|blocks\.\d+\.1|layers\.\d+\.mlp)$",
            "attention": r"^(cross_attn|blocks\.\d+\.0|layers\.\d+\.self_attn)$",
            "value projections": r"v_proj$",
            "output projections": r"(o|output)_proj$",
        }
        rows += changed(
            "dtype", BOTH, {f"{part} in {dtype}": lowered(pattern, dtype) for part, pattern in parts.items()}
        )
    return rows


ROWS: tuple[Deviation, ...] = (*_weights(), *_norms(), *_attention())
