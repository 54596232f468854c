"""Whole dumps in formats that weights do not come in, and changes that know their structure, for the fuzzer."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import numpy as np
from files import dump_writers, torch_files
from files.damage import VALUES, Random, damaged, within_header, within_pickle, within_zip

ARRAYS = {
    "output/a": np.arange(12, dtype=np.float32).reshape(3, 4) / 7,
    "b": np.arange(14.0, dtype=np.float32),
    "trace/c": np.linspace(-1, 1, 2 * 9 * 11, dtype=np.float32).reshape(2, 9, 11),
}
Change = Callable[[bytes, Random], bytes]
_TEXTS = (
    "tensor([1.",
    "torch.Size([99999999999, 3])",
    "./../x.safetensors",
    "/etc/passwd",
    "..",
    "1e400",
    "[" * 50,
    "\0",
)


def _made(write: Callable[..., Path], arrays: Mapping[str, np.ndarray], name: str = "") -> Callable[[], bytes]:
    @cache
    def whole() -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            path = write(Path(folder), arrays)
            return (path / name if name else path).read_bytes()

    return whole


def within_json(data: bytes, rng: Random) -> bytes:
    """JSON with a value anywhere replaced, moved or left out."""
    content = json.loads(data)
    for _ in range(rng.choice((1, 1, 2))):
        parent, key = None, None
        value = content
        while isinstance(value, (dict, list)) and value and (parent is None or rng.random() < 0.85):
            key = rng.choice(list(value) if isinstance(value, dict) else range(len(value)))
            parent, value = value, value[key]
        kind = rng.randrange(5)
        if parent is None:
            content = json.loads(json.dumps(rng.choice(VALUES)))
        elif kind == 0 and isinstance(value, str):
            parent[key] = damaged(value.encode(), rng).decode("utf-8", "replace")
        elif kind == 1 and isinstance(parent, dict):
            parent[rng.choice((*_TEXTS, "x", "b"))] = parent.pop(key)
        else:
            other = rng.choice((*VALUES, *_TEXTS, value, {"values": value}, [value, value]))
            parent[key] = json.loads(json.dumps(other))  # a copy, of what may be changed
        if not isinstance(content, (dict, list)):
            break
    return json.dumps(content).encode()


def within_lines(data: bytes, rng: Random) -> bytes:
    """A text with lines left out, repeated or exchanged, and numbers made others."""
    lines = data.split(b"\n")
    for _ in range(rng.choice((1, 1, 2, 5))):
        i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
        kind = rng.randrange(5)
        if kind == 0 and len(lines) > 1:
            lines.pop(i)
        elif kind == 1:
            lines.insert(i, lines[j] * rng.choice((1, 2, 300)))
        elif kind == 2:
            lines[i], lines[j] = lines[j], lines[i]
        else:
            other = rng.choice((b"nan", b"inf", b"99999999999999999", b"-1", b"0", b"1e999", b"x", b"...", b"]"))
            places = [found.span() for found in re.finditer(rb"-?\d+(\.\d+)?", lines[i])]
            if places:
                a, b = rng.choice(places)
                lines[i] = lines[i][:a] + other + lines[i][b:]
    return b"\n".join(lines)


def _pickled(name: str, content: bytes, rng: Random) -> bytes:
    return within_pickle(content, rng) if name.endswith(".pkl") and rng.random() < 0.8 else damaged(content, rng)


def _pt() -> bytes:
    return torch_files.save(ARRAYS, lambda made: {"meta": {"peer": "x"}, "trace": {"a": [made["b"]]}, **made})


def _safetensors(folder: Path, arrays: Mapping[str, np.ndarray]) -> Path:
    return dump_writers.safetensors(folder, arrays, {"meta": '{"peer": "x"}'})


def _raw(folder: Path, arrays: Mapping[str, np.ndarray]) -> Path:
    return dump_writers.raw(folder, arrays, {"peer": "x"})


def _beside(write: Callable[..., Path], *but: str) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        root = write(Path(folder), ARRAYS)
        return {
            p.relative_to(root).as_posix(): p.read_bytes() for p in root.iterdir() if p.is_file() and p.name not in but
        }


def _first(folder: Path, arrays: Mapping[str, np.ndarray]) -> Path:
    path = folder / "x.tensorproto"
    path.write_bytes(dump_writers.tensor_proto("c", arrays["trace/c"]))
    return path


TREE = "Model_debug_tree_FULL_TENSORS.json"
DUMPS: dict[str, tuple[str, Callable[[], bytes], Change, dict[str, bytes]]] = {
    "dump-gguf": (".gguf", _made(dump_writers.gguf, ARRAYS), damaged, {}),
    "dump-safetensors": (".safetensors", _made(_safetensors, ARRAYS), within_header, {}),
    "dump-pt": (".pt", cache(_pt), lambda data, rng: within_zip(data, rng, _pickled), {}),
    "dump-npy": (".npy", _made(dump_writers.npy, {"b": ARRAYS["b"]}), damaged, {}),
    "dump-onnx": (".tensorproto", _made(_first, ARRAYS), damaged, {}),
    "dump-polygraphy": (".json", _made(dump_writers.polygraphy, ARRAYS), within_json, {}),
    "dump-ggml": (".txt", _made(dump_writers.ggml_text, ARRAYS), within_lines, {}),
    "dump-raw": ("index.json", _made(_raw, ARRAYS, "index.json"), within_json, _beside(_raw, "index.json")),
    "dump-debugger": (TREE, _made(dump_writers.debugger, ARRAYS, TREE), within_json, {}),
    "dump-npy-meta": (
        "meta.json",
        lambda: b'{"peer": "x"}',
        within_json,
        {"b.npy": _made(dump_writers.npy, {"b": ARRAYS["b"]})()},
    ),
}
"""By name: the file's ending or name, a whole one, changes that know its structure, and what lies beside it."""
