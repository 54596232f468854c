"""The Perceiver Resampler: its properties, each against a plain definition or an equivalent call."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import assert_close, difference, host, normal, on, random_parameters

import perceiver_ref as pr
from perceiver_ref.autograd import ops, tree, value_and_grad
from perceiver_ref.models.conventions import FLAMINGO_DIALECTS
from perceiver_ref.models.flamingo import PerceiverResampler

few_examples = settings(max_examples=25)
seeds = st.integers(0, 2**32 - 2)
sizes = st.integers(1, 3)
D = 6


@st.composite
def resamplers(draw: Any, **fixed: Any) -> PerceiverResampler:
    """Small ones, of every kind but for what is fixed."""
    options = {
        "latents": draw(st.integers(1, 4)),
        "layers": draw(st.integers(1, 2)),
        "heads": 2,
        "head_channels": draw(st.sampled_from([None, 2])),
        "widening": draw(st.integers(1, 2)),
        "frames": draw(st.none() | st.integers(1, 4)),
        "media": draw(st.none() | st.just(3)),
        "latents_per": draw(st.sampled_from(["medium", "frame"])),
        "latents_in_keys": draw(st.booleans()),
        "qk_norm": draw(st.booleans()),
        "kv_heads": draw(st.sampled_from([None, 1])),
        "conventions": FLAMINGO_DIALECTS[draw(st.sampled_from(list(FLAMINGO_DIALECTS)))],
    }
    return PerceiverResampler(D, **{**options, **fixed})


def example(seed: int, *shape: int) -> np.ndarray:
    return normal(seed, *shape, D)


@few_examples
@given(model=resamplers(), b=sizes, m=sizes, t=st.integers(1, 5), s=sizes)
def test_the_number_of_outputs_depends_on_neither_frames_nor_tokens(
    backend: str, model: PerceiverResampler, b: int, m: int, t: int, s: int
) -> None:
    p = on(backend, random_parameters(model))
    out = model.apply(p, on(backend, example(0, b, m, t, s)))
    each = model.latents * (t if model.latents_per == "frame" else 1)
    assert out.shape == (b, m, each, D)


@few_examples
@given(model=resamplers(frames=None, latents_per="medium"), t=st.integers(2, 4), s=sizes, seed=seeds)
def test_without_time_embeddings_frames_may_be_permuted(
    backend: str, model: PerceiverResampler, t: int, s: int, seed: int
) -> None:
    p, x = on(backend, random_parameters(model)), example(seed, 2, 2, t, s)
    order = np.random.default_rng(seed).permutation(t)
    assert_close(model.apply(p, on(backend, x[:, :, order])), model.apply(p, on(backend, x)))


def test_with_time_embeddings_frames_may_not_be_permuted(backend: str) -> None:
    model = PerceiverResampler(D, latents=3, layers=1, heads=2, frames=4)
    p, x = on(backend, random_parameters(model)), example(0, 1, 1, 4, 2)
    swapped = x[:, :, [1, 0, 2, 3]]
    assert difference(model.apply(p, on(backend, swapped)), model.apply(p, on(backend, x))) > 1e-3


@few_examples
@given(model=resamplers(), t=st.integers(1, 5), s=st.integers(2, 4), seed=seeds)
def test_tokens_within_a_frame_may_be_permuted(
    backend: str, model: PerceiverResampler, t: int, s: int, seed: int
) -> None:
    p, x = on(backend, random_parameters(model)), example(seed, 1, 2, t, s)
    order = np.random.default_rng(seed).permutation(s)
    assert_close(model.apply(p, on(backend, x[:, :, :, order])), model.apply(p, on(backend, x)))


@few_examples
@given(model=resamplers(), seed=seeds)
def test_media_are_independent_of_each_other(backend: str, model: PerceiverResampler, seed: int) -> None:
    """No output of a medium has a gradient in another medium; and without embeddings of place each stands alone."""
    p, x = on(backend, random_parameters(model)), example(seed, 2, 3, 2, 2)
    weights = on(backend, normal(1, 2, model.latents * (2 if model.latents_per == "frame" else 1), D))

    def of_the_second(features: Any) -> Any:
        return ops.sum(ops.multiply(model.apply(p, features)[:, 1], weights))

    _, gradient = value_and_grad(of_the_second)(on(backend, x))
    gradient = host(gradient)
    assert (gradient[:, [0, 2]] == 0).all()
    assert (gradient[:, 1] != 0).any()
    if model.media is None:
        alone = model.apply(p, on(backend, x[:, 1:2]))
        assert_close(alone, model.apply(p, on(backend, x))[:, 1:2])


@few_examples
@given(model=resamplers(), t=sizes, seed=seeds)
def test_latents_per_frame_are_those_of_each_frame_as_a_medium(
    backend: str, model: PerceiverResampler, t: int, seed: int
) -> None:
    model = replace(model, latents_per="frame", frames=None, media=None)
    p, x = on(backend, random_parameters(model)), example(seed, 2, 2, t, 3)
    apart = model.apply(p, on(backend, x.reshape(2, 2 * t, 1, 3, D)))
    assert_close(model.apply(p, on(backend, x)), apart.reshape(2, 2, -1, D))


@few_examples
@given(model=resamplers(latents_in_keys=True), seed=seeds)
def test_latents_are_among_the_keys(backend: str, model: PerceiverResampler, seed: int) -> None:
    """Leaving them out changes the result; it is then plain cross-attention, written out here."""
    p = on(backend, random_parameters(model))
    x = on(backend, example(seed, 1, 1, 1, 4))
    without = replace(model, latents_in_keys=False)
    assert difference(without.apply(p, x), model.apply(p, x)) > 1e-9


def test_without_latents_in_keys_it_is_cross_attention(backend: str) -> None:
    conventions = FLAMINGO_DIALECTS["lucidrains-flamingo"]
    model = PerceiverResampler(D, 3, 2, 2, latents_in_keys=False, conventions=conventions)
    p, x = random_parameters(model), example(0, 2, 1, 1, 5)
    expected = np.stack([_written_out(p, features, heads=2, in_keys=False) for features in x[:, 0, 0]])
    assert_close(model.apply(on(backend, p), on(backend, x))[:, 0], expected)


def test_the_whole_is_the_papers_listing_written_out(backend: str) -> None:
    """x_f += time; flatten; x += attn(x, [x_f, x]); x += ffw(x): with loops and scalars, frames resized by hand."""
    model = PerceiverResampler(D, 3, 2, 2, frames=2, conventions=FLAMINGO_DIALECTS["lucidrains-flamingo"])
    p, x = random_parameters(model), example(0, 1, 2, 3, 2)
    first, last = p["time_embedding"]
    times = np.stack([first, (first + last) / 2, last])[:, None]
    expected = np.stack([_written_out(p, (medium + times).reshape(-1, D), heads=2, in_keys=True) for medium in x[0]])
    assert_close(model.apply(on(backend, p), on(backend, x))[0], expected)


def _written_out(p: Any, features: np.ndarray, heads: int, in_keys: bool) -> np.ndarray:
    """One medium's features (S, D) -> (N, D), with exact GELU."""
    from scipy.special import erf, softmax

    def norm(x: np.ndarray, q: Any) -> np.ndarray:
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * q["scale"] + q["offset"]

    x = p["latents"]
    for layer in p["layers"]:
        q = norm(x, layer["latents_norm"])
        kv = norm(features, layer["features_norm"])
        kv = np.concatenate([kv, q]) if in_keys else kv
        w = {name: part["weight"] for name, part in layer["attention"].items()}
        mixed = []
        for head in np.split(np.arange(w["query"].shape[1]), heads):
            logits = (q @ w["query"][:, head]) @ (kv @ w["key"][:, head]).T / np.sqrt(len(head))
            mixed.append(softmax(logits, -1) @ (kv @ w["value"][:, head]))
        x = x + np.concatenate(mixed, -1) @ w["output"]
        h = norm(x, layer["mlp_norm"]) @ layer["mlp"]["hidden"]["weight"]
        x = x + h * (1 + erf(h / np.sqrt(2))) / 2 @ layer["mlp"]["output"]["weight"]
    return norm(x, p["norm"])


@few_examples
@given(n=st.integers(1, 4), t=st.integers(1, 9))
def test_time_embeddings_of_more_frames_lie_between_those_trained(backend: str, n: int, t: int) -> None:
    """numpy.interp is the definition; fewer frames take the first ones."""
    model = PerceiverResampler(D, 1, 1, 1, frames=n)
    table = random_parameters(model)["time_embedding"]
    resized = model._times(on(backend, table), t)
    places = np.arange(t) if t <= n else np.linspace(0, n - 1, t)
    expected = np.stack([np.interp(places, np.arange(n), column) for column in table.T], -1)
    assert_close(resized, expected)


@few_examples
@given(model=resamplers(), content=st.sampled_from([0.0, 1e30, np.nan, np.inf]), seed=seeds)
def test_padding_changes_nothing_and_gets_no_gradient(
    backend: str, model: PerceiverResampler, content: float, seed: int
) -> None:
    x = example(seed, 2, 2, 2, 3)
    more = np.concatenate([x, np.full((2, 2, 2, 2, D), content)], axis=3)
    mask = np.broadcast_to(np.arange(5) < 3, (2, 2, 2, 5))
    p = on(backend, random_parameters(model))

    def loss(variables: Any, mask: Any = None) -> Any:
        out = model.apply(variables["p"], variables["x"], mask=mask)
        return ops.sum(ops.multiply(out, on(backend, normal(1, *out.shape))))

    value, gradients = host(value_and_grad(loss)({"p": p, "x": on(backend, x)}))
    padded, of_padded = host(value_and_grad(loss)({"p": p, "x": on(backend, more)}, on(backend, mask)))
    assert_close(padded, value)
    assert_close(of_padded["p"], gradients["p"])
    assert_close(of_padded["x"][:, :, :, :3], gradients["x"])
    assert (of_padded["x"][:, :, :, 3:] == 0).all()


@few_examples
@given(model=resamplers(media=None), seed=seeds)
def test_forms_with_fewer_axes_are_single_frames_and_single_media(
    backend: str, model: PerceiverResampler, seed: int
) -> None:
    p, x = on(backend, random_parameters(model)), on(backend, example(seed, 2, 1, 1, 3))
    five = model.apply(p, x)
    assert_close(model.apply(p, x[:, :, 0]), five)
    assert_close(model.apply(p, x[:, 0, 0]), five[:, 0])


@few_examples
@given(model=resamplers(), seed=seeds)
def test_gradients_agree_with_differences(backend: str, model: PerceiverResampler, seed: int) -> None:
    from perceiver_ref.autograd.testing import check_grads

    # relu has a kink, and a norm of two channels is too steep for differences unless eps is large
    model = replace(model, conventions=replace(model.conventions, activation="gelu_tanh", norm_eps=0.1))
    p, x = random_parameters(model), example(seed, 1, 2, 2, 2)
    check_grads(lambda v: model.apply(v["p"], v["x"]), on(backend, {"p": p, "x": x}), directions=1)


def test_float32_stays_float32(backend: str) -> None:
    model = PerceiverResampler(D, 3, 2, 2, frames=2, media=3)
    p, x = on(backend, random_parameters(model), np.float32), on(backend, example(0, 1, 2, 3, 2), np.float32)
    _, gradients = value_and_grad(lambda p: ops.sum(model.apply(p, x)))(p)
    assert model.apply(p, x).dtype == np.float32
    assert {g.dtype for _, g in tree.leaves(gradients)} == {np.dtype(np.float32)}


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 6), "features must be (batch, media, frames, tokens, 6)"),
        ((1, 1, 1, 1, 1, 6), "features must be (batch, media, frames, tokens, 6)"),
        ((1, 2, 2, 2, 5), "got (1, 2, 2, 2, 5)"),
        ((1, 2, 0, 2, 6), "the features (1, 2, 0, 2, 6) hold no frames"),
        ((1, 0, 2, 2, 6), "hold no media"),
        ((1, 2, 2, 0, 6), "hold no tokens"),
        ((1, 4, 2, 2, 6), "there are 4 media, and embeddings for 3"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(shape: tuple[int, ...], message: str) -> None:
    model = PerceiverResampler(D, 3, 1, 2, media=3)
    with pytest.raises(pr.InputError, match=re.escape(message)):
        model.apply(random_parameters(model), np.zeros(shape))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 4}, "channels (6) must be divisible by the number of heads (4)"),
        ({"heads": 2, "kv_heads": 3}, "heads (2) must be divisible by kv_heads (3)"),
        ({"heads": 2, "frames": 0}, "frames must be at least 1, or None for no embedding; got 0"),
        ({"heads": 2, "latents_per": "image"}, "unknown latents_per 'image'"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(pr.InputError, match=re.escape(message)):
        PerceiverResampler(D, **options).parameters()


def test_a_mask_of_another_shape_is_refused() -> None:
    model = PerceiverResampler(D, 3, 1, 2)
    with pytest.raises(pr.InputError, match=re.escape("mask must be bool of shape (1, 1, 2, 2)")):
        model.apply(random_parameters(model), example(0, 1, 1, 2, 2), mask=np.ones((1, 1, 2), bool))
