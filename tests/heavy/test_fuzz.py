"""20,000 damaged files for each reader (`python tests/files/fuzz.py` runs as many as wanted)."""

from __future__ import annotations

import pytest
from files.fuzz import KINDS, fuzz

pytestmark = pytest.mark.heavy


@pytest.mark.parametrize("kind", KINDS)
def test_damage_gives_arrays_or_one_clear_error(kind: str) -> None:
    assert sum(fuzz(kind, cases=20_000, seed=1, traced=False).values()) == 20_000
