"""The table of differences: every case shows what its row says, and docs/CONVENTIONS.md is made of the table."""

from __future__ import annotations

import re
from dataclasses import fields
from functools import cache
from pathlib import Path

import pytest
from conventions import FAMILIES, Convention, Evidence, Family, PartOption
from conventions.exchange import case_path, exchanged, outcome, rebuilt, values
from conventions.page import anchor, markdown
from conventions.rows import to, worded

from perceiver_ref.errors import InputError
from perceiver_ref.models.conventions import (
    AUTOREGRESSIVE_DIALECTS,
    DIALECTS,
    FLAMINGO_DIALECTS,
    POOLER_DIALECTS,
    RESAMPLER_DIALECTS,
    Conventions,
)
from perceiver_ref.peers import PEERS
from perceiver_ref.peers.reference import NAME
from perceiver_ref.porting import check_file

PAGE = Path(__file__).resolve().parents[2] / "docs" / "CONVENTIONS.md"
NO_MODELS = {"optax", "torch", "torch-optimizer", NAME}
"""Peers that are libraries of single operations, or this one."""

WITHOUT = {
    ("lucidrains-perceiver", "Positions of single grid points"),
    ("krasserm", "Positions of single grid points"),
}
"""Implementations that have no use for a convention."""

ROWS = [(family, row) for family in FAMILIES for row in family.rows]
EVIDENCE = [(family, row, evidence) for family, row in ROWS for evidence in row.evidence]
EXCHANGES = [(row, evidence, other) for _, row, evidence in EVIDENCE for other in row.changes(evidence)]
every_row = pytest.mark.parametrize(("family", "row"), ROWS, ids=[row.name for _, row in ROWS])


def test_every_family_of_models_has_a_column() -> None:
    columns = {column for family in FAMILIES for column in family.columns}
    assert columns == set(PEERS) - NO_MODELS | {"paper"}


def test_every_dialect_has_a_column() -> None:
    used = [conventions for family in FAMILIES for conventions in family.columns.values()]
    for dialects in (DIALECTS, FLAMINGO_DIALECTS, AUTOREGRESSIVE_DIALECTS, RESAMPLER_DIALECTS, POOLER_DIALECTS):
        assert [name for name, conventions in dialects.items() if conventions not in used] == []


def test_every_field_of_the_conventions_has_a_row() -> None:
    named = {row.kept.name for _, row in ROWS if isinstance(row.kept, PartOption) and row.kept.owner == "Conventions"}
    assert named == {field.name for field in fields(Conventions)}


def test_where_dialects_of_a_family_differ_there_is_a_row() -> None:
    unseen = {"resampler": {"masked_rows"}}  # latents are always among the keys
    unseen["autoregressive"] = {"grid", "free_widths"}  # no grid; latents as wide as inputs
    unseen["poolers"] = {"masked_rows"}  # a row in words: three rules, one of them NaN
    unseen["sets"] = {"masked_rows"}  # a row in words, "Masked scores of these": a bias of -10,000 leaves no row empty
    names = ("perceiver", "autoregressive", "resampler", "gated", "later", "poolers", "sets")
    for family, name in zip(FAMILIES, names, strict=True):
        rows = {row.kept.name for row in family.rows if isinstance(row.kept, PartOption)}
        for field in fields(Conventions):
            if len({getattr(made, field.name) for made in family.columns.values()}) > 1:
                assert field.name in rows | unseen.get(name, set()), (family.title, field.name)


@every_row
def test_a_row_is_complete(family: Family, row: Convention) -> None:
    assert set(row.values) <= set(family.columns)
    peers = {evidence.peer for evidence in row.evidence}
    assert {evidence.peer for evidence in row.evidence} <= set(PEERS)
    assert peers & set(family.columns)
    assert len({worded(evidence.value) for evidence in row.evidence} | {worded(row.paper)} - {"none"}) > 1
    assert len(peers) > 1 or row.paper is not None
    assert row.about.endswith(".")


def test_names_of_rows_are_told_apart_by_links() -> None:
    anchors = [anchor(row.name) for _, row in ROWS]
    assert sorted(set(anchors)) == sorted(anchors)


@every_row
def test_words_for_a_convention_hold_its_value(family: Family, row: Convention) -> None:
    if not isinstance(row.kept, PartOption) or row.kept.owner != "Conventions":
        return
    for column, words in row.values.items():
        value = worded(getattr(family.columns[column], row.kept.name))
        assert value in words or (column, row.name) in WITHOUT, (column, words)


def test_every_link_of_the_page_leads_somewhere() -> None:
    page = PAGE.read_text(encoding="utf-8")
    headings = {anchor(line.lstrip("# ")) for line in page.splitlines() if line.startswith("#")}
    links = re.findall(r"\]\(([^)]+)\)", page)
    assert len(links) > len(ROWS)
    for link in links:
        assert link[1:] in headings if link.startswith("#") else (PAGE.parent / link).exists(), link


@cache
def checked(case: str) -> str:
    return check_file(case_path(case)).status


@pytest.mark.parametrize("case", sorted({evidence.case for *_, evidence in EVIDENCE}))
def test_the_case_is_its_peers_and_passes(case: str) -> None:
    assert rebuilt(case)[0].meta["peer"] == case.partition("/")[0]
    assert checked(case) == "pass"


@pytest.mark.parametrize(
    ("row", "evidence"),
    [(row, e) for _, row, e in EVIDENCE if (e.option or row.option) and (e.instead is None or e.option)],
    ids=lambda value: value.case if isinstance(value, Evidence) else value.name,
)
def test_the_rebuilt_model_has_the_value(row: Convention, evidence: Evidence) -> None:
    option = evidence.option or row.option
    assert values(rebuilt(evidence.case)[1].model, option) == {evidence.value}


@pytest.mark.parametrize(
    ("row", "evidence", "other"), EXCHANGES, ids=[f"{row.name}-{e.case}-{other}" for row, e, other in EXCHANGES]
)
def test_the_case_tells_the_choices_apart(row: Convention, evidence: Evidence, other: str) -> None:
    change = row.changes(evidence)[other]
    assert outcome(evidence.case, change, gradients=row.gradients).agrees == evidence.same
    assert outcome(evidence.case).agrees  # nothing stays exchanged


def test_an_exchange_is_another_model() -> None:
    model, option = rebuilt("hf/model_bare")[1].model, PartOption("Encoder", "blocks")
    with exchanged(model, to(option, 3)) as other:
        assert values(other, option) == {3}
        assert values(model, option) == {2}


def test_a_value_that_a_part_refuses_is_said() -> None:
    change = to(PartOption("Encoder", "self_heads"), 5)
    assert outcome("hf/model_bare", change).refused == "channels (18) must be divisible by the number of heads (5)"


def test_without_the_folder_of_cases_it_says_what_is_needed() -> None:
    with pytest.raises(InputError, match="hf/no_such: most are in tests/vectors of a clone"):
        case_path("hf/no_such")


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == markdown(), (
        "write it again: python docs/make conventions > docs/CONVENTIONS.md"
    )
