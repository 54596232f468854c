"""Video, sound and label through one latent array and out again: Perceiver IO as an autoencoder of three modalities."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...autograd import ops
from ...autograd.backend import to_host
from ...autograd.tree import Tree
from ...host.files import write_text
from ...models.call import Call
from ...models.conventions import DEEPMIND
from ...models.decoder import Decoder
from ...models.encoder import Encoder
from ...models.inputs import AudioPatches, GridInput, MultimodalInput, OneHotInput, Patches
from ...models.outputs import AudioOutput, ClassificationOutput, MultimodalOutput, ProjectionOutput
from ...models.perceiver_io import PerceiverIO
from ...models.positions import FourierPositions, TrainablePositions
from ...models.queries import MultimodalQueries, PositionQueries
from ..pictures import figure, save
from ..recipe import Batch, Recipe, Settings, Stage, Task, arrays_like
from .moving_shapes import FRAMES, SAMPLES, SHAPES, SIDE, Clips, clips

PATCH = 32
"""Samples of an element of sound."""
PIXELS = 128
"""Of the video's 1,536, decoded in a step of training."""
MASKED = 0.5
"""How often the label is masked in training."""
WEIGHTS = {"image": 1.0, "audio": 4.0, "label": 0.1}
"""Of the losses."""
TESTED_ON = 128
AVERAGED = 1000
"""Clips whose mean the mean predictor predicts."""
_AT_A_TIME = 32


def model(masked: float) -> PerceiverIO:
    """Section 4.3 in small; the label is replaced by the trained mask with probability `masked`.

    Parameters do not depend on `masked`.
    """
    conventions = replace(DEEPMIND, subsampling="grid")  # trained on single pixels, tested on whole grids
    image, audio = FourierPositions(8, (FRAMES, SIDE, SIDE)), FourierPositions(8, (SAMPLES // PATCH,))
    preprocessor = MultimodalInput(
        {
            "audio": GridInput(AudioPatches(PATCH), audio),
            "image": GridInput(Patches(1, space=4, video=True), image),
            "label": OneHotInput(len(SHAPES)),
        },
        min_padding=4,
        mask_probabilities={"audio": 0.0, "image": 0.0, "label": masked},
    )
    encoder = Encoder(
        inputs=preprocessor.channels, latents=24, channels=64, layers=2, cross_heads=4, self_heads=4, qk_channels=64
    )
    queries = MultimodalQueries(
        {
            "audio": PositionQueries(audio, (SAMPLES // PATCH,), conventions=conventions),
            "image": PositionQueries(image, (FRAMES, SIDE, SIDE), conventions=conventions),
            "label": PositionQueries(TrainablePositions(1, 32), (1,), conventions=conventions),
        }
    )
    postprocessor = MultimodalOutput(
        {
            "audio": AudioOutput(queries.channels, PATCH),
            "image": ProjectionOutput(queries.channels, 1),
            "label": ClassificationOutput(queries.channels, len(SHAPES)),
        }
    )
    decoder = Decoder(64, queries.channels, queries=queries, heads=2)
    return PerceiverIO(encoder, preprocessor, decoder, postprocessor)


class Prediction(NamedTuple):
    """Of clips, or one for all of them."""

    video: np.ndarray
    """(B, FRAMES, SIDE, SIDE, 1)"""
    audio: np.ndarray
    """(B, SAMPLES, 1)"""
    logits: np.ndarray
    """(B, classes)"""


@dataclass(frozen=True)
class Autoencoder(Task):
    """New clips in every step; the test clips are the same for every seed, and drawn from a stream of their own."""

    @cached_property
    def model(self) -> PerceiverIO:
        """With labels masked now and then."""
        return model(MASKED)

    @cached_property
    def tested(self) -> PerceiverIO:
        """With labels always masked."""
        return model(1.0)

    @cached_property
    def test(self) -> Clips:
        return clips(np.random.default_rng((0, 0, 1)), TESTED_ON)

    def init(self, before: Tree = None) -> Tree:
        return self.model.init(self.seed)

    def batch(self, step: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng((self.seed, step))
        made = clips(rng, self.batch_size)
        points = np.sort(rng.choice(FRAMES * SIDE * SIDE, PIXELS, replace=False))
        return {**inputs(made), "labels": made.labels, "points": points}

    def loss(self, params: Tree, batch: Batch, call: Call) -> tuple[Any, dict[str, Any]]:
        given = {name: batch[name] for name in ("audio", "image", "label")}
        made = self.model.apply(params, given, points={"image": batch["points"]}, call=call)
        pixels = batch["image"].reshape(len(batch["labels"]), -1, 1)[:, batch["points"]]
        losses = {
            "image": ops.squared_error(made["image"], pixels),
            "audio": ops.squared_error(made["audio"], batch["audio"][..., 0]),
            "label": ops.cross_entropy(made["label"], batch["labels"]),
        }
        total: Any = 0.0
        for name, weight in WEIGHTS.items():
            total = ops.add(total, ops.multiply(losses[name], weight))
        return total, losses

    def predicted(self, params: Tree, count: int = TESTED_ON) -> Prediction:
        """What the model makes of the first `count` test clips, not seeing the label."""
        given, parts = {name: array[:count] for name, array in inputs(self.test).items()}, []
        for start in range(0, count, _AT_A_TIME):
            some = arrays_like(params, {name: array[start : start + _AT_A_TIME] for name, array in given.items()})
            parts.append(self.tested.apply(params, some))
        made = {name: np.concatenate([to_host(part[name]) for part in parts]) for name in given}
        video, audio = (made[name].reshape(given[name].shape) for name in ("image", "audio"))
        return Prediction(video, audio, made["label"])

    @cached_property
    def mean(self) -> Prediction:
        """The mean video and sound and the most frequent label of many clips such as are trained on."""
        seen = clips(np.random.default_rng((0, 0, 2)), AVERAGED)
        return Prediction(seen.video.mean(0), seen.audio.mean(0), one_hot(np.bincount(seen.labels).argmax()))

    def evaluate(self, params: Tree) -> dict[str, float]:
        made = self.predicted(params)
        mine, mean = errors(made, self.test), errors(self.mean, self.test)
        return {
            "error_removed": error_removed(mine, mean),
            "video_psnr": psnr(mine["video"]),
            "video_psnr_of_mean": psnr(mean["video"]),
            "audio_psnr": psnr(mine["audio"]),
            "audio_psnr_of_mean": psnr(mean["audio"]),
            "label_accuracy": 1 - mine["label"],
            "label_accuracy_of_most_frequent": 1 - mean["label"],
        }

    def baselines(self) -> dict[str, float]:
        seen, labels = clips(np.random.default_rng((0, 0, 2)), AVERAGED), self.test.labels
        video, audio = (np.stack([a[seen.labels == k].mean(0) for k in range(len(SHAPES))])[labels] for a in seen[:2])
        mean = errors(self.mean, self.test)
        return {
            "mean video and sound, most frequent label": error_removed(mean, mean),
            "true label, mean video and sound of its clips": error_removed(
                errors(Prediction(video, audio, one_hot(labels)), self.test), mean
            ),
        }

    def show(self, params: Tree, folder: Path) -> list[Path]:
        made = self.predicted(params, 4)
        text = folder / "clips.txt"
        write_text(text, "\n".join(described(self.test, made, i) for i in range(3)))
        return [text, *drawn(self.test, made, 4, folder / "clips.png")]


def one_hot(labels: Any) -> np.ndarray:
    """labels (...) -> (..., classes), float32."""
    rows: np.ndarray = np.eye(len(SHAPES), dtype=np.float32)[labels]
    return rows


def inputs(made: Clips) -> dict[str, np.ndarray]:
    """Clips as the model takes them."""
    return {"audio": made.audio, "image": made.video, "label": one_hot(made.labels)}


def errors(made: Prediction, true: Clips) -> dict[str, float]:
    """The mean squared errors of video and sound, and the share of wrong labels."""
    return {
        "video": float(np.square(made.video - true.video).mean()),
        "audio": float(np.square(made.audio - true.audio).mean()),
        "label": float((made.logits.argmax(-1) != true.labels).mean()),
    }


def error_removed(mine: dict[str, float], mean: dict[str, float]) -> float:
    """The share of the mean predictor's error that a prediction does not make, where it is least: video, sound, label.

    1 is perfect and 0 no better than the mean predictor; 0.9 of a squared error is 10 dB of PSNR.
    """
    return min(1 - mine[name] / mean[name] for name in mean)


def psnr(error: float) -> float:
    """Peak signal-to-noise ratio in dB, of a mean squared error of values from -1 to 1."""
    return 10 * math.log10(2**2 / error) if error else math.inf


def described(true: Clips, made: Prediction, number: int) -> str:
    """A clip in text: the middle frame as it is and as it came out, and the two sounds' root mean squares."""
    shades = " .:-=+*#%@"
    frames = [np.clip((video[number, FRAMES // 2, :, :, 0] + 1) / 2, 0, 1) for video in (true.video, made.video)]
    rows = ["   ".join("".join(shades[round(9 * v)] for v in row) for row in pair) for pair in zip(*frames)]
    label, guess = SHAPES[true.labels[number]], SHAPES[made.logits[number].argmax()]
    loud = [float(np.sqrt(np.square(a).mean())) for a in (true.audio[number], made.audio[number] - true.audio[number])]
    head = (
        f"test clip {number}: {label}, told as {guess}; sound {loud[0]:.2f}, its error {loud[1]:.2f} (root mean square)"
    )
    return "\n".join([head, "true".ljust(SIDE + 3) + "made", *rows]) + "\n"


def drawn(true: Clips, made: Prediction, count: int, path: Path) -> list[Path]:
    """Two rows for each clip, as it is and as it came out of the latents: frames, sound and label."""
    figure_ = figure(11, 1.9 * count)
    if figure_ is None:
        return []
    axes = figure_.subplots(2 * count, FRAMES + 1, squeeze=False, width_ratios=[1] * FRAMES + [4])
    for i in range(count):
        label, guess = SHAPES[true.labels[i]], SHAPES[made.logits[i].argmax()]
        rows = ((true.video[i], true.audio[i], f"true: {label}"), (made.video[i], made.audio[i], f"made: {guess}"))
        for row, (video, audio, title) in zip(axes[2 * i : 2 * i + 2], rows):
            for axis, frame in zip(row, video):
                axis.imshow(frame[..., 0], cmap="gray", vmin=-1, vmax=1)
                axis.set_axis_off()
            row[-1].plot(audio[:, 0], linewidth=0.8)
            row[-1].set(ylim=(-1.1, 1.1), xticks=[], yticks=[])
            row[-1].set_ylabel(title, fontsize=7)
    return [save(figure_, path)]


_FULL = Settings(steps=3000, batch_size=16, learning_rate=2e-3, warmup=100, evaluate_every=500)
_QUICK = Settings(steps=160, batch_size=8, learning_rate=3e-3, schedule="flat_cosine", warmup=120, save_every=80)


RECIPES = (
    Recipe(
        name="multimodal",
        what="Autoencode video, sound and label through one latent array.",
        model="Perceiver IO: 105 elements of three modalities, 24 latents, queries of all three",
        data="clips of a moving shape and its sound, 6 frames of 16 x 16 and 256 samples, made as they are needed",
        paper="Perceiver IO (2107.14795), section 4.3",
        metric="error_removed",
        better="higher",
        threshold=0.85,
        quick_threshold=0.04,  # half of the least of three seeds; the mean predictor has 0, an untrained model less
        expected="about 0.89: video 20.5 dB (mean predictor 10.8), sound 40 dB (13.3), all masked labels told",
        minutes=4,
        stages=(Stage("train", Autoencoder, _FULL, _QUICK),),
    ),
)
