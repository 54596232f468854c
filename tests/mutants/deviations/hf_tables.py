"""Deviations of tables, embeddings and of single steps of a layer planted in transformers' Perceiver."""

from __future__ import annotations

from torch import nn

from mutants.deviations.row import Change, Deviation, NotApplicable, changed, scoped, submodules, transposed, zero
from mutants.source import Edit

HF = ("hf",)
TEXT = "masked_lm|sequence"


def exchanged(one: str, two: str) -> Change:
    """The maps of these names take each other's weights, in every self-attention."""

    def change(module: nn.Module) -> None:
        for part in submodules(module, r"self_attends.*attention\.self$"):
            first, second = (getattr(part, name) for name in (one, two))
            if first.weight.shape != second.weight.shape:
                raise NotApplicable((one, two))
            for a, b in zip(first.parameters(), second.parameters()):
                a.data, b.data = b.data.clone(), a.data.clone()

    return change


def _tables() -> list[Deviation]:
    rows: list[Deviation] = []
    places = "position_ids = torch.arange(0, seq_length, device=inputs.device)"
    for name, form in {
        "positions one later, the last row twice": "(torch.arange(0, seq_length) + 1).clamp(max=LAST)",
        "positions one earlier, the first row twice": "(torch.arange(0, seq_length) - 1).clamp(min=0)",
        "positions in reverse": "torch.arange(0, seq_length).flip(0)",
    }.items():
        form = form.replace("LAST", "self.position_embeddings.num_embeddings - 1")
        rows += scoped("position-use", name, HF, Edit(places, f"position_ids = {form}"), only=TEXT)
    tokens = "embeddings_without_pos = self.embeddings(inputs)"
    scaled = Edit(tokens, f"{tokens} * self.config.d_model**0.5")
    rows += scoped("embedding-scale", "embeddings times the square root of their width", HF, scaled, only=TEXT)
    added = "output = output + self.bias"
    logits = Edit(added, "output = output * d_model**-0.5 + self.bias")
    rows += scoped("embedding-scale", "tied logits by the square root of the width", HF, logits, only="masked_lm")
    return rows


def _steps() -> list[Deviation]:
    last = "hidden_states = self.dense2(hidden_states)"
    twice = Edit(last, f"{last}\nhidden_states = self.intermediate_act_fn(hidden_states)", "PerceiverMLP")
    rows = scoped("activation", "a second activation, after the MLP's last map", HF, twice, scopes=((), ("self",)))
    norm = Edit("inputs = self.layernorm2(inputs)", "raw = inputs\ninputs = self.layernorm2(inputs)")
    for name in ("key", "value"):
        use = Edit(f"{name}s = self.{name}(inputs)", f"{name}s = self.{name}(raw)")
        rows += scoped("norm-missing", f"{name}s of inputs that are not normed", HF, norm, use)
    rows += changed(
        "key-value-swapped", HF, {"queries' and keys' weights exchanged": exchanged("query", "key")}, "model|masked_lm"
    )
    rows += changed(
        "weight-transposed",
        HF,
        {"one matrix of the second layer": transposed(r"self_attends\.1\.attention\.self\.value\.weight$")},
    )
    rows += changed(
        "bias-missing",
        HF,
        {"that of audio alone": zero(r"output_postprocessor.*audio.*bias$")},
    )
    return rows


ROWS: tuple[Deviation, ...] = (*_tables(), *_steps())
