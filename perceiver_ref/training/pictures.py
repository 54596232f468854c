"""curves.png and attention maps, with the extra `plot`; without matplotlib nothing is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..host.files import write_whole
from .recipe import Recipe


def figure(width: float, height: float) -> Any:
    """A matplotlib `Figure` of this size in inches, drawn without a display; None where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    return Figure(figsize=(width, height), layout="constrained")


def curves(lines: list[dict[str, Any]], recipe: Recipe, folder: Path) -> list[Path]:
    """curves.png: the loss, and the recipe's metric where it was evaluated. The files written."""
    made = figure(8, 3.2)
    lines = [line for line in lines if {"stage", "loss"} <= set(line)]
    if made is None or not lines:
        return []
    left, right = made.subplots(1, 2)
    for stage in dict.fromkeys(line["stage"] for line in lines):
        of_stage = [line for line in lines if line["stage"] == stage]
        left.plot([line["step"] for line in of_stage], [line["loss"] for line in of_stage], label=stage)
    if all(line["loss"] > 0 for line in lines):
        left.set_yscale("log")
    left.legend()
    left.set(xlabel="step", ylabel="loss")
    evaluated = [line for line in lines if recipe.metric in line.get("evaluation", {})]
    values = [line["evaluation"][recipe.metric] for line in evaluated]
    right.plot([line["step"] for line in evaluated], values, marker="o")
    right.axhline(recipe.threshold, linestyle="--", color="grey")
    right.set(xlabel="step", ylabel=recipe.metric.replace("_", " "))
    return [save(made, folder / "curves.png")]


def attention_maps(
    images: Sequence[np.ndarray], maps: Sequence[Sequence[np.ndarray]], titles: Sequence[str], path: Path
) -> list[Path]:
    """A row for each image: the image (H, W) or (H, W, 3), then its maps (H, W), each on its own scale.

    `titles`: one for each column.
    """
    columns = 1 + max(map(len, maps))
    made = figure(1.5 * columns, 1.6 * len(images))
    if made is None:
        return []
    axes = made.subplots(len(images), columns, squeeze=False)
    for row, image, its_maps in zip(axes, images, maps):
        for axis, drawn, colours in zip(row, [image, *its_maps], ["gray"] + ["viridis"] * len(its_maps)):
            axis.imshow(drawn, cmap=colours)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, title in zip(axes[0], titles):
        axis.set_title(title, fontsize=8)
    return [save(made, path)]


def save(made: Any, path: Path) -> Path:
    """Write a figure as the PNG of this name."""
    write_whole(path, lambda file: made.savefig(file, dpi=120, format="png"))
    return path
