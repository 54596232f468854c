"""The whole model: it is its language model until gates open, sees no later token or medium, and runs in pieces."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flamingo import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from support import assert_close, host, normal, on

from perceiver_ref import InputError, trace
from perceiver_ref.autograd import ops, tree, value_and_grad
from perceiver_ref.autograd.testing import check_grads
from perceiver_ref.models.flamingo import GatedCrossAttention, GatedLayers, PerceiverResampler
from perceiver_ref.models.flamingo.language_model import LanguageModel
from perceiver_ref.models.flamingo.model import Flamingo
from perceiver_ref.models.flamingo.prompts import (
    EOC,
    IMAGE,
    VOCABULARY,
    Chunk,
    Prompt,
    interleave,
    marked,
    without_media,
)
from perceiver_ref.models.flamingo.vision import Features

CACHED = 1e-10
"""Bound for a prompt run in pieces against one run whole, in float64: only the order of sums differs (measured: under
1e-13), while a token that saw another medium differs by more than 0.1."""

both = pytest.mark.parametrize("images", [False, True], ids=["features", "images"])


def example(images: bool, seed: int, media: int, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """ids (2, 7) with so many tags each, and media."""
    ids = np.random.default_rng(seed).integers(6, 262, (2, 7))
    ids[0, [1, 4, 5][:media]] = IMAGE
    ids[1, [0, 2, 3][:media]] = IMAGE
    frame = (4, 4, 2) if images else (tiny.S, tiny.C)
    return ids, normal(seed, 2, media, frames, *frame)


@both
@settings(max_examples=15)
@given(seed=st.integers(0, 9), media=st.integers(0, 3), frames=st.integers(1, 5))
def test_at_the_start_it_is_the_language_model_bit_for_bit(
    backend: str, images: bool, seed: int, media: int, frames: int
) -> None:
    model = tiny.flamingo(images=images)
    params = model.init(seed, backend=backend)
    ids, given_media = on(backend, example(images, seed, media, frames), np.float32)
    ours = model.apply(params, ids, given_media)
    assert_close(ours, model.language.apply(params["frozen"]["language"], ids), tolerance=0)


@both
def test_with_open_gates_the_media_matter(backend: str, images: bool) -> None:
    model = tiny.flamingo(images=images)
    params = tiny.parameters(model, backend)
    ids, media = on(backend, example(images, 0, 2, 3))
    ours, alone = (host(model.apply(params, ids, m)) for m in (media, media * media))
    assert np.abs(ours - alone).max() > 0.1


@settings(max_examples=20)
@given(prompt=tiny.prompts(images=False), other=tiny.prompts())
def test_text_without_media_is_the_language_models_whatever_else_is_in_the_batch(
    backend: str, prompt: Prompt, other: Prompt
) -> None:
    model = tiny.flamingo()
    params = tiny.parameters(model, backend)
    expected = model.language.apply(params["frozen"]["language"], on(backend, prompt.ids[None]))
    assert_close(tiny.run(model, params, tiny.batch(prompt), backend), expected, tolerance=0)
    together = host(tiny.run(model, params, tiny.batch(prompt, other), backend))
    assert_close(together[:1, : len(prompt.ids)], expected)


@settings(max_examples=20)
@given(prompt=tiny.prompts(), other=tiny.prompts())
def test_each_prompt_of_a_batch_is_as_if_alone(backend: str, prompt: Prompt, other: Prompt) -> None:
    """Padding of text, of media and of frames changes nothing."""
    model = tiny.flamingo()
    params = tiny.parameters(model, backend)
    together = host(tiny.run(model, params, tiny.batch(other, prompt), backend))
    alone = tiny.run(model, params, tiny.batch(prompt), backend)
    assert_close(together[1:, : len(prompt.ids)], alone)


@pytest.mark.parametrize("content", [1e30, np.nan, np.inf], ids=str)
def test_what_padded_media_hold_does_not_matter(backend: str, content: float) -> None:
    model = tiny.flamingo()
    params = tiny.parameters(model, backend)
    ids, media = example(False, 1, 2, 1)
    ids[1, 2] = 40  # the second prompt has one medium, and a place for another
    results = []
    for value in (0.0, content):
        media[1, 1] = value
        results.append(host(loss_and_gradients(model, params, on(backend, ids), on(backend, media.copy()))))
    assert_close(results[1], results[0], tolerance=0)


def test_a_tag_in_padding_counts_for_nothing(backend: str) -> None:
    model = tiny.flamingo()
    params = tiny.parameters(model, backend)
    ids, mask = np.array([[10, IMAGE, IMAGE, 11]]), np.array([[True, False, True, True]])
    media = on(backend, normal(0, 1, 1, 1, tiny.S, tiny.C))
    ours = host(model.apply(params, on(backend, ids), media, mask=on(backend, mask)))
    assert_close(ours[mask][None], model.apply(params, on(backend, ids[mask][None]), media))


def loss_and_gradients(model: Flamingo, params: Any, ids: Any, media: Any) -> Any:
    def loss(trained: Any) -> Any:
        return ops.sum(model.apply({**params, "trained": trained}, ids, media))

    return value_and_grad(loss)(params["trained"])


@pytest.mark.parametrize("which", ["immediate", "all"])
@given(at=st.integers(0, 7))
def test_text_sees_no_later_token_and_no_later_medium(backend: str, which: str, at: int) -> None:
    """Gradients of a token's logits are exactly 0 by what it may not see, and not 0 by what it may.

    All bytes of the prompt differ, so that a row of the embedding is one token; untied, so that it is not an output.
    """
    model = tiny.flamingo(media=which, logits="untied", layers=1)  # one layer: text meets media once
    params = tiny.parameters(model, backend)
    ids = np.array([[10, IMAGE, 11, IMAGE, 12, 13, IMAGE, 14]])
    given_ids, weights = on(backend, [ids, normal(3, VOCABULARY)])

    def loss(variables: Any) -> Any:
        logits = model.apply(variables["params"], given_ids, variables["media"])
        return ops.sum(ops.multiply(logits[0, at], weights))

    variables = {"params": params, "media": on(backend, normal(2, 1, 3, 2, tiny.S, tiny.C))}
    gradients = host(value_and_grad(loss)(variables)[1])
    by_id = np.abs(gradients["params"]["frozen"]["language"]["input"]["embedding"]).max(-1)
    by_medium = np.abs(gradients["media"][0]).max((-1, -2, -3))
    later = [token for token in ids[0, at + 1 :] if token not in ids[0, : at + 1]]
    assert (by_id[later] == 0).all()
    assert (by_id[ids[0, : at + 1]] > 1e-6).all()
    tags = int((ids[0, : at + 1] == IMAGE).sum())
    assert (by_medium[tags:] == 0).all()
    # earlier text carries what it saw of earlier media on through the language model
    assert (by_medium[:tags] > 1e-6).all()


def test_immediate_text_attends_to_the_last_medium_alone(backend: str) -> None:
    """Seen where nothing carries it on: the attention weights themselves."""
    ids = on(backend, np.array([[10, IMAGE, 11, IMAGE, 12]]))
    media = on(backend, normal(2, 1, 2, 1, tiny.S, tiny.C))
    expected = {"immediate": [[0, 0], [1, 0], [1, 0], [0, 1], [0, 1]], "all": [[0, 0], [1, 0], [1, 0], [1, 1], [1, 1]]}
    for which, seen in expected.items():
        model = tiny.flamingo(media=which)
        with trace() as traced:
            model.apply(tiny.parameters(model, backend), ids, media)
        weights = host(traced["gated.0.attention.weights"])  # (1, heads, 5, 2 media of 2 latents)
        per_medium = weights.reshape(*weights.shape[:-1], 2, 2).max((0, 1, -1))
        assert (per_medium > 0).tolist() == np.array(seen, bool).tolist()


def in_pieces(model: Flamingo, params: Any, prompt: Prompt, cuts: list[int], backend: str) -> np.ndarray:
    ids, _, media, frames, _ = on(backend, tiny.batch(prompt))
    cache, made = model.start(params, media, batch=1, frames=frames), []
    for a, b in zip([0, *cuts], [*cuts, ids.shape[1]]):
        logits, cache = model.extend(params, ids[:, a:b], cache)
        made.append(host(logits))
    return np.concatenate(made, 1)


@settings(max_examples=40)
@given(
    prompt=tiny.prompts(),
    data=st.data(),
    which=st.sampled_from(["immediate", "all"]),
    before=st.sampled_from(["language", "mlp"]),
    tokens=st.sampled_from(["frozen", "trained"]),
)
def test_a_prompt_in_pieces_is_the_same_prompt(
    backend: str, prompt: Prompt, data: st.DataObject, which: str, before: str, tokens: str
) -> None:
    """Wherever it is cut: in the text, before a tag, after it, also into empty pieces."""
    model = tiny.flamingo(media=which, before_media=before, tokens=tokens)
    params = tiny.parameters(model, backend)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(prompt.ids)), max_size=5)))
    whole = tiny.run(model, params, tiny.batch(prompt), backend)
    assert_close(in_pieces(model, params, prompt, cuts, backend), whole, CACHED)


def test_a_cache_is_a_value(backend: str) -> None:
    model = tiny.flamingo()
    params = tiny.parameters(model, backend)
    ids, _, media, _, _ = on(backend, tiny.batch(marked("a<image>bc<image>d", [tiny.features(0), tiny.features(1)])))
    _, cache = model.extend(params, ids[:, :2], model.start(params, media))
    before = [tree.map(np.array, host(part)) for part in (cache.media, cache.seen, cache.text.layers)]
    first, _ = model.extend(params, ids[:, 2:], cache)
    model.extend(params, ids[:, :3] * 0 + 9, cache)
    again, _ = model.extend(params, ids[:, 2:], cache)
    assert_close(again, host(first), tolerance=0)
    assert_close([host(part) for part in (cache.media, cache.seen, cache.text.layers)], before, tolerance=0)


def test_with_mlp_text_before_media_goes_through_the_gated_mlp(backend: str) -> None:
    """Then such text is not the language model's, and its attention still gives nothing."""
    ids, media = on(backend, [np.array([[10, 11, IMAGE]]), normal(0, 1, 1, 1, tiny.S, tiny.C)])
    model = tiny.flamingo(before_media="mlp")
    params = tiny.parameters(model, backend)
    ours, other = (host(model.apply(params, ids, m))[:, :2] for m in (media, media * media))
    alone = host(model.language.apply(params["frozen"]["language"], ids))[:, :2]
    assert_close(other, ours, tolerance=0)
    assert np.abs(ours - alone).max() > 0.1


@pytest.mark.parametrize("logits", ["tied", "untied"])
@pytest.mark.parametrize("more", [0, 3])
def test_new_tokens_have_rows_of_their_own(backend: str, logits: str, more: int) -> None:
    """`tokens="trained"` is the language model with the rows of image tag and <EOC> replaced, and only those."""
    model = tiny.flamingo(tokens="trained", logits=logits)
    model = replace(model, language=replace(model.language, vocabulary=VOCABULARY + more))
    params = tiny.parameters(model, backend)
    merged, frozen = host(model.language_parameters(params)), host(params["frozen"]["language"])
    new = host(params["trained"]["tokens"])
    expected = frozen["input"]["embedding"].copy()
    expected[[IMAGE, EOC]] = new["embedding"]
    assert_close(merged["input"]["embedding"], expected, tolerance=0)
    if logits == "untied":
        expected = frozen["output"]["weight"].copy()
        expected[:, [IMAGE, EOC]] = new["output"]
        assert_close(merged["output"]["weight"], expected, tolerance=0)
    ids = on(backend, np.array([[10, IMAGE, 11]]))
    media = on(backend, normal(0, 1, 1, 1, tiny.S, tiny.C))
    closed = {**params, "trained": {**params["trained"], "gated": on(backend, closed_gates(host(params)))}}
    ours = model.apply(closed, ids, media)
    assert_close(ours, model.language.apply(on(backend, merged), ids), tolerance=0)


def closed_gates(params: Any) -> Any:
    gated = params["trained"]["gated"]
    return [{**p, "attention_gate": p["attention_gate"] * 0, "mlp_gate": p["mlp_gate"] * 0} for p in gated]


def test_gradients(backend: str) -> None:
    model = tiny.flamingo(tokens="trained", layers=1)
    params = tiny.parameters(model, backend)
    ids, media = on(backend, example(False, 4, 2, 2))
    weights = on(backend, normal(5, 2, 7, VOCABULARY))

    def function(p: Any, m: Any) -> Any:
        return ops.sum(ops.multiply(model.apply(p, ids, m), weights))

    check_grads(function, params, media, directions=1)


def test_float32_stays_float32(backend: str) -> None:
    model = tiny.flamingo(images=True, tokens="trained")
    params = model.init(0, backend=backend)
    ids, media = on(backend, example(True, 4, 2, 2), np.float32)
    loss, gradients = loss_and_gradients(model, params, ids, media)
    logits, cache = model.extend(params, ids, model.start(params, media))
    assert {loss.dtype, logits.dtype, cache.media[0].keys.dtype} == {np.dtype(np.float32)}
    assert {g.dtype for _, g in tree.leaves(gradients)} == {np.dtype(np.float32)}


def test_whole_parts_are_put_in(backend: str) -> None:
    model = tiny.flamingo(images=True)
    params, other = (tiny.parameters(model, backend, seed) for seed in (0, 1))
    mixed = model.with_parts(params, language=other["frozen"]["language"], gated=other["trained"]["gated"])
    assert_close(mixed["frozen"]["vision"], host(params["frozen"]["vision"]), tolerance=0)
    assert_close(mixed["frozen"]["language"], host(other["frozen"]["language"]), tolerance=0)
    assert_close(mixed["trained"]["gated"], host(other["trained"]["gated"]), tolerance=0)
    with pytest.raises(InputError, match="unknown part 'lm'"):
        model.with_parts(params, lm=None)
    with pytest.raises(InputError, match="parameters do not fit LanguageModel; missing"):
        model.with_parts(params, language={})


def test_what_is_refused(backend: str) -> None:
    model = tiny.flamingo()
    params = tiny.parameters(model, backend)
    ids, media = on(backend, example(False, 0, 2, 1))
    for given_media, message in (
        (None, "the text has 2 image tags, but there are 0 media"),
        (media[:, :1], "the text has 2 image tags, but there are 1 media"),
        (on(backend, normal(0, 2, 3, 1, tiny.S, tiny.C)), "the text has 2 image tags, but there are 3 media"),
        (media[:1], "there are 2 prompts and media for 1"),
        (media[:, :, 0, 0], r"media must be \(batch, media, frames, tokens, 6\) or"),
        (media[..., :5], r"the frames of media must be \(tokens, 6\), got \(3, 5\)"),
        (media[:, :, :0], "media need at least one frame and one token"),
        (media[:, :, :, :0], "media need at least one frame and one token"),
        (media.astype(int), "media must be floating-point"),
    ):
        with pytest.raises(InputError, match=message):
            model.apply(params, ids, given_media)
    with pytest.raises(InputError, match="the text has 2 image tags, but there are 1 media"):
        model.extend(params, ids, model.start(params, media[:, :1]))
    with pytest.raises(InputError, match="the cache is of 1 prompts, but 2 are continued"):
        model.extend(params, ids, model.start(params, media[:1]))
    with pytest.raises(InputError, match="needs to know the size of the batch"):
        model.start(params)
    with pytest.raises(InputError, match=r"frames must be bool of shape \(2, 2, 1\)"):
        model.apply(params, ids, media, frames=on(backend, np.ones((2, 2), bool)))
    long, real = on(backend, [normal(0, 2, 2, 5, tiny.S, tiny.C), np.ones((2, 2, 5), bool)])
    with pytest.raises(InputError, match="5 frames need time embeddings interpolated from 4"):
        model.apply(params, ids, long, frames=real)
    each = replace(model, resampler=replace(model.resampler, latents_per="frame"))
    with pytest.raises(InputError, match="latents for each frame leaves none out"):
        each.apply(params, ids, media, frames=real[:, :, :1])
    del params["trained"]["gated"]
    with pytest.raises(InputError, match="parameters do not fit Flamingo; missing: trained/gated/0"):
        model.apply(params, ids, media)


def test_parts_that_do_not_fit_are_refused() -> None:
    language = LanguageModel(VOCABULARY, 9, 8, 3)
    resampler, gated = PerceiverResampler(6, 2, 1, 2), GatedLayers(3, 1, GatedCrossAttention(8, 6, heads=2))
    Flamingo(language, Features(6), resampler, gated)
    for changed, message in (
        ({"gated": GatedLayers(2, 1, gated.block)}, r"layers of `gated` \(2\) must equal the layers of the language"),
        ({"gated": GatedLayers(3, 1, GatedCrossAttention(4, 6, heads=2))}, "text channels"),
        ({"gated": GatedLayers(3, 1, GatedCrossAttention(8, 4, heads=2))}, "media channels"),
        ({"vision": Features(5)}, r"channels of the vision encoder \(5\)"),
        ({"language": LanguageModel(262, 9, 8, 3)}, r"vocabulary \(262\) must hold the 264 byte and special tokens"),
        ({"media": "some"}, "unknown media option 'some'"),
        ({"before_media": "x"}, "unknown option for text before media 'x'"),
        ({"tokens": "x"}, "unknown option for new tokens 'x'"),
        ({"frozen": ("lm",)}, "unknown part 'lm'"),
    ):
        parts: Any = {"language": language, "vision": Features(6), "resampler": resampler, "gated": gated}
        with pytest.raises(InputError, match=message):
            Flamingo(**{**parts, **changed})


def test_a_video_is_a_medium_of_frames(backend: str) -> None:
    """The frames' order matters with time embeddings, and not without; an image is a video of one frame."""
    ids = on(backend, np.array([[IMAGE, 10]]))
    frames = normal(0, 1, 1, 3, 4, 4, 2)
    for times, moved in ((4, True), (None, False)):
        model = tiny.flamingo(images=True, frames=times)
        params = tiny.parameters(model, backend)
        ours, turned = (host(model.apply(params, ids, on(backend, f.copy()))) for f in (frames, frames[:, :, ::-1]))
        assert (np.abs(ours - turned).max() > 1e-3) == moved
        if not moved:
            assert_close(turned, ours)
        image = model.apply(params, ids, on(backend, frames[:, :, 0].copy()))
        assert_close(image, host(model.apply(params, ids, on(backend, frames[:, :, :1].copy()))), tolerance=0)


def test_a_prompt_and_its_text_alone(backend: str) -> None:
    prompt = interleave([Chunk("ab", tiny.features(0)), Chunk("c")])
    alone = without_media(prompt)
    assert alone.ids.tolist() == [token for token in prompt.ids if token != IMAGE]
    model = tiny.flamingo()
    params = tiny.parameters(model, backend)
    expected = model.language.apply(params["frozen"]["language"], on(backend, alone.ids[None]))
    assert_close(tiny.run(model, params, tiny.batch(alone), backend), expected, tolerance=0)
