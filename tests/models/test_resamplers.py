"""Resamplers and poolers of one set of features: by their definitions and what must be so, apart from any peer."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import assert_close, normal, on, random_parameters

from perceiver_ref import InputError, trace
from perceiver_ref.autograd.backend import xp
from perceiver_ref.autograd.testing import check_grads
from perceiver_ref.models.attention import Attention
from perceiver_ref.models.conventions import POOLER_DIALECTS, RESAMPLER_DIALECTS
from perceiver_ref.models.layers import L2Norm, RMSNorm, Same
from perceiver_ref.models.resamplers import AttentionPool, LatentAttention, Resampler

STYLES = {"adapter": {}, "speech": {"latents_first": True, "norms": "none", "conventions": RESAMPLER_DIALECTS["xtts"]}}
every_style = pytest.mark.parametrize("style", STYLES)


def resampler(style: str = "adapter", **options: Any) -> Resampler:
    """2 latents 6 wide, 2 layers with 3 heads 2 wide; features 5 wide, outputs 4."""
    chosen = {"features": 5, "outputs": 4, "latents": 2, "layers": 2, "heads": 3, "head_channels": 2, "hidden": 7}
    return Resampler(6, **{**chosen, **STYLES[style], **options})


@st.composite
def pools(draw: st.DrawFn) -> AttentionPool:
    """Pools with any of the options."""
    heads = draw(st.integers(1, 3))
    width = heads * draw(st.integers(1, 3))
    projection = draw(st.sampled_from(["none", "linear", "affine"]))
    in_keys = draw(st.booleans())
    return AttentionPool(
        features=width if in_keys and projection == "none" else draw(st.integers(1, 4)),
        channels=width,
        latents=draw(st.integers(1, 3)),
        heads=heads,
        latent_channels=None if in_keys else draw(st.none() | st.integers(1, 4)),
        outputs=draw(st.none() | st.integers(1, 4)),
        projection=projection,
        places=draw(st.sampled_from([None, 3])),
        norms=draw(st.sampled_from(["before", "none"])),
        latents_in_keys=in_keys,
        latents_first=draw(st.booleans()),
        qk_norm=draw(st.booleans()),
        hidden=draw(st.none() | st.integers(1, 4)),
        mlp_norms=draw(st.sampled_from(["before", "none"])),
        end=draw(st.sampled_from(["none", "norm"])),
        last=draw(st.none() | st.integers(1, 4)),
        take=draw(st.sampled_from(["all", "first", "mean"])),
        conventions=POOLER_DIALECTS[draw(st.sampled_from(["timm", "aria"]))],
    )


# Gradients.


@every_style
def test_gradients_of_resamplers(backend: str, style: str) -> None:
    model = resampler(style, pooled=1, places=4)
    check_grads(model.apply, *on(backend, [random_parameters(model), normal(1, 2, 3, 5)]), directions=1)


@settings(max_examples=15)
@given(model=pools(), seed=st.integers(0, 9))
def test_gradients_of_pools(backend: str, model: AttentionPool, seed: int) -> None:
    p, x = on(backend, [random_parameters(model, seed), normal(seed, 2, 3, model.features)])
    out = model.apply(p, x)
    rows = {"all": (model.latents,), "first": (), "mean": ()}[model.take]
    assert out.shape == (2, *rows, model.pooled if model.last is None else model.last)
    check_grads(model.apply, p, x, directions=1)


# The norm by the length.


def test_the_norm_by_length_by_its_definition(backend: str) -> None:
    x, scale = on(backend, [3 * normal(0, 2, 3, 5), normal(1, 5)])
    made = L2Norm(5).apply({"scale": scale}, x)
    assert_close(made, x / (x**2).sum(-1, keepdims=True) ** 0.5 * 5**0.5 * scale)
    assert_close(made, RMSNorm(5, eps=0.0).apply({"scale": scale}, x))
    check_grads(lambda x, scale: L2Norm(5).apply({"scale": scale}, x), x, scale)


def test_what_is_shorter_than_epsilon_is_divided_by_it(backend: str) -> None:
    x, scale = on(backend, [np.array([[0.0, 0.0], [3e-3, 4e-3], [3.0, 4.0]]), np.ones(2)])
    made = L2Norm(2, eps=0.1).apply({"scale": scale}, x)
    assert_close(made, on(backend, np.array([[0.0, 0.0], [3e-2, 4e-2], [0.6, 0.8]])) * 2**0.5)
    check_grads(lambda x: L2Norm(2, eps=0.1).apply({"scale": scale}, x), x[:1] + 1e-3)


# Order, masks and keys.


@every_style
def test_the_order_of_features_is_of_no_matter_without_positions(backend: str, style: str) -> None:
    model = resampler(style, pooled=1)
    p, x = on(backend, [random_parameters(model), normal(1, 2, 4, 5)])
    assert_close(model.apply(p, x[:, ::-1]), model.apply(p, x))
    placed = replace(model, places=4)
    q = on(backend, random_parameters(placed))
    assert abs(placed.apply(q, x[:, ::-1]) - placed.apply(q, x)).max() > 1e-3


@every_style
def test_a_mask_leaves_out_and_only_the_order_of_keys_can_tell_where_latents_are(backend: str, style: str) -> None:
    model = resampler(style)
    other = replace(model, latents_first=not model.latents_first)
    p, x = on(backend, [random_parameters(model), normal(1, 2, 4, 5)])
    assert_close(other.apply(p, x), model.apply(p, x))
    mask = on(backend, np.array([[True, True, False, False]] * 2))
    short = model.apply(p, x[:, :2])
    assert_close(model.apply(p, x, mask=mask), short)
    assert_close(other.apply(p, x, mask=mask), short)
    latents = on(backend, np.ones((2, 2), bool))
    keys = xp(mask).concatenate([latents, mask] if model.latents_first else [mask, latents], 1)
    assert_close(model.apply(p, x, key_mask=keys), short)
    assert abs(other.apply(p, x, key_mask=keys) - short).max() > 1e-3


def test_given_latents_take_the_place_of_learned_ones(backend: str) -> None:
    model = resampler()
    p, x = on(backend, [random_parameters(model), normal(1, 2, 4, 5)])
    free = replace(model, latents=None)
    rest = {name: part for name, part in p.items() if name != "latents"}
    given = p["latents"][None].repeat(2, 0)
    assert_close(free.apply(rest, x, given), model.apply(p, x))
    assert (model.arguments, free.arguments) == (("features",), ("features", "latents"))


def test_all_axes_before_tokens_are_the_batch(backend: str) -> None:
    model = resampler()
    p, x = on(backend, [random_parameters(model), normal(1, 2, 3, 4, 5)])
    assert_close(model.apply(p, x), model.apply(p, x.reshape(6, 4, 5)))


def test_attention_alone_is_the_first_half_of_a_layer(backend: str) -> None:
    model = resampler()
    p, x = on(backend, [random_parameters(model), normal(1, 2, 4, 5)])
    with trace() as t:
        model.apply(p, x)
    alone = LatentAttention(6, heads=3, head_channels=2)
    own = {name: p["layers"][0][name] for name in ("features_norm", "latents_norm", "attention")}
    made = alone.apply(own, t["resampler.latents"], t["resampler.features"])
    assert_close(made, t["resampler.layers.0.attention"])


def test_positions_of_keys_do_not_reach_values(backend: str) -> None:
    """A position that is the same for all keys changes nothing; one for values would."""
    model = AttentionPool(5, 6, 2, 3, projection="linear", norms="before")
    p, x = on(backend, [random_parameters(model), normal(1, 2, 4, 5)])
    constant = on(backend, normal(2, 1, 6).repeat(4, 0))
    assert_close(model.apply(p, x, key_positions=constant), model.apply(p, x))
    assert abs(model.apply(p, x, key_positions=on(backend, normal(3, 4, 6))) - model.apply(p, x)).max() > 1e-3


def test_queries_may_have_positions(backend: str) -> None:
    model = AttentionPool(6, 6, 2, 3)
    p, x, places = on(backend, [random_parameters(model), normal(1, 2, 4, 6), normal(2, 2, 6)])
    moved = {**p, "latents": p["latents"] + places}
    assert_close(model.apply(p, x, query_positions=places), model.apply(moved, x))


def test_a_mask_of_every_head_is_one_of_all_where_heads_agree(backend: str) -> None:
    layer = Attention(4, 4, 6, 6, 4, heads=3)
    p, x, z = on(backend, [random_parameters(layer), normal(0, 2, 3, 4), normal(1, 2, 5, 4)])
    mask = np.random.default_rng(2).random((2, 3, 5)) < 0.6
    both = [layer.apply(p, x, z, mask=on(backend, mask)), layer.apply(p, x, z, head_mask=on(backend, mask[:, None]))]
    assert_close(both[0], both[1], tolerance=0)
    first = mask[:, None] & (np.arange(3) == 0)[:, None, None]
    with trace() as t:
        layer.apply(p, x, z, head_mask=on(backend, first))
    assert not t["attention.weights"][:, 1:].any()


def test_a_part_may_be_left_out(backend: str) -> None:
    model = AttentionPool(6, 6, 2, 3).replace("attention.output", Same())
    p, x = on(backend, [random_parameters(model), normal(1, 2, 4, 6)])
    assert "output" not in p["attention"] or not p["attention"]["output"]
    with trace() as t:
        out = model.apply(p, x)
    assert_close(out, t["pool.attention.mixed"], tolerance=0)


# What is refused.


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: resampler(latents=None, pooled=1), "cannot be joined by pooled ones"),
        (lambda: resampler(norms="after"), "norms must be one of 'before', 'none'"),
        (lambda: LatentAttention(6, 5, heads=3), "features of width 5 and latents of width 6 cannot both be keys"),
        (lambda: AttentionPool(5, 6, heads=3, latents_in_keys=True), "cannot both be keys"),
        (lambda: AttentionPool(5, 6, heads=4), "channels (6) must be divisible by the number of heads (4)"),
        (lambda: AttentionPool(5, 6, heads=3, take="last"), "take must be one of 'all', 'first', 'mean'"),
    ],
)
def test_options_that_cannot_be(made: Any, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        made()


@pytest.mark.parametrize(
    ("options", "call", "message"),
    [
        ({}, {"features": normal(0, 2, 4, 6)}, "features must be (batch, tokens, 5), got (2, 4, 6)"),
        ({}, {"features": normal(0, 4, 5)}, "features must be (batch, tokens, 5), got (4, 5)"),
        ({"places": 3}, {}, "there are 4 features, and positions for 3"),
        ({"latents": None}, {}, "latents must be (2, latents, 6), got none"),
        ({}, {"latents": normal(0, 2, 2, 6)}, "the model has latents of its own"),
        ({}, {"mask": np.ones((2, 5), bool)}, "mask must be bool of shape (2, 4)"),
        ({}, {"key_mask": np.ones((2, 4), bool)}, "key_mask must be bool of shape (2, 6)"),
    ],
)
def test_inputs_that_do_not_fit(options: dict[str, Any], call: dict[str, Any], message: str) -> None:
    model = resampler(**options)
    with pytest.raises(InputError, match=re.escape(message)):
        model.apply(random_parameters(model), **{"features": normal(0, 2, 4, 5), **call})
