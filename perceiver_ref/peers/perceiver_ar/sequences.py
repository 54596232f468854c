"""Sequences that end at their first token 0: lengths, positions counted from the end, latents, masks.

Shapes: B sequences, T tokens, n latent positions, N = n times the latents per position.
"""

from __future__ import annotations

from typing import Any

from ...autograd.backend import Array, xp
from ...host.memory import require


def lengths(ids: Array) -> Array:
    """The number of tokens before the first 0 of each row: (B, T) -> (B,), int64."""
    library = xp(ids)
    empty = ids == 0
    return library.where(empty.any(1), empty.argmax(1), ids.shape[1]).astype(library.int64)


def terminal_relative(positions: Array, ids: Array) -> Array:
    """Positions in reverse order, so that a row's first one is at its last token: (B, T), (B, T) -> (B, T).

    [0, 1, ..., T - 1] becomes [L - 1, ..., 1, 0, T - 1, ..., L] for L tokens.
    """
    library = xp(ids)
    total = ids.shape[1]
    behind = (library.arange(total)[None] - lengths(ids)[:, None]) % total
    return library.take_along_axis(positions, total - 1 - behind, 1)


def truncated(ids: Array) -> Array:
    """The rows without their last token: 0 in its place."""
    library = xp(ids)
    last = library.maximum(lengths(ids) - 1, 0)[:, None]
    return library.where(library.arange(ids.shape[1])[None] == last, library.zeros((), ids.dtype), ids)


def last_steps(ids: Array, count: int) -> Array:
    """Where the last `count` tokens of each row are, -1 for those before its beginning: (B, count), int64."""
    library = xp(ids)
    return library.maximum(lengths(ids)[:, None] + library.arange(-count, 0)[None], -1)


def causal_masks(ids: Array, latents: int, per_position: int) -> tuple[Array, Array, Array]:
    """(inputs' (B, N, T), latents' (B, N, N), both True = attend, steps (B, n)) of `latents` latents, N.

    A latent sees the tokens other than 0 up to its step, the latents up to its step that are in the sequence, and
    always itself.
    """
    library = xp(ids)
    require(f"masks of {latents:,} latents", len(ids) * latents * (latents + ids.shape[1]))
    steps = last_steps(ids, latents // per_position)
    every = library.repeat(steps, per_position, 1)  # (B, N)
    inputs = (every[:, :, None] >= library.arange(ids.shape[1])) & (ids > 0)[:, None, :]
    among = (every[:, :, None] >= every[:, None, :]) & (every >= 0)[:, None, :]
    return inputs, among | library.eye(latents, dtype=bool), steps


def mask_output(mask: Array) -> Any:
    """A mask as this code gives it: (B, 1, N, M), numbers."""
    return mask[:, None].astype("int32")
