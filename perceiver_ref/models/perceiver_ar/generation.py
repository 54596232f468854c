"""Tokens drawn one after the other from a `PerceiverAR`, with keys and values kept between them."""

from __future__ import annotations

import numpy as np

from ...autograd.backend import Array, to_host, xp
from ...autograd.tree import Tree
from ...errors import InputError
from ..inputs.text import check_ids
from ..masks import check_mask
from ..sampling import sample
from .model import Memory, PerceiverAR


def generate(
    model: PerceiverAR,
    params: Tree,
    ids: Array,
    *,
    most: int,
    latents: int = 1,
    mask: Array | None = None,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    stop: int | None = None,
    cached: bool = True,
) -> Array:
    """Prompts (B, M) and up to `most` new tokens after each: (B, M + most), or less where all have stopped.

    The last `latents` tokens of the prompt are its first latents, and every new token is one more. When the model's
    latents are used up, the sequence starts anew with `latents` of them; when its length is used up, the oldest tokens
    are left out too, so that there is room for all latents again. Every token is drawn from the logits of
    `PerceiverAR.apply` on that window; without `cached` all of it is computed again for each token.

    mask (B, M): True where a prompt's token is real; padding is on the left. Sampling (see `models.sampling`)
    draws for prompt b from the stream (seed, b), so that what comes for one does not depend on the others. stop: the
    token at which a sequence ends; it is repeated until all have. Raises `InputError` as `apply` and `sample` do.
    """
    check_ids(ids, model.vocabulary)
    if most < 0 or not ids.shape[1]:
        raise InputError(f"generation needs a prompt of at least one token, and most from 0; got most {most}")
    if not 1 <= latents <= model.latents:
        raise InputError(f"latents must be at least 1 and at most the model's {model.latents}, got {latents}")
    if stop is not None and not 0 <= stop < model.vocabulary:
        raise InputError(f"stop must be a token in [0, {model.vocabulary}), got {stop}")
    library = xp(ids)
    mask = library.ones(ids.shape, bool) if mask is None else check_mask(mask, tuple(ids.shape), "mask")
    streams = [np.random.default_rng([seed, b]) for b in range(len(ids))]
    done = library.zeros((len(ids), 1), bool)
    memory: Memory | None = None
    start = 0  # of the window
    for _ in range(most):
        total = ids.shape[1]
        if memory is None or _used_up(model, memory, total - start):
            start = _start(model, total, latents)
            memory, prefix, new = None, max(total - start - latents, 0), start
        else:
            prefix, new = memory.prefix, total - 1 if cached else start
        kept = memory if cached else None
        logits, memory = model.extend(params, ids[:, new:], kept, prefix=prefix, mask=mask[:, new:])
        pairs = zip(logits[:, -1], streams)
        drawn = library.stack([sample(row, rng, temperature=temperature, top_p=top_p) for row, rng in pairs])
        drawn = drawn[:, None].astype(ids.dtype)
        if stop is not None:
            drawn = library.where(done, library.asarray(stop, ids.dtype), drawn)
            done = done | (drawn == stop)
        ids = library.concatenate([ids, drawn], 1)
        mask = library.concatenate([mask, library.ones((len(ids), 1), bool)], 1)
        if stop is not None and bool(to_host(done).all()):
            break
    return ids


def _used_up(model: PerceiverAR, memory: Memory, window: int) -> bool:
    """Whether a window of so many tokens no longer fits the model."""
    return window > model.length or window - memory.prefix > model.latents


def _start(model: PerceiverAR, total: int, latents: int) -> int:
    """Where the window begins of a sequence of so many tokens that starts anew."""
    return 0 if total <= model.length else total - (model.length - model.latents + latents)
