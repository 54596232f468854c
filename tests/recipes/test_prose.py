"""The prose of the standard library: clean, whole topics held out, nothing of them to train on."""

from __future__ import annotations

import re

import numpy as np
import pytest

from perceiver_ref.errors import InputError
from perceiver_ref.models.inputs.bytes import MASK, decode
from perceiver_ref.training.recipes import prose as module
from perceiver_ref.training.recipes.prose import ALPHABET, HELD_OUT, ids_of, paragraphs, prose, split, symbols

TOPIC = """\
The "import" statement
**********************

   import_stmt ::= "import" module ["as" identifier]

The *import* statement \u2013 with or without a \u201cfrom\u201d clause \u2013 has a well-
defined meaning; see **PEP 328** for it.

* The first of two items of a list, which
  goes on in a second line.

1. The second one is numbered, and ends it.

object.__iadd__(self, other)

   These methods are called for the augmented arithmetic assignments.

   Changed in version 3.5: Support for several targets was added.

   >>> import this
   The Zen of Python, by Tim Peters and others, is shown.

+-----------+---------------------------------------+
| Operator  | Description of the operator in words. |
+-----------+---------------------------------------+

Too short.

no capital first, so that this is the rest of something.
"""
LINES = [
    'The import statement - with or without a "from" clause - has a well-defined meaning; see PEP 328 for it.',
    "The first of two items of a list, which goes on in a second line.",
    "The second one is numbered, and ends it.",
    "These methods are called for the augmented arithmetic assignments.",
    "Changed in version 3.5: Support for several targets was added.",
]


def test_markup_code_and_tables_are_left_out() -> None:
    assert list(paragraphs(TOPIC)) == LINES


def test_what_held_out_topics_quote_is_not_trained_on() -> None:
    shared = "This sentence of more than forty characters stands in two topics."
    topics = {
        "assert": f"{shared} The rest is said in one of them alone.",
        "import": f"{shared}\n\nA paragraph that only the held-out topics have.",
        "types": f"The rest is another, though. {shared}\n\nA paragraph that stands in topics to train on.",
        "yield": "A paragraph that stands in topics to train on.\n\nAnother paragraph that ends the whole text.",
    }
    made = split(topics)
    kept = ["A paragraph that stands in topics to train on.", "Another paragraph that ends the whole text."]
    assert made.train == tuple(kept)
    assert made.test == (
        topics["assert"],
        shared,
        "A paragraph that only the held-out topics have.",
    )


def test_this_pythons_text_is_large_enough_and_plain() -> None:
    train, test = prose()
    assert sum(map(len, train)) > 180_000
    assert sum(map(len, test)) > 25_000
    for line in (*train, *test):
        assert line.isascii()
        assert line.isprintable()
        assert "::=" not in line
        assert ">>>" not in line
        assert not re.search(r"\s\s|(^| )\*\w+\*( |$)", line)
    assert len(set(train)) == len(train)
    assert len(set(test)) == len(test)


def test_train_and_test_do_not_overlap() -> None:
    """By paragraphs, and by runs of 50 bytes wherever they begin: only stock phrases are in both."""
    from pydoc_data.topics import topics

    train, test = prose()
    held_out = {line for name in HELD_OUT if name in topics for line in paragraphs(topics[name])}
    assert held_out == set(test)
    assert held_out.isdisjoint(train)
    one, other = "\n".join(train), "\n".join(test)
    runs = {one[i : i + 50] for i in range(len(one) - 49)}
    shared = sum(other[i : i + 50] in runs for i in range(len(other) - 49))
    assert shared < 0.005 * len(other)


def test_ids_are_bytes_and_symbols_indexes_of_the_alphabet() -> None:
    lines = ("A line.", "~ another one")
    ids = ids_of(lines)
    assert decode(ids) == "A line.\n~ another one\n"
    np.testing.assert_array_equal(ALPHABET[symbols(ids)], np.frombuffer(b"A line.\n~ another one\n", np.uint8))
    assert symbols(np.array([MASK])) == -1
    assert (symbols(ids_of(prose().train)) >= 0).all()


def test_a_python_without_its_documentation_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    module.prose.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "pydoc_data.topics", None)
    with pytest.raises(InputError, match=r"^this Python has no pydoc_data\.topics; install"):
        prose()
