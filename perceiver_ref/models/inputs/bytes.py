"""The byte tokenizer of Perceiver IO's language models: UTF-8 bytes after six special tokens (appendix F.2)."""

from __future__ import annotations

import numpy as np

PAD, BOS, EOS, MASK, CLS, SEP = range(6)
OFFSET = 6
VOCABULARY = 256 + OFFSET


def encode(text: str | bytes) -> np.ndarray:
    """The token ids of a text, or of bytes that need not be UTF-8: (bytes,) int64, without any special token."""
    data = text.encode("utf-8") if isinstance(text, str) else text
    return np.frombuffer(data, np.uint8).astype(np.int64) + OFFSET


def decode(ids: np.ndarray) -> str:
    """The text of token ids, special tokens left out; bytes that are not UTF-8 become U+FFFD, ids above 261 wrap."""
    ids = np.asarray(ids)
    return (ids[ids >= OFFSET] - OFFSET).astype(np.uint8).tobytes().decode("utf-8", errors="replace")


def pad(sequences: list[np.ndarray], length: int) -> tuple[np.ndarray, np.ndarray]:
    """Sequences side by side, (B, length) filled up with PAD, and the mask (B, length), True where a token is real.

    Raises `ValueError` for a sequence longer than `length`.
    """
    ids = np.full((len(sequences), length), PAD, np.int64)
    for row, sequence in zip(ids, sequences):
        if len(sequence) > length:
            raise ValueError(f"a sequence has {len(sequence)} tokens, more than {length}")
        row[: len(sequence)] = sequence
    lengths = np.array([len(sequence) for sequence in sequences])
    return ids, np.arange(length) < lengths[:, None]
