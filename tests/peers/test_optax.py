"""optax beyond its vectors: what JAX rounds, which parameters decay, and what errors say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from perceiver_ref import InputError
from perceiver_ref.models.call import Call
from perceiver_ref.peers import peer
from perceiver_ref.peers.base import Given
from perceiver_ref.peers.optax import int32
from perceiver_ref.peers.optax.schedules import deepmind_schedule, schedule

OPTIMIZER: dict[str, Any] = {
    "optimizer": "adam",
    "base_lr": 0.1,
    "scale_by_batch": False,
    "schedule_type": "steps",
    "step_decay_kwargs": {"decay_boundaries": [0.5], "decay_rate": 0.1},
    "adam_kwargs": {},
    "weight_decay": 0.5,
    "max_norm": -1,
}
DEEPMIND = {"optimizer": OPTIMIZER, "total_batch_size": 512, "steps_per_epoch": 2, "total_steps": 8}


def updates(config: dict[str, Any], *names: str) -> dict[str, float]:
    """What one step adds to parameters of 1 whose gradient is 0."""
    given = Given(config, params=dict.fromkeys(names, (2,)))
    rebuilt = peer("optax").rebuild("make_optimizer", given)
    params, _ = rebuilt.load({name: np.ones(2) for name in names}, "the case")
    out = rebuilt.run(
        rebuilt.model, params, {f"grads/{name}": np.zeros((1, 2)) for name in names}, {"steps": 1}, Call()
    )
    return {name: float(out[f"updates/{name}"][0, 0]) for name in names}


def test_biases_and_norms_do_not_decay_and_positions_only_if_asked_to() -> None:
    names = (
        "mlp/linear/w",
        "mlp/linear/b",
        "mlp/layer_norm/scale",
        "stem/batchnorm/offset",
        "latents/pos_embs",
        "d/bias",
    )
    kept = [name for name, u in updates(DEEPMIND, *names).items() if u == 0]
    assert kept == ["mlp/linear/b", "mlp/layer_norm/scale", "stem/batchnorm/offset"]
    without = {**DEEPMIND, "optimizer": {**OPTIMIZER, "decay_pos_embs": False}}
    assert [name for name, u in updates(without, *names).items() if u == 0] == [*kept, "latents/pos_embs"]


def test_rates_grow_with_the_batch() -> None:
    scaled = {**DEEPMIND, "optimizer": {**OPTIMIZER, "scale_by_batch": True}}
    assert [deepmind_schedule(DEEPMIND)(count) for count in (3, 4)] == pytest.approx([0.1, 0.01], rel=1e-14)
    assert deepmind_schedule(scaled)(0) == pytest.approx(0.2, rel=1e-14)


def test_a_divided_count_is_float32_and_a_cosine_alone_is_not() -> None:
    third = int32.linear(0.0, 1.0, 3)(1)
    assert isinstance(third, np.float32)
    assert 1e-9 < abs(float(third) - 1 / 3) < 1e-7
    assert not isinstance(int32.cosine(1.0, 0.0, 3)(1), np.float32)
    joined = int32.join([int32.linear(0.0, 1.0, 3), int32.cosine(1.0, 0.0, 7)], [3])
    assert float(joined(5)) == float(np.float32(int32.cosine(1.0, 0.0, 7)(2)))


BAD: list[tuple[dict[str, Any], str]] = [
    ({"name": "linear"}, "unknown schedule 'linear'"),
    (
        {"name": "linear_schedule", "init_value": 1.0, "end_value": 0.0},
        "linear_schedule needs the option 'transition_steps'",
    ),
    ({"name": "constant_schedule", "value": 1.0, "power": 2}, "unknown option of constant_schedule 'power'"),
]


@pytest.mark.parametrize(("config", "message"), BAD, ids=[message for _, message in BAD])
def test_a_schedule_that_cannot_be_is_named(config: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        schedule(config)


@pytest.mark.parametrize(("key", "value"), [("optimizer", "sgd"), ("schedule_type", "linear")])
def test_deepminds_choices_are_named(key: str, value: str) -> None:
    config = {**DEEPMIND, "optimizer": {**OPTIMIZER, key: value}}
    with pytest.raises(InputError, match=f"unknown {key} '{value}'"):
        peer("optax").rebuild("make_optimizer", Given(config))
