"""The forward passes of transformers' classes, by the names of their arguments and outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...autograd import engine, ops
from ...autograd.tree import Tree
from ...call import Call
from ...errors import InputError, one_of
from ...inputs import GridInput
from ...perceiver_io import PerceiverIO
from ...tracing import trace
from ..base import Arguments, Outputs, options

_ARGUMENTS = {"inputs", "input_ids", "pixel_values", "attention_mask", "labels"}
_OPTIONS = {"output_attentions": False, "output_hidden_states": False, "return_dict": True}


def call(
    model: PerceiverIO,
    config: Mapping[str, Any],
    loss: Any,
    params: Tree,
    arguments: Arguments,
    given: Mapping[str, Any],
    ours: Call,
) -> Outputs:
    """The peer's forward: outputs by the names of its output classes."""
    for name in arguments:
        if name not in _ARGUMENTS:
            raise one_of("argument", name, _ARGUMENTS)
    wanted = options("forward", given, _OPTIONS)
    names = [name for name in ("inputs", "input_ids", "pixel_values") if name in arguments]
    if len(names) != 1:
        raise InputError("give exactly one of the arguments inputs, input_ids and pixel_values")
    inputs = arguments[names[0]]
    if isinstance(model.preprocessor, GridInput):
        if len(inputs.shape) != 4:
            raise InputError(f"images must be (batch, channels, height, width), got {tuple(inputs.shape)}")
        inputs = ops.transpose(inputs, axes=(0, 2, 3, 1))
    mask, bias = _masks(arguments.get("attention_mask"))
    wants_maps = wanted["output_attentions"] or config["output_attentions"]
    layers = [f"encoder.blocks.{b}.{i}" for b in range(model.encoder.blocks) for i in range(model.encoder.layers)]
    crosses = ["encoder.cross_attention", *(["decoder.cross_attention"] if model.decoder else [])]
    keep = {"encoder", "encoder.cross_attention", *layers}
    if wants_maps:
        keep |= {f"{layer}.attention.weights" for layer in (*layers, *crosses)}
    with trace(keep.__contains__, tensors=True) as traced:
        out = model.apply(params, inputs, mask=mask, bias=bias, call=ours)
    results: Outputs = {"last_hidden_state": traced["encoder"]}
    if model.decoder is not None:
        results["logits"] = out
        if loss is not None and "labels" in arguments:
            results["loss"] = loss(config, out, arguments["labels"])
    if wanted["output_hidden_states"] or config["output_hidden_states"]:
        states = _hidden_states(model, traced)
        results |= {f"hidden_states.{i}": state for i, state in enumerate(states)}
    if wants_maps:
        for kind, layer_names in (("attentions", layers), ("cross_attentions", crosses)):
            maps = [traced[f"{layer}.attention.weights"] for layer in layer_names]
            results |= {f"{kind}.{i}": weights for i, weights in enumerate(maps)}
    return results


def _hidden_states(model: PerceiverIO, traced: Mapping[str, Any]) -> list[Any]:
    """The input of every self-attention layer, and each block's output once more."""
    states, state = [], traced["encoder.cross_attention"]
    for b in range(model.encoder.blocks):
        for i in range(model.encoder.layers):
            states.append(state)
            state = traced[f"encoder.blocks.{b}.{i}"]
        states.append(state)
    return states


def _masks(attention_mask: Any) -> tuple[Any, Any]:
    """(mask, bias): a 2-D mask says which inputs are real, a 4-D one is added to the logits as it is."""
    if attention_mask is None:
        return None, None
    if len(attention_mask.shape) == 4:
        return None, attention_mask
    if len(attention_mask.shape) == 2:
        return engine.data(attention_mask) != 0, None
    raise InputError(
        f"attention_mask must be (batch, length), 1 = attend, or (batch, 1, latents, length) to add; "
        f"got {tuple(attention_mask.shape)}"
    )


def token_loss(config: Mapping[str, Any], logits: Any, labels: Any) -> Any:
    if tuple(labels.shape) != tuple(logits.shape[:-1]):
        raise InputError(f"labels must be {tuple(logits.shape[:-1])} like the logits, got {tuple(labels.shape)}")
    return ops.cross_entropy(logits, labels)


def sequence_loss(config: Mapping[str, Any], logits: Any, labels: Any) -> Any:
    """Regression, classification or several independent labels, guessed from labels as the peer does."""
    problem = config["problem_type"]
    if problem is None:
        integers = engine.data(labels).dtype.kind in "iu"
        problem = "regression" if config["num_labels"] == 1 else "single_label" if integers else "multi_label"
    if problem == "regression":
        return ops.squared_error(ops.reshape(logits, shape=tuple(labels.shape)), labels)
    if problem.startswith("single_label"):
        return ops.cross_entropy(logits, labels)
    return ops.binary_cross_entropy(logits, labels)
