"""Comparing two dumps: what is matched with what, how close is close enough, and where the first difference is."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import small
from porting.dump_files import compared, matched
from support import normal, on, random_parameters

from perceiver_ref import trace
from perceiver_ref.autograd.backend import to_host
from perceiver_ref.autograd.core import array_of
from perceiver_ref.errors import InputError
from perceiver_ref.models.call import Call
from perceiver_ref.peers import Given, peer
from perceiver_ref.porting.cases import read_case
from perceiver_ref.porting.compare.dumps import as_dump, compare_dumps, compare_files, read_dump
from perceiver_ref.weights.formats.npz import write_npz

PACKAGED = Path(str(files("perceiver_ref"))) / "porting" / "cases" / "packaged"
ROUNDING = 1e-15


# errors and the first difference


def test_errors_ratios_and_the_first_difference(tmp_path: Path) -> None:
    reference = {"a": [1.0, 2.0], "b": [0.5, 0.25], "c": [4.0, -8.0], "d": [0.0, 1.0]}
    candidate = {"a": [1.0, 2.0], "b": [0.5, 0.25 + 2**-20], "c": [4.0, -8.0 + 2**-5], "d": [0.0, 1 + 2**-6]}
    result = compared(tmp_path, reference, candidate, tolerance=2**-16)
    assert [pair.error for pair in result.pairs] == [0, 2**-20, 2**-8, 2**-6]  # relative to 1 or the largest value
    assert [pair.largest for pair in result.pairs] == [0, 2**-20, 2**-5, 2**-6]
    assert [pair.ratio for pair in result.pairs] == [None, None, 2**12, 4]
    assert (result.first.name, result.before_first.name, result.worst.name) == ("c", "b", "d")
    assert result.first.index == (1,)
    assert not result.passed
    assert compared(tmp_path, reference, candidate, tolerance=2**-6).passed


@pytest.mark.parametrize(
    ("dtypes", "error", "passes"),
    [
        (("float64", "float64"), 3e-10, False),
        (("float64", "float32"), 5e-6, True),
        (("float32", "float32"), 3e-5, False),
        (("float32", "float16"), 1e-3, True),
        (("float16", "float16"), 1e-2, False),
    ],
)
def test_the_coarser_dtype_says_what_agrees(
    tmp_path: Path, dtypes: tuple[str, str], error: float, passes: bool
) -> None:
    a, b = (np.array([0.5, x], dtype) for x, dtype in zip((0.25, 0.25 + error), dtypes))
    result = compared(tmp_path, {"x": a}, {"x": b})
    assert result.passed is passes
    assert result.pairs[0].dtypes == dtypes


def test_gradients_have_their_own_tolerance_and_come_last(tmp_path: Path) -> None:
    reference = {"grad_param/w": [1.0], "output/y": [1.0], "trace/x": [1.0]}
    result = compared(tmp_path, reference, {key: [1 + 1e-9] for key in reference})
    assert [(pair.name, pair.passed) for pair in result.pairs] == [
        ("x", False),
        ("output/y", False),
        ("grad_param/w", True),
    ]
    assert result.pairs[2].ratio is None


def test_a_case_may_state_its_tolerance(tmp_path: Path) -> None:
    meta = json.dumps({"tolerance": {"output": 0.5}})
    assert compared(tmp_path, {"meta": meta, "output/y": [1.0]}, {"output/y": [1.25]}).passed
    strict = {"meta": json.dumps({"tolerance": {"output": 0.1}}), "output/y": [1.25]}
    assert compared(tmp_path, {"meta": meta, "output/y": [1.0]}, strict).passed  # of two, the larger
    assert not compared(tmp_path, strict, {"output/y": [1.0]}).passed


def test_integers_must_be_equal_even_where_float64_cannot_tell(tmp_path: Path) -> None:
    big = 1 << 60
    assert compared(tmp_path, {"ids": [big, 1]}, {"ids": [big, 1]}).passed
    assert not compared(tmp_path, {"ids": [big, 1]}, {"ids": [big + 1, 1]}).passed
    assert not compared(tmp_path, {"mask": [True, False]}, {"mask": [True, True]}).passed


def test_nan_and_infinities(tmp_path: Path) -> None:
    nan, inf = np.nan, np.inf
    result = compared(tmp_path, {"x": [nan, inf, 1.0]}, {"x": [nan, inf, 1.0]})
    assert result.passed
    assert result.pairs[0].note == "1 NaN in both; 1 infinite in both"
    result = compared(tmp_path, {"x": [[0.0, 1.0], [2.0, 3.0]]}, {"x": [[5.0, 1.0], [nan, 3.0]]})
    assert result.first.error == inf
    assert result.first.index == (1, 0)
    assert result.first.note == "1 NaN in the candidate alone, first at [1, 0]"
    result = compared(tmp_path, {"x": [inf, 1.0]}, {"x": [-inf, 1.0]})
    assert not result.passed
    assert result.first.index == (0,)


def test_values_near_the_end_of_the_range(tmp_path: Path) -> None:
    huge = np.array([[1.7e308, -1.7e308], [1.0, 2.0]])
    for name in ("x", "y"):  # by name, and by shape and order
        assert compared(tmp_path, {"x": huge}, {name: huge}).passed
        result = compared(tmp_path, {"x": huge}, {name: -huge})
        assert not result.passed
        assert result.first.error == np.inf
        assert result.first.index == (0, 0)


def test_empty_arrays_and_scalars(tmp_path: Path) -> None:
    result = compared(tmp_path, {"none": np.zeros((0, 3)), "one": 2.0}, {"none": np.zeros((0, 3)), "one": 2.5})
    assert [pair.index for pair in result.pairs] == [None, ()]
    assert [pair.error for pair in result.pairs] == [0, 0.25]


# cases of known peers


def our_trace(path: Path, folder: Path) -> dict[str, np.ndarray]:
    """The reference's own trace of a case, in the order of computation."""
    case = read_case(path)
    arrays = case.params | case.state
    shapes = [{name: array.shape for name, array in part.items()} for part in (case.inputs, arrays)]
    rebuilt = peer(case.meta["peer"]).rebuild(
        case.meta["class"], Given(case.meta["config"], *shapes, case.meta["call"])
    )
    params, state = rebuilt.load({n: a for n, a in arrays.items() if n not in case.meta["tied"]}, "case")
    training = bool(case.meta["call"].get("is_training", False))
    with trace() as traced:
        rebuilt.run(
            rebuilt.model, params, dict(case.inputs), case.meta["call"], Call(training=training, state=state, key=0)
        )
    write_npz(folder / "ours.npz", dict(traced))
    return dict(traced)


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("name", ["hf/masked_lm", "deepmind/mlm_different_masks"])
def test_names_of_a_known_peer_are_translated(tmp_path: Path, name: str, swapped: bool) -> None:
    path = PACKAGED / f"{name}.npz"
    traced = our_trace(path, tmp_path)
    pair = [path, tmp_path / "ours.npz"]
    result = compare_files(*(reversed(pair) if swapped else pair))
    assert result.passed
    assert result.worst.error < 100 * ROUNDING
    points = {p.other if swapped else p.name for p in result.pairs if p.how == "translated"}
    assert points == set(read_case(path).trace)
    ours = [p.name if swapped else p.other for p in result.pairs if p.how == "translated"]
    assert ours == [name for name in traced if name in ours]  # in the order of computation


def test_a_fault_is_found_at_its_point(tmp_path: Path) -> None:
    traced = our_trace(PACKAGED / "hf" / "masked_lm.npz", tmp_path)
    names = list(traced)
    for name in names[names.index("encoder.blocks.0.1") :]:
        traced[name] = traced[name] + 1e-3
    write_npz(tmp_path / "wrong.npz", traced)
    result = compare_files(PACKAGED / "hf" / "masked_lm.npz", tmp_path / "wrong.npz")
    assert (result.first.name, result.first.other) == ("perceiver.encoder.self_attends.1", "encoder.blocks.0.1")
    assert result.before_first.other == "encoder.blocks.0.0"


@pytest.mark.parametrize(
    ("meta", "note"),
    [
        ({"peer": "someone", "class": "Perceiver", "config": {}}, "unknown peer"),
        ({"peer": "hf", "class": "Nobody", "config": {}}, "unknown class"),
        ({"peer": "hf", "class": "PerceiverModel", "config": {"num_latents": "many"}}, "not translated"),
        ([1], "no JSON object"),
    ],
)
def test_a_meta_that_says_nothing_useful_is_noted(tmp_path: Path, meta: Any, note: str) -> None:
    result = compared(tmp_path, {"meta": json.dumps(meta), "trace/x": [1.0]}, {"x": [1.0]})
    assert result.passed
    assert note in " ".join(result.notes)


def test_dumps_need_no_files(backend: str) -> None:
    encoder = small.encoder()
    p, inputs = on(backend, [random_parameters(encoder), normal(1, 2, 5, 6)])
    with trace(tensors=True) as ours:
        encoder.apply(p, inputs)
    mine = {name.replace(".", "/"): to_host(array_of(array)) for name, array in ours.items()}
    result = compare_dumps(as_dump(ours, "ours"), as_dump(mine, "mine"))
    assert result.passed
    assert {pair.how for pair in result.pairs} == {"name", "spelling"}
    assert len(result.pairs) == len(ours)


def every_case() -> list[Path]:
    """Packaged cases with traces."""
    return [path for path in sorted(PACKAGED.glob("*/*.npz")) if read_case(path).trace]


@pytest.mark.parametrize("path", every_case(), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_our_trace_of_every_packaged_case_matches_it(tmp_path: Path, path: Path) -> None:
    """Every point of the peer finds ours, and nothing that is not meant to be the same is compared."""
    our_trace(path, tmp_path)
    for pair in ([path, tmp_path / "ours.npz"], [tmp_path / "ours.npz", path]):
        result = compare_files(*pair)
        assert result.passed, result.first
        assert set(read_case(path).trace) <= {p.name if pair[0] == path else p.other for p in result.pairs}


# bad input


@pytest.mark.parametrize(
    ("arrays", "text"),
    [
        ({}, "it holds nothing"),
        ({"meta": "{}", "param/w": [1.0], "input/x": [1.0]}, "only input, param"),
        ({"note": "text"}, "only note"),
    ],
)
def test_files_with_nothing_to_compare(tmp_path: Path, arrays: dict[str, Any], text: str) -> None:
    write_npz(tmp_path / "x.npz", {key: np.asarray(value) for key, value in arrays.items()})
    with pytest.raises(InputError, match=text):
        read_dump(tmp_path / "x.npz")


def test_dumps_without_anything_in_common(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"can be matched.*such as a \[2\] and b \[3\]"):
        compared(tmp_path, {"a": normal(0, 2)}, {"b": normal(1, 3)})


@pytest.mark.parametrize("array", [np.array([1j]), np.array([None])])
def test_numbers_of_other_kinds_are_refused(array: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"mine: 'x' has dtype"):
        as_dump({"x": array}, "mine")


def test_names_that_cannot_be_printed_are_escaped(tmp_path: Path) -> None:
    result = compared(tmp_path, {"a\nb\x1b[2J": [1.0]}, {"a\nb\x1b[2J": [1.0]})
    assert result.pairs[0].name == r"a\nb\x1b[2J"


def test_text_is_left_out_with_a_note(tmp_path: Path) -> None:
    result = compared(tmp_path, {"x": [1.0], "remark": "text"}, {"x": [1.0]})
    assert matched(result) == {"x": "x"}
    assert "text is not compared: remark" in result.notes[0]
