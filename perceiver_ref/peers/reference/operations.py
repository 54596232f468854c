"""Single operations as classes without parameters: arrays by the names of their arguments, options in the call."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from ...autograd import ops
from ...autograd.core import array_of
from ...autograd.tree import Tree
from ...errors import InputError
from ...models.call import Call
from ...models.conventions import DEEPMIND
from ...models.flamingo import preceding
from ...models.inputs import depth_to_space, flow_patches, space_to_depth
from ...models.positions import fourier_features, linear_positions, subsampled_positions
from ...models.resize import resize_bicubic, resize_linear
from ...models.rotary import Pairing, Rotary, frequencies
from ..base import Arguments, Function, Given, Outputs, Rebuilt, read_call


def _linear_positions(*, index_dims: tuple[int, ...], dtype: str = "float64", grid: str = DEEPMIND.grid) -> Any:
    return linear_positions(tuple(index_dims), dtype, grid)


def _subsampled(indices: Any, *, index_dims: tuple[int, ...], rule: str = "half_open", dtype: str = "float64") -> Any:
    return subsampled_positions(indices, tuple(index_dims), rule, dtype)


def _rotate(x: Any, positions: Any, *, longest: float = 10_000.0, pairing: Pairing = "interleaved") -> Any:
    """All channels of x (..., H, N, d) turned by their positions (..., N)."""
    return Rotary(frequencies(x.shape[-1], longest), pairing).apply(x, positions)


def _fourier_features(
    positions: Any, *, num_bands: int, max_resolution: tuple[int, ...], concat_pos: bool = True, sine_only: bool = False
) -> Any:
    return fourier_features(positions, num_bands, max_resolution, concat_pos=concat_pos, sine_only=sine_only)


def _resize_bicubic(table: Any, *, source: tuple[int, int], target: tuple[int, int]) -> Any:
    return resize_bicubic(table, source, target)


def _resize_linear(table: Any, *, target: int) -> Any:
    return resize_linear(table, target)


OPERATIONS: dict[str, Callable[..., Any]] = {
    "attention": ops.attention,
    "attention_weights": ops.attention_weights,
    "convolution": ops.convolution,
    "cross_entropy": ops.cross_entropy,
    "depth_to_space": depth_to_space,
    "flow_patches": flow_patches,
    "fourier_features": _fourier_features,
    "gelu_erf": ops.gelu_erf,
    "gelu_tanh": ops.gelu_tanh,
    "layer_norm": ops.layer_norm,
    "linear": ops.linear,
    "linear_positions": _linear_positions,
    "log_softmax": ops.log_softmax,
    "max_pool": ops.max_pool,
    "media_locations": preceding,
    "relu": ops.relu,
    "resize_bicubic": _resize_bicubic,
    "resize_linear": _resize_linear,
    "rms_norm": ops.rms_norm,
    "rotate": _rotate,
    "sigmoid": ops.sigmoid,
    "silu": ops.silu,
    "softmax": ops.softmax,
    "space_to_depth": space_to_depth,
    "squared_relu": ops.squared_relu,
    "subsampled_positions": _subsampled,
    "transposed_convolution": ops.transposed_convolution,
}
"""Operations by name. What is an array and what an option is read off the function: options are keyword-only."""

_CONSTANT = {"mask", "targets", "indices", "locations", "before", "class_weights"}
"""Arrays that take no gradient; some are keywords of the functions."""


def operation(name: str) -> Callable[[Given], Rebuilt]:
    """A builder for the operation of this name; its options are those of the call."""
    function = OPERATIONS[name]
    found = inspect.signature(function).parameters.values()
    arrays = [p for p in found if p.kind is not p.KEYWORD_ONLY or p.name in _CONSTANT]
    required = [p.name for p in arrays if p.default is p.empty]
    options = {p.name: p.default for p in found if p.kind is p.KEYWORD_ONLY and p.name not in (*_CONSTANT, "needs")}

    def rebuild(given: Given) -> Rebuilt:
        def run(model: Any, params: Tree, called: Arguments, chosen: Mapping[str, Any], call: Call) -> Outputs:
            known = {key: None if value is inspect.Parameter.empty else value for key, value in options.items()}
            names = {p.name for p in arrays}
            values, wanted = read_call(name, called, {**given.config, **chosen}, names, known, required)
            if missing := [
                key for key, default in options.items() if default is inspect.Parameter.empty and wanted[key] is None
            ]:
                raise InputError(f"{name} needs the options {', '.join(missing)}")
            positional = [_prepared(p.name, values.get(p.name)) for p in arrays if p.kind is not p.KEYWORD_ONLY]
            while positional and positional[-1] is None:
                positional.pop()
            keywords = {p.name: _prepared(p.name, values.get(p.name)) for p in arrays if p.kind is p.KEYWORD_ONLY}
            keywords = {key: value for key, value in keywords.items() if value is not None}
            return {"out": function(*positional, **keywords, **{key: _tuples(value) for key, value in wanted.items()})}

        return Rebuilt(Function(function), [], run)

    return rebuild


def _prepared(name: str, value: Any) -> Any:
    return array_of(value) if name in _CONSTANT and value is not None else value


def _tuples(value: Any) -> Any:
    """Lists of JSON as the tuples that operations take."""
    return tuple(_tuples(part) for part in value) if isinstance(value, list) else value
