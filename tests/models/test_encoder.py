"""The encoder equals the loops of `plain` for any sizes and options, and refuses what it cannot use."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import plain, small
from support import assert_close, host, normal, on, random_parameters

from perceiver_ref import InputError
from perceiver_ref.autograd import ops, tree, vjp
from perceiver_ref.autograd.backend import xp
from perceiver_ref.autograd.observing import observe
from perceiver_ref.autograd.tree import Tree
from perceiver_ref.models.conventions import DEEPMIND
from perceiver_ref.models.encoder import Encoder

FREE = replace(DEEPMIND, free_widths=True)


@settings(max_examples=25)
@given(encoder=small.encoders(), data=st.data())
def test_encoder_is_cross_attentions_and_the_block_again_and_again(
    backend: str, encoder: Encoder, data: st.DataObject
) -> None:
    batch, m = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 5))
    p, inputs = random_parameters(encoder), normal(1, batch, m, encoder.inputs)
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=batch * m, max_size=batch * m))).reshape(batch, m)
    bias = normal(2, batch, encoder.cross_heads, encoder.latents, m)
    for arguments in ({}, {"mask": mask}, {"bias": bias}, {"mask": mask, "bias": bias}):
        ours = encoder.apply(*on(backend, [p, inputs]), **on(backend, arguments))
        assert_close(ours, plain.encoder(p, inputs, like=encoder, **arguments))


def test_given_latents_replace_the_trained_ones(backend: str) -> None:
    encoder = small.encoder()
    p, inputs, latents = random_parameters(encoder), normal(1, 2, 5, 6), normal(2, 4, 8)
    ours = encoder.apply(*on(backend, [p, inputs]), latents=on(backend, np.stack([latents] * 2)))
    assert_close(ours, plain.encoder({**p, "latents": latents}, inputs, like=encoder))


@settings(max_examples=15)
@given(encoder=small.encoders())
def test_layers_computed_again_give_the_same_and_keep_less(backend: str, encoder: Encoder) -> None:
    p, inputs, mask = random_parameters(encoder), normal(1, 2, 5, encoder.inputs), np.array([[1, 1, 0, 1, 1]] * 2, bool)
    bias = normal(2, 1, encoder.cross_heads, encoder.latents, 5)
    found = []
    for recompute in (False, True):
        kept: list[int] = []
        chosen = replace(encoder, recompute=recompute)

        def loss(p: Tree, inputs: Any, bias: Any, chosen: Encoder = chosen, kept: list[int] = kept) -> Any:
            with observe(lambda e: kept.append(sum(map(_size, e.node.residuals))) if e.node else None):
                out = chosen.apply(p, inputs, mask=on(backend, mask), bias=bias)
            return ops.sum(ops.multiply(out, out))

        value, pull = vjp(loss, *on(backend, [p, inputs, bias]))
        found.append(([value, *pull(xp(value).ones_like(value))], sum(kept)))
    (once, more), (again, less) = found
    if backend == "numpy":
        for a, b in zip(tree.leaves(host(once)), tree.leaves(host(again)), strict=True):
            np.testing.assert_array_equal(a[1], b[1])
    else:  # products add to gradients that have come before, which here is in another order
        assert_close(once, again)
    assert less < more


def _size(residual: Any) -> int:
    return int(getattr(residual, "size", 0))


def test_the_number_of_parameters_does_not_depend_on_the_number_of_blocks() -> None:
    counts = {blocks: small.encoder(blocks=blocks).count() for blocks in (1, 2, 8)}
    assert len(set(counts.values())) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"inputs": np.zeros((2, 5, 7))}, "inputs must be (batch, positions, 6), got (2, 5, 7)"),
        ({"inputs": np.zeros((5, 6))}, "inputs must be (batch, positions, 6), got (5, 6)"),
        ({"mask": np.ones((2, 4), bool)}, "mask must be bool of shape (2, 5), True = attend; got bool of (2, 4)"),
        ({"mask": np.ones((2, 5))}, "mask must be bool of shape (2, 5), True = attend; got float64 of (2, 5)"),
    ],
)
def test_wrong_arguments_are_named(backend: str, arguments: dict[str, np.ndarray], message: str) -> None:
    encoder = small.encoder()
    p = on(backend, random_parameters(encoder))
    with pytest.raises(InputError, match=re.escape(message)):
        encoder.apply(p, **on(backend, {"inputs": np.zeros((2, 5, 6)), **arguments}))


@pytest.mark.parametrize("heads", [{"cross_heads": 3}, {"self_heads": 3}, {"self_heads": 0}])
def test_heads_must_divide_the_channels(heads: dict[str, int]) -> None:
    with pytest.raises(InputError, match=r"channels \(8\) must be divisible by the number of heads"):
        Encoder(6, 4, 8, **heads)


def test_free_widths_need_only_fit_their_own_heads() -> None:
    encoder = Encoder(6, 4, 7, cross_heads=2, self_heads=3, qk_channels=4, self_qk_channels=9, conventions=FREE)
    assert encoder.self_attention.parameters()["attention"]["output"]["weight"].shape == (9, 7)
    with pytest.raises(InputError, match=r"qk_channels \(8\) must be divisible by the number of heads \(3\)"):
        replace(encoder, self_qk_channels=8).parameters()
