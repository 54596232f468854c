"""The README: its code runs, its output is what is printed, its links lead to files, its picture is up to date.

Blocks of Python and shell run in order, all of a section in one empty folder. An HTML comment before a block may say
`not run: <why>` or `exit code <n>`. A block of text after a block is how what that prints begins.
"""

from __future__ import annotations

import importlib.util
import json
import re
import tomllib
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from docs.blocks import COMMENT, ROOT, assert_same, blocks, run, runs

import perceiver_ref as pr

README = (ROOT / "README.md").read_text(encoding="utf-8")
TEST_COMMAND = "the test command"

SECTIONS = {
    section.partition("\n")[0]: blocks(section)
    for section in re.split(r"^## ", README, flags=re.MULTILINE)
    if any(runs(block, TEST_COMMAND) for block in blocks(section))
}


@pytest.fixture
def files_that_the_reader_has(tmp_path: Path) -> None:
    """A checkpoint folder as transformers writes it, and inputs for it."""
    safetensors = pytest.importorskip("safetensors.numpy", reason="needs the extra safetensors")
    case = pr.vectors.read_case(str(files("perceiver_ref") / "vectors/packaged/hf/sequence_classification.npz"))
    config = {**case.meta["config"]["config"], "architectures": [case.meta["class"].rpartition(".")[2]]}
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "config.json").write_text(json.dumps(config))
    safetensors.save_file(case.params, tmp_path / "checkpoint" / "model.safetensors")
    np.savez(tmp_path / "inputs.npz", inputs=case.inputs["inputs"], attention_mask=case.inputs["attention_mask"])


@pytest.mark.usefixtures("files_that_the_reader_has")
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


def test_the_table_of_the_format_has_every_key(tmp_path: Path) -> None:
    case = pr.vectors.Case({"peer": "hf", "class": "PerceiverModel", "config": {}, "dtype": "float64"})
    for arrays in vars(case).values():
        if arrays is not case.meta:
            arrays["name"] = np.zeros(1)
    pr.vectors.write_case(tmp_path / "case.npz", case)
    with np.load(tmp_path / "case.npz") as archive:
        groups = {key.partition("/")[0] for key in archive.files}
    table = re.search(r"^\| key \|.*?\n\n", README, re.DOTALL | re.MULTILINE)[0]
    first_cells = " ".join(re.findall(r"^\| (`.*?) \|", table, re.MULTILINE))
    assert set(re.findall(r"`(\w+)", first_cells)) == groups


def test_the_table_of_extras_has_every_extra() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", README.partition("## Extras")[2], re.MULTILINE)
    assert re.findall(r"`(\w+)`", " ".join(rows)) == list(extras)


def test_the_picture_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("terminal_svg", ROOT / "docs" / "terminal_svg.py")
    drawing = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(drawing)
    command = ["perceiver-ref", "check"]
    now = drawing.text(drawing.svg(command, drawing.output(command)))
    shown = drawing.text((ROOT / "docs" / "check.svg").read_text(encoding="utf-8"))
    numbers = r"\d\.\de[-+]\d\d"
    assert re.sub(numbers, "#", shown) == re.sub(numbers, "#", now), (
        "draw it again: python docs/terminal_svg.py docs/check.svg perceiver-ref check"
    )
