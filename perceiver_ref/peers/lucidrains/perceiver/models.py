"""`Perceiver` with its variants, `PerceiverIO` and `PerceiverLM`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ....autograd import ops
from ....autograd.tree import Tree
from ....errors import InputError
from ....models.call import Call
from ....models.encoder import Encoder
from ....models.inputs import GridInput, Preprocessed, TextInput
from ....models.perceiver_io import PerceiverIO
from ....models.positions import FourierPositions
from ....models.queries import InputQueries, Request
from ...base import Arguments, Given, Option, Outputs, Rebuilt, read_call
from ...names import LINEAR, NORM, Rows, Table, below, bind, renamed, same
from . import names
from .config import GRID, PERCEIVER, PERCEIVER_IO, array_list, flat_mask, inverted, read
from .encoders import BlockEncoder, GatedEncoder, MixedLatentsEncoder, TwoWayEncoder
from .quirks import CONVENTIONS, MULTIPLE, AxisMajorFourier, GridVectors, NormedProjection, OptionalMLPDecoder

_HIDDENS = {"return_hiddens": False}


def perceiver(given: Given) -> Rebuilt:
    """A Perceiver whose every block begins with a cross-attention. Tied layers leave block 0 out."""
    chosen = read("Perceiver", given.config, PERCEIVER)
    encoder = BlockEncoder(
        **_sizes(chosen, _grid_channels(chosen)),
        layers=chosen["self_per_cross_attn"],
        inverted=inverted("Perceiver", chosen["inverted_cross_attn"], chosen["depth"]),
        residual_rank=chosen["attn_residual_rank"] if chosen["attn_residual"] else None,
    )
    head = _head(chosen) if chosen["final_classifier_head"] else None
    model = PerceiverIO(encoder, _grid_input(chosen), head)

    def run(model: Any, params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        defaults = {"return_embeddings": False, **_HIDDENS}
        known = {"data", "mask", "block_outputs"}
        values, wanted = read_call("Perceiver", arguments, called, known, defaults, ["data"])
        x, hiddens = _encoded(model.encoder, params, values, model.preprocess(params, values["data"], call=call))
        if head is not None and not wanted["return_embeddings"]:
            x = model.decoder.apply(params["decoder"], x)
        return _outputs(x, hiddens, wanted)

    return _named(model, run, names.OLD_PERCEIVER if names.is_old(given.params) else names.PERCEIVER, 1)


def gated(given: Given) -> Rebuilt:
    """`gated.Perceiver`: GRUs in place of the residuals around attention."""
    chosen = read("gated.Perceiver", given.config, GRID)
    encoder = GatedEncoder(**_sizes(chosen, _grid_channels(chosen)), layers=1)
    return _variant("gated.Perceiver", chosen, encoder, names.GATED)


def mixed_latents(given: Given) -> Rebuilt:
    """`mixed_latents.Perceiver`: an MLP along the latents in place of self-attention.

    It takes any other option without a word; here those of `Perceiver` alone.
    """
    chosen = read("mixed_latents.Perceiver", given.config, GRID, frozenset(PERCEIVER) - frozenset(GRID))
    encoder = MixedLatentsEncoder(**_sizes(chosen, _grid_channels(chosen)), layers=1)
    return _variant("mixed_latents.Perceiver", chosen, encoder, names.MIXED)


def experimental(given: Given) -> Rebuilt:
    """`experimental.Perceiver`: inputs change between blocks. Only for data without Fourier features."""
    what = "experimental.Perceiver"
    chosen = read(what, given.config, {**GRID, "fourier_encode_data": True})
    if chosen["fourier_encode_data"]:
        raise InputError(
            f"{what} needs fourier_encode_data=False: with it the peer fails, since it counts input_channels twice"
        )
    encoder = TwoWayEncoder(**_sizes(chosen, _grid_channels(chosen)), layers=1)
    return _variant(what, chosen, encoder, names.TWO_WAY, names.TWO_WAY_INPUTS, names.input_rows(encoder))


def _variant(
    what: str,
    chosen: Mapping[str, Any],
    encoder: Encoder,
    layout: names.BlockNames,
    more_names: Table | None = None,
    more_rows: Rows | None = None,
) -> Rebuilt:
    head = _head(chosen)
    model = PerceiverIO(encoder, _grid_input(chosen), head)

    def run(model: Any, params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        values, _ = read_call(what, arguments, called, {"data", "mask"}, {}, ["data"])
        inputs = model.preprocess(params, values["data"], call=call).inputs
        mask = flat_mask(values.get("mask"), *inputs.shape[:2])
        latents = model.encoder.apply(params["encoder"], inputs, mask=mask)
        return {"out": model.decoder.apply(params["decoder"], latents)}

    return _named(model, run, layout, 0, more_names, more_rows)


def _named(
    model: PerceiverIO,
    run: Any,
    layout: names.BlockNames,
    norm: int,
    more_names: Table | None = None,
    more_rows: Rows | None = None,
) -> Rebuilt:
    """With the names of a Perceiver whose head has its norm as module number `norm`."""
    own = 1 + len(model.encoder.parameters()["later_blocks"])
    head: Table = {"norm": (str(norm), NORM), "output": (str(norm + 1), LINEAR)}
    rows = [
        *layout.rows(model.encoder),
        *(more_rows or []),
        *([(r"to_logits\.0", "decoder.mean")] if norm else []),
        (rf"to_logits\.{norm}", "decoder.norm"),
        (rf"to_logits\.{norm + 1}", "decoder"),
        ("to_logits", "decoder|encoder"),
    ]
    table = {"encoder": ("", {**layout.table(own), **(more_names or {})}), "decoder": ("to_logits", head)}
    return Rebuilt(model, bind(model.parameters(), table), run, rows)


def perceiver_io(given: Given) -> Rebuilt:
    """PerceiverIO: without queries the latents are the output."""
    chosen = read("PerceiverIO", given.config, PERCEIVER_IO)
    return _io("PerceiverIO", chosen, given)


def perceiver_lm(given: Given) -> Rebuilt:
    """PerceiverLM: a PerceiverIO whose inputs and queries are the embedded tokens."""
    own = dict.fromkeys(("dim", "num_tokens", "max_seq_len"), Option(int, required=True))
    shared = {name: default for name, default in PERCEIVER_IO.items() if name not in ("queries_dim", "logits_dim")}
    chosen = read("PerceiverLM", given.config, {**shared, **own})
    widths = {"queries_dim": chosen["dim"], "logits_dim": chosen["num_tokens"]}
    text = TextInput(chosen["num_tokens"], chosen["max_seq_len"], chosen["dim"])
    return _io("PerceiverLM", {**chosen, **widths}, given, text)


def _io(what: str, chosen: Mapping[str, Any], given: Given, text: TextInput | None = None) -> Rebuilt:
    if isinstance(chosen["inverted_cross_attn"], (list, tuple)):
        raise InputError(f"option 'inverted_cross_attn' of {what} must be true or false: it has one cross-attention")
    encoder = BlockEncoder(
        **_sizes(chosen, chosen["dim"], crosses=1),
        layers=1,
        inverted=inverted(what, chosen["inverted_cross_attn"], 1),
        residual_rank=chosen["attn_residual_rank"] if chosen["attn_residual"] else None,
        first="cross_attention",
    )
    decoder = OptionalMLPDecoder(
        latent_channels=chosen["latent_dim"],
        query_channels=chosen["queries_dim"],
        queries=InputQueries(chosen["queries_dim"]) if text else None,
        outputs=chosen["logits_dim"],
        heads=chosen["cross_heads"],
        qk_channels=chosen["cross_heads"] * chosen["cross_dim_head"],
        widening=MULTIPLE,
        conventions=CONVENTIONS,
        mlp=chosen["decoder_ff"],
    )
    model = PerceiverIO(encoder, text, decoder)

    def run(model: Any, params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        known = {"x", "mask"} if text else {"data", "mask", "queries", "block_outputs"}
        data = "x" if text else "data"
        values, wanted = read_call(what, arguments, called, known, {} if text else _HIDDENS, [data])
        elements = model.preprocess(params, values[data], call=call)
        x, hiddens = _encoded(model.encoder, params, values, elements)
        queries = elements.inputs if text else values.get("queries")
        if queries is not None:
            if len(queries.shape) == 2:
                queries = ops.broadcast_to(queries, shape=(elements.inputs.shape[0], *queries.shape))
            x = model.decoder.apply(params["decoder"], x, Request(queries))
        return _outputs(x, hiddens, wanted)

    layout = names.OLD_PERCEIVER_IO if names.is_old(given.params) else names.PERCEIVER_IO
    head: Table = {
        "cross_attention": ("", names.layer("decoder_cross_attn", "decoder_ff")),
        "output": ("to_logits", LINEAR),
    }
    own = 1 + len(encoder.parameters()["later_blocks"])
    table: Table = {"encoder": ("", layout.table(own)), "decoder": ("", head)}
    rows = [
        *layout.rows(encoder),
        ("decoder_cross_attn", "decoder.cross_attention.attention"),
        ("decoder_ff", "decoder.cross_attention.mlp"),
        *names.exactly("", "decoder.cross_attention", names.layer_points("decoder_cross_attn", "decoder_ff")),
        ("to_logits", "decoder"),
    ]
    if text:
        embeddings: Table = {"embedding": ("token_emb.weight", same), "positions/table": ("pos_emb.weight", same)}
        table = {**renamed("perceiver_io", table), "input": ("", embeddings)}
        rows = [("token_emb", "input.embedding"), ("pos_emb", "input.positions"), *below("perceiver_io", "", rows)]
        rows.append(("perceiver_io", "decoder"))
    return Rebuilt(model, bind(model.parameters(), table), run, rows)


def _grid_input(chosen: Mapping[str, Any]) -> GridInput:
    axes, resolution = chosen["input_axis"], (chosen["max_freq"],) * chosen["input_axis"]
    positions: FourierPositions = AxisMajorFourier(chosen["num_freq_bands"], resolution, conventions=CONVENTIONS)
    if not chosen.get("fourier_encode_data", True):  # the grid without positions
        positions = FourierPositions(0, (1,) * axes, concat_pos=False, conventions=CONVENTIONS)
    return GridInput(GridVectors(chosen["input_channels"], axes=axes), positions)


def _grid_channels(chosen: Mapping[str, Any]) -> int:
    return _grid_input(chosen).channels


def _sizes(chosen: Mapping[str, Any], inputs: int, crosses: int | None = None) -> dict[str, Any]:
    """What every encoder has; `crosses` is the number of cross-attentions, where not every block has one."""
    shared = names.sharing(chosen["weight_tie_layers"], also_first=crosses is not None)
    return {
        "inputs": inputs,
        "latents": chosen["num_latents"],
        "channels": chosen["latent_dim"],
        "blocks": chosen["depth"],
        "cross_heads": chosen["cross_heads"],
        "self_heads": chosen["latent_heads"],
        "qk_channels": chosen["cross_heads"] * chosen["cross_dim_head"],
        "self_qk_channels": chosen["latent_heads"] * chosen["latent_dim_head"],
        "cross_widening": MULTIPLE,
        "self_widening": MULTIPLE,
        "cross_attends": chosen["depth"] if crosses is None else crosses,
        "shared_cross": shared,
        "shared_blocks": shared,
        "conventions": CONVENTIONS,
    }


def _head(chosen: Mapping[str, Any]) -> NormedProjection:
    return NormedProjection(chosen["latent_dim"], chosen["num_classes"])


def _encoded(encoder: BlockEncoder, params: Tree, values: Arguments, elements: Preprocessed) -> tuple[Any, list[Any]]:
    """The latents, and the hidden states: what `block_outputs` holds, then every block's output."""
    inputs = elements.inputs
    if len(inputs.shape) != 3:
        raise InputError(f"data must be (batch, elements, {encoder.inputs}), got {tuple(inputs.shape)}")
    before = values.get("block_outputs")
    if before is not None:
        before = array_list(before) if isinstance(before, Mapping) else [before]
    mask = flat_mask(values.get("mask"), *inputs.shape[:2])
    return encoder.encode(params["encoder"], inputs, mask=mask, before=before)


def _outputs(x: Any, hiddens: list[Any], wanted: Mapping[str, Any]) -> Outputs:
    if not wanted.get("return_hiddens"):
        return {"out": x}
    return {"out0": x, **{f"out1.{i}": hidden for i, hidden in enumerate(hiddens)}}
