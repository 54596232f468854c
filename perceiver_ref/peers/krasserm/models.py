"""krasserm's task models: images, optical flow and text. A model is an encoder "0" and a decoder "1"."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from ...autograd import ops
from ...autograd.tree import Tree
from ...errors import InputError
from ...models.call import Call
from ...models.decoder import ClassificationDecoder, Decoder, GridDecoder, trainable_queries
from ...models.inputs import Patches, TextInput
from ...models.outputs import TiedEmbedding
from ...models.perceiver_io import PerceiverIO
from ...models.queries import InputQueries
from ..base import REQUIRED, Arguments, Given, Outputs, Rebuilt, options, read_call
from ..names import Rows, Table, below, bind, same
from .config import DECODER, ENCODER, TRAINING, decoder, encoder
from .names import ADAPTER_POINTS, BUFFER, GRID, TEXT, decoder_points, encoder_points
from .names import ENCODER as ENCODER_NAMES
from .names import decoder as decoder_names
from .parts import attend, fourier
from .quirks import BufferedGrid, GridElements

_MODEL = {"num_latents": REQUIRED, "num_latent_channels": REQUIRED, "encoder": REQUIRED, "decoder": REQUIRED}
_CLASSES = {"num_output_queries": 1, "num_output_query_channels": 256, "num_classes": 100}
_TEXT = {"vocab_size": 10_003, "max_seq_len": 256, "num_input_channels": 64}


def _configurations(
    name: str, given: Given, own_encoder: Mapping[str, Any], own_decoder: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The options of the model, of its encoder and of its decoder."""
    chosen = options(name, given.config, _MODEL, TRAINING)
    inner = options(f"the encoder of {name}", chosen["encoder"], {**ENCODER, **own_encoder}, TRAINING)
    return chosen, inner, options(f"the decoder of {name}", chosen["decoder"], {**DECODER, **own_decoder}, TRAINING)


def _rebuilt(
    model: PerceiverIO, adapter: Table, run: Any, *, adapted: str = "decoder", extra: Table | None = None
) -> Rebuilt:
    """`adapter` names the parameters of the input adapter; `adapted` is our point of the outputs."""
    assert isinstance(model.decoder, Decoder)
    table: Table = {
        "input": ("0.input_adapter", adapter),
        "encoder": ("0", ENCODER_NAMES),
        "decoder": ("1", decoder_names(model.decoder.query_residual)),
        **(extra or {}),
    }
    rows: Rows = [("0", "encoder"), ("1", adapted), (r"1\.output_adapter", adapted)]
    rows += below("0.input_adapter", "input", ADAPTER_POINTS)
    rows += below("0", "encoder", encoder_points(model.encoder))
    rows += below("1", "decoder", decoder_points(model.decoder.query_residual))
    state = bind(model.state(), {"input": ("0.input_adapter", BUFFER)})
    return Rebuilt(model, bind(model.parameters(), table), run, rows, state)


def _run(
    argument: str,
    masked: bool,
    model: PerceiverIO,
    params: Tree,
    arguments: Arguments,
    called: Mapping[str, Any],
    call: Call,
) -> Outputs:
    """`forward(argument, pad_mask)`; text logits are those of the positions that were given."""
    values, _ = read_call("forward", arguments, called, {argument, *(["pad_mask"] if masked else [])}, {}, [argument])
    x = values[argument]
    if isinstance(model.decoder, GridDecoder):
        x = ops.transpose(x, axes=(0, 1, 3, 4, 2))  # (B, frames, H, W, C)
    out = model.apply(params, x, mask=attend(values.get("pad_mask")), call=call)
    return {"out": out[:, : x.shape[1]] if argument == "x_masked" else out}


def _classifier(inner: Mapping[str, Any], channels: int) -> Decoder:
    """The axis of the queries goes where there is one query."""
    queries, width = inner["num_output_queries"], inner["num_output_query_channels"]
    cls = ClassificationDecoder if queries == 1 else Decoder
    return decoder(inner, channels, width, cls, queries=trainable_queries(queries, width), outputs=inner["num_classes"])


def _text(inner: Mapping[str, Any]) -> TextInput:
    return TextInput(inner["vocab_size"], inner["max_seq_len"], inner["num_input_channels"])


def text_classifier(given: Given) -> Rebuilt:
    """TextClassifier."""
    chosen, into, out = _configurations("TextClassifier", given, _TEXT, _CLASSES)
    width, text = chosen["num_latent_channels"], _text(into)
    coded = encoder(into, text.channels, chosen["num_latents"], width)
    model = PerceiverIO(coded, text, _classifier(out, width))
    return _rebuilt(model, TEXT, partial(_run, "x", True))


def masked_language_model(given: Given) -> Rebuilt:
    """MaskedLanguageModel: logits by the embedding itself, or by an own map where queries have an own width."""
    own = {"num_output_query_channels": None, "vocab_size": 10_003, "max_seq_len": 512}
    chosen, into, out = _configurations("MaskedLanguageModel", given, _TEXT, own)
    width, text = chosen["num_latent_channels"], _text(into)
    tied = out["num_output_query_channels"] is None
    if tied and out["vocab_size"] != text.vocabulary:
        raise InputError(f"tied logits need one vocabulary, got {text.vocabulary} and {out['vocab_size']}")
    channels = text.channels if tied else out["num_output_query_channels"]
    decoded = decoder(
        out,
        width,
        channels,
        queries=trainable_queries(out["max_seq_len"], channels),
        outputs=None if tied else out["vocab_size"],
    )
    coded = encoder(into, text.channels, chosen["num_latents"], width)
    model = PerceiverIO(coded, text, decoded, TiedEmbedding(text.vocabulary) if tied else None)
    extra: Table = {"output/bias": ("1.output_adapter.bias", same)} if tied else {}
    run = partial(_run, "x_masked", True)
    return _rebuilt(model, TEXT, run, adapted="output" if tied else "decoder", extra=extra)


def image_classifier(given: Given) -> Rebuilt:
    """ImageClassifier: images (B, *grid, channels); cross-attention is as wide as its inputs."""
    own = {"image_shape": (224, 224, 3), "num_frequency_bands": 32}
    chosen, into, out = _configurations("ImageClassifier", given, own, _CLASSES)
    out["num_output_queries"] = 1  # whatever it says
    shape = tuple(into["image_shape"])
    grid = shape[:-1]
    pixels = BufferedGrid(GridElements(shape[-1], shape=shape), fourier(grid, into["num_frequency_bands"]), grid=grid)
    _as_wide_as(pixels, into, "qk")
    width = chosen["num_latent_channels"]
    model = PerceiverIO(encoder(into, pixels.channels, chosen["num_latents"], width), pixels, _classifier(out, width))
    return _rebuilt(model, GRID, partial(_run, "x", True))


def optical_flow(given: Given) -> Rebuilt:
    """OpticalFlow: two frames (B, 2, channels, H, W) -> flow (B, H, W, 2); queries are the adapted inputs."""
    own = {
        "image_shape": (368, 496),
        "num_patch_input_channels": 27,
        "num_patch_hidden_channels": 64,
        "num_frequency_bands": 64,
    }
    chosen, into, out = _configurations("OpticalFlow", given, own, {"image_shape": (368, 496), "rescale_factor": 100.0})
    grid = tuple(into["image_shape"])
    patches = Patches(into["num_patch_input_channels"], 1, 2, into["num_patch_hidden_channels"], video=True)
    frames = BufferedGrid(patches, fourier(grid, into["num_frequency_bands"]), grid=grid)

    _as_wide_as(frames, into, "qk", "v")
    width = chosen["num_latent_channels"]
    decoded = decoder(
        out,
        width,
        frames.channels,
        GridDecoder,
        queries=InputQueries(frames.channels),
        outputs=2,
        grid=tuple(out["image_shape"]),
        rescale=out["rescale_factor"],
    )
    model = PerceiverIO(encoder(into, frames.channels, chosen["num_latents"], width), frames, decoded)
    return _rebuilt(model, GRID, partial(_run, "x", False))


def _as_wide_as(adapter: BufferedGrid, into: dict[str, Any], *kinds: str) -> None:
    """Where cross-attention's widths are not given they are the adapter's, for images."""
    for kind in kinds:
        if into[name := f"num_cross_attention_{kind}_channels"] is None:
            into[name] = adapter.channels
