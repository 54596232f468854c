"""Deviations planted in the stand-in for DeepMind's Perceiver."""

from __future__ import annotations

from mutants.deviations.row import Deviation, changed, eps, reread, scoped, skip, transposed, zero
from mutants.source import Edit

DM = ("deepmind",)
ALL = ((), ("cross",), ("self",), ("decoder",))
FOURIER = "pixels|input_mask|flow"
MASKED = "mask"
SUM = "x = x + self.mlp(self.mlp_norm(x))"


def _norms() -> list[Deviation]:
    rows = changed(
        "norm-missing",
        DM,
        {
            "key/value norm of every cross-attention skipped": skip(r"kv_norm$"),
            "key/value norm of the encoder's cross-attention skipped": skip(r"(^|\.)cross_attend\.kv_norm$"),
            "key/value norm of the decoder skipped": skip(r"decoding_cross_attend\.kv_norm$"),
            "query norm of every cross-attention skipped": skip(r"cross_attend\.norm$"),
            "query norm of the decoder skipped": skip(r"decoding_cross_attend\.norm$"),
            "norm before self-attention skipped": skip(r"self_attends\.\d+\.norm$"),
            "norm before every MLP skipped": skip(r"mlp_norm$"),
            "norm before the MLP of the self-attention layers skipped": skip(r"self_attends\.\d+\.mlp_norm$"),
            "norm before the decoder's MLP skipped": skip(r"decoding_cross_attend\.mlp_norm$"),
        },
    )
    rows += changed(
        "layer-norm-eps",
        DM,
        {
            f"eps {value:g} in place of 1e-5 in {where}": eps(pattern, value)
            for where, pattern in (
                ("all layer norms", r"norm$"),
                ("the norms of the self-attention layers", r"self_attends.*norm$"),
                ("the norms before the MLPs", r"mlp_norm$"),
            )
            for value in (1e-12, 1e-6, 1e-3)
        },
    )
    scopes = ((), ("self",), ("cross",), ("decoder",))
    post_mlp = Edit(SUM, "x = self.mlp_norm(x + self.mlp(x))")
    post = (
        Edit("qkv_inputs = self.norm(inputs)", "qkv_inputs = inputs"),
        Edit("x = x + attention", "x = self.norm(x + attention)"),
        Edit("q_inputs = self.norm(inputs_q)", "q_inputs = inputs_q"),
        Edit("x = inputs_q + attention", "x = self.norm(inputs_q + attention)"),
        Edit("x = attention", "x = self.norm(attention)"),
    )
    rows += scoped("norm-after", "norms after the residual sums", DM, *post, post_mlp, scopes=scopes)
    rows += scoped("norm-after", "norm after the MLP's residual sum", DM, post_mlp, scopes=scopes[:2])
    inner = Edit(SUM, "x = x + self.mlp_norm(self.mlp(x))")
    rows += scoped("norm-after", "norm of the MLP's output, before the residual sum", DM, inner, scopes=scopes[:2])
    return rows


def _attention() -> list[Deviation]:
    rows: list[Deviation] = []
    act = 'x = nnf.gelu(x, approximate="tanh")'
    for name, form in {
        "gelu (erf) in place of gelu_tanh": "nnf.gelu(x)",
        "relu in place of gelu_tanh": "nnf.relu(x)",
        "silu in place of gelu_tanh": "nnf.silu(x)",
        "quick_gelu in place of gelu_tanh": "x * torch.sigmoid(1.702 * x)",
        "squared relu in place of gelu_tanh": "nnf.relu(x).square()",
    }.items():
        scopes = ALL if name.startswith(("gelu", "relu")) else ((),)
        rows += scoped("activation", name, DM, Edit(act, f"x = {form}"), scopes=scopes)
    scale = "scores = scores * (1.0 / math.sqrt(q.shape[-1]))"
    for variant, form in {
        "no scale": "pass",
        "1/d in place of 1/sqrt(d)": "scores = scores / q.shape[-1]",
        "scale by the full width": "scores = scores / math.sqrt(q.shape[-1] * self.heads)",
        "scale by the number of heads": "scores = scores / math.sqrt(self.heads)",
        "scale by the width of a value head": "scores = scores / math.sqrt(v.shape[-1])",
    }.items():
        rows += scoped(
            "attention-scale", variant, DM, Edit(scale, form), scopes=ALL if variant == "no scale" else ((),)
        )
    split = Edit("x = x.unflatten(-1, (self.heads, -1))", "x = x.unflatten(-1, (-1, self.heads)).transpose(2, 3)")
    straight = Edit(f"{split.old}\nreturn x.transpose(1, 2)", "return x.reshape(len(x), self.heads, x.shape[1], -1)")
    joined = "summed = summed.transpose(1, 2).flatten(2)"
    merge, flat = (
        Edit(joined, "summed = summed.permute(0, 2, 3, 1).flatten(2)"),
        Edit(joined, "summed = summed.reshape(len(q), q.shape[2], -1)"),
    )
    rows += scoped("head-layout", "channels split and merged as (d h) in attention", DM, split, merge, scopes=ALL)
    rows += scoped("head-layout", "channels split as (d h), merged as (h d)", DM, split)
    rows += scoped("head-layout", "heads merged as (d h)", DM, merge, scopes=ALL)
    rows += scoped("head-layout", "heads split and merged by a reshape without a transpose", DM, straight, flat)
    rows += scoped("head-layout", "heads merged by a reshape without a transpose", DM, flat)
    k, v = "k = self.key(inputs_kv)", "v = self.value(inputs_kv)"
    swapped = (Edit(k, "k = self.value(inputs_kv)"), Edit(v, "v = self.key(inputs_kv)"))
    rows += scoped("key-value-swapped", "key and value projections exchanged", DM, *swapped, scopes=ALL)
    softmax = "weights = scores.softmax(dim=-1)"
    rows += scoped(
        "softmax-axis", "softmax over the queries", DM, Edit(softmax, "weights = scores.softmax(dim=-2)"), scopes=ALL
    )
    rows += scoped("softmax-axis", "softmax over the heads", DM, Edit(softmax, "weights = scores.softmax(dim=1)"))
    masked = "scores = torch.where(mask[:, None].bool(), scores, -1e30)"
    inverted = "scores = torch.where(mask[:, None].bool(), -1e30, scores)"
    rows += scoped(
        "mask-inverted", "masked and kept keys exchanged in the scores", DM, Edit(masked, inverted), only=MASKED
    )
    mask = "mask = None if input_mask is None else outer_mask(torch.ones_like(latents[..., 0]), input_mask)"
    flipped = mask.replace(", input_mask)", ", 1 - input_mask)")
    query = "mask = None if query_mask is None else outer_mask(query_mask, torch.ones_like(z[..., 0]))"
    rows += scoped("mask-inverted", "1 - input_mask used", DM, Edit(mask, flipped), only=MASKED)
    rows += scoped(
        "mask-inverted",
        "1 - query_mask used",
        DM,
        Edit(query, query.replace("(query_mask,", "(1 - query_mask,")),
        only="mlm",
    )
    rows += scoped("mask-ignored", "input_mask not used", DM, Edit(mask, "mask = None"), only=MASKED)
    rows += scoped("mask-ignored", "query_mask not used", DM, Edit(query, "mask = None"), only="mlm")
    rows += scoped(
        "mask-ignored", "neither mask used", DM, Edit(mask, "mask = None"), Edit(query, "mask = None"), only="mlm"
    )
    wiped = "summed = summed.masked_fill((~mask.bool()).all(-1)[:, :, None], 0.0)"
    rows += scoped(
        "fully-masked-row",
        "rows without keys give the mean of the values",
        DM,
        Edit(wiped, "pass"),
        scopes=((), ("cross",), ("decoder",)),
        only=MASKED,
    )
    for value in (1e4, 1e9):
        small = f"scores = scores + (1 - mask[:, None].to(scores.dtype)) * -{value}"
        rows += scoped(
            "fully-masked-row",
            f"-{value:g} added to masked scores, rows kept",
            DM,
            Edit(masked, small),
            Edit(wiped, "pass"),
            only=MASKED,
        )
    whole = Edit(
        "return self.output(summed)",
        "out = self.output(summed)\nreturn out if mask is None else out * mask.bool().any(-1)[:, :, None]",
        "Attention",
    )
    rows += scoped("fully-masked-row", "rows without keys are zero after the output projection", DM, whole, only=MASKED)
    return rows


def _weights() -> list[Deviation]:
    rows: list[Deviation] = []
    places = {
        "": "",
        " of the encoder's cross-attention": r"^(?!.*decoding).*cross_attend\..*",
        " of the self-attentions": r"self_attends.*",
        " of the decoder": r"decoding_cross_attend.*",
    }
    for name, pattern in {
        "query": r"attention\.query\.",
        "key": r"attention\.key\.",
        "value": r"attention\.value\.",
        "output projection": r"attention\.output\.",
        "first MLP": r"mlp\.dense1\.",
        "second MLP": r"mlp\.dense2\.",
    }.items():
        for place, path in places.items() if name in ("query", "value", "first MLP") else [("", "")]:
            rows += changed(
                "weight-transposed", DM, {f"{name} weights transposed{place}": transposed(path + pattern + "w$")}
            )
            if name != "key":
                rows += changed("bias-missing", DM, {f"{name} bias left out{place}": zero(path + pattern + "b$")})
    rows += changed(
        "weight-transposed",
        DM,
        {
            "all square matrices of attention transposed": transposed(r"attention.*w$"),
            "all square matrices transposed": transposed(r"\.w$"),
            "value weights reshaped where they should be transposed": reread(r"value\.w$"),
            "final layer reshaped where it should be transposed": reread(r"decoder\.final\.w$"),
        },
    )
    rows += changed(
        "bias-missing",
        DM,
        {
            "query, key and value biases left out": zero(r"attention\.(query|key|value)\.b$"),
            "all biases of attention left out": zero(r"attention\..*b$"),
            "biases of the MLPs left out": zero(r"mlp\.dense[12]\.b$"),
            "bias of the final layer left out": zero(r"decoder\.final\.b$"),
            "bias of the output embedding left out": zero(r"decoder_bias$"),
            "biases of all linear maps left out": zero(r"\.b$"),
            "biases of the layer norms left out": zero(r"offset$"),
            "bias of the position projection left out": zero(r"projection\.b$"),
            "bias of the map before the positions left out": zero(r"preprocessor\.first\.b$"),
        },
    )
    return rows


def _residuals() -> list[Deviation]:
    rows: list[Deviation] = []
    test = "if self.use_query_residual:"
    for variant, where in {
        "query residual of the encoder's cross-attention left out": "cross",
        "query residual of the decoder reversed": "decoder",
    }.items():
        rows += scoped(
            "query-residual", variant, DM, Edit(test, f'if self.use_query_residual != (self.where == "{where}"):')
        )
    rows += scoped(
        "query-residual", "residual around self-attention left out", DM, Edit("x = x + attention", "x = attention")
    )
    rows += scoped(
        "query-residual",
        "no residual around any attention",
        DM,
        Edit("x = x + attention", "x = attention"),
        Edit(test, "if False:"),
    )
    rows += scoped(
        "query-residual",
        "the normed queries are added",
        DM,
        Edit("x = inputs_q + attention", "x = q_inputs + attention"),
    )
    rows += scoped(
        "mlp-residual", "no residual around the MLP", DM, Edit(SUM, "x = self.mlp(self.mlp_norm(x))"), scopes=ALL
    )
    rows += scoped(
        "mlp-residual",
        "the normed input is added to the MLP's output",
        DM,
        Edit(SUM, "x = self.mlp_norm(x) + self.mlp(self.mlp_norm(x))"),
        scopes=((), ("self",)),
    )
    blocks, layers = "for _ in range(self.num_blocks):", "for self_attend in self.self_attends:"
    numbered = Edit(blocks, "for block in range(self.num_blocks):")
    for variant, taken in {
        "the blocks are not shared: the layers are rotated from block to block": "(i + block) % n",
        "the blocks are not shared: the second block uses the layers in rotated order": "(i + (block == 1)) % n",
        "the first layer is used in the place of every layer": "0",
        "the last layer is used in the place of every layer": "-1",
        "from the second block on, only the first layer is used": "0 if block else i",
    }.items():
        order = f"n = len(self.self_attends)\nfor self_attend in [self.self_attends[{taken}] for i in range(n)]:"
        rows += scoped("weight-sharing", variant, DM, numbered, Edit(layers, order))
    rows += scoped(
        "weight-sharing", "the block is applied once", DM, Edit(blocks, "for _ in range(1):"), also=("block-order",)
    )
    rows += scoped(
        "block-order",
        "the layers of a block reversed",
        DM,
        Edit(layers, "for self_attend in reversed(self.self_attends):"),
        also=("weight-sharing",),
    )
    major = Edit(
        f"{blocks}\n    {layers}", "for layer in self.self_attends:\n    for self_attend in [layer] * self.num_blocks:"
    )
    rows += scoped(
        "block-order", "each layer repeated before the next, instead of the block", DM, major, also=("weight-sharing",)
    )
    first = "qkv_inputs = self.norm(inputs)"
    rows += scoped(
        "block-order",
        "MLP before self-attention",
        DM,
        Edit(
            f"x = inputs\n{first}",
            f"inputs = inputs + self.mlp(self.mlp_norm(inputs))\nx = inputs\n{first}",
            "SelfAttention",
        ),
        Edit(SUM, "pass", "SelfAttention"),
    )
    rows += scoped(
        "block-order",
        "self-attention and MLP in parallel",
        DM,
        Edit(SUM, "x = x + self.mlp(self.mlp_norm(inputs))", "SelfAttention"),
    )
    cross = "z = self.cross_attend(latents, inputs, mask)"
    rows += scoped(
        "block-order",
        "cross-attention after the self-attention blocks",
        DM,
        Edit(cross, "z = latents"),
        Edit(
            'return record("encoder/output", z)', 'return record("encoder/output", self.cross_attend(z, inputs, mask))'
        ),
    )
    rows += scoped(
        "block-order",
        "cross-attention before every block",
        DM,
        numbered,
        Edit(layers, f"if block:\n    z = self.cross_attend(z, inputs, mask)\n{layers}"),
        also=("weight-sharing",),
    )
    return rows


ROWS: tuple[Deviation, ...] = (*_norms(), *_attention(), *_weights(), *_residuals())
