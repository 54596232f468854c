"""docs/EXACTNESS.md and the README's table: how exactly the reference gives what the other implementations gave.

In a clone of the repository, `python docs/make exactness` runs every case of the package and of
tests/vectors and writes both; `--cases FOLDER ...` runs others.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from perceiver_ref.errors import InputError
from perceiver_ref.host.files import check_apart, check_writable, replace_between, write_text
from perceiver_ref.models.flamingo import Flamingo, GatedCrossAttention, PerceiverResampler
from perceiver_ref.models.module import Module
from perceiver_ref.models.perceiver_ar import PerceiverAR
from perceiver_ref.models.perceiver_io import PerceiverIO
from perceiver_ref.models.resamplers import AttentionPool, Resampler
from perceiver_ref.peers.aurora import GivenLatents
from perceiver_ref.peers.chatterbox import TwicePerceiver
from perceiver_ref.peers.diffusers import TimeResampler
from perceiver_ref.peers.ip_adapter import FaceProjection
from perceiver_ref.peers.lucidrains.flamingo.palm import FlamingoPaLM
from perceiver_ref.peers.nemo import PerceiverEncoder
from perceiver_ref.peers.pulid import IDFormer
from perceiver_ref.peers.shape2vecset.model import SetAutoEncoder
from perceiver_ref.peers.transformers import edgetam, evolla
from perceiver_ref.porting.cases import PACKAGED, TOLERANCES, read_case
from perceiver_ref.porting.cases.execution import rebuild
from perceiver_ref.porting.check import check_case

BEGIN, END = "<!-- exactness: written by docs/make -->", "<!-- end of exactness -->"
MODELS: tuple[tuple[type[Module], str], ...] = (
    (PerceiverIO, "Perceiver, Perceiver IO"),
    (PerceiverAR, "Perceiver AR"),
    (PerceiverResampler, "resampler"),
    (GatedCrossAttention, "gated cross-attention"),
    (Flamingo, "Flamingo"),
    (FlamingoPaLM, "Flamingo"),
    (Resampler, "resampler"),
    (FaceProjection, "resampler"),
    (TimeResampler, "resampler"),
    (IDFormer, "resampler"),
    (AttentionPool, "attention pooler"),
    (TwicePerceiver, "attention pooler"),
    (evolla.Compressor, "resampler"),
    (evolla.Aligner, "gated cross-attention"),
    (edgetam.MemoryResampler, "resampler"),
    (GivenLatents, "resampler"),
    (PerceiverEncoder, "encoder of latents"),
    (SetAutoEncoder, "set auto-encoder"),
)
PARTS = "parts and functions"
"""What is none of the models."""
_HEAD = ("peer", "class", "model", "dtype", "cases", "outputs", "gradients")
_INTRO = """\
# How exactly

Each row is a class of another implementation: the number of cases made by running that implementation, with random
weights, and the largest error of the reference over all of them, on NumPy with the fast kernels. Outputs include traced
values and state; gradients are those of parameters and inputs. An error is the largest
difference in units of the reference's largest value, or of 1. Allowed for outputs and for gradients are {limits},
unless a case has its own.

This page is made by `python docs/make exactness`.
"""


@dataclass(frozen=True)
class Line:
    """A class in one dtype: how many cases there are of it, and the largest errors; None where nothing is compared."""

    peer: str
    cls: str
    model: str
    dtype: str
    cases: int
    outputs: float | None
    gradients: float | None


def measure(paths: Iterable[Path]) -> list[Line]:
    """Run every case; `InputError` for one that does not agree, since then there is nothing to show."""
    lines = []
    for path in paths:
        case = read_case(path)
        result = check_case(case, str(path))
        if result.status != "pass":
            raise InputError(f"{path} does not agree: perceiver-ref check {path} says where")
        model = model_of(rebuild(case)[0].model)
        errors = result.error("output", "trace", "state"), result.error("grad_param", "grad_input")
        lines.append(Line(case.meta["peer"], class_of(case.meta["class"]), model, case.meta["dtype"], 1, *errors))
    return merged(lines)


def model_of(model: Module) -> str:
    """What a rebuilt class is, as the README's table calls it."""
    return next((name for kind, name in MODELS if isinstance(model, kind)), PARTS)


def class_of(cls: str) -> str:
    """A class without its module path; what is no single name stays as it is."""
    return cls.rpartition(".")[2] if re.fullmatch(r"[\w.]+", cls) else cls.replace("|", "\\|")


def merged(lines: Iterable[Line]) -> list[Line]:
    """One line for those of the same peer, class, model and dtype: cases summed, errors the largest; sorted."""

    def key(line: Line) -> tuple[str, str, str, str]:
        return line.peer, line.cls, line.model, line.dtype

    made = []
    for same, found in groupby(sorted(lines, key=key), key):
        several = list(found)
        outputs = max((line.outputs for line in several if line.outputs is not None), default=None)
        gradients = max((line.gradients for line in several if line.gradients is not None), default=None)
        made.append(Line(*same, sum(line.cases for line in several), outputs, gradients))
    return made


def page(lines: Sequence[Line]) -> str:
    """docs/EXACTNESS.md."""
    limits = ", ".join(f"{k['output']:.0e} and {k['gradient']:.0e} in {dtype}" for dtype, k in TOLERANCES.items())
    rows = [(a.peer, f"`{a.cls}`", a.model, a.dtype, str(a.cases), _text(a.outputs), _text(a.gradients)) for a in lines]
    return "\n".join([_INTRO.format(limits=limits), *_table(_HEAD, rows), ""])


def lines_of(text: str) -> list[Line]:
    """The lines of a page that `page` made."""
    rows = re.findall(
        r"^\| ([\w-]+) \| `(.*)` \| (.*) \| (b?float\d+) \| (\d+) \| (\S+) \| (\S+) \|$", text, re.MULTILINE
    )
    return [Line(p, c, m, d, int(n), _number(a), _number(b)) for p, c, m, d, n, a, b in rows]


def readme_table(lines: Sequence[Line]) -> str:
    """The README's table, between its markers: one row for each peer, model and dtype."""
    rows = [
        (a.peer, a.model, a.dtype, str(a.cases), _text(a.outputs), _text(a.gradients))
        for a in merged(Line(a.peer, "", a.model, a.dtype, a.cases, a.outputs, a.gradients) for a in lines)
    ]
    head = tuple(name for name in _HEAD if name != "class")
    more = "Largest errors over all cases; each class has its row in [docs/EXACTNESS.md](docs/EXACTNESS.md)."
    return "\n".join([BEGIN, "", *_table(head, rows), "", more, "", END])


def case_files(folders: Sequence[Path]) -> list[Path]:
    """The cases below these folders; `InputError` where there are none."""
    found = [path for folder in folders for path in sorted(folder.rglob("*.npz"))]
    if not found:
        raise InputError(f"no .npz files in {', '.join(map(str, folders))}")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """The command: 0 when both files are written, 2 for bad input."""
    parser = argparse.ArgumentParser(prog="python docs/make exactness", description=__doc__)
    parser.add_argument(
        "--cases",
        nargs="+",
        type=Path,
        default=[PACKAGED, Path("tests/vectors")],
        metavar="DIR",
        help="folders of cases (default: the packaged ones and tests/vectors)",
    )
    parser.add_argument("--page", type=Path, default=Path("docs/EXACTNESS.md"), metavar="F", help="page to write")
    parser.add_argument("--readme", type=Path, default=Path("README.md"), metavar="F", help="README with the table")
    given = parser.parse_args(arguments)
    try:
        check_writable(given.page)
        check_apart({"--page": given.page, "--readme": given.readme}, ())
        readme = given.readme.read_text(encoding="utf-8")
        replace_between(readme, BEGIN, END, "", str(given.readme))
        lines = measure(case_files(given.cases))
        write_text(given.page, page(lines))
        write_text(given.readme, replace_between(readme, BEGIN, END, readme_table(lines), str(given.readme)))
    except (InputError, OSError) as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2
    print(f"{given.page} and {given.readme}: {sum(line.cases for line in lines)} cases of {len(lines)} classes")
    return 0


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def _text(error: float | None) -> str:
    return "-" if error is None else "0" if error == 0 else f"{error:.1e}"


def _number(text: str) -> float | None:
    return None if text == "-" else float(text)
