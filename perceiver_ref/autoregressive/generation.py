"""Drawing tokens one after the other from a `PerceiverAR`, keeping keys and values between them."""

from __future__ import annotations

import numpy as np

from ..autograd.backend import Array, to_host, xp
from ..autograd.tree import Tree
from ..errors import InputError
from ..inputs.text import check_ids
from ..masks import check_mask
from ..sampling import sample
from .model import Memory, PerceiverAR


def generate(
    model: PerceiverAR,
    params: Tree,
    ids: Array,
    count: int,
    *,
    latents: int = 1,
    mask: Array | None = None,
    rng: np.random.Generator | None = None,
    temperature: float = 1.0,
    top_p: float = 1.0,
    stop: int | None = None,
    cache: bool = True,
) -> Array:
    """Prompts (B, M), each followed by up to `count` drawn tokens: (B, M + count), or less when all have stopped.

    The last `latents` tokens of the prompt are its first latents, and every drawn token is one more. When the model's
    latents are used up, the sequence starts anew with `latents` of them; when the model's length is used up, it also
    leaves out its oldest tokens, as many as there is then room for latents. Every token is drawn from the logits of
    `PerceiverAR.apply` on that window. Without `cache` these are computed in full for every token.

    mask (B, M): True where a prompt's token is real; padding is on the left. rng, temperature, top_p: see `sample`.
    stop: a token after which a sequence is only filled up with it. Raises `InputError` as `apply` and `sample` do.
    """
    check_ids(ids, model.vocabulary)
    if count < 0 or not ids.shape[1]:
        raise InputError(f"generation needs a prompt of at least one token and a count from 0, got {count}")
    if not 1 <= latents <= model.latents:
        raise InputError(f"latents must be at least 1 and at most the model's {model.latents}, got {latents}")
    if stop is not None and not 0 <= stop < model.vocabulary:
        raise InputError(f"stop must be a token in [0, {model.vocabulary}), got {stop}")
    library = xp(ids)
    mask = library.ones(ids.shape, bool) if mask is None else check_mask(mask, tuple(ids.shape), "mask")
    done = library.zeros(ids.shape[0], bool)
    memory: Memory | None = None
    start = 0  # of the window
    for _ in range(count):
        total = ids.shape[1]
        if memory is None or _used_up(model, memory, total - start):
            start = _start(model, total, latents)
            prefix, seen, memory = max(total - start - latents, 0), start, None
        else:
            prefix, seen = memory.prefix, total - 1
        old = memory if cache else None
        since = seen if cache else start
        logits, memory = model.extend(params, ids[:, since:], old, prefix=prefix, mask=mask[:, since:])
        drawn = sample(logits[:, -1], rng, temperature=temperature, top_p=top_p)
        if stop is not None:
            drawn = library.where(done, stop, drawn)
            done = done | (drawn == stop)
        ids = library.concatenate([ids, drawn[:, None].astype(ids.dtype)], 1)
        mask = library.concatenate([mask, library.ones((len(ids), 1), bool)], 1)
        if stop is not None and bool(to_host(done).all()):
            break
    return ids


def _used_up(model: PerceiverAR, memory: Memory, window: int) -> bool:
    """Whether a window of so many tokens no longer fits the model."""
    return window > model.length or window - memory.prefix > model.latents


def _start(model: PerceiverAR, total: int, latents: int) -> int:
    """Where the window of a sequence of so many tokens begins that has its latents to come."""
    if total <= model.length:
        return 0
    return total - max(latents, model.length - model.latents + latents)
