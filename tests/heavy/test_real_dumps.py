"""The stored dumps of other tools, made again by those that are installed: the same arrays are read."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
from porting import make_real_dumps

from perceiver_ref.porting.dumps import Printed, read_held

pytestmark = pytest.mark.heavy
MADE = {
    "gguf": ["dump.gguf"],
    "onnx": ["onnx"],
    "polygraphy": ["outputs.json", "inputs.json"],
    "torch": ["dump.pt"],
    "debugger": ["tree", "files"],
}
NEEDS = {"debugger": "transformers"}


@pytest.mark.parametrize("tool", MADE)
def test_what_a_tool_writes_today(tool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(NEEDS.get(tool, tool))
    stored = make_real_dumps.REAL
    monkeypatch.setattr(make_real_dumps, "REAL", tmp_path)
    getattr(importlib.import_module("porting.make_real_dumps"), tool)()
    for name in MADE[tool]:
        one, other = read_held(stored / name).arrays, read_held(tmp_path / name).arrays
        assert list(one) == list(other)
        for key, array in one.items():
            a, b = (x.values if isinstance(x, Printed) else x for x in (array, other[key]))
            np.testing.assert_array_equal(a, b, strict=True)
