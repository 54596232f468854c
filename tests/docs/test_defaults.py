"""docs/DEFAULTS.md: each row's other default, planted in its case, is what `check` and `diagnose` say it is."""

from __future__ import annotations

from dataclasses import replace

import pytest
from defaults.page import markdown
from defaults.rows import ROWS, Row
from docs.blocks import ROOT
from porting.cases import case_of

from perceiver_ref.porting import check_case, diagnose
from perceiver_ref.porting.deviations import CAUSES
from perceiver_ref.porting.gradients.backward import ROWS as BACKWARD

AGAIN = "write it again: python docs/make defaults > docs/DEFAULTS.md"


def test_the_page_is_what_the_table_makes() -> None:
    assert (ROOT / "docs" / "DEFAULTS.md").read_text(encoding="utf-8") == markdown(), AGAIN


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_each_row_says_something(row: Row) -> None:
    assert len({value for _, value, _ in row.values}) > 1
    assert all(part for value in row.values for part in value)
    assert row.cause in {"", *CAUSES, *(wrong.cause for wrong in BACKWARD)}
    assert bool(row.alone) == (not row.cause)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_another_default_is_seen_and_named(row: Row) -> None:
    wrong = row.plant(case_of(row.case))
    assert check_case(wrong).status == "fail"
    if row.cause in CAUSES:  # gradients would only take longer
        wrong = replace(wrong, cotangents={}, grad_params={}, grad_inputs={})
    found = diagnose(wrong)
    assert (found.verdict, found.causes) == (("deviation", [row.cause]) if row.cause else ("unexplained", []))


def test_the_cases_are_right_as_they_are() -> None:
    for name in {row.case for row in ROWS}:
        assert check_case(case_of(name)).status == "pass"
