"""The auto-encoder: a cloud of points -> a set of latents -> values at any points."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ...autograd import ops
from ...autograd.backend import xp
from ...autograd.core import array_of
from ...autograd.tree import Tree
from ...errors import InputError
from ...models.attention import CrossAttention, SelfAttention
from ...models.call import Call
from ...models.constraints import Count
from ...models.encoder import Sharing, own_weights, weights_of
from ...models.layers import LayerNorm, Linear
from ...models.module import Module, Parameter, part, truncated_normal
from ...models.tracing import point, scope
from .parts import AXES, Bottleneck, Gaussian, PointEmbedding


@dataclass(frozen=True)
class SetAutoEncoder(Module):
    """Points (B, M, 3) -> values at other points, (B, Q, outputs), or (B, Q, channels) without `outputs`.

        encode:  x = embedding of samples, or the learned queries; x = cross(x, embedding of points); z = bottleneck(x)
        learn:   x = bottleneck back(z), plus the learned queries once more; `layers` times x = layer(x)
        decode:  decoder(embedding of queries, x), a norm with `final_norm`, a linear map

    `inputs` is the number of points, `latents` that of queries. `learned`: these are parameters and no samples.
    `shared`: whose weights the layers have.
    """

    embedding: PointEmbedding
    cross: CrossAttention
    layer: SelfAttention
    decoder: CrossAttention
    bottleneck: Bottleneck
    inputs: int
    latents: int
    layers: Count
    outputs: int | None = None
    shared: Sharing = "none"
    learned: bool = False
    final_norm: bool = False
    indices: ClassVar[frozenset[str]] = frozenset(["fps_index"])
    """Arguments that are whole numbers"""

    @part
    def norm(self) -> LayerNorm | None:
        """The norm before the outputs."""
        return LayerNorm(self.layer.channels) if self.final_norm else None

    @part
    def output(self) -> Linear | None:
        """The map to outputs."""
        return None if self.outputs is None else Linear(self.layer.channels, self.outputs)

    def parameters(self) -> Tree:
        table = Parameter((self.latents, self.layer.channels), truncated_normal(1.0))
        ends = {name: made.parameters() for name, made in (("norm", self.norm), ("output", self.output)) if made}
        return {
            **({"queries": table} if self.learned else {}),
            "embedding": self.embedding.parameters(),
            "cross": self.cross.parameters(),
            "bottleneck": self.bottleneck.parameters(),
            "layers": [
                self.layer.parameters() for _ in range(own_weights(self.layers, self.shared) if self.layers else 0)
            ],
            "decoder": self.decoder.parameters(),
            **ends,
        }

    def state(self) -> Tree:
        return self.embedding.state()

    @property
    def arguments(self) -> Mapping[str, tuple[int | None, ...]]:
        """The shape of one example of each argument; None where the model does not say."""
        shapes: dict[str, tuple[int | None, ...]] = {"pc": (self.inputs, AXES), "queries": (None, AXES)}
        if not self.learned:
            shapes["fps_index"] = (self.latents,)
        if isinstance(self.bottleneck, Gaussian):
            shapes["noise"] = (self.latents, self.bottleneck.kept)
        return shapes

    def apply(self, p: Tree, pc: Any, queries: Any, *more: Any, call: Call | None = None) -> Any:
        """pc (B, M, 3), queries (B, Q, 3), the rest as in `arguments` -> (B, Q, outputs)."""
        given = dict(zip(list(self.arguments)[2:], more))
        state = None if call is None else call.state
        z, _ = self.encode(p, state, pc, given.get("fps_index"), given.get("noise"))
        return self.decode(p, state, self.learn(p, z), queries)

    def encode(self, p: Tree, state: Tree, pc: Any, index: Any = None, noise: Any = None) -> tuple[Any, Any]:
        """pc (B, M, 3) -> what is kept, (B, N, L), and its divergence, (B,) or None.

        index (B, N): which points are samples. noise (B, N, L).
        """
        if len(pc.shape) != 3 or pc.shape[1] != self.inputs:
            raise InputError(f"pc must be (batch, {self.inputs}, {AXES}), got {tuple(pc.shape)}")
        with scope("encoder"):
            x = self._starting(p, state, pc, index)
            with scope("inputs"):
                points = self.embedding.embed(p["embedding"], pc, state)
            with scope("cross_attention"):
                x = self.cross.apply(p["cross"], x, points)
            return self.bottleneck.encode(p["bottleneck"], x, noise)

    def _starting(self, p: Tree, state: Tree, pc: Any, index: Any) -> Any:
        """The queries of the encoder, (B, N, D)."""
        batch = pc.shape[0]
        if self.learned:
            return ops.broadcast_to(p["queries"], shape=(batch, self.latents, self.layer.channels))
        index = array_of(index)
        if index.ndim != 2 or index.shape[0] != batch or index.dtype.kind not in "iu":
            raise InputError(f"fps_index must be integers (batch, samples), got {index.dtype} of {tuple(index.shape)}")
        if index.size and not 0 <= int(index.min()) <= int(index.max()) < self.inputs:
            raise InputError(f"fps_index must be points of each cloud, in [0, {self.inputs})")
        flat = index + xp(index).arange(batch)[:, None] * self.inputs
        samples = ops.take(ops.reshape(pc, shape=(-1, AXES)), flat, axis=0)
        with scope("samples"):
            return self.embedding.embed(p["embedding"], samples, state)

    def learn(self, p: Tree, z: Any) -> Any:
        """What was kept, (B, N, L) -> latents (B, N, D), as queries attend to them."""
        with scope("latents"):
            x = self.bottleneck.decode(p["bottleneck"], z)
            if self.learned:
                x = ops.add(x, p["queries"])
            for i in range(self.layers):
                with scope(f"layers.{i}"):
                    x = self.layer.apply(p["layers"][weights_of(i, self.shared)], x)
            return point("", x)

    def decode(self, p: Tree, state: Tree, x: Any, queries: Any) -> Any:
        """Latents (B, N, D), queries (B, Q, 3) -> (B, Q, outputs)."""
        with scope("decoder"):
            with scope("queries"):
                q = self.embedding.embed(p["embedding"], queries, state)
            with scope("cross_attention"):
                y = self.decoder.apply(p["decoder"], q, x)
            if self.norm is not None:
                y = point("norm", self.norm.apply(p["norm"], y))
            return point("", y if self.output is None else self.output.apply(p["output"], y))
