"""The command: writes docs/schemas. `python docs/make schemas [FOLDER]`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import configs, meta, reports

FOLDER = Path(__file__).resolve().parents[2] / "schemas"


def documents() -> dict[str, dict[str, Any]]:
    """File in the folder -> its schema."""
    return {
        "meta.json": meta.schema(),
        **{f"config/{peer}.json": schema for peer, schema in configs.schemas().items()},
        **{f"report/{command}.json": schema for command, schema in reports.schemas().items()},
    }


def text(schema: dict[str, Any]) -> str:
    """A schema as its file has it."""
    return json.dumps(schema, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def main(arguments: Sequence[str]) -> int:
    """The command."""
    folder = Path(arguments[0]) if arguments else FOLDER
    for name, schema in documents().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text(schema), encoding="utf-8")
    return 0
