"""The pack, and the cases that `export` makes of every preset, tell every known deviation apart; docs/COVERAGE.md."""

from __future__ import annotations

import kill_matrix
import pytest
from docs.blocks import ROOT
from export.exported import subject_of

import perceiver_ref as pr
from perceiver_ref.porting.audit import Audit, audited
from perceiver_ref.porting.audit.equal import same_reason
from perceiver_ref.porting.audit.table import said
from perceiver_ref.porting.export.adversarial import rows
from perceiver_ref.porting.export.make import ExportOptions, make
from perceiver_ref.porting.export.pack import pack

pytestmark = pytest.mark.heavy

PAGE = ROOT / "docs" / "COVERAGE.md"
SECONDS = 900.0
"""For a case: nothing is to be left out"""


def assert_all_told(made: Audit) -> None:
    for model in made.models.values():
        assert [said(key) for key in model.missed] == [], model.name
        assert model.untried == []
        unsure = [keys for keys in model.confused() if not same_reason(keys, model.attended)]
        assert [[said(key) for key in keys] for keys in unsure] == [], model.name


def test_the_page_is_what_an_audit_makes() -> None:
    """The page names every deviation of the pack that is missed or has two names: none."""
    made = kill_matrix.reports([*pack(ExportOptions(trace=False)), *kill_matrix.packaged()])
    assert kill_matrix.page(made) == PAGE.read_text(encoding="utf-8"), "write it again: python docs/make coverage"


def test_the_pack_tells_all_apart() -> None:
    for cases in kill_matrix.by_model(pack(ExportOptions(trace=False))).values():
        assert_all_told(audited(cases, SECONDS))


@pytest.mark.parametrize("name", [*pr.presets(), *pr.variants()])
def test_the_cases_of_a_preset_tell_all_apart(name: str) -> None:
    subject = subject_of(name)
    cases = (make(subject, row, ExportOptions(trace=False)) for row in rows(subject))
    assert_all_told(audited(cases, SECONDS, every=False))
