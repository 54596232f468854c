"""The peak of a call is what it allocates at most, whatever was allocated before."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import numpy as np
from bench.memory import process_peak, resident

np.ones(256 << 17)  # 256 MiB, and gone
held = resident()
print(process_peak(held)(lambda: np.ones(64 << 17).sum()) >> 20)
"""


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="this system keeps no mark to reset")
def test_the_peak_is_that_of_the_call() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    # pages of 4 KiB, and what NumPy itself touches for the first time
    assert 63 <= int(done.stdout) <= 80
