"""perceiver-ref as a peer: models as JSON and back, single operations, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

import perceiver_ref as pr
from perceiver_ref.autograd import ops
from perceiver_ref.errors import InputError
from perceiver_ref.peers import Given, peer
from perceiver_ref.peers.reference import OPERATIONS, from_config, to_config

PEER = peer("perceiver-ref")


@pytest.mark.parametrize("name", [*pr.presets(), *pr.variants()])
def test_every_published_model_survives_json(name: str) -> None:
    model = pr.preset(name)
    again = from_config(json.loads(json.dumps(to_config(model))))
    assert again == model
    hash(again.encoder.conventions if hasattr(again, "encoder") else again)


def test_a_preset_is_itself_without_a_configuration() -> None:
    rebuilt = PEER.rebuild("perceiver-io/language", Given({"dialect": "hf"}))
    assert rebuilt.model == pr.preset("perceiver-io/language", dialect="hf")


def test_a_type_is_a_class() -> None:
    config = {"channels": 4, "heads": 2}
    rebuilt = PEER.rebuild("SelfAttention", Given(config))
    x = np.random.default_rng(0).normal(size=(2, 3, 4))
    params = rebuilt.model.init(1, dtype=np.float64)
    out = rebuilt.run(rebuilt.model, params, {"x": x}, {}, pr.peers.base.Call())["out"]
    np.testing.assert_array_equal(out, rebuilt.model.apply(params, x))


def test_operations_are_those_of_ops() -> None:
    x = np.random.default_rng(0).normal(size=(2, 5))
    scale, offset = np.arange(5.0), np.ones(5)
    rebuilt = PEER.rebuild("layer_norm", Given({}))
    given = {"x": x, "scale": scale, "offset": offset}
    out = rebuilt.run(rebuilt.model, {}, given, {"eps": 0.1}, pr.peers.base.Call())["out"]
    np.testing.assert_array_equal(out, ops.layer_norm(x, scale, offset, eps=0.1))


@pytest.mark.parametrize(
    ("cls", "config", "message"),
    [
        ("perceiver-io/language", {"dialect": "no"}, "dialect"),
        ("perceiver-io/language", {"layers": 3}, "layers"),
        ("Encoder", {"inputs": 3, "latents": 2}, "needs channels"),
        ("Encoder", {"inputs": "3", "latents": 2, "channels": 8}, "inputs of Encoder must be int, got '3'"),
        ("Encoder", {"inputs": 3, "latents": True, "channels": 8}, "latents of Encoder must be int"),
        ("Encoder", {"inputs": 3, "latents": 2, "channels": 9}, "divisible"),
        ("Encoder", {"inputs": 3, "latents": 2, "channels": 8, "depth": 1}, "depth"),
        ("PerceiverIO", {"encoder": {"type": "os.system"}}, "unknown type"),
        ("PerceiverIO", {"encoder": {"type": "Encoder", "inputs": 3}}, "the configuration.encoder"),
    ],
)
def test_bad_configurations_are_one_clear_error(cls: str, config: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        PEER.rebuild(cls, Given(config))


def test_an_operation_without_its_arguments_is_refused() -> None:
    with pytest.raises(InputError, match="layer_norm needs the argument 'offset'"):
        PEER.rebuild("layer_norm", Given({})).run(None, {}, {"x": np.ones(2), "scale": np.ones(2)}, {}, None)
    with pytest.raises(InputError, match="fourier_features needs the options num_bands"):
        PEER.rebuild("fourier_features", Given({})).run(None, {}, {"positions": np.ones((2, 1))}, {}, None)
    assert "layer_norm" in OPERATIONS
