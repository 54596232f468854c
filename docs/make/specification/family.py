"""The family of resamplers as one table: a row a model, a column an option, read off the rebuilt classes of cases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from conventions.exchange import rebuilt

from perceiver_ref.models.flamingo.resampler import LatentsAttend, ResamplerLayer
from perceiver_ref.models.layers import MLP, LayerNorm, RMSNorm
from perceiver_ref.models.published import preset
from perceiver_ref.models.resamplers import AttentionPool, LatentAttention, Resampler

_ACTIVATIONS = {"gelu_erf": "GELU", "gelu_tanh": "tanh GELU", "squared_relu": "squared ReLU", "relu": "ReLU"}


@dataclass(frozen=True)
class Model:
    """A row: what the model is called, a case of it ("" for the paper's preset), and what no column says."""

    name: str
    case: str
    besides: str = ""


MODELS = (
    Model("Flamingo", "", "time embeddings"),
    Model("flamingo-pytorch", "lucidrains-flamingo/resampler_4d", "embeddings of media"),
    Model("open_flamingo", "open-flamingo/resampler_embs", "embeddings of media and frames"),
    Model("IDEFICS", "idefics/resampler_qknorm", "queries and keys of each head normed"),
    Model("Idefics2", "idefics2/resampler_gqa", "fewer heads of keys and values"),
    Model("Evolla", "evolla/resampler", "masked scores are set to -1e4"),
    Model("IP-Adapter Plus", "ip-adapter/resampler_plain"),
    Model("IP-Adapter, with its options", "ip-adapter/resampler_mean_pooled"),
    Model(
        "IP-Adapter FaceID Plus", "ip-adapter/proj_plus", "latents of a face's embedding; may be added to the result"
    ),
    Model("diffusers, for SD3", "diffusers/time", "a timestep shifts and scales normed latents"),
    Model("PuLID IDFormer", "pulid/idformer", "latents of identities, too; five scales of features in turn"),
    Model("PuLID, in the image model", "pulid/attention_ca", "image tokens are the latents"),
    Model("XTTS, NaturalSpeech 2", "xtts/resampler_proj_context", "a mask is of latents, too"),
    Model("Chatterbox", "chatterbox/perceiver", "one block twice: on the input, then on its own result"),
    Model("Kosmos-2 and 2.5", "kosmos2/kosmos2_eager", "gives the maps of attention, too"),
    Model("Aria", "aria/projector", "each map twice in a row; fewer queries for fewer patches"),
    Model(
        "MiniCPM-V 2.0, Qwen-VL", "minicpmv/resampler2_interpolated", "a table added to queries and, resized, to keys"
    ),
    Model("MiniCPM-V 2.5 to 4.0", "minicpmv/resampler25", "sines of columns and rows added for keys alone"),
    Model("MiniCPM-V 4.5", "minicpmv/resampler45_temporal", "sines of time, too; frames of a group are one set"),
    Model("open_clip", "open-clip/pooler"),
    Model("SigLIP, SigLIP 2", "siglip/head2_mask"),
    Model("timm", "timm/pool_map", "one latent or more, the first or their mean"),
    Model("timm, with its options", "timm/pool_qknorm_pos_avg", "queries and keys of each head normed"),
)
"""The rows, resamplers of several layers first."""

_COLUMNS: dict[str, Callable[[Any], str]] = {}


def _column(name: str) -> Callable[[Callable[[Any], str]], Callable[[Any], str]]:
    def keep(of: Callable[[Any], str]) -> Callable[[Any], str]:
        _COLUMNS[name] = of
        return of

    return keep


def table() -> str:
    """The table, in Markdown."""
    head = ["model", *_COLUMNS, "besides"]
    lines = [head, ["---"] * len(head)]
    for row in MODELS:
        model = preset("flamingo/resampler-3b") if not row.case else rebuilt(row.case)[1].model
        lines.append([row.name, *(of(model) for of in _COLUMNS.values()), row.besides])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _outer(model: Any) -> Any:
    """A model around a resampler as that resampler."""
    return getattr(model, "resampler", model)


def _layer(model: Any) -> Any:
    """What attends: a resampler's layer, a pool itself, a block."""
    if isinstance(model, LatentsAttend):
        return model
    layer = getattr(model, "layer", None) or getattr(model, "block", None)
    return layer if layer is not None else _layer(model.resampler)


@_column("latents")
def _latents(model: Any) -> str:
    outer = _outer(model)
    if isinstance(outer, LatentAttention) or getattr(outer, "latents", None) is None:
        return "given"
    return "learned, after those of the mean" if getattr(outer, "pool", None) is not None else "learned"


@_column("features before")
def _features(model: Any) -> str:
    outer = _outer(model)
    mapped = getattr(outer, "input", None)
    placed = "positions added, " if getattr(outer, "places", None) else ""
    if hasattr(outer, "maps"):
        return "MLPs"
    return placed + ("as they are" if mapped is None else "mapped" if mapped.bias else "mapped, no bias")


@_column("norms before attention")
def norms(model: Any) -> str:
    layer = _layer(model)
    if not isinstance(layer, LatentsAttend):
        return "one for both"
    norm = layer.features_norm
    return "none" if norm is None else f"{_kind(norm)}, eps {norm.eps:g}"


def _kind(norm: Any) -> str:
    return "layer" if isinstance(norm, LayerNorm) else "RMS" if isinstance(norm, RMSNorm) else "length"


@_column("keys")
def keys(model: Any) -> str:
    layer = _layer(model)
    if not getattr(layer, "latents_in_keys", False):
        return "features"
    return "latents, features" if layer.latents_first else "features, latents"


@_column("biases")
def _biases(model: Any) -> str:
    conventions = _layer(model).conventions
    if conventions.qkv_bias and conventions.output_bias:
        return "yes"
    return "of the map back" if conventions.output_bias else "no"


@_column("residual")
def _residual(model: Any) -> str:
    return "no" if isinstance(model, AttentionPool | LatentAttention) else "yes"


@_column("layers")
def _layers(model: Any) -> str:
    if isinstance(model, AttentionPool | LatentAttention):
        return "1"
    return "any" if isinstance(_layer(model), ResamplerLayer) else "1, twice"


@_column("MLP")
def _mlp(model: Any) -> str:
    mlp = getattr(_layer(model), "mlp", None)
    if not isinstance(mlp, MLP):
        return "none"
    conventions = mlp.conventions
    name = _ACTIVATIONS.get(conventions.activation, conventions.activation)
    gate = f"gated, {name}" if conventions.gated_mlp else name
    return gate + (", biases" if conventions.mlp_bias else "")


@_column("end")
def _end(model: Any) -> str:
    outer = _outer(model)
    if isinstance(outer, Resampler):
        return ("map, " if outer.output is not None else "") + f"norm ({_kind(outer.norm)})"
    norm = getattr(outer, "norm", None)
    last = getattr(outer, "output", None)
    if isinstance(outer, AttentionPool):
        steps = ["norm"] * (norm is not None) + [_ending(last)] * (last is not None)
        taken = {"all": [], "first": ["the first row"], "mean": ["the mean"]}[outer.take]
        return ", ".join([*steps, *taken]) or "none"
    projected = getattr(outer, "projection", None) is not None
    return ("map, " if projected else "") + f"norm ({_kind(norm)})" if norm is not None else _bare(outer)


def _ending(last: Any) -> str:
    """The last part of a pool, a linear map unless something else stands there."""
    return "map, no bias" if hasattr(last, "inputs") and not hasattr(last, "hidden") else "tanh GELU between two maps"


def _bare(model: Any) -> str:
    return "map, no bias" if hasattr(model, "outputs") and not isinstance(model, LatentAttention) else "none"
