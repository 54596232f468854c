"""GATED XATTN-DENSE: what its gates, masks and caches promise."""

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
from perceiver_ref.conventions import FLAMINGO_DIALECTS
from perceiver_ref.flamingo import GatedCrossAttention, GatedLayers, media_mask, preceding

few_examples = settings(max_examples=25)
seeds = st.integers(0, 2**32 - 2)
D, C = 6, 4
TAGS = np.array(
    [[False, True, False, False, True, False, True, False], [False, False, False, True, False, False, False, False]]
)


@st.composite
def blocks(draw: Any, **fixed: Any) -> GatedCrossAttention:
    """Small ones, of every kind but for what is fixed."""
    options = {
        "heads": 2,
        "head_channels": draw(st.sampled_from([None, 2])),
        "widening": draw(st.integers(1, 2)),
        "gate": draw(st.sampled_from(["scalar", "vector"])),
        "qk_norm": draw(st.booleans()),
        "kv_heads": draw(st.sampled_from([None, 1])),
        "conventions": FLAMINGO_DIALECTS[draw(st.sampled_from(list(FLAMINGO_DIALECTS)))],
    }
    return GatedCrossAttention(D, C, **{**options, **fixed})


def masked(backend: str, which: Any, media: int, tokens: int = 2) -> Any:
    return media_mask(preceding(on(backend, TAGS)), media=media, tokens=tokens, which=which)


@few_examples
@given(block=blocks(), dtype=st.sampled_from([np.float32, np.float64]), seed=seeds)
def test_gates_at_zero_give_the_text_itself_bit_for_bit(
    backend: str, block: GatedCrossAttention, dtype: Any, seed: int
) -> None:
    p = random_parameters(block, seed % 1000)
    p |= {name: np.zeros_like(p[name]) for name in ("attention_gate", "mlp_gate")}
    x, media = on(backend, [normal(seed, 2, 8, D), normal(1, 2, 3, 2, C)], dtype)
    out = block.apply(on(backend, p, dtype), x, media, mask=masked(backend, "immediate", 3))
    assert host(out).tobytes() == host(x).tobytes()


def test_fresh_parameters_have_gates_at_zero() -> None:
    p = GatedLayers(4, 2, GatedCrossAttention(D, C, 2)).init()
    assert len(p) == 2
    gates = [array for path, array in tree.leaves(p) if path.endswith("gate")]
    assert len(gates) == 4
    assert all((gate == 0).all() for gate in gates)


@few_examples
@given(block=blocks(), which=st.sampled_from(["immediate", "all"]), seed=seeds)
def test_text_never_sees_a_later_medium(backend: str, block: GatedCrossAttention, which: Any, seed: int) -> None:
    """Zero gradient of every token in every medium whose tag comes later; some gradient in the one it sees.

    Under dialects that average all media where nothing matches, only for text that has a medium of its own.
    """
    p, x = on(backend, random_parameters(block)), on(backend, normal(seed, 2, 8, D))
    media = on(backend, normal(seed + 1, 2, 3, 2, C))
    weights = on(backend, normal(2, D))
    seen = host(preceding(TAGS))
    for token in range(8):

        def of_one_token(media: Any, token: int = token) -> Any:
            out = block.apply(p, x, media, mask=masked(backend, which, 3))
            return ops.sum(ops.multiply(out[:, token], weights))

        gradient = np.abs(host(value_and_grad(of_one_token)(media)[1])).sum((2, 3))  # (B, M)
        for b in range(2):
            phi = seen[b, token]
            matched = phi > 0 or which == "immediate" or block.conventions.masked_rows == "zero"
            if matched:
                visible = [m + 1 for m in range(3) if (m + 1 == phi if which == "immediate" else m + 1 <= phi)]
                assert [m + 1 for m in range(3) if gradient[b, m]] == visible


@few_examples
@given(block=blocks(), seed=seeds)
def test_text_without_a_medium_gets_what_the_dialect_says(backend: str, block: GatedCrossAttention, seed: int) -> None:
    """Before the first medium, immediate: zero everywhere. Otherwise zero, or the average of all media."""
    p, x = on(backend, random_parameters(block)), on(backend, normal(seed, 2, 8, D))
    media = on(backend, normal(seed + 1, 2, 2, 2, C))  # row 0 has a third tag at token 6
    uniform = block.conventions.masked_rows != "zero"
    values = host(ops.reshape(media, shape=(2, 4, C))) @ host(p["attention"]["value"]["weight"])
    average = np.repeat(values.mean(1).reshape(2, block.kv_heads or 2, -1), 2 // (block.kv_heads or 2), 1).reshape(
        2, -1
    )
    attended = {"zero": np.zeros((2, D)), "uniform": average @ host(p["attention"]["output"]["weight"])}
    for which, b, token, result in [
        ("immediate", 0, 0, "zero"),
        ("immediate", 1, 2, "zero"),
        ("immediate", 0, 7, "uniform" if uniform else "zero"),
        ("all", 0, 0, "uniform" if uniform else "zero"),
    ]:
        with pr.trace() as traced:
            block.apply(p, x, media, mask=masked(backend, which, 2))
        point = "attention_seen" if which == "immediate" else "attention"
        assert_close(traced[point][b, token], attended[result][b])


def test_the_mlp_still_runs_for_text_without_a_medium(backend: str) -> None:
    block = GatedCrossAttention(D, C, 2)
    p, x, media = on(backend, [random_parameters(block), normal(0, 2, 8, D), normal(1, 2, 3, 2, C)])
    out = block.apply(p, x, media, mask=masked(backend, "immediate", 3))
    assert difference(out[0, 0], x[0, 0]) > 1e-3


@few_examples
@given(block=blocks(), which=st.sampled_from(["immediate", "all"]), cut=st.integers(1, 7), seed=seeds)
def test_cached_media_and_text_in_pieces_give_the_same(
    backend: str, block: GatedCrossAttention, which: Any, cut: int, seed: int
) -> None:
    p, x = on(backend, random_parameters(block)), on(backend, normal(seed, 2, 8, D))
    media = on(backend, normal(seed + 1, 2, 3, 2, C))
    whole = block.apply(p, x, media, mask=masked(backend, which, 3))
    kept = block.keys_values(p, media)
    phi = preceding(on(backend, TAGS[:, :cut]))
    later = preceding(on(backend, TAGS[:, cut:]), phi[:, -1])
    for piece, number in ((slice(0, cut), phi), (slice(cut, 8), later)):
        mask = media_mask(number, media=3, tokens=2, which=which)
        assert_close(block.apply(p, x[:, piece], kept, mask=mask), whole[:, piece])


@few_examples
@given(block=blocks(), seed=seeds)
def test_gradients_agree_with_differences(backend: str, block: GatedCrossAttention, seed: int) -> None:
    from perceiver_ref.autograd.testing import check_grads

    # relu has a kink, and a norm of two channels is too steep for differences unless eps is large
    # differences do not see the slope of a score to which the lowest number is added
    rows = "zero" if block.conventions.masked_rows == "zero" else "uniform"
    conventions = replace(block.conventions, activation="gelu_tanh", norm_eps=0.1, masked_rows=rows)
    block = replace(block, conventions=conventions)
    arrays = {"p": random_parameters(block), "x": normal(seed, 2, 8, D), "media": normal(seed + 1, 2, 2, 2, C)}

    def apply(v: Any) -> Any:
        return block.apply(v["p"], v["x"], v["media"], mask=masked(backend, "all", 2))

    check_grads(apply, on(backend, arrays), directions=1)


@few_examples
@given(layers=st.integers(1, 5), every=st.integers(1, 3))
def test_layers_stand_before_every_kth_of_the_language_model(backend: str, layers: int, every: int) -> None:
    stack = GatedLayers(layers, every, GatedCrossAttention(D, C, 2))
    p, x, media = on(backend, [random_parameters(stack), normal(0, 2, 3, D), normal(1, 2, 3, 2, C)])
    order: list[str] = []

    def between(i: int, x: Any) -> Any:
        order.append(f"language {i}")
        return ops.multiply(x, 0.5)

    with pr.trace(lambda name: bool(re.fullmatch(r"gated\.\d+\.norm", name)) and not order.append(name)):
        out = stack.apply(p, x, media, between=between)
    expected, y, blocks = [], x, 0
    for i in range(layers):
        if i % every == 0:
            expected.append(f"gated.{blocks}.norm")
            y = stack.block.apply(p[blocks], y, media)
            blocks += 1
        expected.append(f"language {i}")
        y = ops.multiply(y, 0.5)
    assert order == expected
    assert_close(out, y)
    assert_close(stack.apply(p, x, stack.keys_values(p, media), between=between), out)


def test_without_media_only_the_language_model_runs(backend: str) -> None:
    stack = GatedLayers(2, 1, GatedCrossAttention(D, C, 2))
    p, x = on(backend, [random_parameters(stack), normal(0, 2, 3, D)])
    for media in (None, on(backend, np.zeros((2, 0, 2, C)))):
        assert_close(stack.apply(p, x, media, between=lambda i, x: ops.multiply(x, 2.0)), x * 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.zeros((2, 8, 5))}, "text must be (batch, tokens, 6), got (2, 8, 5)"),
        ({"media": np.zeros((2, 3, C))}, "media must be (batch, media, tokens, 4), got (2, 3, 4)"),
        ({"media": np.zeros((2, 3, 2, 5))}, "media must be (batch, media, tokens, 4), got (2, 3, 2, 5)"),
        ({"media": np.zeros((1, 3, 2, C))}, "there are 2 texts and media for 1"),
        ({"media": np.zeros((2, 0, 2, C)), "mask": None}, "there is no medium to attend to"),
        ({"media": np.zeros((2, 4, 2, C))}, "the mask must be (batch, text, media tokens) = (2, 8, 8), got (2, 8, 6)"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    block = GatedCrossAttention(D, C, 2)
    given = {"x": np.zeros((2, 8, D)), "media": np.zeros((2, 3, 2, C)), "mask": masked("numpy", "all", 3), **change}
    with pytest.raises(pr.InputError, match=re.escape(message)):
        block.apply(random_parameters(block), given["x"], given["media"], mask=given["mask"])


@pytest.mark.parametrize("gate", [np.zeros(()), np.zeros(D), np.zeros(2), np.zeros((1, 1))], ids=lambda g: str(g.shape))
def test_a_gate_of_another_shape_is_refused(gate: np.ndarray) -> None:
    block = GatedCrossAttention(D, C, 2)
    p = {**random_parameters(block), "mlp_gate": gate}
    message = f"wrong shape: mlp_gate is {gate.shape}, expected (1,)"
    with pytest.raises(pr.InputError, match=re.escape(message)):
        block.apply(p, np.zeros((1, 2, D)), np.zeros((1, 1, 2, C)))


def test_options_that_do_not_fit_are_refused() -> None:
    with pytest.raises(pr.InputError, match=re.escape("unknown gate 'matrix'")):
        GatedCrossAttention(D, C, 2, gate="matrix")  # type: ignore[arg-type]
    with pytest.raises(pr.InputError, match=re.escape("channels (6) must be divisible by the number of heads (4)")):
        GatedCrossAttention(D, C, 4)
    with pytest.raises(pr.InputError, match=re.escape("layers (4) and every (0) must be at least 1")):
        GatedLayers(4, 0, GatedCrossAttention(D, C, 2))
