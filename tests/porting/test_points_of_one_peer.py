"""Two dumps by one peer's names: different points of it are no pair, and a point that one has not recorded is no
mismatch."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import numpy as np
from support import normal

from perceiver_ref.porting.cases import read_case
from perceiver_ref.porting.compare.dumps import compare_files
from perceiver_ref.weights.formats.npz import write_npz

CASE = Path(str(files("perceiver_ref"))) / "porting/cases/packaged/hf/masked_lm.npz"
LEAVES = ("query", "key", "value")
PATH = "perceiver.encoder.self_attends.{}.attention.self.{}"


def leaves() -> dict[str, np.ndarray]:
    """Points that the case does not have, of the shape of those that it has."""
    shape = read_case(CASE).trace["perceiver.encoder"].shape
    return {PATH.format(i, name): normal(i, *shape) for i in range(2) for name in LEAVES}


def test_points_of_other_names_are_no_pairs(tmp_path: Path) -> None:
    case = read_case(CASE)
    write_npz(tmp_path / "mine.npz", {**leaves(), "output/logits": case.outputs["logits"]})
    result = compare_files(CASE, tmp_path / "mine.npz")
    assert [(pair.name, pair.passed) for pair in result.pairs] == [("output/logits", True)]
    assert set(result.unmatched_candidate) == set(leaves())
    assert result.alone == ""


def test_other_names_are_still_matched_in_order(tmp_path: Path) -> None:
    """What the peer does not know may be any point; and where nothing else is said most must be found."""
    case = read_case(CASE)
    shape = case.trace["perceiver.encoder"].shape
    write_npz(tmp_path / "mine.npz", {"layer": normal(0, *shape), "output/logits": case.outputs["logits"]})
    assert {pair.how for pair in compare_files(CASE, tmp_path / "mine.npz").pairs} == {"name", "order"}
    write_npz(
        tmp_path / "mine.npz", {f"x{i}": normal(i, 2, 3 + i) for i in range(4)} | {"logits": case.outputs["logits"]}
    )
    result = compare_files(CASE, tmp_path / "mine.npz")
    assert (result.alone, result.passed) == ("candidate", False)


def test_a_wrong_point_of_the_same_name_differs(tmp_path: Path) -> None:
    case = read_case(CASE)
    name = PATH.rpartition(".attention")[0].format(1)
    wrong = {**leaves(), name: case.trace[name] + 0.01, "output/logits": case.outputs["logits"]}
    write_npz(tmp_path / "mine.npz", wrong)
    result = compare_files(CASE, tmp_path / "mine.npz")
    assert {pair.name: pair.passed for pair in result.pairs} == {name: False, "output/logits": True}
