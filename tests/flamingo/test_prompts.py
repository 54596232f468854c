"""Prompts: tags and text, few-shot prompts, batches with different numbers of media, and what is learned from them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from flamingo import tiny
from hypothesis import example, given
from hypothesis import strategies as st
from support import assert_close, host, normal, on

from perceiver_ref import InputError
from perceiver_ref.autograd import value_and_grad
from perceiver_ref.models.flamingo import prompts
from perceiver_ref.models.flamingo.prompts import (
    EOC,
    IGNORED,
    IMAGE,
    SPECIAL,
    VOCABULARY,
    Chunk,
    Prompt,
    collate,
    few_shot,
    interleave,
    marked,
    targets,
    text_loss,
)
from perceiver_ref.models.inputs import bytes as byte_tokens

IMAGES = [normal(seed, 4, 4, 3) for seed in range(4)]
words = st.text(max_size=6)
media = st.none() | st.integers(0, 3).map(IMAGES.__getitem__)
chunks = st.lists(st.tuples(words, media), min_size=1, max_size=4)
without_tags = chunks.filter(lambda made: not any(tag in text for tag in SPECIAL for text, _ in made))


def shown(prompt: Prompt) -> str:
    return prompts.decode(prompt.ids, tags=True)


def test_special_tokens_are_beside_the_bytes() -> None:
    """The byte tokenizer's six are where it has them; Flamingo's two follow its vocabulary; none is a byte."""
    assert sorted(SPECIAL.values()) == [*range(6), 262, 263]
    assert (IMAGE, EOC, VOCABULARY) == (262, 263, 264)
    assert not set(SPECIAL.values()) & set(byte_tokens.encode(bytes(range(256))).tolist())


@given(text=st.lists(words | st.sampled_from(sorted(SPECIAL))).map("".join))
@example(text="<<image>><EOC")
@example(text="é<image>\U0001f9a9")
def test_text_with_tags_comes_back(text: str) -> None:
    ids = prompts.encode(text)
    assert prompts.decode(ids, tags=True) == text
    pieces = [text]
    for tag in SPECIAL:
        assert (ids == SPECIAL[tag]).sum() == text.count(tag)
        pieces = [part for piece in pieces for part in piece.split(tag)]
    assert prompts.decode(ids) == "".join(pieces)


def test_bytes_that_are_no_text_are_replaced() -> None:
    assert prompts.decode(np.array([0xFF + 6, IMAGE, ord("a") + 6])) == "�a"
    for wrong in (np.array([VOCABULARY]), np.array([-1]), np.array([[6]])):
        with pytest.raises(InputError, match="one sequence of token ids in"):
            prompts.decode(wrong)


def test_the_papers_figure_7() -> None:
    """Text before media ends in <EOC>; every medium is followed by its text and <EOC>."""
    prompt = interleave([Chunk("Cute pics!"), Chunk("My puppy.", IMAGES[0]), Chunk("My cat.", IMAGES[1])])
    assert shown(prompt) == "<BOS>Cute pics!<EOC><image>My puppy.<EOC><image>My cat.<EOC>"
    assert [m is i for m, i in zip(prompt.media, IMAGES)] == [True, True]
    assert prompts.decode(prompt.ids) == "Cute pics!My puppy.My cat."


@given(chunks=without_tags, complete=st.booleans())
def test_chunks_and_tags_are_the_same(chunks: list[Any], complete: bool) -> None:
    prompt = interleave(chunks, complete=complete)
    text = "<BOS>" + "".join(("<image>" if m is not None else "") + t + "<EOC>" for t, m in chunks)
    expected = marked(text if complete else text[: -len("<EOC>")], [m for _, m in chunks if m is not None])
    assert prompt.ids.dtype == np.int64
    assert prompt.ids.tolist() == expected.ids.tolist()
    assert prompt.locations.sum() == len(prompt.media) == len(expected.media)
    assert all(a is b for a, b in zip(prompt.media, expected.media))


def test_a_tag_spelled_out_in_a_chunk_is_text() -> None:
    prompt = interleave([Chunk("the <image> tag", IMAGES[0])])
    assert prompt.locations.sum() == 1
    assert prompts.decode(prompt.ids) == "the <image> tag"


def test_the_papers_figure_8() -> None:
    examples = [(IMAGES[0], "a cat"), (IMAGES[1], "a dog")]
    prompt = few_shot(examples, IMAGES[2])
    assert shown(prompt) == "<BOS><image>Output: a cat<EOC><image>Output: a dog<EOC><image>Output: "
    assert all(a is b for a, b in zip(prompt.media, IMAGES[:3]))
    assert learned(prompt) == "a cat<EOC>a dog<EOC>"
    closed = few_shot(
        examples, IMAGES[2], instruction="Describe.", lead="Question: what? Answer: ", answer="a flamingo"
    )
    lead = "<image>Question: what? Answer: "
    assert shown(closed) == f"<BOS>Describe.<EOC>{lead}a cat<EOC>{lead}a dog<EOC>{lead}a flamingo<EOC>"
    assert learned(closed) == "a cat<EOC>a dog<EOC>a flamingo<EOC>"
    blind = few_shot(examples, IMAGES[2], show=False)
    assert shown(blind) == "<BOS>Output: a cat<EOC>Output: a dog<EOC><image>Output: "
    assert len(blind.media) == 1


def learned(prompt: Prompt) -> str:
    return prompts.decode(prompt.ids[prompt.answers], tags=True)


@given(rows=st.lists(chunks, min_size=1, max_size=3))
def test_a_batch_holds_every_prompt_and_nothing_else(rows: list[Any]) -> None:
    made = [interleave(row) for row in rows]
    batch = collate(made, frame_axes=3)
    assert batch.ids.shape == batch.mask.shape == (len(rows), max(len(p.ids) for p in made))
    assert (batch.ids[~batch.mask] == byte_tokens.PAD).all()
    most = max(len(p.media) for p in made)
    assert (batch.media is None) == (most == 0)
    assert batch.frames is None
    for b, prompt in enumerate(made):
        assert batch.ids[b][batch.mask[b]].tolist() == prompt.ids.tolist()
        if batch.media is not None:
            assert batch.media.shape[1:] == (most, 1, 4, 4, 3)
            expected = [*prompt.media, *[np.zeros((4, 4, 3))] * (most - len(prompt.media))]
            assert_close(batch.media[b, :, 0], np.stack(expected), tolerance=0)


def test_media_of_different_lengths_say_which_frames_are_real() -> None:
    video = normal(0, 3, 4, 4, 3)
    both = [marked("<image><image>", [IMAGES[0], video]), marked("<image>", [video[:2]])]
    batch = collate(both, frame_axes=3)
    assert batch.media.shape == (2, 2, 3, 4, 4, 3)
    assert batch.frames.tolist() == [[[True, False, False], [True] * 3], [[True, True, False], [False] * 3]]
    assert_close(batch.media[0, 1], video, tolerance=0)
    assert (batch.media[~batch.frames] == 0).all()
    assert collate([marked("<image>", [video])], frame_axes=3).frames is None


def test_dtypes_of_media_stay() -> None:
    batch = collate([marked("<image>", [IMAGES[0].astype(np.float32)])], frame_axes=3)
    assert batch.media.dtype == np.float32


def test_targets_are_the_next_bytes_and_ends_of_chunks() -> None:
    batch = collate([marked("<BOS>a<EOC><image>bc<EOC>", IMAGES[:1]), marked("d")], frame_axes=3)
    a, b, c = (byte_tokens.encode(text)[0] for text in "abc")
    assert targets(batch).tolist() == [[a, EOC, IGNORED, b, c, EOC, IGNORED], [IGNORED] * 7]


def test_targets_of_answers_alone() -> None:
    prompt = few_shot([(IMAGES[0], "a")], IMAGES[1], lead="?", answer="b", instruction="say")
    batch = collate([prompt, marked("xy")], frame_axes=3)
    following = targets(batch, answers_only=True)
    for row, text in zip(following, ("a<EOC>b<EOC>", "y")):
        assert prompts.decode(row[row != IGNORED], tags=True) == text
    every = targets(batch)[0]
    assert prompts.decode(every[every != IGNORED], tags=True) == "say<EOC>?a<EOC>?b<EOC>"
    # what is learned at a position is the token after it
    at = np.flatnonzero(following[0] != IGNORED)
    assert following[0, at].tolist() == prompt.ids[at + 1].tolist()


@given(rows=st.lists(chunks, min_size=1, max_size=3))
def test_the_loss_is_the_mean_over_text(backend: str, rows: list[Any]) -> None:
    """By a loop over tokens; nothing comes from image tags and padding, forward or backward."""
    batch = collate([interleave(row) for row in rows], frame_axes=3)
    logits = normal(0, *batch.ids.shape, VOCABULARY)
    total, count = 0.0, 0
    wanted = np.zeros(batch.ids.shape, bool)
    for b, i in np.ndindex(batch.ids.shape[0], batch.ids.shape[1] - 1):
        if batch.mask[b, i + 1] and batch.ids[b, i + 1] != IMAGE:
            total += np.log(np.exp(logits[b, i]).sum()) - logits[b, i, batch.ids[b, i + 1]]
            count += 1
            wanted[b, i] = True
    following = on(backend, targets(batch))
    loss, gradient = value_and_grad(lambda x: text_loss(x, following))(on(backend, logits))
    assert_close(np.asarray(host(loss)), np.asarray(total / count))
    assert ((host(gradient) != 0).any(-1) == wanted).all()


def test_what_is_refused() -> None:
    for text, given_media, message in (
        ("<image>a<image>", IMAGES[:1], "the text has 2 image tags, but there are 1 media"),
        ("<image>a", IMAGES[:2], "the text has 1 image tags, but there are 2 media"),
        ("a", IMAGES[:1], "the text has 0 image tags, but there are 1 media"),
    ):
        with pytest.raises(InputError, match=message):
            marked(text, given_media)
    for medium, message in (
        (IMAGES[0][0], r"a medium must have 3 axes, or 4 with frames, got \(4, 3\)"),
        (IMAGES[0][None, None], r"a medium must have 3 axes, or 4 with frames, got \(1, 1, 4, 4, 3\)"),
        (IMAGES[0][None][:0], r"a medium has no frames: \(0, 4, 4, 3\)"),
    ):
        with pytest.raises(InputError, match=message):
            collate([marked("<image>", [medium])], frame_axes=3)
    with pytest.raises(InputError, match="the media of a batch must have frames of one shape"):
        collate([marked("<image><image>", [IMAGES[0], IMAGES[0][:2]])], frame_axes=3)
    with pytest.raises(InputError, match="a few-shot prompt needs at least one example"):
        few_shot([], IMAGES[0])
    with pytest.raises(InputError, match="at least one chunk"):
        interleave([])
    with pytest.raises(InputError, match="at least one prompt"):
        collate([], frame_axes=3)
    for nothing in (marked("a"), marked("<image>", IMAGES[:1]), few_shot([(IMAGES[0], "a")], IMAGES[1])):
        batch = collate([nothing], frame_axes=3)
        if nothing.answers is not None:
            batch = batch._replace(answers=np.zeros_like(batch.answers))
        with pytest.raises(InputError, match="the batch holds no token to predict"):
            targets(batch, answers_only=True)
    with pytest.raises(InputError, match=r"the ids of a prompt must be integers \(L,\), got float64 of \(2,\)"):
        Prompt(np.zeros(2))
    with pytest.raises(InputError, match=r"the answers of a prompt must be bool of shape \(2,\), got bool of \(3,\)"):
        Prompt(np.zeros(2, int), (), np.zeros(3, bool))


def test_features_are_media_too() -> None:
    batch = tiny.batch(marked("<image>a", [tiny.features(0, 2)]))
    assert batch.media.shape == (1, 1, 2, tiny.S, tiny.C)
