"""Deviations planted in lucidrains' Perceiver and Perceiver IO."""

from __future__ import annotations

from mutants.deviations.row import (
    Deviation,
    changed,
    copied,
    eps,
    halves_swapped,
    reread,
    scoped,
    skip,
    transposed,
    zero,
)
from mutants.source import Edit

PEERS = ("lucidrains-perceiver",)
ALL = ((), ("cross",), ("self",), ("decoder",))
PERCEIVER = "perceiver_(1|2|t)"
SEVERAL = "perceiver_2d|perceiver_1d|/io$|lm"
MASKED = "mask|1d|lm"
TIED = "tied"


def _activations() -> list[Deviation]:
    rows: list[Deviation] = []
    old = """
        x, gates = x.chunk(2, dim = -1)
        return x * F.gelu(gates)
        """
    for name, form in {
        "geglu with gelu_tanh": 'x * F.gelu(gates, approximate="tanh")',
        "the gate is the first half of geglu": "gates * F.gelu(x)",
        "swiglu in place of geglu": "x * F.silu(gates)",
        "reglu in place of geglu": "x * F.relu(gates)",
        "glu (sigmoid) in place of geglu": "x * torch.sigmoid(gates)",
        "quick_gelu in geglu": "x * gates * torch.sigmoid(1.702 * gates)",
        "the gate without activation": "x * gates",
    }.items():
        edit = Edit(old, f"x, gates = x.chunk(2, dim=-1)\nreturn {form}", "GEGLU")
        scopes = ALL if name in ("geglu with gelu_tanh", "reglu in place of geglu") else ((),)
        rows += scoped("activation", name, PEERS, edit, scopes=scopes)
    return rows


def _norms() -> list[Deviation]:
    rows = changed(
        "norm-missing",
        PEERS,
        {
            "key/value norm of every cross-attention skipped": skip(r"norm_context$"),
            "key/value norm of the encoder's cross-attention skipped": skip(r"\.cross_attn\.norm_context$"),
            "key/value norm of the decoder skipped": skip(r"decoder.*norm_context$"),
            "query norm of every cross-attention skipped": skip(r"cross_attn\.norm$"),
            "query norm of the decoder skipped": skip(r"decoder_cross_attn\.norm$"),
            "norm before self-attention skipped": skip(r"self_attns\.\d+\.0\.norm$"),
            "norm before every MLP skipped": skip(r"(ff|self_attns\.\d+\.1)\.norm$"),
            "norm before the MLP after cross-attention skipped": skip(r"cross_ff\.norm$"),
            "norm before the MLP after self-attention skipped": skip(r"self_attns\.\d+\.1\.norm$"),
            "norm before the decoder's MLP skipped": skip(r"decoder_ff\.norm$"),
        },
    )
    rows += changed(
        "final-norm",
        PEERS,
        {
            "norm before the logits left out": skip(r"to_logits\.1$"),
            "norm before the logits without scale and offset": lambda m: m.to_logits[1].reset_parameters(),
        },
        PERCEIVER,
    )
    late = Edit(
        "out = x if return_embeddings else self.to_logits(x)", "out = self.to_logits[2](self.to_logits[1](x).mean(1))"
    )
    rows += scoped("final-norm", "norm before the mean over latents", PEERS, late, only=PERCEIVER)
    rows += changed(
        "layer-norm-eps",
        PEERS,
        {
            f"eps {value:g} in place of 1e-5 in {where}": eps(pattern, value)
            for where, pattern in (
                ("all layer norms", r"norm|to_logits\.1$"),
                ("the norms before attention", r"(cross_attn|self_attns\.\d+\.0)\.norm"),
                ("the norms before the MLPs", r"(ff|self_attns\.\d+\.1)\.norm$"),
            )
            for value in (1e-12, 1e-6, 1e-3)
        },
    )
    forward = """
        x = self.cross_attn(x, context = context, mask = mask, inverted_attention = inverted_attention) + x
        x = self.cross_ff(x) + x
        """
    post = Edit(
        "x = self_attn(x) + x\nx = self_ff(x) + x",
        "x = self_attn.norm(self_attn.fn(x) + x)\nx = self_ff.norm(self_ff.fn(x) + x)",
    )
    cross = "context=self.cross_attn.norm_context(context), mask=mask, inverted_attention=inverted_attention"
    post_cross = Edit(
        forward,
        f"x = self.cross_attn.norm(self.cross_attn.fn(x, {cross}) + x)\n"
        "x = self.cross_ff.norm(self.cross_ff.fn(x) + x)",
    )
    only_ff = Edit(
        "x = self_attn(x) + x\nx = self_ff(x) + x", "x = self_attn(x) + x\nx = self_ff.norm(self_ff.fn(x) + x)"
    )
    rows += scoped("norm-after", "norms after the residual sums", PEERS, post, post_cross)
    rows += scoped("norm-after", "norms after the residual sums (self-attention)", PEERS, post)
    rows += scoped("norm-after", "norms after the residual sums (cross-attention of the encoder)", PEERS, post_cross)
    rows += scoped("norm-after", "norm after the self-attention MLP's residual sum", PEERS, only_ff)
    return rows


def _attention() -> list[Deviation]:
    rows: list[Deviation] = []
    for variant, form in {
        "no scale": "1.0",
        "1/d in place of 1/sqrt(d)": "self.scale**2",
        "scale by the full width": "self.scale * h**-0.5",
        "scale by the number of heads": "h**-0.5",
        "scale applied twice over": "self.scale * self.scale",
    }.items():
        edits = (
            Edit(
                "sim = einsum(q, k, 'b i d, b j d -> b i j') * self.scale",
                f"sim = einsum(q, k, 'b i d, b j d -> b i j') * {form}",
            ),
            Edit(
                "sim = einsum('b i d, b j d -> b i j', q, k) * self.scale",
                f"sim = einsum('b i d, b j d -> b i j', q, k) * {form}",
            ),
        )
        scopes = ALL if variant == "no scale" else ((),)
        if variant != "scale applied twice over":
            rows += scoped("attention-scale", variant, PEERS, *edits, scopes=scopes)
    split = (
        Edit(
            "q, k, v = (rearrange(t, 'b n (h d) -> (b h) n d', h = h) for t in (q, k, v))",
            "q, k, v = (rearrange(t, 'b n (d h) -> (b h) n d', h=h) for t in (q, k, v))",
        ),
        Edit(
            "q, k, v = map(lambda t: rearrange(t, 'b n (h d) -> (b h) n d', h = h), (q, k, v))",
            "q, k, v = (rearrange(t, 'b n (d h) -> (b h) n d', h=h) for t in (q, k, v))",
        ),
    )
    straight = tuple(
        Edit(e.old, "q, k, v = (t.reshape(t.shape[0] * h, t.shape[1], -1) for t in (q, k, v))") for e in split
    )
    merged = Edit(
        "out = rearrange(out, '(b h) n d -> b n (h d)', h = h)", "out = rearrange(out, '(b h) n d -> b n (d h)', h=h)"
    )
    flat = Edit(merged.old, "out = out.reshape(x.shape[0], x.shape[1], -1)")
    rows += scoped("head-layout", "channels split and merged as (d h) in attention", PEERS, *split, merged, scopes=ALL)
    rows += scoped("head-layout", "channels split as (d h), merged as (h d)", PEERS, *split)
    rows += scoped("head-layout", "heads merged as (d h)", PEERS, merged, scopes=ALL)
    rows += scoped("head-layout", "heads split and merged by a reshape without a transpose", PEERS, *straight, flat)
    rows += scoped("head-layout", "heads merged by a reshape without a transpose", PEERS, flat)
    swapped = (
        Edit("k, v = self.to_kv(kv).chunk(2, dim = -1)", "v, k = self.to_kv(kv).chunk(2, dim=-1)"),
        Edit("k, v = self.to_kv(context).chunk(2, dim = -1)", "v, k = self.to_kv(context).chunk(2, dim=-1)"),
    )
    rows += scoped("key-value-swapped", "to_kv gives values before keys", PEERS, *swapped, scopes=ALL)
    interleaved = tuple(
        Edit(
            e.old, e.new.replace("v, k =", "k, v =").replace(".chunk(2, dim=-1)", ".unflatten(-1, (-1, 2)).unbind(-1)")
        )
        for e in swapped
    )
    per_head = tuple(
        Edit(
            e.old,
            f"joint = {e.new.split(' = ')[1].split('.chunk')[0]}.unflatten(-1, (h, 2, -1))\n"
            "k, v = (joint[..., i, :].flatten(-2) for i in (0, 1))",
        )
        for e in swapped
    )
    rows += scoped("head-layout", "to_kv interleaves keys and values channel by channel", PEERS, *interleaved)
    rows += scoped("head-layout", "to_kv holds key and value of each head side by side", PEERS, *per_head)
    softmax = "attn = sim.softmax(dim = -1)"
    heads = "attn = sim.view(-1, h, *sim.shape[1:]).softmax(dim=1).view(sim.shape)"
    rows += scoped(
        "softmax-axis", "softmax over the queries", PEERS, Edit(softmax, "attn = sim.softmax(dim=-2)"), scopes=ALL
    )
    rows += scoped("softmax-axis", "softmax over the heads", PEERS, Edit(softmax, heads))
    fill = "sim.masked_fill_(~mask, max_neg_value)"
    rows += scoped(
        "mask-inverted", "True means masked", PEERS, Edit(fill, "sim.masked_fill_(mask, max_neg_value)"), only=MASKED
    )
    rows += scoped("mask-ignored", "mask not used", PEERS, Edit(fill, "pass"), only=MASKED)
    zeroed = f"{softmax}\nif exists(mask):\n    attn = attn * mask.any(-1, keepdim=True)"
    rows += scoped("fully-masked-row", "rows without keys give zero", PEERS, Edit(softmax, zeroed), only=MASKED)
    for value in (1e4, 1e9):
        small = Edit(fill, f"sim = sim + (~mask) * -{value}")
        rows += scoped("fully-masked-row", f"-{value:g} added to masked scores", PEERS, small, only=MASKED)
    return rows


def _weights() -> list[Deviation]:
    paths = {
        "": "",
        " of the cross-attentions": r"cross_attn.*",
        " of the self-attentions": r"self_attns.*",
        " of the decoder": r"decoder.*",
    }
    rows = []
    for place, path in paths.items():
        rows += changed(
            "key-value-swapped", PEERS, {f"halves of to_kv exchanged{place}": halves_swapped(path + r"to_kv\.weight$")}
        )
        rows += changed("bias-missing", PEERS, {f"output bias left out{place}": zero(path + r"to_out\.bias$")})
    rows += changed(
        "weight-transposed",
        PEERS,
        {
            "to_q transposed": transposed(r"to_q\.weight$"),
            "to_out transposed": transposed(r"to_out\.weight$"),
            "all square matrices of attention transposed": transposed(r"to_(q|out)\.weight$"),
            "to_q reshaped where it should be transposed": reread(r"to_q\.weight$"),
            "to_kv reshaped where it should be transposed": reread(r"to_kv\.weight$"),
            "to_out reshaped where it should be transposed": reread(r"to_out\.weight$"),
            "first MLP weights reshaped where they should be transposed": reread(r"net\.0\.weight$"),
            "second MLP weights reshaped where they should be transposed": reread(r"net\.2\.weight$"),
            "logits' weights reshaped where they should be transposed": reread(r"to_logits.*\.weight$"),
        },
    )
    rows += changed(
        "bias-missing",
        PEERS,
        {
            "first MLP bias left out": zero(r"net\.0\.bias$"),
            "second MLP bias left out": zero(r"net\.2\.bias$"),
            "biases of the MLPs left out": zero(r"net\.[02]\.bias$"),
            "biases of the MLPs after cross-attention left out": zero(r"cross_ff.*net\.[02]\.bias$"),
            "bias of the logits left out": zero(r"to_logits(\.2)?\.bias$"),
            "biases of all linear maps left out": zero(r"(net\.\d|to_out|to_logits(\.2)?)\.bias$"),
            "biases of the layer norms left out": zero(r"norm(_context)?\.bias$"),
        },
    )
    return rows


def _residuals() -> list[Deviation]:
    rows: list[Deviation] = []
    cross = "x = self.cross_attn(x, context = context, mask = mask, inverted_attention = inverted_attention) + x"
    alone = "x = self.cross_attn(x, context=context, mask=mask, inverted_attention=inverted_attention)"
    rows += scoped(
        "query-residual", "residual around cross-attention left out", PEERS, Edit(cross, alone), only=SEVERAL + "|tied"
    )
    rows += scoped(
        "query-residual",
        "residual around self-attention left out",
        PEERS,
        Edit("x = self_attn(x) + x", "x = self_attn(x)"),
    )
    normed = f"{alone} + self.cross_attn.norm(x)"
    rows += scoped("query-residual", "the normed queries are added", PEERS, Edit(cross, normed))
    decoder = "latents = self.decoder_cross_attn(queries, context = x)"
    extra = "latents = self.decoder_cross_attn(queries, context=x) + queries"
    rows += scoped("query-residual", "query residual in the decoder", PEERS, Edit(decoder, extra), only="io|lm")
    for variant, edits in {
        "no residual around the MLPs": (
            Edit("x = self.cross_ff(x) + x", "x = self.cross_ff(x)"),
            Edit("x = self_ff(x) + x", "x = self_ff(x)"),
        ),
        "no residual around the MLP after cross-attention": (Edit("x = self.cross_ff(x) + x", "x = self.cross_ff(x)"),),
        "no residual around the MLP after self-attention": (Edit("x = self_ff(x) + x", "x = self_ff(x)"),),
        "the normed input is added to the MLP's output": (
            Edit("x = self_ff(x) + x", "x = self_ff(x) + self_ff.norm(x)"),
        ),
        "no residual around the decoder's MLP": (
            Edit("latents = latents + self.decoder_ff(latents)", "latents = self.decoder_ff(latents)"),
        ),
    }.items():
        rows += scoped("mlp-residual", variant, PEERS, *edits, only="io_ff" if "decoder" in variant else "")
    return rows


def _order() -> list[Deviation]:
    rows = changed(
        "weight-sharing",
        PEERS,
        {
            "the weights of layer 0 in every layer": copied(r"\1layers.0.", r"^(perceiver_io\.|)layers\.\d+\."),
            "layer 1 uses the weights of layer 0": copied(r"\1layers.0.", r"^(perceiver_io\.|)layers\.1\."),
            "all layers use the weights of layer 1": copied(r"\1layers.1.", r"^(perceiver_io\.|)layers\.0\."),
            "layer 1 uses the cross-attention of layer 0": copied(r"layers.0.cross", r"^layers\.1\.cross"),
            "layer 1 uses the cross-attention weights of layer 0, with its own MLP": copied(
                r"layers.0.cross_attn", r"^layers\.1\.cross_attn"
            ),
            "layer 1 uses the self-attention of layer 0": copied(r"layers.0.self", r"^layers\.1\.self"),
            "the second self-attention of a layer uses the weights of the first": copied(
                r"self_attns.0.", r"self_attns\.1\."
            ),
        },
        SEVERAL + "|2d_mask|tied$",
    )
    loop = "for i, (block, attn_residual) in enumerate(zip(self.layers, self.attn_residuals)):"
    form, also = "list(self.layers)[::-1]", ("weight-sharing",)
    for old, inside, only in (
        (loop, "Perceiver", PERCEIVER),
        ("for block, attn_residual in zip(self.layers, self.attn_residuals):", "PerceiverIO", "/io|/lm"),
    ):
        edit = Edit(old, old.replace("self.layers", form), inside)
        rows += scoped("block-order", "layers in reverse order", PEERS, edit, only=only, also=also)
    both = "x = self_attn(x) + x\nx = self_ff(x) + x"
    rows += scoped(
        "block-order", "MLP before self-attention", PEERS, Edit(both, "x = self_ff(x) + x\nx = self_attn(x) + x")
    )
    rows += scoped(
        "block-order", "self-attention and MLP in parallel", PEERS, Edit(both, "x = x + self_attn(x) + self_ff(x)")
    )
    cross = """
        x = self.cross_attn(x, context = context, mask = mask, inverted_attention = inverted_attention) + x
        x = self.cross_ff(x) + x
        """
    alone = "x = self.cross_attn(x, context=context, mask=mask, inverted_attention=inverted_attention) + x"
    swapped = Edit(cross, f"x = self.cross_ff(x) + x\n{alone}")
    rows += scoped("block-order", "MLP before cross-attention", PEERS, swapped)
    rows += scoped(
        "block-order",
        "self-attention before cross-attention",
        PEERS,
        Edit(cross, "pass", "PerceiverBlock"),
        Edit(
            "return x",
            f"if self.has_cross_attn:\n    {alone}\n    x = self.cross_ff(x) + x\nreturn x",
            "PerceiverBlock",
        ),
        only=PERCEIVER,
    )
    return rows


ROWS: tuple[Deviation, ...] = (
    *_activations(),
    *_norms(),
    *_attention(),
    *_weights(),
    *_residuals(),
    *_order(),
)
