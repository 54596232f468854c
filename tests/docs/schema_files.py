"""The schemas of docs/schemas, as validators; tests are skipped where the package jsonschema is not there."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest
from docs.blocks import ROOT

FOLDER = ROOT / "docs" / "schemas"


@cache
def validator(name: str) -> Any:
    """That of a file in the folder, such as "report/check.json"."""
    jsonschema = pytest.importorskip("jsonschema", reason="needs jsonschema: pip install jsonschema")
    schema = json.loads((FOLDER / name).read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def refuses(name: str, value: Any) -> bool:
    """Whether the schema does not hold for a value."""
    return not validator(name).is_valid(value)


def assert_valid(name: str, value: Any) -> None:
    """Fail with the place and the message of each thing that does not hold."""
    found = [f"{'/'.join(map(str, e.absolute_path))}: {e.message[:300]}" for e in validator(name).iter_errors(value)]
    assert not found, f"{name}: {found[:3]}"
