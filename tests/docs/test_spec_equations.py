"""The equations of docs/SPEC.md, written down here once more from the page alone: the models compute just that.

Everything is float64 and plain NumPy. Two orders of the same sums differ by rounding: `TOLERANCE` is 1e4 times the
spacing of float64 numbers near 1, for sums of up to about 100 terms through up to 5 layers.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.special import erf

from perceiver_ref.autograd import ops, tree
from perceiver_ref.autoregressive import PerceiverAR
from perceiver_ref.conventions import DIALECTS, FLAMINGO
from perceiver_ref.decoder import Decoder, ProjectionDecoder, trainable_queries
from perceiver_ref.encoder import Encoder, Sharing
from perceiver_ref.flamingo import GatedCrossAttention, PerceiverResampler, media_mask
from perceiver_ref.parameters import Module
from perceiver_ref.perceiver_io import PerceiverIO
from perceiver_ref.position import fourier_features, linear_positions
from perceiver_ref.published import preset
from perceiver_ref.rotary import Rotary, frequencies

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


# operations


def linear(x: np.ndarray, p: P) -> np.ndarray:
    return x @ p["weight"] + p.get("bias", 0.0)


def norm(x: np.ndarray, p: P) -> np.ndarray:
    return p["scale"] * (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) + p["offset"]


def gelu(x: np.ndarray) -> np.ndarray:
    return x * (1 + erf(x / np.sqrt(2))) / 2


def squared_relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0) ** 2


def mlp(x: np.ndarray, p: P, activation: Any = gelu) -> np.ndarray:
    return linear(activation(linear(x, p["hidden"])), p["output"])


def weights(q: np.ndarray, k: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """q (N, d), k (M, d), mask (N, M); a row without any key gives 0."""
    e = np.exp(q @ k.T / math.sqrt(q.shape[-1])) * mask
    total = e.sum(-1, keepdims=True)
    return np.divide(e, total, out=np.zeros_like(e), where=total > 0)


def attention(x: np.ndarray, z: np.ndarray, p: P, heads: int, mask: np.ndarray | None = None) -> np.ndarray:
    """x (N, D), z (M, C): one example."""
    q, k, v = linear(x, p["query"]), linear(z, p["key"]), linear(z, p["value"])
    d, e = q.shape[-1] // heads, v.shape[-1] // heads
    mask = np.ones((len(x), len(z)), bool) if mask is None else mask
    y = [
        weights(q[:, h * d : (h + 1) * d], k[:, h * d : (h + 1) * d], mask) @ v[:, h * e : (h + 1) * e]
        for h in range(heads)
    ]
    return linear(np.concatenate(y, -1), p["output"])


def cross_attention(
    x: np.ndarray, z: np.ndarray, p: P, heads: int, mask: np.ndarray | None = None, residual: bool = True
) -> np.ndarray:
    y = attention(norm(x, p["query_norm"]), norm(z, p["key_value_norm"]), p["attention"], heads, mask)
    x = x + y if residual else y
    return x + mlp(norm(x, p["mlp_norm"]), p["mlp"])


def self_attention(x: np.ndarray, p: P, heads: int, mask: np.ndarray | None = None) -> np.ndarray:
    x = x + attention(norm(x, p["norm"]), norm(x, p["norm"]), p["attention"], heads, mask)
    return x + mlp(norm(x, p["mlp_norm"]), p["mlp"])


# positions


def test_fourier_features() -> None:
    bands, resolution = 5, (7, 4)
    x = np.stack(np.meshgrid(*(-1 + 2 * np.arange(n) / (n - 1) for n in resolution), indexing="ij"), -1)
    close(linear_positions(resolution), x)
    f = [1 + n / (bands - 1) * (mu / 2 - 1) for mu in resolution for n in range(bands)]
    axis = [a for a in range(2) for _ in range(bands)]
    parts = [np.sin(np.pi * x[..., a] * f_n) for a, f_n in zip(axis, f)]
    parts += [np.cos(np.pi * x[..., a] * f_n) for a, f_n in zip(axis, f)]
    expected = np.concatenate([x, np.stack(parts, -1)], -1)
    assert expected.shape[-1] == 2 * (2 * bands + 1)
    close(fourier_features(x, bands, resolution), expected)


def test_rotary_positions() -> None:
    rng, omega, at = np.random.default_rng(0), frequencies(6), np.arange(9)
    q = rng.normal(size=(1, 9, 6))
    turned = Rotary(omega).apply(q, at)
    for i in range(9):
        for n in range(3):
            a, b = q[0, i, 2 * n : 2 * n + 2]
            c, s = math.cos(omega[n] * i), math.sin(omega[n] * i)
            close(turned[0, i, 2 * n : 2 * n + 2], np.array([a * c - b * s, b * c + a * s]))
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
    own = {"all": [0, 0, 0], "later": [0, 1, 1], "none": [0, 1, 2]}[shared]
    crosses = [p["encoder"]["cross_attention"], *p["encoder"]["later_cross_attentions"]]
    blocks = [p["encoder"]["block"], *p["encoder"]["later_blocks"]]
    for example in range(2):
        z = p["encoder"]["latents"]
        for n in range(3):
            if n < 2:
                z = cross_attention(z, x[example], crosses[own[n]], 2, np.repeat(mask[example][None], 4, 0))
            for layer in blocks[own[n]]:
                z = self_attention(z, layer, 4)
        close(got[example], linear(z.mean(0), p["decoder"]["output"]))


@pytest.mark.parametrize("residual", [True, False])
def test_perceiver_io(residual: bool) -> None:
    encoder = Encoder(6, 4, 8, 2, 1, 2, 4, 6, 12, self_qk_channels=4, self_v_channels=8, conventions=PAPER)
    decoder = Decoder(8, 10, trainable_queries(5, 10), 3, 2, query_residual=residual, conventions=PAPER)
    model = PerceiverIO(encoder, decoder=decoder)
    p, x = drawn(model), np.random.default_rng(1).normal(size=(1, 9, 6))
    z = cross_attention(p["encoder"]["latents"], x[0], p["encoder"]["cross_attention"], 2)
    for _ in range(2):
        z = self_attention(z, p["encoder"]["block"][0], 4)
    queries = p["decoder"]["queries"]["table"]
    y = cross_attention(queries, z, p["decoder"]["cross_attention"], 2, residual=residual)
    close(model.apply(p, x)[0], linear(y, p["decoder"]["output"]))
    alone = linear(
        cross_attention(queries[3:4], z, p["decoder"]["cross_attention"], 2, residual=residual), p["decoder"]["output"]
    )
    close(model.apply(p, x)[0, 3:4], alone)


def test_perceiver_ar() -> None:
    model = PerceiverAR(11, 9, 5, 8, 2, 1, 2, conventions=PAPER, position_table=True)
    p, ids = drawn(model), np.random.default_rng(1).integers(0, 11, (1, 9))
    start = 4
    x = p["embedding"][ids[0]] + p["positions"]
    z = linear(x[start:], p["query"])
    before = np.arange(9)[None, :] <= np.arange(start, 9)[:, None]
    z = cross_attention(z, x, p["cross_attentions"][0], 1, before)
    for layer in p["layers"]:
        z = self_attention(z, layer, 2, before[:, start:])
    close(model.apply(p, ids, prefix=start)[0], linear(norm(z, p["norm"]), p["logits"]))


def test_perceiver_resampler() -> None:
    model = PerceiverResampler(8, 5, 2, 2, frames=3)
    p, features = drawn(model), np.random.default_rng(1).normal(size=(1, 2, 3, 4, 8))
    got = model.apply(p, features)
    assert model.conventions == FLAMINGO
    for medium in range(2):
        x = (features[0, medium] + p["time_embedding"][:, None]).reshape(12, 8)
        z = p["latents"]
        for layer in p["layers"]:
            both = np.concatenate([norm(x, layer["features_norm"]), norm(z, layer["latents_norm"])])
            z = z + attention(norm(z, layer["latents_norm"]), both, layer["attention"], 2)
            z = z + mlp(norm(z, layer["mlp_norm"]), layer["mlp"], squared_relu)
        close(got[0, medium], norm(z, p["norm"]))


def test_gated_cross_attention() -> None:
    model = GatedCrossAttention(8, 6, 2)
    p, rng = drawn(model), np.random.default_rng(1)
    x, media = rng.normal(size=(1, 7, 8)), rng.normal(size=(1, 3, 4, 6))
    tag = np.array([[False, True, False, False, True, True, False]])
    phi = np.array([[tag[0, : i + 1].sum() for i in range(7)]])
    got = model.apply(p, x, media, mask=media_mask(phi, media=3, tokens=4))
    mask = np.array([[j // 4 + 1 == phi[0, i] for j in range(12)] for i in range(7)])
    assert not mask[0].any()
    attended = attention(norm(x[0], p["norm"]), media[0].reshape(12, 6), p["attention"], 2, mask)
    y = x[0] + np.tanh(p["attention_gate"]) * attended
    y = y + np.tanh(p["mlp_gate"]) * mlp(norm(y, p["mlp_norm"]), p["mlp"], squared_relu)
    close(got[0], y)
    closed = {**p, "attention_gate": np.zeros(1), "mlp_gate": np.zeros(1)}
    assert np.array_equal(model.apply(closed, x, media), x)


def test_a_row_without_keys() -> None:
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=(3, 4)) for _ in range(3))
    mask = np.array([[True, False, True], [False, False, False], [True, True, True]])
    close(ops.attention(q, k, v, mask=mask, masked_rows="zero"), weights(q, k, mask) @ v)
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
