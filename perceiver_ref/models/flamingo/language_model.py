"""The language model that Flamingo is built on: a causal transformer decoder over tokens (section 2.2, figure 3).

B batch, L tokens, D channels, V vocabulary. It runs whole sequences, or continues one from a `TextCache`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from ...autograd import ops
from ...autograd.backend import Array, to_host, xp
from ...autograd.core import array_of
from ...autograd.tree import Tree
from ...errors import InputError, one_of
from ..attention import Attention, KeysValues, Layer, joined
from ..constraints import Count
from ..conventions import DIALECTS, Conventions
from ..inputs.text import check_ids
from ..layers import MLP, Linear, Norm, norm
from ..masks import check_mask
from ..module import Module, Parameter, explains_parameters, part, truncated_normal
from ..outputs.embedding import TiedEmbedding
from ..tracing import point, scope

LANGUAGE = DIALECTS["paper"]
"""Conventions of the language model: the GELU, as Flamingo's frozen one has it, and biases everywhere, as in GPT-2."""

Logits = Literal["tied", "untied"]
RunLayer = Callable[[int, Any], Any]
"""`layer(i, x)`: layer number i on x (B, L, D)."""
Through = Callable[[Any, RunLayer], Any]
"""`through(x, layer)`: x after all layers, with whatever is put between them."""


class TextCache(NamedTuple):
    """What earlier tokens left for later ones; a value, which nothing changes."""

    layers: tuple[KeysValues, ...]
    """By layer, keys and values (B, H, K, d) of K earlier slots"""
    real: Array
    """(B, K), bool: which of the slots hold a token"""


@dataclass(frozen=True)
class DecoderLayer(Layer):
    """Tokens attend to earlier ones and themselves, then an MLP; both with pre-norm and residual.

    x = x + attention(norm(x), norm(x)); x = x + mlp(norm(x))
    """

    channels: int
    heads: int = 1
    widening: int = 4
    conventions: Conventions = LANGUAGE

    @part
    def norm(self) -> Norm:
        """The norm before attention."""
        return norm(self.channels, self.conventions)

    @part
    def attention(self) -> Attention:
        """The attention."""
        d = self.channels
        return Attention(d, d, d, d, d, self.heads, self.conventions)

    @part
    def mlp_norm(self) -> Norm:
        """The norm before the MLP."""
        return norm(self.channels, self.conventions)

    @part
    def mlp(self) -> MLP:
        """The MLP."""
        return MLP(self.channels, self.widening, self.conventions)

    def apply(self, p: Tree, x: Any, kept: KeysValues | None = None, *, mask: Array) -> tuple[Any, KeysValues]:
        """x (B, L, D) after the K tokens of `kept` -> x (B, L, D), and keys and values of all K + L tokens.

        mask: bool, broadcastable to (B, L, K + L).
        """
        normed = point("norm", self.norm.apply(p["norm"], x))
        z = joined(kept, self.attention.keys_values(p["attention"], normed))
        attended = self.attention.apply(p["attention"], normed, z, mask=mask)
        return self._finished(p, self._joined(p, x, attended)), z


@dataclass(frozen=True)
class LanguageModel(Module):
    """Token ids (B, L) -> logits (B, L, V) of the token that follows each (Radford et al. 2019, section 2.3).

        x = embedding[ids] + positions; x = layers(x); logits = norm(x) W + b

    Positions are learned, `length` of them. `logits` "tied": W is the embedding, transposed; "untied": W is its own.
    """

    vocabulary: int
    length: int
    channels: int
    layers: Count
    heads: int = 1
    widening: int = 4
    logits: Logits = "tied"
    conventions: Conventions = LANGUAGE

    def __post_init__(self) -> None:
        if self.logits not in ("tied", "untied"):
            raise one_of("kind of logits", self.logits, ("tied", "untied"))
        if self.heads < 1 or self.channels % self.heads:
            raise InputError(f"channels ({self.channels}) must be divisible by the number of heads ({self.heads})")

    @part
    def layer(self) -> DecoderLayer:
        """Each of the layers."""
        return DecoderLayer(self.channels, self.heads, self.widening, self.conventions)

    @part
    def norm(self) -> Norm:
        """The norm after the layers."""
        return norm(self.channels, self.conventions)

    @part
    def output(self) -> TiedEmbedding | Linear:
        """The map to logits."""
        return TiedEmbedding(self.vocabulary) if self.logits == "tied" else Linear(self.channels, self.vocabulary)

    def parameters(self) -> Tree:
        table = truncated_normal(0.02)
        return {
            "input": {
                "embedding": Parameter((self.vocabulary, self.channels), table),
                "positions": Parameter((self.length, self.channels), table),
            },
            "layers": [self.layer.parameters() for _ in range(self.layers)],
            "norm": self.norm.parameters(),
            "output": self.output.parameters(),
        }

    @explains_parameters
    def apply(self, p: Tree, ids: Array, *, mask: Array | None = None, through: Through | None = None) -> Any:
        """ids (B, L), integers in [0, vocabulary) -> logits (B, L, V). No token sees a later one.

        mask (B, L), bool: True where a token is real; the others, wherever they stand, are as if they were not there,
        and their own logits mean nothing. `through` replaces the plain course through the layers. Raises `InputError`
        for ids out of range and for more than `length` tokens.
        """
        return self._run(p, ids, None, mask, through)[0]

    @explains_parameters
    def extend(
        self,
        p: Tree,
        ids: Array,
        cache: TextCache | None = None,
        *,
        mask: Array | None = None,
        through: Through | None = None,
    ) -> tuple[Any, TextCache]:
        """As `apply` for tokens that follow those of `cache`: their logits, and the cache with them in it."""
        return self._run(p, ids, cache, mask, through)

    def _run(
        self, p: Tree, ids: Array, cache: TextCache | None, mask: Array | None, through: Through | None
    ) -> tuple[Any, TextCache]:
        check_ids(ids, self.vocabulary)
        library, shape = xp(array_of(p["input"]["embedding"])), tuple(ids.shape)
        real = library.ones(shape, bool) if mask is None else check_mask(mask, shape, "mask")
        if cache is not None and tuple(cache.real.shape[:1]) != shape[:1]:
            raise InputError(f"the cache is of {cache.real.shape[0]} sequences, but {shape[0]} are continued")
        before = library.zeros(shape[:1], "int64") if cache is None else cache.real.sum(-1)
        numbers = before[:, None] + real.cumsum(-1)  # of each token in its sequence, from 1
        self._check_length(numbers)
        attend = _causal(real, cache)
        kept = [] if cache is None else cache.layers
        made: list[KeysValues] = []

        def layer(i: int, x: Any) -> Any:
            with scope(f"language.layers.{i}"):
                x, z = self.layer.apply(p["layers"][i], x, kept[i] if kept else None, mask=attend)
            made.append(z)
            return x

        with scope("language"):
            x = self._embedded(p["input"], ids, library.maximum(numbers - 1, 0))
        x = _straight(self.layers)(x, layer) if through is None else through(x, layer)
        with scope("language"):
            logits = self._logits(p, x)
        seen = real if cache is None else library.concatenate([cache.real, real], -1)
        return logits, TextCache(tuple(made), seen)

    def _embedded(self, p: Tree, ids: Array, positions: Array) -> Any:
        """(B, L, D): embeddings plus positions, one table row for each token."""
        embedded = point("embedding", ops.take(p["embedding"], ids))
        return point("input", ops.add(embedded, ops.take(p["positions"], positions)))

    def _logits(self, p: Tree, x: Any) -> Any:
        x = point("norm", self.norm.apply(p["norm"], x))
        with scope("logits"):
            if isinstance(self.output, TiedEmbedding):
                return self.output.apply(p["output"], x, params=p)
            return point("", self.output.apply(p["output"], x))

    def _check_length(self, numbers: Array) -> None:
        longest = int(to_host(numbers.max())) if numbers.size else 0
        if longest > self.length:
            raise InputError(f"a sequence has {longest} tokens, but the model was made for at most {self.length}")


def _straight(layers: int) -> Through:
    """All layers, one after the other."""

    def through(x: Any, layer: RunLayer) -> Any:
        for i in range(layers):
            x = layer(i, x)
        return x

    return through


def _causal(real: Array, cache: TextCache | None) -> Array:
    """(B, L, K + L), bool: a token attends to the real ones among the K cached slots, those before it, and itself."""
    library, length = xp(real), real.shape[1]
    order = library.arange(length)
    own = (order[:, None] >= order) & real[:, None, :]
    if cache is None:
        return own
    earlier = library.broadcast_to(cache.real[:, None, :], (*real.shape, cache.real.shape[1]))
    return library.concatenate([earlier, own], -1)
