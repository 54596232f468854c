"""The README: its code runs, its output is what is printed, its links lead to files, its picture is up to date.

Blocks of Python and shell run in order, all of a section in one empty folder. An HTML comment before a block may say
`not run: <why>` or `exit code <n>`. A block of text after a block is how what that prints begins.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

import perceiver_ref as pr

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TEST_COMMAND = "the test command"
NUMBER = r"\b\d+\.\d+(?:e[-+]\d+)?"


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and the comment before it."""

    language: str
    text: str
    comment: str

    @property
    def runs(self) -> bool:
        return self.language in ("python", "sh") and not self.comment.startswith(("not run: ", TEST_COMMAND))


def blocks(markdown: str) -> list[Block]:
    pattern = r"(?:^<!-- ([^\n]*) -->\n)?^```(\w*)\n(.*?)^```$"
    found = re.findall(pattern, markdown, re.MULTILINE | re.DOTALL)
    return [Block(language, text, comment) for comment, language, text in found]


SECTIONS = {
    section.partition("\n")[0]: blocks(section)
    for section in re.split(r"^## ", README, flags=re.MULTILINE)
    if any(block.runs for block in blocks(section))
}


def run(block: Block, folder: Path) -> str:
    """What a block prints; fails when it exits with another code than its comment says (0 when it says none)."""
    beside = str(Path(sys.executable).parent)
    environment = {**os.environ, "PATH": os.pathsep.join([beside, os.environ["PATH"]])}
    shell = ["bash", "-euo", "pipefail", "-c", block.text]
    command = [sys.executable, "-W", "error", "-c", block.text] if block.language == "python" else shell
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    code = re.fullmatch(r"exit code (\d+)", block.comment)
    assert done.returncode == (int(code[1]) if code else 0), f"{block.text}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def assert_same(shown: str, printed: str) -> None:
    """The same text, and numbers within a tenth; below 1e-9 they are rounding, and any will do."""
    lines = shown.splitlines()
    printed = "\n".join(line.rstrip() for line in printed.splitlines()[: len(lines)])
    assert re.sub(NUMBER, "#", printed) == re.sub(NUMBER, "#", "\n".join(lines))
    for a, b in zip(re.findall(NUMBER, shown), re.findall(NUMBER, printed)):
        assert max(float(a), float(b)) < 1e-9 or math.isclose(float(a), float(b), rel_tol=0.1), (a, b)


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
        elif block.runs:
            printed = run(block, tmp_path)


def test_every_block_has_a_language_and_known_comments() -> None:
    for block in blocks(README):
        assert block.language in ("python", "sh", "text")
        assert re.fullmatch(rf"|not run: .+|exit code \d+|{TEST_COMMAND}", block.comment), block.comment
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
