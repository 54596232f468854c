"""Fenced blocks of Markdown pages: finding them, running them, and holding what they print against what is shown.

An HTML comment before a block may say `not run: <why>`, `needs <program>` or `exit code <n>`. A block of text after a
block is how what that prints begins.
"""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NUMBER = r"\b\d+\.\d+(?:e[-+]\d+)?"
ROUNDED = rf"(?m:{NUMBER}|\b\d+e[-+]\d+|(?<= )\d+$)"
"""Those and whole numbers at the end of a line, of which %.2g makes some: how many times rounding an error is."""
NEEDS = r"needs (\w+)"
COMMENT = rf"|not run: .+|exit code (\d+)|{NEEDS}"
"""What the comment before a block may be, on any page."""


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and the comment before it."""

    language: str
    text: str
    comment: str

    @property
    def code(self) -> int:
        """The exit code that it should end with."""
        found = re.fullmatch(r"exit code (\d+)", self.comment)
        return int(found[1]) if found else 0


def blocks(markdown: str) -> list[Block]:
    """The blocks of a page in their order."""
    pattern = r"(?:^<!-- ([^\n]*) -->\n)?^```(\w*)\n(.*?)^```$"
    found = re.findall(pattern, markdown, re.MULTILINE | re.DOTALL)
    return [Block(language, text, comment) for comment, language, text in found]


def runs(block: Block, *special: str) -> bool:
    """Whether it is code to run; blocks with a comment of `special` are run elsewhere."""
    return block.language in ("python", "sh") and not block.comment.startswith(("not run: ", *special))


def environment() -> dict[str, str]:
    """The variables of this process, the programs installed beside this Python coming first."""
    beside = str(Path(sys.executable).parent)
    return {**os.environ, "LC_ALL": "C.UTF-8", "PATH": os.pathsep.join([beside, os.environ["PATH"]])}


def shell(text: str) -> list[str]:
    """The command that runs a block of sh, which ends at the first error."""
    return ["bash", "-euo", "pipefail", "-c", text]


def run(block: Block, folder: Path) -> str:
    """What a block prints in a process of its own; fails when it exits with another code than its comment says."""
    command = [sys.executable, "-W", "error", "-c", block.text] if block.language == "python" else shell(block.text)
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == block.code, f"{block.text}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def run_page(chosen: list[Block], folder: Path) -> list[str]:
    """What each block prints, all of Python in one process and one namespace; fails at the first that goes wrong."""
    given = json.dumps([vars(block) | {"code": block.code} for block in chosen])
    command = [sys.executable, "-W", "error", str(Path(__file__).with_name("page.py"))]
    done = subprocess.run(
        command, input=given, cwd=folder, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    printed: list[str] = json.loads(done.stdout.splitlines()[-1])
    return printed


def assert_same(shown: str, printed: str) -> None:
    """The same text, and numbers within a tenth; below 1e-9 they are rounding, and any will do.

    Where it is said what rounding makes, which hangs on the machine, within a factor of two.
    """
    lines = shown.splitlines()
    printed = "\n".join(line.rstrip() for line in printed.splitlines()[: len(lines)])
    shown = "\n".join(lines)
    assert without_numbers(printed) == without_numbers(shown), f"shown:\n{shown}\nprinted:\n{printed}"
    of_rounding = "rounding" in shown
    within, number = (0.5, ROUNDED) if of_rounding else (0.1, NUMBER)
    for a, b in zip(re.findall(number, shown), re.findall(number, printed)):
        small = max(float(a), float(b)) < 1e-9
        assert small or math.isclose(float(a), float(b), rel_tol=within), f"shown: {a}, printed: {b}"


def without_numbers(text: str) -> str:
    """A text with # for each number, and one blank where columns make many."""
    return re.sub(" +", " ", re.sub(ROUNDED if "rounding" in text else NUMBER, "#", text))
