"""Writes docs/SPEC.md and docs/diagrams anew: `python docs/make specification docs`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from perceiver_ref.host.files import write_text

from .page import FIGURES, markdown
from .quotes import ROOT


def main(arguments: Sequence[str] | None = None) -> int:
    """The command: 0 when all is written."""
    parser = argparse.ArgumentParser(
        prog="python docs/make specification", description="Write SPEC.md and its diagrams into a folder."
    )
    parser.add_argument("folder", type=Path, help="the folder, docs in a clone of the repository")
    folder = parser.parse_args(arguments).folder
    if not (ROOT / "autograd").is_dir():
        parser.error("links lead to files of the repository: run this in a clone of it, installed with -e")
    (folder / "diagrams").mkdir(parents=True, exist_ok=True)
    for name, figure in FIGURES.items():
        write_text(folder / "diagrams" / f"{name}.svg", figure.svg())
    write_text(folder / "SPEC.md", markdown())
    return 0
