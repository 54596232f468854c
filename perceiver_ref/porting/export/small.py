"""A published model with the same structure and few parameters: fewer channels, latents, layers, bands, pixels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from ...errors import InputError, one_of
from ...models.decoder import Decoder, GridDecoder, ProjectionDecoder
from ...models.encoder import Encoder
from ...models.flamingo import GatedLayers, PerceiverResampler
from ...models.inputs import (
    AudioPatches,
    Conv1x1,
    ConvStem,
    GridInput,
    MultimodalInput,
    OneHotInput,
    Patches,
    PointInput,
    TextInput,
    VectorInput,
)
from ...models.ledger import default_sizes
from ...models.ledger.sizes import Sizes
from ...models.module import Module
from ...models.outputs import (
    AudioOutput,
    ClassificationOutput,
    ImageOutput,
    MultimodalOutput,
    ProjectionOutput,
    TiedEmbedding,
)
from ...models.perceiver_io import PerceiverIO
from ...models.positions import FourierPositions, ProjectedPositions, TrainablePositions
from ...models.queries import InputQueries, MultimodalQueries, PositionQueries
from ...models.resamplers import AttentionPool, Resampler


@dataclass(frozen=True)
class Small:
    """At most these sizes, each in place of the published one. `--sizes latents=7,layers=3` changes some.

    As far as can be they are different and odd, as are what is made of them: 3 heads of 5 channels, of 4 where queries
    and keys have a width of their own. Where two sizes are equal, two ways to compute may be, too: with 2 heads of
    width 2 a scale of 1 / sqrt(heads) is right. `perceiver-ref export --audit` tells.
    """

    latents: int = 7
    channels: int = 15
    """Of latents, and of the text and media of Flamingo."""
    width: int = 9
    """Of inputs and queries where they are trained: embeddings, features of a convolution, sets of vectors."""
    heads: int = 3
    head: int = 4
    """Channels of a head, where queries and keys have a width that is not that of the layer."""
    layers: int = 3
    blocks: int = 2
    """Repetitions of the block; one more where cross-attentions are repeated with it."""
    bands: int = 3
    side: int = 6
    """Pixels along the last axis of what the encoder attends to; one less along the one before it."""
    length: int = 11
    """Tokens, points, entities, and patches of sound."""
    frames: int = 2
    patch: int = 2
    """Pixels along a patch; a patch of sound has twice as many samples."""
    vocabulary: int = 13
    classes: int = 8

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if not isinstance(value, int) or value < 1:
                raise InputError(f"--sizes: {f.name} must be a whole number above 0, got {value!r}")


def parse_small(text: str | None) -> Small:
    """`latents=7,layers=3`; `InputError` for an unknown name, listing the known ones."""
    chosen: dict[str, int] = {}
    for part in (text or "").split(",") if text else []:
        name, _, value = part.partition("=")
        if name not in {f.name for f in fields(Small)}:
            raise one_of("size", name, [f.name for f in fields(Small)])
        if not (value.isascii() and value.isdigit()):
            raise InputError(f"--sizes: {part!r}: write {name}=<whole number above 0>")
        chosen[name] = int(value)
    return Small(**chosen)


def small(model: Module, to: Small | None = None) -> tuple[Any, Sizes]:
    """The model reduced, and the shape of one example for it."""
    to = to or Small()
    if isinstance(model, PerceiverIO):
        return _perceiver_io(model, to)
    if isinstance(model, PerceiverResampler):
        made = replace(
            model,
            channels=_cut(model.channels, to.channels),
            latents=_cut(model.latents, to.latents),
            layers=_cut(model.layers, to.layers),
            heads=_cut(model.heads, to.heads),
            frames=None if model.frames is None else _cut(model.frames, to.frames + 1),
        )
        return made, (2, to.frames + 1, 4, made.channels)
    if isinstance(model, Resampler | AttentionPool):
        return _one_set(model, to)
    if isinstance(model, GatedLayers):
        block = model.block
        block = replace(
            block,
            channels=_cut(block.channels, to.channels),
            media_channels=_cut(block.media_channels, to.width),
            heads=_cut(block.heads, to.heads),
        )
        every = _cut(model.every, 2)
        layers = min(model.layers, every * to.layers)
        return replace(model, layers=layers, every=every, block=block), {
            "text": (to.length, block.channels),
            "media": (2, 3, block.media_channels),
        }
    raise InputError(f"a {type(model).__name__} cannot be made smaller; export it with --full")


def _one_set(model: Resampler | AttentionPool, to: Small) -> tuple[Any, Sizes]:
    """A resampler or pool of one set of features."""
    channels, heads = _cut(model.channels, to.channels), _cut(model.heads, to.heads)
    features = None if model.features is None else _cut(model.features, to.width)
    if isinstance(model, AttentionPool) and model.features == model.channels:
        features = channels
    hidden = None if model.hidden is None else _cut(model.hidden, 2 * to.channels)
    latents = None if model.latents is None else _cut(model.latents, to.latents)
    sizes: dict[str, Any] = {"channels": channels, "features": features, "heads": heads, "latents": latents}
    made = replace(model, hidden=hidden, **sizes)
    if isinstance(made, Resampler):
        wide = None if made.head_channels is None else _cut(made.head_channels, to.head)
        outputs = None if made.outputs is None else _cut(made.outputs, to.width + 1)
        made = replace(made, layers=_cut(made.layers, to.layers), head_channels=wide, outputs=outputs)
    elif made.last is not None:
        made = replace(made, last=_cut(made.last, channels))
    return made, (to.length, channels if features is None else features)


def reductions(published: Module, reduced: Module) -> list[str]:
    """Lines such as "encoder.channels 1024 -> 8": what `small` changed, by field."""
    lines: list[str] = []
    _differences(published, reduced, "", lines)
    return lines


def _differences(a: Any, b: Any, path: str, lines: list[str]) -> None:
    if a == b:
        return
    if isinstance(a, Mapping):
        for key in a:
            _differences(a[key], b[key], f"{path}.{key}", lines)
    elif hasattr(a, "__dataclass_fields__"):
        for f in fields(a):
            _differences(getattr(a, f.name), getattr(b, f.name), f"{path}.{f.name}", lines)
    else:
        lines.append(f"{path.removeprefix('.')} {a} -> {b}")


def _cut(n: int, most: int) -> int:
    return min(n, most)


def _channels(published: int, to: Small, heads: int) -> int:
    """Channels that these heads divide, where they are fewer than asked for."""
    most = to.channels if heads == to.heads else max(to.channels // heads, 1) * heads
    return _cut(published, most)


def _perceiver_io(model: PerceiverIO, to: Small) -> tuple[PerceiverIO, Sizes]:
    to = replace(to, width=_width(model, to))
    preprocessor = _input(model.preprocessor, to)
    inputs = preprocessor.channels if preprocessor is not None else _cut(model.encoder.inputs, to.width)
    encoder = _encoder(model.encoder, inputs, to)
    decoder = _decoder(model.decoder, encoder, preprocessor, to)
    outputs = 0 if decoder is None else decoder.outputs or getattr(decoder, "query_channels", 0)
    made = PerceiverIO(encoder, preprocessor, decoder, _output(model.postprocessor, outputs, to))
    return made, _sizes(preprocessor, to, inputs)


def _width(model: PerceiverIO, to: Small) -> int:
    """A width of inputs and queries that heads divide where queries and keys have no width of their own."""
    attended = [(e.cross_heads, e.qk_channels) for e in [model.encoder]]
    attended += [(d.heads, d.qk_channels) for d in [model.decoder] if isinstance(d, Decoder)]
    heads = max((_cut(n, to.heads) for n, own in attended if own is None), default=1)
    return max(to.width // heads, 1) * heads


def _encoder(e: Encoder, inputs: int, to: Small) -> Encoder:
    heads = _cut(e.self_heads, to.heads)
    channels = _channels(e.channels, to, heads)
    if channels % heads:
        raise InputError(f"--sizes: channels ({channels}) must be divisible by heads ({heads})")
    cross = _cut(e.cross_heads, to.heads)
    if e.qk_channels is None and inputs % cross:
        cross = 1
    crosses = _cut(e.cross_attends, to.blocks + 1)  # the first, and two that share their weights
    blocks = crosses if e.blocks == e.cross_attends else _cut(e.blocks, max(to.blocks, crosses + (crosses > 1)))
    return replace(
        e,
        inputs=inputs,
        latents=_cut(e.latents, to.latents),
        channels=channels,
        blocks=blocks,
        cross_attends=crosses,
        layers=_cut(e.layers, to.layers),
        cross_heads=cross,
        self_heads=heads,
        qk_channels=None if e.qk_channels is None else to.head * heads,
        v_channels=None if e.v_channels is None else channels,
        self_widening=_cut(e.self_widening, 2),
    )


def _input(part: Any, to: Small) -> Any:
    if isinstance(part, TextInput):
        return TextInput(_cut(part.vocabulary, to.vocabulary), _cut(part.length, to.length), to.width)
    if isinstance(part, OneHotInput):
        return OneHotInput(_cut(part.channels, to.classes))
    if isinstance(part, VectorInput):
        return VectorInput(_cut(part.channels, to.width))
    if isinstance(part, PointInput):
        return PointInput(_positions(part.positions, to))
    if isinstance(part, MultimodalInput):
        return replace(part, modalities={name: _input(p, to) for name, p in part.modalities.items()})
    if isinstance(part, GridInput):
        return replace(part, features=_features(part.features, to), positions=_grid_positions(part, to))
    return part


def _features(part: Any, to: Small) -> Any:
    if isinstance(part, AudioPatches):
        return replace(part, samples=_cut(part.samples, 2 * to.patch))
    if isinstance(part, Patches):
        linear = None if part.linear is None else to.width
        return replace(part, space=_cut(part.space, to.patch), linear=linear)
    if isinstance(part, (Conv1x1, ConvStem)):
        return replace(part, channels=_cut(part.channels, to.width))
    return part


def _grid_positions(part: GridInput, to: Small) -> Any:
    """Sound's resolution is in samples, or in patches where the model has as many elements as its resolution."""
    if isinstance(part.features, AudioPatches) and isinstance(part.positions, FourierPositions):
        return replace(part.positions, num_bands=to.bands, max_resolution=(to.length * 2 * to.patch,))
    return _positions(part.positions, to)


def _positions(part: Any, to: Small) -> Any:
    if isinstance(part, FourierPositions):
        axes = len(part.max_resolution)
        grid = _grid(to, axes) if axes > 1 else (to.length,)
        if len(set(part.max_resolution)) == 1 and axes == 3:  # points in space
            grid = (2 * to.side,) * 3
        if axes == 2 and part.max_resolution[0] != part.max_resolution[1]:  # the frames of optical flow
            grid = _flow_grid(to)
        return replace(part, num_bands=_cut(part.num_bands, to.bands), max_resolution=grid)
    if isinstance(part, TrainablePositions):
        height, width = _grid(to, 2)
        if part.size <= height * width:
            return replace(part, channels=_cut(part.channels, to.width))
        own = None if part.grid is None else (height, width)
        return replace(part, size=height * width, channels=_cut(part.channels, to.width), grid=own)
    if isinstance(part, ProjectedPositions):
        return replace(part, encoding=_positions(part.encoding, to), channels=_cut(part.channels, to.width))
    return part


def _grid(to: Small, axes: int) -> tuple[int, ...]:
    """Frames, height and width, which differ: x and y are so not to be mistaken for each other."""
    return (to.frames, max(to.side - 1, 1), to.side)[-axes:]


def _flow_grid(to: Small) -> tuple[int, int]:
    return (max(to.side - 2, 1), to.side)


def _decoder(d: Any, encoder: Encoder, preprocessor: Any, to: Small) -> Any:
    if isinstance(d, ProjectionDecoder):
        return ProjectionDecoder(encoder.channels, _cut(d.outputs, to.classes))
    if not isinstance(d, Decoder):
        return d
    queries = _queries(d, encoder, preprocessor, to)
    width = queries.channels if queries is not None else to.width
    heads = _cut(d.heads, to.heads)
    qk = None if d.qk_channels is None else to.head * heads
    v = None if d.v_channels is None else width
    default = encoder.channels if d.attend_in == "kv" else width
    if (qk or default) % heads or (v or qk or default) % heads:
        heads = 1
    changes: dict[str, Any] = {"grid": _flow_grid(to)} if isinstance(d, GridDecoder) else {}
    return replace(
        d,
        latent_channels=encoder.channels,
        query_channels=width,
        queries=queries,
        outputs=None if d.outputs is None else _cut(d.outputs, to.classes),
        heads=heads,
        qk_channels=qk,
        v_channels=v,
        **changes,
    )


def _queries(d: Decoder, encoder: Encoder, preprocessor: Any, to: Small) -> Any:
    q = d.queries
    if isinstance(q, InputQueries):
        return InputQueries(preprocessor.channels)
    if isinstance(q, MultimodalQueries):
        parts = {name: _position_queries(part, to, to.width) for name, part in q.modalities.items()}
        return replace(q, modalities=parts)
    if isinstance(q, PositionQueries):
        text = isinstance(preprocessor, TextInput) and q.size > 1
        same_width = d.query_channels == d.latent_channels
        return _position_queries(q, to, encoder.channels if same_width and not text else to.width)
    return q


def _position_queries(q: PositionQueries, to: Small, width: int) -> PositionQueries:
    if isinstance(q.positions, TrainablePositions):
        size = 1 if q.size == 1 else to.length
        return replace(q, positions=replace(q.positions, size=size, channels=width), index_dims=(size,))
    axes = len(q.index_dims)
    if axes == 1:  # sound: one query a patch
        sound = replace(q.positions, num_bands=to.bands, max_resolution=(to.length * 2 * to.patch,))  # type: ignore[arg-type]
        return replace(q, positions=sound, index_dims=(to.length,))
    return replace(q, positions=_positions(q.positions, to), index_dims=_grid(to, axes))


def _output(part: Any, inputs: int, to: Small) -> Any:
    if isinstance(part, MultimodalOutput):
        return MultimodalOutput({name: _output(p, inputs, to) for name, p in part.modalities.items()})
    if isinstance(part, TiedEmbedding):
        return TiedEmbedding(_cut(part.vocabulary, to.vocabulary))
    if isinstance(part, ClassificationOutput):
        return replace(part, inputs=inputs, outputs=_cut(part.outputs, to.classes))
    if isinstance(part, AudioOutput):
        return replace(part, inputs=inputs, outputs=_cut(part.outputs, 2 * to.patch))
    if isinstance(part, (ProjectionOutput, ImageOutput)):
        return replace(part, inputs=inputs)
    return part


def _sizes(part: Any, to: Small, channels: int) -> Sizes:
    if isinstance(part, PointInput):
        return (to.length, len(part.positions.max_resolution))
    if part is None or isinstance(part, VectorInput):
        return (to.length, channels)
    positions = getattr(part, "positions", None)
    if isinstance(positions, ProjectedPositions):
        positions = positions.encoding
    if isinstance(positions, TrainablePositions) and positions.size == math.prod(_grid(to, 2)):
        part = replace(part, positions=FourierPositions(1, _grid(to, 2)))  # which say what grid they are of
    return default_sizes(_Holder(part))


@dataclass(frozen=True)
class _Holder:
    """A model as far as its inputs' sizes are concerned."""

    preprocessor: Any
