"""The stored dumps of other tools, made again by those that are installed: the same arrays are read."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
from porting import make_real_dumps
from porting.test_points_of_one_peer import CASE

from perceiver_ref.porting import diagnose_file
from perceiver_ref.porting.cases import read_case
from perceiver_ref.porting.compare.dumps import compare_files
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


@pytest.mark.filterwarnings("ignore:std\\(\\):UserWarning")  # the debugger's, of a loss, which is one number
@pytest.mark.parametrize("use_repr", [True, False])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_model_of_transformers_through_its_debugger(dtype: str, use_repr: bool, tmp_path: Path) -> None:
    """The names are those of the case, of transformers, too: what the debugger leaves is compared and diagnosed."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from transformers.model_debugging_utils import model_addition_debugger_context

    case = read_case(CASE)
    config = transformers.PerceiverConfig(**{**case.meta["config"]["config"], "attn_implementation": "eager"})
    model = transformers.PerceiverForMaskedLM(config).eval().to(getattr(torch, dtype))
    model.load_state_dict({name: torch.tensor(array) for name, array in case.params.items()}, strict=False)
    inputs = {name: torch.tensor(array) for name, array in case.inputs.items()}
    with model_addition_debugger_context(model, str(tmp_path), do_prune_layers=False, use_repr=use_repr):
        model(**inputs)
    result = compare_files(CASE, tmp_path)
    assert result.passed
    assert "output/logits" in {pair.name for pair in result.pairs}
    assert len(result.pairs) >= 5
    if not use_repr:
        assert diagnose_file(CASE, tmp_path).verdict == ("match" if dtype == "float64" else "rounding")
