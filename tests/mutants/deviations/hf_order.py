"""Deviations of masks, order, sharing and precision planted in transformers' Perceiver."""

from __future__ import annotations

from mutants.deviations.row import Deviation, changed, lowered, scoped
from mutants.source import Edit

HF = ("hf",)
FOURIER = "image_fourier|image_conv|flow|multimodal"
MASKED = "mask|masked_lm|sequence"


def _masks() -> list[Deviation]:
    old = """
        attention_mask = create_bidirectional_mask(
            config=self.config,
            inputs_embeds=embedding_output,
            attention_mask=attention_mask,
        )
        """
    inverted = Edit(old, old.replace("attention_mask=attention_mask", "attention_mask=1 - attention_mask"))
    ignored = Edit(old, "attention_mask = None")
    rows = scoped("mask-inverted", "1 - attention_mask used", HF, inverted, only=MASKED)
    rows += scoped("mask-ignored", "attention mask not passed on", HF, ignored, only=MASKED)
    softmax = "attention_probs = nn.Softmax(dim=-1)(attention_scores)"
    zeroed = (
        "attention_probs = attention_probs * (1 if attention_mask is None else (attention_mask == 0).any(-1, True))"
    )
    added = "attention_scores = attention_scores + attention_mask"
    rows += scoped(
        "fully-masked-row", "rows without keys give zero", HF, Edit(softmax, f"{softmax}\n{zeroed}"), only=MASKED
    )
    for value in (1e4, 1e9):
        small = Edit(added, f"attention_scores = attention_scores + attention_mask.clamp(min=-{value})")
        rows += scoped("fully-masked-row", f"-{value:g} added to masked scores", HF, small, only=MASKED)
    after = Edit(
        softmax,
        f"{softmax}\nattention_probs = attention_probs * (1 if M is None else M == 0)".replace("M", "attention_mask"),
    )
    return rows + scoped("fully-masked-row", "masked weights set to zero after the softmax", HF, after, only=MASKED)


def _order() -> list[Deviation]:
    """Sharing of weights between blocks, and the order of what is computed."""
    rows: list[Deviation] = []
    blocks, layers = "for _ in range(self.config.num_blocks):", "for i, layer_module in enumerate(self.self_attends):"
    numbered = Edit(blocks, "for block in range(self.config.num_blocks):")
    call = """
        layer_outputs = layer_module(
            hidden_states,
            attention_mask=attention_mask,
            output_attentions=output_attentions,
        )
        """
    # the modules keep their places, so that traces are named by place, and take the weights of others
    given = """
        n = len(self.self_attends)
        taken = dict(self.self_attends[OTHER].named_parameters())
        layer_outputs = torch.func.functional_call(layer_module, taken, (hidden_states,))
        """
    for variant, other in {
        "the blocks are not shared: the layers are rotated from block to block": "(i + block) % n",
        "the blocks are not shared: every second block uses the layers in reverse": "n - 1 - i if block % 2 else i",
        "the blocks are not shared: the second block uses the layers in rotated order": "(i + (block == 1)) % n",
        "the first layer's weights in the place of every layer's": "0",
        "the last layer's weights in the place of every layer's": "-1",
        "from the second block on, only the first layer's weights": "0 if block else i",
        "in the last block, only the last layer's weights": "-1 if block == self.config.num_blocks - 1 else i",
    }.items():
        rows += scoped(
            "weight-sharing", variant, HF, numbered, Edit(call, given.replace("OTHER", other), "PerceiverEncoder")
        )
    once = Edit(blocks, "for _ in range(1):")
    rows += scoped("weight-sharing", "the block is applied once", HF, once, also=("block-order",))
    reverse = Edit(layers, "for i, layer_module in enumerate(reversed(self.self_attends)):")
    rows += scoped("block-order", "the layers of a block reversed", HF, reverse, also=("weight-sharing",))
    major = given.replace("OTHER", "(block * n + i) // self.config.num_blocks")
    rows += scoped(
        "block-order",
        "each layer repeated before the next, instead of the block",
        HF,
        numbered,
        Edit(call, major, "PerceiverEncoder"),
        also=("weight-sharing",),
    )
    chunk = """
        layer_output = apply_chunking_to_forward(
            self.feed_forward_chunk, self.chunk_size_feed_forward, self.seq_len_dim, attention_output
        )
        """
    parallel = Edit(chunk, "layer_output = self.feed_forward_chunk(hidden_states)")
    rows += scoped("block-order", "attention and MLP in parallel", HF, parallel, scopes=((), ("self",)))
    first = (
        Edit(
            "attention_outputs = self.attention(",
            "if TEST:\n    hidden_states = hidden_states + self.feed_forward_chunk(hidden_states)\n"
            "attention_outputs = self.attention(",
            "PerceiverLayer",
        ),
        Edit(
            "layer_output = layer_output + attention_output  # residual connection",
            "layer_output = attention_output if TEST else layer_output + attention_output",
        ),
    )
    for where, test in (("", "True"), (" (self-attention)", 'self.where == "self"')):
        edits = [Edit(e.old, e.new.replace("TEST", test), e.inside) for e in first]
        rows += scoped("block-order", f"MLP before attention{where}", HF, *edits)
    call = """
        layer_outputs = self.cross_attention(
            hidden_states,
            attention_mask=attention_mask,
            inputs=inputs,
            inputs_mask=inputs_mask,
            output_attentions=output_attentions,
        )
        hidden_states = layer_outputs[0]
        """
    late = "if not return_dict:"
    again = "hidden_states = self.cross_attention(hidden_states, inputs=inputs, inputs_mask=inputs_mask)[0]"
    rows += scoped(
        "block-order",
        "cross-attention after the self-attention blocks",
        HF,
        Edit(call, "layer_outputs = (hidden_states,)", "PerceiverEncoder"),
        Edit(late, f"{again}\n{late}", "PerceiverEncoder"),
    )
    rows += scoped(
        "block-order",
        "cross-attention before every block",
        HF,
        numbered,
        Edit(layers, f"if block:\n    {again}\n{layers}", "PerceiverEncoder"),
        also=("weight-sharing",),
    )
    return rows


def _precision() -> list[Deviation]:
    rows: list[Deviation] = []
    softmax = "attention_probs = nn.Softmax(dim=-1)(attention_scores)"
    for dtype in ("float16", "bfloat16"):
        low = Edit(
            softmax, f"attention_probs = attention_scores.to(torch.{dtype}).softmax(-1).to(attention_scores.dtype)"
        )
        rows += scoped("dtype", f"softmax in {dtype}", HF, low)
        parts = {
            "layer norms": r"layernorm\d?$",
            "MLPs": r"\.mlp$",
            "attention": r"\.attention$",
            "positions": r"(position_embeddings|position_encodings)$",
            "query and key projections": r"\.(query|key)$",
            "the decoder": r"decoding_cross_attention$",
            "the encoder's cross-attention": r"encoder\.cross_attention$",
            "the self-attention layers": r"self_attends\.\d+$",
            "output projections": r"\.output$",
        }
        rows += changed("dtype", HF, {f"{name} in {dtype}": lowered(pattern, dtype) for name, pattern in parts.items()})
    grid = "return torch.stack(array_index_grid, dim=-1)"
    for dtype in ("float16", "bfloat16"):
        low = Edit(grid, f"return torch.stack(array_index_grid, dim=-1).to(torch.{dtype}).to(torch.float64)")
        rows += scoped("dtype", f"grid positions in {dtype}", HF, low, only=FOURIER)
    return rows


ROWS: tuple[Deviation, ...] = (*_masks(), *_order(), *_precision())
