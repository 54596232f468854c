"""Freed memory that stays with the process."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from perceiver_ref.autograd import keep_memory

PROGRAM = """
import resource
import numpy as np
from perceiver_ref.autograd import keep_memory

def faults(count):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(count):
        arrays = [np.ones({size} >> 3) for _ in range({number})]
        del arrays
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(keep_memory({limit}))
faults(5)
print(faults(20))
"""
CLEAN = {key: value for key, value in os.environ.items() if not key.startswith(("MALLOC_", "GLIBC_"))}
glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")


KIB_256 = 16, 1 << 18  # 1,024 pages of 4 KiB
MIB_40 = 3, 40 << 20  # above what glibc keeps whatever the threshold for mappings is; in pages of 2 MiB, 60


def run(limit: int, arrays: tuple[int, int] = KIB_256, **environment: str) -> tuple[bool, int]:
    program = PROGRAM
    for name, value in zip(("limit", "number", "size"), (limit, *arrays)):
        program = program.replace(f"{{{name}}}", str(value))
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env={**CLEAN, **environment}
    )
    said, faults = done.stdout.split()
    return said == "True", int(faults)


@glibc
def test_arrays_made_again_need_no_new_pages() -> None:
    """20 rounds of 1,024 pages: nearly none is new, where giving everything back makes each new every time."""
    kept, faults = run(1 << 30)
    assert kept
    assert faults < 1024
    kept, faults = run(0)
    assert kept
    assert faults > 10 * 1024


@glibc
def test_large_arrays_made_again_need_no_new_pages() -> None:
    """20 rounds of 60 to 30,720 pages, as large as the system gives them."""
    kept, faults = run(1 << 30, MIB_40)
    assert kept
    assert faults < 60
    assert run(0, MIB_40)[1] >= 20 * 60


@glibc
def test_the_environment_has_the_last_word() -> None:
    assert not run(1 << 30, MALLOC_TRIM_THRESHOLD_="0")[0]


def test_elsewhere_nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not keep_memory()


@pytest.mark.parametrize("limit", [-1, 1 << 31])
def test_a_limit_that_does_not_fit_is_refused(limit: int) -> None:
    with pytest.raises(ValueError, match=rf"limit must be from 0 to 2\^31 - 1 bytes, got {limit}"):
        keep_memory(limit)
