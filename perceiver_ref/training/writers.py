"""What else a run's numbers are written as, beside metrics.jsonl: a table in CSV, and TensorBoard's files."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from ..errors import InputError, one_of
from ..host.files import write_text
from .metrics import NAME
from .plan import Callback, Event
from .state import writing

CSV, TENSORBOARD = "metrics.csv", "tensorboard"
_PACKAGES = ("torch.utils.tensorboard", "tensorboardX")
_INSTALL = "python -m pip install tensorboardX"


def flat(line: Mapping[str, Any]) -> dict[str, Any]:
    """A line's numbers by name; those of its evaluation after `evaluation/`."""
    made = {name: value for name, value in line.items() if name != "evaluation"}
    return made | {f"evaluation/{name}": value for name, value in line.get("evaluation", {}).items()}


def csv_writer(folder: Path) -> Callback:
    """metrics.csv, all lines of metrics.jsonl as a table, whole at every moment."""

    def write(event: Event) -> None:
        with writing(folder / CSV):
            text = (folder / NAME).read_text(encoding="utf-8")
            rows = [flat(json.loads(line)) for line in text.splitlines()]
            names = dict.fromkeys(name for row in rows for name in row)
            table = io.StringIO()
            made = csv.DictWriter(table, names, lineterminator="\n")
            made.writeheader()
            made.writerows(rows)
            write_text(folder / CSV, table.getvalue())

    return write


def tensorboard_writer(folder: Path) -> Callback:
    """Scalars for TensorBoard, by one of the packages that write its files; `InputError` where there is none."""
    for name in _PACKAGES:
        try:
            made = import_module(name).SummaryWriter(str(folder / TENSORBOARD))
            break
        except ImportError:
            continue
    else:
        raise InputError(f"writing for TensorBoard needs a package that does; {_INSTALL}")

    def write(event: Event) -> None:
        for name, value in flat(event.line).items():
            if name not in ("step", "stage"):
                made.add_scalar(name, value, event.line["step"])
        made.flush()

    return write


WRITERS: dict[str, Callable[[Path], Callback]] = {"csv": csv_writer, "tensorboard": tensorboard_writer}
"""By name."""


def writers_of(names: Sequence[str], folder: Path | None) -> list[Callback]:
    """The callbacks of these writers; `InputError` for an unknown one, and without a folder."""
    for name in names:
        if name not in WRITERS:
            raise one_of("writer", name, WRITERS)
    if names and folder is None:
        raise InputError("writers need a folder to write into, out=")
    return [WRITERS[name](folder) for name in names if folder is not None]
