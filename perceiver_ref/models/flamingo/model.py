"""Flamingo: text and media in, text out, from a language model and a vision encoder that stay as they are (figure 3).

B batch, L text tokens, m media, T frames of them, N latents a medium, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from ...autograd import ops
from ...autograd.backend import Array, to_host, xp
from ...autograd.core import array_of
from ...autograd.tree import Tree
from ...errors import InputError, one_of
from ..attention import KeysValues
from ..masks import check_mask
from ..module import Module, Parameter, explains_parameters, truncated_normal
from .gated_xattn import GatedLayers
from .language_model import LanguageModel, RunLayer, TextCache, Through
from .media import Which, media_mask, preceding
from .prompts import EOC, IMAGE, VOCABULARY
from .resampler import PerceiverResampler
from .vision import Vision

PARTS = ("vision", "resampler", "gated", "language")
FROZEN = ("vision", "language")
NEW = (IMAGE, EOC)
"""The ids, one after the other, of which a language model knows nothing that was trained on text alone."""

Tokens = Literal["frozen", "trained"]
BeforeMedia = Literal["language", "mlp"]


class FlamingoCache(NamedTuple):
    """Prompts so far, and their media; a value, which nothing changes."""

    media: tuple[KeysValues, ...]
    """What each gated layer made of the media: keys and values (B, H, m N, d)"""
    number: int
    """m; without media there are no keys and values either"""
    seen: Array
    """(B,), int64: how many image tags there were"""
    text: TextCache | None


@dataclass(frozen=True)
class Flamingo(Module):
    """p(text | text before, media before): logits of each next token (section 2, equation 1).

        media -> vision -> resampler -> m x N latents;  text -> language model, with `gated` layers before its own

    Parameters are {"frozen": {part: ...}, "trained": {part: ...}}: what gets gradients and an optimizer's state is
    `params["trained"]`. `frozen` names the parts that stay as they are (section 2.2: vision and language). With gates
    at zero, where they start, logits are the language model's own.

    `media`: whether text attends to the last medium before it ("immediate", section 2.3) or to "all" before it.
    `before_media`: what text gets that no medium precedes, which the paper leaves open: the "language" model alone, so
    that text without media has its logits whatever else is in the batch, or the gated layers' "mlp" (open_flamingo).
    `tokens`: whether the image tag and <EOC>, which the language model never learned, have embeddings of their own
    among the trained parameters, in place of their rows in the language model's table (section 2.4: "added to the
    vocabulary and learnt").
    """

    language: LanguageModel
    vision: Vision
    resampler: PerceiverResampler
    gated: GatedLayers
    frozen: tuple[str, ...] = FROZEN
    media: Which = "immediate"
    before_media: BeforeMedia = "language"
    tokens: Tokens = "frozen"

    def __post_init__(self) -> None:
        block = self.gated.block
        for what, ours, theirs, whose in (
            ("layers of `gated`", self.gated.layers, self.language.layers, "layers of the language model"),
            ("text channels of `gated`", block.channels, self.language.channels, "channels of the language model"),
            ("media channels of `gated`", block.media_channels, self.resampler.channels, "channels of the resampler"),
            ("channels of the vision encoder", self.vision.channels, self.resampler.channels, "of the resampler"),
        ):
            if ours != theirs:
                raise InputError(f"the {what} ({ours}) must equal the {whose} ({theirs})")
        if self.language.vocabulary < VOCABULARY:
            raise InputError(
                f"the language model's vocabulary ({self.language.vocabulary}) must hold the {VOCABULARY} byte and "
                "special tokens"
            )
        for what, chosen, known in (
            ("media option", self.media, ("immediate", "all")),
            ("option for text before media", self.before_media, ("language", "mlp")),
            ("option for new tokens", self.tokens, ("frozen", "trained")),
        ):
            if chosen not in known:
                raise one_of(what, chosen, known)
        for name in self.frozen:
            if name not in PARTS:
                raise one_of("part", name, PARTS)

    def parameters(self) -> Tree:
        groups: dict[str, Any] = {"frozen": {}, "trained": {}}
        for name in PARTS:
            groups["frozen" if name in self.frozen else "trained"][name] = getattr(self, name).parameters()
        if self.tokens == "trained":
            row = truncated_normal(0.02)
            new = {"embedding": Parameter((len(NEW), self.language.channels), row)}
            if self.language.logits == "untied":
                new["output"] = Parameter((self.language.channels, len(NEW)), row)
            groups["trained"]["tokens"] = new
        return groups

    def with_parts(self, params: Tree, **parts: Tree) -> Tree:
        """The same parameters with those of whole parts replaced: `with_parts(params, language=pretrained)`."""
        for name, value in parts.items():
            if name not in PARTS:
                raise one_of("part", name, PARTS)
            getattr(self, name).check(value)
        return {
            group: {name: parts.get(name, value) for name, value in params[group].items()}
            for group in ("frozen", "trained")
        }

    def language_parameters(self, params: Tree) -> Tree:
        """Those that the language model computes with: its own, with the trained rows of new tokens put in."""
        p = part(params, "language")
        if self.tokens == "frozen":
            return p
        new, (first, last) = params["trained"]["tokens"], NEW
        old = p["input"]["embedding"]
        table = ops.concatenate([old[:first], new["embedding"], old[last + 1 :]], axis=0)
        p = {**p, "input": {**p["input"], "embedding": table}}
        if self.language.logits == "untied":
            old = p["output"]["weight"]
            weight = ops.concatenate([old[:, :first], new["output"], old[:, last + 1 :]], axis=1)
            p = {**p, "output": {**p["output"], "weight": weight}}
        return p

    @explains_parameters
    def apply(
        self,
        params: Tree,
        ids: Array,
        media: Any = None,
        *,
        mask: Array | None = None,
        frames: Array | None = None,
    ) -> Any:
        """ids (B, L) with image tags, media (B, m, T, *frame) as `vision` takes them -> logits (B, L, V).

        mask (B, L), bool: True where a token is real. frames (B, m, T), bool: True where a frame is real. The media of
        a prompt are its first ones, as many as it has tags; the others are padding, as if they were not there. Without
        any medium these are the language model's logits. Raises `InputError` when the most tags of a prompt are not m.
        """
        locations = _locations(ids, mask)
        count = locations.sum(-1)
        most, given = (int(to_host(count.max())) if count.size else 0), 0 if media is None else media.shape[1]
        if most != given:
            raise InputError(f"the text has {most} image tags, but there are {given} media")
        if given and media.shape[0] != ids.shape[0]:
            raise InputError(f"there are {ids.shape[0]} prompts and media for {media.shape[0]}")
        latents = self.encode(params, media, frames=frames, count=count) if given else None
        through = self._through(params, preceding(locations), latents, given)
        return self.language.apply(self.language_parameters(params), ids, mask=mask, through=through)

    def encode(self, params: Tree, media: Any, *, frames: Array | None = None, count: Array | None = None) -> Any:
        """media (B, m, T, *frame) -> latents (B, m, N, C). count (B,): how many media are real, where not all are."""
        if len(media.shape) < 3:
            raise InputError(f"media must be (batch, media, frames, ...), got {tuple(media.shape)}")
        if media.dtype.kind != "f":
            raise InputError(f"media must be floating-point, scaled as the encoder wants them, got {media.dtype}")
        if count is not None:
            library = xp(array_of(media))
            real = library.arange(media.shape[1]) < count[:, None]
            real = real.reshape(*real.shape, *(1,) * (len(media.shape) - 2))
            media = ops.where(real, media, library.zeros((), media.dtype))
        features = self.vision.apply(part(params, "vision"), media)
        mask = None if frames is None else self._frame_mask(frames, tuple(features.shape))
        return self.resampler.apply(part(params, "resampler"), features, mask=mask)

    def start(
        self, params: Tree, media: Any = None, *, batch: int | None = None, frames: Array | None = None
    ) -> FlamingoCache:
        """The cache before any text of B prompts whose media are these; without media `batch` is B."""
        number = 0 if media is None else media.shape[1]
        if media is not None:
            batch = media.shape[0]
        elif batch is None:
            raise InputError("a cache without media needs to know the size of the batch")
        made = []
        if number:
            made = self.gated.keys_values(part(params, "gated"), self.encode(params, media, frames=frames))
        like = array_of(part(params, "language")["input"]["embedding"])
        return FlamingoCache(tuple(made), number, xp(like).zeros(batch, "int64"), None)

    @explains_parameters
    def extend(
        self, params: Tree, ids: Array, cache: FlamingoCache, *, mask: Array | None = None
    ) -> tuple[Any, FlamingoCache]:
        """As `apply` for tokens ids (B, L) that follow those of `cache`: their logits, and the cache with them in it.

        Raises `InputError` for more image tags than the cache has media.
        """
        locations = _locations(ids, mask)
        if tuple(cache.seen.shape) != tuple(ids.shape[:1]):
            raise InputError(f"the cache is of {cache.seen.shape[0]} prompts, but {ids.shape[0]} are continued")
        phi = preceding(locations, cache.seen)
        if phi.size and (most := int(to_host(phi.max()))) > cache.number:
            raise InputError(f"the text has {most} image tags, but there are {cache.number} media")
        through = self._through(params, phi, cache.media or None, cache.number)
        p = self.language_parameters(params)
        logits, text = self.language.extend(p, ids, cache.text, mask=mask, through=through)
        return logits, FlamingoCache(cache.media, cache.number, cache.seen + locations.sum(-1), text)

    def _through(self, params: Tree, phi: Array, media: Any, number: int) -> Through:
        """The course of text through the gated layers and the language model's; media as `GatedLayers.apply` takes."""
        p, alone = part(params, "gated"), phi[..., None] == 0  # (B, L, 1)

        def through(x: Any, layer: RunLayer) -> Any:
            if media is None:
                return self.gated.apply(p, x, None, between=layer)
            each = media[0].keys.shape[-2] // number if isinstance(media, tuple) else media.shape[2]
            mask = media_mask(phi, media=number, tokens=each, which=self.media)
            last = x  # before the gated layer, if there is one

            def between(i: int, x: Any) -> Any:
                nonlocal last
                if self.before_media == "language" and x is not last:
                    x = ops.where(alone, last, x)
                last = layer(i, x)
                return last

            return self.gated.apply(p, x, media, mask=mask, between=between)

        return through

    def _frame_mask(self, frames: Array, features: tuple[int, ...]) -> Array:
        """(B, m, T, S), bool: which features are of real frames."""
        check_mask(frames, features[:3], "frames")
        if self.resampler.latents_per == "frame":
            raise InputError("a resampler with latents for each frame leaves none out: give media of one length")
        learned = self.resampler.frames
        if learned is not None and features[2] > learned:
            raise InputError(
                f"{features[2]} frames need time embeddings interpolated from {learned}, which depend on the number of "
                "frames: give media of one length"
            )
        return xp(frames).broadcast_to(frames[..., None], features[:4])


def _locations(ids: Array, mask: Array | None) -> Array:
    """(B, L), bool: the image tags."""
    if len(ids.shape) != 2:
        raise InputError(f"token ids must be integers of shape (batch, length), got {tuple(ids.shape)}")
    return (ids == IMAGE) if mask is None else (ids == IMAGE) & check_mask(mask, tuple(ids.shape), "mask")


def part(params: Tree, name: str) -> Tree:
    """The parameters of a part, frozen or trained; none where it has none, which a checkpoint does not mention."""
    return {**params.get("frozen", {}), **params.get("trained", {})}.get(name, {})
