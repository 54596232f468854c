"""Masked language modelling: Perceiver IO on bytes of English prose (Perceiver IO, section 4.1)."""

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
from ...models.decoder import Decoder, trainable_queries
from ...models.encoder import Encoder
from ...models.inputs import TextInput
from ...models.inputs.bytes import MASK, OFFSET, VOCABULARY, decode, encode
from ...models.outputs import TiedEmbedding
from ...models.perceiver_io import PerceiverIO
from ..recipe import Batch, Recipe, Settings, Stage, Task, accuracy, hits
from .nearby import keep_places, look_aside, table
from .ngrams import Trigrams
from .prose import ALPHABET, ids_of, prose, symbols

FREQUENCIES = 8
"""Of the waves that positions start as; a head of attention has a channel for each sine and cosine."""
MASKED = 0.15
"""The share of the bytes that is masked, as in BERT and the paper."""


@dataclass(frozen=True)
class Size:
    """The sizes of the model: bytes, latents, channels of inputs and queries, of latents, of the decoder's values."""

    length: int
    latents: int
    inputs: int
    channels: int
    values: int
    layers: int

    @property
    def masked(self) -> int:
        """The number of masked bytes in each window."""
        return round(MASKED * self.length)


SIZE = Size(length=32, latents=16, inputs=144, channels=144, values=288, layers=1)
HEADS = 8
READ = (-3.5, -2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5)
"""Where the heads of latents look at the start, in bytes from a latent's place; there is one latent for two bytes."""
RECALLED = (-5, -3, -1.5, -0.5, 0.5, 1.5, 3, 5)
"""Where the heads of queries look, in bytes from a query's."""


def model(size: Size) -> PerceiverIO:
    """The paper's masked language model, small: 262 ids, learned positions, one learned query for each byte.

    Unlike the paper's its decoder is wider than its encoder: it is computed for masked bytes alone.
    """
    width = HEADS * 2 * FREQUENCIES
    encoder = Encoder(
        inputs=size.inputs,
        latents=size.latents,
        channels=size.channels,
        layers=size.layers,
        cross_heads=HEADS,
        self_heads=HEADS,
        qk_channels=width,
        v_channels=size.channels,
    )
    decoder = Decoder(
        size.channels,
        size.inputs,
        queries=trainable_queries(size.length, size.inputs),
        heads=HEADS,
        qk_channels=width,
        v_channels=size.values,
        widening=4,
    )
    return PerceiverIO(encoder, TextInput(VOCABULARY, size.length, size.inputs), decoder, TiedEmbedding(VOCABULARY))


@dataclass(frozen=True)
class Language(Task):
    """Windows of the text with 15 % of their bytes masked, the same number in each, at places drawn anew each time.

    The loss is that of masked bytes and, with a small weight, of as many that are seen: to give these back is learned
    first, and what is needed for it helps with the others.
    """

    size: Size

    @cached_property
    def model(self) -> PerceiverIO:
        return model(self.size)

    @cached_property
    def text(self) -> tuple[np.ndarray, np.ndarray]:
        """Byte ids to train on and to test on."""
        return ids_of(prose().train), ids_of(prose().test)

    def init(self, before: Tree = None) -> Tree:
        """As the model's, but positions start as waves and attention looks nearby: see `recipes.nearby`."""
        params = self.model.init(self.seed)
        size, n = self.size, 2 * FREQUENCIES
        frequencies = np.geomspace(2, np.pi / size.length, FREQUENCIES)  # from 3 bytes a period to two windows
        places = np.arange(size.length)
        params["input"]["embedding"] *= np.float32(_DEVIATION)
        params["input"]["embedding"][:, -n:] = 0
        params["input"]["positions"]["table"] = table(places, frequencies, size.inputs, _DEVIATION)
        params["decoder"]["queries"]["table"] = table(places, frequencies, size.inputs, _DEVIATION)
        middles = (np.arange(size.latents) + 0.5) * size.length / size.latents - 0.5
        encoder, decoder = params["encoder"], params["decoder"]["cross_attention"]
        encoder["latents"] = table(middles, frequencies, size.channels, _LATENTS)
        look_aside(encoder["cross_attention"]["attention"], READ, frequencies, _GAIN)
        look_aside(decoder["attention"], RECALLED, frequencies, _GAIN)
        keep_places([encoder["cross_attention"], *encoder["block"]], n)
        return params

    def batch(self, step: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng((self.seed, step))
        return self.windows(self.text[0], rng.integers(len(self.text[0]), size=self.batch_size), rng)

    def windows(self, text: np.ndarray, starts: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """The windows of the text, a ring, that begin at `starts` (B,).

        ids (B, M) without masks; places that are masked, `masked` (B, O), and others that are not, `seen` (B, O).
        """
        ids = text[(starts[:, None] + np.arange(self.size.length)) % len(text)]
        order = rng.permuted(np.broadcast_to(np.arange(self.size.length), ids.shape), axis=1)
        n = self.size.masked
        return {"ids": ids, "masked": np.sort(order[:, :n], 1), "seen": np.sort(order[:, n : 2 * n], 1)}

    def logits(self, params: Tree, ids: np.ndarray, masked: np.ndarray, asked: np.ndarray | None = None) -> Any:
        """ids (B, M), masked (B, O): places that the model does not see -> logits (B, O, 262) of the bytes there.

        asked (B, K): other places to decode instead.
        """
        given = ids.copy()
        np.put_along_axis(given, masked, MASK, 1)
        table = params["decoder"]["queries"]["table"]
        return self.model.apply(params, given, queries=ops.take(table, masked if asked is None else asked, axis=0))

    def loss(self, params: Tree, batch: Batch, call: Call) -> tuple[Any, dict[str, Any]]:
        ids, masked, n = batch["ids"], batch["masked"], self.size.masked
        asked = np.concatenate([masked, batch["seen"]], 1)
        logits, targets = self.logits(params, ids, masked, asked), np.take_along_axis(ids, asked, 1)
        loss = ops.cross_entropy(logits[:, :n], targets[:, :n])
        seen = ops.cross_entropy(logits[:, n:], targets[:, n:])
        return ops.add(loss, ops.multiply(seen, _SEEN)), {
            "masked_loss": array_of(loss),
            "masked_accuracy": accuracy(logits[:, :n], targets[:, :n]),
        }

    @cached_property
    def test(self) -> dict[str, np.ndarray]:
        """All held-out text in windows side by side, masked in the same places whatever the seed."""
        text = self.text[1]
        starts = np.arange(0, len(text) - self.size.length + 1, self.size.length)
        return self.windows(text, starts, np.random.default_rng(0))

    def evaluate(self, params: Tree) -> dict[str, float]:
        right, bits = [], []
        for start in range(0, len(self.test["ids"]), 128):
            ids, masked = (array[start : start + 128] for array in (self.test["ids"], self.test["masked"]))
            targets = np.take_along_axis(ids, masked, 1)
            logits = self.logits(params, ids, masked)
            right.append(to_host(hits(logits, targets)).ravel())
            bits.append(to_host(ops.cross_entropy(logits, targets, reduction="none")).ravel() / np.log(2))
        return {
            "masked_accuracy": float(np.concatenate(right).mean()),
            "masked_bits": float(np.concatenate(bits).mean()),
        }

    @cached_property
    def trigrams(self) -> Trigrams:
        """Of the text to train on."""
        return Trigrams.of(symbols(self.text[0]), len(ALPHABET))

    def baselines(self) -> dict[str, float]:
        """`trigram`: of a trigram model that sees the left and the right neighbour of each masked byte.

        `trigram_of_all`: of the same model, given all bytes that are seen: nothing that knows only trigrams can do
        better. `commonest`: the commonest byte, always.
        """
        ids, masked = self.test["ids"], self.test["masked"]
        targets = np.take_along_axis(symbols(ids), masked, 1)
        seen = symbols(ids)
        np.put_along_axis(seen, masked, -1, 1)  # filled across the windows' borders, which the model is not told of

        def right(filled: np.ndarray) -> float:
            return float((np.take_along_axis(filled.reshape(ids.shape), masked, 1) == targets).mean())

        return {
            "trigram": right(self.trigrams.fill_between(seen.ravel())),
            "trigram_of_all": right(self.trigrams.fill(seen.ravel())),
            "commonest": float((targets == np.bincount(symbols(self.text[0])).argmax()).mean()),
        }

    def show(self, params: Tree, folder: Path) -> list[Path]:
        """filled.txt: the beginnings of held-out paragraphs, as masked, and as filled in by the model and trigrams."""
        text = self.text[1]
        beginnings = np.concatenate([[0], np.flatnonzero(text == encode("\n"))[:-1] + 1])[:_SHOWN]
        shown = self.windows(text, beginnings, np.random.default_rng(1))
        ids, masked = shown["ids"], shown["masked"]
        filled = ids.copy()
        np.put_along_axis(filled, masked, to_host(self.logits(params, ids, masked)).argmax(-1), 1)
        lines = []
        for row, places, guess in zip(ids, masked, filled):
            seen = symbols(row)
            seen[places] = -1
            lines += [
                f"text       {decode(row)}",
                f"masked     {''.join('·' if i in places else c for i, c in enumerate(decode(row)))}",
                f"Perceiver  {decode(guess)}",
                f"trigrams   {decode(ALPHABET[self.trigrams.fill(seen)] + OFFSET)}",
            ]
        path = folder / "filled.txt"
        write_text(path, "\n".join(line.replace("\n", "¶") + "\n" * (i % 4 == 3) for i, line in enumerate(lines)))
        return [path]


_SHOWN = 24
"""Paragraphs in filled.txt."""
_SEEN = np.float32(0.5)
"""The weight of bytes that are seen."""
_DEVIATION = 0.1
"""Of embeddings and positions at the start: alike, so that neither drowns the other in their norm."""
_LATENTS = 2.0
"""Of the latents' places: layers add to the other channels."""
_GAIN = 2.0
"""Of queries and keys: at the next byte but one, attention is a few hundredths of what it is at its place."""


_OPTIONS = {"b2": 0.98}
_FULL = Settings(2200, 64, 3e-3, warmup=20, weight_decay=0.01, options=_OPTIONS)
_QUICK = Settings(70, 32, 4e-3, warmup=10, weight_decay=0.01, options=_OPTIONS, save_every=30)


RECIPES = (
    Recipe(
        name="language",
        what="Fill in masked bytes of English prose.",
        model="Perceiver IO: 32 bytes, 16 latents, learned positions; a query for each masked byte",
        data="the prose of Python's language reference (pydoc_data.topics), cleaned of markup; whole topics held out",
        paper="Perceiver IO (2107.14795), section 4.1",
        metric="masked_accuracy",
        better="higher",
        threshold=0.68,
        quick_threshold=0.2,
        expected="about 72 %, where trigrams with both neighbours reach 44 %, and with all seen bytes 68 %",
        minutes=6,
        stages=(Stage("train", partial(Language, size=SIZE), _FULL, _QUICK),),
    ),
)
