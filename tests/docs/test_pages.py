"""The pages in docs: their code runs, their output is what is printed, their links lead to files.

Blocks of a page run in order, in a folder with `docs`, `tests`, a checkpoint and its inputs; blocks of Python share one
namespace.
"""

from __future__ import annotations

import json
import re
import shutil
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from docs.blocks import COMMENT, NEEDS, ROOT, Block, assert_same, blocks, run_page, runs

import perceiver_ref as pr

PAGES = {path.name: path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md"))}
ADAPTER = "adapter"
"""The comment of the block that the heavy tests run."""
FOLDERS = ("docs", "tests")
"""What a page finds in the folder that it runs in, as in the root of a clone."""
LANGUAGES = ("python", "sh", "text", "c", "json", "math", "mermaid")


def pages_to_run() -> list[str]:
    return [name for name, page in PAGES.items() if any(runs(block, ADAPTER) for block in blocks(page))]


@pytest.fixture
def files_that_the_reader_has(tmp_path: Path) -> None:
    """A checkpoint folder as transformers writes it, and inputs for it."""
    safetensors = pytest.importorskip("safetensors.numpy", reason="needs the extra safetensors")
    case = pr.vectors.read_case(str(files("perceiver_ref") / "porting/cases/packaged/hf/sequence_classification.npz"))
    config = {**case.meta["config"]["config"], "architectures": [case.meta["class"].rpartition(".")[2]]}
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "config.json").write_text(json.dumps(config))
    safetensors.save_file(case.params, tmp_path / "checkpoint" / "model.safetensors")
    np.savez(tmp_path / "inputs.npz", inputs=case.inputs["inputs"], attention_mask=case.inputs["attention_mask"])


@pytest.mark.usefixtures("files_that_the_reader_has")
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


def test_the_table_of_the_format_has_every_key(tmp_path: Path) -> None:
    case = pr.vectors.Case({"peer": "hf", "class": "PerceiverModel", "config": {}, "dtype": "float64"})
    for arrays in vars(case).values():
        if arrays is not case.meta:
            arrays["name"] = np.zeros(1)
    pr.vectors.write_case(tmp_path / "case.npz", case)
    with np.load(tmp_path / "case.npz") as archive:
        groups = {key.partition("/")[0] for key in archive.files}
    table = re.search(r"^\| key \|.*?\n\n", PAGES["CHECKING.md"], re.DOTALL | re.MULTILINE)[0]
    first_cells = " ".join(re.findall(r"^\| (`.*?) \|", table, re.MULTILINE))
    assert set(re.findall(r"`(\w+)", first_cells)) == groups
