"""Draw a command and what it prints as a terminal window, in SVG.

    python docs/make terminal --after "Check a port" docs/diagnose.svg perceiver-ref diagnose port.npz

The command runs in a temporary folder, with the programs installed beside this Python first on its path, after the
Python of that section of the README.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from html import escape
from pathlib import Path

FONT_SIZE, LINE, MARGIN, BAR = 14, 20, 20, 34
CHARACTER = 8.43  # the advance of a monospaced glyph at this size; `textLength` makes other fonts keep to it
BACKGROUND, TEXT, DIM, GREEN, RED = "#0d1117", "#e6edf3", "#8b949e", "#3fb950", "#f85149"
FONTS = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', 'Liberation Mono', monospace"
COLOURS = {"pass": GREEN, "fail": RED, "deviation:": RED}


def output(command: list[str], section: str | None = None) -> str:
    """What the command prints, without the spaces at the ends of lines; `RuntimeError` for errors (exit code 2)."""
    beside = str(Path(sys.executable).parent)
    environment = {**os.environ, "PATH": os.pathsep.join([beside, os.environ.get("PATH", "")])}
    with tempfile.TemporaryDirectory() as folder:
        if section is not None:
            subprocess.run([sys.executable, "-c", python_of(section)], cwd=folder, env=environment, check=True)
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode > 1:
        raise RuntimeError(done.stderr)
    return "\n".join(line.rstrip() for line in done.stdout.splitlines())


def python_of(section: str) -> str:
    """The first block of Python in the README's section of this heading."""
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    found = re.search(rf"^## {re.escape(section)}\n.*?^```python\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    if found is None:
        raise ValueError(f"the README has no section {section!r} with a block of Python")
    return found[1]


def svg(command: list[str], printed: str) -> str:
    """The picture as SVG text."""
    lines = [f"$ {shlex.join(command)}", *printed.splitlines()]
    width = round(2 * MARGIN + CHARACTER * max(map(len, lines)))
    height = BAR + LINE * len(lines) + MARGIN
    dots = "".join(
        f'<circle cx="{MARGIN + 20 * i}" cy="{BAR / 2:g}" r="6" fill="{colour}"/>'
        for i, colour in enumerate(("#ff5f57", "#febc2e", "#28c840"))
    )
    rows = "\n".join(_row(i, line) for i, line in enumerate(lines) if line)
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">
<title>{escape(lines[0])}</title>
<style>text {{ font: {FONT_SIZE}px {FONTS}; white-space: pre; fill: {TEXT}; }}</style>
<rect width="{width}" height="{height}" rx="8" fill="{BACKGROUND}"/>
{dots}
{rows}
</svg>
"""


def text(picture: str) -> str:
    """The lines of a picture that `svg` drew, without the empty ones."""
    rows = re.findall(r"<text [^>]*>(.*?)</text>", picture)
    plain = [re.sub(r"<[^>]*>", "", row) for row in rows]
    return "\n".join(p.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&") for p in plain)


def _row(index: int, line: str) -> str:
    position = f'x="{MARGIN}" y="{BAR + LINE * index + FONT_SIZE}"'
    extent = f'textLength="{CHARACTER * len(line):.1f}" lengthAdjust="spacingAndGlyphs"'
    return f'<text {position} {extent} xml:space="preserve">{_coloured(escape(line, quote=False), index)}</text>'


def _coloured(line: str, index: int) -> str:
    if index == 0:
        return f'<tspan fill="{DIM}">$</tspan>{line[1:]}'
    return re.sub(
        rf"\b({'|'.join(COLOURS)})(?= )", lambda word: f'<tspan fill="{COLOURS[word[0]]}">{word[0]}</tspan>', line
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command: 0 when the picture is written."""
    parser = argparse.ArgumentParser(
        prog="python docs/make terminal", description="Draw a command and what it prints as a terminal window, in SVG."
    )
    parser.add_argument("picture", type=Path, help="the SVG file to write")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="the command and its arguments")
    parser.add_argument("--after", metavar="HEADING", help="section of the README whose Python runs first")
    options = parser.parse_args(arguments)
    if not options.command:
        parser.error("give the command to run after the name of the picture")
    options.picture.write_text(svg(options.command, output(options.command, options.after)), encoding="utf-8")
    return 0
