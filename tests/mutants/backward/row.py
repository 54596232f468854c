"""A row of the table of backward mutants, and the models that rows name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mutants.deviations.row import SCOPE_NAMES, Change
from mutants.models import Model
from mutants.source import Edit

FP, OF, LP, HF = "lucidrains-flamingo", "open-flamingo", "lucidrains-perceiver", "hf"
IDEFICS, IDEFICS2, DM = "idefics", "idefics2", "deepmind"


@dataclass(frozen=True)
class Row:
    """A wrong backward pass. `point` is a pattern of the traced point at which it begins, the last in the run's order.

    causes: the first is the answer, the others are as good.
    """

    causes: tuple[str, ...]
    variant: str
    models: tuple[str, ...]
    point: str
    edits: tuple[Edit, ...] = ()
    scopes: tuple[str, ...] = ()
    change: Change | None = None

    def concerns(self, model: Model) -> bool:
        return f"{model.peer}/{model.name}" in self.models


def names(peer: str, *models: str) -> tuple[str, ...]:
    return tuple(f"{peer}/{model}" for model in models)


FLAMINGO = (*names(FP, "resampler_4d"), *names(OF, "resampler_embs"))
GATED = (*names(FP, "gated_immediate"), *names(OF, "gated_all"))
LUCID = names(LP, "perceiver_2d", "io")
TRANSFORMERS = names(HF, "model_mask", "masked_lm")
STOPPED, FACTOR, SIGN = ("gradient-stopped",), ("gradient-factor",), ("gradient-sign",)
SOFTMAX, NORM = ("softmax-backward",), ("norm-backward",)
SCALE = ("attention-scale-backward",)
ACTIVATION = ("activation-backward",)
MIXED = r"attention\.(mixed|softmax|weights)$|attention$"


def edit(
    causes: tuple[str, ...],
    variant: str,
    models: tuple[str, ...],
    point: str,
    *edits: tuple[str, str],
    scopes: Iterable[tuple[str, ...]] = ((),),
) -> list[Row]:
    made = tuple(Edit(old, new) for old, new in edits)
    return [Row(causes, variant + SCOPE_NAMES[s], models, point, made, s) for s in scopes]
