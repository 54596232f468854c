"""PyTorch's activations and softmaxes, linear map, embedding and GRU cell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...autograd import ops
from ...autograd.backend import xp
from ...autograd.core import array_of
from ...autograd.tree import Tree
from ...errors import one_of
from ...models.call import Call
from ..base import Arguments, Given, Option, Outputs, Rebuilt, options, read_call
from ..gru import gru_cell
from ..names import Binding, same
from ..replay import Named
from .function import Sizes, function
from .norms import length

_SIZE = Option(int, required=True)


def _activations(given: dict[str, Any], _: dict[str, Any]) -> Outputs:
    x = given["input"]
    return {
        "gelu": ops.gelu_erf(x),
        "gelu_tanh": ops.gelu_tanh(x),
        "silu": ops.silu(x),
        "sigmoid": ops.sigmoid(x),
        "tanh": ops.tanh(x),
        "erf": ops.erf(x),
    }


def _gelu(given: dict[str, Any], o: dict[str, Any]) -> Outputs:
    if o["approximate"] not in ("none", "tanh"):
        raise one_of("approximate", o["approximate"], ("none", "tanh"))
    return {"gelu": (ops.gelu_tanh if o["approximate"] == "tanh" else ops.gelu_erf)(given["input"])}


def _geglu(given: dict[str, Any], _: dict[str, Any]) -> Outputs:
    """The first half of the channels times gelu of the second; of an odd number the first half is the larger."""
    x = given["input"]
    first = -(-x.shape[-1] // 2)
    value, gate = ops.split(x, sizes=(first, x.shape[-1] - first), axis=-1)
    return {"out": ops.multiply(value, ops.gelu_erf(gate))}


def _softmax(given: dict[str, Any], o: dict[str, Any]) -> Outputs:
    """With its logarithm and the logarithm of its sum; `only` leaves those out, which are -inf or NaN beside -inf."""
    x, axis = given["input"], o["dim"]
    if axis is None:  # what PyTorch takes, with a warning
        axis = 0 if len(x.shape) in (0, 1, 3) else 1
    if not x.shape and axis in (0, -1):  # PyTorch takes a number as one element
        return {name: ops.reshape(y, shape=()) for name, y in _softmax({"input": x[None]}, o).items()}
    made = {"softmax": ops.softmax(x, axis=axis)}
    if not o["only"]:
        made |= {"log_softmax": ops.log_softmax(x, axis=axis), "logsumexp": ops.logsumexp(x, axis=axis)}
    return made


def _linear(given: dict[str, Any], _: dict[str, Any]) -> Outputs:
    return {"out": linear(given["input"], given["weight"], given["bias"])}


def linear(x: Any, weight: Any, bias: Any) -> Any:
    """`torch.nn.functional.linear`: the weight is (outputs, inputs)."""
    return ops.linear(x, ops.transpose(weight), *(() if bias is None else (bias,)))


def _embedding(given: dict[str, Any], o: dict[str, Any]) -> Outputs:
    """The row `padding_idx` gets no gradient; rows that are looked up are first cut to the length `max_norm`.

    With `scale_grad_by_freq` a row's gradient is divided by how often it is looked up.
    """
    table, places = given["weight"], array_of(given["indices"])
    library = xp(places)
    if o["max_norm"] is not None:
        rows = array_of(table)
        norms, _ = length(rows, o["norm_type"], {"axis": -1, "keepdims": True})
        used = library.isin(library.arange(rows.shape[0]), places)[:, None]
        cut = library.where(used & (norms > o["max_norm"]), o["max_norm"] / (norms + 1e-7), 1.0).astype(rows.dtype)
        table = ops.add(table, rows * cut - rows)  # in place, so that the gradient is that of the rows as they are then
    if o["scale_grad_by_freq"]:
        counts = library.maximum((places.reshape(-1, 1) == library.arange(table.shape[0])).sum(0), 1)[:, None]
        share = (1 / counts).astype(array_of(table).dtype)
        table = ops.add(ops.multiply(table, share), array_of(table) * (1 - share))
    if o["padding_idx"] is not None:
        data = array_of(table)
        padding = xp(data).arange(data.shape[0])[:, None] == o["padding_idx"] % data.shape[0]
        table = ops.where(padding, data, table)
    return {"out": ops.take(table, places)}


def _gru_cell(given: Given) -> Rebuilt:
    """`torch.nn.GRUCell`; without a state it begins with zeros."""
    o = options("GRUCell", given.config, {"input_size": _SIZE, "hidden_size": _SIZE, "bias": True})
    inputs, hidden = o["input_size"], o["hidden_size"]
    shapes: dict[str, Sizes] = {"weight_ih": (3 * hidden, inputs), "weight_hh": (3 * hidden, hidden)}
    if o["bias"]:
        shapes |= {"bias_ih": (3 * hidden,), "bias_hh": (3 * hidden,)}

    def run(model: Any, p: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        values, _ = read_call("GRUCell", arguments, called, {"input", "hx"}, {}, ["input"])
        x, h = values["input"], values.get("hx")
        if h is None:
            data = array_of(x)
            h = xp(data).zeros((*data.shape[:-1], hidden), data.dtype)
        from_x = linear(x, p["weight_ih"], p.get("bias_ih"))
        from_h = linear(h, p["weight_hh"], p.get("bias_hh"))
        return {"out": gru_cell(from_x, from_h, h)}

    return Rebuilt(Named(tuple(shapes.items())), [Binding(n, s, n, same) for n, s in shapes.items()], run)


POINTWISE = {
    "torch.nn.functional.{gelu,silu}, torch.{sigmoid,tanh,erf}": function(_activations, ("input",)),
    "gelu": function(_gelu, ("input",), approximate="none"),
    "relu": function(lambda given, _: {"relu": ops.relu(given["input"])}, ("input",), inplace=False),
    "x, g = chunk(2); x * gelu(g)": function(_geglu, ("input",)),
    "softmax": function(_softmax, ("input",), dim=None, only=False),
    "linear": function(_linear, ("input", "weight"), ("bias",)),
    "embedding": function(
        _embedding,
        ("indices", "weight"),
        padding_idx=None,
        max_norm=Option(float),
        norm_type=2.0,
        scale_grad_by_freq=False,
        sparse=False,
    ),
    "GRUCell": _gru_cell,
}
