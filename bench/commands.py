"""Commands for cross-checking, as a process that has imported everything runs them."""

from __future__ import annotations

import atexit
import io
import json
import shutil
from contextlib import redirect_stdout
from itertools import cycle, islice
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np

import perceiver_ref as pr
from perceiver_ref.cli import main
from perceiver_ref.porting import cases as packaged

from .base import Built, Spec
from .case import COMMAND
from .cases import case


def build(spec: Spec) -> Built:
    """The command of a case, with `{cases}` for a folder of so many cases and `{out}` for one to write to."""
    row = case(spec.case).sizes(spec.quick)
    space = Path(mkdtemp(prefix="bench-"))
    atexit.register(shutil.rmtree, space, ignore_errors=True)
    command = [word.format(cases=space / "cases", out=space / "out") for word in row["command"]]

    def run(*arguments: str) -> Any:
        report = space / "report.json"
        with redirect_stdout(io.StringIO()) as said:
            code = main([*arguments, "--json", str(report)])
        if code:
            raise RuntimeError(f"{' '.join(arguments)}: exit code {code}: {said.getvalue()[-200:]}")
        return json.loads(report.read_text())

    if row.get("cases"):
        run("export", "--pack", str(space / "pack"))
        _fill(space / "cases", space / "pack", row["cases"])
    return Built(
        {COMMAND: lambda: run(*command)},
        {COMMAND: lambda report: np.array([float(len(report["cases"]))])},
        versions={"perceiver-ref": pr.__version__, "numpy": np.__version__},
    )


def _fill(folder: Path, pack: Path, count: int) -> None:
    """So many cases: those of the pack and of the package, again and again."""
    folder.mkdir()
    sources = [*sorted(pack.rglob("*.npz")), *sorted(Path(packaged.__file__).parent.rglob("*.npz"))]
    for i, source in enumerate(islice(cycle(sources), count)):
        shutil.copyfile(source, folder / f"{i}.npz")
