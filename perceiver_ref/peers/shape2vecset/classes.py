"""The classes of both repositories from their configurations, with their names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...autograd import ops
from ...autograd.tree import Tree
from ...errors import InputError, one_of
from ...models.attention import CrossAttention, SelfAttention
from ...models.call import Call
from ...models.conventions import DIALECTS
from ..base import Arguments, Given, Option, Outputs, Rebuilt, options, positive, read_call
from ..lucidrains.perceiver import names
from ..lucidrains.perceiver import parts as lucidrains
from ..names import LINEAR, NORM, Rows, Table, bind, same
from .model import SetAutoEncoder
from .parts import AXES, Bottleneck, Gaussian, Normalized, PointEmbedding

_CONVENTIONS = DIALECTS["lucidrains"]
_MULTIPLE = 4
_SIZE = Option(int, required=True)
_EMBED: dict[str, Any] = {"hidden_dim": 48, "dim": 128}
_AUTO_ENCODER: dict[str, Any] = {
    "depth": 24,
    "dim": 512,
    "queries_dim": 512,
    "output_dim": None,  # 1; None means no last map
    "num_inputs": 2048,
    "num_latents": 512,
    "heads": 8,
    "dim_head": 64,
    "weight_tie_layers": False,
    "decoder_ff": False,
}
_VEC_SET: dict[str, Any] = {
    "depth": 24,
    "dim": 768,
    "output_dim": 1,
    "num_inputs": 2048,
    "num_latents": 1280,
    "latent_dim": 16,
    "dim_head": 64,
    "query_type": "point",
    "bottleneck": Option(str, required=True),
    "bottleneck_args": {},
}
_BOTTLENECKS: dict[str, dict[str, Any]] = {
    "Bottleneck": {},
    "KLBottleneck": {"dim": _SIZE, "latent_dim": _SIZE, "kl_weight": Option(float, required=True)},
    "NormalizedBottleneck": {"dim": _SIZE, "latent_dim": _SIZE},
}
_EMBEDDING: Table = {"mlp": ("mlp", LINEAR)}
_GAUSSIAN: Table = {"mean": ("mean_fc", LINEAR), "log_variance": ("logvar_fc", LINEAR), "output": ("proj", LINEAR)}
_NORMALIZED: Table = {
    "scale": ("gamma", same),
    "offset": ("beta", same),
    "input": ("pre_bottleneck_proj", LINEAR),
    "output": ("post_bottleneck_proj", LINEAR),
}
_BOTTLENECK_POINTS: Rows = [
    ("mean_fc", "encoder.bottleneck.mean"),
    ("logvar_fc", "encoder.bottleneck.log_variance"),
    ("proj", "latents.bottleneck.output"),
    ("pre_bottleneck_proj", "encoder.bottleneck.input"),
    ("pre_bottleneck_norm", "encoder.bottleneck.norm"),
    ("post_bottleneck_proj", "latents.bottleneck.output"),
]
_LAYER = names.layer("0", "1")


def _layer_points(attention: str, mlp: str) -> Rows:
    """Those of a layer; `drop_path` does nothing outside training."""
    outer = [(attention, "attention"), (mlp, "mlp")]
    return [*outer, *((f"{name}.fn.drop_path", ours) for name, ours in outer), *names.layer_points(attention, mlp)]


_CROSS_POINTS = _layer_points("0", "1")


def attention(given: Given) -> Rebuilt:
    """`Attention`: perceiver-pytorch's, whose queries are no keys."""
    known = {"query_dim": _SIZE, "context_dim": Option(int), "heads": 8, "dim_head": 64, "drop_path_rate": 0.0}
    chosen = options("Attention", given.config, known)
    made = lucidrains.attention(replace(given, config={k: v for k, v in chosen.items() if k != "drop_path_rate"}))
    return replace(made, points=[*made.points, ("drop_path", "attention")])


def point_embed(given: Given) -> Rebuilt:
    """`PointEmbed`."""
    chosen = options("PointEmbed", given.config, _EMBED)
    model = _embedding(chosen["dim"], chosen["hidden_dim"])

    def run(model: Any, params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        values, _ = read_call("PointEmbed", arguments, called, {"input"}, {}, ["input"])
        return {"out": model.apply(params, values["input"], call=call)}

    state = bind(model.state(), {"basis": ("basis", same)})
    return Rebuilt(model, bind(model.parameters(), _EMBEDDING), run, [("mlp", "points")], state)


def _embedding(channels: int, hidden: int = _EMBED["hidden_dim"]) -> PointEmbedding:
    if hidden < 1 or hidden % (2 * AXES):
        raise InputError(f"hidden_dim must be a multiple of {2 * AXES}, got {hidden}")
    return PointEmbedding(hidden // (2 * AXES), positive("dim", channels))


def auto_encoder(given: Given) -> Rebuilt:
    """`AutoEncoder`."""
    chosen = options("AutoEncoder", given.config, _AUTO_ENCODER)
    return _shape2vecset("AutoEncoder", given, chosen, Bottleneck())


def kl_auto_encoder(given: Given) -> Rebuilt:
    """`KLAutoEncoder`: with a normal distribution of each latent."""
    chosen = options("KLAutoEncoder", given.config, {**_AUTO_ENCODER, "latent_dim": 64})
    width, kept = positive("dim", chosen["dim"]), positive("latent_dim", chosen["latent_dim"])
    return _shape2vecset("KLAutoEncoder", given, chosen, Gaussian(width, kept))


def _shape2vecset(what: str, given: Given, chosen: Mapping[str, Any], bottleneck: Bottleneck) -> Rebuilt:
    width = positive("dim", chosen["dim"])
    if chosen["queries_dim"] != width:
        raise InputError(f"queries_dim ({chosen['queries_dim']}) must be dim ({width}): one embedding serves both")
    outputs = given.config.get("output_dim", 1)
    cross = CrossAttention(width, width, 1, width, widening=_MULTIPLE, conventions=_CONVENTIONS)
    heads, inner = positive("heads", chosen["heads"]), chosen["heads"] * positive("dim_head", chosen["dim_head"])
    model = SetAutoEncoder(
        embedding=_embedding(width),
        cross=cross,
        layer=SelfAttention(width, heads, inner, widening=_MULTIPLE, conventions=_CONVENTIONS),
        decoder=replace(cross, query_residual=False, feed_forward=chosen["decoder_ff"]),
        bottleneck=bottleneck,
        inputs=positive("num_inputs", chosen["num_inputs"]),
        latents=positive("num_latents", chosen["num_latents"]),
        layers=chosen["depth"],
        outputs=None if outputs is None else positive("output_dim", outputs),
        shared="all" if chosen["weight_tie_layers"] else "none",
    )
    table = {"output": ("to_outputs", LINEAR), "bottleneck": ("", _GAUSSIAN)}
    rows = [*_BOTTLENECK_POINTS, ("to_outputs", "decoder")]
    methods = {"encode": _encoded, "decode": _learned_and_decoded}
    return _rebuilt(what, given, model, table, rows, "logits", methods)


def vec_set_auto_encoder(given: Given) -> Rebuilt:
    """`VecSetAutoEncoder`."""
    what = "VecSetAutoEncoder"
    chosen = options(what, given.config, _VEC_SET)
    width, dim_head = positive("dim", chosen["dim"]), positive("dim_head", chosen["dim_head"])
    heads = width // dim_head
    if not heads:
        raise InputError(f"dim_head ({dim_head}) must not be more than dim ({width})")
    if chosen["query_type"] not in ("point", "learnable"):
        raise one_of("query_type", str(chosen["query_type"]), ("point", "learnable"))
    shared: dict[str, Any] = {"widening": _MULTIPLE, "conventions": _CONVENTIONS}
    cross = CrossAttention(width, width, heads, heads * dim_head, context_norm=False, **shared)
    model = SetAutoEncoder(
        embedding=_embedding(width),
        cross=cross,
        layer=SelfAttention(width, heads, heads * dim_head, **shared),
        decoder=replace(cross, query_residual=False, feed_forward=False),
        bottleneck=_bottleneck(chosen["bottleneck"], chosen["bottleneck_args"], width),
        inputs=positive("num_inputs", chosen["num_inputs"]),
        latents=positive("num_latents", chosen["num_latents"]),
        layers=chosen["depth"],
        outputs=positive("output_dim", chosen["output_dim"]),
        learned=chosen["query_type"] == "learnable",
        final_norm=True,
    )
    table = {
        "queries": ("latents.weight", same),
        "bottleneck": ("bottleneck", _GAUSSIAN if isinstance(model.bottleneck, Gaussian) else _NORMALIZED),
        "norm": ("to_outputs.0", NORM),
        "output": ("to_outputs.1", LINEAR),
    }
    rows = [
        *[(rf"bottleneck\.{theirs}", ours) for theirs, ours in _BOTTLENECK_POINTS],
        (r"to_outputs\.0", "decoder.norm"),
        (r"to_outputs(\.1)?", "decoder"),
    ]
    methods = {"encode": _kept, "learn": _learned, "decode": _decoded}
    return _rebuilt(what, given, model, table, rows, "o", methods)


def _bottleneck(name: str, arguments: Mapping[str, Any], width: int) -> Bottleneck:
    """The bottleneck of this class and these arguments."""
    name = name.rpartition(".")[2]
    if name not in _BOTTLENECKS:
        raise one_of("bottleneck", name, _BOTTLENECKS)
    chosen = options(name, arguments, _BOTTLENECKS[name])
    if not chosen:
        return Bottleneck()
    if chosen["dim"] != width:
        raise InputError(f"dim of {name} ({chosen['dim']}) must be that of the auto-encoder ({width})")
    kept = positive(f"latent_dim of {name}", chosen["latent_dim"])
    return Gaussian(width, kept, chosen["kl_weight"]) if "kl_weight" in chosen else Normalized(width, kept)


def _rebuilt(
    what: str,
    given: Given,
    model: SetAutoEncoder,
    table: Table,
    rows: Rows,
    output: str,
    methods: Mapping[str, Any],
) -> Rebuilt:
    """A class whose forward pass gives `output`; a call's `method` asks for another one."""
    table = {
        "embedding": ("point_embed", _EMBEDDING),
        "cross": ("cross_attend_blocks", _LAYER),
        "layers/{i}": ("layers.{i}", _LAYER),
        "decoder": ("", names.layer("decoder_cross_attn", "decoder_ff")),
        **table,
    }
    method = given.call.get("method") or "forward"
    points = [*rows, *_rows(model, str(method))]

    def run(model: Any, params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        called = {"method": "forward", **called}
        method = called.pop("method") or "forward"
        if method != "forward" and method not in methods:
            raise one_of(f"method of {what}", str(method), ("forward", *methods))
        if method != "forward":
            return methods[method](what, model, params, arguments, called, call.state)  # type: ignore[no-any-return]
        values = _read(what, model, arguments, called, ["pc", "queries"])
        z, kl = _encode(model, params, values, call.state)
        out = model.decode(params, call.state, model.learn(params, z), values["queries"])
        out = ops.reshape(out, shape=out.shape[:-1]) if out.shape[-1] == 1 else out
        kept = {"x": z} if output == "o" else {}
        return {output: out, **kept, **({} if kl is None else {"kl": kl})}

    state = bind(model.state(), {"basis": ("point_embed.basis", same)})
    return Rebuilt(model, bind(model.parameters(), table), run, points, state)


def _read(
    what: str, model: SetAutoEncoder, arguments: Arguments, called: Mapping[str, Any], required: list[str]
) -> dict[str, Any]:
    """The arguments of a call; what chance gives the peer belongs to a cloud."""
    chance = [name for name in model.arguments if name in ("fps_index", "noise")] if "pc" in required else []
    values, _ = read_call(what, arguments, called, {*required, *chance}, {}, [*required, *chance])
    return values


def _encode(model: SetAutoEncoder, params: Tree, values: Mapping[str, Any], state: Tree) -> tuple[Any, Any]:
    return model.encode(params, state, values["pc"], values.get("fps_index"), values.get("noise"))


def _encoded(what: str, model: Any, params: Tree, arguments: Arguments, called: Any, state: Tree) -> Outputs:
    """`encode` of 3DShape2VecSet: the latents, or the divergence and then the latents."""
    z, kl = _encode(model, params, _read(what, model, arguments, called, ["pc"]), state)
    return {"out": z} if kl is None else {"out0": kl, "out1": z, "kl": kl, "x": z}


def _learned_and_decoded(
    what: str, model: Any, params: Tree, arguments: Arguments, called: Any, state: Tree
) -> Outputs:
    """`decode` of 3DShape2VecSet: the layers and the decoder."""
    values = _read(what, model, arguments, called, ["x", "queries"])
    return {"out": model.decode(params, state, model.learn(params, values["x"]), values["queries"])}


def _kept(what: str, model: Any, params: Tree, arguments: Arguments, called: Any, state: Tree) -> Outputs:
    """`encode` of VecSetX."""
    z, kl = _encode(model, params, _read(what, model, arguments, called, ["pc"]), state)
    return {"x": z, **({} if kl is None else {"kl": kl})}


def _learned(what: str, model: Any, params: Tree, arguments: Arguments, called: Any, state: Tree) -> Outputs:
    """`learn` of VecSetX: the layers."""
    return {"out": model.learn(params, _read(what, model, arguments, called, ["x"])["x"])}


def _decoded(what: str, model: Any, params: Tree, arguments: Arguments, called: Any, state: Tree) -> Outputs:
    """`decode` of VecSetX: the decoder alone."""
    values = _read(what, model, arguments, called, ["x", "queries"])
    return {"out": model.decode(params, state, values["x"], values["queries"])}


def _rows(model: SetAutoEncoder, method: str) -> Rows:
    """The trace points; the embedding is one module for all points, and a tied layer one for all repetitions."""
    encoded = ["encoder.inputs"] if model.learned else ["encoder.samples", "encoder.inputs"]
    uses = {"encode": encoded, "learn": [], "decode": ["decoder.queries"]}.get(method, [*encoded, "decoder.queries"])
    rows: Rows = []
    for number, name in enumerate(uses):
        use = f"@{number}" if len(uses) > 1 else ""
        rows.append((rf"point_embed(\.mlp)?{use}", f"{name}.points"))
    rows += names.exactly("cross_attend_blocks", "encoder.cross_attention", _CROSS_POINTS)
    tied = model.shared == "all" and model.layers > 1
    for i in range(model.layers):
        module, use = ("layers.0", f"@{i}") if tied else (f"layers.{i}", "")
        rows += names.exactly(module, f"latents.layers.{i}", _CROSS_POINTS, use)
    decoder = _layer_points("decoder_cross_attn", "decoder_ff")
    return rows + names.exactly("", "decoder.cross_attention", decoder)
