"""curves.png and attention maps, with the extra `plot`; without matplotlib nothing is drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..host.files import write_whole


def figure(width: float, height: float) -> Any:
    """A matplotlib `Figure` of this size in inches, drawn without a display; None where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    return Figure(figsize=(width, height), layout="constrained")


@dataclass(frozen=True)
class Drawn:
    """What stands around curves: the title, the number that is evaluated, what it should reach, and what simpler
    methods do."""

    name: str
    metric: str
    threshold: float | None = None
    baselines: Mapping[str, float] = field(default_factory=dict)


def curves(lines: list[dict[str, Any]], drawn: Drawn, folder: Path) -> list[Path]:
    """curves.png: the loss, and the metric where it was evaluated, with threshold and baselines. The files written.

    Stages are told apart by their colours and by lines between them.
    """
    made = figure(8, 3.4)
    lines = [line for line in lines if {"stage", "loss"} <= set(line)]
    if made is None or not lines:
        return []
    made.suptitle(drawn.name, fontsize=10)
    left, right = made.subplots(1, 2)
    stages = list(dict.fromkeys(line["stage"] for line in lines))
    for stage in stages:
        of_stage = [line for line in lines if line["stage"] == stage]
        left.plot([line["step"] for line in of_stage], [line["loss"] for line in of_stage], label=stage)
        evaluated = [line for line in of_stage if drawn.metric in line.get("evaluation", {})]
        values = [line["evaluation"][drawn.metric] for line in evaluated]
        right.plot([line["step"] for line in evaluated], values, marker="o", markersize=3)
        if stage != stages[-1]:
            for axis in (left, right):
                axis.axvline(of_stage[-1]["step"], color="lightgrey", linewidth=1, zorder=0)
    if all(line["loss"] > 0 for line in lines):
        _logarithmic(left, [line["loss"] for line in lines])
    if len(stages) > 1:
        left.legend(fontsize=7)
    left.set(xlabel="step", ylabel="loss", title="training loss")
    if drawn.threshold is not None:
        right.axhline(drawn.threshold, linestyle="--", color="grey", label=f"expected {drawn.threshold:g}")
    for i, (name, value) in enumerate(list(drawn.baselines.items())[:_BASELINES]):
        right.axhline(value, linestyle=":", color=f"C{i + 3}", label=f"{name} {value:.3g}")
    if right.get_legend_handles_labels()[1]:
        right.legend(fontsize=7)
    metric = drawn.metric.replace("_", " ")
    right.set(xlabel="step", ylabel=metric, title=metric)
    for axis in (left, right):
        axis.title.set_fontsize(9)
    return [save(made, folder / "curves.png")]


_BASELINES = 4
"""Lines of simpler methods in one picture."""


def _logarithmic(axis: Any, values: Sequence[float]) -> None:
    """A logarithmic axis whose ticks are plain numbers, enough of them for a range of less than ten."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axis.set_yscale("log")
    decades = math.log10(max(values) / min(values))
    subs = (1.0,) if decades > 3 else (1.0, 2.0, 5.0) if decades > 0.5 else _FINE
    axis.yaxis.set_major_locator(LogLocator(subs=subs))
    axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())


_FINE = (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0)


def attention_maps(
    images: Sequence[np.ndarray],
    maps: Sequence[Sequence[np.ndarray]],
    titles: Sequence[str],
    path: Path,
    labels: Sequence[tuple[object, object]] = (),
) -> list[Path]:
    """A row for each image: the image (H, W) or (H, W, 3), then its maps (H, W), all of a row on one scale.

    `titles`: one for each column. `labels`: for each image its true and its predicted one, which are printed beside it.
    """
    columns = 1 + max(map(len, maps))
    made = figure(1.5 * columns + 0.6, 1.6 * len(images))
    if made is None:
        return []
    axes = made.subplots(len(images), columns, squeeze=False)
    for i, (row, image, its_maps) in enumerate(zip(axes, images, maps)):
        row[0].imshow(image, cmap="gray")
        most, drawn = max(float(one.max()) for one in its_maps), None
        for axis, one in zip(row[1:], its_maps):
            drawn = axis.imshow(one, cmap="viridis", vmin=0, vmax=most or None)
        if drawn is not None:
            made.colorbar(drawn, ax=list(row), fraction=0.02, pad=0.01).ax.tick_params(labelsize=6)
        if i < len(labels):
            true, predicted = labels[i]
            colour = "black" if true == predicted else "firebrick"
            row[0].set_ylabel(f"true {true}\npredicted {predicted}", fontsize=7, color=colour)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        for edge in axis.spines.values():
            edge.set_visible(False)
    for axis, title in zip(axes[0], titles):
        axis.set_title(title, fontsize=8)
    return [save(made, path)]


def save(made: Any, path: Path) -> Path:
    """Write a figure as the PNG of this name."""
    write_whole(path, lambda file: made.savefig(file, dpi=120, format="png"))
    return path
