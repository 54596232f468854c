"""A right case with the answers of an implementation that has another default: by options, weights, inputs, an op."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np

from perceiver_ref.autograd.handlers import handle
from perceiver_ref.porting import run
from perceiver_ref.porting.cases import Case
from perceiver_ref.porting.cases.execution import rebuild
from perceiver_ref.porting.exchange import exchanged_steps

Change = Callable[[Case], Case]
Formula = Callable[..., np.ndarray]


def planted(
    case: Case,
    change: Change = lambda case: case,
    ops: dict[str, Formula] | None = None,
    grid: Formula | None = None,
) -> Case:
    """The case with the outputs, and gradients where it has some, of the changed one, whose `ops` are computed by
    formulas of plain arrays, and the positions of a grid by another formula of its sizes.

    Formulas have no backward rule: with them the case has no gradients.
    """
    other = change(case)
    cotangents = case.cotangents if case.grad_params or case.grad_inputs else {}
    if ops is not None:
        case, cotangents = replace(case, grad_params={}, grad_inputs={}, cotangents={}), {}
    rebuilt, arrays = rebuild(replace(other, outputs=case.outputs))

    def instead(op: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        formula = (ops or {}).get(op.name)
        return op(*arguments, **options) if formula is None else formula(*arguments, **{**op.defaults, **options})

    def positions(original: Any, index_dims: tuple[int, ...], *arguments: Any, **options: Any) -> Any:
        return grid(index_dims) if grid else original(index_dims, *arguments, **options)

    exchanged = exchanged_steps({"linear_positions": positions}) if grid else nullcontext()
    with handle(instead) if ops else nullcontext(), exchanged, np.errstate(all="ignore"):
        made = run(rebuilt, arrays, other.inputs, other.meta["call"], cotangents=cotangents or None)
    grad_params = {name: array for name, array in made.grad_params.items() if name in case.grad_params}
    grad_inputs = {name: array for name, array in made.grad_inputs.items() if name in case.grad_inputs}
    outputs = {name: made.outputs[name] for name in case.outputs}
    return replace(case, outputs=outputs, grad_params=grad_params, grad_inputs=grad_inputs, trace={})


def option(**options: Any) -> Change:
    """Other options, in `config` inside the configuration where there is one."""

    def change(case: Case) -> Case:
        config = dict(case.meta["config"])
        made = {**config, "config": {**config["config"], **options}} if "config" in config else {**config, **options}
        return replace(case, meta={**case.meta, "config": made})

    return change


def called(**options: Any) -> Change:
    """Other options of the call."""
    return lambda case: replace(case, meta={**case.meta, "call": {**case.meta["call"], **options}})


def weights(edit: Callable[[str, np.ndarray], np.ndarray]) -> Change:
    """Other weights, by name."""
    return lambda case: replace(case, params={name: edit(name, array) for name, array in case.params.items()})


def inputs(**changes: Callable[[np.ndarray], np.ndarray]) -> Change:
    """Other inputs."""
    return lambda case: replace(case, inputs={n: changes.get(n, lambda a: a)(a) for n, a in case.inputs.items()})


def halves_swapped(*endings: str) -> Change:
    """The halves of the arrays of these names exchanged, along their first axis."""

    def edit(name: str, array: np.ndarray) -> np.ndarray:
        half = array.shape[0] // 2
        return np.concatenate([array[half:], array[:half]]) if name.endswith(endings) else array

    return weights(edit)


def layer_norm(eps: float | None = None, ddof: int = 0) -> dict[str, Formula]:
    """Layer norm with another epsilon, or another variance."""

    def formula(x: Any, scale: Any, offset: Any = None, *, eps: float) -> np.ndarray:
        used = eps if own is None else own
        y = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True, ddof=ddof) + used) * scale
        return y if offset is None else y + offset

    own = eps
    return {"layer_norm": formula}


def attention(scale: float | None = None, axis: int = -1, empty: str = "") -> dict[str, Formula]:
    """Attention with another scale, over another axis, or with other rows where there is no key."""

    def probabilities(q: Any, k: Any, bias: Any = None, *, mask: Any, masked_rows: str, **options: Any) -> np.ndarray:
        given = options["scale"] or q.shape[-1] ** -0.5
        logits = (scale or given) * (q @ np.swapaxes(k, -1, -2))
        logits = logits if bias is None else logits + bias
        if mask is not None:
            logits = np.where(mask, logits, -np.inf)
        most = logits.max(axis, keepdims=True)
        powers = np.exp(logits - np.where(np.isfinite(most), most, 0.0))
        total = powers.sum(axis, keepdims=True)
        rest = 0.0 if (empty or masked_rows) == "zero" else 1 / k.shape[-2]
        return np.where(total > 0, powers / np.where(total > 0, total, 1), rest)

    def formula(q: Any, k: Any, v: Any, bias: Any = None, **options: Any) -> np.ndarray:
        made: np.ndarray = probabilities(q, k, bias, **options) @ v
        return made

    return {"attention": formula, "attention_weights": probabilities}


def x_first(index_dims: tuple[int, ...]) -> np.ndarray:
    """A grid from -1 to 1 whose last axis has the coordinates in reverse."""
    axes = [np.linspace(-1, 1, n) for n in index_dims]
    return np.stack(np.meshgrid(*axes, indexing="ij")[::-1], axis=-1)


def centres(index_dims: tuple[int, ...]) -> np.ndarray:
    """The centres of the cells of an interval from -1 to 1, along each axis."""
    axes = [(2 * np.arange(n) + 1) / n - 1 for n in index_dims]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
