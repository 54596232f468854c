"""Deviations planted in transformers' Perceiver."""

from __future__ import annotations

from mutants.deviations.row import (
    Deviation,
    changed,
    eps,
    reread,
    scoped,
    skip,
    transposed,
    zero,
)
from mutants.source import Edit

HF = ("hf",)
ALL = ((), ("cross",), ("self",), ("decoder",))
CROSS = (("cross", "decoder"), ("cross",), ("decoder",))
FOURIER = "image_fourier|image_conv|flow|multimodal"
MASKED = "mask|masked_lm|sequence"
PLACES = {
    "": r"",
    " of the encoder's cross-attention": r"encoder\.cross_attention.*",
    " of the self-attentions": r"self_attends.*",
    " of the decoder": r"decoding_cross_attention.*",
}


def line(old: str, *new: str, inside: str = "") -> tuple[Edit, ...]:
    """One edit for each thing that the line may become."""
    return tuple(Edit(old, text, inside) for text in new)


def _activations() -> list[Deviation]:
    old = "hidden_states = self.intermediate_act_fn(hidden_states)"
    forms = {
        "gelu_tanh": 'nn.functional.gelu(hidden_states, approximate="tanh")',
        "relu": "torch.relu(hidden_states)",
        "silu": "nn.functional.silu(hidden_states)",
        "quick_gelu": "hidden_states * torch.sigmoid(1.702 * hidden_states)",
        "squared relu": "torch.relu(hidden_states).square()",
    }
    rows: list[Deviation] = []
    for name, form in forms.items():
        scopes = ALL if name in ("gelu_tanh", "relu") else ((),)
        edit = Edit(old, f"hidden_states = {form}", "PerceiverMLP")
        rows += scoped("activation", f"{name} in place of gelu in the MLPs", HF, edit, scopes=scopes)
    return rows


def _norms() -> list[Deviation]:
    rows = changed(
        "norm-missing",
        HF,
        {
            "key/value norm of every cross-attention skipped": skip(r"cross_attention.*layernorm2$"),
            "key/value norm of the encoder's cross-attention skipped": skip(r"encoder\.cross.*layernorm2$"),
            "key/value norm of the decoder skipped": skip(r"decoding.*layernorm2$"),
            "query norm of every cross-attention skipped": skip(r"cross_attention.*layernorm1$"),
            "query norm of the encoder's cross-attention skipped": skip(r"encoder\.cross.*layernorm1$"),
            "query norm of the decoder skipped": skip(r"decoding.*layernorm1$"),
            "norm before self-attention skipped": skip(r"self_attends.*layernorm1$"),
            "norm before every MLP skipped": skip(r"\.layernorm$"),
            "norm before the MLP of the self-attention layers skipped": skip(r"self_attends.*\.layernorm$"),
            "norm before the decoder's MLP skipped": skip(r"decoding.*\.layernorm$"),
            "norm before the MLP of the encoder's cross-attention skipped": skip(
                r"encoder\.cross_attention\.layernorm$"
            ),
            "all norms before attention skipped": skip(r"layernorm[12]$"),
        },
    )
    rows += changed(
        "layer-norm-eps",
        HF,
        {
            f"eps {value:g} in place of 1e-5 in {where}": eps(pattern, value)
            for where, pattern in (
                ("all layer norms", r"layernorm"),
                ("the norms of the self-attention layers", r"self_attends.*layernorm"),
                ("the norms before the MLPs", r"\.layernorm$"),
                ("the decoder's norms", r"decoding.*layernorm"),
            )
            for value in ((1e-12, 1e-6, 1e-3, 1e-2) if where.startswith("all") else (1e-12, 1e-3))
        },
    )
    post_attention = (
        Edit("hidden_states = self.layernorm1(hidden_states)", "pass", "PerceiverSelfAttention"),
        Edit(
            "outputs = (attention_output,) + self_outputs[1:]  # add attentions if we output them",
            "attention_output = self.self.layernorm1(attention_output)\n"
            "outputs = (attention_output,) + self_outputs[1:]",
            "PerceiverAttention",
        ),
    )
    post_mlp = (
        Edit("layer_output = self.layernorm(attention_output)", "layer_output = attention_output", "PerceiverLayer"),
        Edit(
            "layer_output = layer_output + attention_output  # residual connection",
            "layer_output = self.layernorm(layer_output + attention_output)",
            "PerceiverLayer",
        ),
    )
    inner_mlp = (
        post_mlp[0],
        Edit("layer_output = self.mlp(layer_output)", "layer_output = self.layernorm(self.mlp(layer_output))"),
    )
    scopes = ((), ("self",))
    rows += scoped("norm-after", "norms after the residual sums", HF, *post_attention, *post_mlp, scopes=ALL)
    rows += scoped("norm-after", "norm after the MLP's residual sum", HF, *post_mlp, scopes=scopes)
    rows += scoped("norm-after", "query norm after the attention's residual sum", HF, *post_attention, scopes=scopes)
    rows += scoped("norm-after", "norm of the MLP's output, before the residual sum", HF, *inner_mlp, scopes=scopes)
    return rows


def _attention() -> list[Deviation]:
    rows: list[Deviation] = []
    scale = "attention_scores = attention_scores / math.sqrt(q_head_dim)"
    for variant, form in {
        "no scale": "pass",
        "1/d in place of 1/sqrt(d)": "attention_scores = attention_scores / q_head_dim",
        "scale by the full width": "attention_scores = attention_scores / math.sqrt(self.qk_channels)",
        "scale by the number of heads": "attention_scores = attention_scores / math.sqrt(self.num_heads)",
        "scale by the width of a value head": "attention_scores = attention_scores / math.sqrt(v_head_dim)",
        "scale by the width of the latents": (
            "attention_scores = attention_scores / math.sqrt(hidden_states.shape[-1])"
        ),
    }.items():
        scopes = ALL if variant in ("no scale", "scale by the full width") else ((),)
        rows += scoped("attention-scale", variant, HF, Edit(scale, form), scopes=scopes)
    split = Edit(
        """
        x = x.view(*new_x_shape)
        return x.permute(0, 2, 1, 3)
        """,
        """
        x = x.view(*x.shape[:2], channels_per_head, self.num_heads)
        return x.permute(0, 3, 1, 2)
        """,
    )
    straight = Edit(
        """
        x = x.view(*new_x_shape)
        return x.permute(0, 2, 1, 3)
        """,
        "return x.reshape(x.shape[0], self.num_heads, x.shape[1], channels_per_head)",
    )
    merge = Edit(
        "context_layer = context_layer.permute(0, 2, 1, 3).contiguous()",
        "context_layer = context_layer.permute(0, 2, 3, 1).contiguous()",
    )
    unmerged = Edit(
        "context_layer = context_layer.permute(0, 2, 1, 3).contiguous()",
        "context_layer = context_layer.contiguous().view(batch_size, seq_len, num_heads, v_head_dim)",
    )
    rows += scoped("head-layout", "channels split and merged as (d h) in attention", HF, split, merge, scopes=ALL)
    rows += scoped("head-layout", "channels split as (d h), merged as (h d)", HF, split)
    rows += scoped("head-layout", "heads merged as (d h)", HF, merge, scopes=ALL)
    rows += scoped("head-layout", "heads split by a reshape without a transpose", HF, straight, unmerged)
    rows += scoped("head-layout", "heads merged by a reshape without a transpose", HF, unmerged)
    swapped = Edit(
        """
        keys = self.key(inputs)
        values = self.value(inputs)
        """,
        """
        keys = self.value(inputs)
        values = self.key(inputs)
        """,
    )
    swapped_self = Edit(
        """
        keys = self.key(hidden_states)
        values = self.value(hidden_states)
        """,
        """
        keys = self.value(hidden_states)
        values = self.key(hidden_states)
        """,
    )
    rows += scoped("key-value-swapped", "key and value projections exchanged everywhere", HF, swapped, swapped_self)
    rows += scoped("key-value-swapped", "key and value projections exchanged", HF, swapped, scopes=CROSS)
    rows += scoped("key-value-swapped", "key and value projections exchanged (self-attention)", HF, swapped_self)
    softmax = "attention_probs = nn.Softmax(dim=-1)(attention_scores)"
    queries = Edit(softmax, "attention_probs = attention_scores.softmax(dim=-2)")
    heads = Edit(softmax, "attention_probs = attention_scores.softmax(dim=1)")
    rows += scoped("softmax-axis", "softmax over the queries", HF, queries, scopes=ALL)
    rows += scoped("softmax-axis", "softmax over the heads", HF, heads)
    return rows


def _weights() -> list[Deviation]:
    rows: list[Deviation] = []
    names = {
        "query": r"query\.{}$",
        "key": r"key\.{}$",
        "value": r"value\.{}$",
        "output projection": r"output\.dense\.{}$",
        "first MLP": r"mlp\.dense1\.{}$",
        "second MLP": r"mlp\.dense2\.{}$",
    }
    for name, pattern in names.items():
        weight, bias = pattern.format("weight"), pattern.format("bias")
        places = PLACES if name in ("query", "value", "first MLP") else {"": ""}
        for place, path in places.items():
            rows += changed("weight-transposed", HF, {f"{name} weights transposed{place}": transposed(path + weight)})
            if name != "key":  # softmax does not see it
                rows += changed("bias-missing", HF, {f"{name} bias left out{place}": zero(path + bias)})
    rows += changed(
        "weight-transposed",
        HF,
        {
            "all square matrices of attention transposed": transposed(r"(query|key|value|dense)\.weight$"),
            "all square matrices transposed": transposed(
                r"attention.*(query|key|value|dense\d?)\.weight$|mlp.*weight$"
            ),
            "output projection transposed in the decoder": transposed(r"decoding.*output\.dense\.weight$"),
            "value weights reshaped where they should be transposed": reread(r"value\.weight$"),
            "final layer reshaped where it should be transposed": reread(r"final_layer\.weight$"),
        },
    )
    rows += changed(
        "bias-missing",
        HF,
        {
            "query, key and value biases left out": zero(r"(query|key|value)\.bias$"),
            "all biases of attention left out": zero(r"(query|key|value|output\.dense)\.bias$"),
            "biases of the MLPs left out": zero(r"mlp\.dense[12]\.bias$"),
            "bias of the final layer left out": zero(r"final_layer\.bias$"),
            "bias of the output embedding left out": zero(r"embedding_decoder\.bias$"),
            "biases of all linear maps left out": zero(r"(query|key|value|dense\d?|final_layer|classifier)\.bias$"),
            "biases of the layer norms left out": zero(r"layernorm\d?\.bias$"),
            "bias of the position projection left out": zero(r"positions_projection\.bias$"),
            "bias of the 1 x 1 convolution left out": zero(r"convnet_1x1\.bias$"),
            "bias of the linear map after patching left out": zero(r"conv_after_patches\.bias$"),
        },
    )
    return rows


def _residuals() -> list[Deviation]:
    rows: list[Deviation] = []
    test = "if self.use_query_residual:"
    for variant, form in {
        "query residual of the encoder's cross-attention reversed": '!= (self.where == "cross"):',
        "query residual of the decoder reversed": '!= (self.where == "decoder"):',
        "residual around self-attention left out": 'and self.where != "self":',
        "no residual around any attention": "and False:",
    }.items():
        rows += scoped("query-residual", variant, HF, Edit(test, f"if self.use_query_residual {form}"))
    rows += scoped(
        "query-residual",
        "the normed queries are added",
        HF,
        Edit(
            "attention_output = attention_output + hidden_states",
            "attention_output = attention_output + self.self.layernorm1(hidden_states)",
        ),
        scopes=((), ("cross",)),
    )
    old = "layer_output = layer_output + attention_output  # residual connection"
    none, early = Edit(old, "pass"), Edit(old, "layer_output = layer_output + hidden_states")
    normed = Edit(old, "layer_output = layer_output + self.layernorm(attention_output)")
    rows += scoped("mlp-residual", "no residual around the MLP", HF, none, scopes=ALL)
    rows += scoped("mlp-residual", "the layer's input is added to the MLP's output", HF, early, scopes=((), ("self",)))
    rows += scoped("mlp-residual", "the normed input is added to the MLP's output", HF, normed, scopes=((), ("self",)))
    return rows


ROWS: tuple[Deviation, ...] = (
    *_activations(),
    *_norms(),
    *_attention(),
    *_weights(),
    *_residuals(),
)
