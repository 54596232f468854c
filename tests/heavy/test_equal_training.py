"""Recipes trained in PyTorch, too: from the same initial values, on the same batches, they follow the same losses.

The models are written in PyTorch's own modules, from the papers; only their sizes come from the recipes. Gradients are
PyTorch's, updates those of `torch.optim.AdamW`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from heavy.peer import torch

from perceiver_ref.autograd import tree
from perceiver_ref.models.call import Call
from perceiver_ref.models.encoder import Encoder
from perceiver_ref.models.inputs.bytes import MASK
from perceiver_ref.models.positions import FourierPositions
from perceiver_ref.training.loop import training_step
from perceiver_ref.training.recipe import Settings, Task
from perceiver_ref.training.recipes import recipe

nn, F = torch.nn, torch.nn.functional
pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("default")]
STEPS = 50
TOLERANCE = 1e-8  # of the loss in float64: rounding near 1e-16, which 50 steps of training let grow to some 1e-13


def linear(p: Any) -> Any:
    """A linear map that starts with these values; PyTorch keeps the matrix transposed."""
    made = nn.Linear(*p["weight"].shape)
    made.weight, made.bias = parameter(p["weight"].T), parameter(p["bias"])
    return made


def norm(p: Any) -> Any:
    made = nn.LayerNorm(p["scale"].shape[0])
    made.weight, made.bias = parameter(p["scale"]), parameter(p["offset"])
    return made


def parameter(values: np.ndarray) -> Any:
    return nn.Parameter(torch.tensor(values, dtype=torch.float64))


class Attention(nn.Module):
    """Attention with the residual (or without `residual`), then an MLP with its own; each after a norm."""

    def __init__(self, p: Any, heads: int, residual: bool = True) -> None:
        super().__init__()
        self.heads, self.residual = heads, residual
        self.query_norm = norm(p["query_norm"] if "query_norm" in p else p["norm"])
        self.input_norm = norm(p["key_value_norm"]) if "key_value_norm" in p else None
        self.query, self.key, self.value, self.output = (
            linear(p["attention"][name]) for name in ("query", "key", "value", "output")
        )
        first, second = p["mlp"].values()
        self.mlp = nn.Sequential(norm(p["mlp_norm"]), linear(first), nn.GELU(approximate="tanh"), linear(second))

    def forward(self, x: Any, inputs: Any = None) -> Any:
        normed = self.query_norm(x)
        inputs = normed if inputs is None else self.input_norm(inputs)
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.query(normed), self.key(inputs), self.value(inputs))
        )
        attended = self.output(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        x = x + attended if self.residual else attended
        return x + self.mlp(x)


class Latents(nn.Module):
    """The encoder: cross-attends, of which the later ones share weights, before repetitions of one block."""

    def __init__(self, p: Any, sizes: Encoder) -> None:
        super().__init__()
        assert (sizes.shared_cross, sizes.shared_blocks) == ("later", "all")
        self.cross_attends, self.blocks = sizes.cross_attends, sizes.blocks
        self.latents = parameter(p["latents"])
        crosses = [p["cross_attention"], *p["later_cross_attentions"]]
        self.crosses = nn.ModuleList(Attention(layer, sizes.cross_heads) for layer in crosses)
        self.block = nn.Sequential(*(Attention(layer, sizes.self_heads) for layer in p["block"]))

    def forward(self, inputs: Any) -> Any:
        x = self.latents.expand(len(inputs), -1, -1)
        for i in range(self.blocks):
            if i < self.cross_attends:
                x = self.crosses[min(i, 1)](x, inputs)
            x = self.block(x)
        return x


class Classifier(nn.Module):
    """Latents, their mean, a linear map."""

    def __init__(self, p: Any, model: Any) -> None:
        super().__init__()
        self.encoder = Latents(p["encoder"], model.encoder)
        self.head = linear(p["decoder"]["output"])

    def logits(self, elements: Any) -> Any:
        return self.head(self.encoder(elements).mean(1))


class Digits(Classifier):
    def __init__(self, p: Any, model: Any) -> None:
        super().__init__(p, model)
        n = np.float32(8)
        steps = np.arange(8, dtype=np.float32) * (1 / (n - 1))
        axis = steps - (1 - steps)  # DeepMind's grid, which is computed in float32 whatever follows
        axis[-1] = 1
        places = torch.tensor(np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(64, 2), dtype=torch.float64)
        self.features = fourier_features(places, model.preprocessor.positions)

    def loss(self, batch: dict[str, Any]) -> Any:
        pixels = batch["images"].flatten(1, 2)
        elements = torch.cat([pixels, self.features.expand(len(pixels), -1, -1)], -1)
        return F.cross_entropy(self.logits(elements), batch["labels"], label_smoothing=0.1)


class Points(Classifier):
    def __init__(self, p: Any, model: Any) -> None:
        super().__init__(p, model)
        self.positions = model.preprocessor.positions

    def loss(self, batch: dict[str, Any]) -> Any:
        return F.cross_entropy(self.logits(fourier_features(batch["points"], self.positions)), batch["labels"])


class Language(nn.Module):
    """Embeddings and positions in; a query for each byte that is asked for; logits by the transposed embedding."""

    def __init__(self, p: Any, model: Any) -> None:
        super().__init__()
        self.embedding = parameter(p["input"]["embedding"])
        self.positions = parameter(p["input"]["positions"]["table"])
        self.encoder = Latents(p["encoder"], model.encoder)
        self.queries = parameter(p["decoder"]["queries"]["table"])
        self.decoder = Attention(p["decoder"]["cross_attention"], model.decoder.heads, residual=False)
        self.bias = parameter(p["output"]["bias"])

    def loss(self, batch: dict[str, Any]) -> Any:
        ids, masked = batch["ids"], batch["masked"]
        latents = self.encoder(self.embedding[ids.scatter(1, masked, MASK)] + self.positions)

        def of(where: Any) -> Any:
            logits = self.decoder(self.queries[where], latents) @ self.embedding.T + self.bias
            return F.cross_entropy(logits.flatten(0, 1), ids.gather(1, where).flatten())

        return of(masked) + 0.5 * of(batch["seen"])


def fourier_features(places: Any, encoding: FourierPositions) -> Any:
    """[x, sin(pi f x), cos(pi f x)], f from 1 to half the resolution."""
    waves = [
        torch.linspace(1, resolution / 2, encoding.num_bands, dtype=torch.float64) * places[..., i : i + 1] * math.pi
        for i, resolution in enumerate(encoding.max_resolution)
    ]
    angles = torch.cat(waves, -1)
    return torch.cat([places, angles.sin(), angles.cos()], -1)


MODELS: dict[str, Callable[[Any, Any], Any]] = {"digits": Digits, "points": Points, "language": Language}


@pytest.mark.parametrize("name", MODELS)
def test_the_losses_of_training_are_those_of_pytorch(name: str) -> None:
    (stage,) = recipe(name).stages
    task, settings = stage.build(0, False), stage.settings
    params = tree.map(lambda p: p.astype(np.float64), task.init())
    batches = [in_float64(task.batch(i)) for i in range(STEPS)]
    ours = our_losses(task, params, settings, batches)
    theirs = pytorch_losses(MODELS[name](params, task.model), settings, batches)
    assert ours[-1] < 0.95 * ours[0]  # it learns: what does not move agrees, too
    assert np.abs(np.array(ours) - theirs).max() <= TOLERANCE


def in_float64(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {key: a.astype(np.float64) if a.dtype.kind == "f" else a for key, a in batch.items()}


def our_losses(task: Task, params: Any, settings: Settings, batches: list[dict[str, np.ndarray]]) -> list[float]:
    optimizer = settings.make_optimizer(task.decays)
    flat = dict(tree.leaves(params))
    state, step, losses = optimizer.init(flat), training_step(task, params, optimizer, "numpy"), []
    for i, batch in enumerate(batches):
        flat, state, loss, _ = step(flat, state, batch, Call(training=True, key=(0, 0, i)))
        losses.append(float(loss))
    return losses


def pytorch_losses(model: Any, settings: Settings, batches: list[dict[str, np.ndarray]]) -> list[float]:
    """Of AdamW with warm-up and a cosine, weight decay of matrices only and gradients clipped to a norm."""
    assert (settings.optimizer, settings.schedule) == ("adamw", "warmup_cosine")
    assert set(settings.options) <= {"b1", "b2", "eps"}
    matrices = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)}
    groups = [
        {"params": [p for p in model.parameters() if id(p) in matrices], "weight_decay": settings.weight_decay},
        {"params": [p for p in model.parameters() if id(p) not in matrices], "weight_decay": 0.0},
    ]
    b1, b2, eps = (settings.options.get(name, usual) for name, usual in (("b1", 0.9), ("b2", 0.999), ("eps", 1e-8)))
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(b1, b2), eps=eps)
    warm, falling = settings.warmup, settings.steps - settings.warmup
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda i: i / warm if i < warm else (1 + math.cos(math.pi * (i - warm) / falling)) / 2
    )
    losses = []
    for batch in batches:
        optimizer.zero_grad()
        loss = model.loss({key: torch.tensor(a) for key, a in batch.items()})
        loss.backward()
        clip(list(model.parameters()), settings.max_norm)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses


def clip(parameters: list[Any], max_norm: float | None) -> None:
    """To a norm of `max_norm` exactly; torch's own leaves it a millionth below."""
    norm = torch.sqrt(sum((p.grad**2).sum() for p in parameters))
    if max_norm is not None and norm > max_norm:
        for p in parameters:
            p.grad *= max_norm / norm
