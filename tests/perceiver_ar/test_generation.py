"""Generation: the same tokens with and without keys and values kept, and those that the logits say."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from perceiver_ar import small
from perceiver_ar.small import LENGTH, VOCABULARY
from perceiver_ar.test_model import FIXED
from support import host, on, random_parameters

from perceiver_ref.errors import InputError
from perceiver_ref.models.perceiver_ar import PerceiverAR, generate
from perceiver_ref.models.sampling import sample

PROMPTS = np.array([[3, 1, 4, 1], [5, 9, 2, 6]])


def made(backend: str, model: PerceiverAR = FIXED, ids: np.ndarray = PROMPTS, **options: Any) -> np.ndarray:
    if "mask" in options:
        options["mask"] = on(backend, options["mask"])
    return host(generate(model, on(backend, random_parameters(model)), on(backend, ids), **options))


@given(data=st.data(), model=small.models(), sampled=st.booleans())
def test_kept_keys_and_values_change_nothing(
    backend: str, data: st.DataObject, model: PerceiverAR, sampled: bool
) -> None:
    """Over several windows: up to 14 tokens by models of at most 9."""
    ids, _, mask = data.draw(small.calls(model))
    latents = data.draw(st.integers(1, model.latents))
    options = {"most": data.draw(st.integers(0, 6)), "latents": latents, "temperature": float(sampled), "top_p": 0.9}
    cached, whole = (made(backend, model, ids, mask=mask, cached=cached, **options) for cached in (True, False))
    assert np.array_equal(cached, whole)
    assert cached.shape == (2, ids.shape[1] + options["most"])
    assert np.array_equal(cached[:, : ids.shape[1]], ids)


def test_every_token_is_the_likeliest_after_its_window(backend: str) -> None:
    """Latents run out at 5, the length at 9: the windows are written out here."""
    p, ids = on(backend, random_parameters(FIXED)), PROMPTS
    # (start, prefix) for 4 to 13 tokens, with 2 latents at every start: 2 more use up the latents; after 9 tokens
    # the window keeps 9 - 5 + 2 = 6
    windows = [(0, 2), (0, 2), (0, 2), (0, 2), (0, 6), (0, 6), (4, 4), (4, 4), (4, 4), (7, 4)]
    for start, prefix in windows:
        window = on(backend, ids[:, start:])
        logits = host(FIXED.apply(p, window, prefix=prefix))
        ids = np.concatenate([ids, logits[:, -1].argmax(-1)[:, None]], 1)
    assert np.array_equal(made(backend, most=len(windows), latents=2), ids)


def test_sampling_draws_from_a_stream_of_each_prompt(backend: str) -> None:
    both = made(backend, most=3, temperature=1.3, top_p=0.8, seed=5)
    p = on(backend, random_parameters(FIXED))
    logits = host(FIXED.apply(p, on(backend, PROMPTS), prefix=3))[:, -1]
    first = [sample(row, np.random.default_rng([5, b]), temperature=1.3, top_p=0.8) for b, row in enumerate(logits)]
    assert np.array_equal(both[:, 4], np.array(first))
    assert np.array_equal(both[:1], made(backend, ids=PROMPTS[:1], most=3, temperature=1.3, top_p=0.8, seed=5))
    others = [made(backend, most=3, temperature=1.3, seed=seed) for seed in range(5)]
    assert len({other.tobytes() for other in others}) > 1


def test_prompts_of_unequal_lengths_are_padded_on_the_left(backend: str) -> None:
    ids = np.array([[3, 1, 4, 1], [0, 0, 2, 6]])
    mask = np.array([[True] * 4, [False, False, True, True]])
    padded = made(backend, ids=ids, mask=mask, most=4)
    assert np.array_equal(padded[1:, 2:], made(backend, ids=ids[1:, 2:], most=4))


def test_a_stopped_sequence_is_filled_up_and_all_stopped_end(backend: str) -> None:
    free = made(backend, most=5)
    stop = int(free[0, 5])
    stopped = made(backend, most=5, stop=stop)
    first = {row: next((i for i in range(4, 9) if free[row, i] == stop), None) for row in range(2)}
    for row, end in first.items():
        end = stopped.shape[1] - 1 if end is None else end
        assert np.array_equal(stopped[row, : end + 1], free[row, : end + 1])
        assert (stopped[row, end + 1 :] == stop).all()
    if None not in first.values():
        assert stopped.shape[1] == max(first.values()) + 1
    alone = made(backend, ids=PROMPTS[:1], most=5, stop=stop)
    assert alone.shape[1] == first[0] + 1


def test_the_dtype_of_the_prompt_stays(backend: str) -> None:
    assert made(backend, ids=PROMPTS.astype(np.int32), most=2).dtype == np.int32
    assert np.array_equal(made(backend, most=0), PROMPTS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"most": -1}, "most from 0; got most -1"),
        ({"most": 1, "ids": np.zeros((1, 0), int)}, "a prompt of at least one token"),
        ({"most": 1, "ids": np.full((1, 2), VOCABULARY)}, f"must be in [0, {VOCABULARY})"),
        ({"most": 1, "latents": 0}, "at most the model's 5, got 0"),
        ({"most": 1, "latents": 6}, "at most the model's 5, got 6"),
        ({"most": 1, "stop": VOCABULARY}, "stop must be a token in"),
        ({"most": 1, "temperature": -1.0}, "temperature must be finite and at least 0"),
        ({"most": 1, "top_p": 0.0}, "top_p must be in (0, 1]"),
        ({"most": 1, "mask": np.ones((2, 3), bool)}, "mask must be bool of shape (2, 4)"),
    ],
)
def test_what_cannot_be_generated_is_an_input_error(backend: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        made(backend, **options)


def test_a_prompt_longer_than_the_model_is_continued_from_its_end(backend: str) -> None:
    long = np.arange(14)[None] % VOCABULARY
    assert np.array_equal(
        made(backend, ids=long, most=1)[:, -1], made(backend, ids=long[:, -(LENGTH - 4) :], most=1)[:, -1]
    )
