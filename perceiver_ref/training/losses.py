"""Losses and metrics by name, and the calls of functions that a user gives in their place.

cross_entropy, binary_cross_entropy, squared_error, absolute_error
              of the model's outputs for `inputs`, against `targets` (or `labels`)
next_token    of a `PerceiverAR`, on `ids`
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..autograd import backend as backends
from ..autograd import ops, tree
from ..autograd.backend import to_host
from ..autograd.core import array_of
from ..autograd.tree import Tree
from ..errors import InputError, one_of
from ..models.call import Call
from ..models.perceiver_ar import PerceiverAR
from .data import IGNORED, INPUTS, MASK, TARGETS

Loss = Callable[[Any, Tree, Mapping[str, Any], Call], tuple[Any, dict[str, Any]]]
"""(model, params, batch, call) -> (0-d loss, {name: 0-d value to log})."""
OUTPUTS = "outputs"


def outputs_of(model: Any, params: Tree, batch: Mapping[str, Any], call: Call) -> Any:
    """What the model gives for a batch: `inputs`, and of the other arrays those that its `apply` takes by name."""
    if INPUTS not in batch:
        raise InputError(f"a named loss needs {INPUTS!r} in the data, which hold {', '.join(batch)}")
    known = inspect.signature(model.apply).parameters
    given = {name: batch[name] for name in batch if name != INPUTS and name in known}
    if "call" in known:
        given["call"] = call
    return model.apply(params, batch[INPUTS], **given)


def targets_of(batch: Mapping[str, Any]) -> Any:
    """The batch's `targets`, or its `labels`."""
    for name in (TARGETS, "labels"):
        if name in batch:
            return batch[name]
    raise InputError(f"a named loss needs {TARGETS!r} or 'labels' in the data, which hold {', '.join(batch)}")


def _cross_entropy(outputs: Any, targets: Any, mask: Any) -> tuple[Any, Any]:
    if targets.dtype.kind not in "iu":
        raise InputError(f"cross_entropy needs integer targets, the numbers of classes, got {targets.dtype}")
    real = to_host(targets) != IGNORED
    try:
        loss = ops.cross_entropy(outputs, targets)
    except IndexError:
        there = to_host(targets)[real]
        raise InputError(
            f"targets are classes from {there.min()} to {there.max()}, but the model has {outputs.shape[-1]} outputs: "
            "they are numbered from 0"
        ) from None
    return loss, None if targets.ndim < 2 else real.sum()


def _as_numbers(outputs: Any, targets: Any) -> Any:
    """Targets (B, ...) in the shape and dtype of the outputs (B, ...), or (B, ..., 1)."""
    like = array_of(outputs)
    given = backends.xp(like).asarray(targets).astype(like.dtype)
    if given.shape != like.shape and (*given.shape, 1) == tuple(like.shape):
        given = given.reshape(like.shape)
    if given.shape != like.shape:
        raise InputError(f"targets are {tuple(given.shape)}, but the model's outputs {tuple(like.shape)}")
    return given


def _elementwise(loss: Callable[..., Any]) -> Callable[[Any, Any, Any], tuple[Any, Any]]:
    """The mean of a loss of each number; where targets have one for each of the inputs, over those that are real."""

    def mean(outputs: Any, targets: Any, mask: Any) -> tuple[Any, Any]:
        given = _as_numbers(outputs, targets)
        if mask is None or tuple(given.shape[:2]) != tuple(mask.shape):
            return loss(outputs, given), None
        real, each = int(mask.sum()), given.size // max(mask.size, 1)
        kept = backends.xp(given).asarray(mask).reshape(*mask.shape, *(1,) * (given.ndim - 2))
        errors = ops.where(kept, loss(outputs, given, reduction="none"), 0.0)
        return ops.divide(ops.sum(errors), float(real * each)), real

    return mean


NAMED: dict[str, Callable[[Any, Any, Any], tuple[Any, Any]]] = {
    "cross_entropy": _cross_entropy,
    "binary_cross_entropy": _elementwise(ops.binary_cross_entropy),
    "squared_error": _elementwise(ops.squared_error),
    "absolute_error": _elementwise(ops.absolute_error),
}
"""(outputs, targets, mask of the inputs or None) -> (loss, what a part of a batch counts for; None: its rows)."""


def next_token(model: PerceiverAR, params: Tree, ids: np.ndarray, mask: Any = None) -> tuple[Any, Any, Any]:
    """(loss, logits, targets) of a `PerceiverAR` on ids (B, M + 1): each of its last latents predicts the next one.

    mask (B, M + 1), True where a token is real: padding at the end is moved to the beginning, where the model has it.
    """
    real = np.ones(ids.shape, bool) if mask is None else to_host(mask)
    places = (np.arange(ids.shape[1]) - (~real).sum(1, keepdims=True)) % ids.shape[1]
    ids, real = (np.take_along_axis(array, places, 1) for array in (ids, real))
    prefix = max(ids.shape[1] - 1 - model.latents, 0)
    like = array_of(next(p for _, p in tree.leaves(params)))
    given = None if mask is None else backends.to_backend(real[:, :-1], backends.name(like))
    logits = model.apply(params, ids[:, :-1], prefix=prefix, mask=given)
    targets = np.where(real[:, prefix:-1], ids[:, prefix + 1 :], IGNORED)
    return ops.cross_entropy(logits, targets), logits, targets


def named(name: str) -> Loss:
    """The loss of a name; `InputError` listing the known ones."""
    if name == "next_token":

        def of_tokens(model: Any, params: Tree, batch: Mapping[str, Any], call: Call) -> tuple[Any, dict[str, Any]]:
            ids = batch["ids"] if "ids" in batch else batch.get(INPUTS)
            if ids is None or not isinstance(model, PerceiverAR):
                raise InputError("next_token needs a PerceiverAR and 'ids' in the data")
            loss, logits, targets = next_token(model, params, to_host(ids), batch.get(MASK))
            return loss, {"weight": np.float64((targets != IGNORED).sum()), OUTPUTS: logits, TARGETS: targets}

        return of_tokens
    if name not in NAMED:
        raise one_of("loss", name, [*NAMED, "next_token"])
    chosen = NAMED[name]

    def of_outputs(model: Any, params: Tree, batch: Mapping[str, Any], call: Call) -> tuple[Any, dict[str, Any]]:
        outputs, targets = outputs_of(model, params, batch, call), targets_of(batch)
        loss, weight = chosen(outputs, targets, batch.get(MASK))
        values = {} if weight is None else {"weight": np.float64(weight)}
        return loss, {**values, OUTPUTS: outputs, TARGETS: targets}

    return of_outputs


def given(loss: str | Callable[..., Any]) -> Loss:
    """A loss by its name, or a user's function of `(params, batch)`, `(params, batch, call)`, or with the model first.

    It returns the loss, or (loss, {name: value to log}).
    """
    if isinstance(loss, str):
        return named(loss)
    if not callable(loss):
        raise InputError(f"loss must be a name or a function, got {type(loss).__name__}")
    parameters = [
        p.name
        for p in inspect.signature(loss).parameters.values()
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    with_model = bool(parameters) and parameters[0] == "model"
    count = len(parameters) - with_model
    if count not in (2, 3):
        raise InputError(
            "loss must be a function of (params, batch), (params, batch, call) or (model, params, batch), got one of "
            f"({', '.join(parameters)})"
        )

    def called(model: Any, params: Tree, batch: Mapping[str, Any], call: Call) -> tuple[Any, dict[str, Any]]:
        arguments = [*([model] if with_model else []), params, batch, call][: with_model + count]
        found = loss(*arguments)
        value, metrics = found if isinstance(found, tuple) else (found, {})
        if getattr(value, "shape", None) != ():
            shape = getattr(value, "shape", type(value).__name__)
            raise InputError(f"the loss must be one number, a mean or a sum, got {shape}")
        return value, dict(metrics)

    return called


def takes_model(loss: str | Callable[..., Any]) -> bool:
    """Whether a loss computes with the model that it is given, and not with one of its own."""
    return isinstance(loss, str) or next(iter(inspect.signature(loss).parameters), "") == "model"


def _accuracy(outputs: Any, targets: Any) -> float:
    guessed, targets = to_host(array_of(outputs)).argmax(-1), to_host(targets)
    real = targets != IGNORED
    return float((guessed == targets)[real].mean()) if real.any() else float("nan")


def _difference(outputs: Any, targets: Any) -> np.ndarray:
    difference: np.ndarray = to_host(array_of(outputs)) - to_host(_as_numbers(outputs, targets))
    return difference


METRICS: dict[str, Callable[[Any, Any], float]] = {
    "accuracy": _accuracy,
    "root_mean_squared_error": lambda o, t: float(np.sqrt(np.square(_difference(o, t)).mean())),
    "mean_absolute_error": lambda o, t: float(abs(_difference(o, t)).mean()),
}
"""(outputs, targets) -> a number, by name."""


def metric(chosen: str | Callable[..., Any]) -> Callable[[Any, Any], float]:
    """A metric by its name, or a user's function of (outputs, targets)."""
    if not isinstance(chosen, str):
        return chosen
    if chosen not in METRICS:
        raise one_of("metric", chosen, METRICS)
    return METRICS[chosen]


def placed(params: Tree, batch: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """A batch where the parameters are, but for integers, which operations check on the host."""
    library = backends.name(next(a for _, a in tree.leaves(params)))
    return {k: a if a.dtype.kind in "iu" else backends.to_backend(a, library) for k, a in batch.items()}
