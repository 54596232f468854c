"""What krasserm's implementation does and nobody else: positions kept as buffers, and angles given from outside."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from ...autograd import ops
from ...autograd.backend import Array, to_host
from ...autograd.tree import Tree
from ...errors import InputError
from ...models.attention import Attention
from ...models.call import Call
from ...models.inputs import GridInput, Pixels, Preprocessed
from ...models.module import Module, Parameter, part
from ...models.perceiver_ar.model import PerceiverAR
from ...models.positions import FourierPositions, TrainablePositions
from ...models.rotary import Rotary


def stored(positions: FourierPositions, grid: tuple[int, ...]) -> Parameter:
    """A buffer of this encoding of a grid, (points, channels)."""

    def table(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return np.asarray(positions.apply({}, grid, like=np.zeros(())))

    return Parameter((math.prod(grid), positions.channels), table)


@dataclass(frozen=True)
class BufferedGrid(GridInput):
    """`GridInput` whose Fourier features are those of a buffer, in whatever dtype it was computed; `grid` is theirs.

    Without a state the features are computed.
    """

    grid: tuple[int, ...] = ()

    def state(self) -> Tree:
        assert isinstance(self.positions, FourierPositions)
        return {"positions": stored(self.positions, self.grid)}

    @part
    def buffered(self) -> GridInput:
        """The same with the buffer as a table."""
        table = TrainablePositions(math.prod(self.grid), self.positions.channels)
        return GridInput(self.features, table, self.combine)

    def apply(self, p: Tree, x: Any, call: Call | None = None, *, pos: Any = None) -> Preprocessed:
        """As `GridInput.apply`."""
        if call is None or not call.state:
            return super().apply(p, x, call, pos=pos)
        return self.buffered.apply({**p, "positions": {"table": call.state["positions"]}}, x, None, pos=pos)


@dataclass(frozen=True)
class GridElements(Pixels):
    """The elements of a grid of any number of axes and exactly this shape, as they are."""

    shape: tuple[int, ...] = ()

    def apply(self, p: Tree, x: Any, call: Call) -> Any:
        """x (B, *shape) -> the same."""
        if tuple(x.shape[1:]) != self.shape:
            raise InputError(f"images must be (batch, {', '.join(map(str, self.shape))}), got {tuple(x.shape)}")
        return x


@dataclass(frozen=True)
class BufferedTable(Module):
    """A Fourier encoding that is nothing but its buffer."""

    positions: FourierPositions
    grid: tuple[int, ...]

    def parameters(self) -> Tree:
        return {}  # the encoding has none, not even by name

    def state(self) -> Tree:
        return {"positions": stored(self.positions, self.grid)}


class GivenAngles(Rotary):
    """The positions are the angles themselves, (B, N, r), one for each channel that turns, and have gradients."""

    def turn(self, positions: Any, like: Array) -> tuple[Any, Any]:
        """Cosine and sine, (B, 1, N, r)."""
        batch, n, r = positions.shape
        angles = ops.reshape(positions, shape=(batch, 1, n, r))
        return ops.cos(angles), ops.sin(angles)


@dataclass(frozen=True)
class BufferedPerceiverAR(PerceiverAR):
    """`PerceiverAR` whose rotary frequencies are a buffer."""

    def state(self) -> Tree:
        assert self.cross_rotary is not None
        made = np.asarray(self.cross_rotary.frequencies)
        return {"frequencies": Parameter(made.shape, lambda rng, shape: made)}

    def with_state(self, state: Tree) -> Self:
        """The same model with the buffer's frequencies."""
        assert self.cross_rotary is not None
        rotary = replace(self.cross_rotary, frequencies=tuple(float(w) for w in to_host(state["frequencies"])))

        def turning(part: Module) -> Module:
            turns = isinstance(part, Attention) and part.rotary is not None
            return part.with_fields(rotary=rotary) if turns else part

        return self.map_parts(turning)


def inverse_frequencies(channels: int) -> tuple[float, ...]:
    """10000^(-2 i / r) for 2 i < r: of an odd number r of channels, one more channel turns than asked for."""
    return tuple(10_000.0 ** -(2 * i / channels) for i in range((channels + 1) // 2))
