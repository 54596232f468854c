"""Writes docs/SPEC.md and docs/diagrams anew: `python -m perceiver_ref.specification docs`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..files import write_text
from .page import FIGURES, markdown
from .quotes import ROOT


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m perceiver_ref.specification", description="Write SPEC.md and its diagrams into a folder."
    )
    parser.add_argument("folder", type=Path, help="the folder, docs in a clone of the repository")
    folder = parser.parse_args().folder
    if not (ROOT / "autograd").is_dir():
        parser.error("links lead to files of the repository: run this in a clone of it, installed with -e")
    (folder / "diagrams").mkdir(parents=True, exist_ok=True)
    for name, figure in FIGURES.items():
        write_text(folder / "diagrams" / f"{name}.svg", figure.svg())
    write_text(folder / "SPEC.md", markdown())


if __name__ == "__main__":
    main()
