"""Updates by Adam and AdamW in blocks that stay in a core's cache, in place; the same bits as by the parts.

The parts make a dozen passes over arrays of their own. Here small parameters are joined to blocks, which cost the calls
of one, and large ones are cut.

Memory traffic: reads of p, g and both moments, writes of p and the moments, 28 bytes a float32 parameter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ...backend import Array
from ...optim.clipping import clip_factor
from ..fused import Chain
from . import rows, threads

BLOCK = 1 << 14
"""Elements of a block of one thread: seven arrays of 64 KiB of float32 fit a second-level cache of 1 MiB."""


_KINDS = {(np.ndarray, dtype) for dtype in rows.FLOATS}


class Block(NamedTuple):
    """What is computed as one: parameters, by number, or a piece of one; and its first element among all."""

    numbers: list[int]
    piece: slice
    place: int


def suits(given: Chain, leaves: Sequence[Sequence[Array]], counts: Sequence[int]) -> bool:
    """Whether the kernel is made for these (p, g, mean, square): of one element type and no subclass."""
    kinds = {(type(x), x.dtype) for group in leaves for x in group}
    return kinds <= _KINDS and len(kinds) == 1 and given.ratio is None and not given.adaptive["nesterov"]


def step(
    given: Chain,
    leaves: Sequence[Sequence[Array]],
    flags: Sequence[int],
    *,
    counts: Sequence[int],
    rate: float,
    max_norm: float | None,
) -> list[tuple[Array, Array, Array]]:
    """As `fused.Kernel.step`."""
    dtype = leaves[0][0].dtype
    factor = None if max_norm is None else clip_factor([g for _, g, *_ in leaves], max_norm).astype(dtype)
    sizes, kinds = [p.size for p, *_ in leaves], list(zip(flags, counts))
    parts = 1 if sum(sizes) <= rows.ALONE else threads.count()
    size = BLOCK if parts == 1 else rows.SHARED_BLOCK
    blocks, places = _blocks(sizes, kinds, size)
    cut = {i: [x.reshape(-1) for x in leaves[i]] for i, n in enumerate(sizes) if n > size}
    new = [np.empty(sum(sizes), dtype) for _ in range(3)]

    def work(share: Sequence[Block]) -> None:
        room = np.empty((6, size), dtype)
        for (i, *others), piece, place in share:
            if others:
                n, joined = sum(sizes[j] for j in (i, *others)), zip(*[leaves[j] for j in (i, *others)])
                old = [np.concatenate(column, axis=None, out=x[:n]) for column, x in zip(joined, room)]
            else:
                old = [x[piece] for x in cut[i]] if i in cut else [x.reshape(-1) for x in leaves[i]]
            n = len(old[0])
            made = [x[place : place + n] for x in new]
            _update(given, kinds[i], rate, factor, old, made, room[4:, :n])

    threads.spread(work, threads.cut(blocks, parts))
    shapes = [p.shape for p, *_ in leaves]
    views = ([x[a : a + n].reshape(shape) for a, n, shape in zip(places, sizes, shapes)] for x in new)
    return list(zip(*views))


def _update(
    given: Chain,
    kind: tuple[int, int],
    rate: float,
    factor: Array | None,
    old: Sequence[Array],
    new: Sequence[Array],
    room: Array,
) -> None:
    """New p, mean and square of a block, as `optim.parts` and `Optimizer` compute them, operation by operation."""
    (p, g, mean, square), (new_p, m, v), (u, s) = old, new, room
    (flag, t), a = kind, given.adaptive
    if factor is not None:
        g = np.multiply(g, factor, out=u)
    if given.before is not None and flag & 1:
        np.multiply(p, given.before["weight_decay"], out=s)
        g = np.add(g, s, out=u)
    np.multiply(mean, a["b1"], out=m)
    np.multiply(g, 1 - a["b1"], out=s)
    m += s
    np.multiply(square, a["b2"], out=v)
    np.multiply(g, 1 - a["b2"], out=s)
    s *= g
    v += s
    first, second = (1 - a["b1"] ** t, 1 - a["b2"] ** t) if a["bias_correction"] else (1.0, 1.0)
    np.divide(v, second, out=s)
    s += a["eps_root"]
    np.sqrt(s, out=s)
    s += a["eps"]
    np.divide(m, first, out=u)
    u /= s
    if given.after is not None and flag & 2:
        np.multiply(p, given.after["weight_decay"], out=s)
        u += s
    u *= -rate
    np.add(p, u, out=new_p)


def _blocks(sizes: Sequence[int], kinds: Sequence[Any], size: int) -> tuple[list[Block], list[int]]:
    """All of the work, in blocks of at most so many elements, each of one kind; and where each parameter goes."""
    made: list[Block] = []
    places, place, open_ = [0] * len(sizes), 0, False
    for i in sorted(range(len(sizes)), key=lambda i: kinds[i]):
        n, places[i] = sizes[i], place
        if open_ and kinds[made[-1].numbers[0]] == kinds[i] and place + n - made[-1].place <= size:
            made[-1].numbers.append(i)
        else:
            made += [Block([i], slice(start, start + size), place + start) for start in range(0, n, size)]
            open_ = n <= size
        place += n
    return made, places
