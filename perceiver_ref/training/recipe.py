"""What a recipe is: a task to train on, the settings to train it with, and the result to expect.

A recipe's module defines `RECIPES`, a tuple of `Recipe`; a line in the table of `recipes/__init__.py` adds it to the
command, the tests and the results.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..autograd import backend as backends
from ..autograd import optim, tree
from ..autograd.backend import Array
from ..autograd.core import array_of
from ..autograd.tree import Tree
from ..models.call import Call
from .watch import Watch

Batch = dict[str, Array]


@dataclass(frozen=True)
class Task(ABC):
    """A model, its data and its loss. Everything random follows from the seed that it was built with.

    `batch` and `evaluate` choose data; `loss` computes on arrays of either library and runs unchanged on both.
    """

    seed: int
    batch_size: int

    @abstractmethod
    def init(self, before: Tree = None) -> Tree:
        """The parameters at the start: a tree of float32 NumPy arrays.

        `before`: what the stage before has trained (NumPy arrays), None in the first. A later stage returns a tree that
        holds all it needs of it.
        """

    @abstractmethod
    def batch(self, step: int) -> dict[str, np.ndarray]:
        """The batch of step 0, 1, ... of the stage, as NumPy arrays (float32 and integers).

        A function of the seed and `step` alone, such as with `numpy.random.default_rng((seed, step))`: this is what
        makes a run that was stopped go on exactly. The loop moves floating-point and boolean arrays to the backend;
        integers (ids, labels) stay on the host, where operations check them without waiting for a device.
        """

    @abstractmethod
    def loss(self, params: Tree, batch: Batch, call: Call) -> tuple[Any, dict[str, Any]]:
        """(0-d loss, {name: 0-d value to log}); `params` holds `Tensor`s, so compute with `autograd.ops`.

        `call` has training=True and a key of its own for each step, for models that drop out. Nothing here may wait for
        a device, as float() does.
        """

    @abstractmethod
    def evaluate(self, params: Tree) -> dict[str, float]:
        """Numbers on data that is not trained on, among them the recipe's metric. `params` are the backend's arrays.

        `arrays_like` moves data to where the parameters are.
        """

    def init_state(self) -> Tree:
        """Running statistics at the start, as `Module.init_state` gives them: `loss` gets them in `call.state`."""
        return {}

    def evaluate_with(self, params: Tree, state: Tree) -> dict[str, float]:
        """`evaluate` with running statistics, for tasks that have some."""
        return self.evaluate(params)

    def saved(self, params: Tree) -> tuple[Any, Tree] | None:
        """(model, its parameters): what of the result is written as a file for `load`; None for nothing.

        `params` are NumPy arrays. By default the task's attribute `model`, if all parameters are its own.
        """
        model = getattr(self, "model", None)
        if model is None or set(tree.flatten(model.parameters())) != set(tree.flatten(params)):
            return None
        return model, params

    def about(self) -> dict[str, Any] | None:
        """What `save` is told of the model's use, such as the names of classes."""
        return None

    def rows(self, batch: Mapping[str, Any]) -> int:
        """The number of examples in a batch: the first axis of its first array."""
        return int(next(iter(batch.values())).shape[0])

    def split(self, batch: Mapping[str, Any], part: int, parts: int) -> dict[str, Any]:
        """Part number `part` of `parts` of a batch: of every array with an axis of examples its rows, evenly cut.

        What has another first axis than the first array goes to every part.
        """
        rows = self.rows(batch)
        first, last = rows * part // parts, rows * (part + 1) // parts
        return {key: a[first:last] if a.shape and a.shape[0] == rows else a for key, a in batch.items()}

    def optimizer(self, settings: Settings) -> Any:
        """What makes the updates."""
        return settings.make_optimizer(self.decays)

    def rate(self, settings: Settings) -> optim.Schedule:
        """The learning rate that is logged."""
        return settings.rate()

    def trainable(self, path: str) -> bool:
        """Whether the parameter of this path is trained; others get no gradient, and stay as they are."""
        return True

    def decays(self, path: str) -> bool:
        """Whether weight decay is for the parameter of this path: weight matrices, not biases, norms, tables."""
        return path.rsplit("/", 1)[-1] == "weight"

    def baselines(self) -> dict[str, float]:
        """The recipe's metric for simpler methods, by their names."""
        return {}

    def show(self, params: Tree, folder: Path) -> list[Path]:
        """Write samples and pictures, such as attention maps, and return the files. `params` are NumPy arrays.

        Pictures are for the extra `plot`: `training.pictures` has figures, attention maps, and nothing without it.
        """
        return []


@dataclass(frozen=True)
class Settings:
    """How a stage is trained. Plain values only: they are written into checkpoints and compared on resuming.

    `optimizer` names a function of `autograd.optim`, `options` its further arguments (b1, b2, eps, momentum, ...).
    Evaluation, logging and saving also happen after a stage's last step. A batch is computed in `parts`, one after the
    other, to need less memory; `average` is the decay of a moving average of the parameters, which is then evaluated;
    `mixed` computes in float16, with the loss multiplied by this much at the start. `watched` names the number of an
    evaluation whose best value the parameters are kept of, and after `patience` evaluations without a better one the
    stage ends.
    """

    steps: int
    batch_size: int
    learning_rate: float
    optimizer: Literal["sgd", "adam", "adamw", "lamb"] = "adamw"
    schedule: Literal["constant", "warmup_cosine", "flat_cosine"] = "warmup_cosine"
    warmup: int = 0
    weight_decay: float = 0.0
    max_norm: float | None = 1.0
    options: Mapping[str, Any] = field(default_factory=dict)
    log_every: int = 10
    evaluate_every: int = 500
    save_every: int = 100
    parts: int | None = None
    average: float | None = None
    mixed: float | None = None
    watched: str | None = None
    better: Literal["higher", "lower"] | None = None
    patience: int | None = None

    @property
    def watch(self) -> Watch | None:
        """What is watched among the evaluations, if anything is."""
        return None if self.watched is None else Watch(self.watched, self.better or "lower", self.patience)

    def rate(self) -> optim.Schedule:
        """The learning rate by the number of updates made. `warmup`: updates of linear warm-up, or flat ones."""
        if self.schedule == "constant":
            return optim.constant(self.learning_rate)
        if self.schedule == "flat_cosine":
            return optim.flat_cosine(self.learning_rate, self.warmup, self.steps)
        return optim.warmup_cosine(self.learning_rate, self.warmup, self.steps)

    def make_optimizer(self, decays: Callable[[str], bool]) -> Any:
        """The optimizer, whose weight decay is for the paths that `decays` chooses."""
        build: Any = getattr(optim, self.optimizer)
        return self.wrapped(
            build(self.rate(), weight_decay=self.weight_decay, decays=decays, max_norm=self.max_norm, **self.options)
        )

    def wrapped(self, optimizer: Any) -> Any:
        """An optimizer with the moving average and the scaled loss that the settings ask for around it."""
        made = optim.Averaged(optimizer, self.average) if self.average is not None else optimizer
        return optim.Scaled(made, self.mixed) if self.mixed else made

    def plain(self) -> dict[str, Any]:
        """The settings as JSON holds them."""
        return asdict(self)


@dataclass(frozen=True)
class Stage:
    """One task, `task(seed, batch_size)`, trained with one set of settings; most recipes have one stage.

    The quick form has settings of its own, and a task of its own where `quick_task` is given.
    """

    name: str
    task: Callable[[int, int], Task]
    settings: Settings
    quick: Settings
    quick_task: Callable[[int, int], Task] | None = None

    def chosen(self, quick: bool) -> Settings:
        """The settings of the full form or of the quick one."""
        return self.quick if quick else self.settings

    def build(self, seed: int, quick: bool) -> Task:
        """The task of the full form or of the quick one."""
        make = self.quick_task if quick and self.quick_task else self.task
        return make(seed, self.chosen(quick).batch_size)


@dataclass(frozen=True)
class Recipe:
    """A row of the table. The value of `metric` is what the last stage's `evaluate` gives at the end.

    `threshold` and `quick_threshold` are what it must reach (`better` says in which direction) for exit code 0;
    `minutes` is the time of the full form on 2 cores; `expected` the result to expect of it, in words or numbers.
    `baseline` names the one that stands beside the result in the README's table; the best one without it.
    `command` is what `perceiver-ref train` is given for it where that is not its name, and `identity` tells the data
    and the model of a person's own from others.
    `threads`: of matrix products and kernels; at the recipes' sizes a second one costs more than it gives, and sums in
    another order would end bit for bit repeatability between machines with other numbers of cores.
    """

    name: str
    what: str
    model: str
    data: str
    paper: str
    metric: str
    better: Literal["higher", "lower"]
    threshold: float | None
    quick_threshold: float | None
    expected: str
    minutes: float
    stages: tuple[Stage, ...]
    threads: int = 1
    baseline: str = ""
    command: str = ""
    identity: Mapping[str, Any] | None = None

    def expects(self, quick: bool) -> float | None:
        """What a run must reach; None where nothing is known of its data."""
        return self.quick_threshold if quick else self.threshold

    def reached(self, value: float, quick: bool) -> bool:
        """Whether a value of the metric meets the threshold."""
        threshold = self.expects(quick)
        if threshold is None:
            return True
        return value >= threshold if self.better == "higher" else value <= threshold


@dataclass(frozen=True)
class Options:
    """What a run is given beside its recipe. Without `out` nothing is written."""

    seed: int = 0
    quick: bool = False
    backend: str = "numpy"
    out: Path | str | None = None
    resume: bool = False

    def __post_init__(self) -> None:
        """A folder's name counts as its path."""
        if self.out is not None:
            object.__setattr__(self, "out", Path(self.out))

    @property
    def folder(self) -> Path | None:
        """`out` as a path."""
        return None if self.out is None else Path(self.out)


def hits(logits: Any, targets: np.ndarray) -> Array:
    """Whether the largest of the logits (..., K) is the target's (...): bool (...), in the library of the logits."""
    values = array_of(logits)
    right: Array = values.argmax(-1) == backends.xp(values).asarray(targets)
    return right


def accuracy(logits: Any, targets: np.ndarray) -> Array:
    """The share of `hits`: 0-d."""
    return hits(logits, targets).mean()


def arrays_like(params: Tree, arrays: Mapping[str, Array]) -> Batch:
    """The same arrays in the library of the parameters."""
    name = backends.name(next(array for _, array in tree.leaves(params)))
    return {key: backends.to_backend(array, name) for key, array in arrays.items()}
