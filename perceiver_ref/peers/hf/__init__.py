"""Hugging Face transformers' Perceiver (`transformers.models.perceiver`, version 5.23).

Read off its source: linear weights are (outputs, inputs); images are channels-first; a fully masked row averages all
values, since `finfo.min` is added to its logits; `layer_norm_eps` of the configuration is never used (1e-5 is);
`query_mask` is ignored; sizes that the task classes fix in code are constants here.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from ...decoder import classification_decoder
from ...errors import InputError
from ...inputs import GridInput, Pixels
from ...perceiver_io import PerceiverIO
from ...position import FourierPositions
from ...presets import language_model
from ..base import Given, Peer, Rebuilt
from ..names import bind
from .call import call, sequence_loss, token_loss
from .components import DECODERS, PREPROCESSORS, component, text_preprocessor
from .config import conventions, encoder, read_config
from .constants import Constants
from .names import names, points


def _perceiver_model(given: Given) -> Rebuilt:
    config = read_config(given.config)
    preprocessor = component("input_preprocessor", PREPROCESSORS, config, given.config.get("input_preprocessor"))
    decoder = component("decoder", DECODERS, config, given.config.get("decoder"))
    if given.config.get("output_postprocessor") is not None:
        raise InputError("PerceiverModel with an output_postprocessor is not supported")
    inputs = config["d_model"] if preprocessor is None else preprocessor.channels
    return _rebuilt(PerceiverIO(encoder(config, inputs), preprocessor, decoder), config, "", None)


def _masked_lm(given: Given) -> Rebuilt:
    config = read_config(given.config)
    constants = Constants(given.config)
    model = language_model(
        conventions(config),
        encoder=encoder(config, config["d_model"]),
        vocabulary=config["vocab_size"],
        length=config["max_position_embeddings"],
        decoder_qk_channels=constants("qk_channels", 256),
        decoder_heads=constants("num_heads", 8),
    )
    return _rebuilt(model, config, "perceiver", token_loss)


def _sequence_classification(given: Given) -> Rebuilt:
    config = read_config(given.config)
    preprocessor = text_preprocessor(config, {})
    return _classifier(config, preprocessor, config["d_model"], sequence_loss)


def _image_fourier(given: Given) -> Rebuilt:
    config = read_config(given.config)
    constants = Constants(given.config)
    positions = FourierPositions(
        constants("num_bands", 64),
        tuple(constants("max_resolution", (224, 224))),
        conventions=conventions(config),
    )
    preprocessor = GridInput(Pixels(constants("in_channels", 3)), positions)
    return _classifier(config, preprocessor, preprocessor.channels, sequence_loss)


def _classifier(config: Mapping[str, Any], preprocessor: Any, inputs: int, loss: Any) -> Rebuilt:
    decoder = classification_decoder(
        config["d_latents"], config["num_labels"], query_residual=True, conventions=conventions(config)
    )
    return _rebuilt(PerceiverIO(encoder(config, inputs), preprocessor, decoder), config, "perceiver", loss)


def _rebuilt(model: PerceiverIO, config: Mapping[str, Any], prefix: str, loss: Any) -> Rebuilt:
    return Rebuilt(
        model,
        bind(model.parameters(), names(model.decoder, prefix)),
        partial(call, model, config, loss),
        points(model.decoder, prefix),
    )


PEER = Peer(
    "hf",
    {
        "PerceiverModel": _perceiver_model,
        "PerceiverForMaskedLM": _masked_lm,
        "PerceiverForSequenceClassification": _sequence_classification,
        "PerceiverForImageClassificationFourier": _image_fourier,
    },
)
