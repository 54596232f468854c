"""The README: its code runs, its output is what is printed, its links lead to files, its picture is up to date.

Blocks of Python and shell run in order, all of a section in one empty folder. An HTML comment before a block may say
`not run: <why>` or `exit code <n>`. A block of text after a block is how what that prints begins.
"""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path

import pytest
from docs.blocks import COMMENT, ROOT, assert_same, blocks, run, runs, without_numbers

README = (ROOT / "README.md").read_text(encoding="utf-8")
TEST_COMMAND = "the test command"

SECTIONS = {
    section.partition("\n")[0]: blocks(section)
    for section in re.split(r"^## ", README, flags=re.MULTILINE)
    if any(runs(block, TEST_COMMAND) for block in blocks(section))
}


@pytest.mark.parametrize("section", SECTIONS)
def test_the_code_runs_and_prints_what_is_shown(section: str, tmp_path: Path) -> None:
    printed = ""
    for block in SECTIONS[section]:
        if block.language == "text":
            assert_same(block.text, printed)
        elif runs(block, TEST_COMMAND):
            printed = run(block, tmp_path)


def test_every_block_has_a_language_and_known_comments() -> None:
    for block in blocks(README):
        assert block.language in ("python", "sh", "text")
        assert re.fullmatch(rf"{TEST_COMMAND}|{COMMENT}", block.comment), block.comment
    assert README.count("\n```") == 2 * len(blocks(README))


def test_ci_runs_the_test_command() -> None:
    (command,) = [block.text for block in blocks(README) if block.comment == TEST_COMMAND]
    assert ".venv/bin/python -m pytest" in command
    assert f'readme_command "{TEST_COMMAND}"' in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_every_link_leads_to_a_file() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert links
    assert not [link for link in links if "://" not in link and not (ROOT / link).exists()]


def test_the_table_of_extras_has_every_extra() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", README.partition("## Extras")[2], re.MULTILINE)
    assert re.findall(r"`(\w+)`", " ".join(rows)) == list(extras)


def test_the_picture_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("terminal_svg", ROOT / "docs" / "make" / "terminal_svg.py")
    drawing = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(drawing)
    command, section = ["perceiver-ref", "diagnose", "port.npz"], "Check a port"
    now = drawing.text(drawing.svg(command, drawing.output(command, section)))
    shown = drawing.text((ROOT / "docs" / "diagnose.svg").read_text(encoding="utf-8"))
    assert without_numbers(shown) == without_numbers(now), (
        f'draw it again: python docs/make terminal --after "{section}" docs/diagnose.svg {" ".join(command)}'
    )
