"""Perceiver AR: nothing sees what comes later, padding is as if it were not there, a sequence can be continued."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models.test_gradients import weighted_sum
from perceiver_ar import small
from perceiver_ar.small import LENGTH, VOCABULARY
from support import assert_close, difference, host, normal, on, random_parameters

import perceiver_ref as pr
from perceiver_ref.autograd import ops, tree, value_and_grad
from perceiver_ref.autograd.observing import observe
from perceiver_ref.autograd.testing import check_grads
from perceiver_ref.autograd.tree import Tree
from perceiver_ref.errors import InputError
from perceiver_ref.models.conventions import AUTOREGRESSIVE_DIALECTS
from perceiver_ref.models.perceiver_ar import PerceiverAR
from perceiver_ref.models.perceiver_ar.model import Course
from perceiver_ref.models.rotary import Rotary, frequencies

FIXED = PerceiverAR(
    VOCABULARY,
    LENGTH,
    latents=5,
    channels=8,
    layers=2,
    cross_heads=2,
    self_heads=2,
    position_table=True,
    cross_rotary=Rotary(frequencies(2)),
    self_rotary=Rotary(frequencies(4)),
)


def run(backend: str, model: PerceiverAR, ids: np.ndarray, prefix: int, mask: np.ndarray | None = None) -> np.ndarray:
    p = on(backend, random_parameters(model))
    return host(model.apply(p, on(backend, ids), prefix=prefix, mask=None if mask is None else on(backend, mask)))


@given(data=st.data(), model=small.models())
def test_logits_depend_on_no_later_token(backend: str, data: st.DataObject, model: PerceiverAR) -> None:
    ids, prefix, mask = data.draw(small.calls(model))
    last = data.draw(st.integers(prefix, ids.shape[1] - 1))
    changed = ids.copy()
    changed[:, last + 1 :] = (changed[:, last + 1 :] + 1) % VOCABULARY
    real = mask[:, prefix : last + 1]  # logits of padding mean nothing
    before, after = (run(backend, model, x, prefix, mask)[:, : last + 1 - prefix] for x in (ids, changed))
    assert np.array_equal(before[real], after[real])


@given(data=st.data(), model=small.models(tied=False, table=True))
def test_no_later_token_or_padding_gets_a_gradient(backend: str, data: st.DataObject, model: PerceiverAR) -> None:
    """Every token and every position occurs once, so rows of the tables have their gradients."""
    total = data.draw(st.integers(1, LENGTH))
    prefix = data.draw(st.integers(max(total - model.latents, 0), total - 1))
    last = data.draw(st.integers(prefix, total - 1))
    pads = data.draw(st.integers(0, last))
    ids = np.array([data.draw(st.permutations(range(VOCABULARY)))[:total]])
    mask = np.arange(total)[None] >= pads
    places, keep = on(backend, ids), on(backend, mask)

    def loss(p: Any) -> Any:
        logits = model.apply(p, places, prefix=prefix, mask=keep)
        first = max(pads - prefix, 0)
        return weighted_sum(logits[:, first : last + 1 - prefix])

    _, gradients = value_and_grad(loss)(on(backend, random_parameters(model)))
    gradients = host(gradients)
    hidden = [*range(pads), *range(last + 1, total)]
    assert not gradients["embedding"][ids[0, hidden]].any()
    assert not gradients["positions"][[j - pads for j in range(last + 1, total)]].any()
    if model.query_residual or not model.cross_attends:
        assert gradients["embedding"][ids[0, last]].any()  # it could be seen


@given(data=st.data(), model=small.models())
def test_padding_on_the_left_is_as_if_it_were_not_there(backend: str, data: st.DataObject, model: PerceiverAR) -> None:
    ids, prefix, mask = data.draw(small.calls(model))
    pads = int((~mask[1]).sum())
    padded = run(backend, model, ids, prefix, mask)[1, max(pads - prefix, 0) :]
    alone = run(backend, model, ids[1:, pads:], max(prefix - pads, 0))[0]
    assert_close(padded, alone)
    other = np.where(mask, ids, (ids + 1) % VOCABULARY)
    again = run(backend, model, other, prefix, mask)[1, max(pads - prefix, 0) :]
    assert np.array_equal(again, padded)


@given(data=st.data(), model=small.models())
def test_a_continued_sequence_equals_the_whole(backend: str, data: st.DataObject, model: PerceiverAR) -> None:
    ids, prefix, mask = data.draw(small.calls(model))
    total = ids.shape[1]
    cuts = sorted(data.draw(st.sets(st.integers(prefix + 1, total))) | {total})
    p, memory, start, parts = on(backend, random_parameters(model)), None, 0, []
    for cut in cuts:
        new, real = on(backend, [ids[:, start:cut], mask[:, start:cut]])
        logits, memory = model.extend(p, new, memory, prefix=prefix, mask=real)
        parts.append(host(logits))
        start = cut
    whole = run(backend, model, ids, prefix, mask)
    real = mask[:, prefix:]
    assert_close(np.concatenate(parts, 1)[real], whole[real])
    assert memory is not None
    assert np.array_equal(host(memory.mask), mask)


@given(data=st.data(), model=small.models(), shift=st.integers(-1000, 1000))
def test_only_distances_count_in_the_layers(backend: str, data: st.DataObject, model: PerceiverAR, shift: int) -> None:
    model = replace(model, own_keys="inputs")
    total = data.draw(st.integers(1, LENGTH))
    start = data.draw(st.integers(0, total - 1))
    inputs, queries = normal(1, 1, total, model.channels), normal(2, 1, total - start, model.width)
    p, x, z = on(backend, [random_parameters(model), inputs, queries])
    place, causal = np.arange(total)[None], np.tri(total, dtype=bool)[None, start:]

    def latents(by: int) -> np.ndarray:
        keys, own, mask = on(backend, [place + by, place[:, start:] + by, causal])
        return host(model.process(p, z, Course(x, keys, own, mask, mask[:, :, start:]))[0])

    assert difference(latents(shift), latents(0)) < 1e-10  # angles near 1000 are rounded by 1e-13, in every layer


@pytest.mark.parametrize("dialect", sorted(AUTOREGRESSIVE_DIALECTS))
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"own_keys": "queries", "query_map": False, "tied": True, "masked_latents": False, "self_output_bias": False},
        {"cross_attends": (0, 2), "latent_channels": 4, "attend_in": "q", "self_rotary": Rotary(frequencies(2))},
        {"cross_attends": (1,), "query_residual": False, "final_norm": False, "rotary_layers": 1},
    ],
)
def test_gradients(backend: str, dialect: str, options: dict[str, Any]) -> None:
    """Fixed sizes: norms of two channels bend too much for differences."""
    model = replace(FIXED, conventions=AUTOREGRESSIVE_DIALECTS[dialect], **options)
    ids = on(backend, np.array([[3, 1, 4, 1, 5, 9], [0, 0, 0, 6, 5, 3]]))
    mask = on(backend, np.array([[True] * 6, [False] * 3 + [True] * 3]))
    p = on(backend, random_parameters(model))
    check_grads(lambda p: model.apply(p, ids, prefix=2, mask=mask), p, directions=1)


def test_gradients_flow_through_the_memory(backend: str) -> None:
    ids = on(backend, np.arange(7)[None] % VOCABULARY)
    p = on(backend, random_parameters(FIXED))

    def continued(p: Any) -> Any:
        _, memory = FIXED.extend(p, ids[:, :4], prefix=2)
        return FIXED.extend(p, ids[:, 4:], memory)[0]

    (_, whole), (_, parts) = (
        value_and_grad(lambda p, apply=apply: weighted_sum(apply(p)))(p)
        for apply in (lambda p: FIXED.apply(p, ids, prefix=2)[:, 2:], continued)
    )
    assert_close(host(parts), host(whole))


@settings(max_examples=15)
@given(data=st.data(), model=small.models(), continued=st.booleans())
def test_layers_computed_again_give_the_same_and_keep_less(
    backend: str, data: st.DataObject, model: PerceiverAR, continued: bool
) -> None:
    """Also where a sequence is continued, through the keys and values that are kept of it."""
    ids, prefix, mask = data.draw(small.calls(model))
    cut = data.draw(st.integers(prefix, ids.shape[1] - 1)) if continued else 0
    found = []
    for recompute in (False, True):
        kept: list[int] = []
        chosen = replace(model, recompute=recompute)

        def loss(p: Tree, chosen: PerceiverAR = chosen, kept: list[int] = kept) -> Any:
            with observe(lambda e: kept.append(sum(map(_size, e.node.residuals))) if e.node else None):
                parts, memory = [], None
                for start, stop in [(0, cut), (cut, None)] if cut > prefix else [(0, None)]:
                    now, seen = on(backend, ids[:, start:stop]), on(backend, mask[:, start:stop])
                    made, memory = chosen.extend(p, now, memory, prefix=prefix, mask=seen)
                    parts.append(weighted_sum(made))
            return parts[0] if len(parts) == 1 else ops.add(*parts)

        value, gradients = value_and_grad(loss)(on(backend, random_parameters(model)))
        found.append(({"loss": value, **tree.flatten(gradients)}, sum(kept)))
    (once, more), (again, less) = found
    for path, gradient in once.items():
        a, b = host(gradient), host(again[path])
        # what layers compute has the same bits; a parameter of several uses has its gradients added in another order
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-14 * max(np.abs(b).max(initial=0), 1), err_msg=path)
    assert less < more or not (model.layers or model.cross_attends)


def _size(residual: Any) -> int:
    return int(getattr(residual, "size", 0))


@pytest.mark.parametrize("dialect", sorted(AUTOREGRESSIVE_DIALECTS))
def test_float32_stays_float32(backend: str, dialect: str) -> None:
    model = replace(FIXED, conventions=AUTOREGRESSIVE_DIALECTS[dialect])
    ids = on(backend, np.arange(6)[None] % VOCABULARY)
    p = random_parameters(model)
    single, memory = model.extend(on(backend, p, np.float32), ids, prefix=2)
    assert single.dtype == np.float32
    assert {kept.dtype for layer in (*memory.inputs, *memory.latents) for kept in layer} == {np.dtype(np.float32)}
    # some hundred float32 roundings of 6e-8 in each of the three layers
    assert_close(host(single).astype(float), run(backend, model, host(ids), 2), 1e-5)


def test_padding_among_latents_leaks_where_it_is_not_masked(backend: str) -> None:
    """`masked_latents=False`, as two public implementations have it."""
    ids, mask = np.arange(6)[None], np.array([[False] * 3 + [True] * 3])
    other = np.where(mask, ids, ids + 5)
    for masked in (True, False):
        model = replace(FIXED, masked_latents=masked)
        a, b = (run(backend, model, x, 2, mask)[0, 1:] for x in (ids, other))
        assert np.array_equal(a, b) == masked


def test_own_keys_have_the_norm_that_they_are_asked_to(backend: str) -> None:
    """Without a prefix there are only own keys, so the other norm gets no gradient."""
    ids, model = on(backend, np.arange(5)[None]), replace(FIXED, own_keys="queries")
    p = on(backend, random_parameters(model))
    for prefix in (0, 2):
        _, gradients = value_and_grad(lambda p, prefix=prefix: weighted_sum(model.apply(p, ids, prefix=prefix)))(p)
        norms = host(gradients["cross_attentions"][0])
        assert norms["query_norm"]["scale"].any()
        assert norms["key_value_norm"]["scale"].any() == (prefix > 0)


def test_rotary_turns_only_the_layers_asked_for(backend: str) -> None:
    far = replace(FIXED, self_rotary=Rotary((0.5, 0.7)), cross_rotary=None, position_table=False)
    ids = np.arange(6)[None]
    results = [run(backend, replace(far, rotary_layers=n), ids, 1) for n in (0, 1, 2, None)]
    assert np.array_equal(results[2], results[3])
    assert not any(np.allclose(results[i], results[i + 1]) for i in range(2))
    assert np.array_equal(results[0], run(backend, replace(far, self_rotary=None), ids, 1))


def test_points_are_named_by_part(backend: str) -> None:
    model = replace(FIXED, cross_attends=(0, 2))
    with pr.trace() as traced:
        logits = run(backend, model, np.arange(6)[None], 2)
    shapes = {name: value.shape for name, value in traced.items()}
    assert shapes["input"] == (1, 6, 8)
    assert shapes["latents"] == shapes["cross_attention.1"] == shapes["layers.1"] == shapes["final"] == (1, 4, 8)
    assert shapes["cross_attention.0.attention.weights"] == (1, 2, 4, 6)
    assert shapes["layers.0.attention.weights"] == (1, 2, 4, 4)
    assert np.array_equal(host(traced["logits"]), logits)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cross_heads": 3}, "latents of 8 channels cannot be split among 3 heads"),
        ({"self_heads": 0}, "cannot be split among 0 heads"),
        ({"latents": 10}, "latents (10) must be at least 1 and at most length (9)"),
        ({"latents": 0}, "latents (0) must be at least 1"),
        ({"cross_attends": (1, 0)}, "increasing numbers from 0 to layers (2): (1, 0)"),
        ({"cross_attends": (3,)}, "increasing numbers from 0 to layers (2): (3,)"),
        ({"latent_channels": 4, "query_map": False}, "without a map to queries"),
        ({"latent_channels": 4, "tied": True}, "as wide as inputs (8)"),
        ({"latent_channels": 4, "own_keys": "queries"}, "as wide as inputs (8)"),
    ],
)
def test_impossible_models_are_input_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        replace(FIXED, **options)


@pytest.mark.parametrize(
    ("ids", "options", "message"),
    [
        (np.zeros((1, 4), int), {"prefix": 4}, "at least 0 and less than 4 tokens, got 4"),
        (np.zeros((1, 4), int), {"prefix": -1}, "at least 0 and less than 4 tokens, got -1"),
        (np.zeros((1, 0), int), {}, "less than 0 tokens, got 0"),
        (np.zeros((1, 10), int), {"prefix": 6}, "has 10 tokens, but the model was made for at most 9"),
        (np.zeros((1, 8), int), {"prefix": 2}, "8 tokens with a prefix of 2 are 6 latents, more than 5"),
        (np.full((1, 4), VOCABULARY), {}, f"must be in [0, {VOCABULARY}), got {VOCABULARY} to {VOCABULARY}"),
        (np.full((1, 4), -1), {}, "got -1 to -1"),
        (np.zeros((1, 4)), {}, "must be integers of shape (batch, length), got float64 of (1, 4)"),
        (np.zeros(4, int), {}, "must be integers of shape (batch, length), got int64 of (4,)"),
        (np.zeros((1, 3), int), {"mask": np.array([[True, False, True]])}, "padding must be on the left"),
        (np.zeros((1, 3), int), {"mask": np.ones((1, 2), bool)}, "mask must be bool of shape (1, 3)"),
        (np.zeros((1, 3), int), {"mask": np.ones((1, 3))}, "mask must be bool of shape (1, 3)"),
    ],
)
def test_impossible_calls_are_input_errors(
    backend: str, ids: np.ndarray, options: dict[str, Any], message: str
) -> None:
    options = {name: on(backend, value) if name == "mask" else value for name, value in options.items()}
    with pytest.raises(InputError, match=re.escape(message)):
        FIXED.apply(on(backend, FIXED.init()), on(backend, ids), **options)


def test_what_does_not_follow_is_an_input_error(backend: str) -> None:
    p, ids = on(backend, FIXED.init()), on(backend, np.zeros((2, 6), int))
    _, memory = FIXED.extend(p, ids, prefix=3)
    with pytest.raises(InputError, match="1 sequences cannot follow on 2"):
        FIXED.extend(p, ids[:1], memory)
    with pytest.raises(InputError, match="are 6 latents, more than 5"):
        FIXED.extend(p, ids[:, :3], memory)


def test_wrong_parameters_are_named(backend: str) -> None:
    p = FIXED.init()
    del p["query"]
    with pytest.raises(InputError, match="missing: query/bias, query/weight"):
        FIXED.apply(on(backend, p), on(backend, np.zeros((1, 3), int)))


def test_several_cross_attentions_in_one_place_follow_each_other(backend: str) -> None:
    model = replace(FIXED, layers=1, cross_attends=(0, 0, 1))
    p, ids = random_parameters(model), np.arange(14).reshape(2, 7) % VOCABULARY
    with pr.trace() as traced:
        model.apply(on(backend, p), on(backend, ids), prefix=3)
    ends = [name for name in traced if name in {"latents", "layers.0", *(f"cross_attention.{k}" for k in range(3))}]
    assert ends == ["latents", "cross_attention.0", "cross_attention.1", "layers.0", "cross_attention.2"]
    one = replace(model, cross_attends=(0,))
    course = {**p, "cross_attentions": p["cross_attentions"][:1]}
    with pr.trace() as first:
        one.apply(on(backend, course), on(backend, ids), prefix=3)
    assert_close(traced["cross_attention.0"], host(first["cross_attention.0"]))


def test_an_input_that_is_no_key_may_be_any_and_moves_nothing(backend: str) -> None:
    p, ids = random_parameters(FIXED), np.arange(14).reshape(2, 7) % VOCABULARY
    keys = np.ones(ids.shape, bool)
    keys[0, 1] = keys[1, 2] = False
    others = np.where(keys, ids, (ids + 1) % VOCABULARY)

    def latents(ids: np.ndarray, keys: np.ndarray | None) -> np.ndarray:
        given = None if keys is None else on(backend, keys)
        return host(FIXED.encode(on(backend, p), on(backend, ids), prefix=3, keys=given)[0])

    assert_close(latents(others, keys), latents(ids, keys))
    assert_close(latents(ids, np.ones_like(keys)), latents(ids, None))
    assert difference(latents(ids, keys), latents(ids, None)) > 1e-3


def test_heads_may_be_of_any_width_where_widths_are_free(backend: str) -> None:
    free = replace(FIXED.conventions, free_widths=True)
    rotary = Rotary(frequencies(4))
    model = replace(FIXED, conventions=free, attention_channels=12, hidden=5, cross_rotary=rotary, self_rotary=rotary)
    p = random_parameters(model)
    assert p["layers"][0]["attention"]["query"]["weight"].shape == (8, 12)
    assert p["cross_attentions"][0]["attention"]["output"]["weight"].shape == (12, 8)
    assert p["layers"][0]["mlp"]["hidden"]["weight"].shape == (8, 5)
    assert run(backend, model, np.arange(14).reshape(2, 7) % VOCABULARY, 3).shape == (2, 4, VOCABULARY)
    with pytest.raises(InputError, match="latents of 12 channels cannot be split among 5 heads"):
        replace(model, self_heads=5)
