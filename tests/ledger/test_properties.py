"""What a Perceiver's cost depends on, as exact differences of integers; and totals that fit their rows."""

from __future__ import annotations

import inspect
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger.models import MODELS, encoder, filled

import perceiver_ref as pr
from perceiver_ref.autograd import registry, tree
from perceiver_ref.autograd.core import Rule
from perceiver_ref.autograd.modes import kernels
from perceiver_ref.models.call import Call
from perceiver_ref.models.decoder import Decoder, trainable_queries
from perceiver_ref.models.ledger import example, ledger
from perceiver_ref.models.perceiver_io import PerceiverIO

sizes = st.integers(1, 40)


def flops(inputs: int, outputs: int, layers: int = 2, batch: int = 1) -> int:
    """Of a small Perceiver IO with so many inputs, outputs and layers of depth."""
    decoder = Decoder(8, 6, queries=trainable_queries(outputs, 6), outputs=3, heads=2, qk_channels=4, v_channels=6)
    model = PerceiverIO(encoder(6, layers=layers), decoder=decoder)
    return ledger(model, example(model, (inputs, 6), batch=batch)).flops


@settings(max_examples=15)
@given(sizes, sizes, sizes)
def test_flops_are_linear_in_the_inputs(m, n, outputs):
    step = flops(2, outputs) - flops(1, outputs)
    assert step > 0
    assert flops(m, outputs) - flops(n, outputs) == (m - n) * step


@settings(max_examples=15)
@given(sizes, sizes, sizes)
def test_flops_are_linear_in_the_outputs(inputs, m, n):
    step = flops(inputs, 2) - flops(inputs, 1)
    assert step > 0
    assert flops(inputs, m) - flops(inputs, n) == (m - n) * step


@settings(max_examples=15)
@given(sizes, sizes, st.integers(0, 3))
def test_a_layer_of_depth_costs_the_same_whatever_the_inputs(m, n, layers):
    def layer(inputs: int) -> int:
        return flops(inputs, 5, layers + 1) - flops(inputs, 5, layers)

    assert layer(m) == layer(n) > 0


@settings(max_examples=15)
@given(sizes, st.integers(1, 9))
def test_flops_are_proportional_to_the_batch(inputs, batch):
    assert flops(inputs, 3, batch=batch) == batch * flops(inputs, 3)


@pytest.mark.parametrize("kind", MODELS)
def test_parameters_are_those_that_init_makes(kind):
    model, shape = MODELS[kind]
    counted = ledger(model, example(model, shape))
    made = sum(array.size for _, array in tree.leaves(model.init(0)))
    assert counted.parameters == model.count() == made
    assert counted.parameters == sum(row.parameters for row in counted.rows)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("kind", MODELS)
def test_flops_are_those_of_the_products_that_a_run_makes(kind, batch, monkeypatch):
    """An independent count: the arrays that reach the products of a real run, element by element."""
    model, shape = MODELS[kind]
    spent = 0

    def watched(name, count):
        plain = registry[name].definition

        def forward(*arrays, **options):
            nonlocal spent
            spent += count(*arrays)
            return plain.forward(*arrays, **options)

        forward.__signature__ = inspect.signature(plain.forward)  # the engine passes the options that it names
        monkeypatch.setattr(registry[name], "definition", Rule(forward, plain.backward))
        registry[name].__dict__.pop("plain", None)  # made of the definition when first asked for

    def in_attention(q, k, v, *_):
        scores = (q @ k.swapaxes(-1, -2)).size
        return 2 * scores * q.shape[-1] + 3 * scores + 2 * scores * v.shape[-1]

    watched("linear", lambda x, weight, *_: 2 * x.size * weight.shape[1])
    watched("attention", in_attention)
    state = tree.map(lambda p: p.initializer(None, p.shape).astype("float32"), model.state())
    with kernels("plain"):
        model.apply(model.init(0), filled(model, shape, batch, "float32"), call=Call(True, state, key=0))
    of_the_run = spent
    counted = ledger(model, example(model, shape, batch=batch))
    assert counted.flops == sum(row.flops for row in counted.rows) == of_the_run > 0


def test_shared_weights_count_once():
    model, shape = MODELS["perceiver"]
    shared = ledger(replace_encoder(model, shared_blocks="all"), example(model, shape))
    own = ledger(replace_encoder(model, shared_blocks="none"), example(model, shape))
    assert own.flops == shared.flops
    layers = {row.name: row for row in shared.rows}["encoder.blocks.*.*.mlp.hidden"]
    assert layers.repeats == 6
    assert layers.parameters == 2 * (8 * 8 + 8)


def replace_encoder(model: PerceiverIO, **options: object) -> PerceiverIO:
    return replace(model, encoder=replace(model.encoder, **options))


def test_rows_have_the_names_and_shapes_of_a_trace():
    model, shape = MODELS["cross-attentions alone"]
    with pr.trace() as seen:
        model.apply(model.init(0), filled(model, shape, 2, "float32"))
    rows = {row.name: row for row in ledger(model, example(model, shape, batch=2)).rows}
    assert rows["encoder.cross_attention.*.attention.query"].repeats == 3
    for name, row in rows.items():
        assert seen[name.replace("*", "0")].shape == row.shape
