"""metrics.jsonl: one line of JSON for each logged step, none twice after resuming."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, TextIO

from ..host import json_text
from ..host.files import write_text
from .state import writing

NAME = "metrics.jsonl"


class Metrics:
    """The lines of a run, in its folder when it has one; `step` counts the steps of all stages.

    Opened after `done` steps: lines of later ones, and what a process that was killed has left of a line, are removed.
    """

    def __init__(self, folder: Path | None, done: int) -> None:
        self.path = folder / NAME if folder else None
        self.lines: list[dict[str, Any]] = []
        self._file: TextIO | None = None
        if self.path is None:
            return
        with writing(self.path):
            text = self.path.read_text(encoding="utf-8", errors="replace") if self.path.is_file() else ""
            self.lines = [line for line in map(_parsed, text.splitlines()) if line and line["step"] <= done]
            kept = "".join(_text(line) for line in self.lines)
            if kept != text:
                write_text(self.path, kept)
            self._file = self.path.open("a", encoding="utf-8")

    def write(self, line: dict[str, Any]) -> None:
        """Add a line."""
        self.lines.append(line)
        if self._file is not None and self.path is not None:
            with writing(self.path):
                self._file.write(_text(line))
                self._file.flush()

    def flush(self) -> None:
        """To the disk: before a checkpoint that counts these lines as written."""
        if self._file is not None and self.path is not None:
            with writing(self.path):
                os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file. What was not written by then is a line that no checkpoint counts."""
        if self._file is not None:
            try:
                self._file.close()
            except OSError:
                self._file = None


def _text(line: dict[str, Any]) -> str:
    return json.dumps(line) + "\n"


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        line = json_text.parse(text)
    except ValueError:
        return None
    return line if isinstance(line, dict) and _is_whole(line) else None


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value.isprintable() and len(value) < 100


def _is_number(value: Any) -> bool:
    return type(value) is float or (type(value) is int and abs(value) < 1 << 63)


def _is_whole(line: dict[str, Any]) -> bool:
    """Whether a line is numbers by name, with the stage's name and at times an evaluation, which is such numbers."""
    evaluation = line.get("evaluation", {})
    numbers = [value for key, value in line.items() if key not in ("stage", "evaluation")]
    return (
        type(line.get("step")) is int
        and _is_name(line.get("stage", ""))
        and isinstance(evaluation, dict)
        and all(map(_is_number, [*numbers, *evaluation.values()]))
    )
