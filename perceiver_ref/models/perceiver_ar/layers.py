"""The layers of `PerceiverAR`: attention to positions that are kept, so that a sequence can be continued.

Shapes: B batch, N latents, M inputs, D and C their channels, L kept positions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ...autograd.backend import Array
from ...autograd.tree import Tree
from ..attention import CrossAttention, KeysValues, SelfAttention, joined
from ..rotary import Rotary
from ..tracing import point

Kept = KeysValues | None
"""Keys (B, H, L, d), turned already, and values (B, H, L, e) of earlier positions; None where there are none."""


@dataclass(frozen=True)
class CausalCrossAttention(CrossAttention):
    """Latents attend to inputs at positions: `CrossAttention`, whose keys and queries may turn."""

    rotary: Rotary | None = None

    def _parts(self) -> dict[str, Any]:
        parts = super()._parts()
        return {**parts, "attention": replace(parts["attention"], rotary=self.rotary)}

    def keys_values(self, p: Tree, z: Any, positions: Any, *, own: bool = False) -> KeysValues:
        """z (B, M, C) at positions (B, M) -> its keys and values.

        `own`: z are the queries themselves, (B, N, D), normed as queries are.
        """
        parts, name = self._parts(), "query_norm" if own else "key_value_norm"
        normed = parts[name].apply(p[name], z)
        normed = normed if own else point(name, normed)
        return parts["attention"].keys_values(p["attention"], normed, positions=positions)  # type: ignore[no-any-return]

    def attend(self, p: Tree, x: Any, z: KeysValues, positions: Any, *, mask: Array | None) -> Any:
        """x (B, N, D) at positions (B, N) -> the same shape; mask as in `Attention`."""
        parts = self._parts()
        q = point("query_norm", parts["query_norm"].apply(p["query_norm"], x))
        attended = parts["attention"].apply(p["attention"], q, z, mask=mask, positions=positions)
        return self._finished(p, self._joined(p, x, attended))


@dataclass(frozen=True)
class CausalSelfAttention(SelfAttention):
    """Latents attend to earlier latents and themselves: `SelfAttention`, whose keys and queries may turn."""

    rotary: Rotary | None = None

    def _parts(self) -> dict[str, Any]:
        parts = super()._parts()
        return {**parts, "attention": replace(parts["attention"], rotary=self.rotary)}

    def attend(self, p: Tree, x: Any, kept: Kept, positions: Any, *, mask: Array | None) -> tuple[Any, KeysValues]:
        """x (B, N, D) at positions (B, N), after those of `kept` -> the same shape, and what to keep now."""
        parts = self._parts()
        normed = point("norm", parts["norm"].apply(p["norm"], x))
        z = joined(kept, parts["attention"].keys_values(p["attention"], normed, positions=positions))
        attended = parts["attention"].apply(p["attention"], normed, z, mask=mask, positions=positions)
        return self._finished(p, self._joined(p, x, attended)), z
