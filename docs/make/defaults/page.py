"""docs/DEFAULTS.md: `python docs/make defaults > docs/DEFAULTS.md`."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill

from .rows import ALSO, ROWS, Row

_INTRO = """\
# Defaults that differ between frameworks

What a layer does where an argument is left out is not the same in every framework, and most of these differences are
too small to be seen in a plot. Each row is such a default: what it is where (with the name of the argument, as of the
versions that the tests of this table run), a case in which it can be seen, and what becomes of that case with another
one planted: what `perceiver-ref diagnose` then says, or where it has no id, that `perceiver-ref check` fails. What the
implementations of Perceivers themselves choose is in [CONVENTIONS.md](CONVENTIONS.md).

Cases are in [tests/vectors](../tests/vectors) and in [the package](../perceiver_ref/porting/cases/packaged). This page
is made of the table in [docs/make/defaults](make/defaults), of which a test plants every row:
`python docs/make defaults > docs/DEFAULTS.md`.
"""


def main(arguments: Sequence[str]) -> int:
    """The command: prints the page."""
    print(markdown(), end="")
    return 0


def markdown() -> str:
    """docs/DEFAULTS.md."""
    lines = [_INTRO, "| default | case | planted | `diagnose` says |", "| --- | --- | --- | --- |"]
    lines += [f"| [{row.name}](#{_anchor(row.name)}) | `{row.case}` | {row.planted} | {_said(row)} |" for row in ROWS]
    for row in ROWS:
        lines += ["", f"## {row.name}", ""]
        lines += [fill(row.what, 120), ""] if row.what else []
        lines += ["| where | default | said in |", "| --- | --- | --- |"]
        lines += [f"| {where} | {value} | {source} |" for where, value, source in row.values]
        lines += ["", fill(f"Shown by `{row.case}`; with {row.planted} there, {_told(row)}.", 120)]
    return "\n".join([*lines, "", "## Initial values", "", ALSO.strip()]) + "\n"


def _anchor(name: str) -> str:
    return name.lower().replace(" ", "-")


def _said(row: Row) -> str:
    return f"`{row.cause}`" if row.cause else "nothing; `check` fails"


def _told(row: Row) -> str:
    if row.cause:
        return f"`diagnose` says `{row.cause}`"
    return f"`check` fails, and `diagnose` has no id for it ({row.alone})"
