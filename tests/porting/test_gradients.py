"""`diagnose` traces a wrong gradient to its op: gradients of the engine with wrong rules planted, outputs left right.

What is planted is written anew here, on the engine's ops; wrong gradients of live peers are planted by the heavy tests.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import support
from porting.cases import case_of
from porting.diagnosing import diagnose, on_backend, subject_of
from support import on

from perceiver_ref.autograd import tree, value_and_grad
from perceiver_ref.autograd.backend import to_host
from perceiver_ref.autograd.core import Rule as OpRule
from perceiver_ref.autograd.core import array_of, registry
from perceiver_ref.autograd.handlers import handle
from perceiver_ref.autograd.modes import kernels
from perceiver_ref.cli import main
from perceiver_ref.models.tracing import trace, where
from perceiver_ref.porting import run
from perceiver_ref.porting.cases import Case, write_case
from perceiver_ref.porting.cases.execution import rebuild, sum_of_products
from perceiver_ref.porting.gradients.backward import GRADIENT_CAUSES, ROWS, scaled
from perceiver_ref.porting.gradients.graph import Ran, record

pytestmark = on_backend

RESAMPLER, GATED, TEXT = "lucidrains-flamingo/resampler_4d", "open-flamingo/gated_immediate", "hf/masked_lm"
Rule = Callable[..., Any]


def computed(case: Case, dtype: Any = np.float64) -> Case:
    """The case with outputs and gradients of the reference, as it is now."""
    rebuilt, arrays = rebuild(case)
    with kernels("plain"):
        made = run(rebuilt, arrays, case.inputs, case.meta["call"], cotangents=case.cotangents, dtype=dtype)

    def wide(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: found[name].astype(np.float64) for name in wanted if name in found}

    return replace(
        case,
        outputs=wide(made.outputs, case.outputs),
        grad_params=wide(made.grad_params, case.grad_params),
        grad_inputs=wide(made.grad_inputs, case.grad_inputs),
        trace={},
    )


@contextmanager
def other_rule(op: str, rule: Rule) -> Iterator[None]:
    """An op goes back by `rule(right, gradient, residuals, static)`, right being what its own rule gives."""
    own = registry[op].definition

    def backward(gradient: Any, *residuals: Any, **static: Any) -> Any:
        options = {name: value for name, value in static.items() if name in own.names[1]}
        assert own.backward is not None
        right = own.backward(gradient, *residuals, **options)
        return rule(list(right) if isinstance(right, tuple) else [right], gradient, residuals, static)

    named = [inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY) for n in [*registry[op].defaults, "needs"]]
    backward.__signature__ = inspect.Signature(named)  # type: ignore[attr-defined]  # what the engine hands it
    registry[op].definition = OpRule(own.forward, backward)
    registry[op].__dict__.pop("plain", None)  # made of the definition when first asked for
    try:
        yield
    finally:
        registry[op].definition = own
        registry[op].__dict__.pop("plain", None)


@contextmanager
def detached(op: str, place: str, position: int) -> Iterator[None]:
    """An argument of the first op of this name that runs in this place is a constant."""

    def run(called: Any, arguments: Any, static: Any) -> Any:
        if called.name == op and re.search(place, where()):
            arguments = tuple(array_of(a) if i == position else a for i, a in enumerate(arguments))
        return called(*arguments, **static)

    with handle(run):
        yield


def softmax_without_sum(right: Any, g: Any, residuals: Any, static: Any) -> Any:
    """As where y * g is taken for the derivative of softmax."""
    q, k, v, p = residuals
    ds = p * (g @ v.swapaxes(-1, -2))
    if static["mask"] is not None and static["masked_rows"] != "added":
        ds = np.where(static["mask"], ds, 0.0)
    scaled_ds = ds / np.sqrt(q.shape[-1])
    return scaled_ds @ k, scaled_ds.swapaxes(-1, -2) @ q, right[2], ds


def constant_variance(right: Any, g: Any, residuals: Any, static: Any) -> Any:
    """Layer norm whose standard deviation is a constant."""
    _, inverse, scale = residuals
    g = g * scale
    return inverse * (g - g.mean(-1, keepdims=True)), *right[1:]


def of_sigmoid_gelu(right: Any, g: Any, residuals: Any, static: Any) -> Any:
    """The derivative of x sigmoid(1.702 x)."""
    s = 1 / (1 + np.exp(-1.702 * residuals[0]))
    return g * (s + 1.702 * residuals[0] * s * (1 - s))


def unscaled(right: Any, g: Any, residuals: Any, static: Any) -> Any:
    """Queries' and keys' gradients without the 1 / sqrt(d)."""
    root = np.sqrt(residuals[0].shape[-1])
    return right[0] * root, right[1] * root, *right[2:]


def assigned(right: Any, g: Any, residuals: Any, static: Any) -> Any:
    """A token's gradient is that of its last occurrence."""
    ids, shape = residuals
    table = np.zeros(shape)
    table[ids.reshape(-1)] = g.reshape(-1, shape[-1])  # of equal indices NumPy keeps the last
    return table, None


def finished(change: Callable[[str, np.ndarray], np.ndarray]) -> Callable[[Case], Case]:
    return lambda case: replace(case, grad_params={name: change(name, a) for name, a in case.grad_params.items()})


def everything(factor: float) -> Callable[[Case], Case]:
    def change(case: Case) -> Case:
        inputs = {name: a * factor for name, a in case.grad_inputs.items()}
        return replace(case, grad_params={n: a * factor for n, a in case.grad_params.items()}, grad_inputs=inputs)

    return change


def rules(op: str, rule: Rule) -> Callable[[Case], Case]:
    def change(case: Case) -> Case:
        with other_rule(op, rule):
            return computed(case)

    return change


def stops(op: str, place: str, position: int) -> Callable[[Case], Case]:
    def change(case: Case) -> Case:
        with detached(op, place, position):
            return computed(case)

    return change


PLANTED: dict[str, tuple[str, str, str, Callable[[Case], Case]]] = {
    "softmax": (
        RESAMPLER,
        "softmax-backward",
        r"layers\.2\.attention\.mixed$",
        rules("attention", softmax_without_sum),
    ),
    "layer norm": (RESAMPLER, "norm-backward", r"^resampler$", rules("layer_norm", constant_variance)),
    "activation": (
        RESAMPLER,
        "activation-backward",
        r"layers\.2\.mlp\.activation$",
        rules("gelu_erf", of_sigmoid_gelu),
    ),
    "scale": (RESAMPLER, "attention-scale-backward", r"layers\.2\.attention\.mixed$", rules("attention", unscaled)),
    "tokens": (TEXT, "embedding-backward", "embedding$", rules("take", assigned)),
    "keys": (RESAMPLER, "gradient-stopped", r"layers\.0\.attention\.mixed$", stops("attention", r"layers\.0\.", 1)),
    "gate": (GATED, "gradient-stopped", "_gated$", stops("tanh", "", 0)),
    "bias": (
        TEXT,
        "gradient-stopped",
        r"attention\.key$|attention\.value$|mlp$",
        finished(lambda name, a: 0 * a if name.endswith("self_attends.1.mlp.dense2.bias") else a),
    ),
    "loss": (RESAMPLER, "gradient-factor", "resampler", everything(0.5)),
    "latents": (
        RESAMPLER,
        "gradient-averaged",
        "latents$",
        finished(lambda name, a: a / 6 if name == "latents" else a),
    ),
    "clipped": (GATED, "gradient-clipped", "", finished(lambda name, a: np.clip(a, -0.3, 0.3))),
}


@pytest.mark.parametrize("plant", PLANTED)
def test_a_wrong_gradient_is_traced_to_its_op(plant: str) -> None:
    name, cause, point, change = PLANTED[plant]
    found = diagnose(change(computed(case_of(name))))
    assert (found.verdict, found.causes) == ("deviation", [cause])
    assert re.search(point, found.first_divergence or "")
    assert found.gradients is not None
    assert found.gradients.affected
    assert found.error < 1e-10


@pytest.mark.parametrize("name", [RESAMPLER, TEXT])
def test_right_gradients_match_and_float32_is_rounding(name: str) -> None:
    case = case_of(name)
    exact = diagnose(computed(case))
    assert (exact.verdict, exact.gradients and exact.gradients.verdict) == ("match", "match")
    narrow = diagnose(computed(case, np.float32))
    assert (narrow.verdict, narrow.causes) == ("rounding", [])
    assert narrow.gradients is not None
    assert (narrow.gradients.verdict, narrow.gradients.dtype) == ("rounding", "float32")


def test_a_factor_says_what_it_is() -> None:
    """Latents are shared by 2 examples of 3 media: their mean is a sixth of the sum."""
    found = diagnose(PLANTED["latents"][3](computed(case_of(RESAMPLER))))
    assert "averaged" in found.explanation[0].variant
    found = diagnose(everything(0.5)(computed(case_of(RESAMPLER))))
    assert "x 0.5 = 1/2 (the batch)" in found.explanation[0].variant


def test_gradients_are_those_of_the_deviation_that_explains_the_outputs() -> None:
    case = case_of(GATED)
    options = {**case.meta["config"], "only_attend_immediate_media": False}
    wrong = computed(replace(case, meta={**case.meta, "config": options}))
    found = diagnose(replace(wrong, meta=case.meta))
    assert (found.verdict, found.causes) == ("deviation", ["media-mask"])
    assert found.gradients is not None
    assert (found.gradients.verdict, found.gradients.under) == ("match", ["media-mask"])
    right = computed(case)
    mixed = replace(wrong, meta=case.meta, grad_params=right.grad_params, grad_inputs=right.grad_inputs)
    found = diagnose(mixed)
    assert (found.verdict, found.causes) == ("deviation", ["media-mask"])
    assert found.gradients is not None
    assert found.gradients.verdict in ("deviation", "unexplained")


@pytest.mark.parametrize("ending", ["to_kv.weight", "ff.1.weight"])
def test_gradients_under_a_deviation_of_the_weights(ending: str) -> None:
    """A weight read in the wrong layout gets its gradient in that layout."""
    case = case_of(GATED)

    def swapped(name: str, a: np.ndarray) -> np.ndarray:
        return a.reshape(a.shape[::-1]).T if name.endswith(ending) else a

    def back(name: str, a: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(a.T).reshape(a.shape) if name.endswith(ending) else a

    wrong = computed(replace(case, params={name: swapped(name, a) for name, a in case.params.items()}))
    theirs = {name: back(name, a) for name, a in wrong.grad_params.items()}
    found = diagnose(replace(wrong, params=case.params, grad_params=theirs))
    assert (found.verdict, found.causes) == ("deviation", ["weight-transposed"])
    assert found.gradients is not None
    assert found.gradients.verdict == "match"


def test_what_no_deviation_explains_is_located() -> None:
    """Other numbers in place of what attention sends to its keys."""

    def noise(right: Any, g: Any, residuals: Any, static: Any) -> Any:
        return right[0], right[1] * np.random.default_rng(0).normal(size=right[1].shape), *right[2:]

    with other_rule("attention", noise):
        case = computed(case_of(GATED))
    found = diagnose(case)
    assert (found.verdict, found.causes, found.first_divergence) == ("unexplained", [], "attention.mixed")
    assert found.gradients is not None
    assert found.gradients.step is not None
    assert "k of attention" in found.gradients.step


def test_the_command_says_where_backward_goes_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name, cause, _, change = PLANTED["activation"]
    write_case(tmp_path / "port.npz", change(computed(case_of(name))))
    files = {option: str(tmp_path / f"out.{option}") for option in ("json", "html")}
    assert main(["diagnose", str(tmp_path / "port.npz"), *(f"--{o}={path}" for o, path in files.items())]) == 1
    said = capsys.readouterr().out
    assert "the outputs are right, gradients are not: activation-backward" in said
    assert "first divergence in backward: resampler.layers.2.mlp.activation" in said
    found = json.loads((tmp_path / "out.json").read_text())
    assert (found["verdict"], found["causes"]) == ("deviation", [cause])
    assert found["gradients"]["first_divergence"] == found["first_divergence"]
    assert "grad_param/layers.1.1.1.weight" in found["gradients"]["affected"]
    assert "activation-backward" in (tmp_path / "out.html").read_text()


@pytest.mark.parametrize("name", [RESAMPLER, TEXT])
def test_a_recorded_graph_gives_the_gradients_of_the_engine(name: str) -> None:
    subject = subject_of(case_of(name))
    cotangents = on(support.BACKEND, subject.case.cotangents)

    def loss(variables: Any) -> Any:
        with trace(lambda name: False):
            return sum_of_products(subject.run(variables["params"], variables["inputs"]), cotangents)

    floats = {n: a for n, a in subject.inputs.items() if a.dtype.kind == "f"}
    graph = record(lambda p, i: subject.run(p, {**subject.inputs, **i}), subject.params, subject.inputs, cotangents)
    found = graph.walk()
    if floats == subject.inputs:
        _, wanted = value_and_grad(loss)({"params": subject.params, "inputs": floats})
        for path, array in tree.leaves(wanted["params"]):
            # the order of a few sums differs: some units in the last place of float64
            np.testing.assert_allclose(to_host(found[path]), to_host(array), rtol=1e-12, atol=1e-12)
    # a walk from a changed step is a whole walk with that step changed
    rng = np.random.default_rng(0)
    for i in rng.choice([i for i, step in graph.steps if step.edges], 10):
        step = graph.nodes[i]
        assert isinstance(step, Ran)
        changes = scaled([(int(i), step.edges[0].position)], 0.3)
        again = {**found, **graph.again(changes)}
        whole = graph.again({**{n: Ran.pull for n, _ in graph.steps}, **changes})
        for path, array in whole.items():
            np.testing.assert_allclose(to_host(again[path]), to_host(array), rtol=1e-12, atol=1e-12)


def test_every_row_has_a_cause_of_the_table() -> None:
    assert {row.cause for row in ROWS} <= set(GRADIENT_CAUSES)
    assert all(re.fullmatch("[a-z]+(-[a-z]+)+", cause) for cause in GRADIENT_CAUSES)


def test_a_linear_map_without_a_bias_may_average_its_gradients() -> None:
    case = case_of("aurora/resampler")
    case.trace.clear()
    rows = np.prod(case.outputs["out"].shape[:2])
    for name in case.grad_params:
        if name.endswith("to_out.weight"):
            case.grad_params[name] = case.grad_params[name] / rows
    found = diagnose(case)
    assert [(part.cause, part.variant) for part in found.explanation] == [
        ("gradient-averaged", "weights and biases averaged over rows, linear attention/output everywhere")
    ]
