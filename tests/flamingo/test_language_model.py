"""The language model: against plain loops and GPT-2, causal in values and gradients, cached as uncached."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import plain
from support import assert_close, host, normal, on, random_parameters

from perceiver_ref import InputError
from perceiver_ref.autograd import backend as backends
from perceiver_ref.autograd import ops, tree, value_and_grad
from perceiver_ref.autograd.testing import check_grads
from perceiver_ref.models.conventions import DIALECTS
from perceiver_ref.models.flamingo.language_model import LanguageModel, TextCache

CACHED = 1e-10
"""Bound for a sequence run in pieces against one run whole, in float64: only the order of sums differs (measured:
under 1e-14), while a token that saw one more or one less differs by about 1."""

VOCABULARY, LENGTH = 11, 9
kinds = pytest.mark.parametrize("logits", ["tied", "untied"])


def model(logits: str = "tied", **options: Any) -> LanguageModel:
    return LanguageModel(VOCABULARY, LENGTH, 8, layers=2, heads=2, logits=logits, **options)  # type: ignore[arg-type]


def tokens(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, VOCABULARY, shape)


def by_loops(p: Any, ids: np.ndarray, lm: LanguageModel) -> np.ndarray:
    """The whole model for ids (B, L), of code that shares nothing with the package."""
    x = np.stack([[p["input"]["embedding"][t] + p["input"]["positions"][i] for i, t in enumerate(row)] for row in ids])
    causal = np.stack([np.tril(np.ones((ids.shape[1],) * 2, bool))] * ids.shape[0])
    for layer in p["layers"]:
        normed = plain.layer_norm(layer["norm"], x)
        x = x + plain.attention(layer["attention"], normed, normed, lm.heads, "zero", causal)
        x = x + plain.mlp(layer["mlp"], plain.layer_norm(layer["mlp_norm"], x), "gelu_erf")
    x = plain.layer_norm(p["norm"], x)
    if lm.logits == "tied":
        return np.einsum("bld,vd->blv", x, p["input"]["embedding"]) + p["output"]["bias"]
    return plain.linear(p["output"], x)


@kinds
def test_it_is_what_plain_loops_compute(backend: str, logits: str) -> None:
    lm, ids = model(logits), tokens(0, 2, 5)
    p = random_parameters(lm)
    assert_close(lm.apply(on(backend, p), on(backend, ids)), by_loops(p, ids, lm))


def pieces(data: st.DataObject, length: int) -> list[slice]:
    """The sequence cut anywhere, also into empty pieces."""
    cuts = sorted(data.draw(st.lists(st.integers(0, length), max_size=4)))
    return [slice(a, b) for a, b in zip([0, *cuts], [*cuts, length])]


@given(length=st.integers(1, LENGTH), data=st.data())
def test_a_sequence_in_pieces_is_the_same_sequence(backend: str, length: int, data: st.DataObject) -> None:
    lm, ids = model(), on(backend, tokens(1, 2, length))
    mask = on(backend, np.array(data.draw(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=length))).T)
    mask = data.draw(st.sampled_from([mask[:, :length], None]))
    p = on(backend, random_parameters(lm))
    whole, cache, made = lm.apply(p, ids, mask=mask), None, []
    for cut in pieces(data, length):
        out, cache = lm.extend(p, ids[:, cut], cache, mask=None if mask is None else mask[:, cut])
        made.append(host(out))
    assert_close(np.concatenate(made, 1), whole, CACHED)


def test_a_cache_is_a_value(backend: str) -> None:
    """Two continuations of one cache do not disturb each other, nor the cache."""
    lm = model()
    p, ids = on(backend, [random_parameters(lm), tokens(2, 1, 6)])
    _, cache = lm.extend(p, ids[:, :3])
    before = tree.map(np.array, host(cache.layers))
    first, _ = lm.extend(p, ids[:, 3:], cache)
    lm.extend(p, ids[:, :5], cache)
    again, _ = lm.extend(p, ids[:, 3:], cache)
    assert_close(again, host(first), tolerance=0)
    assert_close(host(cache.layers), before, tolerance=0)
    assert host(cache.real).tolist() == [[True] * 3]


@given(kept=st.lists(st.booleans(), min_size=1, max_size=LENGTH).filter(any))
def test_padding_anywhere_is_as_if_it_were_not_there(backend: str, kept: list[bool]) -> None:
    lm, mask = model(), np.array(kept)
    ids = tokens(3, 1, len(kept))
    p = on(backend, random_parameters(lm))
    ours = host(lm.apply(p, on(backend, ids), mask=on(backend, mask[None])))
    assert_close(ours[:, mask], lm.apply(p, on(backend, ids[:, mask])))
    other = host(lm.apply(p, on(backend, np.where(mask, ids, 0)), mask=on(backend, mask[None])))
    assert_close(other[:, mask], ours[:, mask], tolerance=0)


def test_padding_does_not_use_up_positions(backend: str) -> None:
    """More slots than positions are fine, as long as no sequence has more tokens."""
    lm = model()
    p = on(backend, random_parameters(lm))
    mask = on(backend, np.arange(LENGTH + 4)[None] >= 4)
    ids = tokens(4, 1, LENGTH + 4)
    assert_close(host(lm.apply(p, on(backend, ids), mask=mask))[:, 4:], lm.apply(p, on(backend, np.array(ids[:, 4:]))))


def added(e: Any) -> Callable[[Any, Any], Any]:
    """The plain course through two layers, from x + e."""
    return lambda x, layer: layer(1, layer(0, ops.add(x, e)))


@kinds
@given(at=st.integers(0, 5))
def test_no_token_sees_a_later_one(backend: str, logits: str, at: int) -> None:
    """The gradient of logits by later tokens is exactly 0; by this one and each earlier one it is not."""
    lm = model(logits)
    p, ids, weights = on(backend, [random_parameters(lm), tokens(5, 2, 6), normal(1, 2, VOCABULARY)])

    def loss(e: Any) -> Any:
        return ops.sum(ops.multiply(lm.apply(p, ids, through=added(e))[:, at], weights))

    _, gradient = value_and_grad(loss)(on(backend, np.zeros((2, 6, 8))))
    sizes = np.abs(host(gradient)).max(-1)
    assert (sizes[:, at + 1 :] == 0).all()
    assert (sizes[:, : at + 1] > 1e-6).all()  # gradients here are near 0.1


@kinds
def test_gradients(backend: str, logits: str) -> None:
    lm = model(logits)
    ids, mask = on(backend, [tokens(6, 2, 4), np.array([[True, True, False, True], [False, True, True, False]])])
    check_grads(lambda p: lm.apply(p, ids, mask=mask), on(backend, random_parameters(lm)), directions=1)


def test_float32_stays_float32(backend: str) -> None:
    lm = model()
    p, ids = on(backend, lm.init(0)), on(backend, tokens(7, 1, 3))
    out, cache = lm.extend(p, ids)
    again, _ = lm.extend(p, ids, cache)
    assert {out.dtype, again.dtype, cache.layers[0].keys.dtype} == {np.dtype(np.float32)}
    assert backends.name(again) == backend


@kinds
def test_at_the_start_every_token_is_about_as_likely(logits: str) -> None:
    """Near log V, the loss of knowing nothing: initial logits have a deviation below 1, which adds at most 0.5."""
    lm = LanguageModel(262, 32, 64, layers=2, heads=4, logits=logits)  # type: ignore[arg-type]
    ids = np.random.default_rng(0).integers(0, 262, (4, 32))
    loss = ops.cross_entropy(lm.apply(lm.init(0), ids), ids[:, ::-1])
    assert np.log(262) - 0.1 < loss < np.log(262) + 0.6


@settings(max_examples=5)
@given(layers=st.integers(0, 3), widening=st.integers(1, 3), length=st.integers(1, 5))
def test_parameters(layers: int, widening: int, length: int) -> None:
    """By hand: 4 attention maps, 2 of the MLP, 2 norms a layer; the last norm; tables and output."""
    d, v = 6, 7
    layer = 4 * (d * d + d) + 2 * widening * d * d + widening * d + d + 4 * d
    shared = (v + length) * d + 2 * d + layers * layer
    assert LanguageModel(v, length, d, layers, 2, widening).count() == shared + v
    assert LanguageModel(v, length, d, layers, 2, widening, logits="untied").count() == shared + v * d + v


def test_what_is_refused(backend: str) -> None:
    lm = model()
    p = on(backend, random_parameters(lm))
    for ids, message in (
        (tokens(0, 1, LENGTH + 1), "a sequence has 10 tokens, but the model was made for at most 9"),
        (np.array([[0, VOCABULARY]]), r"token ids must be in \[0, 11\), got 0 to 11"),
        (np.array([[-1, 0]]), r"token ids must be in \[0, 11\), got -1 to 0"),
        (np.zeros((1, 2)), r"token ids must be integers of shape \(batch, length\), got float64 of \(1, 2\)"),
        (np.zeros(2, int), r"token ids must be integers of shape \(batch, length\), got int64 of \(2,\)"),
    ):
        with pytest.raises(InputError, match=message):
            lm.apply(p, on(backend, ids))
    ids = on(backend, tokens(0, 2, 5))
    with pytest.raises(InputError, match=r"mask must be bool of shape \(2, 5\)"):
        lm.apply(p, ids, mask=on(backend, np.ones((2, 4), bool)))
    _, cache = lm.extend(p, ids)
    with pytest.raises(InputError, match="a sequence has 10 tokens"):
        lm.extend(p, ids, cache)
    with pytest.raises(InputError, match="the cache is of 2 sequences, but 1 are continued"):
        lm.extend(p, ids[:1], cache)
    with pytest.raises(InputError, match="unknown kind of logits 'tight'"):
        model("tight")
    with pytest.raises(InputError, match=r"channels \(5\) must be divisible"):
        LanguageModel(3, 3, 5, 1, heads=2)
    del p["layers"][1]
    with pytest.raises(InputError, match="missing: layers/1/attention/key/bias"):
        lm.apply(p, ids)


def test_an_empty_cache_is_like_none(backend: str) -> None:
    lm = model()
    p, ids = on(backend, [random_parameters(lm), tokens(8, 2, 3)])
    _, cache = lm.extend(p, ids[:, :0])
    assert isinstance(cache, TextCache)
    assert_close(lm.extend(p, ids, cache)[0], lm.apply(p, ids), CACHED)


@pytest.mark.heavy
def test_it_is_gpt2() -> None:
    """transformers' GPT-2 with the same weights, in float64: the architecture of this file by other hands."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY, n_positions=LENGTH, n_embd=8, n_layer=2, n_head=2, attn_implementation="eager"
    )
    torch.manual_seed(0)
    peer = transformers.GPT2LMHeadModel(config).double().eval()
    for parameter in peer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    w = {name: value.detach().numpy() for name, value in peer.named_parameters()}

    def linear(name: str) -> Any:
        return {"weight": w[f"{name}.weight"], "bias": w[f"{name}.bias"]}

    def layer_norm(name: str) -> Any:
        return {"scale": w[f"{name}.weight"], "offset": w[f"{name}.bias"]}

    def layer(i: int) -> Any:
        h = f"transformer.h.{i}"
        thirds = [
            {"weight": a, "bias": b}
            for a, b in zip(np.split(w[f"{h}.attn.c_attn.weight"], 3, -1), np.split(w[f"{h}.attn.c_attn.bias"], 3))
        ]
        attention = dict(zip(("query", "key", "value"), thirds)) | {"output": linear(f"{h}.attn.c_proj")}
        return {
            "norm": layer_norm(f"{h}.ln_1"),
            "attention": attention,
            "mlp_norm": layer_norm(f"{h}.ln_2"),
            "mlp": {"hidden": linear(f"{h}.mlp.c_fc"), "output": linear(f"{h}.mlp.c_proj")},
        }

    params = {
        "input": {"embedding": w["transformer.wte.weight"], "positions": w["transformer.wpe.weight"]},
        "layers": [layer(0), layer(1)],
        "norm": layer_norm("transformer.ln_f"),
        "output": {"bias": np.zeros(VOCABULARY)},
    }
    lm, ids = model(conventions=DIALECTS["deepmind"]), tokens(9, 2, 7)  # GPT-2's GELU is the tanh approximation
    with torch.no_grad():
        theirs = peer(torch.from_numpy(ids)).logits.numpy()
    assert_close(lm.apply(params, ids), theirs, CACHED)
