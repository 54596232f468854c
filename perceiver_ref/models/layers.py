"""The parts of a layer that are not attention: linear map, norms, MLP; batch norm for convolutional stems."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from ..autograd import ops, tree
from ..autograd.backend import xp
from ..autograd.core import array_of
from ..autograd.tree import Tree
from ..errors import InputError
from .activations import activations
from .call import Call
from .constraints import NotNegative, Share
from .conventions import DEEPMIND, Conventions
from .module import Initializer, Module, Parameter, fan_in_normal, fan_in_scaled, ones, part, zeros
from .tracing import asked_point, point, scope


@dataclass(frozen=True)
class Linear(Module):
    """y = x W + b with W (inputs, outputs)."""

    inputs: int
    outputs: int
    bias: bool = True
    initializer: Initializer = fan_in_normal

    def parameters(self) -> Tree:
        weight = Parameter((self.inputs, self.outputs), self.initializer)
        return {"weight": weight, "bias": Parameter((self.outputs,), zeros)} if self.bias else {"weight": weight}

    def apply(self, p: Tree, x: Any) -> Any:
        """x (..., inputs) -> (..., outputs)."""
        return ops.linear(x, p["weight"], p.get("bias"))


@dataclass(frozen=True)
class LayerNorm(Module):
    """Normalise the last axis, then scale and shift (Ba et al. 2016)."""

    channels: int
    eps: NotNegative = 1e-5

    def parameters(self) -> Tree:
        return {"scale": Parameter((self.channels,), ones), "offset": Parameter((self.channels,), zeros)}

    def apply(self, p: Tree, x: Any) -> Any:
        """x (..., channels) -> the same shape."""
        return ops.layer_norm(x, p["scale"], p["offset"], eps=self.eps)


@dataclass(frozen=True)
class RMSNorm(Module):
    """Divide the last axis by its root mean square, then scale (Zhang and Sennrich 2019)."""

    channels: int
    eps: NotNegative = 1e-6

    def parameters(self) -> Tree:
        return {"scale": Parameter((self.channels,), ones)}

    def apply(self, p: Tree, x: Any) -> Any:
        """x (..., channels) -> the same shape."""
        return ops.rms_norm(x, p["scale"], eps=self.eps)


@dataclass(frozen=True)
class L2Norm(Module):
    """Divide the last axis by its length, times the square root of its size, then scale.

        y = x / max(|x|, eps) * sqrt(D) * scale

    That is RMS norm without anything added to the mean square; a length below `eps` counts as `eps`.
    """

    channels: int
    eps: NotNegative = 1e-12

    def parameters(self) -> Tree:
        return {"scale": Parameter((self.channels,), ones)}

    def apply(self, p: Tree, x: Any) -> Any:
        """x (..., channels) -> the same shape."""
        squares = ops.sum(ops.multiply(x, x), axis=-1, keepdims=True)
        data = array_of(squares)
        long, one = data > self.eps**2, xp(data).ones((), data.dtype)
        length = ops.where(long, ops.sqrt(ops.where(long, squares, one)), one * self.eps)  # 0 has no slope
        return ops.multiply(ops.divide(x, length), ops.multiply(p["scale"], math.sqrt(self.channels)))


Norm = LayerNorm | RMSNorm | L2Norm
_NORMS: dict[str, type[LayerNorm] | type[RMSNorm] | type[L2Norm]] = {"layer": LayerNorm, "rms": RMSNorm, "l2": L2Norm}


def norm(channels: int, conventions: Conventions) -> Norm:
    """The norm of these conventions."""
    return _NORMS[conventions.norm](channels, conventions.norm_eps)


@dataclass(frozen=True)
class Same(Module):
    """x itself: what stands in the place of a part that an implementation leaves out."""

    def apply(self, p: Tree, x: Any) -> Any:
        """x of any shape -> x."""
        return x


@dataclass(frozen=True)
class MLP(Module):
    """Two linear maps with an activation between them (Perceiver, section 3.2; Perceiver IO, appendix E).

        y = activation(x W1 + b1) W2 + b2          W1 (channels, hidden)

    With `conventions.gated_mlp` a gated linear unit (Shazeer 2020, arXiv 2002.05202, eq. 5 and 6):

        y = (activation(x Wg + bg) * (x W1 + b1)) W2 + b2

    `hidden` defaults to widening * channels.
    """

    channels: int
    widening: int = 1
    conventions: Conventions = DEEPMIND
    hidden: int | None = None

    @property
    def _wide(self) -> int:
        return self.channels * self.widening if self.hidden is None else self.hidden

    @part
    def gate(self) -> Linear | None:
        """What the hidden layer is multiplied by, of a gated linear unit."""
        return self.first if self.conventions.gated_mlp else None

    @part
    def first(self) -> Linear:
        """The map to the hidden layer, whose parameters are `hidden`."""
        return Linear(self.channels, self._wide, self.conventions.mlp_bias, fan_in_scaled)

    @part
    def output(self) -> Linear:
        """The map back."""
        return Linear(self._wide, self.channels, self.conventions.mlp_bias, fan_in_scaled)

    def parameters(self) -> Tree:
        gate = {} if self.gate is None else {"gate": self.gate.parameters()}
        return {**gate, "hidden": self.first.parameters(), "output": self.output.parameters()}

    def apply(self, p: Tree, x: Any) -> Any:
        """x (..., channels) -> the same shape."""
        activation = activations[self.conventions.activation]
        with scope("mlp"):
            h = point("hidden", self.first.apply(p["hidden"], x))  # (..., hidden)
            if self.gate is not None:
                gate = point("gate", self.gate.apply(p["gate"], x))
                asked_point("hidden_gate", partial(ops.concatenate, [h, gate], axis=-1))
                h = ops.multiply(point("gate_activation", activation(gate)), h)
            else:
                h = activation(h)
            return point("", self.output.apply(p["output"], point("activation", h)))


Running = Literal["debiased", "plain"]


@dataclass(frozen=True)
class BatchNorm(Module):
    """Normalise each channel over batch and grid (Ioffe and Szegedy 2015, arXiv 1502.03167, algorithms 1 and 2).

    In training by the batch's mean and biased variance, which also update the running averages; otherwise by those.
    `running` says how they are kept: "debiased", as Haiku does, mean = mean_hidden / (1 - decay^count); or "plain", as
    PyTorch does, from 0 and 1 without correction and with the unbiased variance.
    """

    channels: int
    eps: NotNegative = 1e-5
    decay: Share = 0.9
    running: Running = "debiased"
    scale: bool = True
    offset: bool = True

    def parameters(self) -> Tree:
        scale = {"scale": Parameter((self.channels,), ones)} if self.scale else {}
        return {**scale, **({"offset": Parameter((self.channels,), zeros)} if self.offset else {})}

    def state(self) -> Tree:
        zero, one = Parameter((self.channels,), zeros), Parameter((self.channels,), ones)
        if self.running == "plain":
            return {"mean": zero, "variance": one}
        return {
            "mean": zero,
            "variance": one,
            "mean_hidden": zero,
            "variance_hidden": zero,
            "count": Parameter((), zeros),
        }

    def apply(self, p: Tree, x: Any, call: Call, *, batch_statistics: bool = False) -> Any:
        """x (B, *grid, channels) -> the same shape. `batch_statistics`: use the batch's without updating."""
        out, updates = self._normalised(p, x, call.state, call.training, batch_statistics)
        call.updates.update(tree.map(array_of, updates))
        return out

    @ops.in_float32
    def _normalised(self, p: Tree, x: Any, state: Tree, training: bool, batch_statistics: bool) -> tuple[Any, Tree]:
        """The result, and the running averages after it."""
        updates: Tree = {}
        if training and state is None and not batch_statistics:
            raise InputError(
                "batch norm in training needs running statistics to update: Call(training=True, state=...), from "
                "model.init_state() at first and from the call's updates after that"
            )
        if training or batch_statistics:
            axes = tuple(range(len(x.shape) - 1))
            mean = ops.mean(x, axis=axes)
            centred = ops.subtract(x, mean)
            variance = ops.mean(ops.multiply(centred, centred), axis=axes)
            if training and state is not None:
                updates = self._updated(state, array_of(mean), array_of(variance), math.prod(x.shape[:-1]))
        else:
            if state is None:
                raise InputError("batch norm needs running statistics at inference: give the call a state")
            centred, variance = ops.subtract(x, state["mean"]), state["variance"]
        inverse = ops.divide(p["scale"] if self.scale else 1.0, ops.sqrt(ops.add(variance, self.eps)))
        unit = ops.multiply(centred, inverse)
        return (ops.add(unit, p["offset"]) if self.offset else unit), updates

    def _updated(self, state: Tree, mean: Any, variance: Any, n: int) -> Tree:
        if self.running == "plain":
            seen = {"mean": mean, "variance": variance * (n / max(n - 1, 1))}
            return {name: state[name] * self.decay + value * (1 - self.decay) for name, value in seen.items()}
        count = state["count"] + 1
        debias = 1 - self.decay**count
        hidden = {
            name: state[f"{name}_hidden"] * self.decay + value * (1 - self.decay)
            for name, value in (("mean", mean), ("variance", variance))
        }
        return {
            "count": count,
            **{f"{name}_hidden": value for name, value in hidden.items()},
            **{name: value / debias for name, value in hidden.items()},
        }
