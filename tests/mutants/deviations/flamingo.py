"""Deviations planted in flamingo-pytorch's and open_flamingo's resamplers and gated cross-attention."""

from __future__ import annotations

from typing import Any

from mutants.deviations.row import (
    Deviation,
    Edit,
    changed,
    copied,
    eps,
    halves_swapped,
    lowered,
    replace,
    reread,
    scoped,
    skip,
    transposed,
    zero,
)

FP, OF = ("lucidrains-flamingo",), ("open-flamingo",)
BOTH = FP + OF
RESAMPLER, GATED = "resampler", "gated"
FIRST = ((), ("first",))
FP_SPLIT = "q, k, v = rearrange_many((q, k, v), 'b t n (h d) -> b h t n d', h = h)"
FP_SPLIT_GATED = "q, k, v = rearrange_many((q, k, v), 'b n (h d) -> b h n d', h = h)"
FP_MERGE = "out = rearrange(out, 'b h t n d -> b t n (h d)', h = h)"
FP_MERGE_GATED = "out = rearrange(out, 'b h n d -> b n (h d)')"
OF_SPLIT, OF_MERGE = "q, k, v = (split_heads(t, self.heads) for t in (q, k, v))", "out = merge_heads(out)"


def _shared(activation: Any) -> list[Deviation]:
    """What both code bases hold alike."""
    functional = activation.functional
    feed_forward = r"(^ff|^layers\.\d+\.1)\.2$"
    rows = changed(
        "activation",
        BOTH,
        {
            "gelu_tanh in place of gelu": replace(feed_forward, lambda x: functional.gelu(x, approximate="tanh")),
            "relu in place of gelu": replace(feed_forward, functional.relu),
            "silu in place of gelu": replace(feed_forward, functional.silu),
            "quick_gelu in place of gelu": replace(feed_forward, lambda x: x * (1.702 * x).sigmoid()),
            "squared relu in place of gelu": replace(feed_forward, lambda x: functional.relu(x).square()),
            "relu in place of gelu (first layer only)": replace(r"^layers\.0\.1\.2$", functional.relu),
        },
    )
    norms = {
        "media norm skipped": r"norm_media$",
        "latents' norm before attention skipped": r"norm_latents$",
        "norm of the text before attention skipped": r"attn\.norm$",
        "norm before the feed-forward skipped": r"(ff|layers\.\d+\.1)\.0$",
        "media norm skipped (first layer only)": r"layers\.0\.0\.norm_media$",
        "norm before the feed-forward skipped (last layer only)": r"layers\.1\.1\.0$",
        "all norms before attention skipped": r"(norm_media|norm_latents|attn\.norm)$",
    }
    rows += changed("norm-missing", BOTH, {name: skip(pattern) for name, pattern in norms.items()})
    rows += changed("final-norm", BOTH, {"final norm left out": skip(r"^norm$")}, RESAMPLER)
    rows += changed(
        "final-norm", BOTH, {"final norm without scale and offset": lambda m: m.norm.reset_parameters()}, RESAMPLER
    )
    rows += changed(
        "layer-norm-eps",
        BOTH,
        {
            f"eps {value:g} in place of 1e-5 in {where}": eps(pattern, value)
            for where, pattern in (
                ("all layer norms", r"norm|\.0$"),
                ("the norms before attention", r"\.(norm_media|norm_latents|norm)$"),
                ("the norms before the feed-forward", r"(ff|layers\.\d+\.1)\.0$"),
                ("the final norm", r"^norm$"),
            )
            for value in (1e-12, 1e-6, 1e-3)
        },
    )
    for name in ("to_q", "to_out"):
        rows += changed(
            "weight-transposed",
            BOTH,
            {
                f"{name} transposed": transposed(rf"{name}\.weight$"),
                f"{name} transposed (first layer only)": transposed(rf"layers\.0.*{name}\.weight$"),
            },
        )
    rows += changed(
        "weight-transposed",
        BOTH,
        {
            "all square matrices transposed": transposed(r"to_(q|out)\.weight$"),
            "to_kv reshaped where it should be transposed": reread(r"to_kv\.weight$"),
            "first feed-forward weights reshaped where they should be transposed": reread(r"(ff|\.1)\.1\.weight$"),
            "second feed-forward weights reshaped where they should be transposed": reread(r"(ff|\.1)\.3\.weight$"),
        },
    )
    rows += changed(
        "key-value-swapped",
        BOTH,
        {
            "halves of to_kv exchanged": halves_swapped(r"to_kv\.weight$"),
            "halves of to_kv exchanged (first layer only)": halves_swapped(r"layers\.0.*to_kv\.weight$"),
        },
    )
    rows += changed("bias-missing", BOTH, {"offsets of all layer norms left out": zero(r"bias$")})
    rows += changed(
        "weight-sharing",
        BOTH,
        {
            "layer 1 uses the weights of layer 0": copied("layers.0.", r"^layers\.1\."),
            "layer 0 uses the weights of layer 1": copied("layers.1.", r"^layers\.0\."),
            "layer 1 uses the attention of layer 0": copied("layers.0.0.", r"^layers\.1\.0\."),
            "layer 1 uses the feed-forward of layer 0": copied("layers.0.1.", r"^layers\.1\.1\."),
        },
        RESAMPLER,
    )
    rows += changed(
        "dtype",
        BOTH,
        {
            f"{part} in {dtype}": lowered(pattern, dtype)
            for dtype in ("float16", "bfloat16")
            for part, pattern in {
                "layer norms": r"norm\w*$|(ff|\.1)\.0$",
                "feed-forwards": r"^ff$|^layers\.\d+\.1$",
                "attention": r"^attn$|^layers\.\d+\.0$",
                "key and value projections": r"to_kv$",
                "the first layer's attention": r"^layers\.0\.0$",
                "final norm": r"^norm$",
            }.items()
        },
    )
    return rows


def _heads() -> list[Deviation]:
    rows: list[Deviation] = []
    fp = (
        Edit(FP_SPLIT, FP_SPLIT.replace("(h d)", "(d h)")),
        Edit(FP_SPLIT_GATED, FP_SPLIT_GATED.replace("(h d)", "(d h)")),
    )
    fp_merge = (
        Edit(FP_MERGE, FP_MERGE.replace("(h d)", "(d h)")),
        Edit(FP_MERGE_GATED, FP_MERGE_GATED.replace("(h d)", "(d h)")),
    )
    of = (
        Edit("x = x.unflatten(-1, (heads, -1))", "x = x.unflatten(-1, (-1, heads)).transpose(-1, -2)", "split_heads"),
    )
    of_merge = (Edit("return x.flatten(-2)", "return x.transpose(-1, -2).flatten(-2)", "merge_heads"),)
    for peers, split, merge in ((FP, fp, fp_merge), (OF, of, of_merge)):
        rows += scoped("head-layout", "channels split and merged as (d h)", peers, *split, *merge)
        rows += scoped("head-layout", "channels split as (d h), merged as (h d)", peers, *split)
        rows += scoped("head-layout", "heads merged as (d h)", peers, *merge)
    flat = (
        Edit(FP_MERGE, "out = out.permute(0, 2, 1, 3, 4).reshape(*latents.shape[:3], -1)"),
        Edit(FP_MERGE_GATED, "out = out.reshape(*x.shape[:2], -1)"),
    )
    rows += scoped("head-layout", "heads merged by a reshape without a transpose", FP, *flat)
    unswapped = Edit(
        "x = x.transpose(-2, -3)\nreturn x.flatten(-2)",
        "return x.reshape(*x.shape[:-3], x.shape[-2], -1)",
        "merge_heads",
    )
    rows += scoped("head-layout", "heads merged by a reshape without a transpose", OF, unswapped)
    per_head = "joint = self.to_kv(KV).unflatten(-1, (H, 2, -1))\nk, v = (joint[..., i, :].flatten(-2) for i in (0, 1))"
    for peers, heads, form in (
        (FP, "h", "k, v = self.to_kv({}).chunk(2, dim = -1)"),
        (OF, "self.heads", "k, v = self.to_kv({}).chunk(2, dim=-1)"),
    ):
        edits = [
            Edit(form.format(name), per_head.replace("KV", name).replace("H,", f"{heads},"))
            for name in ("kv_input", "media")
        ]
        rows += scoped("head-layout", "to_kv holds key and value of each head side by side", peers, *edits)
        swapped = [Edit(form.format(name), form.format(name).replace("k, v", "v, k")) for name in ("kv_input", "media")]
        rows += scoped("key-value-swapped", "to_kv gives values before keys", peers, *swapped)
    scale = "q = q * self.scale"
    for variant, form in {
        "no scale": "pass",
        "1/d in place of 1/sqrt(d)": "q = q * self.scale**2",
        "scale by the full width": "q = q * self.scale * self.heads**-0.5",
        "scale by the number of heads": "q = q * self.heads**-0.5",
    }.items():
        rows += scoped(
            "attention-scale", variant, BOTH, Edit(scale, form), scopes=FIRST if variant == "no scale" else ((),)
        )
    for peers, softmax in ((FP, "attn = sim.softmax(dim = -1)"), (OF, "attn = sim.softmax(dim=-1)")):
        rows += scoped(
            "softmax-axis", "softmax over the queries", peers, Edit(softmax, "attn = sim.softmax(dim=-2)"), scopes=FIRST
        )
        rows += scoped(
            "softmax-axis",
            "softmax over the heads",
            peers,
            Edit(softmax, f"attn = sim.softmax(dim={1 if peers == FP else -3})"),
        )
        for dtype in ("float16", "bfloat16"):
            low = Edit(softmax, f"attn = sim.to(torch.{dtype}).softmax(dim=-1).to(sim.dtype)")
            rows += scoped("dtype", f"softmax in {dtype}", peers, low)
    return rows


def _resamplers() -> list[Deviation]:
    rows: list[Deviation] = []
    attend, feed = "latents = attn(x, latents) + latents", "latents = ff(latents) + latents"
    unnormed = Edit("latents = self.norm_latents(latents)", "pass")
    for cause, variant, edits in (
        ("query-residual", "no residual around attention", (Edit(attend, "latents = attn(x, latents)"),)),
        (
            "query-residual",
            "no residual around the first layer's attention",
            (Edit(attend, "latents = attn(x, latents) + (latents if attn is not self.layers[0][0] else 0)"),),
        ),
        (
            "query-residual",
            "the normed latents are added",
            (Edit(attend, "latents = attn(x, latents) + attn.norm_latents(latents)"),),
        ),
        ("mlp-residual", "no residual around the feed-forward", (Edit(feed, "latents = ff(latents)"),)),
        (
            "mlp-residual",
            "no residual around the last feed-forward",
            (Edit(feed, "latents = ff(latents) + (latents if ff is not self.layers[-1][1] else 0)"),),
        ),
        (
            "mlp-residual",
            "the normed latents are added to the feed-forward",
            (Edit(feed, "latents = ff(latents) + ff[0](latents)"),),
        ),
        ("block-order", "feed-forward before attention", (Edit(f"{attend}\n{feed}", f"{feed}\n{attend}"),)),
        (
            "block-order",
            "attention and feed-forward in parallel",
            (Edit(f"{attend}\n{feed}", "latents = latents + attn(x, latents) + ff(latents)"),),
        ),
        (
            "block-order",
            "layers in reverse order",
            (Edit("for attn, ff in self.layers:", "for attn, ff in reversed(self.layers):"),),
        ),
        (
            "norm-after",
            "norms after the residual sums",
            (
                Edit(
                    f"{attend}\n{feed}",
                    "latents = attn.norm_latents(attn(x, latents) + latents)\n"
                    "latents = ff[0](ff[3](ff[2](ff[1](latents))) + latents)",
                ),
                unnormed,
            ),
        ),
        (
            "norm-after",
            "norm after the feed-forward's residual sum",
            (Edit(feed, "latents = ff[0](ff[3](ff[2](ff[1](latents))) + latents)"),),
        ),
        (
            "norm-after",
            "norm of the feed-forward's output, before the residual sum",
            (Edit(feed, "latents = ff[0](ff[3](ff[2](ff[1](latents)))) + latents"),),
        ),
        (
            "norm-after",
            "norm after the attention's residual sum",
            (Edit(attend, "latents = attn.norm_latents(attn(x, latents) + latents)"), unnormed),
        ),
    ):
        also = ("weight-sharing",) if "reverse" in variant else ()
        rows += scoped(cause, variant, BOTH, *edits, only=RESAMPLER, also=also)
    for peers, joined in (
        (FP, "kv_input = torch.cat((x, latents), dim = -2)"),
        (OF, "kv_input = torch.cat((x, latents), dim=-2)"),
    ):
        rows += scoped(
            "latents-not-in-keys",
            "keys and values from the media only",
            peers,
            Edit(joined, "kv_input = x"),
            scopes=FIRST,
            only=RESAMPLER,
        )
    late = Edit("return self.norm(latents)", "return latents", "PerceiverResampler")
    rows += scoped("final-norm", "the latents are returned without the norm", BOTH, late, only=RESAMPLER)
    added = "x = x + self.media_pos_emb[:times]"
    for variant, form in {
        "media_pos_emb not added": "pass",
        "media_pos_emb added in reverse": "x = x + self.media_pos_emb[:times].flip(0)",
        "media_pos_emb one place on": "x = x + self.media_pos_emb.roll(-1, 0)[:times]",
        "the first media_pos_emb for every time": "x = x + self.media_pos_emb[:1]",
        "the last media_pos_emb for the last time": "x = x + self.media_pos_emb[-times:]",
        "media_pos_emb subtracted": "x = x - self.media_pos_emb[:times]",
        "media_pos_emb added twice": "x = x + 2 * self.media_pos_emb[:times]",
    }.items():
        rows += scoped("time-embedding", variant, FP, Edit(added, form), only=RESAMPLER)
    to_latents = (
        Edit(added, "pass"),
        Edit(
            "for attn, ff in self.layers:",
            "latents = latents + self.media_pos_emb[:times]\nfor attn, ff in self.layers:",
        ),
    )
    rows += scoped("time-embedding", "media_pos_emb added to the latents", FP, *to_latents, only=RESAMPLER)
    frames, media = "x = x + self.frame_embs[:frames, None, :]", "x = x + self.media_time_embs[:times]"
    for variant, changes in {
        "frame_embs not added": {frames: "pass"},
        "media_time_embs not added": {media: "pass"},
        "neither time embedding added": {frames: "pass", media: "pass"},
        "frame_embs added in reverse": {frames: "x = x + self.frame_embs[:frames, None, :].flip(0)"},
        "media_time_embs added in reverse": {media: "x = x + self.media_time_embs[:times].flip(0)"},
        "frame_embs one place on": {frames: "x = x + self.frame_embs.roll(-1, 0)[:frames, None, :]"},
        "media_time_embs one place on": {media: "x = x + self.media_time_embs.roll(-1, 0)[:times]"},
        "the first frame_embs for every frame": {frames: "x = x + self.frame_embs[:1, None, :]"},
        "the first media_time_embs for every time": {media: "x = x + self.media_time_embs[:1]"},
        "frame and media embeddings exchanged": {
            frames: "x = x + self.media_time_embs[:frames]",
            media: "x = x + self.frame_embs[torch.arange(times) % len(self.frame_embs)][:, None]",
        },
    }.items():
        rows += scoped("time-embedding", variant, OF, *(Edit(old, new) for old, new in changes.items()), only="embs")
    return rows


def _rows() -> tuple[Deviation, ...]:
    from torch import nn

    return (*_shared(nn), *_heads(), *_resamplers())


ROWS: tuple[Deviation, ...] = _rows()
