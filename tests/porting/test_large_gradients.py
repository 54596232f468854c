"""Wrong gradients of large cases, which are traced with few of them kept; here small cases are taken for large.

The full sizes, with what is planted in the live peer, are in tests/heavy/test_full_size_diagnosis.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from porting.cases import case_of
from porting.test_gradients import PLANTED, RESAMPLER, TEXT, computed
from porting.test_large_cases import in_float32

from perceiver_ref.autograd.core import array_of, registry
from perceiver_ref.autograd.handlers import handle
from perceiver_ref.models.tracing import where
from perceiver_ref.porting.cases import Case
from perceiver_ref.porting.diagnosis.diagnose import diagnose
from perceiver_ref.porting.subject import large


@pytest.fixture(autouse=True)
def all_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large, "LARGE", 0)


def narrow(case: Case) -> Case:
    """The case with everything, gradients too, stored in float32."""

    def stored(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: array.astype(np.float32) for name, array in arrays.items()}

    fields: dict[str, Any] = {n: stored(getattr(case, n)) for n in ("cotangents", "grad_params", "grad_inputs")}
    return in_float32(replace(case, **fields))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("plant", PLANTED)
def test_a_wrong_gradient_is_traced_to_its_op(plant: str, dtype: str) -> None:
    name, cause, point, change = PLANTED[plant]
    case = case_of(name)
    found = diagnose(change(computed(case)) if dtype == "float64" else narrow(change(computed(narrow(case)))))
    assert (found.verdict, found.causes) == ("deviation", [cause])
    assert re.search(point, found.first_divergence or "")
    assert found.gradients is not None
    assert found.gradients.affected


@pytest.mark.parametrize("name", [RESAMPLER, TEXT])
def test_right_gradients_match_and_float32_is_rounding(name: str) -> None:
    exact = diagnose(computed(case_of(name)))
    assert (exact.verdict, exact.gradients and exact.gradients.verdict) == ("match", "match")
    found = diagnose(narrow(computed(narrow(case_of(name)))))
    assert (found.verdict, found.causes) == ("rounding", [])
    assert found.gradients is not None
    assert found.gradients.verdict == "rounding"


LAYERS, BLOCKS = 3, 4


def repeated() -> Case:
    """An image classifier whose blocks share the weights of several self-attention layers."""
    case = case_of("hf/image_fourier")
    options = {**case.meta["config"]["config"], "num_blocks": BLOCKS, "num_self_attends_per_block": LAYERS}
    rng, first = np.random.default_rng(0), "encoder.self_attends.0."

    def several(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        made = dict(arrays)
        for name, array in arrays.items():
            for k in range(1, LAYERS) if first in name else ():
                made[name.replace(first, f"encoder.self_attends.{k}.")] = array + rng.normal(0, 0.1, array.shape)
        return made

    meta = {**case.meta, "config": {**case.meta["config"], "config": options}}
    return replace(case, params=several(case.params), grad_params=several(case.grad_params), trace={}, meta=meta)


@contextmanager
def gelu_with_another_slope(place: str) -> Iterator[None]:
    """The slope of x sigmoid(1.702 x), in these places."""

    def run(called: Any, arguments: Any, static: Any) -> Any:
        made = called(*arguments, **static)
        if called.name != "gelu_erf" or not re.search(place, where()):
            return made
        inner = registry["sigmoid"](registry["multiply"](arguments[0], np.asarray(1.702)))
        other = registry["multiply"](arguments[0], inner)
        return registry["add"](other, array_of(made) - array_of(other))

    with handle(run):
        yield


@contextmanager
def softmax_without_its_sum(place: str) -> Iterator[None]:
    """exp(scores) over a constant, in these places."""

    def run(called: Any, arguments: Any, static: Any) -> Any:
        made = called(*arguments, **static)
        if called.name != "attention" or not re.search(place, where()):
            return made
        q, k, v = arguments[:3]
        keys = registry["transpose"](k, axes=(0, 1, 3, 2))
        scores = registry["multiply"](registry["matmul"](q, keys), np.asarray(1 / np.sqrt(q.shape[-1])))
        constant = np.log(np.exp(array_of(scores)).sum(-1, keepdims=True))
        return registry["matmul"](registry["exp"](registry["subtract"](scores, constant)), v)

    with handle(run):
        yield


@contextmanager
def stopped(place: str) -> Iterator[None]:
    """Attention's queries are constants, in these places."""

    def run(called: Any, arguments: Any, static: Any) -> Any:
        if called.name == "attention" and re.search(place, where()):
            arguments = (array_of(arguments[0]), *arguments[1:])
        return called(*arguments, **static)

    with handle(run):
        yield


SHARED: dict[str, tuple[Any, str, str]] = {
    "activation-backward": (gelu_with_another_slope, "quick_gelu", "mlp.activation"),
    "softmax-backward": (softmax_without_its_sum, "without the sum over keys", "attention.mixed"),
    "gradient-stopped": (stopped, "through q of attention", "attention.mixed"),
}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("layer", range(LAYERS))
@pytest.mark.parametrize("cause", SHARED)
def test_one_layer_that_all_blocks_share(cause: str, layer: int, dtype: str) -> None:
    """The gradients that are wrong are sums over all blocks, those of the other layers among them; in float32 some are
    within its rounding."""
    plant, said, point = SHARED[cause]
    with plant(rf"blocks\.\d+\.{layer}\."):
        case = computed(repeated() if dtype == "float64" else narrow(repeated()))
    found = diagnose(case if dtype == "float64" else narrow(case))
    if (cause, layer, dtype) == ("gradient-stopped", 1, "float32"):  # not found yet; not taken for another either
        assert (found.verdict, found.causes) == ("unexplained", [])
        return
    assert (found.verdict, found.causes) == ("deviation", [cause])
    assert said in found.explanation[0].variant
    assert found.explanation[0].variant.endswith(f"in encoder.blocks.*.{layer}")
    assert found.first_divergence == f"encoder.blocks.{BLOCKS - 1}.{layer}.{point}"


def test_a_right_classifier_in_float32_is_rounding() -> None:
    """Of few outputs: one run in the same order of sums as the reference's own says nothing of their rounding."""
    found = diagnose(narrow(computed(narrow(repeated()))))
    assert (found.verdict, found.causes) == ("rounding", [])


@pytest.mark.parametrize("block", [BLOCKS - 1, 1])
def test_one_use_of_a_layer_that_all_blocks_share(block: int) -> None:
    with gelu_with_another_slope(rf"blocks\.{block}\.1\."):
        case = computed(repeated())
    found = diagnose(case)
    assert (found.verdict, found.causes) == ("deviation", ["activation-backward"])
    assert found.first_divergence == f"encoder.blocks.{block}.1.mlp.activation"


def test_noise_in_a_shared_layer_has_no_name() -> None:
    """A slope that is no known one's, in one layer of all blocks."""

    @contextmanager
    def noisy() -> Iterator[None]:
        rng = np.random.default_rng(3)

        def run(called: Any, arguments: Any, static: Any) -> Any:
            made = called(*arguments, **static)
            if called.name != "gelu_erf" or not re.search(r"blocks\.\d+\.1\.", where()):
                return made
            other = registry["multiply"](arguments[0], rng.normal(size=made.shape))
            return registry["add"](other, array_of(made) - array_of(other))

        with handle(run):
            yield

    with noisy():
        case = computed(repeated())
    found = diagnose(case)
    assert (found.verdict, found.causes) == ("unexplained", [])
