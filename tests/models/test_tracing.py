"""Traces: which names, in which order, what they hold, and that nothing happens when nobody listens."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from models import small
from support import assert_close, normal, on, random_parameters

from perceiver_ref import trace
from perceiver_ref.autograd import Tensor, ops, value_and_grad
from perceiver_ref.models.perceiver_io import PerceiverIO
from perceiver_ref.models.tracing import lazy_point, point, scope

CROSS_ATTENTION = [
    "query_norm",
    "key_value_norm",
    "attention.query",
    "attention.key",
    "attention.value",
    "attention.weights",
    "attention.mixed",
    "attention",
    "attention_residual",
    "mlp_norm",
    "mlp.hidden",
    "mlp.activation",
    "mlp",
]
SELF_ATTENTION = ["norm", *CROSS_ATTENTION[2:]]


def encoder_names(blocks: int, layers: int) -> list[str]:
    """The names of an encoder's points in the order of computation."""
    names = ["encoder.latents", *(f"encoder.cross_attention.{name}" for name in CROSS_ATTENTION)]
    names.append("encoder.cross_attention")
    for b in range(blocks):
        for i in range(layers):
            names += [f"encoder.blocks.{b}.{i}.{name}" for name in SELF_ATTENTION]
            names.append(f"encoder.blocks.{b}.{i}")
    return [*names, "encoder"]


def run(backend: str) -> tuple[PerceiverIO, Any, Any]:
    model = small.language_model()
    return model, on(backend, random_parameters(model)), on(backend, np.array([[1, 2, 3]]))


def test_every_named_value_in_the_order_of_computation(backend: str) -> None:
    model, p, ids = run(backend)
    with trace() as traced:
        logits = model.apply(p, ids)
    assert list(traced) == [
        "input.embedding",
        "input.positions",
        "input",
        *encoder_names(2, 2),
        "decoder.queries.positions",
        "decoder.queries",
        *(f"decoder.cross_attention.{name}" for name in CROSS_ATTENTION if name != "attention_residual"),
        "decoder.cross_attention",
        "decoder.output",
        "decoder",
        "output",
    ]
    assert_close(traced["output"], logits, tolerance=0)


def test_values_are_the_ones_computed_with(backend: str) -> None:
    encoder = small.encoder()
    p, inputs = on(backend, [random_parameters(encoder), normal(1, 2, 5, 6)])
    with trace() as t:
        latents = encoder.apply(p, inputs)
    assert_close(t["encoder"], latents, tolerance=0)
    assert_close(t["encoder.blocks.1.1"], latents, tolerance=0)
    assert_close(t["encoder.latents"][1], p["latents"], tolerance=0)
    weights = t["encoder.cross_attention.attention.weights"]
    assert weights.shape == (2, 2, 4, 5)  # (batch, heads, latents, inputs)
    assert_close(weights.sum(-1), np.ones((2, 2, 4)))
    values = t["encoder.cross_attention.attention.value"]
    heads = [weights[:, h] @ values[..., 3 * h : 3 * h + 3] for h in range(2)]
    assert_close(t["encoder.cross_attention.attention.mixed"], on(backend, np.concatenate(on("numpy", heads), axis=-1)))
    before, after = t["encoder.latents"], t["encoder.cross_attention.attention_residual"]
    assert_close(before + t["encoder.cross_attention.attention"], after)


def test_only_keeps_what_it_is_asked_for(backend: str) -> None:
    model, p, ids = run(backend)
    asked: list[str] = []

    def wanted(name: str) -> bool:
        asked.append(name)
        return name in ("encoder", "decoder.output")

    with trace(wanted) as traced:
        model.apply(p, ids)
    assert list(traced) == ["encoder", "decoder.output"]
    with trace() as everything:
        model.apply(p, ids)
    assert asked == list(everything)


def test_nested_traces_each_get_every_value(backend: str) -> None:
    model, p, ids = run(backend)
    with trace(lambda name: name.startswith("encoder")) as outer:
        with trace() as inner:
            model.apply(p, ids)
        assert list(outer) == [name for name in inner if name.startswith("encoder")]
        model.apply(p, ids)
    # the second run's names are told apart, and the inner trace has ended
    assert list(outer)[len(outer) // 2 :] == [f"{name}@1" for name in list(outer)[: len(outer) // 2]]
    assert not any(name.endswith("@1") for name in inner)


def test_a_trace_inside_a_scope_has_names_from_there_on() -> None:
    with trace() as outer, scope("a"), trace() as inner, scope("b"):
        point("c", np.zeros(1))
        point("", np.ones(1))
    assert list(outer) == ["a.b.c", "a.b"]
    assert list(inner) == ["b.c", "b"]


def test_a_repeated_name_counts_up() -> None:
    with trace() as t:
        for i in range(3):
            point("x", np.full(1, i))
    assert {name: int(value[0]) for name, value in t.items()} == {"x": 0, "x@1": 1, "x@2": 2}


def test_an_error_leaves_no_trace_open() -> None:
    with pytest.raises(RuntimeError, match="broken"), trace() as t, scope("a"):
        raise RuntimeError("broken")
    point("x", np.zeros(1))
    assert list(t) == []
    with trace() as again:
        point("x", np.zeros(1))
    assert list(again) == ["x"]


def test_plain_arrays_unless_tensors_are_asked_for(backend: str) -> None:
    encoder = small.encoder()
    p, inputs = on(backend, [random_parameters(encoder), normal(1, 2, 5, 6)])
    kinds = {}

    def loss(p: Any, tensors: bool) -> Any:
        with trace(tensors=tensors) as t:
            encoder.apply(p, inputs)
        kinds[tensors] = {type(value) for value in t.values()}
        return ops.sum(t["encoder.blocks.0.1"]) if tensors else np.zeros(())

    _, gradients = value_and_grad(loss)(p, True)
    assert kinds[True] == {Tensor}
    assert float(abs(gradients["latents"]).max()) > 1e-3  # a traced value can be part of a loss
    value_and_grad(loss)(p, False)
    assert kinds[False] == {type(inputs)}


def test_large_maps_are_left_out_unless_asked_for_by_name() -> None:
    def compute() -> Any:
        computed.append(True)
        return np.zeros(1)

    computed: list[bool] = []
    small_shape, large_shape = (1 << 21, 2), (1 << 21, 3)
    with trace() as t, scope("attention"):
        lazy_point("weights", large_shape, compute)
    assert not t
    assert not computed
    with trace() as t, scope("attention"):
        lazy_point("weights", small_shape, compute)
    assert list(t) == ["attention.weights"]
    with trace(lambda name: name == "attention.weights") as t, scope("attention"):
        lazy_point("weights", large_shape, compute)
        lazy_point("other", small_shape, compute)
    assert list(t) == ["attention.weights"]
    assert len(computed) == 2


def test_without_a_trace_nothing_is_computed_or_kept() -> None:
    def compute() -> Any:
        raise AssertionError("computed although nobody listens")

    value = np.zeros(1)

    def untraced() -> None:
        for _ in range(1000):
            with scope("a"):
                assert point("x", value) is value
                lazy_point("weights", (1,), compute)

    untraced()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        untraced()
        current, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # a scope object and its iterator at a time: hundreds of bytes, where keeping 1000 names would take 50,000
    assert current - before < 1000
    assert peak - before < 4000


def test_tracing_does_not_change_the_result(backend: str) -> None:
    model, p, ids = run(backend)
    logits = model.apply(p, ids)
    with trace():
        assert_close(model.apply(p, ids), logits, tolerance=0)
