"""MiniCPM-V's resamplers, as vLLM 0.32.0 has them (`layers/resampler.py`, `models/minicpmv.py`): 2.0, 2.5 and 4.5.

Learned queries attend once to the mapped and normed patches of an image; a norm and a last map follow. Sines and
cosines of a patch's place, the column's before the row's, are added to what keys are made of, never to values. 2.0,
which is Qwen-VL's, adds a table to queries, too, and resizes it for keys; 4.5 adds sines of a frame's time, and reads
all frames of a group as one. The names are those of OpenBMB's checkpoints below `resampler.`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np

from ..autograd import ops
from ..autograd.backend import to_host, xp
from ..autograd.core import array_of
from ..autograd.handlers import Step
from ..autograd.tree import Tree
from ..errors import InputError, shortened
from ..models.call import Call
from ..models.conventions import POOLER_DIALECTS
from ..models.module import Parameter, truncated_normal, variant
from ..models.resamplers import AttentionPool
from ..models.resize import resize_bicubic
from .base import Arguments, Given, Option, Outputs, Peer, Rebuilt, check_axes, options, positive, read_call
from .masks import masked_out, spoilt
from .names import NORM, Rows, Table, bind, inside, same, transposed
from .open_clip import MULTIHEAD

_SIZE = Option(int, required=True)
_BASE: dict[str, Any] = {"embed_dim": _SIZE, "num_heads": _SIZE, "kv_dim": Option(int)}
_OLD = {**_BASE, "grid_size": _SIZE, "adaptive": False, "do_post_projection": True}
_NEW = {**_BASE, "num_queries": _SIZE, "max_size": (70, 70)}
_TIMED = {**_NEW, "max_temporal_size": 36_000}
_LONGEST = 10_000.0
_NAMES: Table = {
    "latents": ("query", same),
    "query_positions": ("pos_embed", same),
    "input/weight": ("kv_proj.weight", transposed),
    "latents_norm": ("ln_q", NORM),
    "features_norm": ("ln_kv", NORM),
    "attention": ("attn", MULTIHEAD),
    "norm": ("ln_post", NORM),
    "output/weight": ("proj", same),
}
_POINTS: Rows = inside(
    "",
    "pool",
    [
        ("kv_proj", "projected"),
        ("ln_q", "latents_norm"),
        ("ln_kv", "features_norm"),
        (r"attn(?:\.out_proj)?", "attention.queries_first"),
        ("ln_post", "norm"),
    ],
)


class PlacedPool(AttentionPool):
    """A pool whose queries have places, too: a table of one row a query, added to them (2.0)."""

    def parameters(self) -> Tree:
        return {**super().parameters(), "query_positions": Parameter(self.rows, truncated_normal(0.02))}

    def apply(self, p: Tree, features: Any, **options: Any) -> Any:
        """As `AttentionPool.apply`, with the table's positions of queries."""
        return super().apply(p, features, query_positions=p["query_positions"], **options)


@Step
def sinusoids(places: Any, channels: int, dtype: Any) -> np.ndarray:
    """Places (...) -> (..., channels): sin(p w), then cos(p w), w_i = 10000^(-2 i / channels)."""
    half = channels // 2
    waves = 1 / np.dtype(dtype).type(_LONGEST) ** (np.arange(half, dtype=dtype) / dtype(half))
    angles = np.asarray(places, dtype)[..., None] * waves
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=-1)


@Step
def grid_sinusoids(height: int, width: int, channels: int, dtype: Any) -> np.ndarray:
    """(height width, channels), row-major: half of the channels for the column, then half for the row."""
    rows, columns = np.divmod(np.arange(height * width), max(width, 1))
    return np.concatenate([sinusoids(x, channels // 2, dtype) for x in (columns, rows)], axis=-1)


@Step
def values_of(inner: Any, places: np.ndarray) -> Any:
    """What values are made of, (F, S, D): the patches, whose places in the grid (F, S, D) are for keys alone."""
    return inner


@Step
def time_sinusoids(times: np.ndarray, channels: int, dtype: Any) -> np.ndarray:
    """Times (F,) of frames -> (F, channels); 0 for a frame without a time, which is -1."""
    return np.where(times >= 0, sinusoids(times, channels, dtype).T, 0).T


def _pool(chosen: Mapping[str, Any], queries: int, *, ended: bool = True) -> AttentionPool:
    width, features = positive("embed_dim", chosen["embed_dim"]), chosen["kv_dim"]
    if width % 4:
        raise InputError(f"embed_dim ({width}) must be divisible by 4: sines and cosines of two axes")
    projected = features is not None and features != width
    return AttentionPool(
        features=features if projected else width,
        channels=width,
        latents=queries,
        heads=positive("num_heads", chosen["num_heads"]),
        projection="linear" if projected else "none",
        norms="before",
        end="norm" if ended else "none",
        last=width if ended else None,
        conventions=POOLER_DIALECTS["minicpmv"],
    )


def _rebuilt(model: AttentionPool, run: Any, ignored: tuple[str, ...] = ()) -> Rebuilt:
    return Rebuilt(model, bind(model.parameters(), _NAMES), run, _POINTS, ignored=ignored)


def _arithmetic(x: Any) -> Any:
    """The type in which tables of sines are computed."""
    return np.float64 if array_of(x).dtype == np.float64 else np.float32


def _like(table: np.ndarray, x: Any) -> Any:
    data = array_of(x)
    return xp(data).asarray(table.astype(data.dtype))


def _old(given: Given) -> Rebuilt:
    """Resampler2: the table of queries, resized to the image's grid for keys, or with `adaptive` sines of that grid.

    `do_post_projection`: whether norm and map follow. The grid, `tgt_sizes`, is square unless given.
    """
    what = "Resampler2"
    chosen = options(what, given.config, _OLD)
    side, adaptive = positive("grid_size", chosen["grid_size"]), chosen["adaptive"]
    model = variant(_pool(chosen, side * side, ended=chosen["do_post_projection"]), PlacedPool)

    def run(model: Any, params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        names = {"x", "tgt_sizes", "attn_mask"}
        values, wanted = read_call(what, arguments, called, names, {"tgt_sizes": None}, ["x"])
        x = values["x"]
        check_axes("x", x, "batch, patches, dim")
        target = _grid(values.get("tgt_sizes", wanted["tgt_sizes"]), x.shape[1])
        own = params["query_positions"]
        keys: Any = own
        if adaptive:
            keys = _like(grid_sinusoids(*target, model.channels, _arithmetic(x)), x)
        elif target != (side, side):
            keys = resize_bicubic(own, (side, side), target)
        masks = _mask(values.get("attn_mask"), x, model)
        return {"out": model.apply(params, x, key_positions=keys, **masks)}

    return _rebuilt(model, run)


def _grid(given: Any, patches: int) -> tuple[int, int]:
    """(height, width) of an image of so many patches; a number is the side of a square, and so is none given."""
    if given is None:
        given = math.isqrt(patches)
    sizes = to_host(array_of(given)).tolist() if hasattr(given, "shape") else given
    pair = [sizes, sizes] if isinstance(sizes, int) else sizes
    whole = isinstance(pair, (list, tuple)) and len(pair) == 2 and all(type(n) is int and n > 0 for n in pair)
    if not whole or pair[0] * pair[1] != patches:
        raise InputError(f"tgt_sizes must be (height, width) of the {patches} patches, got {shortened(sizes)}")
    return pair[0], pair[1]


def _mask(mask: Any, x: Any, model: AttentionPool) -> dict[str, Any]:
    """attn_mask (N, S), or (B H, N, S): True leaves out, numbers are added; a row without any key is NaN."""
    if mask is None:
        return {}
    batch, one = x.shape[0], (model.latents, x.shape[1])
    if tuple(mask.shape) not in (one, (batch * model.heads, *one)):
        raise InputError(f"attn_mask must be (queries, patches) = {one}, got {tuple(mask.shape)}")
    every = ops.reshape(mask, shape=(1, 1, *one) if len(mask.shape) == 2 else (batch, model.heads, *one))
    return masked_out("attn_mask", every, array_of(x).dtype)


def _new(given: Given) -> Rebuilt:
    """Resampler2_5: `tgt_sizes` (B, 2) are the rows and columns of each image's patches; the rest of x is padding.

    `max_size` is where a table begins that grows; it changes nothing. An image without patches gives NaN.
    """
    what = "Resampler2_5"
    chosen = options(what, given.config, _NEW)

    def run(model: Any, params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        values, _ = read_call(what, arguments, called, {"x", "tgt_sizes"}, {}, ["x", "tgt_sizes"])
        x = values["x"]
        check_axes("x", x, "batch, patches, dim")
        places, real = _places(_sizes(values["tgt_sizes"], x.shape[0]), x, model.channels)
        inner = model.entered(params, x)
        keys = ops.add(inner, _like(places, x))
        return {"out": model.answered(params, inner, keys=keys, **_padding(real, x))}

    return _rebuilt(_pool(chosen, positive("num_queries", chosen["num_queries"])), run, ("pos_embed",))


def _sizes(given: Any, batch: int) -> np.ndarray:
    """The rows and columns of every image, (B, 2)."""
    data = to_host(array_of(given))
    if data.shape != (batch, 2) or data.dtype.kind not in "iu" or (data < 0).any():
        raise InputError(f"tgt_sizes must be whole numbers of shape {(batch, 2)}, rows and columns; got {data.shape}")
    whole: np.ndarray = data.astype(np.int64)
    return whole


def _places(sizes: np.ndarray, x: Any, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """The encoded places (B, S, D) of patches, zero in padding, and which slots hold a patch (B, S)."""
    tokens, dtype = x.shape[1], _arithmetic(x)
    real = np.arange(tokens) < sizes.prod(1)[:, None]
    places = np.zeros((len(sizes), tokens, channels), dtype)
    for row, (height, width) in zip(places, sizes.tolist()):
        table = grid_sinusoids(height if width else 0, width, channels, dtype)[:tokens]
        row[: len(table)] = table
    return places, real


def _padding(real: np.ndarray, x: Any) -> dict[str, Any]:
    """The mask (B, S) of keys, as `Attention.apply` takes it; a row without any is NaN."""
    data = array_of(x)
    mask, bias = spoilt(xp(data).asarray(real[:, None, None, :]), None, data.dtype)
    return {"head_mask": mask, "bias": bias}


def _timed(given: Given) -> Rebuilt:
    """Resampler4_5: `temporal_ids` lists the times of each group's frames, -1 for none.

    Frames of a group are read as one, and there is one row of the output a group, unless all times are -1.
    """
    what = "Resampler4_5"
    chosen = options(what, given.config, _TIMED)
    most = chosen["max_temporal_size"]

    def run(model: Any, params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        names = ["x", "tgt_sizes"]
        values, wanted = read_call(what, arguments, called, set(names), {"temporal_ids": None}, names)
        x = values["x"]
        check_axes("x", x, "frames, patches, dim")
        sizes = _sizes(values["tgt_sizes"], x.shape[0])
        if x.shape[1] != (longest := int(sizes.prod(1).max(initial=0))):
            raise InputError(f"x must have as many patches as its largest image, {longest}; got {x.shape[1]}")
        groups = _groups(wanted["temporal_ids"], x.shape[0], most)
        places, real = _places(sizes, x, model.channels)
        inner = model.entered(params, x)
        if groups is None:
            keys = ops.add(inner, _like(places, x))
            return {"out": model.answered(params, inner, keys=keys, **_padding(real, x))}
        times = np.fromiter(chain.from_iterable(groups), np.int64)
        valued = values_of(inner, places.copy())
        places += time_sinusoids(times, model.channels, _arithmetic(x))[:, None]
        keys = ops.add(inner, _like(places, x))
        index, real = _merged([len(group) for group in groups], real)
        values_, keys = (_gathered(part, index) for part in (valued, keys))
        return {"out": model.answered(params, values_, keys=keys, **_padding(real, x))}

    return _rebuilt(_pool(chosen, positive("num_queries", chosen["num_queries"])), run, ("pos_embed",))


def _groups(given: Any, frames: int, most: int) -> list[list[int]] | None:
    """The times of every group's frames; None where no frame has one, so that nothing is merged."""
    if given is None:
        return None
    lists = isinstance(given, (list, tuple)) and all(isinstance(group, (list, tuple)) for group in given)
    times = list(chain.from_iterable(given)) if lists else []
    if not lists or not all(type(t) is int and t >= -1 for t in times):
        raise InputError(f"temporal_ids must be lists of whole numbers of at least -1, got {shortened(given)}")
    if len(times) != frames:
        raise InputError(f"temporal_ids has {len(times)} times for {frames} frames")
    if times and max(times) >= most:
        raise InputError(f"times must be below max_temporal_size ({most}), got {max(times)}")
    return [list(group) for group in given] if any(t > -1 for t in times) else None


def _merged(counts: list[int], real: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of groups of so many frames: the slots (G, S) among all frames' that each reads, and which of them are real."""
    tokens, longest = real.shape[1], max(counts) * real.shape[1]
    index, used = np.zeros((len(counts), longest), np.int64), np.zeros((len(counts), longest), bool)
    start = 0
    for group, count in enumerate(counts):
        slots = np.arange(start * tokens, (start + count) * tokens)
        index[group, : len(slots)], used[group, : len(slots)] = slots, real.reshape(-1)[slots]
        start += count
    return index, used


def _gathered(x: Any, index: np.ndarray) -> Any:
    """(F, S, D) -> the slots of all frames that an index (G, S') names, (G, S', D)."""
    flat = ops.reshape(x, shape=(x.shape[0] * x.shape[1], x.shape[2]))
    return ops.take(flat, xp(array_of(x)).asarray(index), axis=0)


_VERSIONS = {(2, 5): _new, (2, 6): _new, (4, 0): _new, (4, 5): _timed}
_WHOLE = {"hidden_size": _SIZE, "query_num": _SIZE, "vision_config": {}}


def _of_whole(given: Given) -> Rebuilt:
    """The resampler of a released model, by the configuration of the whole one, of which nothing else is read.

    Its sizes are those that vLLM takes from there: heads are 128 wide, and without a version a model of 2304 channels
    is 2.0 and any other 2.5. For 2.0, where OpenBMB's code and vLLM disagree on `adaptive`, its own options are needed.
    """
    config = {name: value for name, value in given.config.items() if name in _WHOLE}
    chosen = options("MiniCPMV", config, _WHOLE)
    width, queries = positive("hidden_size", chosen["hidden_size"]), chosen["query_num"]
    said = given.config.get("version")
    version = (2, 0) if said is None and width == 2304 else (2, 5) if said is None else _version(said)
    if version not in _VERSIONS:
        known = ", ".join(f"{a}.{b}" for a, b in _VERSIONS)
        raise InputError(
            f"MiniCPMV of version {'.'.join(map(str, version))} is not among {known}; give the options of its resampler"
            " (--class Resampler2, Resampler2_5 or Resampler4_5)"
        )
    features = options("the vision_config of MiniCPMV", _only_width(chosen["vision_config"]), {"hidden_size": 1152})
    sizes = {"embed_dim": width, "num_heads": width // 128, "kv_dim": features["hidden_size"], "num_queries": queries}
    return _VERSIONS[version](replace(given, config=sizes))


def _version(said: Any) -> tuple[int, ...]:
    """2.6, or "2.6", as (2, 6)."""
    parts = str(said).split(".")
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise InputError(f"version must be a number such as 2.6, got {shortened(said)}")
    whole = tuple(map(int, parts))
    return (*whole, 0)[:2] if len(whole) < 2 else whole


def _only_width(config: Any) -> dict[str, Any]:
    return {"hidden_size": config["hidden_size"]} if "hidden_size" in (config or {}) else {}


PEER = Peer(
    "minicpmv",
    {"Resampler2": _old, "Resampler2_5": _new, "Resampler4_5": _timed, "MiniCPMV": _of_whole},
)
