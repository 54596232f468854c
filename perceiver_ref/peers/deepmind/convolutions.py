"""Haiku's convolutions and batch norm, and the stacks of them in `io_processors.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ...autograd import ops
from ...autograd.tree import Tree
from ...errors import InputError, one_of
from ...models.call import Call
from ...models.inputs import ConvStem
from ...models.module import Module, Parameter, zeros
from ...models.outputs.image import Upsample, transposed_same_padding
from ...models.tracing import scope
from ..base import REQUIRED, Arguments, Given, Outputs, Rebuilt
from . import names
from .part import NamedPart, component, flags, options, rebuilt
from .postprocessors import upsample_points
from .preprocessors import BATCH_NORM_OPTIONS, batch_norm, downsample_points

Sizes = tuple[int, ...]


def padding(rule: Any, grid: Sizes, window: Sizes, strides: Sizes, rates: Sizes | None = None) -> Any:
    """Explicit padding of a convolution or pooling, from "SAME", "VALID", or (before, after) for all axes or each."""
    if not isinstance(rule, str):
        return explicit(rule, len(grid))
    if rule.upper() == "SAME":
        return ops.same_padding(grid, window, strides, rates)
    if rule.upper() != "VALID":
        raise one_of("padding", rule, ("SAME", "VALID"))
    return ((0, 0),) * len(grid)


def explicit(pairs: Any, axes: int) -> tuple[tuple[int, int], ...]:
    """A pair (before, after) for each axis, from one for all or a sequence of them."""
    given = list(pairs) if isinstance(pairs, (list, tuple)) else []
    given = [given] if len(given) == 2 and all(isinstance(n, int) for n in given) else given
    given = given * axes if len(given) == 1 else given
    made = tuple(tuple(pair) for pair in given if isinstance(pair, (list, tuple)) and len(pair) == 2)
    if len(made) != axes or not all(isinstance(n, int) for pair in made for n in pair):
        raise InputError(f"padding must be SAME, VALID, or {axes} pairs (before, after), got {pairs!r}")
    return made


@dataclass(frozen=True)
class Convolution(Module):
    """One of Haiku's ConvNDs, or ConvNDTransposes."""

    inputs: int
    outputs: int
    window: Sizes
    strides: Sizes
    rates: Sizes
    rule: Any
    bias: bool
    transposed: bool

    def parameters(self) -> Tree:
        weight = Parameter((*self.window, self.inputs, self.outputs), zeros)
        return {"weight": weight, "bias": Parameter((self.outputs,), zeros)} if self.bias else {"weight": weight}

    def apply(self, p: Tree, x: Any) -> Any:
        """x (B, *grid, inputs) -> (B, *outputs, outputs)."""
        if self.transposed:
            y = self._transposed(p["weight"], x)
        else:
            around = padding(self.rule, tuple(x.shape[1:-1]), self.window, self.strides, self.rates)
            y = ops.convolution(x, p["weight"], strides=self.strides, padding=around, dilation=self.rates)
        return ops.add(y, p["bias"]) if self.bias else y

    def _transposed(self, weight: Any, x: Any) -> Any:
        """`lax.conv_transpose`: SAME gives n stride outputs, VALID at least as many; a short window leaves zeros.

        Explicit padding is that of the spread input.
        """
        if not isinstance(self.rule, str):
            pads = explicit(self.rule, len(self.window))
            cut = tuple((k - 1 - before, k - 1 - after) for k, (before, after) in zip(self.window, pads))
        elif self.rule.upper() == "SAME":
            cut = transposed_same_padding(self.window, self.strides)
        elif self.rule.upper() == "VALID":
            cut = tuple((0, min(k - s, 0)) for k, s in zip(self.window, self.strides))
        else:
            raise one_of("padding", self.rule, ("SAME", "VALID"))
        kept = tuple((max(before, 0), max(after, 0)) for before, after in cut)
        y = ops.transposed_convolution(x, weight, strides=self.strides, padding=kept)
        if kept == cut:
            return y
        return ops.pad(y, widths=((0, 0), *((max(-before, 0), max(-after, 0)) for before, after in cut), (0, 0)))


_CONV = {
    "output_channels": REQUIRED,
    "kernel_shape": REQUIRED,
    "stride": None,  # 1
    "rate": None,  # 1
    "padding": None,  # "SAME"
    "with_bias": True,
}


def _convolution(axes: int, transposed: bool) -> Callable[[Given], Rebuilt]:
    what = f"Conv{axes}D{'Transpose' if transposed else ''}"
    name = f"conv{axes}_d{'_transpose' if transposed else ''}"

    def build(given: Given) -> Rebuilt:
        known = {key: value for key, value in _CONV.items() if key != "rate"} if transposed else _CONV
        chosen = options(what, given.config, known)
        window, strides, rates = (_each(what, key, chosen.get(key), axes) for key in ("kernel_shape", "stride", "rate"))
        rule = "SAME" if chosen["padding"] is None else chosen["padding"]
        bias = bool(chosen["with_bias"])
        inputs = _channels(given)
        model = Convolution(inputs, chosen["output_channels"], window, strides, rates, rule, bias, transposed)
        table = names.below(given.config.get("name") or name, names.TRANSPOSED if transposed else names.CONVOLUTION)
        return rebuilt(model, table, _run(what), NamedPart(model))

    return build


def _each(what: str, name: str, value: Any, axes: int) -> Sizes:
    """A number above 0 for each axis, from one for all or a sequence; 1 for None."""
    value = 1 if value is None else value
    whole = (value,) * axes if isinstance(value, int) else tuple(value) if isinstance(value, (list, tuple)) else ()
    whole = whole * axes if len(whole) == 1 else whole
    if len(whole) != axes or not all(type(n) is int and n > 0 for n in whole):
        raise InputError(f"{name} of {what} must be a whole number above 0, or {axes} of them, got {value!r}")
    return whole


def _channels(given: Given) -> int:
    if "x" not in given.inputs:
        raise InputError(f"the argument x is missing; given are {', '.join(given.inputs) or 'none'}")
    return given.inputs["x"][-1]


def _run(what: str) -> Any:
    def run(model: Any, params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        flags(what, called)
        with scope("output"):
            return {"out": model.apply(params, arguments["x"])}

    return run


def _batch_norm(given: Given) -> Rebuilt:
    known = {**BATCH_NORM_OPTIONS, "decay_rate": REQUIRED, "create_scale": REQUIRED, "create_offset": REQUIRED}
    model = batch_norm(_channels(given), options("BatchNorm", given.config, known))

    def run(model: Any, params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        local = bool(flags("BatchNorm", called, test_local_stats=False)["test_local_stats"])
        return {"out": model.apply(params, arguments["x"], call, batch_statistics=local)}

    name = given.config.get("name") or "batch_norm"
    part = NamedPart(model, state=names.below(name, names.STATISTICS))
    return rebuilt(model, names.below(name, names.BATCH_NORM), run, part)


_DOWNSAMPLE = {"num_layers": 1, "num_channels": 64, "use_batchnorm": True, "bn_config": None}


def _downsample(given: Given) -> Rebuilt:
    _, kwargs = component(given.config, "Conv2DDownsample")
    chosen = options("Conv2DDownsample", kwargs, _DOWNSAMPLE)
    normed, layers = bool(chosen["use_batchnorm"]), chosen["num_layers"]
    norm = batch_norm(chosen["num_channels"], chosen["bn_config"])
    model = ConvStem(_channels(given), chosen["num_channels"], layers, normed, norm=norm)

    def run(model: Any, params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        local = bool(flags("Conv2DDownsample", called, test_local_stats=False)["test_local_stats"])
        with scope("input"):
            return {"out": model.apply(params, arguments["x"], call, batch_statistics=local)}

    below = f"{kwargs.get('name') or 'conv2_d_downsample'}/~"
    state = names.below(below, names.downsample_state(layers)) if normed else {}
    part = NamedPart(model, points=downsample_points(below, "input", layers), state=state)
    return rebuilt(model, names.below(below, names.DOWNSAMPLE), run, part)


def _upsample_2d(given: Given) -> Rebuilt:
    _, kwargs = component(given.config, "Conv2DUpsample")
    chosen = options("Conv2DUpsample", kwargs, {"n_outputs": REQUIRED})
    model = Upsample(_channels(given), chosen["n_outputs"])
    name = kwargs.get("name") or "conv2_d_upsample"
    part = NamedPart(model, points=upsample_points(name, "output.upsample", video=False))
    table = names.below(f"{name}/~", names.UPSAMPLE_2D)
    return rebuilt(model, table, _run("Conv2DUpsample"), part)


def _upsample_3d(given: Given) -> Rebuilt:
    _, kwargs = component(given.config, "Conv3DUpsample")
    known = {"n_outputs": REQUIRED, "n_time_upsamples": 2, "n_space_upsamples": 4}
    chosen = options("Conv3DUpsample", kwargs, known)
    model = Upsample(_channels(given), chosen["n_outputs"], chosen["n_space_upsamples"], chosen["n_time_upsamples"])
    name = kwargs.get("name") or "conv3_d_upsample"
    part = NamedPart(model, points=upsample_points(name, "output.upsample", video=True))
    table = names.below(name, names.UPSAMPLE_3D)
    return rebuilt(model, table, _run("Conv3DUpsample"), part)


CONVOLUTIONS: dict[str, Callable[[Given], Rebuilt]] = {
    "BatchNorm": _batch_norm,
    "Conv2D": _convolution(2, transposed=False),
    "Conv3D": _convolution(3, transposed=False),
    "Conv2DTranspose": _convolution(2, transposed=True),
    "Conv3DTranspose": _convolution(3, transposed=True),
    "Conv2DDownsample": _downsample,
    "Conv2DUpsample": _upsample_2d,
    "Conv3DUpsample": _upsample_3d,
}
"""Modules by class name; Conv3D and Conv3DTranspose as Conv2D's."""
