"""docs/CONVENTIONS.md, made of the table, with the size of each difference measured on its cases.

Written out anew, in a clone of the repository, by `python docs/make conventions > docs/CONVENTIONS.md`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from textwrap import fill

from . import FAMILIES
from .exchange import Outcome, outcome
from .rows import Convention, Family, PartOption, worded

_FILE = re.compile(r"(peers/[\w/]+\.py)")
_INTRO = """\
# Where implementations differ

Models with the same name compute different things. Each row is one choice, what each implementation makes of it (in
code: the option that sets it, and its default), where this reference keeps it, and cases of those implementations in
which it can be seen: outputs and gradients of the implementation itself, which `perceiver-ref check` reproduces. They
are in [tests/vectors](../tests/vectors) and in [the package](../perceiver_ref/porting/cases/packaged).

"Instead" says what becomes of a case when only that choice is exchanged for another's: the largest error of an output,
as `check` prints it (cases have random weights: what counts is whether it is 1e-6 or 1), or the weights that no longer
fit. Where two choices can give the same outputs, it is the largest error of a gradient then. "As before" means that the
choices give one result in that case. Where nothing stands there, the choice belongs to an implementation's own file and
cannot be exchanged.

This page is made of the table in [docs/make/conventions](make/conventions), whose tests run every case:
`python docs/make conventions > docs/CONVENTIONS.md`.
"""


def markdown() -> str:
    """The page. Raises `InputError` where the cases are not at hand."""
    return "\n".join([_INTRO, *(line for family in FAMILIES for line in _family(family))]) + "\n"


def _family(family: Family) -> list[str]:
    columns = list(family.columns)
    lines = [f"## {family.title}", "", family.intro, "", f"| choice | {' | '.join(columns)} |"]
    lines.append(f"| --- |{' --- |' * len(columns)}")
    for row in family.rows:
        cells = [row.values.get(column, "") for column in columns]
        lines.append(f"| [{row.name}](#{anchor(row.name)}) | {' | '.join(cells)} |")
    return [*lines, "", *(line for row in family.rows for line in _row(row))]


def _row(row: Convention) -> list[str]:
    kept = f"`{row.kept}`" if isinstance(row.kept, PartOption) else _FILE.sub(r"[\1](../perceiver_ref/\1)", row.kept)
    text = fill(f"{row.about} Here: {kept}.", 120, break_long_words=False, break_on_hyphens=False)
    lines = [f"### {row.name}", "", text, "", "| case | does | instead |", "| --- | --- | --- |"]
    for evidence in row.evidence:
        instead = [
            f"{other}: {described(outcome(evidence.case, change, gradients=row.gradients))}"
            for other, change in row.changes(evidence).items()
        ]
        lines.append(f"| `{evidence.case}` | {worded(evidence.value)} | {'; '.join(instead)} |")
    return [*lines, ""]


def described(found: Outcome) -> str:
    """An outcome in words, its error to one digit."""
    if found.refused:
        return found.refused
    return "as before" if found.agrees else f"{found.error:.1g}"


def anchor(heading: str) -> str:
    """The name by which a link leads to a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def main(arguments: Sequence[str]) -> int:
    """The command: prints the page."""
    print(markdown(), end="")
    return 0
