"""The pack: its size, its index, and that VECTORS.md is enough to read it with nothing but the standard library."""

from __future__ import annotations

import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from export.exported import files_below

from perceiver_ref.porting import check_file
from perceiver_ref.porting.cases import read_case
from perceiver_ref.porting.export.adversarial import FLAGS, ROWS
from perceiver_ref.porting.export.operations import OPERATIONS
from perceiver_ref.porting.export.pack import ENTRIES, pack
from perceiver_ref.porting.export.write import write_folder

DOCUMENT = (Path(__file__).parents[2] / "docs" / "VECTORS.md").read_text(encoding="utf-8")
GROUPS = {"param", "state", "input", "output", "cotangent", "grad_param", "grad_input", "trace"}
TYPES = {"<f8": "d", "<f4": "f", "<i8": "q", "<i4": "i", "|b1": "?", "F64": "d", "F32": "f", "I64": "q", "BOOL": "?"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("export") / "pack"
    write_folder(made, pack(), safetensors=True)
    return made


@pytest.fixture(scope="module")
def index(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "index.json").read_text(encoding="utf-8"))


def test_the_pack_is_below_14_megabytes(folder: Path) -> None:
    assert sum((folder / name).stat().st_size for name in files_below(folder)) < 14_000_000


def test_the_index_names_every_file_and_every_entry_and_operation(folder: Path, index: dict[str, Any]) -> None:
    named = {row[key] for row in index["cases"] for key in ("file", "safetensors")}
    assert sorted([*named, "index.json"]) == files_below(folder)
    ids = [row["id"] for row in index["cases"]]
    assert len(set(ids)) == len(ids)
    assert {f"{e.id}/{row}" for e in ENTRIES for row in ("plain", *e.cases)} <= set(ids)
    assert {f"operations/{o.id}" for o in OPERATIONS} <= set(ids)
    assert {name.partition("/")[0] for name in ids} == {e.id for e in ENTRIES} | {"autoregressive", "operations"}


def test_the_index_says_what_its_files_say(folder: Path, index: dict[str, Any]) -> None:
    assert (index["format"], index["version"]) == ("perceiver-ref vectors", 1)
    for row in index["cases"]:
        case = read_case(folder / row["file"])
        for key in ("peer", "class", "config", "call", "dtype", "seed", "flags", "catches"):
            assert row[key] == case.meta[key]
        assert row["tolerance"] == {"output": 1e-10, "gradient": 1e-8}
        assert row["flags"] or row["id"].endswith("/plain")
        assert set(row["flags"]) <= set(index["flags"])
        assert f"`{row['id'].rpartition('/')[2]}`" in DOCUMENT
        arrays = npz(folder / row["file"])
        shapes = {key: list(value[0]) for key, value in arrays.items()}
        assert {key: value["shape"] for key, value in row["shapes"].items()} == shapes
        assert {key.partition("/")[0] for key in shapes} <= GROUPS


def test_every_case_of_the_pack_passes(folder: Path, index: dict[str, Any]) -> None:
    assert [row["id"] for row in index["cases"] if check_file(folder / row["file"]).status != "pass"] == []


def npz(path: Path) -> dict[str, tuple[tuple[int, ...], list[Any]]]:
    """Key -> (shape, values), following VECTORS.md with `zipfile` and `struct` alone; without meta."""
    found = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            assert member.compress_type == zipfile.ZIP_STORED
            data = archive.read(member)
            assert data[:6] == b"\x93NUMPY"
            major = data[6]
            size = struct.unpack("<H", data[8:10])[0] if major == 1 else struct.unpack("<I", data[8:12])[0]
            start = (10 if major == 1 else 12) + size
            header = data[10 if major == 1 else 12 : start].decode("latin1")
            kind = header.split("'descr': '")[1].split("'")[0]
            assert "'fortran_order': False" in header
            inside = header.split("'shape': (")[1].split(")")[0]
            shape = tuple(int(n) for n in inside.split(",") if n.strip())
            name = member.filename.removesuffix(".npy")
            if name == "meta":
                assert kind.startswith("<U")
                continue
            found[name] = (shape, unpacked(data[start:], kind, shape))
    return found


def npz_meta(path: Path) -> dict[str, Any]:
    """The JSON of meta: UTF-32 text."""
    with zipfile.ZipFile(path) as archive:
        data = archive.read("meta.npy")
    start = 10 + struct.unpack("<H", data[8:10])[0]
    return json.loads(data[start:].decode("utf-32-le"))


def safetensors(path: Path) -> tuple[dict[str, Any], dict[str, tuple[tuple[int, ...], list[Any]]]]:
    """meta, and key -> (shape, values), following VECTORS.md with `struct` and `json` alone."""
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    meta = json.loads(header.pop("__metadata__")["meta"])
    found = {}
    for name, entry in header.items():
        begin, end = (8 + size + offset for offset in entry["data_offsets"])
        shape = tuple(entry["shape"])
        found[name] = (shape, unpacked(data[begin:end], entry["dtype"], shape))
    return meta, found


def unpacked(data: bytes, kind: str, shape: tuple[int, ...]) -> list[Any]:
    count = 1
    for n in shape:
        count *= n
    return list(struct.unpack(f"<{count}{TYPES[kind]}", data))


def test_both_formats_are_read_as_documented(folder: Path, index: dict[str, Any]) -> None:
    for row in index["cases"]:
        case = read_case(folder / row["file"])
        arrays = npz(folder / row["file"])
        meta, same = safetensors(folder / row["safetensors"])
        assert arrays == same or any(v != v for _, values in arrays.values() for v in values)
        assert meta == npz_meta(folder / row["file"])
        assert {"case": row["id"], **meta} == meta
        groups = {"param": case.params, "input": case.inputs, "output": case.outputs, "trace": case.trace}
        groups |= {"cotangent": case.cotangents, "grad_param": case.grad_params, "grad_input": case.grad_inputs}
        groups["state"] = case.state
        wanted = {f"{group}/{name}": a for group, named in groups.items() for name, a in named.items()}
        assert set(wanted) == set(arrays)
        for key, (shape, values) in arrays.items():
            np.testing.assert_array_equal(np.array(values).reshape(shape), wanted[key])


def test_the_document_has_every_row_and_flag() -> None:
    for row in ROWS:
        assert f"| `{row.id}` |" in DOCUMENT, row.id
        assert row.catches in DOCUMENT, row.catches
    for flag, meaning in FLAGS.items():
        assert f"| `{flag}` | {meaning} |" in DOCUMENT
    for operation in OPERATIONS:
        assert f"| `{operation.id}` | `{operation.operation}` | {operation.catches} |" in DOCUMENT


def test_the_document_names_every_key_of_meta(folder: Path, index: dict[str, Any]) -> None:
    keys = {key for row in index["cases"] for key in npz_meta(folder / row["file"])}
    for key in keys | {"tied", "tolerance", "compare_gradients"}:
        assert f"| `{key}` |" in DOCUMENT, key
