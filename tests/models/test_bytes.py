"""The byte tokenizer equals DeepMind's on examples that theirs produced, and undoes itself on any text."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perceiver_ref.models.inputs import bytes as tokenizer

EXAMPLES = json.loads((Path(__file__).parents[1] / "vectors/deepmind/bytes_tokenizer.json").read_text("utf-8"))
texts = st.text(st.characters(exclude_categories=["Cs"]))  # lone surrogates are no text in UTF-8


@pytest.mark.parametrize("example", EXAMPLES["to_int"], ids=lambda example: ascii(example["string"]))
def test_encoding_is_deepminds(example: dict[str, object]) -> None:
    ids = tokenizer.encode(example["string"])
    assert ids.dtype == np.int64
    assert ids.tolist() == example["ids"]
    assert tokenizer.decode(ids) == example["back"]


@pytest.mark.parametrize("example", EXAMPLES["to_string"], ids=lambda example: str(example["ids"]))
def test_decoding_is_deepminds(example: dict[str, object]) -> None:
    """Special and negative ids are dropped, ids beyond the vocabulary wrap, broken UTF-8 becomes U+FFFD."""
    assert tokenizer.decode(np.array(example["ids"], np.int64)) == example["string"]


@pytest.mark.parametrize("example", EXAMPLES["to_int_bytes"], ids=lambda example: str(example["bytes"]))
def test_decoding_bytes_that_are_no_text_is_deepminds(example: dict[str, object]) -> None:
    assert tokenizer.decode(np.array(example["ids"], np.int64)) == example["back"]


def test_special_tokens_and_vocabulary_are_deepminds() -> None:
    assert {name: getattr(tokenizer, name.upper()) for name in EXAMPLES["special"]} == EXAMPLES["special"]
    assert EXAMPLES["vocab_size"] == tokenizer.VOCABULARY


@given(text=texts)
def test_decode_undoes_encode(text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert len(ids) == len(text.encode())
    assert ((ids >= tokenizer.OFFSET) & (ids < tokenizer.VOCABULARY)).all()


@given(parts=st.lists(texts, min_size=1, max_size=4), room=st.integers(0, 3))
def test_padding_keeps_the_sequences_and_masks_the_rest(parts: list[str], room: int) -> None:
    sequences = [tokenizer.encode(text) for text in parts]
    length = max(map(len, sequences)) + room
    ids, mask = tokenizer.pad(sequences, length)
    assert ids.shape == mask.shape == (len(parts), length)
    assert mask.dtype == bool
    for row, real, sequence in zip(ids, mask, sequences):
        assert row[real].tolist() == sequence.tolist()
        assert (row[~real] == tokenizer.PAD).all()


def test_a_sequence_that_is_too_long_is_refused() -> None:
    with pytest.raises(ValueError, match="a sequence has 3 tokens, more than 2"):
        tokenizer.pad([tokenizer.encode("a"), tokenizer.encode("abc")], 2)
