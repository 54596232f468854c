"""Flamingo in small: a frozen language model learns to caption images, and follows rules that only examples give.

A patch encoder is trained to see, and the language model on the texts of episodes (`episodes`), where the rule of each
can be read off the captions so far; then both are frozen. A resampler and gated layers learn to connect them. They are
trained twice, with tanh gates and without (the paper's ablation), in all else alike.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from ...autograd import ops, tree
from ...autograd.backend import to_host, xp
from ...autograd.tree import Tree
from ...host.files import write_text
from ...models.call import Call
from ...models.conventions import DEEPMIND
from ...models.flamingo import (
    Flamingo,
    GatedCrossAttention,
    GatedLayers,
    LanguageModel,
    PatchEncoder,
    PerceiverResampler,
    generate,
)
from ...models.flamingo.prompts import IGNORED, IMAGE, text_loss
from ...models.layers import Linear
from ..metrics import NAME as METRICS
from ..pictures import figure, save
from ..recipe import Batch, Recipe, Settings, Stage, Task, arrays_like
from .episodes import LONGEST, WORD, WORDS, Episodes, episodes, interleaved, known, prompts, texts, words_of

SHOTS = (0, 2, 4, 8)
OPEN = 20.0
"""A gate without effect: tanh(20) is 1 in float32, and its derivative 0."""
WIDTH = 64
LAYERS = 3
PATCHES = PatchEncoder((8, 8), patch=4, channels=WIDTH, layers=1, heads=4, widening=2)


def model(layers: int = LAYERS) -> Flamingo:
    """A gated layer before each of the language model's; images of four patches, four latents each."""
    vocabulary, length = WORD + len(WORDS), 1 + 4 * LONGEST
    return Flamingo(
        LanguageModel(vocabulary, length, WIDTH, layers, heads=4, widening=2, conventions=DEEPMIND),
        PATCHES,
        PerceiverResampler(WIDTH, latents=4, layers=min(layers, 2), heads=4, widening=2),
        GatedLayers(layers, every=1, block=GatedCrossAttention(WIDTH, WIDTH, heads=4, widening=2)),
    )


@dataclass(frozen=True)
class VisionTask(Task):
    """The patch encoder learns to see: a linear map of the mean of its features is to tell all four of a scene."""

    @cached_property
    def model(self) -> PatchEncoder:
        return PATCHES

    @cached_property
    def head(self) -> Linear:
        return Linear(WIDTH, 16)

    def init(self, before: Tree = None) -> Tree:
        fresh = self.model.init(self.seed)
        fresh["positions"] *= 25  # as large as the patches beside them
        return {"vision": fresh, "head": self.head.init(self.seed)}

    def batch(self, step: int) -> dict[str, np.ndarray]:
        made = episodes(np.random.default_rng((self.seed, 2, step)), self.batch_size, length=1)
        return {"images": made.images, "scenes": made.scenes[:, 0]}

    def loss(self, params: Tree, batch: Batch, call: Call) -> tuple[Any, dict[str, Any]]:
        return ops.cross_entropy(self.logits(params, batch["images"]), batch["scenes"]), {}

    def logits(self, params: Tree, images: Any) -> Any:
        """images (B, 1, 8, 8, 3) -> (B, 4, 4): of shape, colour, place and ground, the four values of each."""
        features = ops.mean(self.model.apply(params["vision"], images), axis=(1, 2, 3))
        return ops.reshape(self.head.apply(params["head"], features), shape=(-1, 4, 4))

    def evaluate(self, params: Tree) -> dict[str, float]:
        """`seen`: how often a value is told rightly."""
        given = episodes(np.random.default_rng(1), 256, test=True, length=1)
        logits = self.logits(params, arrays_like(params, {"images": given.images})["images"])
        return {"seen": float((to_host(logits).argmax(-1) == given.scenes[:, 0]).mean())}


@dataclass(frozen=True)
class LanguageTask(Task):
    """Captions as text: an image tag, the shape, and what the rule says of it, which the tags do not tell."""

    layers: int = LAYERS

    @cached_property
    def model(self) -> LanguageModel:
        return model(self.layers).language

    def init(self, before: Tree = None) -> Tree:
        return {**(before or {}), "language": self.model.init(self.seed)}

    def trainable(self, path: str) -> bool:
        return path.startswith("language/")

    def batch(self, step: int) -> dict[str, np.ndarray]:
        return {"ids": texts(np.random.default_rng((self.seed, 0, step)), self.batch_size)}

    def loss(self, params: Tree, batch: Batch, call: Call) -> tuple[Any, dict[str, Any]]:
        logits = self.model.apply(params["language"], batch["ids"])
        return caption_loss(logits, batch["ids"]), {}

    def evaluate(self, params: Tree) -> dict[str, float]:
        """`rule_followed`: how often the likeliest second word is of the kind that the rule says, where it is known."""
        given = episodes(np.random.default_rng(1), 256, test=True)
        ids = interleaved(given.captions)
        logits = self.model.apply(params["language"], ids[:, :-2])[:, -1]  # after the last caption's shape
        right = (logits.argmax(-1) - WORD) // 4 == (xp(logits).asarray(ids[:, -2]) - WORD) // 4
        return {"rule_followed": float(right[xp(logits).asarray(known(given)[:, -1])].mean())}


@dataclass(frozen=True)
class CaptionTask(Task):
    """Captions of images, with the language model frozen: `name` says which resampler and gated layers are trained."""

    name: str
    tests: int = 256
    layers: int = LAYERS

    @cached_property
    def model(self) -> Flamingo:
        return model(self.layers)

    @cached_property
    def data(self) -> Episodes:
        return episodes(np.random.default_rng(1), self.tests, test=True)

    def init(self, before: Tree = None) -> Tree:
        """Both start from the same parameters, but for the gates: closed, or open for good."""
        fresh = self.model.init(self.seed)
        if self.name == "gated":
            return {**before, "gated": fresh["trained"]}
        paths = tree.flatten(fresh["trained"])
        opened = [np.full_like(p, OPEN) if path.endswith("_gate") else p for path, p in paths.items()]
        return {
            "frozen": {"vision": before["vision"], "language": before["language"]},
            "ungated": tree.unflatten_like(fresh["trained"], opened),
        }

    def trainable(self, path: str) -> bool:
        return path.startswith(f"{self.name}/") and not (self.name == "ungated" and path.endswith("_gate"))

    def batch(self, step: int) -> dict[str, np.ndarray]:
        made = episodes(np.random.default_rng((self.seed, 1, step)), self.batch_size)
        return {"ids": interleaved(made.captions), "images": made.images[:, :, None]}

    def loss(self, params: Tree, batch: Batch, call: Call) -> tuple[Any, dict[str, Any]]:
        ids = xp(batch["images"]).asarray(batch["ids"])  # masks of media are made of them, where the images are
        logits = self.model.apply(self.chosen(params, self.name), ids, batch["images"])
        return caption_loss(logits, batch["ids"]), {}

    def saved(self, params: Tree) -> tuple[Any, Tree]:
        return self.model, self.chosen(params, self.name)

    def chosen(self, params: Tree, name: str) -> Tree:
        """The parameters of the model with gates or without."""
        return {"frozen": params["frozen"], "trained": params[name]}

    def evaluate(self, params: Tree) -> dict[str, float]:
        found = self.accuracies(params, self.name)
        if self.name == "gated":
            without = self.accuracies(params, "ungated")
            found |= {f"{name}_ungated": value for name, value in without.items()}
        return found

    def accuracies(self, params: Tree, name: str) -> dict[str, float]:
        """By number of examples, how often both words are right."""
        right = self.right(params, name)
        return {f"accuracy_{shots}_shots": float(right[:, shots].mean()) for shots in SHOTS}

    def right(self, params: Tree, name: str) -> np.ndarray:
        """(E, K), bool: whether greedy generation, after the test episodes' captions before it, gives a caption.

        It does when each of its words is the likeliest after the true ones; and no token sees later ones, so that one
        run of whole episodes tells of all numbers of examples.
        """
        ids = interleaved(self.data.captions)
        given = arrays_like(params, {"ids": ids, "images": self.data.images[:, :, None]})
        logits = self.model.apply(self.chosen(params, name), given["ids"], given["images"])
        said = to_host(logits)[:, 1:].argmax(-1).reshape(*self.data.captions.shape[:2], 4)  # after tag, word, word, end
        return np.asarray((said[..., :2] == self.data.captions).all(-1))

    def baselines(self) -> dict[str, float]:
        """What is expected of who sees the image but not the examples, the examples but not the image, or both."""
        both = ideal(self.data, LONGEST - 1)
        return {"image without examples": 1 / 3, "examples without image": both / 16, "ideal": both}

    def show(self, params: Tree, folder: Path) -> list[Path]:
        """few_shot.txt: accuracies by number of examples, the gates, and an episode; gates.png: curves of both runs."""
        text = table(self.evaluate(params), self.data) + gates(params["gated"]["gated"])
        asked = prompts(self.data, SHOTS[-1])[:1]
        text += transcript(self.data, generate(self.model, self.chosen(params, "gated"), asked, most=2)[0])
        write_text(folder / "few_shot.txt", text)
        return [folder / "few_shot.txt", *curves(folder / METRICS, folder / "gates.png")]


def ideal(given: Episodes, shots: int) -> float:
    """The expected accuracy of who sees all images, and guesses what is said of a shape that no example shows."""
    return float(np.mean(np.where(known(given)[:, shots], 1, 1 / 3)))


def table(found: Mapping[str, float], given: Episodes) -> str:
    """A line for each number of examples: with tanh gates, without, and the ideal."""
    lines = [f"{'examples':<10}{'tanh gates':>12}{'no gates':>10}{'ideal':>8}\n"]
    for shots in SHOTS:
        gated, ungated = (found[f"accuracy_{shots}_shots{suffix}"] for suffix in ("", "_ungated"))
        lines.append(f"{shots:<10}{gated:>12.1%}{ungated:>10.1%}{ideal(given, shots):>8.1%}\n")
    return "".join(lines)


def gates(layers: Tree) -> str:
    """tanh of each gate, which began at 0."""
    opened = [[f"{np.tanh(p[name]).item():.2f}" for p in layers] for name in ("attention_gate", "mlp_gate")]
    return f"\ngates by layer: attention {', '.join(opened[0])}; MLP {', '.join(opened[1])}\n"


def transcript(given: Episodes, made: np.ndarray) -> str:
    """The captions of the first episode, and what the model says (2,) of its last scene."""
    *said, right = [words_of(caption) for caption in given.captions[0]]
    examples = "".join(f"<image>{words}<EOC>\n" for words in said)
    return f"\n{examples}<image>{words_of(made)}    (right: {right})\n"


def curves(metrics: Path, path: Path) -> list[Path]:
    """Loss and accuracy by step of both runs, each from its own first step, from the lines of metrics.jsonl."""
    made = figure(8, 3.2)
    if made is None or not metrics.exists():
        return []
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    left, right = made.subplots(1, 2)
    start = max((line["step"] for line in lines if line["stage"] in ("vision", "language")), default=0)
    for stage, label in (("ungated", "no gates"), ("gated", "tanh gates")):
        own = [line for line in lines if line["stage"] == stage]
        left.plot([line["step"] - start for line in own], [line["loss"] for line in own], label=label)
        evaluated = [line for line in own if "evaluation" in line]
        values = [line["evaluation"]["accuracy_8_shots"] for line in evaluated]
        right.plot([line["step"] - start for line in evaluated], values, marker="o", label=label)
        start = max((line["step"] for line in own), default=start)
    left.legend()
    left.set(xlabel="step", ylabel="loss")
    right.set(xlabel="step", ylabel="accuracy with 8 examples", ylim=(0, 1))
    return [save(made, path)]


def caption_loss(logits: Any, ids: np.ndarray) -> Any:
    """The loss of every next token of ids (B, L), image tags left out."""
    following = np.where(ids[:, 1:] == IMAGE, IGNORED, ids[:, 1:])
    return text_loss(logits[:, :-1], following)


_VISION = Settings(steps=600, batch_size=64, learning_rate=3e-3, warmup=50)
_LANGUAGE = Settings(steps=2200, batch_size=32, learning_rate=1e-3, warmup=100)
_FULL = Settings(steps=1500, batch_size=16, learning_rate=1e-3, warmup=100, evaluate_every=150)
_QUICK_VISION = Settings(steps=100, batch_size=32, learning_rate=5e-3, warmup=10, save_every=50)
_QUICK_LANGUAGE = Settings(steps=100, batch_size=8, learning_rate=3e-3, warmup=10, save_every=50)
_QUICK = Settings(steps=230, batch_size=8, learning_rate=4e-3, warmup=10, save_every=50)


def _captions(name: str, quick: Settings) -> Stage:
    task = partial(CaptionTask, name=name)
    return Stage(name, task, _FULL, quick, partial(task, tests=128, layers=1))


RECIPES = (
    Recipe(
        name="flamingo",
        what="Caption images with a frozen language model, by a rule that only the examples give.",
        model="Flamingo: resampler and gated layers between a frozen patch encoder and a frozen 3-layer language model",
        data="generated scenes of a shape, a colour, a place and a ground, in episodes of up to 9 captions",
        paper="Flamingo (2204.14198), sections 2.1 to 2.3 and table 3",
        metric="accuracy_8_shots",
        better="higher",
        threshold=0.6,
        quick_threshold=0.05,  # by chance 1 / 48, untrained 0; one layer and few steps see shapes, but no rule yet
        expected="67 to 95 % with 8 examples, about a quarter with none; 94 % and more without gates",
        minutes=8,
        baseline="image without examples",
        stages=(
            Stage("vision", VisionTask, _VISION, _QUICK_VISION),
            Stage("language", LanguageTask, _LANGUAGE, _QUICK_LANGUAGE, partial(LanguageTask, layers=1)),
            _captions("ungated", replace(_QUICK, steps=12)),
            _captions("gated", _QUICK),
        ),
    ),
)
