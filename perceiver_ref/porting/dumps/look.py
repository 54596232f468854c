"""What can be seen of a file or folder before it is read: what formats are recognised by."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from ...host import json_text
from ...host.contents import contents
from .raw import INDEX

_START, _NEAR = 1 << 20, 1 << 16  # bytes looked at


class Look:
    """What can be seen of a file or folder before it is read; each part is looked at when it is asked for."""

    def __init__(self, path: Path) -> None:
        self.path, self.is_folder = path, path.is_dir()

    @cached_property
    def names(self) -> list[str]:
        """What a folder holds; of a file nothing."""
        return sorted(path.name for path in self.path.iterdir()) if self.is_folder else []

    @cached_property
    def contents(self) -> str:
        """What a file is by its first bytes (`host.contents`)."""
        return "" if self.is_folder else contents(self.path)

    @cached_property
    def start(self) -> bytes:
        """The beginning of a file."""
        if self.is_folder:
            return b""
        with self.path.open("rb") as file:
            return file.read(_START)

    @cached_property
    def json(self) -> Any:
        """The value of a short JSON file, or of a folder's index; None for anything else."""
        return short_json(self.path / INDEX) if INDEX in self.names else short_json(self.path)

    def has_ending(self, *endings: str) -> bool:
        """Whether a file, or a file of a folder, has a name that ends so."""
        return any(name.endswith(endings) for name in (self.names if self.is_folder else [self.path.name]))

    def begins(self, *texts: bytes) -> bool:
        """Whether a long JSON file has one of these near its beginning."""
        long = len(self.start) == _START and self.start.lstrip()[:1] in (b"{", b"[")
        return long and any(text in self.start[:_NEAR] for text in texts)


def has_npy(folder: Path) -> bool:
    """Whether a folder, or one below it, holds a `.npy` file."""
    return next((True for path in folder.rglob("*.npy") if not path.is_dir()), False)


def short_json(path: Path) -> Any:
    """The value of a short JSON file; None for what is none, which its reader says."""
    try:
        if not path.is_file() or path.stat().st_size > _START:
            return None
        text = path.read_bytes()
        return json_text.parse(text) if text.lstrip()[:1] in (b"{", b"[") else None
    except (ValueError, OSError):
        return None
