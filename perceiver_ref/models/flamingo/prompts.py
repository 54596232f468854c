"""Interleaved text and media as token ids: prompts, few-shot prompts, batches of them, and what is learned from them.

Flamingo, sections 2.3 to 2.5, figures 7 and 8: an `<image>` tag stands where a medium does, and `<EOC>` (end of chunk)
ends the text that belongs to it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from ...autograd import ops
from ...errors import InputError
from ..inputs import bytes as byte_tokens
from ..inputs.bytes import BOS, CLS, EOS, MASK, PAD, SEP

IMAGE = byte_tokens.VOCABULARY
EOC = byte_tokens.VOCABULARY + 1
SPECIAL = {
    "<PAD>": PAD,
    "<BOS>": BOS,
    "<EOS>": EOS,
    "<MASK>": MASK,
    "<CLS>": CLS,
    "<SEP>": SEP,
    "<image>": IMAGE,
    "<EOC>": EOC,
}
"""Every token that is not a byte. The first six are the byte tokenizer's, below the bytes; Flamingo's follow them."""
VOCABULARY = byte_tokens.VOCABULARY + 2
IGNORED = -100
"""The target of a position from which nothing is learned."""


@dataclass(frozen=True, eq=False)
class Prompt:
    """One sequence of text and media.

    A medium is an array: a frame (an image, or features of one), or frames along its first axis (a video).
    """

    ids: np.ndarray
    """(L,), int64"""
    media: tuple[Any, ...] = ()
    """As many as there are image tags, in their order"""
    answers: np.ndarray | None = None
    """(L,), bool: the tokens of answers, where they are known"""

    def __post_init__(self) -> None:
        if self.ids.ndim != 1 or self.ids.dtype.kind not in "iu":
            raise InputError(f"the ids of a prompt must be integers (L,), got {self.ids.dtype} of {self.ids.shape}")
        if self.answers is not None and (self.answers.shape != self.ids.shape or self.answers.dtype != bool):
            came = f"{self.answers.dtype} of {self.answers.shape}"
            raise InputError(f"the answers of a prompt must be bool of shape {self.ids.shape}, got {came}")
        tags = int((self.ids == IMAGE).sum())
        if tags != len(self.media):
            raise InputError(f"the text has {tags} image tags, but there are {len(self.media)} media")

    @property
    def locations(self) -> np.ndarray:
        """(L,), bool: where the image tags are."""
        return np.asarray(self.ids == IMAGE)


class Chunk(NamedTuple):
    """A medium, if there is one, and the text that belongs to it."""

    text: str
    medium: Any = None


class Batch(NamedTuple):
    """Prompts side by side, as the model takes them; arrays on the host."""

    ids: np.ndarray
    """(B, L), int64, filled up with PAD at the end"""
    mask: np.ndarray
    """(B, L), bool: where a token is real"""
    media: np.ndarray | None
    """(B, m, T, *frame), filled up with zeros; None where no prompt has any"""
    frames: np.ndarray | None
    """(B, m, T), bool: which frames are real; None where every medium has as many"""
    answers: np.ndarray
    """(B, L), bool: the tokens of answers; all real tokens of a prompt that does not tell them apart"""


def encode(text: str) -> np.ndarray:
    """The ids (L,) of a text with the tags of `SPECIAL` in it: "<image>A cat.<EOC>"."""
    pieces = re.split(f"({'|'.join(map(re.escape, SPECIAL))})", text)
    return np.concatenate([np.array([SPECIAL[t]]) if t in SPECIAL else byte_tokens.encode(t) for t in pieces])


def decode(ids: np.ndarray, *, tags: bool = False) -> str:
    """The text of ids (L,); special tokens are left out, or written as their tags. Raises `InputError` for others."""
    ids = np.asarray(ids)
    if ids.ndim != 1 or (ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < VOCABULARY):
        raise InputError(f"one sequence of token ids in [0, {VOCABULARY}) can be decoded, got {ids.tolist()}")
    names = {token: tag.encode() if tags else b"" for tag, token in SPECIAL.items()}
    text = [names[t] if t in names else bytes([t - byte_tokens.OFFSET]) for t in ids.tolist()]
    return b"".join(text).decode("utf-8", errors="replace")


def marked(text: str, media: Sequence[Any] = ()) -> Prompt:
    """The prompt of a text with tags and the media of its image tags. Raises `InputError` unless they are as many."""
    return Prompt(encode(text), tuple(media))


def interleave(chunks: Sequence[Chunk | tuple[str, Any]], *, complete: bool = True) -> Prompt:
    """<BOS>, then each chunk: <image> if it has a medium, its text, <EOC> (figure 7).

    Texts are text: a tag spelled out in one stays its letters. Unless `complete` the last <EOC> is left out, for text
    to be continued. Raises `InputError` without chunks.
    """
    if not chunks:
        raise InputError("a prompt needs at least one chunk of text")
    ids = [np.array([BOS])]
    media = []
    for text, medium in chunks:
        if medium is not None:
            media.append(medium)
        ids += [np.array([IMAGE] * (medium is not None), np.int64), byte_tokens.encode(text), np.array([EOC])]
    return Prompt(np.concatenate(ids if complete else ids[:-1]), tuple(media))


def few_shot(
    examples: Sequence[tuple[Any, str]],
    query: Any,
    *,
    instruction: str = "",
    lead: str = "Output: ",
    answer: str | None = None,
    show: bool = True,
) -> Prompt:
    """Examples (medium, text), then a medium to say the same of (section 2.5, figure 8):

        <BOS>instruction<EOC> <image>lead text<EOC> ... <image>lead                        (without the spaces)

    With an `answer` the prompt ends in it and <EOC>, for training, and `answers` marks the texts of all examples, the
    answer, and their <EOC>. Without `show` the examples' media and tags are left out, as the paper does where it counts
    zero shots. Raises `InputError` without examples.
    """
    if not examples:
        raise InputError("a few-shot prompt needs at least one example")
    chunks = [(medium if show else None, text) for medium, text in examples]
    chunks.append((query, "" if answer is None else answer))
    pieces = [(np.array([BOS]), False)]
    if instruction:
        pieces.append((np.append(byte_tokens.encode(instruction), EOC), False))
    for medium, text in chunks:
        tag = np.array([IMAGE] * (medium is not None), np.int64)
        pieces.append((np.concatenate([tag, byte_tokens.encode(lead)]), False))
        pieces.append((np.append(byte_tokens.encode(text), EOC), True))
    if answer is None:
        pieces.pop()
    return Prompt(
        np.concatenate([ids for ids, _ in pieces]),
        tuple(medium for medium, _ in chunks if medium is not None),
        np.concatenate([np.full(len(ids), learned) for ids, learned in pieces]),
    )


def collate(prompts: Sequence[Prompt], *, frame_axes: int) -> Batch:
    """Prompts side by side. `frame_axes` is the rank of one frame, as the model's `vision.frame_axes` says.

    Raises `InputError` for media of another rank, without frames, or with frames of different shapes.
    """
    if not prompts:
        raise InputError("a batch needs at least one prompt")
    longest = max(len(prompt.ids) for prompt in prompts)
    ids, mask = byte_tokens.pad([prompt.ids for prompt in prompts], longest)
    answers = np.zeros_like(mask)
    for row, prompt in zip(answers, prompts):
        row[: len(prompt.ids)] = True if prompt.answers is None else prompt.answers
    media = [[_with_frames(np.asarray(medium), frame_axes) for medium in prompt.media] for prompt in prompts]
    return Batch(ids, mask, *_stacked(media), answers)


def targets(batch: Batch, *, answers_only: bool = False) -> np.ndarray:
    """What each position is to predict, (B, L) int64: the next token, or `IGNORED`.

    Nothing predicts image tags or padding; with `answers_only` only tokens of answers are predicted. Raises
    `InputError` when there is nothing to predict at all.
    """
    learned = batch.mask & (batch.ids != IMAGE) & (batch.answers | (not answers_only))
    following = np.full_like(batch.ids, IGNORED)
    following[:, :-1] = np.where(learned[:, 1:], batch.ids[:, 1:], IGNORED)
    if (following == IGNORED).all():
        raise InputError("the batch holds no token to predict")
    return following


def text_loss(logits: Any, following: np.ndarray) -> Any:
    """The mean of -log p(next token) over what `targets` gives (section 2, equation 1): logits (B, L, V) -> 0-d."""
    return ops.cross_entropy(logits, following, ignore_index=IGNORED)


def without_media(prompt: Prompt) -> Prompt:
    """The same text without its media and their tags: what the language model alone can read."""
    kept = ~prompt.locations
    return replace(
        prompt, ids=prompt.ids[kept], media=(), answers=None if prompt.answers is None else prompt.answers[kept]
    )


def _with_frames(medium: np.ndarray, frame_axes: int) -> np.ndarray:
    """A medium (T, *frame)."""
    if medium.ndim not in (frame_axes, frame_axes + 1):
        raise InputError(f"a medium must have {frame_axes} axes, or {frame_axes + 1} with frames, got {medium.shape}")
    medium = medium if medium.ndim > frame_axes else medium[None]
    if not medium.shape[0]:
        raise InputError(f"a medium has no frames: {medium.shape}")
    return medium


def _stacked(media: list[list[np.ndarray]]) -> tuple[np.ndarray | None, np.ndarray | None]:
    """The media of a batch, and which frames are real where their numbers differ."""
    every = [medium for row in media for medium in row]
    if not every:
        return None, None
    shapes = {medium.shape[1:] for medium in every}
    if len(shapes) > 1:
        raise InputError(f"the media of a batch must have frames of one shape, got {sorted(shapes)}")
    lengths = {len(medium) for medium in every}
    places = (len(media), max(map(len, media)), max(lengths))
    stacked = np.zeros((*places, *every[0].shape[1:]), np.result_type(*every))
    real = np.zeros(places, bool)
    for b, row in enumerate(media):
        for m, medium in enumerate(row):
            stacked[b, m, : len(medium)] = medium
            real[b, m, : len(medium)] = True
    return stacked, real if len(lengths) > 1 else None
