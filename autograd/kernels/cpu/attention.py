"""Attention in tiles of scores that stay in a core's cache, a few heads at a time, spread over threads.

Online softmax (Milakov and Gimelshein 2018, arXiv 1805.02867, algorithm 3; Dao et al. 2022, arXiv 2205.14135,
algorithms 1 and 4): each query keeps a running maximum and a running sum over tiles of keys; the way back computes
each tile's weights again from the log of the row's sum. No array of queries x keys is made.

Memory traffic: q, k, v and the result, k and v once for every 512 queries. The products are the limit: scores of 128
channels a head take 5.6 ns each of multiplication, and 1.1 of exponential and sum; 1.2 more if a maximum is needed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...backend import Array
from ...ops.attention import MaskedRows, check_shapes, keep_used, scale_factor, slopes
from ..attention import without_empty_rows
from . import rows, threads

TILE = (512, 512)
"""Queries and keys of a tile: 1 MiB of float32 scores, the most that stays in a second-level cache. Calls on smaller
tiles are so short that threads wait for the interpreter's lock between them: a tenth of the time at half the size."""

SMALL = 1 << 17
"""Problems of at most so many scores go to the definition."""

STEADY = 30.0
"""Scores of at most this size: the sum of 1e10 exponentials of them is far from overflow, and none underflows."""

Index = tuple[Any, ...]
Item = tuple[Index, slice]


def forward(
    q: Array,
    k: Array,
    v: Array,
    bias: Array | None = None,
    *,
    mask: Array | None = None,
    scale: float | None = None,
    masked_rows: MaskedRows = "zero",
) -> Any:
    """As `ops.attention.attention`."""
    if not _serves(q, k, v):
        return NotImplemented
    check_shapes(q, k, bias, mask)
    p = Problem.of(q, k, v, bias, mask, scale, masked_rows)
    out = _like(q, (*p.lead, p.n, v.shape[-1]))
    log_sum = np.empty((*p.lead, p.n, 1), q.dtype)
    tiles = p.tiles()

    def work(share: Sequence[Item]) -> None:
        room, seen, reach = tiles.room(q.dtype), None, np.inf
        for index, a in share:
            if p.bias is None and index != seen:
                seen, reach = index, _length(p.k[index])
            log_sum[(*index, a)] = _attend(p, index, a, tiles, room, reach, out[(*index, a)])

    items = [(index, a) for index in tiles.heads(p.lead) for a in _ranges(0, p.n, tiles.rows)]
    threads.spread(work, threads.cut(items, threads.count()), p.size)
    return out, (q, k, v, bias, out, log_sum)


def backward(
    g: Array,
    q: Array,
    k: Array,
    v: Array,
    bias: Array | None,
    out: Array,
    log_sum: Array,
    *,
    mask: Array | None,
    scale: float | None,
    masked_rows: MaskedRows,
    needs: tuple[bool, ...],
) -> Any:
    """As the backward rule of `ops.attention.attention`."""
    p = Problem.of(q, k, v, bias, mask, scale, masked_rows)
    g = without_empty_rows(g, log_sum, bias, mask)
    dq, dk, dv = (_like(x, (*p.lead, *x.shape[-2:])) for x in (q, k, v))
    dbias = np.empty((*p.lead, p.n, p.m), q.dtype) if len(needs) > 3 and needs[3] else None
    tiles = p.tiles()
    heads = tiles.heads(p.lead)
    parts = -(-threads.count() // len(heads))
    way = Way(p, tiles, g, out, np.broadcast_to(log_sum, (*p.lead, p.n, 1)), dbias)

    def work(share: Sequence[Sequence[Any]]) -> None:
        room = (tiles.room(q.dtype), tiles.room(q.dtype))
        for index, a, b, own in share:
            way.back(index, a, b, room, *own)

    # with fewer heads than threads, the longer side is divided, and each part has its own sums of the shorter one
    queries, keys = [slice(0, p.n)], [slice(0, p.m)]
    if p.n >= p.m:
        queries = _ranges(0, p.n, -(-p.n // parts))
    else:
        keys = _ranges(0, p.m, -(-p.m // parts))
    items, sums = [], []
    for index in heads:
        for i, (a, b) in enumerate(itertools.product(queries, keys)):
            own = [dq[(*index, a)], dk[(*index, b)], dv[(*index, b)]]
            for j in [1, 2] if len(queries) > 1 else [0]:
                if i:
                    target, own[j] = own[j], np.empty_like(own[j])
                    sums.append((target, own[j]))
            items.append((index, a, b, own))
    threads.spread(work, threads.cut(items, threads.count()), p.size)
    for target, part in sums:
        target += part
    return dq, dk, dv, dbias


@dataclass(frozen=True)
class Tiles:
    """Sizes of a tile: heads, queries, keys."""

    group: int
    rows: int
    columns: int

    def room(self, dtype: Any) -> Array:
        """Room for the scores of one tile."""
        return np.empty(self.group * self.rows * self.columns, dtype)

    def heads(self, lead: tuple[int, ...]) -> list[Index]:
        """Indices of groups of heads, neighbours on the last leading axis."""
        if not lead:
            return [()]
        return [(*i, h) for i in np.ndindex(*lead[:-1]) for h in _ranges(0, lead[-1], self.group)]


def tiles(lead: tuple[int, ...], n: int, m: int, workers: int) -> Tiles:
    """Full tiles where there is enough work, with at least one for each thread: of leading axes, queries and keys."""
    size = TILE[0] * TILE[1]
    columns = min(m, max(TILE[1], size // min(n, TILE[0])))
    queries = min(n, max(TILE[0], size // columns))
    outer, heads = math.prod(lead[:-1]), lead[-1] if lead else 1
    group = min(heads, max(1, size // (queries * columns)))
    while group > 1 and outer * -(-heads // group) < workers:
        group -= 1
    pieces = -(-workers // (outer * -(-heads // group)))
    return Tiles(group, min(queries, -(-n // pieces)), columns)


def scores_held(q: Array, k: Array, v: Array) -> int:
    """How many scores a thread holds at a time, going forward: those of one tile, or all where the definition serves.

    q (..., N, d), k (..., M, d), v (..., M, e), of which shapes and dtypes count; on a single thread, so that the
    number is the same on every machine.
    """
    lead = np.broadcast_shapes(q.shape[:-2], k.shape[:-2], v.shape[:-2])
    n, m = int(q.shape[-2]), int(k.shape[-2])
    half = q.dtype == k.dtype == v.dtype == np.float16  # which comes as float32
    if not (math.prod(lead) * n * m > SMALL if half else _serves(q, k, v)):
        return math.prod(lead) * n * m
    tile = tiles(lead, n, m, workers=1)
    return tile.group * tile.rows * tile.columns


@dataclass(frozen=True)
class Problem:
    """The arguments, broadcast to the same leading axes without copies; keys and values cleared where none attends."""

    q: Array
    k: Array
    v: Array
    bias: Array | None
    closed: Array | None
    """Which scores are masked."""
    none: Array | None
    """Which queries have no key, where those are averages of all values."""
    added: bool
    """Whether masked scores have a slope in such averages."""
    factor: float
    lead: tuple[int, ...]

    @classmethod
    def of(cls, q: Array, k: Array, v: Array, bias: Array | None, mask: Array | None, scale: Any, rows: Any) -> Problem:
        """The sizes and options of one call."""
        n, m = q.shape[-2], k.shape[-2]
        both = [x.shape[:-2] for x in (q, k, v, bias, mask) if x is not None]
        lead = both[0] if len(set(both)) == 1 else np.broadcast_shapes(*both)
        closed = None if mask is None else ~mask
        none = None if closed is None or rows == "zero" else closed.all(-1, keepdims=True)
        cleared = (q, keep_used(k, mask, slopes(rows)), keep_used(v, mask, rows))
        q, k, v = (x if x.shape[:-2] == lead else np.broadcast_to(x, (*lead, *x.shape[-2:])) for x in cleared)
        bias, closed = (None if x is None else np.broadcast_to(x, (*lead, n, m)) for x in (bias, closed))
        none = None if none is None else np.broadcast_to(none, (*lead, n, 1))
        return cls(q, k, v, bias, closed, none, rows == "added", scale_factor(q, scale), lead)

    @property
    def n(self) -> int:
        """The number of queries."""
        return int(self.q.shape[-2])

    @property
    def m(self) -> int:
        """The number of keys."""
        return int(self.k.shape[-2])

    @property
    def size(self) -> int:
        """The number of multiplications."""
        return math.prod(self.lead) * self.n * self.m * int(self.q.shape[-1] + self.v.shape[-1])

    def tiles(self) -> Tiles:
        """The tiles of this call."""
        return tiles(self.lead, self.n, self.m, threads.count())

    def scores(self, index: Index, q: Array, a: slice, b: slice, room: Array) -> Array:
        """scale q k^T + bias of one tile, -inf where masked, in `room`; `q` are the queries a, times the scale."""
        k = self.k[(*index, b)].swapaxes(-1, -2)
        shape = (*q.shape[:-1], k.shape[-1])
        s = np.matmul(q, k, out=room[: q[..., 0].size * shape[-1]].reshape(shape))
        self.masked(s, index, a, b)
        return s

    def masked(self, s: Array, index: Index, a: slice, b: slice) -> None:
        """Add the bias to the products of one tile, and put -inf where they are masked."""
        if self.bias is not None:
            s += self.bias[(*index, a, b)]
        if self.closed is not None:
            np.copyto(s, -np.inf, where=self.closed[(*index, a, b)])
        if self.none is not None:
            np.copyto(s, 0, where=self.none[(*index, a)])

    def flat(self, index: Index, a: slice, b: slice) -> Array | None:
        """Which scores of a tile have no slope; None without a mask."""
        if self.closed is None:
            return None
        closed = self.closed[(*index, a, b)]
        return closed & ~self.none[(*index, a)] if self.added and self.none is not None else closed


def _attend(p: Problem, index: Index, a: slice, tiles: Tiles, room: Array, reach: float, out: Array) -> Array:
    """The result of the queries `a` into `out`, tile after tile of keys; returns the logs of their sums.

    `reach`: the length of the longest key, which bounds the scores. Where they are small, their exponentials need no
    maximum taken off. Products go into a matrix in one piece, whose rows BLAS reaches sooner than those of a head.
    """
    q, mixed = p.q[(*index, a)] * p.factor, np.empty(out.shape, out.dtype)
    small = _length(q) * reach <= STEADY
    top = total = np.zeros((), q.dtype)
    for b in _ranges(0, p.m, tiles.columns):
        s = p.scores(index, q, a, b, room)
        before = top
        if not small:
            top = s.max(-1, keepdims=True)
            top = np.maximum(top, before) if b.start else top
            s -= np.where(top == -np.inf, 0, top)
        np.exp(s, out=s)
        sums = s @ np.ones((s.shape[-1], 1), s.dtype)
        if not b.start:
            total = sums
            np.matmul(s, p.v[(*index, b)], out=mixed)
            continue
        if not small:
            shrink = np.exp(before - np.where(top == -np.inf, 0, top))
            total *= shrink
            mixed *= shrink
        total += sums
        mixed += s @ p.v[(*index, b)]
    empty = total == 0
    total[empty] = 1
    np.divide(mixed, total, out=out)
    return np.where(empty, np.inf, np.log(total) + np.where(empty, 0, top))


def _length(x: Array) -> float:
    """Of the longest row: NaN or infinity if any number is."""
    with np.errstate(over="ignore", invalid="ignore"):  # then it is not small, and the scores will tell
        return float(np.sqrt(np.vecdot(x, x).max()))


@dataclass(frozen=True)
class Way:
    """The way back: what all tiles need."""

    p: Problem
    tiles: Tiles
    g: Array
    out: Array
    log_sum: Array
    dbias: Array | None

    def back(
        self, index: Index, queries: slice, keys: slice, room: tuple[Array, Array], dq: Array, dk: Array, dv: Array
    ) -> None:
        """Gradients of the queries and keys given, from what they have to do with each other."""
        p = self.p
        for a in _ranges(queries.start, queries.stop, self.tiles.rows):
            g, q = self.g[(*index, a)], p.q[(*index, a)] * p.factor
            inner = np.vecdot(g, self.out[(*index, a)])[..., None]
            dq_a = np.empty(q.shape, q.dtype)  # in one piece
            for b in _ranges(keys.start, keys.stop, self.tiles.columns):
                weights = p.scores(index, q, a, b, room[0])
                weights -= self.log_sum[(*index, a)]
                np.exp(weights, out=weights)
                ds = room[1][: weights.size].reshape(weights.shape)
                np.matmul(g, p.v[(*index, b)].swapaxes(-1, -2), out=ds)
                ds -= inner
                ds *= weights
                here = slice(b.start - keys.start, b.stop - keys.start)
                _add(dv[..., here, :], weights.swapaxes(-1, -2), g, first=a.start == queries.start)
                if (flat := p.flat(index, a, b)) is not None:
                    np.copyto(ds, 0, where=flat)
                if self.dbias is not None:
                    self.dbias[(*index, a, b)] = ds
                _add(dq_a, ds, p.k[(*index, b)], first=b.start == keys.start)
                _add(dk[..., here, :], ds.swapaxes(-1, -2), q, first=a.start == queries.start)
            np.multiply(dq_a, p.factor, out=dq[..., a.start - queries.start : a.stop - queries.start, :])


def _add(target: Array, x: Array, y: Array, *, first: bool) -> None:
    """target += x y, or target = x y the first time."""
    if first:
        np.matmul(x, y, out=target)
    else:
        target += x @ y


def _like(x: Array, shape: tuple[int, ...]) -> Array:
    """An empty array, laid out as x where x has heads split off its channels, so that joining them needs no copy."""
    if x.ndim < 3 or len(shape) < 3 or x.strides[-3] >= x.strides[-2]:
        return np.empty(shape, x.dtype)
    return np.empty((*shape[:-3], shape[-2], shape[-3], shape[-1]), x.dtype).swapaxes(-3, -2)


def _ranges(start: int, stop: int, step: int) -> list[slice]:
    return [slice(i, min(i + step, stop)) for i in range(start, stop, step)]


def _serves(q: Array, k: Array, v: Array) -> bool:
    """Whether the problem is large, and of one floating-point type."""
    if not (q.dtype == k.dtype == v.dtype and q.dtype in rows.FLOATS):
        return False
    if min(q.ndim, k.ndim, v.ndim) < 2:
        return False
    scores = q.shape[-2] * k.shape[-2] * max(math.prod(x.shape[:-2]) for x in (q, k, v))
    return bool(scores > SMALL)
