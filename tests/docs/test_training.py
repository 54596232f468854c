"""docs/TRAINING.md: what a person writes for a task of their own is short."""

from __future__ import annotations

import re

import pytest
from docs.blocks import ROOT, blocks

PAGE = (ROOT / "docs" / "TRAINING.md").read_text(encoding="utf-8")
SECTIONS = {found[1]: found[2] for found in re.finditer(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)}
TASKS = (
    "Rows of numbers",
    "An output for every input",
    "Sets and series of many lengths",
    "Text",
    "Tune a checkpoint and give it back",
    "A loss of your own",
)
_NOT_COUNTED = ("import ", "from ", "rng = ", "print(", "#")
"""Lines that any program has; and data that are made up here are the reader's own."""


@pytest.mark.parametrize("task", TASKS)
def test_a_task_takes_at_most_fifteen_lines(task: str) -> None:
    code = [block for block in blocks(SECTIONS[task]) if block.language in ("python", "sh")]
    lines = [line for line in code[0].text.splitlines() if line.strip() and not line.startswith(_NOT_COUNTED)]
    assert 0 < len(lines) <= 15
