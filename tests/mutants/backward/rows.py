"""The table of backward mutants: what is planted where, the causes that name it, and the step that it begins at."""

from __future__ import annotations

from mutants.backward.module_rows import MODULE_ROWS
from mutants.backward.row import (
    ACTIVATION,
    DM,
    FACTOR,
    FLAMINGO,
    FP,
    HF,
    LP,
    LUCID,
    MIXED,
    OF,
    SCALE,
    SIGN,
    SOFTMAX,
    STOPPED,
    TRANSFORMERS,
    Row,
    edit,
    names,
)

ATTENTIONS = {
    FP: (
        "attn = sim.softmax(dim = -1)",
        "sim = einsum('... i d, ... j d  -> ... i j', q, k)",
        (*names(FP, "resampler_4d"),),
    ),
    OF: ("attn = sim.softmax(dim=-1)", "sim = q @ k.transpose(-1, -2)", names(OF, "resampler_embs", "gated_all")),
    LP: ("attn = sim.softmax(dim = -1)", "sim = einsum('b i d, b j d -> b i j', q, k) * self.scale", LUCID),
    HF: (
        "attention_probs = nn.Softmax(dim=-1)(attention_scores)",
        "attention_scores = torch.matmul(queries, keys.transpose(-1, -2))",
        TRANSFORMERS,
    ),
    DM: ("weights = scores.softmax(dim=-1)", "scores = q @ k.transpose(-1, -2)", names(DM, "imagenet_pixels_fourier")),
}


def _attention() -> list[Row]:
    rows = []
    for peer, (softmax, _, models) in ATTENTIONS.items():
        left, right = softmax.split(" = ", 1)
        scores = {FP: "sim", OF: "sim", LP: "sim", HF: "attention_scores", DM: "scores"}[peer]
        scopes = ((), ("cross",)) if peer == HF else ((),)
        for name in ("without_sum", "diagonal", "unweighted", "through"):
            new = f"{left} = BW.softmax_{name}({scores})"
            rows += edit(
                SOFTMAX,
                f"softmax {name}",
                models,
                MIXED,
                (softmax, new),
                scopes=scopes if name == "without_sum" else ((),),
            )
        rows += edit(STOPPED, "weights detached", models, MIXED, (softmax, f"{left} = ({right}).detach()"))
    split = "queries = self.transpose_for_scores(queries, self.qk_channels_per_head)"
    rows += edit(
        STOPPED, "keys detached", TRANSFORMERS, MIXED, (split, f"{split}\nkeys = keys.detach()"), scopes=((), ("self",))
    )
    rows += edit(STOPPED, "values detached", TRANSFORMERS, MIXED, (split, f"{split}\nvalues = values.detach()"))
    divided = "attention_scores = attention_scores / math.sqrt(q_head_dim)"
    left_out = f"{divided}\nattention_scores = BW.times(attention_scores, math.sqrt(q_head_dim))"
    twice = f"{divided}\nattention_scores = BW.times(attention_scores, 1 / math.sqrt(q_head_dim))"
    rows += edit(SCALE, "scale left out", TRANSFORMERS, MIXED, (divided, left_out))
    rows += edit(SCALE, "scale twice", TRANSFORMERS, MIXED, (divided, twice), scopes=((), ("cross",)))
    scaled = "q = q * self.scale"
    rows += edit(
        SCALE, "scale left out for queries", FLAMINGO, MIXED, (scaled, f"{scaled}\nq = BW.times(q, 1 / self.scale)")
    )
    rows += edit(
        SIGN,
        "sign of the scores' gradient",
        names(HF, "model_mask"),
        MIXED,
        (divided, f"{divided}\nattention_scores = BW.times(attention_scores, -1)"),
    )
    low = f"{divided}\nattention_scores = BW.narrow(attention_scores, 'bfloat16')"
    rows += edit(
        ("gradient-dtype",),
        "scores' gradient in bfloat16",
        names(HF, "model_mask"),
        MIXED,
        (divided, low),
        scopes=(("cross",),),
    )
    return rows


def _residuals() -> list[Row]:
    attended = r"attention_residual$"
    layer = r"layers\.\d+$"
    rows = edit(
        STOPPED,
        "residual around attention",
        FLAMINGO,
        attended,
        ("latents = attn(x, latents) + latents", "latents = attn(x, latents) + latents.detach()"),
    )
    rows += edit(
        STOPPED,
        "branch of attention",
        FLAMINGO,
        attended,
        ("latents = attn(x, latents) + latents", "latents = attn(x, latents).detach() + latents"),
    )
    rows += edit(
        STOPPED,
        "residual around the feed-forward",
        FLAMINGO,
        layer,
        ("latents = ff(latents) + latents", "latents = ff(latents) + latents.detach()"),
    )
    rows += edit(
        FACTOR,
        "branch of attention x 0.7",
        FLAMINGO,
        attended,
        ("latents = attn(x, latents) + latents", "latents = BW.times(attn(x, latents), 0.7) + latents"),
    )
    rows += edit(
        STOPPED,
        "features",
        names(FP, "resampler_4d"),
        r"features_norm$|resampler\.features",
        ("latents = attn(x, latents) + latents", "latents = attn(x.detach(), latents) + latents"),
    )
    rows += edit(
        STOPPED,
        "latents in keys and values",
        FLAMINGO,
        r"attention\.|attention$|latents_norm$",
        ("kv_input = torch.cat((x, latents), dim = -2)", "kv_input = torch.cat((x, latents.detach()), dim = -2)"),
    )[:0]
    rows += edit(
        STOPPED,
        "residual around attention",
        TRANSFORMERS,
        attended,
        (
            "attention_output = attention_output + hidden_states",
            "attention_output = attention_output + hidden_states.detach()",
        ),
        scopes=((), ("cross",)),
    )
    rows += edit(
        STOPPED,
        "residual around the MLP",
        TRANSFORMERS,
        r"(blocks\.\d+\.\d+|cross_attention)$",
        (
            "layer_output = layer_output + attention_output  # residual connection",
            "layer_output = layer_output + attention_output.detach()",
        ),
    )
    gate = "x = self.attn(x, media, media_locations) * self.attn_gate.tanh() + x"
    rows += edit(
        STOPPED,
        "gate",
        names(OF, "gated_all"),
        r"attention_gated$",
        (gate, gate.replace("self.attn_gate.tanh()", "self.attn_gate.tanh().detach()")),
    )
    rows += edit(
        ACTIVATION,
        "gate's tanh straight through",
        names(OF, "gated_all"),
        r"attention_gated$",
        (gate, gate.replace("self.attn_gate.tanh()", "BW.instead(self.attn_gate.tanh(), self.attn_gate)")),
    )
    rows += edit(
        STOPPED,
        "residual of the gated layer",
        names(OF, "gated_all"),
        attended,
        (gate, gate.replace("+ x", "+ x.detach()")),
    )
    return rows


ROWS: tuple[Row, ...] = (*_attention(), *_residuals(), *MODULE_ROWS)
