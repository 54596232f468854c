"""Optical flow between two small textured images: Perceiver IO with queries made of the input features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ...autograd import ops
from ...autograd.backend import to_host
from ...autograd.tree import Tree
from ...host.files import write_text
from ...models.call import Call
from ...models.decoder import GridDecoder
from ...models.encoder import Encoder
from ...models.inputs import GridInput, Patches, flow_patches
from ...models.perceiver_io import PerceiverIO
from ...models.positions import FourierPositions
from ...models.queries import InputQueries
from ..pictures import figure, save
from ..recipe import Batch, Recipe, Settings, Stage, Task, arrays_like
from .image_pairs import image_pairs

SIZE = (24, 32)
TESTED_ON = 64
POINTS = 96
"""Pixels whose flow is decoded in a step of training, of the image's 768."""
RESCALE, FACTOR = 100.0, 20.0
"""The decoder's output is divided by the first and multiplied by the second to give pixels, as in DeepMind's code."""
_AT_A_TIME = 16


def model() -> PerceiverIO:
    """Section 4.2 and appendix H in small: both frames' 3 x 3 patches, through a linear map, with their position."""
    preprocessor = GridInput(Patches(27, space=1, time=2, linear=24, video=True), FourierPositions(4, SIZE))
    encoder = Encoder(
        inputs=preprocessor.channels,
        latents=24,
        channels=48,
        layers=2,
        cross_heads=2,
        self_heads=4,
        qk_channels=48,
    )
    decoder = GridDecoder(
        48,
        preprocessor.channels,
        queries=InputQueries(preprocessor.channels),
        outputs=2,
        qk_channels=48,
        grid=SIZE,
        rescale=RESCALE,
    )
    return PerceiverIO(encoder, preprocessor, decoder)


@dataclass(frozen=True)
class Flow(Task):
    """New pairs in every step; the test pairs are the same for every seed, and drawn from a stream of their own."""

    @cached_property
    def model(self) -> PerceiverIO:
        return model()

    @cached_property
    def test(self) -> tuple[np.ndarray, np.ndarray]:
        """Frames (TESTED_ON, 2, height, width, 3) and their flow (TESTED_ON, pixels, 2)."""
        return image_pairs(np.random.default_rng((0, 0, 1)), TESTED_ON, SIZE)

    def init(self, before: Tree = None) -> Tree:
        return self.model.init(self.seed)

    def batch(self, step: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng((self.seed, step))
        frames, flow = image_pairs(rng, self.batch_size, SIZE)
        points = np.sort(rng.choice(flow.shape[1], POINTS, replace=False))
        return {"frames": frames, "points": points, "flow": flow[:, points]}

    def predict(self, params: Tree, frames: Any, points: np.ndarray | None = None) -> Any:
        """frames (B, 2, height, width, 3) -> flow in pixels (B, height, width, 2), or of the pixels `points`."""
        return ops.multiply(self.model.apply(params, flow_patches(frames), points=points), FACTOR)

    def loss(self, params: Tree, batch: Batch, call: Call) -> tuple[Any, dict[str, Any]]:
        difference = ops.subtract(self.predict(params, batch["frames"], batch["points"]), batch["flow"])
        squares = ops.sum(ops.multiply(difference, difference), axis=-1)
        return ops.mean(ops.sqrt(ops.add(squares, 1e-6))), {}  # the root's slope at 0 is infinite

    def predicted(self, params: Tree, count: int = TESTED_ON) -> np.ndarray:
        """The flow of the first `count` test pairs (count, pixels, 2)."""
        frames, flow = (a[:count] for a in self.test)
        parts = []
        for start in range(0, len(frames), _AT_A_TIME):
            some = arrays_like(params, {"frames": frames[start : start + _AT_A_TIME]})["frames"]
            parts.append(to_host(self.predict(params, some)))
        return np.concatenate(parts).reshape(flow.shape)

    def evaluate(self, params: Tree) -> dict[str, float]:
        flow = self.test[1]
        error, still = end_point_error(self.predicted(params), flow), end_point_error(np.zeros_like(flow), flow)
        return {"end_point_error": error, "end_point_error_of_zero_motion": still, "relative_error": error / still}

    def baselines(self) -> dict[str, float]:
        flow = self.test[1]
        still = end_point_error(np.zeros_like(flow), flow)
        mean = np.broadcast_to(flow.mean(1, keepdims=True), flow.shape)
        return {"zero motion": 1.0, "each pair's true mean motion": end_point_error(mean, flow) / still}

    def show(self, params: Tree, folder: Path) -> list[Path]:
        frames, flow = self.test
        predicted = self.predicted(params, 4)
        text, picture = folder / "flow.txt", folder / "flow.png"
        write_text(text, "\n".join(described(i, flow[i], predicted[i]) for i in range(3)))
        return [text, *drawn(frames[:4], flow[:4], predicted[:4], picture)]


def end_point_error(predicted: np.ndarray, flow: np.ndarray) -> float:
    """The mean length of the difference in pixels; both (..., 2) (Baker et al. 2011, section 4.1)."""
    return float(np.sqrt(np.square(predicted - flow).sum(-1)).mean())


def colour_wheel() -> np.ndarray:
    """The usual 55 hues of directions, (55, 3) in [0, 1] (Baker et al. 2011, figure 7; from their released code).

    From red to yellow in 15 steps, to green in 6, to cyan in 4, to blue in 11, to magenta in 13, back to red in 6.
    """
    corners = np.array([(1, 0, 0), (1, 1, 0), (0, 1, 0), (0, 1, 1), (0, 0, 1), (1, 0, 1), (1, 0, 0)], np.float64)
    steps = (15, 6, 4, 11, 13, 6)
    return np.concatenate([a + (b - a) * (np.arange(n) / n)[:, None] for a, b, n in zip(corners, corners[1:], steps)])


def flow_colours(flow: np.ndarray, longest: float) -> np.ndarray:
    """flow (..., 2) -> colours (..., 3) in [0, 1]: the hue is the direction, and white is no motion.

    Motion of the length `longest` has the wheel's own colour, anything longer a darker one.
    """
    wheel = colour_wheel()
    length = np.sqrt(np.square(flow).sum(-1, keepdims=True)) / longest
    turn = (np.arctan2(-flow[..., 1], -flow[..., 0]) / np.pi + 1) / 2 * (len(wheel) - 1)
    lower = np.floor(turn).astype(np.int64)
    part = (turn - lower)[..., None]
    hue = (1 - part) * wheel[lower] + part * wheel[(lower + 1) % len(wheel)]
    colours: np.ndarray = np.where(length <= 1, 1 - length * (1 - hue), 0.75 * hue)
    return colours


def drawn(frames: np.ndarray, flow: np.ndarray, predicted: np.ndarray, path: Path) -> list[Path]:
    """A row for each pair: both frames, the true and the predicted flow in colours; the colour wheel at the end."""
    made = figure(8.5, 1.4 * len(frames) + 0.4)
    if made is None:
        return []
    longest = float(np.sqrt(np.square(flow).sum(-1)).max())
    left, right = made.subfigures(1, 2, width_ratios=(5, 1))
    axes = left.subplots(len(frames), 4, squeeze=False)
    for row, pair, flows in zip(axes, frames, zip(flow, predicted)):
        images: Sequence[np.ndarray] = [
            *np.clip(pair / 5 + 0.5, 0, 1),
            *(flow_colours(one.reshape(*SIZE, 2), longest) for one in flows),
        ]
        for axis, image in zip(row, images):
            axis.imshow(image)
    for axis, title in zip(axes[0], ("first frame", "second frame", "true flow", "predicted flow")):
        axis.set_title(title, fontsize=8)
    wheel = right.subplots()
    y, x = np.mgrid[-1:1:101j, -1:1:101j]
    disc = flow_colours(np.stack([x, y], axis=-1), 1.0)
    wheel.imshow(np.where((x**2 + y**2 <= 1)[..., None], disc, 1.0), extent=(-longest, longest, longest, -longest))
    wheel.set_title("pixels right and down", fontsize=8)
    wheel.tick_params(labelsize=7)
    for axis in axes.flat:
        axis.set_axis_off()
    return [save(made, path)]


def described(number: int, flow: np.ndarray, predicted: np.ndarray) -> str:
    """The flow of a pair at every fourth pixel, as arrows: the true one, and beside it the predicted one."""
    error, still = end_point_error(predicted, flow), end_point_error(np.zeros_like(flow), flow)
    lines = [f"test pair {number}: end-point error {error:.2f} pixels, of zero motion {still:.2f}"]
    lines += ["true".ljust(2 * (SIZE[1] // 4) + 3) + "predicted"]
    for row in range(2, SIZE[0], 4):
        lines.append("   ".join(arrows(one.reshape(*SIZE, 2)[row, 2::4]) for one in (flow, predicted)))
    return "\n".join(lines) + "\n"


def arrows(flow: np.ndarray) -> str:
    """The nearest of eight directions of each motion (n, 2); a dot for less than half a pixel."""
    eighths = np.round(np.arctan2(flow[:, 1], flow[:, 0]) / (np.pi / 4)).astype(np.int64) % 8
    short = np.square(flow).sum(-1) < 0.25
    return " ".join("·" if dot else "→↘↓↙←↖↑↗"[k] for k, dot in zip(eighths, short))


_FULL = Settings(steps=3000, batch_size=8, learning_rate=3e-3, warmup=100, evaluate_every=500)
_QUICK = Settings(steps=100, batch_size=8, learning_rate=3e-3, warmup=10, save_every=50)


RECIPES = (
    Recipe(
        name="flow",
        what="Optical flow between two textured images under smooth motion.",
        model="Perceiver IO: 3 x 3 patches of both frames at 768 pixels, 24 latents, queries made of the inputs",
        data="random band-limited textures of 24 x 32 pixels, moved by up to about 4 pixels, made as they are needed",
        paper="Perceiver IO (2107.14795), section 4.2 and appendix H",
        metric="relative_error",
        better="lower",
        threshold=0.25,
        quick_threshold=0.7,  # zero motion has 1, an untrained model more; after 100 steps 0.56 to 0.60
        expected="about 0.17: an end-point error of 0.20 pixels, where zero motion has 1.21",
        minutes=4,
        stages=(Stage("train", Flow, _FULL, _QUICK),),
    ),
)
