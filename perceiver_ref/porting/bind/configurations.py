"""Which configurations a port's shapes allow, where nobody says: counted, before anything is run.

Every family has its widths and counts enumerated from the lengths of the port's axes; what has exactly as many elements
as the port, with some kinds of biases left out, is a guess. Shapes do not tell heads, activations and the like: these
are `Guess.open`, for `propose` to find by running.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ...autograd import tree
from ...errors import InputError
from ...models.conventions import AUTOREGRESSIVE, DIALECTS, FLAMINGO, Conventions
from ...peers import Given, peer
from ...peers.reference import NAME
from ..cases import Case

_WIDENINGS = range(1, 9)
_MOST_LAYERS = 64
_MOST_DIMS = 32
_SIZED = 200
_FIRST = 0.7
_NEVER = 1e3
_FLAGS = ("qkv_bias", "output_bias", "mlp_bias")
_ACTIVATIONS = ("gelu_erf", "gelu_tanh", "relu", "silu", "squared_relu", "quick_gelu")
_EPSILONS = (1e-5, 1e-6, 1e-12)
Config = dict[str, Any]


@dataclass(frozen=True)
class Guess:
    """A configuration as far as shapes tell, and what they leave open."""

    config: Config
    open: Mapping[str, Sequence[Any]]
    """Dotted path of a field -> what it may be, the likeliest first, in the order in which a run comes to them."""
    call: Mapping[str, Any] = field(default_factory=dict)
    cost: float = 0.0
    """How unlikely it is beside the others."""


class _Port:
    """What is known of a port: lengths of vectors, tables, elements, shapes of inputs and outputs."""

    def __init__(self, case: Case, first: bool) -> None:
        self.first = first
        """Whether inputs may have their channels first."""
        arrays = [a for n, a in case.params.items() if n not in case.meta["tied"] and a.dtype.kind == "f"]
        self.shapes = [tuple(n for n in a.shape if n != 1) or (1,) for a in arrays]
        self.total = sum(a.size for a in arrays)
        self.sizes = Counter(a.size for a in arrays)
        self.vectors = Counter(s[0] for s in self.shapes if len(s) == 1)
        self.tables = {s for s in self.shapes if len(s) == 2} | {s[::-1] for s in self.shapes if len(s) == 2}
        dims = {n for s in self.shapes for n in s} | {
            s[i] * s[i + 1] for s in self.shapes for i in range(len(s) - 1) if len(s) > 2
        }
        dims |= {n // k for n in dims for k in (2, 3) if n % k == 0 and n // k > 1}
        self.dims = sorted(dims)[:_MOST_DIMS]
        self.floats = {n: a.shape for n, a in case.inputs.items() if a.dtype.kind == "f"}
        self.ids = {n: a for n, a in case.inputs.items() if a.dtype.kind in "iu" and a.ndim == 2}
        self.output = next((a.shape for a in case.outputs.values() if a.dtype.kind == "f"), ())
        self.traced = {a.shape for a in case.trace.values()}

    def table(self, rows: int, width: int) -> bool:
        return (rows, width) in self.tables or (rows == 1 and width in self.vectors)

    def wide(self, d: int, gated: bool = False) -> list[int]:
        """Widenings of an MLP of which there are the maps, the first perhaps fused with its gate."""
        return [w for w in _WIDENINGS if w * d * d in self.sizes and (gated or self.sizes[w * d * d] > 1)]

    def attends(self, d: int, c: int, qk: int, v: int) -> bool:
        """Whether there are the maps of such an attention of d channels on c, apart or fused."""
        if v * d not in self.sizes:
            return False
        apart = d * qk in self.sizes and c * qk in self.sizes and c * v in self.sizes
        two = d * qk in self.sizes and c * (qk + v) in self.sizes
        return apart or two or (c == d and d * (2 * qk + v) in self.sizes)


# matrices, biases of queries, keys and values, of attention's output, of MLPs, scales of norms, their offsets
def _attention(q: int, kv: int, qk: int, v: int) -> np.ndarray:
    return np.array([q * qk + kv * (qk + v) + v * q, 2 * qk + v, q, 0, 0, 0])


def _mlp(d: int, w: int, gated: bool) -> np.ndarray:
    maps = 2 if gated else 1
    return np.array([(maps + 1) * w * d * d, 0, 0, maps * w * d + d, 0, 0])


def _norms(*widths: int) -> np.ndarray:
    return np.array([0, 0, 0, 0, sum(widths), sum(widths)])


def _plain(elements: int) -> np.ndarray:
    return np.array([elements, 0, 0, 0, 0, 0])


@dataclass(frozen=True)
class _Fit:
    """How many layers and which kinds of biases make up the port's elements exactly."""

    layers: int
    flags: dict[str, bool]
    norm: str


_KINDS = [(norm, kinds) for norm in ("layer", "rms") for kinds in itertools.product((True, False), repeat=3)]
_USES = np.array([[1, *kinds, 1, norm == "layer"] for norm, kinds in _KINDS])


def _fits(total: int, once: np.ndarray, layer: np.ndarray, least: int = 0) -> Iterator[tuple[int, _Fit]]:
    """(which, how) of the rows of `once` (..., 6) that with some layers are as many elements as the port has."""
    left, each = total - np.atleast_2d(once) @ _USES.T, layer @ _USES.T
    for row, i in np.argwhere((left >= least * each) & (left <= _MOST_LAYERS * each) & (left % each == 0)):
        norm, kinds = _KINDS[i]
        yield int(row), _Fit(int(left[row, i] // each[i]), dict(zip(_FLAGS, kinds)), norm)


def _conventions(base: Conventions, fit: _Fit, gated: bool, **options: Any) -> Config:
    made = {"type": "Conventions", **vars(base), **fit.flags, "norm": fit.norm, "gated_mlp": gated, **options}
    return made


def divisors(*widths: int) -> list[int]:
    """Numbers of heads that widths can be split among, the likeliest first: more than one, heads of 4 and more wide."""
    whole = math.gcd(*widths)
    made = [n for n in range(1, whole + 1) if whole % n == 0 and n <= 64]
    return sorted(made, key=lambda n: (n == 1, whole // n < 4, n))


def configured(guess: Guess, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """The guess with the open fields as chosen."""
    config = copy.deepcopy(guess.config)
    for key, value in chosen.items():
        _set(config, key, value)
    return config


def _set(config: Any, key: str, value: Any) -> None:
    if key.startswith("+"):
        config.update(value)
        return
    first, _, rest = key.partition(".")
    if first == "conventions":
        if isinstance(config, dict):
            for name, part in config.items():
                if name == "conventions":
                    part[rest] = value
                else:
                    _set(part, key, value)
    elif rest:
        _set(config[first], rest, value)
    else:
        config[first] = value


def guesses(case: Case) -> list[Guess]:
    """Every configuration that the shapes allow, the likeliest first; none where nothing fits."""
    families = (_resampler, _gated, _autoregressive, _perceiver_io)
    found: list[Guess] = []
    for first in (False, True):
        port = _Port(case, first)
        made = [guess for family in families for guess in family(port)]
        found += [replace(guess, cost=guess.cost + _FIRST * first) for guess in made]
    near = sorted(found, key=lambda guess: guess.cost)[:_SIZED]
    sized = ((guess.cost + _strange(port, guess), i) for i, guess in enumerate(near))
    return [near[i] for _, i in sorted(sized)]


def _strange(port: _Port, guess: Guess) -> float:
    """A cost for arrays of sizes that the model has none of: what is not there may be fused, but rarely is."""
    config = configured(guess, {key: values[0] for key, values in guess.open.items()})
    try:
        model = peer(NAME).rebuild(config.pop("type"), Given(config)).model
    except InputError:
        return _NEVER
    sizes = Counter(math.prod(parameter.shape) for parameter in tree.flatten(model.parameters()).values())
    return 0.5 * sum((port.sizes - sizes).values())


def _elements(port: _Port) -> Iterator[tuple[int, int]]:
    """(positions, channels) of an input that is vectors, channels last or first."""
    for shape in port.floats.values():
        if len(shape) >= 3:
            yield (math.prod(shape[2:]), shape[1]) if port.first else (math.prod(shape[1:-1]), shape[-1])


def _latents(port: _Port) -> Iterator[tuple[int, int]]:
    """(N, D) of a table of latents, D being as wide as some norm."""
    for n, d in sorted(port.tables):
        shown = port.output[-2:] in ((n, d), (d, n)) or not port.traced or _seen(port, n, d)
        if shown and port.vectors[d] >= 2 and port.wide(d, True):
            yield n, d


def _seen(port: _Port, n: int, d: int) -> bool:
    return any(n in shape and d in shape for shape in port.traced)


def _perceiver_io(port: _Port) -> Iterator[Guess]:
    for (_, c), (n, d) in itertools.product(dict.fromkeys(_elements(port)), _latents(port)):
        inner, outer = _widths(port, d, d), _widths(port, d, c)
        for gated in (False, True):
            decoders = list(_decoders(port, n, d, gated)) if inner and outer else []
            if not decoders:
                continue
            lasts = np.stack([elements for elements, _, _ in decoders])
            for wc, (qk, v) in itertools.product(port.wide(d, gated), outer):
                once = _plain(n * d) + _attention(d, c, qk, v) + _norms(d, c, d) + _mlp(d, wc, gated)
                for ws, (sqk, sv) in itertools.product(port.wide(d, gated), inner):
                    layer = _attention(d, d, sqk, sv) + _norms(d, d) + _mlp(d, ws, gated)
                    for which, fit in _fits(port.total, once + lasts, layer):
                        widths = {"cross_widening": wc, "self_widening": ws, "qk_channels": qk, "v_channels": v,
                                  "self_qk_channels": sqk, "self_v_channels": sv}  # fmt: skip
                        yield _io(
                            port, {"inputs": c, "latents": n, "channels": d, **widths}, gated, fit, decoders[which]
                        )


def _io(port: _Port, given: Config, gated: bool, fit: _Fit, last: tuple[np.ndarray, Config | None, Config]) -> Guess:
    d, c, qk, v = (given[name] for name in ("channels", "inputs", "qk_channels", "v_channels"))
    sqk, sv = given["self_qk_channels"], given["self_v_channels"]
    conventions = _conventions(DIALECTS["hf"], fit, gated, masked_rows="zero", free_widths=True)
    encoder = {"type": "Encoder", **given, "layers": fit.layers, "conventions": conventions}
    config: Config = {"type": "PerceiverIO", "encoder": encoder}
    _, decoder, opened = last
    cost = 0.0
    if decoder is not None:
        config["decoder"] = dict(decoder)
        if decoder["type"] != "ProjectionDecoder":
            config["decoder"]["conventions"] = conventions
            e = decoder["query_channels"]
            cost += (decoder["v_channels"] not in (e, decoder["qk_channels"])) + 0.5 * (decoder["outputs"] is None)
    cost += 2.0 * gated + (fit.norm == "rms") + (sv != d) + (fit.layers == 0) + 0.2 * fit.layers
    cost += sum(not kind for kind in fit.flags.values()) + 0.5 * (v != qk)
    cost += (v not in (d, qk)) + (qk not in (c, d)) + (sqk != d)
    cost += 3.0 * (bool(port.traced) and not _seen(port, given["latents"], d))
    return Guess(config, _open_io(qk, v, sqk, sv, fit.layers) | opened, {}, cost)


def _mlps(port: _Port, d: int, count: int = 2) -> Iterator[tuple[bool, int, int]]:
    """(gated, widening, another's widening) of the MLPs of width d, of which there are `count` kinds."""
    for gated in (False, True):
        for w in port.wide(d, gated):
            yield from ((gated, w, other) for other in (port.wide(d, gated) if count > 1 else [w]))


def _widths(port: _Port, d: int, c: int) -> list[tuple[int, int]]:
    """(qk, v) of an attention of d channels on c, for which there are maps."""
    usual = list(dict.fromkeys((d, c, *port.dims)))
    return [(n, m) for n in usual for m in usual if port.attends(d, c, n, m)]


def _open_io(qk: int, v: int, sqk: int, sv: int, layers: int) -> dict[str, Sequence[Any]]:
    made: dict[str, Sequence[Any]] = {
        "conventions.norm_eps": _EPSILONS,
        "encoder.cross_heads": divisors(qk, v),
        "encoder.query_residual": (True, False),
        "conventions.activation": _ACTIVATIONS,
    }
    if layers:
        made |= {"encoder.self_heads": divisors(sqk, sv), "encoder.blocks": (1, 2, 3, 4, 6, 8)}
    return made


def _decoders(port: _Port, n: int, d: int, gated: bool) -> Iterator[tuple[np.ndarray, Config | None, dict[str, Any]]]:
    """(elements, configuration, what is open) of the decoders that lead to the port's output."""
    shape = port.output
    if len(shape) == 3 and {shape[1], shape[2]} == {n, d}:
        yield _plain(0), None, {}
    if len(shape) == 2:
        f = shape[1]
        yield _plain(d * f + f), {"type": "ProjectionDecoder", "latent_channels": d, "outputs": f}, {}
    asked = [(1, *shape[1:])] if len(shape) == 2 else [shape[1:], shape[:0:-1]] if len(shape) == 3 else []
    for o, f in asked:
        for e in sorted(width for width in port.vectors if port.table(o, width)):
            for outputs in (f, None) if e == f else (f,):
                head = _plain(o * e + (0 if outputs is None else e * f + f))
                for (qk, v), w in itertools.product(_widths(port, e, d), port.wide(e, gated)):
                    made: Config = {
                        "type": "ClassificationDecoder" if len(shape) == 2 else "Decoder",
                        "latent_channels": d, "query_channels": e, "outputs": outputs, "qk_channels": qk,
                        "v_channels": v, "widening": w,
                        "queries": {
                            "type": "PositionQueries", "index_dims": [o],
                            "positions": {"type": "TrainablePositions", "size": o, "channels": e},
                        },
                    }  # fmt: skip
                    elements = head + _attention(e, d, qk, v) + _norms(e, d, e) + _mlp(e, w, gated)
                    opened = {"decoder.heads": divisors(qk, v), "decoder.query_residual": (False, True)}
                    yield elements, made, opened


def _resampler(port: _Port) -> Iterator[Guess]:
    for (_, c), (n, d) in itertools.product(dict.fromkeys(_elements(port)), _latents(port)):
        if c != d or not port.output or port.output[-2:] not in ((n, d), (d, n)):
            continue
        for (gated, w, _), inner in itertools.product(_mlps(port, d, 1), _inner(port, d, d)):
            layer = _attention(d, d, inner, inner) + _norms(d, d, d) + _mlp(d, w, gated)
            frames = [None, *(rows for rows, width in port.tables if width == d and rows != n)]
            for t in frames:
                once = _plain(n * d + (t or 0) * d) + _norms(d)
                for _, fit in _fits(port.total, once, layer, 1):
                    for heads in divisors(inner):
                        config: Config = {
                            "type": "PerceiverResampler", "channels": d, "latents": n, "layers": fit.layers,
                            "heads": heads, "head_channels": inner // heads, "widening": w, "frames": t,
                            "conventions": _conventions(FLAMINGO, fit, gated),
                        }  # fmt: skip
                        cost = (
                            2.0 * gated + (fit.norm == "rms") + (inner != d) + 0.5 * (t is not None) + 0.2 * fit.layers
                        )
                        opened = {"conventions.norm_eps": _EPSILONS, "+heads": _heads_of(inner),
                                  "latents_in_keys": (True, False), "conventions.activation": _ACTIVATIONS}  # fmt: skip
                        yield Guess(config, opened, {}, cost)
                        break


def _inner(port: _Port, d: int, c: int) -> list[int]:
    """Widths of all heads together, d being the likeliest."""
    return [n for n in dict.fromkeys((d, *port.dims)) if port.attends(d, c, n, n)]


def _heads_of(inner: int) -> list[dict[str, int]]:
    """Heads with their width: fields that change together."""
    return [{"heads": h, "head_channels": inner // h} for h in divisors(inner)]


def _gated(port: _Port) -> Iterator[Guess]:
    for text, media in itertools.permutations(port.floats.values(), 2):
        if len(text) != 3 or len(media) < 3 or port.output != text:
            continue
        d, c = text[-1], media[-1]
        for gate, (gated, w, _) in itertools.product(("scalar", "vector"), _mlps(port, d, 1)):
            for inner in _inner(port, d, c):
                once = _attention(d, c, inner, inner) + _norms(d, d) + _mlp(d, w, gated)
                for _, fit in _fits(port.total + 1, once + _plain(2 * (1 if gate == "scalar" else d)), _plain(1), 1):
                    if fit.layers != 1:
                        continue
                    heads = divisors(inner)[0]
                    config: Config = {
                        "type": "GatedCrossAttention", "channels": d, "media_channels": c, "heads": heads,
                        "head_channels": inner // heads, "widening": w, "gate": gate,
                        "conventions": _conventions(FLAMINGO, fit, gated),
                    }  # fmt: skip
                    cost = 2.0 * gated + (fit.norm == "rms") + (inner != d) + 0.5 * (gate == "vector")
                    opened = {"conventions.norm_eps": _EPSILONS, "+heads": _heads_of(inner),
                              "conventions.activation": _ACTIVATIONS}  # fmt: skip
                    yield Guess(config, opened, {}, cost)


def _autoregressive(port: _Port) -> Iterator[Guess]:
    for ids in port.ids.values():
        if len(port.output) != 3 or port.output[1] > ids.shape[1]:
            continue
        m, n, vocabulary = ids.shape[1], port.output[1], port.output[2]
        embeddings = [c for rows, c in port.tables if rows == vocabulary and port.vectors[c]]
        for c, d in itertools.product(dict.fromkeys(embeddings), sorted(port.vectors)):
            lengths = [
                None,
                *(rows for rows, width in sorted(port.tables) if width == c and rows >= m and rows != vocabulary),
            ]
            for length, attend, (gated, wc, ws) in itertools.product(lengths, ("kv", "q"), _mlps(port, d)):
                qk = c if attend == "kv" else d
                for mapped, final in itertools.product((True, False), (True, False)):
                    if (not mapped and c != d) or (attend == "q" and c == d) or not port.attends(d, c, qk, qk):
                        continue
                    once = _plain(
                        vocabulary * c + (length or 0) * c + (c * d + d) * mapped + d * vocabulary + vocabulary
                    )
                    once = once + _attention(d, c, qk, qk) + _norms(d, c, d) + _mlp(d, wc, gated) + _norms(d) * final
                    layer = _attention(d, d, d, d) + _norms(d, d) + _mlp(d, ws, gated)
                    for _, fit in _fits(port.total, once, layer):
                        config: Config = {
                            "type": "PerceiverAR", "vocabulary": vocabulary, "length": length or m, "latents": n,
                            "channels": c, "latent_channels": d, "layers": fit.layers, "attend_in": attend,
                            "cross_widening": wc, "self_widening": ws, "position_table": length is not None,
                            "query_map": mapped, "final_norm": final,
                            "conventions": _conventions(AUTOREGRESSIVE, fit, gated),
                        }  # fmt: skip
                        cost = 2.0 * gated + (fit.norm == "rms") + (not mapped) + (not final) + 0.2 * fit.layers
                        opened = {"conventions.norm_eps": _EPSILONS, "cross_heads": divisors(qk, d),
                                  "query_residual": (True, False), "conventions.activation": _ACTIVATIONS,
                                  "self_heads": divisors(d)}  # fmt: skip
                        yield Guess(config, opened, {"prefix": m - n}, cost)
