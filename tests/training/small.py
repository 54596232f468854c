"""A recipe of two short stages, run by the tests in this process or, as a script, in one of its own to be killed.

    python small.py DIR [--resume] [--pause SECONDS]

A linear map is fitted; then it is frozen, and a second map with dropout before it is trained on top.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from perceiver_ref.autograd import ops
from perceiver_ref.errors import InputError
from perceiver_ref.training.loop import train
from perceiver_ref.training.recipe import Options
from perceiver_ref.training.recipes import Recipe, Settings, Stage, Task

TRUTH = np.random.default_rng(5).normal(size=(6, 4)).astype(np.float32)
FIRST = Settings(20, 8, 0.05, "adam", "constant", log_every=3, evaluate_every=10, save_every=4)
SECOND = Settings(25, 8, 0.05, "adamw", warmup=3, weight_decay=0.01, log_every=5, evaluate_every=15, save_every=6)
STEPS = FIRST.steps + SECOND.steps
LOGGED = [3, 6, 9, 10, 12, 15, 18, 20, 25, 30, 35, 40, 45]
"""The steps of both stages that `log_every`, `evaluate_every` and the last step of a stage choose."""


@dataclass(frozen=True)
class Fit(Task):
    """Called after each batch with the number of the stage and the step."""

    second: bool = False
    on_batch: Any = None

    def init(self, before=None):
        if not self.second:
            weight = np.random.default_rng(self.seed).normal(size=(6, 4)).astype(np.float32)
            return {"map": {"weight": weight}, "no": []}
        return {**before, "top": {"weight": np.eye(4, dtype=np.float32), "bias": np.zeros(4, np.float32)}}

    def batch(self, step):
        if self.on_batch:
            self.on_batch(int(self.second), step)
        x = np.random.default_rng((self.seed, self.second, step)).normal(size=(self.batch_size, 6)).astype(np.float32)
        return {"x": x, "y": x @ TRUTH, "rows": np.arange(self.batch_size)}

    def loss(self, params, batch, call):
        y = ops.linear(ops.take(batch["x"], batch["rows"]), params["map"]["weight"])
        if self.second:
            y = ops.dropout(y, rate=0.25, key=call.key)
            y = ops.linear(y, params["top"]["weight"], params["top"]["bias"])
        error = ops.squared_error(y, batch["y"])
        return error, {"largest": abs(batch["y"]).max()}

    def evaluate(self, params):
        return {"error": float(abs(params["map"]["weight"] - TRUTH).mean())}

    def trainable(self, path):
        return not self.second or path.startswith("top/")

    def baselines(self):
        return {"zeros": float(abs(TRUTH).mean())}

    def show(self, params, folder):
        (folder / "sample.txt").write_text(f"{params['map']['weight'][0]}\n")
        return [folder / "sample.txt"]


def recipe(on_batch: Any = None, *, first: Settings = FIRST, threshold: float = 10.0) -> Recipe:
    """Both stages; `on_batch(stage, step)` is called when a batch is asked for."""
    stages = (
        Stage("first", partial(Fit, on_batch=on_batch), first, first),
        Stage("second", partial(Fit, second=True, on_batch=on_batch), SECOND, SECOND),
    )
    words = {"what": "Fit.", "model": "a map", "data": "made", "paper": "none", "expected": "little"}
    return Recipe("small", **words, metric="error", better="lower", threshold=threshold, quick_threshold=threshold,
                  minutes=1, stages=stages)  # fmt: skip


def run(out: Path | None = None, *, resume: bool = False, seed: int = 0, backend: str = "numpy", **made: Any) -> Any:
    """The result of training it."""
    return train(recipe(**made), Options(seed, out=out, resume=resume, backend=backend))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--pause", type=float, default=0.0)
    given = parser.parse_args()
    try:
        run(given.out, resume=given.resume, on_batch=lambda stage, step: time.sleep(given.pause))
    except InputError as error:
        sys.exit(f"refused: {error}")
