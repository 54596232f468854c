"""Outputs, module outputs and gradients of perceiver-pytorch, run live on configurations drawn at random."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from heavy import lucidrains_configurations as peer
from hypothesis import given, settings
from hypothesis import strategies as st

from perceiver_ref.porting import check_case

pytestmark = pytest.mark.heavy
DRAWS = 120
"""Configurations of each class; the test of each prints how many it compared, and the largest error."""
compared: dict[str, list[float]] = {}


@pytest.fixture(autouse=True)
def report() -> Any:
    compared.clear()
    yield
    for name, errors in compared.items():
        print(f"\n{name}: {len(errors)} random configurations compared, largest error {max(errors):.1e}")
    assert sum(map(len, compared.values())) >= DRAWS


def assert_passes(name: str, config: Any, inputs: Any, call: Any, seed: int, backend: str) -> None:
    made = peer.case(name, config, inputs, call, seed)
    result = check_case(made, backend=backend)
    failed = [a for a in result.agreements if not a.passed]
    assert failed == []
    assert result.notes == []  # every module that was hooked is known
    kinds = {a.kind for a in result.agreements}
    assert kinds >= {"output"} | ({"grad_param"} if made.params else set()) | (
        {"grad_input"} if made.grad_inputs else set()
    )
    assert made.params or made.grad_inputs
    compared.setdefault(name, []).append(max(a.error for a in result.agreements))


seeds = st.integers(0, 2**31)
many = settings(max_examples=DRAWS, deadline=None)


def grid(data: st.DataObject, config: dict[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """An input for these axes, with or without a mask of them."""
    count = config.get("input_axis", 2)
    batch, *axes = data.draw(peer.sizes(count + 1)) if count < 3 else [data.draw(peer.few) for _ in range(4)]
    made = {"data": rng.standard_normal((batch, *axes, config.get("input_channels", 3)))}
    if data.draw(peer.flags):
        made["mask"] = peer.mask(data.draw, (batch, *axes))
    return made


def hiddens(
    data: st.DataObject, config: dict[str, Any], batch: int, rng: np.random.Generator
) -> tuple[dict[str, np.ndarray], dict[str, bool]]:
    """Hidden states to begin with, where some are given, and whether they are returned."""
    shape = (batch, config["num_latents"], config["latent_dim"])
    given = {f"block_outputs.{i}": rng.standard_normal(shape) for i in range(data.draw(st.integers(0, 2)))}
    return given, {"return_hiddens": True} if data.draw(peer.flags) else {}


@many
@given(data=st.data(), config=peer.perceivers(), seed=seeds)
def test_perceiver(backend: str, data: st.DataObject, config: dict[str, Any], seed: int) -> None:
    rng = np.random.default_rng(seed)
    inputs = grid(data, config, rng)
    given, call = hiddens(data, config, len(inputs["data"]), rng)
    if data.draw(peer.flags):
        call["return_embeddings"] = True
    assert_passes("Perceiver", config, {**inputs, **given}, call, seed, backend)


@pytest.mark.parametrize("name", ["gated.Perceiver", "mixed_latents.Perceiver"])
@many
@given(data=st.data(), config=peer.grids(), seed=seeds)
def test_variants(backend: str, name: str, data: st.DataObject, config: dict[str, Any], seed: int) -> None:
    assert_passes(name, config, grid(data, config, np.random.default_rng(seed)), {}, seed, backend)


@many
@given(data=st.data(), config=peer.grids(), seed=seeds)
def test_experimental(backend: str, data: st.DataObject, config: dict[str, Any], seed: int) -> None:
    """It runs only without Fourier features, and with a mask only where there is one block."""
    config = {**config, "fourier_encode_data": False}
    inputs = grid(data, config, np.random.default_rng(seed))
    if config["depth"] > 1:
        inputs.pop("mask", None)
    assert_passes("experimental.Perceiver", config, inputs, {}, seed, backend)


@many
@given(data=st.data(), config=peer.perceiver_ios(), seed=seeds, size=st.tuples(peer.few, peer.some))
def test_perceiver_io(
    backend: str, data: st.DataObject, config: dict[str, Any], seed: int, size: tuple[int, int]
) -> None:
    rng = np.random.default_rng(seed)
    inputs = {"data": rng.standard_normal((*size, config["dim"]))}
    if data.draw(peer.flags):
        inputs["mask"] = peer.mask(data.draw, size)
    lead = data.draw(st.sampled_from([None, (), (size[0],)]))
    if lead is not None:
        inputs["queries"] = rng.standard_normal((*lead, data.draw(peer.some), config["queries_dim"]))
    given, call = hiddens(data, config, size[0], rng)
    assert_passes("PerceiverIO", config, {**inputs, **given}, call, seed, backend)


@many
@given(data=st.data(), config=peer.perceiver_ios(), seed=seeds, size=st.tuples(peer.few, peer.some))
def test_perceiver_lm(
    backend: str, data: st.DataObject, config: dict[str, Any], seed: int, size: tuple[int, int]
) -> None:
    own = {key: value for key, value in config.items() if key not in ("queries_dim", "logits_dim")}
    own |= {"num_tokens": 11, "max_seq_len": size[1] + data.draw(st.integers(0, 2))}
    inputs = {"x": np.random.default_rng(seed).integers(0, 11, size)}
    if data.draw(peer.flags):
        inputs["mask"] = peer.mask(data.draw, size)
    assert_passes("PerceiverLM", own, inputs, {}, seed, backend)


@many
@given(data=st.data(), sizes=peer.heads(), seed=seeds, crosses=peer.flags, joins=peer.flags, inverted=peer.flags)
def test_perceiver_block(
    backend: str, data: st.DataObject, sizes: dict[str, int], seed: int, crosses: bool, joins: bool, inverted: bool
) -> None:
    rng = np.random.default_rng(seed)
    batch, n, m, width, context = data.draw(peer.sizes(5))
    config = {**sizes, "dim": width, "self_per_cross_attn": data.draw(st.integers(0 if crosses else 1, 2))}
    config |= {"has_cross_attn": crosses, "queries_contribute_kv": joins}
    config = peer.left_out(data.draw, config, *(["has_cross_attn"] if crosses else []), "self_per_cross_attn")
    inputs = {"x": rng.standard_normal((batch, n, width))}
    if crosses:
        if not joins:
            config["context_dim"] = context
        inputs["context"] = rng.standard_normal((batch, m, width if joins else context))
        if data.draw(peer.flags):
            inputs["mask"] = peer.mask(data.draw, (batch, m))
    call = peer.left_out(data.draw, {"inverted_attention": inverted}, "inverted_attention")
    assert_passes("PerceiverBlock", config, inputs, call, seed, backend)


@many
@given(data=st.data(), seed=seeds, joins=peer.flags, given_context=peer.flags, inverted=peer.flags)
def test_attention(
    backend: str, data: st.DataObject, seed: int, joins: bool, given_context: bool, inverted: bool
) -> None:
    rng = np.random.default_rng(seed)
    batch, n, m, width, other = data.draw(peer.sizes(5))
    config = {"query_dim": width, "heads": data.draw(peer.counts), "dim_head": data.draw(peer.few)}
    config = {**peer.left_out(data.draw, config, "heads", "dim_head"), "queries_contribute_kv": joins}
    inputs = {"x": rng.standard_normal((batch, n, width))}
    if given_context:
        own = width if joins else other
        if own != width or data.draw(peer.flags):
            config["context_dim"] = own
        inputs["context"] = rng.standard_normal((batch, m, own))
    if data.draw(peer.flags):
        inputs["mask"] = peer.mask(data.draw, (batch, m if given_context else n))
    call = peer.left_out(data.draw, {"inverted_attention": inverted}, "inverted_attention")
    assert_passes("Attention", config, inputs, call, seed, backend)


@many
@given(dim=peer.some, few=st.tuples(peer.few, peer.few, peer.few), bands=st.integers(0, 4), seed=seeds)
def test_parts(backend: str, dim: int, few: tuple[int, int, int], bands: int, seed: int) -> None:
    mult, rank, layers = few
    x = np.random.default_rng(seed).standard_normal((layers, 2, 3, dim))
    assert_passes("FeedForward", {"dim": dim, "mult": mult}, {"x": x[0]}, {}, seed, backend)
    assert_passes("GEGLU", {}, {"x": np.concatenate([x, x + 1], axis=-1)}, {}, seed, backend)
    config = {"dim": dim, "rank": rank}
    assert_passes("EnformerAttentionResidual", config, {"block_outputs": x}, {}, seed, backend)
    assert_passes("fourier_encode", {"max_freq": 4.0 * mult, "num_bands": bands}, {"x": x}, {}, seed, backend)
