"""`train classify`: rows of numbers, sequences or images, each of one class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...autograd.tree import Tree
from ...errors import InputError, input_errors
from ...host.files import write_text
from ...models.call import Call
from ...models.decoder import classification_decoder
from ...models.encoder import Encoder
from ...models.inputs import GridInput, Pixels
from ...models.perceiver_io import PerceiverIO
from ...models.positions import FourierPositions
from .. import losses
from ..data import Stored
from ..fitting import Fit
from ..recipe import Recipe, Settings, Stage
from ..tables import table_model
from . import Chosen
from .examples import Scaling, classes_of, fitted_scaling, numbered, read_examples

METRIC = "test_accuracy"
HELD_OUT = 0.2
"""The share of the examples that is tested on, where no others are given."""
_PIXELS = 1 << 16
_NOISE = 0.2
"""Of the standard deviation of an input."""
_COMPARED = 4000  # examples of the nearest neighbour: a table of all distances fits


@dataclass(frozen=True)
class Classify(Fit):
    """A classifier of `scaling`'s examples; `classes` are their names."""

    scaling: Scaling | None = None
    classes: tuple[str, ...] = ()

    def about(self) -> dict[str, Any]:
        assert self.scaling is not None
        return {"task": "classify", "inputs": self.scaling.plain(), "classes": list(self.classes)}

    def evaluate_with(self, params: Tree, state: Tree) -> dict[str, float]:
        found = super().evaluate_with(params, state)
        return {METRIC: found["accuracy"], "test_loss": found["loss"]}

    def _sets(self) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
        assert isinstance(self.data, Stored)
        assert isinstance(self.validation, Stored)
        pairs = ((d.arrays["inputs"], d.arrays["targets"]) for d in (self.data, self.validation))
        known, asked = ((x.reshape(len(x), -1)[:_COMPARED], y[:_COMPARED]) for x, y in pairs)
        return known, asked

    def baselines(self) -> dict[str, float]:
        """The commonest class, and the nearest training example, of up to 4,000."""
        (known, labels), (asked, wanted) = self._sets()
        distances = (known * known).sum(-1) - 2 * asked @ known.T
        return {
            "commonest": float((wanted == np.bincount(labels).argmax()).mean()),
            "nearest neighbour": float((labels[distances.argmin(-1)] == wanted).mean()),
        }

    def show(self, params: Tree, folder: Path) -> list[Path]:
        """confusions.txt: how often each class is taken for another."""
        assert isinstance(self.validation, Stored)
        guesses = [losses.outputs_of(self.model, params, b, Call()).argmax(-1) for b in self.validation.all()]
        pairs = list(zip(self.validation.arrays["targets"].tolist(), np.concatenate(guesses).tolist()))
        wrong = sorted({pair: pairs.count(pair) for pair in pairs if pair[0] != pair[1]}.items(), key=lambda r: -r[1])
        lines = [f"{len(pairs)} test examples, {sum(n for _, n in wrong)} wrong"]
        lines += [f"{n:6} of class {self.classes[a]} taken for {self.classes[b]}" for (a, b), n in wrong[:100]]
        path = folder / "confusions.txt"
        write_text(path, "\n".join(lines) + "\n")
        return [path]


def model_of(scaling: Scaling, classes: int, chosen: Chosen) -> PerceiverIO:
    """A small Perceiver IO for such examples, of the sizes that were chosen."""
    channels, heads = chosen.channels or 32, chosen.heads or 4
    latents, layers = chosen.latents or 16, 2 if chosen.layers is None else chosen.layers
    if channels % heads:
        raise InputError(f"--channels {channels} must be a multiple of the number of heads, --heads {heads}")
    if scaling.kind != "image":
        width = scaling.shape[-1]
        return table_model(
            scaling.shape[0], classes, latents=latents, channels=channels, layers=layers, heads=heads, width=width
        )
    height, wide, colours = scaling.shape
    if height * wide > _PIXELS:
        raise InputError(f"images of {height} x {wide} pixels are more than {_PIXELS:,}; make them smaller first")
    inputs = GridInput(Pixels(colours), FourierPositions(max(min(height, wide) // 2, 1), (height, wide)))
    encoder = Encoder(inputs.channels, latents, channels, layers=layers, self_heads=heads, qk_channels=channels)
    return PerceiverIO(encoder, inputs, classification_decoder(channels, classes))


def _noisy(batch: Mapping[str, np.ndarray], rng: np.random.Generator) -> Mapping[str, np.ndarray]:
    """With noise, each time another: few examples would be learned by heart."""
    noise = rng.standard_normal(batch["inputs"].shape, np.float32)
    return {**batch, "inputs": batch["inputs"] + np.float32(_NOISE) * noise}


def recipe(chosen: Chosen) -> Recipe:
    """The recipe of a file of examples."""
    train, test = read_examples(chosen.data, chosen.label)
    if chosen.test is not None:
        test = read_examples(chosen.test, chosen.label)[0]
        if test.names != train.names:
            raise InputError(f"{chosen.test} has other columns than {chosen.data}")
    classes = classes_of(train.labels, chosen.data)
    labels = numbered(train.labels, classes, chosen.data)
    if test is None:
        order = np.random.default_rng(0).permutation(len(labels))  # the same for every seed: results can be compared
        held = min(max(round(HELD_OUT * len(labels)), 1), len(labels) - 1)
        tested, kept = np.sort(order[:held]), np.sort(order[held:])
        examples, test_examples, test_labels = train.inputs[kept], train.inputs[tested], labels[tested]
        labels = labels[kept]
    else:
        examples, test_examples = train.inputs, test.inputs
        test_labels = numbered(test.labels, classes, chosen.test or chosen.data)
    scaling = fitted_scaling(examples, train.names)
    with input_errors(f"{chosen.data}: no model of these sizes can be made"):
        model = model_of(scaling, len(classes), chosen)
    batch = chosen.batch or 32
    stored = {"inputs": scaling.apply(examples), "targets": labels}
    held_out = {"inputs": scaling.apply(test_examples), "targets": test_labels}
    if not len(test_labels):
        raise InputError(f"{chosen.test or chosen.data} has no test examples")
    steps = chosen.steps or int(np.clip(60 * len(labels) // batch, 300, 3000))

    def task(seed: int, size: int) -> Classify:
        return Classify(
            seed,
            size,
            model,
            model.init(seed),
            {},
            losses.named("cross_entropy"),
            Stored(stored, size, seed, augment=_noisy),
            Stored(held_out, 256),
            {"accuracy": losses.metric("accuracy")},
            scaling=scaling,
            classes=tuple(classes),
        )

    settings = Settings(
        steps=steps,
        batch_size=batch,
        learning_rate=chosen.learning_rate or 3e-3,
        warmup=min(steps // 10, 50),
        weight_decay=0.1,
        average=0.98,
        evaluate_every=max(steps // 10, 1),
    )
    data = Stored(stored, batch)
    return Recipe(
        name="classify",
        what="Classify examples of a file.",
        model=f"Perceiver IO: {scaling.kind}s of {scaling.shape}, {model.encoder.latents} latents",
        data=f"{len(labels)} examples of {len(classes)} classes, tested on {len(test_labels)} others",
        paper="",
        metric=METRIC,
        better="higher",
        threshold=None,
        quick_threshold=None,
        expected="",
        minutes=0,
        stages=(Stage("train", task, settings, settings),),
        identity={"data": data.described(), "model": repr(model)},
    )
