"""Every format of the table gives the arrays that were written, is compared like an `.npz` file, and is in the docs."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli.command import invoke
from docs.blocks import ROOT
from files import dump_writers
from files.dump_writers import WRITERS, torch_text
from support import normal

from perceiver_ref import InputError
from perceiver_ref.porting import check_file, diagnose_file, read_dump
from perceiver_ref.porting.cases import Case, read_case, write_case
from perceiver_ref.porting.cases.case import groups
from perceiver_ref.porting.compare.dumps import Comparison, compare_files
from perceiver_ref.porting.dumps import FORMATS, Printed, corners, kind_of, read_held
from perceiver_ref.porting.dumps.held import GROUPS
from perceiver_ref.porting.dumps.tensor_text import parse_number, parse_tensor

PACKAGED = Path(str(files("perceiver_ref"))) / "porting/cases/packaged"
SMALL = PACKAGED / "open-flamingo/gated_immediate.npz"
PRINTED = ("ggml-text", "debugger")
CASES = [kind for kind, row in FORMATS.items() if row.case]
PLAIN = ("npy", "gguf", "ggml-text", "polygraphy", "npz", "safetensors", "raw", "pytorch", "npy-folder")
"""Formats whose names are whatever the port calls things."""
ULP = float(np.finfo(np.float32).eps)


def values() -> dict[str, np.ndarray]:
    """Sizes that all differ; one array has nothing to hide, one has."""
    return {
        "output/logits": normal(0, 3, 7).astype(np.float32),
        "encoder.block.0": normal(1, 2, 11, 17).astype(np.float32),
        "encoder.norm": (1e-3 * normal(2, 5, 13, 19)).astype(np.float32),
    }


def plainly(kind: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """As a port of that format can name them: one array, or without groups."""
    if kind == "npy":
        return {"logits": arrays["output/logits"]}
    return {n.removeprefix("output/"): a for n, a in arrays.items()} if kind in PLAIN[1:4] else arrays


def compared(folder: Path, kind: str, reference: dict[str, Any], candidate: dict[str, np.ndarray]) -> Comparison:
    (folder / "reference").mkdir(exist_ok=True)
    path = WRITERS[kind](folder, plainly(kind, candidate))
    return compare_files(dump_writers.npz(folder / "reference", reference), path)


@pytest.mark.parametrize("kept", [0, 5, 200])
def test_a_cut_safetensors_file_is_said_to_be_one(kept: int, tmp_path: Path) -> None:
    whole = WRITERS["safetensors"](tmp_path, {"x": np.arange(700.0)})
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(Path(whole).read_bytes()[:kept])
    with pytest.raises(InputError, match=r"cut\.safetensors is not a readable safetensors file"):
        read_dump(cut)


def test_every_row_has_a_writer_and_the_groups_are_those_of_a_case() -> None:
    assert set(WRITERS) == set(FORMATS)
    assert set(GROUPS) == {group for group, _ in groups(Case({}))}


@pytest.mark.parametrize("kind", FORMATS)
def test_a_format_is_known_by_what_it_holds(kind: str, tmp_path: Path) -> None:
    path = WRITERS[kind](tmp_path, plainly(kind, values()))
    assert kind_of(path) == kind
    if path.is_file() and kind != "npy":
        other = path.with_suffix(".npz" if kind != "npz" else ".pt")
        path.rename(other)
        assert kind_of(other) == kind
        assert read_held(other).arrays


@pytest.mark.parametrize("kind", FORMATS)
def test_arrays_are_those_that_were_written(kind: str, tmp_path: Path) -> None:
    given = plainly(kind, values())
    held = read_held(WRITERS[kind](tmp_path, given))
    assert set(held.arrays) == set(given)
    for name, array in given.items():
        found = held.arrays[name]
        if kind not in PRINTED:
            assert isinstance(found, np.ndarray)
            assert found.dtype == array.dtype
            np.testing.assert_array_equal(found, array)
            continue
        assert isinstance(found, Printed)
        assert found.shape == array.shape
        edge = 3 if kind == "ggml-text" or array.size > 1000 else max(array.shape)
        expected = corners(array, edge).astype(np.float64)
        # half a unit of the last digit: 5e-5, or 5e-5 times the power of ten; parsed into float32
        half = (
            np.full(expected.shape, 5e-5)
            if kind == "ggml-text"
            else 5e-5 * 10.0 ** np.floor(np.log10(np.abs(expected)))
        )
        assert (np.abs(found.values - expected) <= half * 1.001 + ULP * np.abs(expected)).all()
        np.testing.assert_allclose(found.resolution, half, rtol=1e-6)


@pytest.mark.parametrize("kind", FORMATS)
def test_equal_arrays_match_and_one_wrong_element_does_not(kind: str, tmp_path: Path) -> None:
    reference = {n if "/" in n else f"trace/{n}": a.astype(np.float64) for n, a in values().items()}
    result = compared(tmp_path, kind, reference, values())
    assert result.passed
    assert len(result.pairs) == (1 if kind == "npy" else 3)
    name = "output/logits" if kind == "npy" else "encoder.block.0"
    for place in [(0, 0, 0), (1, 9, 15), (1, 5, 8)]:  # corners, and what a text does not show
        wrong = values()
        wrong[name][place[-wrong[name].ndim :] if kind != "npy" else (1, 3)] += 0.5
        (tmp_path / str(place)).mkdir()
        result = compared(tmp_path / str(place), kind, reference, wrong)
        assert not result.passed
        assert result.first is not None
        assert result.first.name.startswith(name)
        assert result.first.shape in (wrong[name].shape, ())
        if place != (1, 5, 8) and kind != "npy":
            assert result.first.place == place


@pytest.mark.parametrize("kind", CASES)
def test_a_case_in_every_format_that_can_hold_one(kind: str, tmp_path: Path) -> None:
    case = read_case(SMALL)
    arrays = {f"{g}/{n}": a for g, named in groups(case) for n, a in named.items()}
    meta = json.dumps(case.meta)
    if kind == "npz":
        path = dump_writers.npz(tmp_path, {"meta": np.array(meta), **arrays})
    elif kind == "safetensors":
        path = dump_writers.safetensors(tmp_path, arrays, {"meta": meta})
    elif kind == "pytorch":
        path = dump_writers.pytorch(tmp_path, arrays, lambda made: {"meta": case.meta, **made})
    elif kind == "raw":
        path = dump_writers.raw(tmp_path, arrays, case.meta)
    else:
        path = dump_writers.npy_folder(tmp_path, arrays)
        (path / "meta.json").write_text(meta)
    back = read_case(path)
    assert back.meta == case.meta
    for group, named in groups(case):
        found = dict(groups(back))[group]
        assert set(found) == set(named)
        for name, array in named.items():
            assert found[name].dtype == array.dtype
            np.testing.assert_array_equal(found[name], array)
    assert check_file(path).status == "pass"
    assert diagnose_file(path).verdict == "match"
    assert compare_files(SMALL, path).passed


@pytest.mark.parametrize("kind", [kind for kind in FORMATS if kind not in CASES])
def test_what_holds_no_case_is_refused_where_one_is_wanted(kind: str, tmp_path: Path) -> None:
    path = WRITERS[kind](tmp_path, plainly(kind, values()))
    with pytest.raises(InputError, match=r"which holds no whole case; name the case that it answers first"):
        read_case(path)


def test_nested_dicts_of_a_pt_file_have_the_names_of_the_format(tmp_path: Path) -> None:
    arrays = {"logits": normal(0, 2, 3), "a": normal(1, 4), "b": normal(2, 5)}

    def make(t: Any) -> Any:
        return {"output": {"logits": t["logits"]}, "trace": {"layers": [t["a"], (t["b"],)]}, "step": 3}

    held = read_held(dump_writers.pytorch(tmp_path, arrays, make))
    assert list(held.arrays) == ["output/logits", "trace/layers.0", "trace/layers.1.0"]
    assert held.notes == [f"{tmp_path / 'dump.pt'}: left out what are no tensors: step"]
    with pytest.raises(InputError, match=r"holds no tensors"):
        read_held(dump_writers.pytorch(tmp_path, arrays, lambda t: {"step": 3}))
    twice = dump_writers.pytorch(tmp_path, arrays, lambda t: {"a.b": t["a"], "a": {"b": t["b"]}})
    with pytest.raises(InputError, match=r"the name 'a.b' is there twice"):
        read_held(twice)


def test_bfloat16_is_held_to_its_own_precision(tmp_path: Path) -> None:
    """Of 8 bits: 2^-9 of a value at most, which float32's tolerance would call a difference."""
    array = normal(0, 3, 7).astype(np.float32)
    bits = ((array.view(np.uint32) + 0x8000) >> 16).astype("<u2")
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/x.bin").write_bytes(bits.tobytes())
    entry = {"file": "x.bin", "dtype": "BF16", "shape": [3, 7]}
    (tmp_path / "raw/index.json").write_text(json.dumps({"arrays": {"x": entry}}))
    (tmp_path / "x.gguf").write_bytes(dump_writers.gguf_bytes({"x": ((3, 7), 30, bits.tobytes())}))
    (tmp_path / "x.pb").write_bytes(dump_writers.message((1, 3), (1, 7), (2, 16), (8, b"x"), (9, bits.tobytes())))
    reference = dump_writers.npz(tmp_path, {"x": array})
    np.savez(tmp_path / "bits.npz", x=bits.view("V2"))  # as NumPy writes the bfloat16 of ml_dtypes
    np.save(tmp_path / "x.npy", bits.view("V2"))
    for path in (tmp_path / name for name in ("raw", "x.gguf", "x.pb", "bits.npz", "x.npy")):
        result = compare_files(reference, path)
        assert result.passed
        (pair,) = result.pairs
        assert pair.dtypes == ("float32", "bfloat16")
        assert 1e-4 < pair.error < 2.0**-8
        assert pair.tolerance == 2.4e-2


def test_gguf_blocks_of_eight_bits(tmp_path: Path) -> None:
    """Q8_0 by its definition: a scale in float16 and 32 numbers, value = scale * number."""
    rng = np.random.default_rng(0)
    numbers = rng.integers(-127, 128, (5, 2, 32)).astype(np.int8)
    scales = rng.uniform(0.01, 0.1, (5, 2)).astype(np.float16)
    data = b"".join(scales[i, j].tobytes() + numbers[i, j].tobytes() for i in range(5) for j in range(2))
    four = bytes(18 * 3)
    (tmp_path / "x.gguf").write_bytes(
        dump_writers.gguf_bytes({"q": ((5, 64), 8, data), "four": ((3, 32), 2, four), "i": ((3,), 26, bytes(12))}, 64)
    )
    held = read_held(tmp_path / "x.gguf")
    np.testing.assert_array_equal(
        held.arrays["q"], (scales.astype(np.float32)[..., None] * numbers).reshape(5, 64), strict=True
    )
    assert set(held.arrays) == {"q", "i"}
    assert held.notes == [
        f"{tmp_path / 'x.gguf'}: left out four: numbers of type Q4_0; F32, F16, BF16 and Q8_0 are read"
    ]


def test_onnx_numbers_in_their_typed_fields(tmp_path: Path) -> None:
    """Where there is no raw data: floats as they are, others as varints, those of 16 bits by their bits."""
    m, v = dump_writers.message, dump_writers.varint
    cases = {
        1: (m((4, np.float32([1.5, -2]).tobytes())), [1.5, -2.0], "float32"),
        11: (m((10, np.float64([1.5, -2]).tobytes())), [1.5, -2.0], "float64"),
        7: (m((7, v(3) + v((1 << 64) - 4))), [3, -4], "int64"),
        3: (m((5, v(3) + v((1 << 64) - 4))), [3, -4], "int8"),
        9: (m((5, v(1) + v(0))), [True, False], "bool"),
        10: (m((5, v(0x3E00) + v(0xC000))), [1.5, -2.0], "float16"),
        16: (m((5, v(0x3FC0) + v(0xC000))), [1.5, -2.0], "float32"),
        13: (m((11, v(3) + v((1 << 64) - 1))), [3, (1 << 64) - 1], "uint64"),
        12: (m((11, v(3) + v((1 << 32) - 1))), [3, (1 << 32) - 1], "uint32"),
    }
    for number, (field, expected, dtype) in cases.items():
        (tmp_path / "x.pb").write_bytes(m((1, 2), (2, number), (8, b"x")) + field)
        held = read_held(tmp_path / "x.pb")
        assert held.arrays["x"].tolist() == expected  # type: ignore[union-attr]
        assert held.arrays["x"].dtype == dtype  # type: ignore[union-attr]
    (tmp_path / "x.pb").write_bytes(m((1, 2), (2, 3), (8, b"x"), (5, v(3) + v(200))))
    with pytest.raises(InputError, match=r"holds numbers beyond int8"):
        read_held(tmp_path / "x.pb")
    (tmp_path / "output_3.pb").write_bytes(m((1, 2), (2, 1), (9, bytes(8))))
    assert list(read_held(tmp_path / "output_3.pb").arrays) == ["output/output_3"]


def test_runners_and_iterations_of_polygraphy(tmp_path: Path) -> None:
    arrays = {"a": normal(0, 2, 3)}
    assert set(read_held(dump_writers.polygraphy(tmp_path, arrays, 2)).arrays) == {"a@0", "a@1"}
    content = json.loads((tmp_path / "dump.json").read_text())
    content["lst"].append(["trt-runner", []])
    (tmp_path / "dump.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"outputs of 2 runners \(onnxrt-runner-N0, trt-runner\); save those of one"):
        read_held(tmp_path / "dump.json")
    (tmp_path / "inputs.json").write_text(json.dumps([{"x": dump_writers.as_json(arrays["a"])}]))
    np.testing.assert_array_equal(read_held(tmp_path / "inputs.json").arrays["x"], arrays["a"])  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(), (3,), (2, 0, 3), (1500,), (7, 11, 23), (2, 700), (8, 1, 200)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.bool_])
def test_texts_of_tensors(shape: tuple[int, ...], dtype: Any) -> None:
    array = (100 * normal(0, *shape)).astype(dtype)
    text = torch_text(array) if array.size else f"tensor([], size={shape})"
    printed = parse_tensor(text, shape, array.dtype.name)
    edge = 3 if array.size > 1000 else max(*shape, 1, 1)
    np.testing.assert_allclose(printed.values, corners(array, edge), rtol=6e-5, atol=0)
    assert printed.shape == shape
    assert (printed.values.shape == shape) == (array.size <= 1000 or max(shape) <= 6)
    if array.size:
        with pytest.raises(ValueError, match=r"numbers of shape|brackets"):
            parse_tensor(text, (*shape, 2), array.dtype.name)


def test_numbers_of_texts() -> None:
    assert parse_number("-1.2500e-02") == (-0.0125, pytest.approx(5e-7))
    assert parse_number("12.") == (12.0, 0.5)
    assert parse_number("True") == (1, 0)
    assert parse_number("-inf") == (-np.inf, 0)
    for text in ("1_0", "x", "", "1e9999", "1e309", "0x1", "1" * 99):
        with pytest.raises(ValueError, match=r"is no number"):
            parse_number(text)


def test_ggml_names_orders_and_transposes(tmp_path: Path) -> None:
    """A tensor that is computed again has a number; axes of length 1 and their order are the candidate's own."""
    a, b = (normal(i, 7, 2, 12).astype(np.float32) for i in (0, 1))
    one = dump_writers.ggml_text(tmp_path, {"kq-0": a, "out": b.transpose(1, 0, 2)}).read_text()
    two = dump_writers.ggml_text(tmp_path, {"kq-0": a + 1}, prefix="ggml_debug").read_text()
    (tmp_path / "dump.txt").write_text(one + two + "ggml_debug: q = (q8_0) CPY(x{1, 1, 1, 1}, }) = {32, 1, 1, 1}\n")
    held = read_held(tmp_path / "dump.txt")
    assert set(held.arrays) == {"kq-0@0", "kq-0@1", "out"}
    assert held.notes == [f"{tmp_path / 'dump.txt'}: no numbers are shown of q"]
    result = compare_files(dump_writers.npz(tmp_path, {"kq-0": a, "out": b}), tmp_path / "dump.txt")
    assert result.passed
    assert {pair.name: pair.other for pair in result.pairs} == {"kq-0": "kq-0@0", "out": "out"}
    assert "axes 0 and 1 swapped" in result.pairs[1].note


def test_the_sum_of_older_programs_says_nothing_new(tmp_path: Path) -> None:
    """It is that of the numbers shown: another element that is not shown stays hidden, and no verdict comes from it."""
    array = normal(0, 9, 20).astype(np.float32)
    path = dump_writers.ggml_text(tmp_path, {"x": array}, whole_sum=False)
    assert read_held(path).arrays["x"].statistics == {}  # type: ignore[union-attr]
    assert compare_files(dump_writers.npz(tmp_path, {"x": array}), path).passed
    wrong = array.copy()
    wrong[4, 10] += 1
    new = dump_writers.ggml_text(tmp_path, {"x": wrong})
    result = compare_files(dump_writers.npz(tmp_path, {"x": array}), new)
    assert [(pair.name, pair.passed) for pair in result.pairs] == [("x", True), ("x (sum)", False)]


def test_two_texts_are_compared_on_what_both_show(tmp_path: Path) -> None:
    """Two runs of one program: corners within both roundings, and sums."""
    array = normal(0, 9, 20).astype(np.float32)
    one = dump_writers.ggml_text(tmp_path, {"x": array}).rename(tmp_path / "one.txt")
    assert compare_files(one, dump_writers.ggml_text(tmp_path, {"x": array + np.float32(1e-6)})).passed
    hidden = array.copy()
    hidden[4, 10] += 1
    for a, b in ((one, hidden), (None, array)):
        (tmp_path / "two").mkdir(exist_ok=True)
        two = dump_writers.ggml_text(tmp_path / "two", {"x": b})
        whole = dump_writers.npz(tmp_path, {"x": hidden})
        result = compare_files(a or two, two if a else whole)  # a text may be the reference, too
        assert [(pair.name, pair.passed) for pair in result.pairs] == [("x", True), ("x (sum)", False)]


def test_what_rounding_hides_is_no_difference_and_no_more(tmp_path: Path) -> None:
    array = normal(0, 5, 4).astype(np.float32)
    path = dump_writers.ggml_text(tmp_path, {"x": array})
    for off, passes in ((4e-5, True), (3e-4, False)):  # a unit is 1e-4; tolerance 1e-5 of up to 2.5
        shifted = np.round(array.astype(np.float64), 4) + off
        assert compare_files(dump_writers.npz(tmp_path, {"x": shifted}), path).passed == passes


def test_two_shapes_with_equal_corners_are_two(tmp_path: Path) -> None:
    array = np.ones((9, 20), np.float32)
    path = dump_writers.ggml_text(tmp_path, {"x": array})
    result = compare_files(dump_writers.npz(tmp_path, {"x": np.ones((9, 21))}), path)
    assert not result.passed
    assert result.pairs[0].note.startswith("shape [9, 21] in the reference, [9, 20] in the candidate")
    with pytest.raises(InputError, match=r"can be matched"):
        compare_files(dump_writers.npz(tmp_path, {"y": np.ones((9, 21))}), path)


def test_whole_arrays_beside_printed_ones_are_compared_whole(tmp_path: Path) -> None:
    """PyTorch prints up to a thousand elements: an error in the middle of such an array shows."""
    arrays = {"small": normal(0, 9, 20).astype(np.float32), "large": normal(1, 50, 41).astype(np.float32)}
    path = dump_writers.debugger(tmp_path, arrays)
    wrong = {name: array.copy() for name, array in arrays.items()}
    wrong["small"][4, 10] += 0.01
    result = compare_files(dump_writers.npz(tmp_path, wrong), path)
    assert [(pair.name, pair.passed) for pair in result.pairs] == [("small", False), ("large", True)]
    assert result.pairs[0].index == (4, 10)


def test_the_debuggers_calls_and_files(tmp_path: Path) -> None:
    """A module called twice; with files the last call's alone is kept; outputs of the model are only in files."""

    def saved(name: str) -> dict[str, Any]:
        return {"shape": "torch.Size([2, 3])", "dtype": "torch.float32", "value": f"./{name}.safetensors"}

    arrays = {name: normal(i, 2, 3).astype(np.float32) for i, name in enumerate(["M.a_outputs", "M_outputs_logits"])}
    for name, array in arrays.items():
        dump_writers.safetensors(tmp_path, {"data": array}).rename(tmp_path / f"{name}.safetensors")
    child = {"module_path": "M.a", "inputs": None, "outputs": saved("M.a_outputs")}
    tree = {"module_path": "M", "inputs": None, "children": [child, child]}
    (tmp_path / "M_debug_tree_FULL_TENSORS.json").write_text(json.dumps(tree))
    held = read_held(tmp_path)
    assert list(held.arrays) == ["a@1", "output/logits"]
    assert "1 value was written over by later calls" in held.notes[0]
    child["outputs"] = [dump_writers.torch_json(arrays["M.a_outputs"]), {"k": dump_writers.torch_json(np.arange(3))}]
    (tmp_path / "M_debug_tree_FULL_TENSORS.json").write_text(json.dumps(tree))
    assert list(read_held(tmp_path).arrays) == ["a@0", "a@1", "a.1.k@0", "a.1.k@1", "output/logits"]
    (tmp_path / "M_debug_tree_SUMMARY.json").write_text('{"module_path": "M"}')
    with pytest.raises(InputError, match=r"holds no values; give the file \*_FULL_TENSORS.json beside it"):
        read_held(tmp_path / "M_debug_tree_SUMMARY.json")


def test_folders_of_cases(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Files and folders that are cases, each once, and nothing else."""
    case = read_case(SMALL)
    write_case(tmp_path / "a.npz", case)
    arrays = {f"{g}/{n}": a for g, named in groups(case) for n, a in named.items()}
    meta = {"meta": json.dumps(case.meta)}
    dump_writers.safetensors(tmp_path, arrays, meta).rename(tmp_path / "a.safetensors")
    dump_writers.safetensors(tmp_path, arrays, meta).rename(tmp_path / "b.safetensors")
    dump_writers.safetensors(tmp_path, arrays).rename(tmp_path / "weights.safetensors")
    dump_writers.raw(tmp_path, arrays, case.meta).rename(tmp_path / "c")
    (dump_writers.npy_folder(tmp_path, arrays) / "meta.json").write_text(meta["meta"])
    done = invoke(capsys, "check", tmp_path)
    rows = [line.split()[:2] for line in done.out.splitlines()[1:5]]
    assert rows == [[name, "pass"] for name in ("a", "b", "c", "dump")]
    assert invoke(capsys, "check", tmp_path / "c").out.splitlines()[1].split()[:2] == ["c", "pass"]


def test_the_page_has_the_table() -> None:
    page = (ROOT / "docs/CHECKING.md").read_text(encoding="utf-8")
    table = [line for line in page.splitlines() if line.startswith("| ") and line.count("|") == 4]
    rows = [f"| {row.what} | {'yes' if row.case else 'no'} | {row.written} |" for row in FORMATS.values()]
    start = table.index(rows[0])
    assert table[start : start + len(rows)] == rows


def test_a_dump_keeps_its_order_and_notes(tmp_path: Path) -> None:
    path = dump_writers.raw(tmp_path, {"z": normal(0, 2, 3), "a": normal(1, 3)})
    assert [entry.name for entry in read_dump(path).entries] == ["z", "a"]
