"""`train language`: masked bytes of a text are filled in, by the recipe of that name."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...autograd.backend import to_host
from ...autograd.tree import Tree
from ...errors import InputError, input_errors
from ...host.files import write_text
from ...models.inputs.bytes import decode
from ..recipe import Recipe, Settings, Stage
from ..recipes.language import FREQUENCIES, HEADS, Language, Size, model
from . import Chosen
from .texts import Text, read_text


@dataclass(frozen=True)
class OwnLanguage(Language):
    """The recipe's task on a text of a person's own."""

    own: Text | None = None

    @property
    def text(self) -> tuple[np.ndarray, np.ndarray]:
        assert self.own is not None
        return self.own.train, self.own.test

    def about(self) -> dict[str, Any]:
        return {"task": "language", "length": self.size.length}

    def baselines(self) -> dict[str, float]:
        """`trigram`: of a trigram model that sees both neighbours of a masked byte; `commonest`: that byte, always."""
        assert self.own is not None
        ids, masked = self.test["ids"], self.test["masked"]
        seen = self.own.symbols(ids)
        targets = np.take_along_axis(seen, masked, 1)
        commonest = np.bincount(self.own.symbols(self.own.train)).argmax()
        hidden = seen.copy()
        np.put_along_axis(hidden, masked, -1, 1)
        filled = self.own.trigrams.fill_between(hidden.ravel()).reshape(ids.shape)
        return {
            "trigram": float((np.take_along_axis(filled, masked, 1) == targets).mean()),
            "commonest": float((targets == commonest).mean()),
        }

    def show(self, params: Tree, folder: Path) -> list[Path]:
        """filled.txt: windows of the text held out, as masked and as filled in."""
        ids, masked = self.test["ids"][:24], self.test["masked"][:24]
        filled = ids.copy()
        np.put_along_axis(filled, masked, to_host(self.logits(params, ids, masked)).argmax(-1), 1)
        lines = []
        for row, places, guess in zip(ids, masked, filled):
            hidden = row.copy()
            hidden[places] = ord("_") + 6
            lines += [f"text       {decode(row)}", f"masked     {decode(hidden)}", f"Perceiver  {decode(guess)}", ""]
        path = folder / "filled.txt"
        write_text(path, "\n".join(line.replace("\n", "¶") for line in lines) + "\n")
        return [path]


def size_of(chosen: Chosen) -> Size:
    """The recipe's sizes, but for those that were chosen; latents follow the length, the decoder the channels."""
    length = chosen.length or 32
    channels = chosen.channels or 144
    if channels % HEADS or channels < 2 * FREQUENCIES:
        raise InputError(
            f"--channels {channels} must be a multiple of {HEADS}, the number of heads, from {2 * FREQUENCIES}"
        )
    if length < 8:
        raise InputError(f"--length {length} must be at least 8 bytes")
    layers = 1 if chosen.layers is None else chosen.layers
    return Size(length, chosen.latents or max(length // 2, 1), channels, channels, 2 * channels, layers)


def recipe(chosen: Chosen) -> Recipe:
    """The recipe of a text."""
    size = size_of(chosen)
    text = read_text(chosen.data, chosen.test, size.length)
    with input_errors(f"{chosen.data}: no model of these sizes can be made"):
        made = model(size)
    steps = chosen.steps or 2200
    settings = Settings(
        steps, chosen.batch or 64, chosen.learning_rate or 3e-3, warmup=min(steps // 10, 20), weight_decay=0.01,
        options={"b2": 0.98}, evaluate_every=max(steps // 5, 1),
    )  # fmt: skip
    return Recipe(
        name="language",
        what="Fill in masked bytes of a text.",
        model=f"Perceiver IO: {size.length} bytes, {size.latents} latents",
        data=f"{len(text.train):,} bytes of {chosen.data}, tested on {len(text.test):,}",
        paper="",
        metric="masked_accuracy",
        better="higher",
        threshold=None,
        quick_threshold=None,
        expected="",
        minutes=0,
        stages=(Stage("train", partial(OwnLanguage, size=size, own=text), settings, settings),),
        identity={"data": text.identity(), "model": repr(made)},
    )
