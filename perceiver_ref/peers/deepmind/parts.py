"""Single modules, as they are used on their own: attention, layers, encoder, decoders, pre- and postprocessors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ...autograd import ops
from ...autograd.tree import Tree
from ...errors import InputError, one_of
from ...models.attention import Attention, CrossAttention, SelfAttention
from ...models.call import Call
from ...models.conventions import DEEPMIND
from ...models.encoder import Encoder
from ...models.inputs import Preprocessed
from ...models.layers import MLP, LayerNorm
from ...models.outputs import TiedEmbedding
from ...models.queries import Request
from ...models.tracing import scope
from ..base import REQUIRED, Arguments, Given, Outputs, Rebuilt
from ..names import same
from . import decoders, encoder, names, positions, postprocessors, preprocessors
from .decoders import Widths, wanted_points
from .names import Names
from .part import NamedPart, component, flags, mask, no_dropout, options, rebuilt


def shape(given: Given, name: str) -> tuple[int, ...]:
    """The shape of an argument; `InputError` when it is missing."""
    if name not in given.inputs:
        raise InputError(f"the argument {name} is missing; given are {', '.join(given.inputs) or 'none'}")
    return given.inputs[name]


def _arguments(what: str, arguments: Arguments, *known: str) -> list[Any]:
    """These arguments in order, None for those not given; an unknown one is an `InputError`."""
    for name in arguments:
        if name not in known:
            raise one_of(f"argument of {what}", name, known)
    return [arguments.get(name) for name in known]


def _kwargs(given: Given, cls: str, known: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """(name, options) of a configuration {"class": cls, "kwargs": ...} of one module."""
    found, kwargs = component(given.config, cls)
    if found != cls:
        raise InputError(f"the configuration is of {found}, the case of {cls}")
    chosen = options(cls, kwargs, known)
    return kwargs.get("name") or _snake(cls), chosen


def _snake(name: str) -> str:
    return "".join(
        f"_{c.lower()}" if c.isupper() and i and name[i - 1].islower() else c.lower() for i, c in enumerate(name)
    )


_ATTENTION = {
    "num_heads": 8,
    "with_final_bias": True,
    "final_init_scale_multiplier": 1.0,
    "dropout_prob": 0.0,
    "qk_channels": None,
    "v_channels": None,
    "output_channels": None,
}


def attention(given: Given) -> Rebuilt:
    """`Attention`: widths default to the queries' input, then one to another."""
    name, chosen = _kwargs(given, "Attention", _ATTENTION)
    no_dropout("Attention", chosen["dropout_prob"], training=True)
    inputs = shape(given, "inputs_q")[-1]
    qk = inputs if chosen["qk_channels"] is None else chosen["qk_channels"]
    v = qk if chosen["v_channels"] is None else chosen["v_channels"]
    out = v if chosen["output_channels"] is None else chosen["output_channels"]
    conventions = replace(DEEPMIND, output_bias=bool(chosen["with_final_bias"]))
    model = Attention(inputs, shape(given, "inputs_kv")[-1], qk, v, out, chosen["num_heads"], conventions)

    def run(model: Any, params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        flags("Attention", called)
        x, z, attend = _arguments("Attention", arguments, "inputs_q", "inputs_kv", "attention_mask")
        return {"out": model.apply(params, x, z, mask=mask(attend))}

    part = NamedPart(model, points=[*names.attention_points(name, "attention")], layers=["attention"])
    return rebuilt(model, names.below(name, names.ATTENTION), run, part)


_LAYER = {
    "num_heads": 8,
    "dropout_prob": 0.0,
    "dropout_attn_prob": 0.0,
    "att_init_scale": 1.0,
    "dense_init_scale": 1.0,
    "qk_channels": None,
    "v_channels": None,
}


def cross_attention(given: Given) -> Rebuilt:
    """`CrossAttention`."""
    own = {**_LAYER, "widening_factor": 1, "shape_for_attn": "kv", "use_query_residual": True}
    name, chosen = _kwargs(given, "CrossAttention", own)
    model = CrossAttention(
        shape(given, "inputs_q")[-1],
        shape(given, "inputs_kv")[-1],
        chosen["num_heads"],
        chosen["qk_channels"],
        chosen["v_channels"],
        encoder.shape_for_attention(chosen["shape_for_attn"]),
        chosen["widening_factor"],
        bool(chosen["use_query_residual"]),
        DEEPMIND,
    )

    def run(model: Any, params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        _undropped("CrossAttention", chosen, called)
        x, z, attend = _arguments("CrossAttention", arguments, "inputs_q", "inputs_kv", "attention_mask")
        return {"out": model.apply(params, x, z, mask=mask(attend))}

    points = [*names.layer_points(name, "", encoder.CROSS_NORMS)]
    part = NamedPart(model, points=points, layers=["attention"])
    return rebuilt(model, names.below(name, names.CROSS_ATTENTION), run, part)


def self_attention(given: Given) -> Rebuilt:
    """`SelfAttention`."""
    name, chosen = _kwargs(given, "SelfAttention", {**_LAYER, "widening_factor": 4})
    model = SelfAttention(
        shape(given, "inputs")[-1],
        chosen["num_heads"],
        chosen["qk_channels"],
        chosen["v_channels"],
        chosen["widening_factor"],
        DEEPMIND,
    )

    def run(model: Any, params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        _undropped("SelfAttention", chosen, called)
        x, attend = _arguments("SelfAttention", arguments, "inputs", "attention_mask")
        return {"out": model.apply(params, x, mask=mask(attend))}

    part = NamedPart(model, points=[*names.layer_points(name, "", encoder.SELF_NORMS)], layers=["attention"])
    return rebuilt(model, names.below(name, names.SELF_ATTENTION), run, part)


def mlp(given: Given) -> Rebuilt:
    """`MLP`."""
    name, chosen = _kwargs(given, "MLP", {"widening_factor": 4, "dropout_prob": 0.0})
    model = MLP(shape(given, "x")[-1], chosen["widening_factor"], DEEPMIND)

    def run(model: Any, params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        _undropped("MLP", chosen, called)
        return {"out": model.apply(params, *_arguments("MLP", arguments, "x"))}

    part = NamedPart(model, points=[*names.mlp_points(name, "mlp")])
    return rebuilt(model, names.below(name, names.MLP), run, part)


def _undropped(what: str, chosen: Mapping[str, Any], called: Mapping[str, Any]) -> None:
    training = bool(flags(what, called)["is_training"])
    for key in ("dropout_prob", "dropout_attn_prob"):
        no_dropout(what, chosen.get(key, 0.0), training)


def layer_norm(given: Given) -> Rebuilt:
    """`layer_norm(x)`: `hk.LayerNorm` over the last axis."""
    options("layer_norm", given.config, {})
    model = LayerNorm(shape(given, "x")[-1])

    def run(model: Any, params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        return {"out": model.apply(params, *_arguments("layer_norm", arguments, "x"))}

    return rebuilt(model, names.below("layer_norm", names.NORM), run, NamedPart(model))


@dataclass(frozen=True)
class _WithoutLatents(Encoder):
    """An encoder that is always given its latents, and so has none of its own."""

    def parameters(self) -> Tree:
        return {name: part for name, part in super().parameters().items() if name != "latents"}


def perceiver_encoder(given: Given) -> Rebuilt:
    """`PerceiverEncoder`, with its own latents or given ones (argument z)."""
    cls, kwargs = component(given.config, "PerceiverEncoder")
    part = encoder.build(
        kwargs, shape(given, "inputs")[-1], Names(), _WithoutLatents if "z" in given.inputs else Encoder
    )

    def run(model: Any, params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        _undropped(cls, kwargs, called)
        inputs, attend, z = _arguments(cls, arguments, "inputs", "input_mask", "z")
        return {"z": model.apply(params, inputs, mask=mask(attend), latents=z)}

    return rebuilt(part.model, part.table, run, part)


_DECODER_ARGUMENTS = ("z", "query", "query_mask", "inputs", "inputs_without_pos", "subsampled_points")


def decoder(given: Given) -> Rebuilt:
    """A decoder: outputs "out", and "query" where it makes one."""
    inputs, features, query = (given.inputs.get(name) for name in ("inputs", "inputs_without_pos", "query"))
    widths = Widths(
        shape(given, "z")[-1],
        inputs[-1] if inputs else None,
        features[-1] if features else None,
        query[-1] if query else None,
    )
    part, cls = decoders.build(given.config, widths, Names())
    model = part.model

    def run(model: Any, params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        flags(cls, called)
        z, query, attend, inputs, features, points = _arguments(cls, arguments, *_DECODER_ARGUMENTS)
        if cls == "ProjectionDecoder":
            return {"out": model.apply(params, z)}
        request = Request(query, mask(attend) if cls == "BasicDecoder" else None, wanted_points(model, points))
        if query is not None:
            return {"out": model.apply(params, z, request)}
        with scope("decoder"):
            query = model.output_queries(params, z, request, Preprocessed(z if inputs is None else inputs, features))
        return {"out": model.apply(params, z, replace(request, queries=query)), "query": query}

    return rebuilt(model, part.table, run, part, grids="subsampled_points" not in given.inputs)


def preprocessor(given: Given) -> Rebuilt:
    """A preprocessor: elements with and without positions; several modalities also cut apart again."""
    inputs: Any = {name.partition("/")[2]: s for name, s in given.inputs.items() if name.startswith("inputs/")}
    inputs = inputs or shape(given, "x")
    one_axis = flags("a preprocessor", given.call, network_input_is_1d=True)["network_input_is_1d"]
    known = preprocessors.Known(inputs, given.params)
    part = preprocessors.build(given.config, known, Names(), flatten=bool(one_axis))

    def run(model: Any, params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        pos = arguments.get("pos")
        if isinstance(inputs, tuple):
            x, _ = _arguments("a preprocessor", arguments, "x", "pos")
        else:
            x = {name: arguments[f"inputs/{name}"] for name in inputs}
            pos = None if pos is None else dict.fromkeys(inputs, pos)
        with scope("input"):
            made = model.apply(params, x, call, pos=pos)
        if made.sizes is None:
            return {"inputs": made.inputs, "inputs_without_pos": made.features}
        out = {"inputs": made.inputs} | {f"inputs_without_pos/{name}": f for name, f in made.features.items()}
        start = 0
        for name in sorted(made.sizes):  # `restructure`
            out[f"restructured/{name}"] = made.inputs[:, start : start + made.sizes[name]]
            start += made.sizes[name]
        return out

    return rebuilt(part.model, part.table, run, part, grids="pos" not in given.inputs)


def postprocessor(given: Given) -> Rebuilt:
    """A postprocessor of an array x, or of a dict by modality."""
    apart = {name.partition("/")[2]: s[-1] for name, s in given.inputs.items() if name.startswith("inputs/")}
    part = postprocessors.build(
        given.config, apart or shape(given, "x" if "x" in given.inputs else "inputs")[-1], Names()
    )

    def run(model: Any, params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        sizes = flags("a postprocessor", called, modality_sizes=None)["modality_sizes"]
        x: Any = {name: arguments[f"inputs/{name}"] for name in apart} or arguments.get("x", arguments.get("inputs"))
        with scope("output"):
            out = model.apply(params, x, sizes=sizes)
        return dict(out) if isinstance(out, Mapping) else {"out": out}

    return rebuilt(part.model, part.table, run, part)


def embedding_decoder(given: Given) -> Rebuilt:
    """`EmbeddingDecoder` with the embedding as an argument."""
    known = {"vocab_size": None, "d_model": None}
    options("EmbeddingDecoder", given.config, known)
    model = TiedEmbedding(shape(given, "embedding_matrix")[0])

    def run(model: Any, params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        table, x = _arguments("EmbeddingDecoder", arguments, "embedding_matrix", "embeddings")
        return {"logits": model.apply(params, x, params={"input": {"embedding": table}})}

    return rebuilt(model, {"bias": ("embedding_decoder/bias", same)}, run, NamedPart(model))


def position_encoding(given: Given) -> Rebuilt:
    """`FourierPositionEncoding`, `TrainablePositionEncoding` and `build_position_encoding`."""
    if "class" not in given.config:
        known = {**positions.KEYS, "position_encoding_type": REQUIRED, "index_dims": REQUIRED}
        chosen = options("build_position_encoding", given.config, known)
        index_dims = positions.dims(chosen["index_dims"])
        model: Any = positions.build(chosen, index_dims)
        prefix, points = "", positions.points("", "")
    else:
        cls, kwargs = component(given.config, "a position encoding")
        prefix, points = kwargs.get("name") or _snake(cls), []
        size = "index_dims" if cls == "FourierPositionEncoding" else "index_dim"
        if size not in kwargs:
            raise InputError(f"{cls} needs the option {size!r}")
        index_dims = positions.dims(kwargs[size])
        rest = {key: value for key, value in kwargs.items() if key != size}
        fourier = cls == "FourierPositionEncoding"
        model = positions.fourier(rest, index_dims) if fourier else positions.trainable(rest, index_dims[0])
    table = names.below(prefix, {"table": ("pos_embs", same)}) if prefix else names.POSITIONS

    def run(model: Any, params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        batch = flags("a position encoding", called, batch_size=None)["batch_size"]
        (pos,) = _arguments("a position encoding", arguments, "pos")
        like = positions.like(params, pos)
        out = model.apply(params, index_dims, like=like, pos=pos)
        if len(out.shape) == 2 and batch is not None:
            out = ops.broadcast_to(out, shape=(batch, *out.shape))
        return {"out": out}

    part = NamedPart(model, points=points, grids=[] if positions.is_trainable(model) else ["grid"])
    return rebuilt(model, table, run, part, grids="pos" not in given.inputs)


PARTS: dict[str, Callable[[Given], Rebuilt]] = {
    "Attention": attention,
    "CrossAttention": cross_attention,
    "SelfAttention": self_attention,
    "MLP": mlp,
    "layer_norm": layer_norm,
    "PerceiverEncoder": perceiver_encoder,
    **dict.fromkeys((name for name in decoders.DECODERS if name != "MultimodalDecoder"), decoder),
    **dict.fromkeys(preprocessors.PREPROCESSORS, preprocessor),
    **dict.fromkeys(postprocessors.POSTPROCESSORS, postprocessor),
    "EmbeddingDecoder": embedding_decoder,
    "FourierPositionEncoding": position_encoding,
    "TrainablePositionEncoding": position_encoding,
    "build_position_encoding": position_encoding,
}
