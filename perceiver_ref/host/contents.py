"""What a file is by its first bytes, whatever its name says: another format, or no file of weights at all."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

_START = 512  # bytes looked at
MAGIC = 0x1950A86A20F9469CFC6C
"""The number that PyTorch's older format begins with, pickled."""

PYTORCH, NPZ, SAFETENSORS, PICKLE = "a file of torch.save", "an .npz file", "a safetensors file", "a pickle"
GGUF = "a GGUF file"
NPY = "a single NumPy array; numpy.savez writes arrays by name"
"""The formats that have a reader."""
JSON = "JSON"

_LFS = "a Git LFS pointer in place of the file, which `git lfs pull` fetches"
_BEGINNINGS: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs.github.com/", _LFS),
    (b"version https://hawser.github.com/", _LFS),
    (b"\x93NUMPY", NPY),
    (b"\x1f\x8b", "compressed by gzip; gunzip it first"),
    (b"BZh", "compressed by bzip2; bunzip2 it first"),
    (b"\xfd7zXZ\0", "compressed by xz; unxz it first"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd; unzstd it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it first"),
    (b"Rar!", "a RAR archive; unpack it first"),
    (b"\x89HDF\r\n", "an HDF5 file, such as Keras writes, for which there is no reader"),
    (b"GGUF", GGUF),
    (b"%PDF", "a PDF"),
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
)
_MARKUP = (b"<!doctype html", b"<html", b"<head", b"<body")


def contents(path: Path) -> str:
    """What a file is, as the rest of "it is": one of the formats above, or what else it looks like; "" when unknown."""
    with path.open("rb") as file:
        start = file.read(_START)
        size = file.seek(0, 2)
    if not start:
        return "empty"
    if found := next((what for begins, what in _BEGINNINGS if start.startswith(begins)), ""):
        return found
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(_MARKUP):
        return "an HTML page, such as a site sends in place of a file that needs a login"
    if text.startswith(b"<?xml"):
        return "an XML document, such as a site sends in place of a file"
    if start.startswith(b"PK"):
        return _archive(path)
    if start[257:262] == b"ustar":
        return "a tar archive; unpack it first"
    if start[2:4] == b"\x8a\x0a" and start[4:14] == MAGIC.to_bytes(10, "little"):
        return PYTORCH
    length = int.from_bytes(start[:8], "little")
    if start[8:9] == b"{" and 2 <= length <= size - 8:
        return SAFETENSORS
    if start[:1] == b"\x80" and start[1:2] in (b"\2", b"\3", b"\4", b"\5"):
        return PICKLE
    return _text(start, size)


def misnamed(path: Path, error: object, say: Callable[[object], str], *expected: str) -> str:
    """Why a file cannot be read: that it is another thing than expected, or else what `say` makes of the error."""
    try:
        found = contents(path)
    except OSError:
        found = ""
    return f"it is {found}" if found and found not in expected else say(error)


def _archive(path: Path) -> str:
    """What a zip archive is, by the names of its members."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/")]
    except Exception:  # damaged: its reader says how
        return ""
    if any(name.rpartition("/")[2] == "data.pkl" for name in names):
        return PYTORCH
    if names and all(name.endswith(".npy") for name in names):
        return NPZ
    return ""


def _text(start: bytes, size: int) -> str:
    """Whether a file is JSON: whole, or as far as it was looked at."""
    text = start.lstrip()
    if text[:1] not in (b"{", b"["):
        return ""
    if size > len(start):
        return JSON if text[1:].lstrip()[:1] in (b'"', b"{", b"[") and text.isascii() else ""
    try:
        json.loads(start)
    except (ValueError, RecursionError):
        return ""
    return JSON
