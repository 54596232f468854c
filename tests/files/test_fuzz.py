"""A few hundred damaged files for each reader; `tests/heavy/test_fuzz.py` and `fuzz.py` itself run thousands."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from files.fuzz import KINDS, LateError, case, fuzz, limited, run

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="needs POSIX signals")


@pytest.mark.parametrize("kind", KINDS)
def test_damage_gives_arrays_or_one_clear_error(kind: str) -> None:
    ends = fuzz(kind, cases=100 if kind == "own" else 300)
    assert ends["read"]  # some changes do no harm,
    assert sum(ends.values()) - ends["read"] >= 50  # and some do


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_damaged_was_whole(kind: str, tmp_path: Path) -> None:
    assert run(kind, KINDS[kind][1](), tmp_path) == "read"
    assert case(kind, 0, 3) == case(kind, 0, 3)
    assert len({case(kind, 0, number) for number in range(10)}) > 5


def compute() -> None:
    while True:
        pass


def test_the_limits_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssertionError, match=r"takes .* bytes"), limited(traced=True):
        bytearray(65 << 20)
    with pytest.raises(AssertionError, match=r"open"), limited(traced=True):
        (tmp_path / "file").write_text("x")
    with pytest.raises(AssertionError, match=r"os.system"), limited(traced=True):
        os.system("true")
    monkeypatch.setattr("files.fuzz.WAITING", 0.05)
    with pytest.raises(LateError), limited(traced=True):
        time.sleep(5)
    monkeypatch.setattr("files.fuzz.WAITING", 120)
    monkeypatch.setattr("files.fuzz.SECONDS", 0.05)
    with pytest.raises(LateError), limited(traced=True):
        compute()
