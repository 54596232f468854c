"""The layers of `PerceiverAR`: attention to positions that are kept, so that a sequence can be continued.

Shapes: B batch, N latents, M inputs, D and C their channels, L kept positions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ...autograd.backend import Array
from ...autograd.tree import Tree
from ..attention import Attention, CrossAttention, KeysValues, SelfAttention, joined
from ..module import part
from ..rotary import Rotary
from ..tracing import asked_point

Kept = KeysValues | None
"""Keys (B, H, L, d), turned already, and values (B, H, L, e) of earlier positions; None where there are none."""


@dataclass(frozen=True)
class CausalCrossAttention(CrossAttention):
    """Latents attend to inputs at positions: `CrossAttention`, whose keys and queries may turn."""

    rotary: Rotary | None = None

    @part
    def attention(self) -> Attention:
        """The attention, whose keys and queries may turn."""
        return replace(super().attention, rotary=self.rotary)

    def keys_values(self, p: Tree, z: Any, positions: Any, *, own: bool = False) -> KeysValues:
        """z (B, M, C) at positions (B, M) -> its keys and values.

        `own`: z are the queries themselves, (B, N, D), normed as queries are.
        """
        if own and self.query_norm is not None:
            normed = self.query_norm.apply(p["query_norm"], z)
        else:
            normed = z if own else self.normed(p, "key_value_norm", z)
        return self.attention.keys_values(p["attention"], normed, positions=positions)

    def attend(self, p: Tree, x: Any, z: KeysValues, positions: Any, *, mask: Array | None) -> Any:
        """x (B, N, D) at positions (B, N) -> the same shape; mask as in `Attention`."""
        q = self.normed(p, "query_norm", x)
        attended = self.attention.apply(p["attention"], q, z, mask=mask, positions=positions)
        return self._finished(p, self._joined(p, x, attended))


@dataclass(frozen=True)
class CausalSelfAttention(SelfAttention):
    """Latents attend to earlier latents and themselves: `SelfAttention`, whose keys and queries may turn."""

    rotary: Rotary | None = None

    @part
    def attention(self) -> Attention:
        """The attention, whose keys and queries may turn."""
        return replace(super().attention, rotary=self.rotary)

    def attend(self, p: Tree, x: Any, kept: Kept, positions: Any, *, mask: Array | None) -> tuple[Any, KeysValues]:
        """x (B, N, D) at positions (B, N), after those of `kept` -> the same shape, and what to keep now."""
        normed = self.normed(p, "norm", x) if self.norms == "before" else x
        asked_point("attention.projections", lambda: self.attention.projections(p["attention"], normed))
        z = joined(kept, self.attention.keys_values(p["attention"], normed, positions=positions))
        attended = self.attention.apply(p["attention"], normed, z, mask=mask, positions=positions)
        return self._finished(p, self._joined(p, x, attended)), z
