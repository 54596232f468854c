"""Dumps as the tools wrote them (`make_real_dumps.py`) hold the numbers that they were given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from files import dump_writers
from porting.make_real_dumps import REAL, values

from perceiver_ref.porting.compare.dumps import compare_files
from perceiver_ref.porting.dumps import Printed, corners, kind_of, read_held

VALUES = values()
NORM = VALUES["encoder.norm"]


def arrays(name: str) -> dict[str, np.ndarray]:
    held = read_held(REAL / name).arrays
    assert all(isinstance(array, np.ndarray) for array in held.values())
    return {name: array for name, array in held.items() if isinstance(array, np.ndarray)}


def bfloat16(array: np.ndarray) -> np.ndarray:
    """Rounded to 8 bits, ties to even (none of these numbers is a tie)."""
    return ((array.view(np.uint32) + 0x8000) & 0xFFFF0000).view(np.float32)


def test_kinds() -> None:
    kinds = {path.name: kind_of(path) for path in REAL.iterdir()}
    assert kinds == {
        "dump.gguf": "gguf",
        "dump.pt": "pytorch",
        "files": "debugger",
        "inputs.json": "polygraphy",
        "onnx": "onnx",
        "outputs.json": "polygraphy",
        "tree": "debugger",
    }


def test_gguf() -> None:
    found = arrays("dump.gguf")
    assert set(found) == {"logits", "ids", *(f"encoder.norm.{kind}" for kind in ("F16", "BF16", "Q8_0"))}
    np.testing.assert_array_equal(found["logits"], VALUES["logits"], strict=True)
    np.testing.assert_array_equal(found["ids"], VALUES["ids"], strict=True)
    np.testing.assert_array_equal(found["encoder.norm.F16"], NORM.astype(np.float16), strict=True)
    np.testing.assert_array_equal(found["encoder.norm.BF16"], bfloat16(NORM), strict=True)
    # the scale is the largest of 32 over 127, in float16: half a step, and 2^-11 of the scale over 127 steps
    largest = np.repeat(np.abs(NORM.reshape(-1, 32)).max(1), 32).reshape(NORM.shape)
    assert (np.abs(found["encoder.norm.Q8_0"] - NORM) <= largest * (0.5 / 127 + 2.0**-11) * 1.01).all()
    assert (found["encoder.norm.Q8_0"] != NORM).any()


def test_onnx() -> None:
    found = arrays("onnx")
    assert set(found) == {
        "input/ids",
        "output/logits",
        *(f"encoder.norm.{kind}" for kind in ("FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE")),
    }
    np.testing.assert_array_equal(found["input/ids"], VALUES["ids"], strict=True)
    np.testing.assert_array_equal(found["output/logits"], VALUES["logits"], strict=True)
    np.testing.assert_array_equal(found["encoder.norm.FLOAT"], NORM, strict=True)
    np.testing.assert_array_equal(found["encoder.norm.DOUBLE"], NORM.astype(np.float64), strict=True)
    np.testing.assert_array_equal(found["encoder.norm.FLOAT16"], NORM.astype(np.float16), strict=True)
    np.testing.assert_array_equal(found["encoder.norm.BFLOAT16"], bfloat16(NORM), strict=True)


def test_polygraphy() -> None:
    found = arrays("outputs.json")
    assert set(found) == {"logits", "encoder.norm"}
    for name, array in found.items():
        np.testing.assert_array_equal(array, VALUES[name], strict=True)
    np.testing.assert_array_equal(arrays("inputs.json")["ids"], VALUES["ids"], strict=True)


def test_pytorch() -> None:
    found = arrays("dump.pt")
    assert str(found.pop("meta")) == '{"seed": 3}'
    assert set(found) == {"output/logits", "trace/encoder.norm", "input/ids"}
    np.testing.assert_array_equal(found["output/logits"], VALUES["logits"], strict=True)
    np.testing.assert_array_equal(found["trace/encoder.norm"], bfloat16(NORM), strict=True)


POINTS = {
    "encoder.norm": NORM,
    "encoder.norm.1": NORM[0, 0],
    "encoder.same@1": VALUES["logits"],
    "input/ids": VALUES["ids"],
}


def test_the_debugger_with_files() -> None:
    found = arrays("files")
    assert set(found) == {*POINTS, "output/logits"}
    for name, array in {**POINTS, "output/logits": VALUES["logits"]}.items():
        np.testing.assert_array_equal(found[name], array, strict=True)


def test_the_debugger_with_texts() -> None:
    """Four digits behind the point, and of 1344 numbers the first and last three of each axis."""
    found = read_held(REAL / "tree").arrays
    assert set(found) == {*POINTS, "encoder.same@0"}
    for name, array in {**POINTS, "encoder.same@0": VALUES["logits"] + 1}.items():
        shown = found[name]
        assert isinstance(shown, Printed)
        assert shown.shape == array.shape
        expected = corners(array, 3) if array.size > 1000 else array
        np.testing.assert_allclose(shown.values, expected, rtol=5.1e-5, atol=0)
    norm = found["encoder.norm"]
    assert isinstance(norm, Printed)
    mean, resolution = norm.statistics["mean"]
    assert abs(mean - NORM.mean()) <= resolution + 1e-7  # of a float32 sum


@pytest.mark.parametrize("name", ["tree", "files", "onnx", "outputs.json"])
def test_they_are_compared(name: str, tmp_path: Path) -> None:
    reference = {"logits": VALUES["logits"], "encoder.norm": NORM.astype(np.float64)}
    result = compare_files(dump_writers.npz(tmp_path, reference), REAL / name)
    assert {pair.name for pair in result.pairs if pair.passed} == set(reference)
    reference["encoder.norm"][1, 3, 50] += 1  # which no text shows
    result = compare_files(dump_writers.npz(tmp_path, reference), REAL / name)
    assert [pair.name.partition(" ")[0] for pair in result.pairs if not pair.passed] == ["encoder.norm"]
