"""`fit`: train a model on data of one's own, with the loop that the recipes use."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..autograd import backend as backends
from ..autograd import optim, tree
from ..autograd.tree import Tree
from ..errors import InputError, one_of
from ..host.files import AnyPath, write_json
from ..models.call import Call
from ..version import __version__
from ..weights.saving import save
from . import losses
from .data import Augment, Batches, Stored, batches, checksum, divided, stored
from .distributed import Kind, Reducer, reducer
from .fitting import Evaluation, Fit, chosen_paths, recomputing
from .loop import run
from .pictures import Drawn, curves
from .plan import Callback, Outcome, Plan, Planned
from .recipe import Settings
from .result import MODEL, NAME, machine, write_model
from .state import writing
from .writers import writers_of

LAST = "last.npz"
"""The parameters of the last step, where `model.npz` holds better ones."""
_OPTIMIZERS = ("sgd", "adam", "adamw", "lamb")
_SCHEDULES = ("constant", "warmup_cosine", "flat_cosine")


@dataclass
class Fitted:
    """What `fit` gives. `params` and `state` are NumPy arrays: of the best evaluation, or without any of the last step.

    `evaluation` is that of these parameters, `history` the lines of metrics.jsonl, `best` the step of the best
    evaluation and `steps` the number of steps made. `seconds` are those of training, `memory` bytes. `files` are
    those written.
    """

    model: Any
    params: Tree
    state: Tree
    evaluation: dict[str, float]
    history: list[dict[str, Any]]
    best: int | None
    steps: int
    seconds: float
    memory: int
    files: list[Path]
    last: Tree = None
    task: Mapping[str, Any] | None = None

    def predict(self, inputs: Any, *, batch: int = 256, **arrays: Any) -> np.ndarray:
        """The model's outputs for inputs (n, ...), a batch at a time; `arrays` are others that `apply` takes."""
        data = Stored(stored({"inputs": inputs, **arrays}), batch)
        call = Call(state=self.state or None)
        made = [losses.outputs_of(self.model, self.params, some, call) for some in data.all()]
        return np.concatenate(made)

    def save(self, path: AnyPath) -> None:
        """Write the model as a file for `load`."""
        save(self.model, self.params, path, state=self.state or None, task=self.task)


def fit(
    model: Any,
    loss: str | Callable[..., Any] = "cross_entropy",
    *,
    train: Any,
    validation: Any = None,
    params: Tree = None,
    state: Tree = None,
    epochs: float | None = None,
    steps: int | None = None,
    batch: int = 32,
    optimizer: str | optim.Optimizer = "adamw",
    learning_rate: float = 1e-3,
    schedule: str | optim.Schedule = "warmup_cosine",
    warmup: int | None = None,
    weight_decay: float = 0.0,
    decays: Callable[[str], bool] | None = None,
    max_norm: float | None = 1.0,
    options: Mapping[str, Any] | None = None,
    trainable: Any = None,
    metrics: Sequence[str] | Mapping[str, Any] = (),
    monitor: str | None = None,
    better: Literal["higher", "lower"] | None = None,
    patience: int | None = None,
    augment: Augment | None = None,
    shuffle: bool = True,
    buckets: bool = False,
    multiple: int = 1,
    accumulate: int = 1,
    recompute: bool = False,
    average: float | None = None,
    precision: Literal["float32", "mixed"] = "float32",
    loss_scale: float = 2.0**15,
    seed: int = 0,
    backend: str = "numpy",
    threads: int = 1,
    out: AnyPath | None = None,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    writers: Sequence[str] = (),
    distributed: Kind | Reducer | None = None,
    log_every: int = 10,
    evaluate_every: int | None = None,
    save_every: int = 100,
    quiet: bool = False,
    task: Mapping[str, Any] | None = None,
) -> Fitted:
    """Train a model and return it: `Fitted.params`, and with `out` a folder of model, metrics, curves and checkpoint.

    model, params, state   any model of ours, own or loaded; without `params` it starts at `model.init(seed)`
    loss                   a name (`losses`), of `model.apply(params, batch["inputs"])` against "targets"; or a function
                           of (params, batch), (params, batch, call), or with the model first, which returns the loss
                           or (loss, {name: value to log})
    train                  arrays by name or (inputs, targets), of lists of arrays of many lengths too, which get a
                           `mask`; a function `(rng) -> batch`; a function that gives an iterator of batches (`data`)
    validation             the same arrays, a share of `train` to hold out, or a function of the parameters to numbers
    epochs, steps          how long: one of them
    optimizer, ...         a name of `autograd.optim` with rate, schedule and decay, or an `Optimizer` with its own
    trainable              which parameters: a function of their paths, or beginnings of these
    metrics                names of `losses.METRICS`, or functions of (outputs, targets) by name, of the validation data
    monitor, better        what is watched (default: the validation's loss, of which lower is better); after `patience`
                           evaluations without a better one, training ends
    augment                `(batch, rng) -> batch`, for every batch of training
    buckets, multiple      for many lengths: batches of like ones; filled up to a multiple
    accumulate             a batch is computed in so many parts; `recompute`: layers again on the way back
    average                decay of a moving average of the parameters, which is evaluated and returned
    precision              "mixed" computes in float16 with a loss scaled by `loss_scale` at first; slower on a CPU
    out, resume            a run that was stopped goes on where it was, bit for bit on NumPy
    callbacks, writers     functions of `plan.Event`; "csv", "tensorboard"
    distributed            "mpi" or "nccl": processes of a launcher share every batch; None finds out

    Raises `InputError` for data that do not fit, with the name of what is wrong.
    """
    if optimizer not in _OPTIMIZERS and not isinstance(optimizer, optim.Optimizer):
        raise one_of("optimizer", str(optimizer), _OPTIMIZERS)
    if isinstance(schedule, str) and schedule not in _SCHEDULES:
        raise one_of("schedule", schedule, _SCHEDULES)
    backends.module(backend)
    params = model.init(seed) if params is None else params
    model.check(params)
    dtype = next((np.dtype(p.dtype) for _, p in tree.leaves(params) if p.dtype.kind == "f"), np.dtype(np.float32))
    data, held_out = _data(train, validation, batch, seed, shuffle, augment, buckets, multiple, dtype)
    total = _steps(data, epochs, steps)
    if precision not in ("float32", "mixed"):
        raise one_of("precision", str(precision), ("float32", "mixed"))
    if precision == "mixed" and backend == "numpy":
        warnings.warn("float16 on a CPU is slower than float32, and less exact; it is for GPUs", stacklevel=2)
    made = Fit(
        seed,
        batch,
        model,
        params,
        _state_of(model, state),
        losses.given(loss),
        data,
        held_out,
        _metrics(metrics, loss),
        chosen_paths(trainable, params),
        decays,
        optimizer if isinstance(optimizer, optim.Optimizer) else None,
        schedule if callable(schedule) else None,
        recomputing(model, loss) if recompute else None,
        task,
    )
    watched = monitor or ("loss" if held_out is not None else None)
    settings = Settings(
        steps=total,
        batch_size=batch,
        learning_rate=learning_rate,
        optimizer=optimizer if isinstance(optimizer, str) else "adamw",  # type: ignore[arg-type]
        schedule=schedule if isinstance(schedule, str) else "constant",  # type: ignore[arg-type]
        warmup=(total // 20 if schedule == "warmup_cosine" else 0) if warmup is None else warmup,
        weight_decay=weight_decay,
        max_norm=max_norm,
        options=dict(options or {}),
        log_every=log_every,
        evaluate_every=evaluate_every or max(data.steps() or total // 10, 1),
        save_every=save_every,
        parts=accumulate if accumulate > 1 else None,
        average=average,
        mixed=loss_scale if precision == "mixed" else None,
        watched=watched,
        better=(better or "lower") if watched else None,
        patience=patience,
    )
    if patience is not None and held_out is None:
        raise InputError("patience needs validation data: nothing else says when training gets worse")
    folder = None if out is None else Path(out)
    processes = reducer(distributed, backend)
    plan = Plan(
        [Planned("train", settings, lambda: made)],
        _configuration(made, settings, seed, backend, threads, (optimizer, schedule)),
        seed,
        backend,
        folder,
        resume,
        threads,
        "fit(..., resume=True)",
        "resume=True",
        "nothing is saved without out=",
        [*callbacks, *writers_of(writers, folder)],
        processes,
        quiet,
    )
    return run(plan, lambda outcome: _fitted(made, outcome, plan, settings))


def _data(
    train: Any,
    validation: Any,
    batch: int,
    seed: int,
    shuffle: bool,
    augment: Any,
    buckets: bool,
    multiple: int,
    dtype: np.dtype[Any],
) -> tuple[Batches, Stored | Evaluation | None]:
    if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
        raise InputError(f"batch must be a whole number of at least 1, got {batch!r}")
    data = batches(
        train, batch, seed, shuffle=shuffle, augment=augment, buckets=buckets, multiple=multiple, dtype=dtype
    )
    if validation is None or (callable(validation) and not isinstance(validation, Stored)):
        return data, validation
    if isinstance(validation, float):
        if not isinstance(data, Stored):
            raise InputError("a share can be held out of arrays alone; give validation data")
        kept, held = divided(data.arrays, validation, seed)
        return replace(data, arrays=kept, _orders={}), Stored(held, batch, multiple=multiple)
    return data, Stored(stored(validation, dtype), batch, multiple=multiple)


def _steps(data: Batches, epochs: float | None, steps: int | None) -> int:
    if (epochs is None) == (steps is None):
        raise InputError("say how long to train, with epochs= or with steps=, one of them")
    if steps is None:
        each = data.steps()
        if each is None:
            raise InputError("nobody knows how many batches an epoch of a function has; say steps=")
        steps = math.ceil(float(epochs) * each)  # type: ignore[arg-type]
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise InputError(f"training needs at least one step, got {steps!r}")
    return steps


def _state_of(model: Any, state: Tree) -> Tree:
    """Running statistics: those given, or the model's at the start; without empty levels."""
    found = model.init_state() if state is None else state
    return found if tree.flatten(found) else {}


def _metrics(chosen: Sequence[str] | Mapping[str, Any], loss: Any) -> dict[str, Any]:
    if not chosen:
        return {}
    if not isinstance(loss, str):
        raise InputError("metrics are of a named loss; a loss of your own returns (loss, {name: value}) for them")
    named = chosen if isinstance(chosen, Mapping) else {str(getattr(m, "__name__", m)): m for m in chosen}
    return {name: losses.metric(one) for name, one in named.items()}


def _configuration(
    made: Fit, settings: Settings, seed: int, backend: str, threads: int, custom: Sequence[Any]
) -> dict[str, Any]:
    """What a run that goes on must agree in: what is trained, from where, on what and how."""
    start = checksum(array for _, array in tree.leaves(made.init()))
    shapes = {path: list(p.shape) for path, p in tree.leaves(made.params)}
    given = {"fit": type(made.model).__name__, "seed": seed, "backend": backend, "threads": threads}
    given |= {"own": [type(one).__name__ for one in custom if not isinstance(one, str)]}
    return {**given, "start": start, "shapes": shapes, "data": made.data.described(), "settings": settings.plain()}


def _fitted(made: Fit, outcome: Outcome, plan: Plan, settings: Settings) -> Fitted:
    """The result, and its files."""
    last = None if outcome.last is None else outcome.last[0]
    files: list[Path] = []
    evaluation = outcome.evaluation
    metric = settings.watched or "loss"
    losses_of = [line["loss"] for line in outcome.lines if "loss" in line]
    if plan.folder is not None and outcome.first:
        folder = plan.folder
        with writing(folder / NAME):
            files = write_model(made, outcome.params, outcome.state, folder / MODEL)
            if outcome.last is not None:
                files += write_model(made, *outcome.last, folder / LAST)
            files += curves(outcome.lines, Drawn(type(made.model).__name__, metric), folder)
            result = {
                "version": 1,
                "recipe": "fit",
                "metric": metric,
                "value": evaluation.get(metric, losses_of[-1] if losses_of else None),
                "seconds": round(outcome.seconds, 1),
                "seed": plan.seed,
                "evaluation": evaluation,
                "best": outcome.best,
                "steps": outcome.steps,
                "parameters": sum(p.size for _, p in tree.leaves(outcome.params)),
                "memory": outcome.memory,
                "backend": plan.backend,
                "machine": machine(plan.backend, plan.threads),
                "perceiver_ref": __version__,
                "files": [path.name for path in files],
            }
            write_json(folder / NAME, result)
    return Fitted(
        made.model,
        outcome.params,
        outcome.state,
        evaluation,
        outcome.lines,
        outcome.best,
        outcome.steps,
        outcome.seconds,
        outcome.memory,
        files,
        last,
        made.task,
    )
