"""Where the case files are, and copies of one that a test may spoil."""

from __future__ import annotations

import copy
from pathlib import Path

import perceiver_ref
from perceiver_ref.porting.cases import Case, read_case

PACKAGED = Path(perceiver_ref.__file__).parent / "porting/cases/packaged"
TESTED = Path(__file__).parents[1] / "vectors"
FILES = sorted([*PACKAGED.rglob("*.npz"), *TESTED.rglob("*.npz")])


def path_of(name: str) -> Path:
    """The file of the case called `name`, such as "hf/model_bare"."""
    return next(path for path in FILES if path.with_suffix("").as_posix().endswith(name))


def case_of(name: str) -> Case:
    """A copy of that case, to be changed at will."""
    return copy.deepcopy(read_case(path_of(name)))


def label(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"
