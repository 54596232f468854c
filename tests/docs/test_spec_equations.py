"""The equations of docs/SPEC.md, as `plain` has them in plain NumPy: the models compute just that.

Everything is float64 and plain NumPy. Two orders of the same sums differ by rounding: `TOLERANCE` is 1e4 times the
spacing of float64 numbers near 1, for sums of up to about 100 terms through up to 5 layers.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from perceiver_ref import plain
from perceiver_ref.autograd import ops, tree
from perceiver_ref.models.conventions import DIALECTS, FLAMINGO
from perceiver_ref.models.decoder import Decoder, ProjectionDecoder, trainable_queries
from perceiver_ref.models.encoder import Encoder, Sharing
from perceiver_ref.models.flamingo import GatedCrossAttention, PerceiverResampler, media_mask
from perceiver_ref.models.module import Module
from perceiver_ref.models.perceiver_ar import PerceiverAR
from perceiver_ref.models.perceiver_io import PerceiverIO
from perceiver_ref.models.positions import fourier_features, linear_positions
from perceiver_ref.models.published import preset
from perceiver_ref.models.rotary import Rotary, frequencies

PAPER = DIALECTS["paper"]
TOLERANCE = 1e4 * np.finfo(np.float64).eps
P = Any
"""A nested dict of parameters."""


def drawn(model: Module, seed: int = 0) -> P:
    """Random parameters, so that biases, offsets, gates and logits are not 0."""
    rng = np.random.default_rng(seed)
    return tree.map(lambda spec: rng.normal(size=spec.shape) / math.sqrt(max(spec.shape[0], 1)), model.parameters())


def close(a: Any, b: Any) -> None:
    np.testing.assert_allclose(a, b, rtol=0, atol=TOLERANCE * max(float(np.abs(b).max()), 1))


# positions


def test_fourier_features() -> None:
    bands, resolution = 5, (7, 4)
    x = np.stack(np.meshgrid(*(-1 + 2 * np.arange(n) / (n - 1) for n in resolution), indexing="ij"), -1)
    close(linear_positions(resolution), x)
    expected = plain.fourier_features(x, bands, resolution)
    assert expected.shape[-1] == 2 * (2 * bands + 1)
    close(fourier_features(x, bands, resolution), expected)


def test_rotary_positions() -> None:
    rng, omega, at = np.random.default_rng(0), frequencies(6), np.arange(9)
    q = rng.normal(size=(1, 9, 6))
    turned = Rotary(omega).apply(q, at)
    close(turned[0], plain.rotary(q[0], at, omega))
    query, key = (Rotary(omega).apply(np.repeat(rng.normal(size=(1, 1, 6)), 9, 1), at)[0] for _ in range(2))
    products = query @ key.T
    close(products[1:, 1:], products[:-1, :-1])  # of positions with one distance


# models


@pytest.mark.parametrize("shared", ["all", "later", "none"])
def test_perceiver(shared: Sharing) -> None:
    encoder = Encoder(
        6, 4, 8, 3, 2, 2, 4, cross_attends=2, shared_cross=shared, shared_blocks=shared, conventions=PAPER
    )
    model = PerceiverIO(encoder, decoder=ProjectionDecoder(8, 3))
    p, x = drawn(model), np.random.default_rng(1).normal(size=(2, 9, 6))
    mask = np.arange(9) < [[9], [5]]
    got = model.apply(p, x, mask=mask)
    for example in range(2):
        rows = np.repeat(mask[example][None], 4, 0)
        own = {"all": [0, 0, 0], "later": [0, 1, 1], "none": [0, 1, 2]}[shared]
        crosses = [p["encoder"]["cross_attention"], *p["encoder"]["later_cross_attentions"]]
        blocks = [p["encoder"]["block"], *p["encoder"]["later_blocks"]]
        z = p["encoder"]["latents"]
        for n in range(3):
            if n < 2:
                z = plain.cross_attention(z, x[example], crosses[own[n]], 2, rows)
            for layer in blocks[own[n]]:
                z = plain.self_attention(z, layer, 4)
        close(got[example], plain.linear(z.mean(0), p["decoder"]["output"]))


def test_perceiver_as_published() -> None:
    """Cross-attentions share their weights from the second on, blocks all of them."""
    encoder = Encoder(6, 4, 8, 3, 2, 2, 4, cross_attends=2, conventions=PAPER)
    model = PerceiverIO(encoder, decoder=ProjectionDecoder(8, 3))
    p, x = drawn(model), np.random.default_rng(1).normal(size=(1, 9, 6))
    mask = np.arange(9) < [[5]]
    close(model.apply(p, x, mask=mask)[0], plain.perceiver(x[0], p, 2, 3, (2, 4), np.repeat(mask, 4, 0)))


@pytest.mark.parametrize("residual", [True, False])
def test_perceiver_io(residual: bool) -> None:
    encoder = Encoder(6, 4, 8, 2, 1, 2, 4, 6, 12, self_qk_channels=4, self_v_channels=8, conventions=PAPER)
    decoder = Decoder(8, 10, trainable_queries(5, 10), 3, 2, query_residual=residual, conventions=PAPER)
    model = PerceiverIO(encoder, decoder=decoder)
    p, x = drawn(model), np.random.default_rng(1).normal(size=(1, 9, 6))
    z = plain.encoder(x[0], p["encoder"], 1, 2, (2, 4))
    queries, layer, output = p["decoder"]["queries"]["table"], p["decoder"]["cross_attention"], p["decoder"]["output"]
    y = plain.cross_attention(queries, z, layer, 2, residual=residual)
    close(model.apply(p, x)[0], plain.linear(y, output))
    alone = plain.cross_attention(queries[3:4], z, layer, 2, residual=residual)
    close(model.apply(p, x)[0, 3:4], plain.linear(alone, output))
    if residual:
        close(model.apply(p, x)[0], plain.perceiver_io(x[0], p, 2, (2, 4), 2))


def test_perceiver_ar() -> None:
    model = PerceiverAR(11, 9, 5, 8, 2, 1, 2, conventions=PAPER, position_table=True)
    p, ids = drawn(model), np.random.default_rng(1).integers(0, 11, (1, 9))
    close(model.apply(p, ids, prefix=4)[0], plain.perceiver_ar(ids[0], p, 4, (1, 2)))


def test_perceiver_resampler() -> None:
    model = PerceiverResampler(8, 5, 2, 2, frames=3)
    p, features = drawn(model), np.random.default_rng(1).normal(size=(1, 2, 3, 4, 8))
    got = model.apply(p, features)
    assert model.conventions == FLAMINGO
    for medium in range(2):
        close(got[0, medium], plain.perceiver_resampler(features[0, medium], p, 2))


def test_gated_cross_attention() -> None:
    model = GatedCrossAttention(8, 6, 2)
    p, rng = drawn(model), np.random.default_rng(1)
    x, media = rng.normal(size=(1, 7, 8)), rng.normal(size=(1, 3, 4, 6))
    tag = np.array([[False, True, False, False, True, True, False]])
    phi = np.array([[tag[0, : i + 1].sum() for i in range(7)]])
    got = model.apply(p, x, media, mask=media_mask(phi, media=3, tokens=4))
    assert phi[0, 0] == 0, "the first token comes before all media"
    close(got[0], plain.gated_cross_attention(x[0], media[0], phi[0], p, 2))
    closed = {**p, "attention_gate": np.zeros(1), "mlp_gate": np.zeros(1)}
    assert np.array_equal(model.apply(closed, x, media), x)


def test_a_row_without_keys() -> None:
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=(3, 4)) for _ in range(3))
    mask = np.array([[True, False, True], [False, False, False], [True, True, True]])
    identity = {name: {"weight": np.eye(4)} for name in ("query", "key", "value", "output")}
    close(ops.attention(q, k, k, mask=mask, masked_rows="zero"), plain.attention(q, k, identity, 1, mask))
    close(ops.attention(q, k, v, mask=mask, masked_rows="uniform")[1], v.mean(0))


# initialisation


@pytest.mark.parametrize(
    "name", ["perceiver/imagenet", "perceiver-io/language", "flamingo/resampler-3b", "flamingo/gated-xattn-3b"]
)
def test_parameters_start_as_the_table_says(name: str) -> None:
    check_start(preset(name))


def test_parameters_of_perceiver_ar_start_as_the_table_says() -> None:
    check_start(PerceiverAR(11, 9, 5, 8, 2, 1, 2, position_table=True))


def check_start(model: Module) -> None:
    for path, parameter in tree.leaves(model.parameters()):
        kind = path.split("/")
        start = getattr(parameter.initializer, "__qualname__", "").partition(".")[0]
        if kind[-1] in ("bias", "offset") or kind[-1].endswith("_gate") or "logits" in kind:
            expected = "zeros"
        elif kind[-1] == "scale":
            expected = "ones"
        elif kind[-1] == "weight":
            expected = "fan_in_scaled" if {"attention", "mlp"} & set(kind) else "fan_in_normal"
        else:
            expected = "truncated_normal"
        assert start == expected, path
