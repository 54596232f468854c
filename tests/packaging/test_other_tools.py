"""Plugins of pytest that are installed beside ours: their warnings are theirs, ours are errors."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

PLUGIN = """
import warnings
import pytest

class LoudWarning(pytest.PytestWarning):
    pass

def pytest_configure(config):  # as pytest-benchmark's beside pytest-xdist, and pytest-asyncio's
    warnings.warn(LoudWarning("configured"))

def pytest_runtest_setup(item):
    warnings.warn(LoudWarning("set up"))
"""

TESTS = """
import warnings
import pytest

def test_quiet():
    pass

def test_that_warns():
    warnings.warn("ours")

@pytest.mark.filterwarnings("ignore:ours")
def test_that_may_warn():
    warnings.warn("ours")
"""


@pytest.mark.parametrize("option", ["-n0", "-n1"])
def test_warnings_of_other_plugins_break_nothing(tmp_path: Path, option: str) -> None:
    (tmp_path / "loud.py").write_text(PLUGIN)
    about = tmp_path / "loud-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: loud\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[pytest11]\nloud = loud\n")
    suite = tmp_path / "suite"
    (suite / "tests").mkdir(parents=True)
    shutil.copy(ROOT / "pyproject.toml", suite)
    shutil.copy(ROOT / "tests" / "conftest.py", suite / "tests")
    (suite / "tests" / "test_some.py").write_text(TESTS)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    command = [sys.executable, "-m", "pytest", option, "-rA", "-p", "no:cacheprovider", "tests"]
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, cwd=suite, env=environment, capture_output=True, text=True, timeout=120)
    assert "INTERNALERROR" not in done.stdout + done.stderr
    assert "LoudWarning: configured" in done.stdout + done.stderr, "the plugin was not there"
    assert done.returncode == 1, done.stdout
    ends = sorted(line.split(" - ")[0] for line in done.stdout.splitlines() if line.startswith(("PASSED", "FAILED")))
    assert [end.replace("tests/test_some.py::", "") for end in ends] == [
        "FAILED test_that_warns",
        "PASSED test_quiet",
        "PASSED test_that_may_warn",
    ]
