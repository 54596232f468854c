"""Autoregressive language modelling: Perceiver AR on bytes of English prose (Hawthorne et al. 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from ...autograd import ops
from ...autograd.backend import to_host
from ...autograd.core import array_of
from ...autograd.tree import Tree
from ...host.files import write_text
from ...models.call import Call
from ...models.inputs.bytes import VOCABULARY, decode, encode
from ...models.perceiver_ar import PerceiverAR, generate
from ...models.rotary import Rotary, frequencies
from ..recipe import Batch, Recipe, Settings, Stage, Task, arrays_like
from .nearby import look_back
from .ngrams import Trigrams, lzma_bits
from .prose import ALPHABET, ids_of, prose, symbols

WIDTH = 16
"""Channels of a head."""
BACK = (1, 2, 3, 4, 5, 6, 7, 8), (1, 2, 4, 8, 3, 6, 12, 16)
"""How many bytes back heads look at the start: as many as there are, in cross-attention and in self-attention."""


def model(length: int, latents: int, channels: int, layers: int) -> PerceiverAR:
    """As the paper's, small: rotary positions in cross- and self-attention, squared ReLU, MLPs 4 times as wide.

    All channels of heads turn, by wavelengths from 6 to 350 bytes.
    """
    rotary, heads = Rotary(frequencies(WIDTH, longest=100)), channels // WIDTH
    return PerceiverAR(
        vocabulary=VOCABULARY,
        length=length,
        latents=latents,
        channels=channels,
        layers=layers,
        cross_heads=heads,
        self_heads=heads,
        cross_rotary=rotary,
        self_rotary=rotary,
    )


FULL = model(length=64, latents=32, channels=64, layers=2)
QUICK = model(length=32, latents=16, channels=128, layers=1)


@dataclass(frozen=True)
class Generate(Task):
    """Windows of the text, `model.length` bytes; each latent, of the later half, predicts the byte after its own."""

    model: PerceiverAR

    @cached_property
    def text(self) -> tuple[np.ndarray, np.ndarray]:
        """Byte ids to train on and to test on."""
        return ids_of(prose().train), ids_of(prose().test)

    def init(self, before: Tree = None) -> Tree:
        """As the model's, but embeddings are larger and attention looks nearby: see `recipes.nearby`."""
        params = self.model.init(self.seed)
        params["embedding"] *= np.float32(_LARGER)
        for layers, offsets, rotary in zip(
            (params["cross_attentions"], params["layers"]), BACK, (self.model.cross_rotary, self.model.self_rotary)
        ):
            for layer in layers:
                assert rotary is not None
                for name in ("query", "key"):
                    layer["attention"][name]["weight"] *= np.float32(_CONTENT)  # so that places count more than bytes
                look_back(layer["attention"], offsets[: self.model.self_heads], rotary, _GAIN)
        return params

    def batch(self, step: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng((self.seed, step))
        return self.windows(self.text[0], rng.integers(len(self.text[0]), size=self.batch_size))

    def windows(self, text: np.ndarray, starts: np.ndarray) -> dict[str, np.ndarray]:
        """The windows of the text, a ring, whose first latent is at `starts` (B,): ids (B, M), targets (B, N)."""
        prefix = self.model.length - self.model.latents
        ids = text[(starts[:, None] - prefix + np.arange(self.model.length + 1)) % len(text)]
        return {"ids": ids[:, :-1], "targets": ids[:, prefix + 1 :]}

    def logits(self, params: Tree, ids: np.ndarray) -> Any:
        """ids (B, M) -> logits (B, N, 262) of the byte after each latent."""
        placed = arrays_like({"embedding": array_of(params["embedding"])}, {"ids": ids})["ids"]
        return self.model.apply(params, placed, prefix=self.model.length - self.model.latents)

    def loss(self, params: Tree, batch: Batch, call: Call) -> tuple[Any, dict[str, Any]]:
        loss = ops.cross_entropy(self.logits(params, batch["ids"]), batch["targets"])
        return loss, {"bits": array_of(loss) / np.log(2).astype(np.float32)}

    def evaluate(self, params: Tree) -> dict[str, float]:
        """Each byte of the held-out text is predicted once, from at least `length - latents` bytes before it."""
        text = self.text[1]
        starts = np.arange(-1, len(text) - 1, self.model.latents)
        total = 0.0
        for some in np.split(starts, range(32, len(starts), 32)):
            made = self.windows(text, some)
            twice = some[:, None] + 1 + np.arange(self.model.latents) >= len(text)  # the ring's beginning, again
            targets = np.where(twice, -100, made["targets"])
            total += float(ops.cross_entropy(self.logits(params, made["ids"]), targets, reduction="sum"))
        return {"bits_per_byte": total / len(text) / float(np.log(2))}

    def baselines(self) -> dict[str, float]:
        """`trigram`: a smoothed trigram model of the same text; `lzma`: the held-out text compressed alone, and
        `lzma_after_training_text` with all the text to train on in its window, as if that cost nothing.
        """
        train, test = ("".join(f"{line}\n" for line in lines).encode() for lines in (prose().train, prose().test))
        trigrams = Trigrams.of(symbols(self.text[0]), len(ALPHABET))
        return {
            "trigram": trigrams.bits(symbols(self.text[1])),
            "lzma": lzma_bits(test),
            "lzma_after_training_text": lzma_bits(test, train),
        }

    def show(self, params: Tree, folder: Path) -> list[Path]:
        """samples.txt: held-out paragraphs' beginnings, continued."""
        lines = [line for line in prose().test if len(line) > _PROMPT][:_SAMPLES]
        prompts = np.stack([encode(line[:_PROMPT]) for line in lines])
        made = generate(self.model, params, prompts, most=_DRAWN, latents=1, temperature=_TEMPERATURE, top_p=0.95)
        text = [f"{decode(p)}|{decode(ids)[_PROMPT:]}\n" for p, ids in zip(prompts, to_host(made))]
        path = folder / "samples.txt"
        write_text(path, "\n".join(text))
        return [path]


_SAMPLES, _PROMPT, _DRAWN, _TEMPERATURE = 8, 80, 240, 0.7

_LARGER, _GAIN, _CONTENT = 50.0, 4.0, 0.2
"""Factors on embeddings, so that learning changes them slowly; on biases that hold places; on what looks for bytes."""

_OPTIONS = {"b2": 0.98}
_FULL = Settings(3000, 16, 5e-3, warmup=30, weight_decay=0.01, options=_OPTIONS)
_QUICK = Settings(80, 16, 6e-3, warmup=10, weight_decay=0.01, options=_OPTIONS, save_every=50)


RECIPES = (
    Recipe(
        name="generate",
        what="Write English prose, byte by byte.",
        model="Perceiver AR: 64 bytes, the last 32 of them latents, rotary positions, 2 self-attends",
        data="the prose of Python's language reference (pydoc_data.topics), cleaned of markup; whole topics held out",
        paper="Perceiver AR (2202.07765), section 3",
        metric="bits_per_byte",
        better="lower",
        threshold=2.0,
        quick_threshold=4.0,
        expected="about 1.88 bits a byte, where a trigram model needs 2.69 and lzma 2.57",
        minutes=4,
        stages=(Stage("train", partial(Generate, model=FULL), _FULL, _QUICK, partial(Generate, model=QUICK)),),
    ),
)
