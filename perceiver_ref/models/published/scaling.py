"""A published model in other sizes: what is asked for, and every width and number of heads that hangs on it.

| asked for | what follows |
| --- | --- |
| `latents` | of the encoder or resampler |
| `channels` | of latents; of values and trained queries that were as wide; other queries and keys in proportion; the |
| | largest number of heads that divides all of them, at most the published one |
| `layers`, `blocks` | self-attentions of a block, and blocks; of a resampler its layers, of gated layers the text's |
| `heads` | of self-attention, or of gated layers and resamplers |
| `inputs` | the width of embedded text: of embeddings, queries and the decoder's values |
| `length` | of text: positions and queries |
| `classes` | of a classifier |

The width of inputs that are no text follows from what they are, and stays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ...errors import InputError, listed
from ..decoder import ClassificationDecoder, Decoder, ProjectionDecoder
from ..encoder import Encoder
from ..flamingo import GatedLayers, PerceiverResampler
from ..inputs import TextInput
from ..perceiver_io import PerceiverIO
from ..positions import TrainablePositions
from ..queries import PositionQueries
from ..resamplers import AttentionPool, Resampler

SIZES = ("latents", "channels", "layers", "blocks", "heads", "inputs", "length", "classes")
"""What can be asked for."""
Sizes = Mapping[str, int]


def scaled(name: str, model: Any, sizes: Sizes) -> Any:
    """The model with other sizes. Raises `InputError` once for all sizes that it does not have, or that do not fit."""
    for size, value in sizes.items():
        least = 0 if size == "layers" else 1
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InputError(f"{size} must be a whole number of at least {least}, got {value!r}")
    known_of, make = _ROWS[type(model)]
    known = known_of(model)
    if absent := [size for size in sizes if size not in known]:
        raise InputError(f"{name} has no {listed(absent)} to be changed; it has {listed(known)}")
    return make(model, sizes)


def _of_perceiver_io(model: PerceiverIO) -> tuple[str, ...]:
    text = isinstance(model.preprocessor, TextInput)
    classifies = isinstance(model.decoder, (ClassificationDecoder, ProjectionDecoder))
    return (*SIZES[:5], *(SIZES[5:7] if text else ()), *(SIZES[7:] if classifies else ()))


def _perceiver_io(model: PerceiverIO, sizes: Sizes) -> PerceiverIO:
    preprocessor, decoder = model.preprocessor, model.decoder
    if isinstance(preprocessor, TextInput):
        preprocessor = replace(
            preprocessor,
            channels=sizes.get("inputs", preprocessor.channels),
            length=sizes.get("length", preprocessor.length),
        )
    encoder = _encoder(model.encoder, sizes)
    if isinstance(decoder, ProjectionDecoder):
        decoder = replace(decoder, latent_channels=encoder.channels, outputs=sizes.get("classes", decoder.outputs))
    elif decoder is not None:
        decoder = _decoder(decoder, model, sizes)
    return replace(model, preprocessor=preprocessor, encoder=encoder, decoder=decoder)


def _encoder(encoder: Encoder, sizes: Sizes) -> Encoder:
    old, channels = encoder.channels, sizes.get("channels", encoder.channels)
    names = ("qk_channels", "v_channels", "self_qk_channels", "self_v_channels")
    widths = {name: _width(getattr(encoder, name), old, channels) for name in names}
    fixed = [channels, *(w for name, w in widths.items() if name.endswith("v_channels") and w == channels)]
    heads = sizes.get("heads") or _heads(encoder.self_heads, fixed)
    cross = encoder.cross_heads if channels == old else _heads(encoder.cross_heads, fixed)
    each = {name: _multiple(width, _common(heads, cross)) for name, width in widths.items() if width != channels}
    if not encoder.conventions.free_widths:
        _check_heads(channels, heads)
    blocks, changed = sizes.get("blocks", encoder.blocks), dict[str, Any]({**widths, **each})
    return replace(
        encoder,
        inputs=sizes.get("inputs", encoder.inputs),
        latents=sizes.get("latents", encoder.latents),
        channels=channels,
        layers=sizes.get("layers", encoder.layers),
        blocks=blocks,
        cross_attends=min(encoder.cross_attends, blocks),
        self_heads=heads,
        cross_heads=cross,
        **changed,
    )


def _decoder(decoder: Decoder, model: PerceiverIO, sizes: Sizes) -> Decoder:
    old, channels = model.encoder.channels, sizes.get("channels", model.encoder.channels)
    query, queries = decoder.query_channels, decoder.queries
    wide = query
    trained = isinstance(queries, PositionQueries) and isinstance(queries.positions, TrainablePositions)
    if isinstance(model.preprocessor, TextInput):
        wide = sizes.get("inputs", query)
    elif trained and query == old:  # the query of a classifier is as wide as its latents
        wide = channels
    if trained and isinstance(queries, PositionQueries) and isinstance(queries.positions, TrainablePositions):
        rows = queries.positions.size
        if isinstance(model.preprocessor, TextInput) and rows == model.preprocessor.length:
            rows = sizes.get("length", rows)
        queries = replace(queries, positions=replace(queries.positions, size=rows, channels=wide), index_dims=(rows,))
    v = wide if decoder.v_channels == query else _width(decoder.v_channels, old, channels)
    qk = _width(decoder.qk_channels, old, channels)
    attended = channels if decoder.attend_in == "kv" else wide
    heads = _heads(decoder.heads, [n for n in (v, attended if qk is None else None) if n is not None])
    return replace(
        decoder,
        latent_channels=channels,
        query_channels=wide,
        queries=queries,
        heads=heads,
        qk_channels=_multiple(qk, heads),
        v_channels=v,
        outputs=sizes.get("classes", decoder.outputs),
    )


def _check_heads(channels: int, heads: int) -> None:
    if channels % heads:
        raise InputError(f"channels ({channels}) must be divisible by the number of heads ({heads})")


def _resampler(model: Any, sizes: Sizes) -> Any:
    channels = sizes.get("channels", model.channels)
    heads = sizes.get("heads") or _heads(model.heads, [channels])
    _check_heads(channels, heads)
    latents, layers = sizes.get("latents", model.latents), sizes.get("layers", model.layers)
    return replace(model, channels=channels, latents=latents, layers=layers, heads=heads)


def _pool(model: AttentionPool, sizes: Sizes) -> AttentionPool:
    old, channels = model.channels, sizes.get("channels", model.channels)
    heads = sizes.get("heads") or _heads(model.heads, [channels])
    _check_heads(channels, heads)
    hidden = None if model.hidden is None else max(model.hidden * channels // old, 1)
    features = channels if model.features == old else model.features
    return replace(
        model,
        channels=channels,
        features=features,
        latents=sizes.get("latents", model.latents),
        heads=heads,
        hidden=hidden,
    )


def _gated(model: GatedLayers, sizes: Sizes) -> GatedLayers:
    channels = sizes.get("channels", model.block.channels)
    heads = sizes.get("heads") or _heads(model.block.heads, [channels])
    return replace(
        model, layers=sizes.get("layers", model.layers), block=replace(model.block, channels=channels, heads=heads)
    )


def _width(width: int | None, old: int, channels: int) -> int | None:
    """A width beside latents of `channels`, which was `width` beside `old`: equal if it was, else in proportion."""
    if width is None or width == old:
        return None if width is None else channels
    return max(round(width * channels / old), 1) if channels < old else width


def _heads(most: int, widths: list[int]) -> int:
    """The largest number of heads, at most `most`, that divides all widths."""
    return next(n for n in range(most, 0, -1) if not any(width % n for width in widths))


def _multiple(width: int | None, of: int) -> int | None:
    """The nearest multiple of a number of heads, at least one channel each."""
    return None if width is None else max(round(width / of), 1) * of


def _common(first: int, second: int) -> int:
    """A number that both numbers of heads divide."""
    return next(n for n in range(max(first, second), first * second + 1) if not (n % first or n % second))


_ROWS: dict[type, tuple[Callable[[Any], tuple[str, ...]], Callable[[Any, Sizes], Any]]] = {
    PerceiverIO: (_of_perceiver_io, _perceiver_io),
    PerceiverResampler: (lambda model: ("latents", "channels", "layers", "heads"), _resampler),
    Resampler: (lambda model: ("latents", "channels", "layers", "heads"), _resampler),
    AttentionPool: (lambda model: ("latents", "channels", "heads"), _pool),
    GatedLayers: (lambda model: ("channels", "layers", "heads"), _gated),
}
"""Of each class that presets have: the sizes that a model of it has, and how it gets others."""
