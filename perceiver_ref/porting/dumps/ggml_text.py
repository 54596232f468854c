"""Tensors as llama.cpp's eval-callback and its relatives print them: of each tensor the corners, and the sum.

    ggml_debug:               Qcur-0 = (f32)    MUL_MAT(blk.0.attn_q.weight{4096, 4096, 1, 1}, ...}) = {4096, 7, 1, 1}
        [
            [
                [      0.0123,      -0.0045,       0.1000,   ...,       0.0200,      -1.5000,       0.0001  ],
                ...,
            ],
        ]
        sum = -12.345678

The sizes in braces have the fastest axis first. Of the first three axes, where longer than six, the first and last
three elements are shown, of the fourth all; numbers have four digits behind the point. The sum is that of all elements,
in older programs that of those that are shown.
"""

from __future__ import annotations

import math
import re
from array import array as numbers
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ...errors import InputError, listed
from ...host.files import existing_file
from ...weights.formats.opcodes import shown
from .held import Held, Printed, corners
from .tensor_text import parse_number

EDGE = 3
LIMIT = 512 << 20
_LINE = 1 << 12
_TOKEN = re.compile(r"[\[\]]|\.\.\.|[^\s,\[\]]+")
_SIZES = re.compile(r"\d{1,18}(?:, \d{1,18}){0,3}")
_DTYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16", "f64": "float64"}
_INTEGERS = {"i8": "int8", "i16": "int16", "i32": "int32", "i64": "int64"}


def is_ggml_text(start: bytes) -> bool:
    """Whether the beginning of a file has a line that begins a tensor."""
    return b"\0" not in start and any(
        b") = {" in line and len(line) < _LINE and _header(line.decode("utf-8", "replace").strip()) is not None
        for line in start.splitlines()
    )


def held_ggml_text(path: Path) -> Held:
    """Every tensor that a text shows, by its name; of one that was computed n times `name@0` to `name@n-1`."""
    existing_file(path, "a text of ggml tensors")
    if path.stat().st_size > LIMIT:
        raise InputError(f"{path} has more than {LIMIT >> 20} MiB; choose tensors (--tensor-filter)")
    calls: dict[str, list[np.ndarray | Printed]] = {}
    left: list[str] = []
    try:
        with path.open("rb") as file:
            for name, value in _tensors(_lines(file)):
                if value is None:
                    left.append(shown(name, 40))
                else:
                    calls.setdefault(name, []).append(value)
    except (ValueError, OSError) as error:
        raise InputError(f"{path} is no readable text of ggml tensors ({shown(error, 120)})") from None
    made = Held({})
    made.add_calls(path, calls, {})
    if not calls:
        raise InputError(f"{path} shows the numbers of no tensor")
    if left:
        made.notes.append(f"{path}: no numbers are shown of {listed(left, 4)}")
    return made


def _lines(file: Iterator[bytes]) -> Iterator[tuple[int, str]]:
    """Lines that are not empty, with their numbers; longer ones are no tensor's."""
    for number, line in enumerate(file, 1):
        if len(line) > _LINE:
            line = line[:_LINE]
        text = line.decode("utf-8", "replace").strip()
        if text:
            yield number, text


def _header(text: str) -> tuple[str, str, tuple[int, ...]] | None:
    """(name, type, shape in NumPy's order with the slowest of four axes first) of a line that begins a tensor."""
    before, found, rest = text.partition(" = (")
    kind, closed, rest = rest.partition(")")
    _, braces, sizes = rest.rpartition(") = {")
    if not found or not closed or not braces or not sizes.endswith("}") or not _SIZES.fullmatch(sizes[:-1]):
        return None
    _, colon, name = before.partition(": ")
    if not colon or not name.strip() or not kind.replace("_", "").isalnum():
        return None
    given = [int(n) for n in sizes[:-1].split(", ")]
    return name.strip(), kind.lower(), tuple(reversed([*given, *[1] * (4 - len(given))]))


def _tensors(lines: Iterator[tuple[int, str]]) -> Iterator[tuple[str, Printed | None]]:
    """(name, what is shown of it), None where no numbers are; other lines, such as a log's, may stand between them."""
    head: tuple[str, str, tuple[int, ...]] | None = None
    for number, text in lines:
        if head is not None and text.startswith("["):
            name, kind, shape = head
            head = None
            yield name, _block(number, text, lines, name, kind, shape)
        elif (found := _header(text)) is not None:
            if head is not None:
                yield head[0], None
            head = found
    if head is not None:
        yield head[0], None


def _block(
    number: int, text: str, lines: Iterator[tuple[int, str]], name: str, kind: str, shape: tuple[int, ...]
) -> Printed:
    """The numbers of a tensor, one block in brackets and one sum for each index of the slowest axis."""
    where = f"line {number}: {name[:60]!r}"
    if kind not in {**_DTYPES, **_INTEGERS}:
        raise ValueError(f"{where} has type {kind[:20]}")
    reduced = (shape[0], *(min(n, 2 * EDGE) for n in shape[1:]))
    wanted = math.prod(reduced)
    values = numbers("d")
    sums = depth = 0
    total = (0.0, 0.0)
    line: tuple[int, str] | None = (number, text)
    while line is not None:
        number, text = line
        if depth == 0 and text.startswith("sum"):
            total = parse_number(text.partition("=")[2].strip())
            sums += 1
            if sums == shape[0]:
                break
        else:
            for token in _TOKEN.findall(text):
                if token == "[":
                    depth += 1
                elif token == "]":
                    depth -= 1
                elif token != "...":
                    values.append(parse_number(token)[0])
            if not 0 <= depth <= 3 or len(values) > wanted:
                raise ValueError(f"{where} has shape {list(shape)}, but line {number} shows more")
        line = next(lines, None)
    if sums != shape[0] or len(values) != wanted:
        raise ValueError(f"{where} has shape {list(shape)}, but {len(values):,} numbers and {sums:,} sums are shown")
    return _printed(np.array(values), reduced, shape, kind, total)


def _printed(
    values: np.ndarray, reduced: tuple[int, ...], shape: tuple[int, ...], kind: str, total: tuple[float, float]
) -> Printed:
    """Without the axes of length 1 before the first other; the sum, unless it is that of the numbers shown."""
    shown_sum = float(values.sum()) if values.size else 0.0
    resolution = 0.0 if kind in _INTEGERS else 0.5e-4
    told = abs(total[0] - shown_sum) > 2 * (values.size * resolution + total[1] + 1e-5 * float(np.abs(values).sum()))
    first = next((i for i, n in enumerate(shape) if n != 1), len(shape) - 1)
    dtype = _INTEGERS.get(kind) or _DTYPES[kind]
    whole = corners(values.reshape(reduced), EDGE).reshape(tuple(min(n, 2 * EDGE) for n in shape[first:]))
    stored = whole.astype(np.float64 if dtype == "float64" else np.float32) if kind in _DTYPES else whole.astype(dtype)
    return Printed(
        stored,
        shape[first:],
        EDGE,
        np.full(whole.shape, resolution),
        dtype,
        {"sum": total} if told or np.isnan(total[0]) else {},
    )
