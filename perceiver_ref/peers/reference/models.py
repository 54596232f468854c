"""How each of our models is called with arguments by name: what it takes, and its outputs by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...autograd.core import array_of
from ...autograd.tree import Tree
from ...models.attention import Attention, CrossAttention, SelfAttention
from ...models.call import Call
from ...models.decoder import Decoder, ProjectionDecoder
from ...models.encoder import Encoder
from ...models.flamingo import (
    Features,
    Flamingo,
    GatedCrossAttention,
    GatedLayers,
    LanguageModel,
    MediaMask,
    PatchEncoder,
    PerceiverResampler,
    media_mask,
    preceding,
)
from ...models.inputs import (
    AudioPatches,
    Conv1x1,
    ConvStem,
    GridInput,
    MultimodalInput,
    OneHotInput,
    Patches,
    Pixels,
    PointInput,
    TextInput,
    VectorInput,
)
from ...models.layers import MLP, BatchNorm, L2Norm, LayerNorm, RMSNorm
from ...models.outputs import AudioOutput, ClassificationOutput, ImageOutput, MultimodalOutput, ProjectionOutput
from ...models.perceiver_ar import PerceiverAR
from ...models.perceiver_io import PerceiverIO
from ...models.pointing import Pointing
from ...models.positions import FourierPositions, ProjectedPositions, TrainablePositions
from ...models.queries import Request
from ...models.resamplers import AttentionPool, LatentAttention, Resampler
from ..base import Outputs

Values = dict[str, Any]
Compute = Callable[[Any, Tree, Values, Mapping[str, Any], Call], Any]


@dataclass(frozen=True)
class Caller:
    """The arguments of a model and what it makes of them: an array, or arrays by name."""

    compute: Compute
    required: tuple[str, ...]
    optional: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    def outputs(self, model: Any, params: Tree, values: Values, options: Mapping[str, Any], call: Call) -> Outputs:
        """`out`, or `out.<name>` for several."""
        out = self.compute(model, params, values, options, call)
        return {f"out.{name}": part for name, part in out.items()} if isinstance(out, Mapping) else {"out": out}


def _array(values: Values, name: str) -> Any:
    """An argument that takes no gradient, or None."""
    value = values.get(name)
    if isinstance(value, Mapping):
        return {key: array_of(part) for key, part in value.items()}
    return None if value is None else array_of(value)


def _perceiver_io(model: Any, p: Tree, v: Values, o: Mapping[str, Any], call: Call) -> Any:
    return model.apply(
        p,
        v["inputs"],
        mask=_array(v, "mask"),
        bias=v.get("bias"),
        latents=v.get("latents"),
        pos=v.get("pos"),
        queries=v.get("queries"),
        query_mask=_array(v, "query_mask"),
        points=_array(v, "points"),
        call=call,
    )


def _encoder(model: Any, p: Tree, v: Values, o: Mapping[str, Any], call: Call) -> Any:
    return model.apply(p, v["inputs"], mask=_array(v, "mask"), bias=v.get("bias"), latents=v.get("latents"))


def _decoder(model: Any, p: Tree, v: Values, o: Mapping[str, Any], call: Call) -> Any:
    return model.apply(p, v["latents"], Request(v.get("queries"), _array(v, "query_mask"), _array(v, "points")))


def _layer(*names: str) -> Compute:
    """Layers of one or two sets, with a mask and a bias."""

    def compute(model: Any, p: Tree, v: Values, o: Mapping[str, Any], call: Call) -> Any:
        return model.apply(p, *(v[name] for name in names), mask=_array(v, "mask"), bias=v.get("bias"))

    return compute


def _plain(model: Any, p: Tree, v: Values, o: Mapping[str, Any], call: Call) -> Any:
    return model.apply(p, v["x"])


def _with_call(model: Any, p: Tree, v: Values, o: Mapping[str, Any], call: Call) -> Any:
    return model.apply(p, v["x"], call)


def _input(model: Any, p: Tree, v: Values, o: Mapping[str, Any], call: Call) -> Any:
    return model.apply(p, v["inputs"], call, pos=v.get("pos")).inputs


def _output(model: Any, p: Tree, v: Values, o: Mapping[str, Any], call: Call) -> Any:
    return model.apply(p, v["x"], sizes=o["sizes"])


def _positions(model: Any, p: Tree, v: Values, o: Mapping[str, Any], call: Call) -> Any:
    """The grid's positions, in the dtype of `like`; or those of `pos`."""
    return model.apply(p, tuple(o["index_dims"]), like=array_of(v["like"]), pos=v.get("pos"))


def _resampler(model: Any, p: Tree, v: Values, o: Mapping[str, Any], call: Call) -> Any:
    return model.apply(p, v["features"], mask=_array(v, "mask"))


def _family(model: Any, p: Tree, v: Values, o: Mapping[str, Any], call: Call) -> Any:
    return model.apply(p, v["features"], v.get("latents"), mask=_array(v, "mask"), key_mask=_array(v, "key_mask"))


def _latent_attention(model: Any, p: Tree, v: Values, o: Mapping[str, Any], call: Call) -> Any:
    return model.apply(p, v["x"], v["features"], mask=_array(v, "mask"))


def _pool(model: Any, p: Tree, v: Values, o: Mapping[str, Any], call: Call) -> Any:
    positions = {name: v.get(name) for name in ("bias", "query_positions", "key_positions")}
    return model.apply(p, v["features"], mask=_array(v, "mask"), **positions)


def _gated(model: Any, p: Tree, v: Values, o: Mapping[str, Any], call: Call) -> Any:
    return model.apply(p, v["text"], v["media"], mask=_media_mask(v, o))


def _media_mask(v: Values, o: Mapping[str, Any]) -> MediaMask | None:
    """Of `locations` (B, L), True at the tag of a medium; without them all text sees all media."""
    if v.get("locations") is None:
        return None
    _, media, tokens, _ = v["media"].shape
    made: MediaMask = media_mask(preceding(array_of(v["locations"])), media=media, tokens=tokens, which=o["which"])
    return made


def _autoregressive(model: Any, p: Tree, v: Values, o: Mapping[str, Any], call: Call) -> Any:
    return model.apply(p, array_of(v["ids"]), prefix=o["prefix"], mask=_array(v, "mask"))


def _pointing(model: Any, p: Tree, v: Values, o: Mapping[str, Any], call: Call) -> Any:
    return model.apply(p, v["units"])


def _vision(model: Any, p: Tree, v: Values, o: Mapping[str, Any], call: Call) -> Any:
    return model.apply(p, v["media"])


def _language_model(model: Any, p: Tree, v: Values, o: Mapping[str, Any], call: Call) -> Any:
    return model.apply(p, array_of(v["ids"]), mask=_array(v, "mask"))


def _flamingo(model: Any, p: Tree, v: Values, o: Mapping[str, Any], call: Call) -> Any:
    ids, mask, frames = (_array(v, name) for name in ("ids", "mask", "frames"))
    return model.apply(p, ids, v.get("media"), mask=mask, frames=frames)


_MASKED = ("mask", "bias")
_INPUT = Caller(_input, ("inputs",), ("pos",))
_POSITIONS = Caller(_positions, ("like",), ("pos",), {"index_dims": []})
_OUTPUT = Caller(_output, ("x",), (), {"sizes": None})
_FEATURES = Caller(_with_call, ("x",))

CALLERS: dict[type, Caller] = {
    PerceiverIO: Caller(
        _perceiver_io, ("inputs",), ("mask", "bias", "latents", "pos", "queries", "query_mask", "points")
    ),
    Encoder: Caller(_encoder, ("inputs",), ("mask", "bias", "latents")),
    Decoder: Caller(_decoder, ("latents",), ("queries", "query_mask", "points")),
    ProjectionDecoder: Caller(_decoder, ("latents",)),
    Attention: Caller(_layer("x", "z"), ("x", "z"), _MASKED),
    CrossAttention: Caller(_layer("x", "z"), ("x", "z"), _MASKED),
    SelfAttention: Caller(_layer("x"), ("x",), _MASKED),
    MLP: Caller(_plain, ("x",)),
    LayerNorm: Caller(_plain, ("x",)),
    RMSNorm: Caller(_plain, ("x",)),
    L2Norm: Caller(_plain, ("x",)),
    BatchNorm: _FEATURES,
    ConvStem: _FEATURES,
    Conv1x1: _FEATURES,
    Pixels: _FEATURES,
    Patches: _FEATURES,
    AudioPatches: _FEATURES,
    GridInput: _INPUT,
    TextInput: Caller(_input, ("inputs",)),
    OneHotInput: _INPUT,
    PointInput: _INPUT,
    VectorInput: _INPUT,
    MultimodalInput: _INPUT,
    FourierPositions: _POSITIONS,
    TrainablePositions: _POSITIONS,
    ProjectedPositions: _POSITIONS,
    ProjectionOutput: _OUTPUT,
    ClassificationOutput: _OUTPUT,
    AudioOutput: _OUTPUT,
    ImageOutput: _OUTPUT,
    MultimodalOutput: _OUTPUT,
    PerceiverResampler: Caller(_resampler, ("features",), ("mask",)),
    Resampler: Caller(_family, ("features",), ("latents", "mask", "key_mask")),
    LatentAttention: Caller(_latent_attention, ("x", "features"), ("mask",)),
    AttentionPool: Caller(_pool, ("features",), ("mask", "bias", "query_positions", "key_positions")),
    GatedCrossAttention: Caller(_gated, ("text", "media"), ("locations",), {"which": "immediate"}),
    GatedLayers: Caller(_gated, ("text", "media"), ("locations",), {"which": "immediate"}),
    LanguageModel: Caller(_language_model, ("ids",), ("mask",)),
    PatchEncoder: Caller(_vision, ("media",)),
    Features: Caller(_vision, ("media",)),
    Flamingo: Caller(_flamingo, ("ids",), ("media", "mask", "frames")),
    Pointing: Caller(_pointing, ("units",)),
    PerceiverAR: Caller(_autoregressive, ("ids",), ("mask",), {"prefix": 0}),
}
"""What can be a class of its own; subclasses are called like their bases."""


def caller(model: Any) -> Caller:
    """How this model is called."""
    return next(CALLERS[made] for made in type(model).__mro__ if made in CALLERS)
