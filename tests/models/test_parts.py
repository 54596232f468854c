"""Parts of a model: made once, exchanged from outside, and no part of what a model is equal to."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from support import assert_close, normal, random_parameters

import perceiver_ref as pr
from perceiver_ref.models.attention import Attention, CrossAttention
from perceiver_ref.models.encoder import Encoder
from perceiver_ref.models.layers import MLP
from perceiver_ref.models.module import Module
from perceiver_ref.models.perceiver_io import PerceiverIO
from perceiver_ref.peers.lucidrains.perceiver.quirks import VariedAttention
from perceiver_ref.porting.deviations.base import with_methods
from perceiver_ref.training.recipes import multimodal

ENCODER = Encoder(inputs=3, latents=2, channels=4, layers=2, self_heads=2)
INPUTS = normal(0, 1, 5, 3)


def test_a_part_is_made_once_and_is_no_field() -> None:
    used, fresh = replace(ENCODER), replace(ENCODER)
    assert used.self_attention is used.self_attention
    assert used.self_attention.attention is used.self_attention.attention
    assert (used, hash(used), repr(used)) == (fresh, hash(fresh), repr(fresh))
    assert pickle.loads(pickle.dumps(used)) == fresh
    assert copy.deepcopy(used).cross_attention == fresh.cross_attention


def test_parts_are_fields_and_what_is_declared_in_order() -> None:
    assert list(PerceiverIO(ENCODER).parts()) == ["encoder"]
    assert list(ENCODER.parts()) == ["cross_attention", "self_attention"]
    assert list(ENCODER.cross_attention.parts()) == ["query_norm", "key_value_norm", "attention", "mlp_norm", "mlp"]
    assert list(ENCODER.cross_attention.parameters()) == list(ENCODER.cross_attention.parts())
    by_name = multimodal.model(0.0).preprocessor.parts()
    assert list(by_name) == [f"modalities.{name}" for name in multimodal.model(0.0).preprocessor.modalities]


def test_one_part_is_replaced_by_its_path() -> None:
    narrow = MLP(4, hidden=3)
    made = PerceiverIO(ENCODER).replace("encoder.self_attention.mlp", narrow)
    block = made.parameters()["encoder"]["block"]
    assert [layer["mlp"]["hidden"]["weight"].shape for layer in block] == [(4, 3), (4, 3)]
    assert made.encoder.cross_attention is ENCODER.cross_attention
    assert made.apply(random_parameters(made), INPUTS).shape == (1, 2, 4)
    with pytest.raises(pr.InputError, match="mixer"):
        PerceiverIO(ENCODER).replace("encoder.self_attention.mixer", narrow)
    model = multimodal.model(0.0)
    path = next(f"preprocessor.{name}" for name in model.preprocessor.parts())
    assert model.replace(path, narrow).preprocessor.parts()[path.partition(".")[2]] is narrow


def test_parts_are_mapped_and_shared_where_nothing_changes() -> None:
    model = PerceiverIO(ENCODER)
    assert model.map_parts(lambda part: part) is model
    scaled = model.map_parts(lambda part: part.with_fields(scale=1.0) if isinstance(part, Attention) else part)
    assert (scaled.encoder.self_attention.attention.scale, ENCODER.self_attention.attention.scale) == (1.0, None)
    assert scaled.encoder.self_attention.mlp is ENCODER.self_attention.mlp


def test_methods_are_exchanged_one_around_the_other_from_outside() -> None:
    p = random_parameters(ENCODER)
    called: list[str] = []

    def named(name: str) -> Any:
        def run(original: Any, part: Module, *arguments: Any, **options: Any) -> Any:
            called.append(name)
            return original(part, *arguments, **options)

        return run

    made = with_methods(
        ENCODER, {Attention.apply: [named("inner"), named("outer")], CrossAttention.apply: [named("x")]}
    )
    assert_close(made.apply(p, INPUTS), ENCODER.apply(p, INPUTS), tolerance=0)
    assert called == ["x", *["outer", "inner"] * 3]
    assert isinstance(made.cross_attention, CrossAttention)
    ENCODER.apply(p, INPUTS)
    assert len(called) == 7


def test_a_method_is_exchanged_where_a_subclass_calls_it() -> None:
    layer = VariedAttention(4, 4, 4, 4, 4)
    made = with_methods(layer, {Attention.apply: [lambda original, *arguments, **options: np.zeros(3)]})
    assert_close(made.apply(random_parameters(layer), INPUTS, INPUTS), np.zeros(3), tolerance=0)
