"""The byte tokenizer against DeepMind's, on text in several scripts, broken UTF-8 and ids out of range."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from perceiver_ref.models.inputs import bytes as tokenizer

EXAMPLES = json.loads(
    (Path(__file__).parents[1] / "vectors" / "deepmind" / "bytes_tokenizer.json").read_text(encoding="utf-8")
)


@pytest.mark.parametrize("example", EXAMPLES["to_int"], ids=range(len(EXAMPLES["to_int"])))
def test_text_to_ids_and_back(example):
    ids = tokenizer.encode(example["string"])
    assert ids.tolist() == example["ids"]
    assert tokenizer.decode(ids) == example["back"]


@pytest.mark.parametrize("example", EXAMPLES["to_int_bytes"], ids=range(len(EXAMPLES["to_int_bytes"])))
def test_bytes_to_ids_and_back(example):
    ids = tokenizer.encode(bytes(example["bytes"]))
    assert ids.tolist() == example["ids"]
    assert tokenizer.decode(ids) == example["back"]


@pytest.mark.parametrize("example", EXAMPLES["to_string"], ids=range(len(EXAMPLES["to_string"])))
def test_ids_to_text(example):
    assert tokenizer.decode(np.array(example["ids"], np.int64)) == example["string"]


def test_special_tokens():
    special = {name: getattr(tokenizer, name.upper()) for name in EXAMPLES["special"]}
    assert special == EXAMPLES["special"]
    assert EXAMPLES["vocab_size"] == tokenizer.VOCABULARY
