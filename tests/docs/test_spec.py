"""docs/SPEC.md: made of the code as it is now, complete, and in one notation."""

from __future__ import annotations

import math
import re
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conventions.exchange import rebuilt
from conventions.later import LATER
from conventions.poolers import POOLERS
from specification import command, costs, family, page, quotes, symbols
from specification.shapes import traced

from perceiver_ref.autograd import ops, registry
from perceiver_ref.errors import InputError
from perceiver_ref.models.ledger import default_sizes, example
from perceiver_ref.models.ledger.record import sketched
from perceiver_ref.models.published import INPUTS, preset

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGE = (DOCS / "SPEC.md").read_text(encoding="utf-8")
ALL = [symbol for group in symbols.GROUPS.values() for symbol in group]
FORMULAS = re.findall(r"^```math\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
INLINE = re.findall(r"\$([^$\n]+)\$", re.sub(r"^```.*?^```$", "", PAGE, flags=re.MULTILINE | re.DOTALL))
FUNCTIONS = {
    "exp",
    "log",
    "sin",
    "cos",
    "tanh",
    "sum",
    "sqrt",
    "frac",
    "mathrm",
    "left",
    "right",
    "lfloor",
    "rfloor",
} | {"lt", "le", "leftarrow", "rightarrow", "cdot", "top", "infty", "ldots", "quad", "mid", "prod", "text"}
"""Commands of LaTeX that are no symbols."""


def test_the_page_and_its_diagrams_are_up_to_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["specification", str(tmp_path)])
    command.main()
    made = {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()}
    assert made == {Path("SPEC.md"), *(path.relative_to(DOCS) for path in (DOCS / "diagrams").iterdir())}
    for path in made:
        assert (tmp_path / path).read_bytes() == (DOCS / path).read_bytes(), (
            f"{path}: write it again: python docs/make specification docs"
        )


def test_a_changed_docstring_changes_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    before = quotes.operations(["layer_norm"])
    assert before in PAGE
    monkeypatch.setattr(ops.layer_norm, "__doc__", "Something else.\n\n    y = 3 x\n\nx (..., D) -> (..., D)")
    after = quotes.operations(["layer_norm"])
    assert after not in PAGE
    assert "Something else." in after
    assert "`y = 3 x`<br>`x (..., D) -> (..., D)`" in after


@pytest.mark.parametrize(
    "text", ["quote attention.Attentions", "link ops.softmin", "ops linear linaer", "differs Colour", "figure x", "x y"]
)
def test_a_name_that_is_not_there_is_an_error(text: str) -> None:
    what, _, argument = text.partition(" ")
    with pytest.raises(InputError, match=re.escape(argument.split()[-1] if what != "x" else "x")):
        page._put(what, argument)


# completeness


def test_every_operation_is_there_once_with_its_docstring() -> None:
    rows = re.findall(r"^\| \[`ops\.(\w+)`\]", PAGE.partition("## All operations")[2], re.MULTILINE)
    assert sorted(rows) == sorted(name for name, op in registry.items() if op.__module__.startswith("perceiver_ref"))


@pytest.mark.parametrize("name", ["perceiver/imagenet", "perceiver-io/imagenet-conv", *costs.TABLE[-4:-2]])
def test_what_models_compute_is_there(name: str) -> None:
    model = preset(name)
    inputs = example(model, INPUTS.get(name) or default_sizes(model))
    used = {step.event.op.name for step in sketched(model, inputs, np.float32, training=False).steps}
    assert len(used) > 5
    assert {op for op in used if f"| [`ops.{op}`]" not in PAGE} == set()


@pytest.mark.parametrize("name", costs.TABLE)
def test_the_published_models_are_in_the_table_of_sizes(name: str) -> None:
    row = next(line for line in PAGE.splitlines() if line.startswith(f"| `{name}` |"))
    assert f" {preset(name).count():,} " in row


# links


def test_every_link_leads_to_a_file_that_defines_the_name() -> None:
    links = re.findall(r"\[`([\w.]+)`\]\(\.\./([\w/]+\.py)\)", PAGE)
    assert len(links) > 100
    for name, path in links:
        source = (ROOT / path).read_text(encoding="utf-8")
        for part in name.removeprefix("ops.").split("."):
            assert re.search(rf"\b(?:class|def) {part}\b|^{part}\b[^=\n]*=", source, re.MULTILINE), (name, path)


def test_every_other_link_leads_somewhere() -> None:
    headings = {
        file.name: {anchor(line) for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("#")}
        for file in DOCS.glob("*.md")
    }
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", PAGE) if not link.endswith(".py")]
    assert len(links) > 40
    for link in links:
        path, _, heading = link.partition("#")
        assert (DOCS / path).exists(), link
        assert not heading or heading in headings[path or "SPEC.md"], link


def anchor(heading: str) -> str:
    """As GitHub makes it of a heading."""
    return re.sub(r"[^\w -]", "", heading.lstrip("# ").lower()).replace(" ", "-")


# notation


def test_every_symbol_is_defined_once_and_used() -> None:
    names = [symbol.name for symbol in ALL]
    assert len(names) == len(set(names))
    tables = "\n".join(symbols.table(title) for title in symbols.GROUPS)
    assert all(symbols.table(title) in PAGE for title in symbols.GROUPS)
    for line in tables.splitlines():
        assert PAGE.count(line) == 1 or not line.startswith("| $"), line
    used = {letter for formula in (*FORMULAS, *without_tables()) for letter in letters(formula)}
    shapes = {letter for shape in quoted_shapes() for letter in re.findall(r"[A-Za-z]", shape)}
    assert {symbol.latex for symbol in ALL} - used - shapes == set()


def test_every_letter_of_a_formula_is_defined() -> None:
    known = {symbol.latex for symbol in ALL}
    assert len(FORMULAS) > 20
    for formula in (*FORMULAS, *INLINE):
        assert letters(formula) <= known, formula


def test_every_letter_of_a_shape_in_a_docstring_is_defined() -> None:
    known = {symbol.name for symbol in symbols.SIZES} | {"r"}
    found = quoted_shapes()
    assert len(found) > 40
    for shape in found:
        alone = {word for word in re.findall(r"[A-Za-z_]+", shape) if len(word) == 1}
        assert alone <= known, shape


def test_formulas_are_ones_that_github_shows() -> None:
    """GitHub refuses some commands, and takes an underscore after a brace in a line of text for emphasis."""
    for formula in (*FORMULAS, *INLINE):
        assert set(re.findall(r"\\([A-Za-z]+)", formula)) <= FUNCTIONS | {s.latex.strip("\\") for s in ALL}, formula
        assert formula.count("{") == formula.count("}")
    for formula in INLINE:
        assert "}_" not in formula
        assert "*" not in formula
        assert formula == formula.strip()


def letters(formula: str) -> set[str]:
    """The symbols of a formula: single letters, Greek ones with their backslash; words in roman type are names.

    An index of a parameter that only tells maps apart, such as the q of W_q, is no symbol.
    """
    formula = re.sub(r"\\(?:mathrm|text)\{\w+\}", " ", formula)
    formula = re.sub(r"\b([Wb])_[a-z]\b", r"\1 ", formula)
    greek = {f"\\{name}" for name in re.findall(r"\\([A-Za-z]+)", formula) if name not in FUNCTIONS}
    return greek | set(re.findall(r"[A-Za-z]", re.sub(r"\\[A-Za-z]+", " ", formula)))


def without_tables() -> list[str]:
    """The formulas in the text, those of the notation left out."""
    return [formula for formula in INLINE if formula not in {symbol.latex for symbol in ALL}] + [
        found for line in PAGE.splitlines() if not line.startswith("|") for found in re.findall(r"\$([^$\n]+)\$", line)
    ]


def quoted_shapes() -> list[str]:
    """What stands in brackets where docstrings give shapes."""
    lines = [line for line in PAGE.splitlines() if line.startswith((">", "| [`ops.")) and "->" in line]
    return [
        shape
        for line in lines
        for shape in re.findall(r"\(((?:\.\.\.|\\?\*?\w[\w ]*)(?:, [^()]*)?)\)", line)
        if "," in shape
    ]


# costs


def test_the_worked_example_is_what_the_ledger_counts() -> None:
    assert costs.total() == costs.costed(costs.WORKED).flops
    assert sum(costs.parts(costs.WORKED).values()) == preset(costs.WORKED).count()


@pytest.mark.parametrize("name", ["perceiver-io/language", "flamingo/resampler-3b", "perceiver/imagenet"])
def test_the_rule_for_a_layer_is_what_the_ledger_counts(name: str) -> None:
    shapes, rows = traced(name), costs.costed(name).rows
    places = sorted({point.removesuffix(".attention.weights") for point in shapes if point.endswith("weights")})
    assert places
    sizes = [costs.layer(shapes, at) for at in places]
    counted = sum(row.flops for row in rows if re.search(r"\.(attention|mlp)\b", row.name))
    assert sum(size.flops() for size in sizes) == counted
    for size in sizes:
        assert written(costs.RULE, asdict(size)) == size.flops()


def written(rule: str, sizes: dict[str, int]) -> int:
    """The value of a rule as it is written: factors side by side, terms and brackets."""
    terms: list[Any] = [
        math.prod(
            sum(math.prod(number(f, sizes) for f in inner.split()) for inner in factor.strip("()").split("+"))
            for factor in re.findall(r"\([^)]*\)|\S+", term)
        )
        for term in re.split(r" \+ (?![^(]*\))", rule)
    ]
    return int(sum(terms))


def number(factor: str, sizes: dict[str, int]) -> int:
    return int(factor) if factor.isdigit() else sizes[factor]


def test_the_family_has_a_row_of_every_resampler_and_pooler() -> None:
    """And no column says the same of all."""
    rows = {row.case.partition("/")[0] for row in family.MODELS} | {"naturalspeech2"}  # XTTS's by another name
    assert {*LATER.columns, *POOLERS.columns} <= rows
    head, _, *lines = family.table().splitlines()
    cells = [line.strip("| ").split(" | ") for line in lines]
    assert len(lines) == len(family.MODELS)
    columns = head.strip("| ").split(" | ")
    for i, column in enumerate(columns[:-1]):
        assert len({row[i] for row in cells}) > 1, column
    assert family.table() in PAGE


def test_a_row_of_the_family_follows_the_model() -> None:
    """Read off a rebuilt class: what is exchanged in the class shows in the cell."""
    model = rebuilt("xtts/resampler_proj_context")[1].model
    assert family.keys(model) == "latents, features"
    assert family.keys(replace(model, latents_first=False)) == "features, latents"
    assert family.norms(replace(model, norms="before")) == "length, eps 1e-12"
