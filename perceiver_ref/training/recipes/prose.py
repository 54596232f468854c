"""English prose of the standard library: the paragraphs of Python's language reference in `pydoc_data.topics`.

The text differs a little between releases of Python. Whole topics are held out for testing; a paragraph that shares a
sentence with them is not trained on, since topics quote each other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ...errors import InputError
from ...models.inputs.bytes import OFFSET, VOCABULARY, encode

HELD_OUT = (
    "assert",
    "assignment",
    "augassign",
    "comparisons",
    "import",
    "in",
    "numbers",
    "raise",
    "strings",
)
"""Topics that are only tested on, about a seventh of the text."""

ALPHABET = np.array([10, *range(32, 127)])
"""The bytes of the cleaned text: a line feed after each paragraph, and printable ASCII."""

_TYPOGRAPHY = str.maketrans(
    {"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2013": "-", "\u2014": "-", "\u2026": "..."}
)
"""Quotation marks, dashes and the ellipsis in ASCII."""
_BULLET = re.compile(r"^(\s*)([*+-] |\d+\. |\[\d+\] )")
_EMPHASIS = re.compile(r"(?<![\w*\"])\*\*?([^*\s\"][^*\"]*?)\*\*?(?![\w*\"])")
_PROSE = re.compile(r"[A-Z\"(][ -~]*[.:!?)\"]")
_NO_LETTER = re.compile(r"[^A-Za-z ]")
_SENTENCE = re.compile(r"(?<=[.:!?]) +(?=[A-Z\"(])")


class Prose(NamedTuple):
    """Paragraphs in the order of the topics' names: plain ASCII, each on one line."""

    train: tuple[str, ...]
    test: tuple[str, ...]


@lru_cache(maxsize=1)
def prose() -> Prose:
    """The prose of this Python. Raises `InputError` where it comes without its documentation, as some packages do."""
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise InputError("this Python has no pydoc_data.topics; install its standard library in full") from None
    return split(topics)


def split(topics: Mapping[str, str]) -> Prose:
    """Topic -> text, as prose to train on and to test on. No sentence of 40 letters or more is in both."""
    chosen = [name for name in HELD_OUT if name in topics]
    test = unique(p for name in chosen for p in paragraphs(topics[name]))
    tested = {sentence for p in test for sentence in long_sentences(p)}
    others = unique(p for name in sorted(topics) if name not in chosen for p in paragraphs(topics[name]))
    train = [p for p in others if p not in set(test) and tested.isdisjoint(long_sentences(p))]
    return Prose(tuple(train), tuple(test))


def paragraphs(text: str) -> Iterator[str]:
    """The paragraphs of prose of a topic, without markup: no headings, tables, grammar, signatures or code."""
    for block in re.split(r"\n\s*\n", text.translate(_TYPOGRAPHY)):
        for lines in _of_one_depth(block):
            line = re.sub(r"(?<=[a-z])- (?=[a-z])", "-", " ".join(lines))  # lines are broken after hyphens, too
            line = re.sub(r"\s+", " ", _EMPHASIS.sub(r"\1", line))
            if is_prose(line):
                yield line


def _of_one_depth(block: str) -> Iterator[list[str]]:
    """Neighbouring lines that are indented alike; the mark of an item counts as its indentation."""
    run: list[str] = []
    depth = 0
    for line in block.splitlines():
        line = _BULLET.sub(lambda mark: mark[1] + " " * len(mark[2]), line)
        indented = len(line) - len(line.lstrip())
        if run and indented != depth:
            yield run
            run = []
        depth = indented
        run.append(line.strip())
    if run:
        yield run


def is_prose(line: str) -> bool:
    """Whether this is a sentence or several: ASCII, a capital first, a stop last, mostly letters and spaces."""
    others = len(_NO_LETTER.findall(line))
    return bool(_PROSE.fullmatch(line)) and len(line.split()) >= 6 and others <= 0.12 * len(line)


def unique(lines: Iterable[str]) -> list[str]:
    """Each line once, where it comes first."""
    return list(dict.fromkeys(lines))


def long_sentences(paragraph: str) -> set[str]:
    """Its sentences of at least 40 characters."""
    return {sentence for sentence in _SENTENCE.split(paragraph) if len(sentence) >= 40}


def ids_of(lines: Iterable[str]) -> np.ndarray:
    """Paragraphs one after the other as byte ids of Perceiver IO, (bytes,) int64, a line feed after each."""
    return encode("".join(line + "\n" for line in lines))


def symbols(ids: np.ndarray) -> np.ndarray:
    """Byte ids of cleaned text as indexes of `ALPHABET`; special tokens become -1."""
    table = np.full(VOCABULARY, -1)
    table[ALPHABET + OFFSET] = np.arange(len(ALPHABET))
    indexes: np.ndarray = table[ids]
    return indexes
