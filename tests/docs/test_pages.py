"""The pages in docs: their code runs, their output is what is printed, their links lead to files.

Blocks of a page run in order, in a folder with nothing but `docs` and `tests`; blocks of Python share one namespace.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from docs.blocks import COMMENT, NEEDS, ROOT, Block, assert_same, blocks, run_page, runs

PAGES = {path.name: path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md"))}
ADAPTER = "adapter"
"""The comment of the block that the heavy tests run."""
FOLDERS = ("docs", "tests")
"""What a page finds in the folder that it runs in, as in the root of a clone."""
LANGUAGES = ("python", "sh", "text", "c", "json", "math", "mermaid")


def pages_to_run() -> list[str]:
    return [name for name, page in PAGES.items() if any(runs(block, ADAPTER) for block in blocks(page))]


@pytest.mark.parametrize("name", pages_to_run())
def test_the_code_runs_and_prints_what_is_shown(name: str, tmp_path: Path) -> None:
    page = blocks(PAGES[name])
    needed = {found[1] for block in page if (found := re.fullmatch(NEEDS, block.comment))}
    if missing := [program for program in needed if shutil.which(program) is None]:
        pytest.skip(f"needs {', '.join(missing)}")
    for folder in FOLDERS:
        (tmp_path / folder).symlink_to(ROOT / folder, target_is_directory=True)
    printed = iter(run_page([block for block in page if runs(block, ADAPTER)], tmp_path))
    last = ""
    for block in page:
        if block.language == "text":
            assert_same(block.text, last)
        elif runs(block, ADAPTER):
            last = next(printed)


def test_there_are_pages_with_code() -> None:
    assert {"PORTING.md", "EXTENDING.md", "VECTORS.md"} <= set(pages_to_run())


@pytest.mark.parametrize("name", PAGES)
def test_every_block_has_a_language_and_known_comments(name: str) -> None:
    found = blocks(PAGES[name])
    for block in found:
        assert block.language in LANGUAGES
        assert re.fullmatch(rf"{ADAPTER}|{COMMENT}", block.comment), block.comment
    assert PAGES[name].count("\n```") == 2 * len(found)


@pytest.mark.parametrize("name", PAGES)
def test_every_link_leads_to_a_file(name: str) -> None:
    links = [link for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", PAGES[name]) if "://" not in link]
    assert not [link for link in links if not (ROOT / "docs" / link).exists()]


def test_a_page_that_goes_wrong_is_found(tmp_path: Path) -> None:
    good = Block("python", "x = 1\nprint(x)\n", "")
    assert run_page([good, Block("python", "print(x + 1)\n", ""), Block("sh", "echo 3\n", "")], tmp_path) == [
        "1\n",
        "2\n",
        "3\n",
    ]
    for wrong in (
        Block("python", "print(y)\n", ""),
        Block("sh", "false\n", ""),
        Block("sh", "exit 2\n", "exit code 1"),
    ):
        with pytest.raises(AssertionError, match=re.escape(wrong.text.strip())):
            run_page([good, wrong], tmp_path)
