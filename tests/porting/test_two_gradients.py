"""Two wrong backward rules at once: both are named, whichever they are and whatever is done to the gradients after."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from porting.cases import case_of
from porting.test_gradients import (
    GATED,
    RESAMPLER,
    TEXT,
    assigned,
    computed,
    constant_variance,
    detached,
    everything,
    of_sigmoid_gelu,
    other_rule,
    softmax_without_sum,
    unscaled,
)

from perceiver_ref.porting.cases import Case
from perceiver_ref.porting.diagnosis.diagnose import diagnose
from perceiver_ref.porting.gradients.backward import scaled
from perceiver_ref.porting.gradients.backward.base import composed
from perceiver_ref.porting.gradients.graph import record
from perceiver_ref.porting.subject import Subject

SHARED = "hf/model_mask"
"""Its blocks have the same weights, so that no gradient is wrong by one rule alone."""
SOFTMAX, NORM, GELU = "softmax-backward", "norm-backward", "activation-backward"
Finish = Callable[[Case], Case]


def clipped(limit: float) -> Finish:
    """Gradients of parameters, by value."""
    return lambda case: replace(case, grad_params={n: np.clip(a, -limit, limit) for n, a in case.grad_params.items()})


def shortened(length: float, *, inputs: bool) -> Finish:
    """By the norm of those of parameters, or of all; the norm is that of wrong gradients."""

    def change(case: Case) -> Case:
        arrays = [*case.grad_params.values(), *(case.grad_inputs.values() if inputs else ())]
        factor = length / float(np.sqrt(sum(np.square(a).sum() for a in arrays)))
        assert factor < 1
        made = everything(factor)(case)
        return made if inputs else replace(made, grad_inputs=case.grad_inputs)

    return change


def rounded(case: Case) -> Case:
    """Finished gradients in float16."""

    def near(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: a.astype(np.float16).astype(np.float64) for name, a in arrays.items()}

    return replace(case, grad_params=near(case.grad_params), grad_inputs=near(case.grad_inputs))


def stored_in_float32(case: Case) -> Case:
    """A case of float32 whose outputs and gradients are the nearest numbers of float32 to what was planted."""

    def near(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {n: a.astype(np.float32) if a.dtype.kind == "f" else a for n, a in arrays.items()}

    meta = {**case.meta, "dtype": "float32"}
    grads = {"grad_params": near(case.grad_params), "grad_inputs": near(case.grad_inputs)}
    return replace(case, meta=meta, outputs=near(case.outputs), **grads)


def of_tanh_gelu(right: Any, g: Any, residuals: Any, static: Any) -> Any:
    """The derivative of GELU with tanh, which is nearly that with erf."""
    x = residuals[0]
    t = np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))
    slope = np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * x**2)
    return g * (0.5 * (1 + t) + 0.5 * x * (1 - t**2) * slope)


RULES: dict[str, Callable[[], Any]] = {
    "softmax": lambda: other_rule("attention", softmax_without_sum),
    "norm": lambda: other_rule("layer_norm", constant_variance),
    "gelu": lambda: other_rule("gelu_erf", of_sigmoid_gelu),
    "tanh": lambda: other_rule("gelu_erf", of_tanh_gelu),
    "scale": lambda: other_rule("attention", unscaled),
    "tokens": lambda: other_rule("take", assigned),
    "keys": lambda: detached("attention", r"layers\.0\.", 1),
}
CASES: dict[str, tuple[str, tuple[str, ...], Finish | None, set[str]]] = {
    "softmax, norm": (RESAMPLER, ("softmax", "norm"), None, {SOFTMAX, NORM}),
    "keys, gelu": (RESAMPLER, ("keys", "gelu"), None, {"gradient-stopped", GELU}),
    "scale, tokens": (TEXT, ("scale", "tokens"), None, {"attention-scale-backward", "embedding-backward"}),
    "norm, loss": (RESAMPLER, ("norm",), everything(0.5), {NORM, "gradient-factor"}),
    "softmax, tokens": (TEXT, ("softmax", "tokens"), None, {SOFTMAX, "embedding-backward"}),
    "softmax, clipped values": (GATED, ("softmax",), clipped(0.3), {SOFTMAX, "gradient-clipped"}),
    "softmax, clipped": (RESAMPLER, ("softmax",), shortened(0.5, inputs=False), {SOFTMAX, "gradient-clipped"}),
    "norm, all clipped": (RESAMPLER, ("norm",), shortened(1.0, inputs=True), {NORM, "gradient-clipped"}),
    # of the large difference that so small a norm makes, the other rule is a part below a hundred thousandth
    "norm, all clipped small": (RESAMPLER, ("norm",), shortened(1e-3, inputs=True), {NORM, "gradient-clipped"}),
    "float32: keys, gelu": (RESAMPLER, ("keys", "gelu"), stored_in_float32, {"gradient-stopped", GELU}),
    # the norm's alone leaves less than a hundredth of the difference, and more than rounding
    "float32: tanh, norm": (RESAMPLER, ("tanh", "norm"), stored_in_float32, {GELU, NORM}),
    "float32: gelu, all clipped small": (
        RESAMPLER,
        ("gelu",),
        lambda case: stored_in_float32(shortened(1e-3, inputs=True)(case)),
        {GELU, "gradient-clipped"},
    ),
    "gelu, float16": (RESAMPLER, ("gelu",), rounded, {GELU, "gradient-dtype"}),
    "shared weights: softmax, norm": (SHARED, ("softmax", "norm"), None, {SOFTMAX, NORM}),
    "shared weights: gelu, loss": (SHARED, ("gelu",), everything(0.5), {GELU, "gradient-factor"}),
}


def planted(name: str, rules: tuple[str, ...], finish: Finish | None, dtype: Any = np.float64) -> Case:
    with ExitStack() as stack:
        for rule in rules:
            stack.enter_context(RULES[rule]())
        made = computed(case_of(name), dtype)
    return finish(made) if finish else made


@pytest.mark.parametrize("which", CASES)
def test_two_wrong_backward_rules_are_named(which: str) -> None:
    *given, causes = CASES[which]
    found = diagnose(planted(*given))
    assert found.verdict == "deviation"
    assert len(found.causes) == 2
    assert set(found.causes) == causes
    # of outputs, which are right: an ulp of float32 is 1.2e-7
    assert found.error < (1e-6 if which.startswith("float32") else 1e-10)


def test_a_graph_with_a_changed_step_goes_on_from_it() -> None:
    """Changes on changes are both at once, and a walk that ends early gives what it has of the whole."""
    subject = Subject(case_of(RESAMPLER))
    graph = record(
        lambda p, i: subject.run(p, {**subject.inputs, **i}), subject.params, subject.inputs, subject.case.cotangents
    )
    right = graph.walk()
    steps = [(i, step) for i, step in graph.steps if step.op.name == "attention"]
    last, first = steps[-1], steps[0]
    one, other = scaled([(last[0], 0)], 0.3), {**scaled([(last[0], 0)], 2.0), **scaled([(first[0], 2)], -1.0)}
    both = graph.again(composed(one, other))
    under = {**right, **graph.again(one), **graph.under(one).again(other)}
    early = graph.again(one, until=first[0])
    whole = graph.again(one)
    assert set(early) < set(whole)
    for path in right:
        np.testing.assert_array_equal(under[path], both.get(path, right[path]))
    for path, array in early.items():
        np.testing.assert_array_equal(array, whole[path])
    halved = graph.again({**scaled([(last[0], 0)], 0.6), **scaled([(first[0], 2)], -1.0)})
    for path, array in halved.items():  # 0.3 times 2; the product is rounded once more
        np.testing.assert_allclose(both[path], array, rtol=1e-12, atol=1e-12)
