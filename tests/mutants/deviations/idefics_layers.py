"""Deviations planted in the layers of Idefics and Idefics2 around attention."""

from __future__ import annotations

from torch import nn

from mutants.deviations.row import Deviation, changed, replace, scoped
from mutants.source import Edit

ONE, TWO = ("idefics",), ("idefics2",)
BOTH = ONE + TWO
RESAMPLER, GATED = "resampler", "gated"
FIRST = ((), ("first",))


def _resamplers() -> list[Deviation]:
    rows: list[Deviation] = []
    functional = nn.functional
    acts = {
        "gelu": functional.gelu,
        "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
        "silu": functional.silu,
        "squared relu": lambda x: functional.relu(x).square(),
        "relu": functional.relu,
        "sigmoid": lambda x: x.sigmoid(),
        "quick_gelu": lambda x: x * (1.702 * x).sigmoid(),
    }
    rows += changed(
        "activation", BOTH, {f"{name} in the feed-forward": replace(r"(act|act_fn)$", f) for name, f in acts.items()}
    )
    rows += changed(
        "activation",
        BOTH,
        {"gelu in the feed-forward (first layer only)": replace(r"0\.(1|mlp)\.act(_fn)?$", functional.gelu)},
        RESAMPLER,
    )
    glu = "return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))"
    rows += scoped(
        "activation",
        "gate and value of the GLU exchanged",
        BOTH,
        Edit(glu, "return self.down_proj(self.gate_proj(x) * self.act_fn(self.up_proj(x)))"),
        only="gated|idefics2",
    )
    k, v = (
        "k = self.k_proj(torch.cat([context, latents], dim=-2))",
        "v = self.v_proj(torch.cat([context, latents], dim=-2))",
    )
    rows += scoped(
        "latents-not-in-keys",
        "keys and values from the context only",
        ONE,
        Edit(k, "k = self.k_proj(context)"),
        Edit(v, "v = self.v_proj(context)"),
        scopes=FIRST,
        only=RESAMPLER,
    )
    rows += scoped(
        "latents-not-in-keys",
        "keys and values from the context only",
        TWO,
        Edit(
            "hidden_states = torch.concat([context, latents], dim=-2)",
            "hidden_states, kv_seq_len = context, context.shape[1]\n"
            "attention_mask = None if attention_mask is None else attention_mask[..., :kv_seq_len]",
        ),
    )
    attend, feed = "latents = attn(context, latents) + latents", "latents = ff(latents) + latents"
    loop = "for attn, ff in self.blocks:"
    for cause, variant, edits in (
        ("query-residual", "no residual around attention", (Edit(attend, "latents = attn(context, latents)"),)),
        (
            "query-residual",
            "the normed latents are added",
            (Edit(attend, "latents = attn(context, latents) + attn.latents_layer_norm(latents)"),),
        ),
        ("mlp-residual", "no residual around the feed-forward", (Edit(feed, "latents = ff(latents)"),)),
        (
            "mlp-residual",
            "the normed latents are added to the feed-forward",
            (Edit(feed, "latents = ff(latents) + ff.ln(latents)"),),
        ),
        ("block-order", "feed-forward before attention", (Edit(f"{attend}\n{feed}", f"{feed}\n{attend}"),)),
        (
            "block-order",
            "attention and feed-forward in parallel",
            (Edit(f"{attend}\n{feed}", "latents = latents + attn(context, latents) + ff(latents)"),),
        ),
        ("block-order", "layers in reverse order", (Edit(loop, "for attn, ff in reversed(self.blocks):"),)),
        (
            "norm-after",
            "norm after the feed-forward's residual sum",
            (Edit(feed, "latents = ff.ln(ff.c_proj(ff.act(ff.fc(latents))) + latents)"),),
        ),
        (
            "norm-after",
            "norm of the feed-forward's output",
            (Edit(feed, "latents = ff.ln(ff.c_proj(ff.act(ff.fc(latents)))) + latents"),),
        ),
    ):
        also = ("weight-sharing",) if "reverse" in variant else ()
        rows += scoped(cause, variant, ONE, *edits, only=RESAMPLER, also=also)
    first, second = "latents = residual + latents\nresidual = latents", "latents = residual + latents"
    norm_mlp = (
        "latents = self.post_attention_layernorm(latents)\nlatents = self.mlp(latents)\nlatents = residual + latents"
    )
    for cause, variant, edit in (
        ("query-residual", "no residual around attention", Edit(first, "residual = latents")),
        ("mlp-residual", "no residual around the feed-forward", Edit(norm_mlp, norm_mlp.replace(second, "pass"))),
        (
            "mlp-residual",
            "the normed latents are added to the feed-forward",
            Edit(norm_mlp, "latents = self.post_attention_layernorm(latents)\nlatents = latents + self.mlp(latents)"),
        ),
        (
            "norm-after",
            "norm after the feed-forward's residual sum",
            Edit(norm_mlp, "latents = self.post_attention_layernorm(latents + self.mlp(latents))"),
        ),
        (
            "norm-after",
            "norm of the feed-forward's output",
            Edit(norm_mlp, "latents = latents + self.post_attention_layernorm(self.mlp(latents))"),
        ),
    ):
        rows += scoped(cause, variant, TWO, edit)
    loop = "for perceiver_layer in self.layers:"
    rows += scoped(
        "block-order",
        "layers in reverse order",
        TWO,
        Edit(loop, "for perceiver_layer in reversed(self.layers):"),
        also=("weight-sharing",),
    )
    joined = "attention_mask = torch.cat([attention_mask, latent_attention_mask], dim=-1)"
    rows += scoped(
        "mask-inverted",
        "1 - attention_mask used",
        TWO,
        Edit(joined, joined.replace("[attention_mask", "[1 - attention_mask")),
    )
    rows += scoped(
        "mask-ignored",
        "attention mask not used",
        TWO,
        Edit(joined, joined.replace("[attention_mask", "[torch.ones_like(attention_mask)")),
    )
    rows += scoped(
        "mask-inverted",
        "mask of context and latents inverted",
        TWO,
        Edit(joined, f"{joined}\nattention_mask = 1 - attention_mask"),
    )
    rows += scoped(
        "latents-not-in-keys",
        "the latents masked out of the keys",
        TWO,
        Edit(joined, joined.replace("latent_attention_mask]", "0 * latent_attention_mask]")),
    )
    return rows


def _gated() -> list[Deviation]:
    rows: list[Deviation] = []
    attend = "hidden_states = residual + self.act_cross_attn(self.alpha_cross_attn) * hidden_states"
    feed = "hidden_states = residual + self.act_dense(self.alpha_dense) * hidden_states"
    one_, two = "self.act_cross_attn(self.alpha_cross_attn)", "self.act_dense(self.alpha_dense)"
    for form, text in {"without tanh": "{}", "with sigmoid": "{}.sigmoid()"}.items():
        a = Edit(attend, attend.replace(one_, text.format("self.alpha_cross_attn")))
        b = Edit(feed, feed.replace(two, text.format("self.alpha_dense")))
        for where, edits in {"alpha_cross_attn": (a,), "alpha_dense": (b,), "both alphas": (a, b)}.items():
            rows += scoped("gate-not-tanh", f"{where} {form}", ONE, *edits, only=GATED)
    a, b = Edit(attend, attend.replace(f"{one_} * ", "")), Edit(feed, feed.replace(f"{two} * ", ""))
    for where, edits in {"alpha_cross_attn": (a,), "alpha_dense": (b,), "both alphas": (a, b)}.items():
        rows += scoped("gate-missing", f"{where} not applied", ONE, *edits, only=GATED)
    rows += scoped(
        "query-residual",
        "no residual around attention",
        ONE,
        Edit(attend, attend.replace("residual + ", "")),
        only=GATED,
    )
    rows += scoped(
        "mlp-residual",
        "no residual around the feed-forward",
        ONE,
        Edit(feed, feed.replace("residual + ", ""), "IdeficsGatedCrossAttentionLayer"),
        only=GATED,
    )
    zeroed = "hidden_states = hidden_states.masked_fill((cross_attention_gate == 0)[:, :, None], 0.0)"
    rows += scoped(
        "fully-masked-row",
        "text without an image attends to all of them",
        ONE,
        Edit(zeroed, "pass"),
        only=GATED,
        also=("media-mask",),
    )
    mask = "attention_mask=image_attention_mask,"
    for cause, variant, form in (
        ("media-mask", "every text sees all images", "None"),
        (
            "mask-inverted",
            "image mask inverted",
            "torch.where(image_attention_mask == 0, image_attention_mask.min(), 0.0)",
        ),
        ("media-mask", "each text sees what the text before it sees", "image_attention_mask.roll(1, 2)"),
        ("media-mask", "each text sees what the text after it sees", "image_attention_mask.roll(-1, 2)"),
    ):
        named = ("media-mask",) if cause == "mask-inverted" else ("mask-ignored",) if form == "None" else ()
        edit = Edit(mask, f"attention_mask={form},", "IdeficsGatedCrossAttentionLayer")
        rows += scoped(cause, variant, ONE, edit, only=GATED, also=named)
    also = Edit(
        feed, f"hidden_states = hidden_states.masked_fill((cross_attention_gate == 0)[:, :, None], 0.0)\n{feed}"
    )
    rows += scoped(
        "fully-masked-row",
        "feed-forward of text without an image zeroed too",
        ONE,
        also,
        only=GATED,
        also=("media-mask",),
    )
    return rows


ROWS: tuple[Deviation, ...] = (*_resamplers(), *_gated())
