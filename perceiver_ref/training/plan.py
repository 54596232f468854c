"""What the loop runs: stages one after the other, and what they are run with. Recipes and `fit` make plans."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..autograd.tree import Tree
from .distributed import ALONE, Reducer
from .recipe import Settings, Task


@dataclass(frozen=True)
class Planned:
    """A stage: its name, its settings, and its task, which is made when the stage begins."""

    name: str
    settings: Settings
    build: Callable[[], Task]


@dataclass(frozen=True)
class Event:
    """What a callback is told of: a line of metrics that was just logged.

    `params` gives the parameters as they are now, in the task's structure on its backend, and `stop` ends the stage
    after this step.
    """

    line: Mapping[str, Any]
    params: Callable[[], Tree]
    stop: Callable[[], None]


Callback = Callable[[Event], Any]


@dataclass(frozen=True)
class Plan:
    """A run.

    `configuration` is what a checkpoint must agree in to be gone on from. `command` is how a person goes on with it,
    and `to_resume` what is said of resuming where a folder holds a run already. `advice` is what may help when the loss
    is no number. Without `folder` nothing is written.
    """

    stages: Sequence[Planned]
    configuration: Mapping[str, Any]
    seed: int = 0
    backend: str = "numpy"
    folder: Path | None = None
    resume: bool = False
    threads: int = 1
    command: str = ""
    to_resume: str = "--resume"
    unsaved: str = "nothing is saved without --out DIR"
    callbacks: Sequence[Callback] = ()
    reducer: Reducer = ALONE
    quiet: bool = False


@dataclass
class Outcome:
    """What a run gives: the last stage's task, its parameters and running statistics at the end (NumPy arrays).

    `evaluation` is that of the parameters; with something watched both are those of the best evaluation, and `last` the
    parameters of the last step. `lines` are those of metrics.jsonl, and `seconds` the time of all processes that had a
    part in the run, one after the other. `first`: whether this is the first of several processes, which writes files.
    """

    task: Task
    params: Tree
    state: Tree
    evaluation: dict[str, float]
    lines: list[dict[str, Any]]
    seconds: float
    steps: int
    best: int | None = None
    last: tuple[Tree, Tree] | None = None
    memory: int = 0
    first: bool = True
