"""Several questions about one input, with one learned query for each: Perceiver IO's multitask GLUE in small."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
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
from ...models.perceiver_io import PerceiverIO
from ..recipe import Batch, Recipe, Settings, Stage, Task
from .questions import LENGTH, LETTERS, QUESTIONS, asked

WIDTH = 64
LAYERS = 3
LATENTS = 8


def model(name: str) -> PerceiverIO:
    """Of "queries", one for each question with two logits; or of one "shared" query with two logits a question."""
    count = len(QUESTIONS)
    queries, outputs = (count, 2) if name == "queries" else (1, 2 * count)
    encoder = Encoder(WIDTH, LATENTS, WIDTH, layers=LAYERS, cross_heads=4, self_heads=4)
    decoder = Decoder(WIDTH, WIDTH, trainable_queries(queries, WIDTH), outputs, heads=4)
    return PerceiverIO(encoder, TextInput(LETTERS, LENGTH, WIDTH), decoder)


@dataclass(frozen=True)
class Multitask(Task):
    """One of both models on endless sequences of all questions; what was trained before stays beside it."""

    name: str
    tests: int = 2048

    @cached_property
    def data(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return asked(np.random.default_rng((self.seed, 0)), self.tests, test=True)

    def init(self, before: Tree = None) -> Tree:
        fresh = model(self.name).init(self.seed)
        # as large as the embeddings: half of the matter is where letters are
        fresh["input"]["positions"]["table"] *= 50
        return {**(before or {}), self.name: fresh}

    def saved(self, params: Tree) -> tuple[Any, Tree]:
        return model(self.name), params[self.name]

    def trainable(self, path: str) -> bool:
        return path.startswith(f"{self.name}/")

    def batch(self, step: int) -> dict[str, np.ndarray]:
        sequences, questions, answers = asked(np.random.default_rng((self.seed, 1, step)), self.batch_size)
        return {"ids": sequences, "questions": questions, "answers": answers}

    def loss(self, params: Tree, batch: Batch, call: Call) -> tuple[Any, dict[str, Any]]:
        logits = self.logits(params[self.name], self.name, batch["ids"], batch["questions"])
        return ops.cross_entropy(logits, batch["answers"]), {}

    def logits(self, p: Tree, name: str, ids: np.ndarray, questions: np.ndarray) -> Any:
        """ids (B, LENGTH), questions (B,) -> (B, 2): no and yes to the question that is asked."""
        every = model(name).apply(p, ids)
        every = ops.reshape(every, shape=(len(ids), len(QUESTIONS), 2))
        return ops.take_along_axis(every, questions[:, None, None], axis=1)[:, 0]

    def evaluate(self, params: Tree) -> dict[str, float]:
        """The mean of the questions' accuracies, and each: of this model, and of the one with a shared query."""
        found = self.accuracies(params[self.name], self.name)
        if "shared" in params and self.name != "shared":
            shared = self.accuracies(params["shared"], "shared")
            found |= {f"{name}_shared_query": value for name, value in shared.items()}
        return found

    def accuracies(self, p: Tree, name: str) -> dict[str, float]:
        """`mean_accuracy`, and by question."""
        ids, questions, answers = self.data
        right = to_host(array_of(self.logits(p, name, ids, questions))).argmax(-1) == answers
        each = {question: float(right[questions == i].mean()) for i, question in enumerate(QUESTIONS)}
        return {"mean_accuracy": float(np.mean(list(each.values()))), **each}

    def baselines(self) -> dict[str, float]:
        return {"likelier answer": likelier_answer(*self.data[1:])}

    def show(self, params: Tree, folder: Path) -> list[Path]:
        """questions.txt: the accuracy of each question by both models."""
        write_text(folder / "questions.txt", table(self.evaluate(params), self.baselines()))
        return [folder / "questions.txt"]


def likelier_answer(questions: np.ndarray, answers: np.ndarray) -> float:
    """The mean accuracy of always giving the answer that is right more often, question by question."""
    shares = [answers[questions == i].mean() for i in range(len(QUESTIONS))]
    return float(np.mean([max(share, 1 - share) for share in shares]))


def table(found: Mapping[str, float], baselines: Mapping[str, float]) -> str:
    """A line for each question and the mean: with a query each, and with one query for all."""
    lines = [f"{'':<16}{'query each':>12}{'shared query':>14}\n"]
    for name in (*QUESTIONS, "mean_accuracy"):
        shared = found.get(f"{name}_shared_query")
        told = "-" if shared is None else f"{shared:.1%}"
        lines.append(f"{name.replace('_', ' '):<16}{found[name]:>12.1%}{told:>14}\n")
    return "".join([*lines, *(f"{name:<16}{value:>12.1%}\n" for name, value in baselines.items())])


_FULL = Settings(steps=3000, batch_size=64, learning_rate=2e-3, warmup=100)
_QUICK = Settings(steps=100, batch_size=64, learning_rate=1.5e-3, warmup=10, save_every=20)


RECIPES = (
    Recipe(
        name="multitask",
        what="Answer eight questions about sequences of letters, with a query for each.",
        model="Perceiver IO: 8 latents, one learned query for each question",
        data="generated sequences of 16 letters, half of which answer their question with yes",
        paper="Perceiver IO (2107.14795), section 4.1 and table 3",
        metric="mean_accuracy",
        better="higher",
        threshold=0.82,
        quick_threshold=0.56,
        expected="86 % on average; 95 % with one query for all tasks",
        minutes=5,
        stages=(
            Stage("shared", partial(Multitask, name="shared"), _FULL, replace(_QUICK, steps=20)),
            Stage("queries", partial(Multitask, name="queries"), _FULL, _QUICK),
        ),
    ),
)
