"""docs/SPEC.md: the chapters of `text/`, with what stands between double braces put in.

    {{link attention.Attention}}    a link to the file that defines it
    {{differs Gated MLP}}           a link to a row of docs/CONVENTIONS.md
    {{quote attention.Attention}}   its docstring: first paragraph, equations, what `apply` takes and gives
    {{ops linear matmul}}           ops as a table
    {{all ops}}                     every op of the engine, by file
    {{symbols Sizes}}               a group of the notation
    {{figure perceiver}}            a diagram
    {{table sizes}}                 a table of `costs`, or of `family`

A block of Python with `run` after its language is run, and what it prints put below it.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from contextlib import redirect_stdout
from importlib.resources import files
from textwrap import fill

from conventions import FAMILIES
from conventions.page import anchor

from perceiver_ref.errors import one_of

from . import costs, family, flamingos, perceivers, symbols
from .figures import Figure
from .quotes import by_file, link, operations, quote

FIGURES: dict[str, Figure] = {
    figure.name: figure
    for figure in (
        perceivers.LAYER,
        perceivers.PERCEIVER,
        perceivers.PERCEIVER_IO,
        flamingos.RESAMPLER,
        flamingos.GATED,
    )
}
"""The diagrams by name, in the order of the page."""

_TABLES: dict[str, Callable[[], str]] = {
    "sizes": costs.sizes,
    "worked": costs.worked,
    "rule": lambda: f"```math\n{costs.RULE.replace('D D', 'D^2')}\n```",
    "parameters": costs.parameter_table,
    "family": family.table,
}


def markdown() -> str:
    """docs/SPEC.md. Raises `InputError` for a name in the text that is not there."""
    chapters = sorted((files("specification") / "text").iterdir(), key=lambda chapter: chapter.name)
    text = "\n".join(chapter.read_text(encoding="utf-8") for chapter in chapters if chapter.name.endswith(".md"))
    text = re.sub(r"\{\{(\w+) ([^{}]+)\}\}", lambda found: _put(found[1], found[2]), text)
    text = re.sub(r"^```python run\n(.*?)^```$", _ran, text, flags=re.MULTILINE | re.DOTALL)
    blocks = re.split(r"(^```.*?^```$)", text, flags=re.MULTILINE | re.DOTALL)
    return "".join(block if block.startswith("```") else _filled(block) for block in blocks)


def _filled(text: str) -> str:
    """Paragraphs with lines of even length; tables, quotes, lists and headings as they are."""
    return re.sub(r"(?<=\n\n)(?![#|>!-])[^\n].*?(?=\n\n|\n?\Z)", lambda found: _lines(found[0]), text, flags=re.DOTALL)


def _lines(paragraph: str) -> str:
    """A paragraph in lines of at most 120 characters; formulas, code and links are not broken."""
    whole = re.sub(
        r"\$[^$]+\$|`[^`]+`|\[[^][]+\]", lambda found: " ".join(found[0].split()).replace(" ", "\0"), paragraph
    )
    return fill(whole, 120, break_long_words=False, break_on_hyphens=False).replace("\0", " ")


def _put(what: str, argument: str) -> str:
    """What stands for a pair of braces."""
    makers: dict[str, Callable[[str], str]] = {
        "link": lambda name: link(*name.split("|")),
        "differs": differs,
        "quote": quote,
        "ops": lambda names: operations(names.split()),
        "all": lambda _: "\n".join(f"\n### {file}\n\n{operations(names)}" for file, names in by_file().items()).strip(),
        "symbols": symbols.table,
        "figure": figure,
        "table": lambda name: _TABLES[name](),
    }
    if what not in makers:
        raise one_of("directive", what, makers)
    return makers[what](argument)


def differs(row: str) -> str:
    """A link to a row of docs/CONVENTIONS.md."""
    rows = [row.name for family in FAMILIES for row in family.rows]
    if row not in rows:
        raise one_of("row of the table of differences", row, rows)
    return f"[{row}](CONVENTIONS.md#{anchor(row)})"


def figure(name: str) -> str:
    """A diagram, as a picture with its text."""
    if name not in FIGURES:
        raise one_of("diagram", name, FIGURES)
    return f"![{FIGURES[name].about}, with the shape of every array](diagrams/{name}.svg)"


def _ran(found: re.Match[str]) -> str:
    """A block of Python and what it prints."""
    printed = io.StringIO()
    with redirect_stdout(printed):
        exec(compile(found[1], "docs/SPEC.md", "exec"), {"__name__": "example"})
    return f"```python\n{found[1]}```\n\n```text\n{printed.getvalue().rstrip()}\n```"
