"""The byte tokenizer gives transformers' token ids for any text."""

from __future__ import annotations

import pytest
from heavy.peer import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from perceiver_ref.models.inputs import bytes as tokenizer

pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("default")]
# "[" left out: "[MASK]" and the like are special tokens to theirs, and plain bytes to ours and DeepMind's
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="["), max_size=30)


@pytest.fixture(scope="module")
def theirs() -> transformers.PerceiverTokenizer:
    return transformers.PerceiverTokenizer()


@settings(max_examples=300)
@given(text=texts)
def test_ids_are_transformers(theirs: transformers.PerceiverTokenizer, text: str) -> None:
    ids = theirs(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.encode(text).tolist() == ids


def test_special_tokens_are_transformers(theirs: transformers.PerceiverTokenizer) -> None:
    special = ["[PAD]", "[BOS]", "[EOS]", "[MASK]", "[CLS]", "[SEP]"]
    assert theirs.convert_tokens_to_ids(special) == [
        tokenizer.PAD,
        tokenizer.BOS,
        tokenizer.EOS,
        tokenizer.MASK,
        tokenizer.CLS,
        tokenizer.SEP,
    ]
    assert theirs("a")["input_ids"] == [tokenizer.CLS, *tokenizer.encode("a"), tokenizer.SEP]
