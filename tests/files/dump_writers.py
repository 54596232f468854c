"""Dumps of arrays in every format, written by hand from the formats' own definitions, without our readers' code."""

from __future__ import annotations

import base64
import io
import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from files import torch_files

Arrays = Mapping[str, np.ndarray]


def npz(folder: Path, arrays: Arrays) -> Path:
    np.savez(folder / "dump.npz", **arrays)
    return folder / "dump.npz"


def npy(folder: Path, arrays: Arrays) -> Path:
    """One array alone."""
    ((name, array),) = arrays.items()
    np.save(folder / f"{name}.npy", array)
    return folder / f"{name}.npy"


CODES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "int64": "I64",
    "int32": "I32",
    "uint8": "U8",
    "bool": "BOOL",
}


def safetensors(folder: Path, arrays: Arrays, metadata: Any = None) -> Path:
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    data = b""
    for name, array in arrays.items():
        end = len(data) + array.nbytes
        header[name] = {"dtype": CODES[array.dtype.name], "shape": array.shape, "data_offsets": [len(data), end]}
        data += array.tobytes()
    text = json.dumps(header).encode()
    (folder / "dump.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    return folder / "dump.safetensors"


def npy_folder(folder: Path, arrays: Arrays) -> Path:
    root = folder / "dump"
    for name, array in arrays.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(root / f"{name}.npy", array)
    return root


def raw(folder: Path, arrays: Arrays, meta: Any = None) -> Path:
    """Every other array in a file of its own, the rest in one with offsets."""
    root = folder / "dump"
    root.mkdir(exist_ok=True)
    entries: dict[str, Any] = {}
    shared = b""
    for i, (name, array) in enumerate(arrays.items()):
        entry: dict[str, Any] = {"dtype": array.dtype.name, "shape": list(array.shape), "file": "all.bin"}
        if i % 2:
            entry["offset"] = len(shared)
            shared += array.tobytes() + bytes(3)
        else:
            entry["file"] = f"{i}.bin"
            (root / f"{i}.bin").write_bytes(array.tobytes())
        entries[name] = entry
    (root / "all.bin").write_bytes(shared)
    (root / "index.json").write_text(json.dumps({"arrays": entries, **({} if meta is None else {"meta": meta})}))
    return root


def pytorch(folder: Path, arrays: Arrays, make: Callable[[Any], Any] = dict) -> Path:
    (folder / "dump.pt").write_bytes(torch_files.save(dict(arrays), make))
    return folder / "dump.pt"


GGML = {"float32": 0, "float16": 1, "int8": 24, "int16": 25, "int32": 26, "int64": 27, "float64": 28, "bfloat16": 30}


def gguf_bytes(tensors: Mapping[str, tuple[tuple[int, ...], int, bytes]], alignment: int = 32) -> bytes:
    """(shape, ggml's number of the type, data) by name; the metadata have one of each kind of value."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value.encode())) + value.encode()

    pairs = [
        text("general.architecture") + struct.pack("<I", 8) + text("perceiver"),
        text("general.alignment") + struct.pack("<II", 4, alignment),
        text("a.float") + struct.pack("<If", 6, 1.5),
        text("a.flag") + struct.pack("<I?", 7, True),
        text("tokens") + struct.pack("<IIQ", 9, 8, 3) + text("a") + text("") + text("é"),
        text("scores") + struct.pack("<IIQ", 9, 6, 2) + struct.pack("<2f", 1, 2),
    ]
    infos, data = b"", b""
    for name, (shape, number, content) in tensors.items():
        infos += text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *reversed(shape))
        infos += struct.pack("<IQ", number, len(data))
        data += content + bytes(-len(content) % alignment)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(pairs)) + b"".join(pairs) + infos
    return head + bytes(-len(head) % alignment) + data


def gguf(folder: Path, arrays: Arrays) -> Path:
    tensors = {name: (array.shape, GGML[array.dtype.name], array.tobytes()) for name, array in arrays.items()}
    (folder / "dump.gguf").write_bytes(gguf_bytes(tensors))
    return folder / "dump.gguf"


def varint(value: int) -> bytes:
    made = b""
    while True:
        made += bytes([value & 127 | (128 if value > 127 else 0)])
        value >>= 7
        if not value:
            return made


def message(*fields: tuple[int, int | bytes]) -> bytes:
    """A protocol buffer of varints and of what has a length."""
    made = b""
    for number, value in fields:
        if isinstance(value, bytes):
            made += varint(number << 3 | 2) + varint(len(value)) + value
        else:
            made += varint(number << 3) + varint(value % (1 << 64))
    return made


ONNX = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6, "int64": 7, "bool": 9, "float16": 10, "float64": 11}


def tensor_proto(name: str, array: np.ndarray) -> bytes:
    dims = [(1, n) for n in array.shape]
    return message(*dims, (2, ONNX[array.dtype.name]), (8, name.encode()), (9, array.tobytes()))


def onnx(folder: Path, arrays: Arrays) -> Path:
    """As ONNX Runtime names the files; outputs and inputs as a test data set does."""
    root = folder / "dump"
    root.mkdir()
    counts = {"input": 0, "output": 0}
    for name, array in arrays.items():
        group, _, rest = name.partition("/")
        if group in counts:
            file, name = f"{group}_{counts[group]}.pb", rest
            counts[group] += 1
        else:
            file = "".join(c if c.isalnum() else "_" for c in name) + ".tensorproto"
        (root / file).write_bytes(tensor_proto(name, array))
    return root


def as_json(array: np.ndarray) -> dict[str, Any]:
    file = io.BytesIO()
    np.save(file, array)
    return {"array": base64.b64encode(file.getvalue()).decode(), "polygraphy_class": "ndarray"}


def polygraphy(folder: Path, arrays: Arrays, iterations: int = 1) -> Path:
    outputs = {name: {"values": as_json(array), "polygraphy_class": "LazyArray"} for name, array in arrays.items()}
    one = {"outputs": outputs, "runtime": 0.1, "runner_name": "x", "polygraphy_class": "IterationResult"}
    content = {"lst": [["onnxrt-runner-N0", [one] * iterations]], "polygraphy_class": "RunResults"}
    (folder / "dump.json").write_text(json.dumps(content, indent=4))
    return folder / "dump.json"


def torch_text(array: np.ndarray, digits: int = 4, threshold: int = 1000, edge: int = 3) -> str:
    """`repr` of a tensor: sci_mode, with the ends of long axes alone where there are many elements."""

    def number(x: Any) -> str:
        if array.dtype.kind != "f":
            return str(x)
        return f"{x: .{digits}e}" if np.isfinite(x) else f" {x}"

    def part(x: np.ndarray, depth: int) -> str:
        if not x.ndim:
            return number(x[()])
        rows = [part(row, depth + 1) for row in x]
        if array.size > threshold and len(rows) > 2 * edge:
            rows = [*rows[:edge], "...", *rows[-edge:]]
        between = ", " if x.ndim == 1 else "," + "\n" * (x.ndim - 1) + " " * (depth + 8)
        return f"[{between.join(rows)}]"

    usual = array.dtype.name in ("float32", "int64", "bool")
    return f"tensor({part(array, 0)}{'' if usual else f', dtype=torch.{array.dtype.name}'})"


def torch_json(array: np.ndarray, **options: Any) -> dict[str, Any]:
    wide = array.astype(np.float64)
    made = {
        "shape": f"torch.Size({list(array.shape)})",
        "dtype": f"torch.{array.dtype.name}",
        "value": torch_text(array, **options).splitlines(),
    }
    if array.dtype.kind == "f":
        made |= {k: f"tensor({x:.4e})" for k, x in (("mean", wide.mean()), ("std", wide.std(ddof=1)))}
        made |= {k: f"tensor({x:.4e})" for k, x in (("min", wide.min()), ("max", wide.max()))}
    return made


def debugger(folder: Path, arrays: Arrays) -> Path:
    root = folder / "dump"
    root.mkdir()
    parts: dict[str, dict[str, Any]] = {"input": {}, "output": {}}
    children = []
    for name, array in arrays.items():
        group, _, rest = name.partition("/")
        if group in parts:
            parts[group][rest] = torch_json(array)
        else:
            children.append({"module_path": f"Model.{name}", "inputs": {"args": "()"}, "outputs": torch_json(array)})
    tree = {
        "module_path": "Model",
        "inputs": {"kwargs": parts["input"]},
        "outputs": parts["output"],
        "children": children,
    }
    (root / "Model_debug_tree_FULL_TENSORS.json").write_text(json.dumps(tree, indent=2))
    (root / "Model_debug_tree_SUMMARY.json").write_text(json.dumps({"module_path": "Model"}))
    return root


TYPES = {"float32": "f32", "float16": "f16", "float64": "f64", "int32": "i32", "int64": "i64"}


def ggml_text(folder: Path, arrays: Arrays, *, whole_sum: bool = True, prefix: str = "common_debug_cb_eval") -> Path:
    """What llama.cpp's callback prints, with a log around it."""
    lines = ["llama_context: n_ctx = 512", "main: prompt: (1) = {x}", ""]
    for name, array in arrays.items():
        full = array.reshape((1,) * (4 - array.ndim) + array.shape)
        sizes = ", ".join(map(str, reversed(full.shape)))
        lines.append(
            f"{prefix}: {name:>24} = ({TYPES[array.dtype.name]}) {'MUL_MAT':>10}(w{{4, 4, 1, 1}}, x}}) = {{{sizes}}}"
        )
        shown = 0.0
        for block in full:
            lines.append("    [")
            for i, matrix in enumerate(block):
                if 3 <= i < len(block) - 3:
                    lines += ["        ..., "] if i == 3 else []
                    continue
                lines.append("        [")
                for j, row in enumerate(matrix):
                    if 3 <= j < len(matrix) - 3:
                        lines += ["            ..., "] if j == 3 else []
                        continue
                    some = [k for k in range(len(row)) if not 3 <= k < len(row) - 3]
                    shown += sum(float(row[k]) for k in some)
                    texts = [f"{float(row[k]):12.4f}" for k in some]
                    if len(row) > 6:
                        texts.insert(3, "   ...")
                    lines.append("            [" + ", ".join(texts) + "  ],")
                lines.append("        ],")
            lines += ["    ]", f"    sum = {float(array.astype(np.float64).sum()) if whole_sum else shown:f}"]
    lines.append("llama_perf: done")
    (folder / "dump.txt").write_text("\n".join(lines) + "\n")
    return folder / "dump.txt"


WRITERS: dict[str, Callable[[Path, Arrays], Path]] = {
    "npz": npz,
    "safetensors": safetensors,
    "npy-folder": npy_folder,
    "raw": raw,
    "pytorch": pytorch,
    "npy": npy,
    "gguf": gguf,
    "ggml-text": ggml_text,
    "debugger": debugger,
    "onnx": onnx,
    "polygraphy": polygraphy,
}
"""By the id of the format."""
