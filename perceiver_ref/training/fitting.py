"""What `fit` trains: a model and a loss on batches, as a task of the loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..autograd import optim, tree
from ..autograd.backend import to_host
from ..autograd.core import array_of
from ..autograd.tree import Tree
from ..errors import InputError, one_of
from ..models.call import Call
from . import losses
from .data import TARGETS, Batches, Stored
from .recipe import Batch, Settings, Task

Metric = Callable[[Any, Any], float]
Evaluation = Callable[[Tree], Mapping[str, float]]


@dataclass(frozen=True)
class Fit(Task):
    """`model` with `params` at the start; `trained_as` is the model that computes in training, to save memory.

    `validation` is data, a function of the parameters, or None: then the loss of training is what is evaluated.
    """

    model: Any
    params: Tree
    state: Tree
    objective: losses.Loss
    data: Batches
    validation: Stored | Evaluation | None = None
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    chosen: Callable[[str], bool] = optim.parts.every
    decayed: Callable[[str], bool] | None = None
    custom: optim.Optimizer | None = None
    schedule: optim.Schedule | None = None
    trained_as: Any = None
    task: Mapping[str, Any] | None = None

    def init(self, before: Tree = None) -> Tree:
        return tree.map(to_host, self.params)

    def init_state(self) -> Tree:
        return self.state

    def batch(self, step: int) -> dict[str, np.ndarray]:
        return self.data.batch(step)

    def loss(self, params: Tree, batch: Batch, call: Call) -> tuple[Any, dict[str, Any]]:
        value, metrics = self.objective(self.trained_as or self.model, params, batch, call)
        return value, {k: array_of(v) for k, v in metrics.items() if k not in (losses.OUTPUTS, TARGETS)}

    def evaluate(self, params: Tree) -> dict[str, float]:
        return self.evaluate_with(params, {})

    def evaluate_with(self, params: Tree, state: Tree) -> dict[str, float]:
        """The loss over the validation data, means of what the loss logs, and the metrics of all outputs together."""
        if self.validation is None:
            return {}
        if not isinstance(self.validation, Stored):
            return {name: float(value) for name, value in self.validation(params).items()}
        sums: dict[str, float] = {}
        total, pieces = 0.0, []
        for batch in self.validation.all():
            call = Call(state=state or None)
            value, found = self.objective(self.model, params, losses.placed(params, batch), call)
            weight = float(found.pop("weight", self.rows(batch)))
            pieces.append((found.pop(losses.OUTPUTS, None), found.pop(TARGETS, None), weight))
            for name, number in {"loss": value, **found}.items():
                sums[name] = sums.get(name, 0.0) + weight * float(array_of(number))
            total += weight
        return {name: s / total if total else math.nan for name, s in sums.items()} | self._measured(pieces)

    def _measured(self, pieces: list[tuple[Any, Any, float]]) -> dict[str, float]:
        if not self.metrics:
            return {}
        outputs = [to_host(array_of(o)) for o, _, _ in pieces]
        targets = [to_host(array_of(t)) for _, t, _ in pieces]
        if all(o.shape[1:] == outputs[0].shape[1:] for o in outputs):  # of all at once
            whole = np.concatenate(outputs), np.concatenate(targets)
            return {name: float(made(*whole)) for name, made in self.metrics.items()}
        weights = [weight for _, _, weight in pieces]
        return {
            name: float(np.average([made(o, t) for o, t in zip(outputs, targets)], weights=weights))
            for name, made in self.metrics.items()
        }

    def trainable(self, path: str) -> bool:
        return self.chosen(path)

    def decays(self, path: str) -> bool:
        return super().decays(path) if self.decayed is None else self.decayed(path)

    def optimizer(self, settings: Settings) -> Any:
        if self.custom is not None:
            return settings.wrapped(self.custom)
        if self.schedule is None:
            return settings.make_optimizer(self.decays)
        build: Any = getattr(optim, settings.optimizer)
        return settings.wrapped(
            build(
                self.schedule,
                weight_decay=settings.weight_decay,
                decays=self.decays,
                max_norm=settings.max_norm,
                **settings.options,
            )
        )

    def rate(self, settings: Settings) -> optim.Schedule:
        if self.custom is not None:
            return self.custom.rate
        return settings.rate() if self.schedule is None else self.schedule

    def saved(self, params: Tree) -> tuple[Any, Tree] | None:
        return self.model, params

    def about(self) -> dict[str, Any] | None:
        return None if self.task is None else dict(self.task)


def chosen_paths(trainable: Any, params: Tree) -> Callable[[str], bool]:
    """What is trained: everything, a function of a parameter's path, or beginnings of paths.

    `InputError` for a beginning that no path has, and where nothing would be trained.
    """
    if trainable is None:
        return optim.parts.every
    paths = [path for path, _ in tree.leaves(params)]
    chosen = trainable
    if not callable(trainable):
        beginnings = [b.rstrip("/") for b in ((trainable,) if isinstance(trainable, str) else trainable)]
        known = {"/".join(path.split("/")[:n]) for path in paths for n in range(1, path.count("/") + 2)}
        for beginning in beginnings:
            if beginning not in known:
                raise one_of("beginning of trainable parameters", beginning, known)

        def chosen(path: str) -> bool:
            return any(path == b or path.startswith(b + "/") for b in beginnings)

    if not any(map(chosen, paths)):
        raise InputError("trainable chooses none of the parameters: nothing would be trained")
    return chosen  # type: ignore[no-any-return]


def recomputing(model: Any, loss: Any) -> Any:
    """The model, its layers computed again on the way back; `InputError` where none can be."""
    if not losses.takes_model(loss):
        raise InputError(
            "recompute changes the model that a named loss, or one of (model, params, batch), is given; build your own "
            "with Encoder(recompute=True) or PerceiverAR(recompute=True)"
        )
    made = model.map_parts(_recomputing)
    made = _recomputing(made)
    if made is model:
        raise InputError(f"a {type(model).__name__} has no layers that can be computed again")
    return made


def _recomputing(part: Any) -> Any:
    return part.with_fields(recompute=True) if getattr(part, "recompute", None) is False else part
