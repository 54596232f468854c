"""Generation: cached as uncached, alone as in a batch, greedy as by hand, reproducible, and where it stops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from flamingo import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from support import host, on

from perceiver_ref import InputError
from perceiver_ref.models.flamingo import generation
from perceiver_ref.models.flamingo.generation import generate
from perceiver_ref.models.flamingo.model import Flamingo
from perceiver_ref.models.flamingo.prompts import EOC, IMAGE, PAD, Prompt, marked
from perceiver_ref.models.inputs.bytes import EOS

several = st.lists(tiny.prompts(most=3), min_size=1, max_size=3)
NO_STOP: tuple[int, ...] = ()


def spread(backend: str, **options: Any) -> tuple[Flamingo, Any]:
    """A model whose likeliest tokens vary: with a tied table, text would mostly repeat itself."""
    model = tiny.flamingo(logits="untied", **options)
    return model, tiny.parameters(model, backend)


def lists(rows: Sequence[np.ndarray]) -> list[list[int]]:
    return [row.tolist() for row in rows]


def by_hand(model: Flamingo, params: Any, prompt: Prompt, most: int, backend: str) -> list[int]:
    """Greedy: the whole model again for each token, of one prompt."""
    made: list[int] = []
    for _ in range(most):
        longer = Prompt(np.append(prompt.ids, made).astype(np.int64), prompt.media)
        logits = host(tiny.run(model, params, tiny.batch(longer), backend))[0, -1]
        made.append(int(np.argmax([-np.inf if t in (IMAGE, PAD) else v for t, v in enumerate(logits)])))
    return made


@settings(max_examples=20)
@given(prompts=several, most=st.integers(0, 5), sampled=st.booleans())
def test_cached_is_uncached(backend: str, prompts: list[Prompt], most: int, sampled: bool) -> None:
    """The same tokens: logits agree to 1e-10 (test_model), and random ones have no two that near each other."""
    model, params = spread(backend)
    options: Any = {"most": most, "stop": NO_STOP, "seed": 3, "temperature": 0.8 if sampled else 0.0, "top_p": 0.9}
    cached, uncached = (generate(model, params, prompts, cached=c, **options) for c in (True, False))
    assert lists(cached) == lists(uncached)
    assert all(len(row) == most for row in cached)


@settings(max_examples=10)
@given(prompts=several)
def test_greedy_is_what_the_whole_model_finds_likeliest(backend: str, prompts: list[Prompt]) -> None:
    model, params = spread(backend)
    expected = [by_hand(model, params, prompt, 3, backend) for prompt in prompts]
    assert lists(generate(model, params, prompts, most=3, stop=NO_STOP)) == expected


@settings(max_examples=10)
@given(prompts=several, seed=st.integers(0, 99))
def test_a_prompt_goes_on_as_if_alone(backend: str, prompts: list[Prompt], seed: int) -> None:
    """The first one: what is drawn depends on its place in the batch, not on the others."""
    model, params = spread(backend)
    options: Any = {"most": 4, "temperature": 1.0, "seed": seed, "stop": NO_STOP}
    together = generate(model, params, prompts, **options)
    alone = generate(model, params, prompts[:1], **options)
    assert lists(together)[0] == lists(alone)[0]


def test_a_seed_repeats_and_another_does_not(backend: str) -> None:
    model, params = spread(backend)
    prompts = [marked("<BOS>a<image>", [tiny.features(0)])] * 2
    first, again, other = (
        lists(generate(model, params, prompts, most=12, temperature=1.5, seed=seed, stop=NO_STOP)) for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other
    assert first[0] != first[1]  # equal prompts are sampled independently


def test_a_prompt_ends_with_its_first_stop_token(backend: str) -> None:
    """And the others go on as if it had not."""
    model, params = spread(backend)
    prompts = [marked("<BOS>a"), marked("<BOS>abc<image>b", [tiny.features(0)])]
    free = lists(generate(model, params, prompts, most=8, temperature=2.0, seed=5, stop=NO_STOP))
    stop = free[0][2]
    stopped = lists(generate(model, params, prompts, most=8, temperature=2.0, seed=5, stop=[stop]))
    assert stopped[0] == free[0][: free[0].index(stop) + 1]
    assert stopped[1] == (free[1] if stop not in free[1] else free[1][: free[1].index(stop) + 1])


def certain(model: Flamingo, backend: str, token: int, second: int) -> Any:
    """Parameters with which `token` is always the likeliest, and `second` after it."""
    params = host(tiny.parameters(model, backend))
    bias = params["frozen"]["language"]["output"]["bias"]
    bias[:] = 0
    bias[token], bias[second] = 2e6, 1e6
    return on(backend, params)


@pytest.mark.parametrize("token", [EOC, EOS])
def test_the_end_of_a_chunk_or_of_the_text_stops(backend: str, token: int) -> None:
    model = tiny.flamingo(logits="untied")
    params = certain(model, backend, token, 9)
    assert lists(generate(model, params, [marked("<BOS>a")], most=5)) == [[token]]


@pytest.mark.parametrize("token", [IMAGE, PAD])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_tags_and_padding_are_never_generated(backend: str, token: int, temperature: float) -> None:
    model = tiny.flamingo(logits="untied")
    params = certain(model, backend, token, 9)
    assert lists(generate(model, params, [marked("<BOS>a")], most=3, temperature=temperature)) == [[9, 9, 9]]


def test_media_of_any_number_and_length_in_one_batch(backend: str) -> None:
    model, params = spread(backend)
    prompts = [
        marked("<BOS>a"),
        marked("<BOS><image>a<image>bcd", [tiny.features(0, 3), tiny.features(1)]),
        marked("<BOS><image>", [tiny.features(2, 2)]),
    ]
    expected = [by_hand(model, params, prompt, 4, backend) for prompt in prompts]
    assert lists(generate(model, params, prompts, most=4, stop=NO_STOP)) == expected
    assert len({tuple(row) for row in expected}) == 3  # they do differ


def test_the_cache_does_spare_work(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Media are encoded once, and after the prompt each step computes one token."""
    model, params = spread(backend)
    widths: list[int] = []
    encoded = []
    extend, encode = Flamingo.extend, Flamingo.encode

    def counted(self: Flamingo, params: Any, ids: Any, *rest: Any, **options: Any) -> Any:
        widths.append(ids.shape[1])
        return extend(self, params, ids, *rest, **options)

    monkeypatch.setattr(Flamingo, "extend", counted)
    monkeypatch.setattr(Flamingo, "encode", lambda *a, **k: encoded.append(1) or encode(*a, **k))
    generate(model, params, [marked("<BOS>abc<image>", [tiny.features(0)])], most=4, stop=NO_STOP)
    assert widths == [5, 1, 1, 1]
    assert len(encoded) == 1


def test_what_is_refused(backend: str) -> None:
    model, params = spread(backend, length=8)
    prompt = marked("<BOS>abcd")
    assert len(generate(model, params, [prompt], most=3, stop=NO_STOP)[0]) == 3
    for prompts, options, message in (
        ([prompt], {"most": 4}, "a prompt of 5 tokens and 4 new ones exceed the model's length, 8"),
        ([prompt], {"most": -1}, "the number of new tokens must be at least 0, got -1"),
        ([], {"most": 1}, "at least one prompt"),
        ([prompt, marked("")], {"most": 1}, "a prompt has no token to continue: begin it with <BOS>"),
        ([prompt], {"most": 1, "temperature": -1.0}, "temperature must be finite and at least 0"),
        ([prompt], {"most": 1, "temperature": 1.0, "top_p": 0.0}, "top_p must be in"),
        ([marked("<image>", [np.zeros(3)])], {"most": 1}, "a medium must have 2 axes"),
    ):
        with pytest.raises(InputError, match=message):
            generate(model, params, prompts, **options)
    assert generation.STOP == (EOC, EOS)
