"""`train generate`: a text is gone on with byte by byte, by the recipe of that name."""

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
from ...models.inputs.bytes import OFFSET, decode
from ...models.perceiver_ar import generate
from ..recipe import Recipe, Settings, Stage
from ..recipes.generate import WIDTH, Generate, model
from ..recipes.ngrams import lzma_bits
from . import Chosen
from .texts import Text, read_text

_SAMPLES, _DRAWN = 4, 160


@dataclass(frozen=True)
class OwnGenerate(Generate):
    """The recipe's task on a text of a person's own."""

    own: Text | None = None

    @property
    def text(self) -> tuple[np.ndarray, np.ndarray]:
        assert self.own is not None
        return self.own.train, self.own.test

    def about(self) -> dict[str, Any]:
        return {"task": "generate", "length": self.model.length}

    def baselines(self) -> dict[str, float]:
        """Bits a byte of a trigram model, and of `lzma` on the text that is tested on alone."""
        assert self.own is not None
        data = (self.own.test - OFFSET).astype(np.uint8).tobytes()
        return {"trigram": self.own.trigrams.bits(self.own.symbols(self.own.test)), "lzma": lzma_bits(data)}

    def show(self, params: Tree, folder: Path) -> list[Path]:
        """samples.txt: beginnings out of the text that is tested on, gone on with after the bar."""
        assert self.own is not None
        most = self.model.length
        starts = np.linspace(0, len(self.own.test) - most, _SAMPLES).astype(int)
        prompts = np.stack([self.own.test[s : s + most] for s in starts])
        made = generate(self.model, params, prompts, most=_DRAWN, temperature=0.7, top_p=0.95)
        lines = [f"{decode(row[:most])}|{decode(row[most:])}\n" for row in to_host(made)]
        path = folder / "samples.txt"
        write_text(path, "\n".join(lines))
        return [path]


def recipe(chosen: Chosen) -> Recipe:
    """The recipe of a text."""
    length = chosen.length or 64
    latents, channels = chosen.latents or max(length // 2, 1), chosen.channels or 64
    if channels % WIDTH:
        raise InputError(f"--channels {channels} must be a multiple of {WIDTH}, the width of a head")
    text = read_text(chosen.data, chosen.test, length)
    with input_errors(f"{chosen.data}: no model of these sizes can be made"):
        made = model(length, latents, channels, 2 if chosen.layers is None else chosen.layers)
    steps = chosen.steps or 3000
    settings = Settings(
        steps, chosen.batch or 16, chosen.learning_rate or 5e-3, warmup=min(steps // 10, 30), weight_decay=0.01,
        options={"b2": 0.98}, evaluate_every=max(steps // 5, 1),
    )  # fmt: skip
    return Recipe(
        name="generate",
        what="Go on with a text, byte by byte.",
        model=f"Perceiver AR: {length} bytes, the last {latents} of them latents",
        data=f"{len(text.train):,} bytes of {chosen.data}, tested on {len(text.test):,}",
        paper="",
        metric="bits_per_byte",
        better="lower",
        threshold=None,
        quick_threshold=None,
        expected="",
        minutes=0,
        stages=(Stage("train", partial(OwnGenerate, model=made, own=text), settings, settings),),
        identity={"data": text.identity(), "model": repr(made)},
    )
