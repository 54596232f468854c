"""What the released Perceiver AR adds to `PerceiverAR`: other positions and initial latents, several a position."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from ...autograd import ops
from ...autograd.backend import Array, xp
from ...autograd.core import array_of
from ...autograd.tree import Tree
from ...errors import InputError
from ...models.constraints import Count
from ...models.inputs.text import check_ids
from ...models.layers import Linear
from ...models.module import Parameter, part, truncated_normal
from ...models.perceiver_ar.model import Course, PerceiverAR
from ...models.tracing import point
from .sequences import causal_masks, mask_output, terminal_relative

QueryStyle = Literal["none", "mlp", "learned"]


@dataclass(frozen=True)
class ReleasedPerceiverAR(PerceiverAR):
    """`PerceiverAR` on sequences of any length up to the arrays', each with its latents at its own end.

    `tables`: sizes of tables of absolute positions, one for each axis of a position, summed; not trained without
    `learned_tables`. `query_style`: latents start as a linear map of their inputs, passed through `query_layers` more
    of them, each with an activation, by "mlp", or as trained vectors by "learned" (one for all with `shared_query`).
    `per_position` latents stand at each position, told apart by a trained vector, and are averaged in the end.
    `offset`: latents turn as if they stood one further. `negative`: positions count back below 0. `key_chunk`: keys of
    cross-attention are taken in chunks of this size.
    """

    tables: tuple[int, ...] = ()
    learned_tables: bool = False
    query_style: QueryStyle = "none"
    query_layers: Count = 2
    query_activation: Callable[[Any], Any] = ops.squared_relu
    shared_query: bool = False
    per_position: int = 1
    offset: bool = False
    negative: bool = False
    key_chunk: int | None = None

    def parameters(self) -> Tree:
        small, spec = truncated_normal(0.02), dict(super().parameters())
        if self.query_style == "learned":
            del spec["query"]
            spec["learned_query"] = Parameter((1 if self.shared_query else self.latents, self.width), small)
        layers = self.query_layers if self.query_style == "mlp" else 0
        spec["query_layers"] = [self.query_layer.parameters() for _ in range(layers)]
        spec["tables"] = [Parameter((size, self.channels), small) for size in self.tables]
        if self.per_position > 1:
            spec["latent_index"] = Parameter((self.per_position, self.width), small)
        return spec

    @part
    def query_layer(self) -> Linear:
        """Each of the maps that latents pass through by "mlp"."""
        return Linear(self.width, self.width)

    def predict(self, p: Tree, ids: Array, data_positions: Array | None, latents: int) -> dict[str, Any]:
        """ids (B, T), 0 where there is no token; data_positions (B, T, axes) -> outputs by the peer's names.

        `latents`: their number N; without masks if it is 1.
        """
        check_ids(ids, self.vocabulary)
        library, total = xp(ids), ids.shape[1]
        if latents == 1:
            inputs_mask = latents_mask = None
            steps = library.full((len(ids), 1), total - 1)
        else:
            if total < latents or latents % self.per_position:
                raise InputError(
                    f"{latents} latents, {self.per_position} a position, need a sequence of at least {latents} tokens "
                    f"and a whole number of positions; got {total} tokens"
                )
            inputs_mask, latents_mask, steps = causal_masks(ids, latents, self.per_position)
        positions = data_positions
        if positions is None:
            counted = terminal_relative(library.broadcast_to(library.arange(total), ids.shape), ids)
            positions = (-counted if self.negative and not self.tables else counted)[..., None]
        x = self.embed(p, ids, positions)
        z = self._initial(p, ops.take_along_axis(x, steps[..., None], axis=1), latents)
        places = library.take_along_axis(positions[..., 0], steps % total, 1) + int(self.offset)
        keys = None if (taken := self._keys(total)) is None else library.asarray(taken)
        course = Course(
            inputs=x if keys is None else ops.take(x, keys, axis=1),
            input_positions=positions[..., 0] if keys is None else positions[:, keys, 0],
            positions=library.repeat(places, self.per_position, 1),
            input_mask=inputs_mask if inputs_mask is None or keys is None else inputs_mask[..., keys],
            latent_mask=latents_mask,
        )
        z, _, _ = self.process(p, z, course)
        z = self.normed(p, z)
        if self.per_position > 1:
            shape = (z.shape[0], z.shape[1] // self.per_position, self.per_position, self.width)
            z = ops.mean(ops.reshape(z, shape=shape), axis=2)
        outputs = {"input_events_logits": self.logits(p, z), "latent_last_steps": steps}
        if inputs_mask is not None and latents_mask is not None:
            outputs |= {"encoder_mask": mask_output(inputs_mask), "processor_mask": mask_output(latents_mask)}
        return outputs

    def embed(self, p: Tree, ids: Array, positions: Array) -> Any:
        """ids (B, T) at positions (B, T, axes) -> inputs (B, T, C)."""
        x = point("embedding", ops.take(p["embedding"], ids, axis=0))
        for k, table in enumerate(p["tables"]):
            place = point(f"positions.{k}", ops.take(table, positions[..., k], axis=0))
            x = ops.add(x, place if self.learned_tables else array_of(place))
        return point("input", x)

    def _initial(self, p: Tree, x: Any, latents: int) -> Any:
        """Inputs of the latents' positions (B, n, C) -> the latents at the start (B, N, D)."""
        if self.query_style == "learned":
            given = p["learned_query"]
            if (not self.shared_query and latents != self.latents) or self.per_position > 1:
                raise InputError(f"learned initial latents are {self.latents}, one a position; got {latents}")
            return point("latents", ops.broadcast_to(given, shape=(x.shape[0], latents, self.width)))
        z = self.query.apply(p["query"], x) if self.query else x
        if self.per_position > 1:
            z = ops.reshape(z, shape=(*z.shape[:2], 1, self.width))
            z = ops.add(z, point("latent_index", p["latent_index"]))
            z = ops.reshape(z, shape=(z.shape[0], latents, self.width))
        for layer in p["query_layers"]:
            z = self.query_activation(self.query_layer.apply(layer, z))
        return point("latents", z)

    def _keys(self, total: int) -> list[int] | None:
        """Which inputs are keys, one after the other: some twice, since a chunk that would reach beyond the end starts
        earlier. None: all, once.
        """
        if self.key_chunk is None or self.key_chunk >= total or total % self.key_chunk == 0:
            return None
        chunk = self.key_chunk
        starts = (min(start, total - chunk) for start in range(0, total, chunk))
        return [key for start in starts for key in range(start, start + chunk)]
