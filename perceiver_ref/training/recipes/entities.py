"""Sets to sets, as in StarCraft: Perceiver IO in place of a Transformer, both trained alike, with what they cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from ...autograd import ops
from ...autograd.tree import Tree
from ...host.files import write_text
from ...models.attention import SelfAttention
from ...models.call import Call
from ...models.constraints import Count
from ...models.decoder import Decoder
from ...models.encoder import Encoder
from ...models.inputs import VectorInput
from ...models.layers import LayerNorm, Linear
from ...models.ledger import Ledger, ledger
from ...models.ledger.sketch import sketch
from ...models.module import Module, part
from ...models.perceiver_io import PerceiverIO
from ...models.pointing import Pointing
from ...models.queries import InputQueries
from ..recipe import Batch, Recipe, Settings, Stage, Task, accuracy, arrays_like
from .battles import CHANNELS, UNITS, battles, nearest_enemies

WIDTH = 64
LAYERS = 3
KEYS = 32
"""Channels of what points, and of what is pointed to."""


@dataclass(frozen=True)
class Transformer(Module):
    """Self-attentions of all units, of the kind that Perceiver IO has of latents, a norm and a linear map."""

    layers: Count
    channels: int
    outputs: int
    heads: int

    @part
    def layer(self) -> SelfAttention:
        """Each of the layers."""
        return SelfAttention(self.channels, self.heads)

    @part
    def norm(self) -> LayerNorm:
        """The norm after them."""
        return LayerNorm(self.channels)

    @part
    def output(self) -> Linear:
        """The map to outputs."""
        return Linear(self.channels, self.outputs)

    def parameters(self) -> Tree:
        layers = [self.layer.parameters() for _ in range(self.layers)]
        return {"layers": layers, "norm": self.norm.parameters(), "output": self.output.parameters()}

    def apply(self, params: Tree, x: Any) -> Any:
        """x (B, U, channels) -> (B, U, outputs)."""
        for p in params["layers"]:
            x = self.layer.apply(p, x)
        return self.output.apply(params["output"], self.norm.apply(params["norm"], x))


def perceiver_io() -> Pointing:
    """16 latents, three layers in all that attend to them or to each other, and units as queries."""
    encoder = Encoder(inputs=WIDTH, latents=16, channels=WIDTH, layers=LAYERS, cross_heads=4, self_heads=4)
    decoder = Decoder(WIDTH, WIDTH, InputQueries(WIDTH), outputs=2 * KEYS, heads=4, query_residual=True)
    return Pointing(CHANNELS, WIDTH, KEYS, PerceiverIO(encoder, VectorInput(WIDTH), decoder))


def transformer() -> Pointing:
    """As many layers, and so as many parameters up to the latents."""
    body: Any = Transformer(LAYERS + 2, WIDTH, 2 * KEYS, heads=4)
    return Pointing(CHANNELS, WIDTH, KEYS, body)


MODELS = {"transformer": transformer, "perceiver_io": perceiver_io}


def cost(name: str) -> Ledger:
    """What the model of this name costs for one battle."""
    return ledger(MODELS[name](), sketch((1, UNITS, CHANNELS), np.float32))


@dataclass(frozen=True)
class Entities(Task):
    """One of both models on endless battles; the parameters of the one trained before stay beside it."""

    name: str
    tests: int = 512

    @cached_property
    def data(self) -> Any:
        return battles(np.random.default_rng((self.seed, 0)), self.tests)

    def init(self, before: Tree = None) -> Tree:
        return {**(before or {}), self.name: MODELS[self.name]().init(self.seed)}

    def saved(self, params: Tree) -> tuple[Any, Tree]:
        return MODELS[self.name](), params[self.name]

    def trainable(self, path: str) -> bool:
        return path.startswith(f"{self.name}/")

    def batch(self, step: int) -> dict[str, np.ndarray]:
        made = battles(np.random.default_rng((self.seed, 1, step)), self.batch_size)
        return {"units": made.units, "targets": made.targets}

    def loss(self, params: Tree, batch: Batch, call: Call) -> tuple[Any, dict[str, Any]]:
        logits = MODELS[self.name]().apply(params[self.name], batch["units"])
        return ops.cross_entropy(logits, batch["targets"]), {"accuracy": accuracy(logits, batch["targets"])}

    def evaluate(self, params: Tree) -> dict[str, float]:
        """For each model that there is: accuracy, parameters, and FLOPs for one battle."""
        found = {}
        units = arrays_like(params, {"units": self.data.units})["units"]
        for name in params:
            costs = cost(name)
            logits = MODELS[name]().apply(params[name], units)
            found[f"{name}_accuracy"] = float(accuracy(logits, self.data.targets))
            found[f"{name}_parameters"] = float(costs.parameters)
            found[f"{name}_flops"] = float(costs.flops)
        return found

    def baselines(self) -> dict[str, float]:
        targets = self.data.targets
        own = nearest_enemies(self.data, self.data.places)
        return {
            "nearest enemy": float((own == targets).mean()),
            "any enemy": float((1 / self.data.enemies.sum(-1)).mean()),
        }

    def show(self, params: Tree, folder: Path) -> list[Path]:
        """comparison.txt: what each model reaches and costs, side by side."""
        write_text(folder / "comparison.txt", comparison(self.evaluate(params), self.baselines()))
        return [folder / "comparison.txt"]


def comparison(found: Mapping[str, float], baselines: Mapping[str, float]) -> str:
    """A line for each model and baseline; FLOPs are of one battle, as `ledger` counts them."""
    lines = [f"{'':<16}{'accuracy':>10}{'parameters':>12}{'FLOPs':>12}\n"]
    for name in MODELS:
        if f"{name}_accuracy" in found:
            accurate, parameters, flops = (found[f"{name}_{what}"] for what in ("accuracy", "parameters", "flops"))
            lines.append(f"{name.replace('_', ' '):<16}{accurate:>10.1%}{parameters:>12,.0f}{flops:>12,.0f}\n")
    return "".join([*lines, *(f"{name:<16}{value:>10.1%}\n" for name, value in baselines.items())])


_FULL = Settings(steps=3000, batch_size=16, learning_rate=3e-3, warmup=300, options={"b2": 0.99})
_QUICK = Settings(steps=60, batch_size=16, learning_rate=4e-3, warmup=10, save_every=20)


def _stage(name: str, quick: Settings) -> Stage:
    return Stage(name, partial(Entities, name=name), _FULL, quick, partial(Entities, name=name, tests=64))


RECIPES = (
    Recipe(
        name="entities",
        what="Point each unit of a battle to the enemy that its squad should attack.",
        model="Perceiver IO: units as inputs and queries, 16 latents; beside it a Transformer of the same size",
        data="generated battles of 48 units in 8 squads",
        paper="Perceiver IO (2107.14795), on StarCraft II",
        metric="perceiver_io_accuracy",
        better="higher",
        threshold=0.82,
        quick_threshold=0.15,
        expected="about 90 %, where the Transformer has 95 %, with 43 % of its FLOPs",
        minutes=6,
        stages=(
            _stage("transformer", replace(_QUICK, steps=20)),
            _stage("perceiver_io", _QUICK),
        ),
    ),
)
