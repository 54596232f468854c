"""Perceiver IO in plain jax.numpy under `jax.jit`, written from the papers: the fastest known way to run it.

Perceiver IO, appendix E: attention is softmax(q k^T / sqrt(d)) v (eq. 1 to 4), a layer adds it and an MLP to its
queries, each after a norm (eq. 5 to 7). Weights are ours, in our trees; GELU is exact, as in the models beside it.
"""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np

from perceiver_ref.autograd import tree

from .base import Built, MissingError, Spec, sample, with_gradients
from .case import BOTH, FORWARD
from .cases import case
from .memory import process_peak, resident
from .subjects import cotangent, subject, weights


def build(spec: Spec) -> Built:
    """A jitted model of the case; compiling is part of its first call."""
    row = case(spec.case)
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    os.environ.setdefault("JAX_PLATFORMS", "cuda" if spec.backend == "cupy" else "cpu")
    try:
        import jax  # type: ignore[import-not-found]
    except ImportError as error:
        raise MissingError(f"{error.name} is not installed") from error
    if spec.backend == "cupy" and jax.default_backend() != "gpu":
        raise MissingError("JAX finds no GPU")
    if spec.backend == "cupy" and not spec.tf32:
        jax.config.update("jax_default_matmul_precision", "highest")
    made = subject(row.kind, row.sizes(spec.quick))
    model = {"imagenet": _imagenet, "language": _language}[row.kind](jax, made)
    params = tree.map(jax.device_put, weights(made.rebuild().model))
    arrays = {name: jax.device_put(_as_int32(a)) for name, a in made.inputs.items()}
    run = jax.jit(lambda p, x: model(p, **x))
    weight = jax.device_put(cotangent("out", run(params, arrays).shape))

    def loss(p: Any, x: Any) -> Any:
        out = model(p, **x)
        return (out * weight).sum(), out

    gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))

    def forward() -> Any:
        return jax.block_until_ready(run(params, arrays))

    def both() -> Any:
        return jax.block_until_ready(gradients(params, arrays))

    def summary_both(result: Any) -> np.ndarray:
        (_, out), grads = result
        squares = sum(float((np.asarray(g, np.float64) ** 2).sum()) for _, g in tree.leaves(grads))
        return with_gradients(sample({"out": np.asarray(out)}), squares)

    held, peak = resident(), process_peak(resident())
    if spec.backend == "cupy":
        device = jax.devices()[0]
        held = int(device.memory_stats()["bytes_in_use"])

        def peak(call: Any) -> int:  # the largest so far: forward is measured first
            call()
            return int(device.memory_stats()["peak_bytes_in_use"]) - held

    passes = {FORWARD: forward, BOTH: both}
    return Built(
        {name: call for name, call in passes.items() if name in row.passes},
        {FORWARD: lambda out: sample({"out": np.asarray(out)}), BOTH: summary_both},
        peak=peak,
        held=held,
        versions={"jax": jax.__version__},
    )


def _as_int32(array: np.ndarray) -> np.ndarray:
    return array.astype(np.int32) if array.dtype.kind == "i" else array


def linear(p: Any, x: Any) -> Any:
    """x W + b."""
    return x @ p["weight"] + p["bias"]


def layer_norm(p: Any, x: Any) -> Any:
    """The last axis with mean 0 and variance 1, scaled and shifted."""
    centred = x - x.mean(-1, keepdims=True)
    variance = (centred * centred).mean(-1, keepdims=True)
    return centred * (variance + 1e-5) ** -0.5 * p["scale"] + p["offset"]


def attention(jax: Any, p: Any, x: Any, z: Any, heads: int, mask: Any = None) -> Any:
    """x (B, N, D), z (B, M, C), mask (B, M) -> (B, N, D)."""
    q, k, v = (_split(linear(p[name], y), heads) for name, y in (("query", x), ("key", z), ("value", z)))
    scores = jax.numpy.einsum("bnhd,bmhd->bhnm", q, k) / math.sqrt(q.shape[-1])
    if mask is not None:
        scores = jax.numpy.where(mask[:, None, None, :], scores, -jax.numpy.inf)
    mixed = jax.numpy.einsum("bhnm,bmhd->bnhd", jax.nn.softmax(scores, axis=-1), v)
    return linear(p["output"], mixed.reshape(*x.shape[:2], -1))


def _split(x: Any, heads: int) -> Any:
    return x.reshape(*x.shape[:2], heads, -1)


def _mlp(jax: Any, p: Any, x: Any) -> Any:
    hidden = jax.nn.gelu(linear(p["mlp"]["hidden"], layer_norm(p["mlp_norm"], x)), approximate=False)
    return x + linear(p["mlp"]["output"], hidden)


def cross_attention(jax: Any, p: Any, x: Any, z: Any, heads: int, mask: Any = None, residual: bool = True) -> Any:
    """A layer in which x attends to z."""
    normed = layer_norm(p["query_norm"], x), layer_norm(p["key_value_norm"], z)
    attended = attention(jax, p["attention"], *normed, heads, mask)
    return _mlp(jax, p, x + attended if residual else attended)


def self_attention(jax: Any, p: Any, x: Any, heads: int) -> Any:
    """A layer in which x attends to itself."""
    normed = layer_norm(p["norm"], x)
    return _mlp(jax, p, x + attention(jax, p["attention"], normed, normed, heads))


def _imagenet(jax: Any, made: Any) -> Any:
    """Pixels with Fourier features -> latents -> logits of the classes (appendix I)."""
    blocks, heads = made.config["num_blocks"], made.config["num_self_attention_heads"]
    features = fourier(made.inputs["inputs"].shape[2:], 64, 224)

    def model(p: Any, inputs: Any) -> Any:
        b, c = inputs.shape[:2]
        pixels = inputs.reshape(b, c, -1).transpose(0, 2, 1)
        x = jax.numpy.concatenate([pixels, jax.numpy.broadcast_to(features, (b, *features.shape))], -1)
        latents = jax.numpy.broadcast_to(p["encoder"]["latents"], (b, *p["encoder"]["latents"].shape))
        latents = cross_attention(jax, p["encoder"]["cross_attention"], latents, x, 1)
        for _ in range(blocks):
            for layer in p["encoder"]["block"]:
                latents = self_attention(jax, layer, latents, heads)
        queries = p["decoder"]["queries"]["table"]
        queries = jax.numpy.broadcast_to(queries, (b, *queries.shape))
        decoded = cross_attention(jax, p["decoder"]["cross_attention"], queries, latents, 1)
        return linear(p["decoder"]["output"], decoded)[:, 0]

    return model


def fourier(size: tuple[int, ...], bands: int, resolution: int) -> np.ndarray:
    """Positions from -1 to 1, then sin(pi f x) and cos(pi f x) of each axis, f from 1 to half the resolution."""
    axes = [np.linspace(-1, 1, n, dtype=np.float32) for n in size]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(size))
    frequencies = np.linspace(1, resolution / 2, bands, dtype=np.float32)
    angles = (grid[..., None] * frequencies * np.float32(np.pi)).reshape(len(grid), -1)
    return np.concatenate([grid, np.sin(angles), np.cos(angles)], -1)


def _language(jax: Any, made: Any) -> Any:
    """Bytes -> latents -> logits of every byte, by the transposed embedding (appendix F)."""

    def model(p: Any, inputs: Any, attention_mask: Any) -> Any:
        b = len(inputs)
        x = p["input"]["embedding"][inputs] + p["input"]["positions"]["table"]
        latents = jax.numpy.broadcast_to(p["encoder"]["latents"], (b, *p["encoder"]["latents"].shape))
        latents = cross_attention(jax, p["encoder"]["cross_attention"], latents, x, 8, attention_mask != 0)
        for layer in p["encoder"]["block"]:
            latents = self_attention(jax, layer, latents, 8)
        queries = p["decoder"]["queries"]["table"]
        queries = jax.numpy.broadcast_to(queries, (b, *queries.shape))
        decoded = cross_attention(jax, p["decoder"]["cross_attention"], queries, latents, 8, residual=False)
        return decoded @ p["input"]["embedding"].T + p["output"]["bias"]

    return model
