"""The ledger's memory is what a real run of the same model keeps and holds, byte for byte."""

from __future__ import annotations

import math

import numpy as np
import pytest
from ledger.models import MODELS, filled

from perceiver_ref.autograd import kernels, ops, threads, tree
from perceiver_ref.autograd.core import Tape, Tensor, leaf
from perceiver_ref.autograd.kernels.cpu import attention as cpu_attention
from perceiver_ref.autograd.observing import Event, observe
from perceiver_ref.models.call import Call
from perceiver_ref.models.ledger import example, ledger
from perceiver_ref.models.ledger.costs import scores_bytes
from perceiver_ref.models.ledger.memory import peak
from perceiver_ref.models.ledger.record import record
from perceiver_ref.models.module import Module


def memory_of(array: np.ndarray) -> np.ndarray:
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def statistics(model: Module, dtype: str) -> object:
    return tree.map(lambda p: p.initializer(np.random.default_rng(0), p.shape).astype(dtype), model.state())


def kept_by_the_graph(model: Module, inputs: object, dtype: str) -> int:
    """Bytes of the different arrays that a recorded forward pass leaves in its graph.

    In place of attention's weights, which the definition keeps, what kernels keep: the output and the rows' sums.
    """
    tape, params = Tape(), model.init(0, dtype=dtype)
    traced = tree.map(lambda array: leaf(array, tape), params)
    state = statistics(model, dtype)
    events: list[Event] = []
    with kernels("plain"), observe(events.append):
        out = model.apply(traced, inputs, call=Call(training=True, state=state, key=0))
    for event in events:
        if event.op.name == "attention":
            *operands, weights = event.node.residuals
            event.node.residuals = (*operands, *event.outputs, np.zeros_like(weights[..., 0]))
    given = {id(memory_of(array)) for array in (a for t in (params, inputs, state) for _, a in tree.leaves(t))}
    pending = [value.node for _, value in tree.leaves(out) if type(value) is Tensor]
    seen, owners = set(), {}
    while pending:
        node = pending.pop()
        if node in seen:
            continue
        seen.add(node)
        pending += [edge.node for edge in node.edges]
        for residual in node.residuals:
            if isinstance(residual, np.ndarray) and id(memory_of(residual)) not in given:
                owners[id(memory_of(residual))] = memory_of(residual)
    return sum(owner.nbytes for owner in owners.values())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("kind", MODELS)
def test_training_memory_is_what_the_recorded_graph_keeps(kind, batch, dtype):
    model, sizes = MODELS[kind]
    counted = ledger(model, example(model, sizes, batch=batch, dtype=dtype), dtype=dtype)
    assert counted.training == kept_by_the_graph(model, filled(model, sizes, batch, dtype), dtype)
    assert counted.training == sum(row.kept for row in counted.rows)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("kind", MODELS)
def test_inference_memory_is_that_of_a_real_run(kind, batch):
    model, sizes = MODELS[kind]
    counted = ledger(model, example(model, sizes, batch=batch))
    params, inputs = model.init(0), filled(model, sizes, batch, "float32")
    record(model, inputs, params, statistics(model, "float32"), training=False)  # makes the tables that are kept
    run = record(model, inputs, params, statistics(model, "float32"), training=False)
    assert counted.inference_plain == peak(run, tiled=False)
    assert counted.inference == peak(run, tiled=True)


def test_attention_in_tiles_holds_less_at_published_sizes():
    import perceiver_ref as pr

    model = pr.preset("perceiver-io/imagenet-fourier")
    counted = ledger(model, example(model, (224, 224, 3)))
    # scores of 512 queries and 50,176 keys, or of one tile of 512 keys, 4 bytes each; then others are the most
    assert counted.inference_plain - counted.inference <= 512 * (50176 - 512) * 4
    assert counted.inference_plain > counted.inference
    assert counted.training > counted.inference


@pytest.mark.parametrize("tile", [None, (8, 24)])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("sizes", [((1, 1), 700, 900), ((2, 3), 150, 300), ((4,), 64, 64), ((8, 1), 1, 20_000)])
def test_attention_is_priced_at_the_tiles_that_its_kernel_makes_room_for(monkeypatch, sizes, dtype, tile):
    """The kernel's own room is watched while it runs, so that no second account of its tiles can differ from it."""
    lead, n, m = sizes
    if tile is not None:
        monkeypatch.setattr(cpu_attention, "TILE", tile)
    rooms = []

    def room(self, dtype):
        rooms.append(made := make(self, dtype))
        return made

    make = cpu_attention.Tiles.room
    monkeypatch.setattr(cpu_attention.Tiles, "room", room)
    q, k, v = (np.ones((*lead, length, 2), dtype) for length in (n, m, m))
    events = []
    with kernels("fast"), threads(1), observe(events.append):
        ops.attention(q, k, v)
    whole = math.prod(lead) * n * m * max(np.dtype(dtype).itemsize, 4)  # float16 is computed in float32
    serves = math.prod(lead) * n * m > cpu_attention.SMALL
    assert bool(rooms) == serves  # else the definition runs, which holds all scores
    assert scores_bytes(events[0], tiled=True) == (max(made.nbytes for made in rooms) if serves else whole)
    assert scores_bytes(events[0], tiled=False) == whole


def test_a_small_attention_by_hand():
    """One cross-attention of 2 latents (4 wide) to 3 inputs (5 wide), batch 1, float32."""
    from perceiver_ref.models.encoder import Encoder
    from perceiver_ref.models.perceiver_io import PerceiverIO

    model = PerceiverIO(Encoder(inputs=5, latents=2, channels=4, layers=0, self_heads=1))
    counted = {row.name: row.kept for row in ledger(model, example(model, (3, 5))).rows}
    cross = "encoder.cross_attention"
    assert counted == {
        "encoder.latents": 0,
        f"{cross}.query_norm": 4 * (2 * 4 + 2 + 2 * 4),  # unit, 1 / deviation, and the result, which the query keeps
        f"{cross}.key_value_norm": 4 * (3 * 5 + 3 + 3 * 5),
        f"{cross}.attention.query": 4 * 2 * 5,
        f"{cross}.attention.key": 4 * 3 * 5,
        f"{cross}.attention.value": 4 * 3 * 5,
        f"{cross}.attention.weights": 0,
        f"{cross}.attention.mixed": 4 * (2 * 5 + 2),  # and the log of each row's sum
        f"{cross}.attention": 0,
        f"{cross}.mlp_norm": 4 * (2 * 4 + 2 + 2 * 4),
        f"{cross}.mlp.hidden": 4 * 2 * 4,
        f"{cross}.mlp.activation": 4 * (2 * 4 + 2 * 4),  # its tanh, and the result
        f"{cross}.mlp": 0,
    }
