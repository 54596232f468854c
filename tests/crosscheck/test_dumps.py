"""Comparing two dumps: what is matched with what, how close is close enough, and where the first difference is."""

from __future__ import annotations

import json
from importlib.resources import files
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from models import small
from support import normal, on, random_parameters

from perceiver_ref import trace
from perceiver_ref.autograd.backend import to_host
from perceiver_ref.autograd.tensor import array_of
from perceiver_ref.call import Call
from perceiver_ref.crosscheck.dumps import Comparison, as_dump, compare_dumps, compare_files, read_dump
from perceiver_ref.crosscheck.layouts import in_layout_of, same_shape_transposed
from perceiver_ref.crosscheck.matching import Entry, align, match
from perceiver_ref.errors import InputError
from perceiver_ref.peers import Given, peer
from perceiver_ref.vectors import read_case
from perceiver_ref.vectors.npz import write_npz

PACKAGED = Path(str(files("perceiver_ref"))) / "vectors" / "packaged"
ROUNDING = 1e-15


def compared(folder: Path, reference: dict[str, Any], candidate: dict[str, Any], **options: Any) -> Comparison:
    for name, arrays in (("reference", reference), ("candidate", candidate)):
        write_npz(folder / f"{name}.npz", {key: np.asarray(array) for key, array in arrays.items()})
    return compare_files(folder / "reference.npz", folder / "candidate.npz", **options)


def chain(count: int = 4, *shape: int) -> dict[str, np.ndarray]:
    """Unrelated values with names in order."""
    return {f"layer.{i}": normal(i, *(shape or (2, 3))) for i in range(count)}


def matched(result: Comparison) -> dict[str, str]:
    return {pair.name: pair.other for pair in result.pairs}


def entries(*names: str, seed: int = 0) -> list[Entry]:
    return [Entry("trace", name, normal(seed + ord(name[0]), 2, 3)) for name in names]


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


def test_empty_arrays_and_scalars(tmp_path: Path) -> None:
    result = compared(tmp_path, {"none": np.zeros((0, 3)), "one": 2.0}, {"none": np.zeros((0, 3)), "one": 2.5})
    assert [pair.index for pair in result.pairs] == [None, ()]
    assert [pair.error for pair in result.pairs] == [0, 0.25]


# names


def test_names_count_before_shapes_and_order(tmp_path: Path) -> None:
    reference = chain()
    result = compared(tmp_path, reference, dict(reversed(reference.items())))
    assert matched(result) == {name: name for name in reference}
    assert result.passed
    assert any("different orders" in note for note in result.notes)


def test_names_spelled_alike() -> None:
    reference = entries("encoder.blocks.0", "x@0", "Mlp/norm")
    candidate = entries("mlp.norm", "module.encoder/~/blocks.0", "x")
    found = match(reference, candidate)
    assert [(m.reference, m.candidate, m.how) for m in found] == [
        (0, 1, "spelling"),
        (1, 2, "spelling"),
        (2, 0, "spelling"),
    ]


def test_plain_names_match_outputs_and_points_of_a_case(tmp_path: Path) -> None:
    reference = {"trace/x": normal(0, 3), "output/y": normal(1, 3)}
    result = compared(tmp_path, reference, {"y": normal(1, 3), "x": normal(0, 3)})
    assert matched(result) == {"x": "x", "output/y": "y"}
    assert result.passed


def test_what_is_in_one_dump_alone_is_said(tmp_path: Path) -> None:
    reference, candidate = chain(4), {"other": normal(9, 7), **chain(3)}
    result = compared(tmp_path, reference, candidate)
    assert (result.unmatched_reference, result.unmatched_candidate) == (["layer.3"], ["other"])
    assert result.passed  # a point that was not recorded is no mismatch


@pytest.mark.parametrize("key", ["output/y", "grad_param/w", "grad_input/x"])
def test_a_missing_output_or_gradient_is_a_mismatch(tmp_path: Path, key: str) -> None:
    group = key.partition("/")[0]
    both = {f"{group}/other": normal(0, 2)}
    result = compared(tmp_path, {**both, key: normal(1, 3)}, both)
    assert not result.passed
    assert result.missing == [key]
    plain = {"x": normal(2, 2)}  # which has no gradients, and of which no key is an output
    assert compared(tmp_path, {"trace/x": normal(2, 2), key: normal(1, 3)}, plain).missing == []


def test_a_prefix_alone_does_not_make_a_case_of_plain_names(tmp_path: Path) -> None:
    result = compared(tmp_path, {"input/x": normal(0, 3)}, {"input/x": normal(0, 3)})
    assert matched(result) == {"input/x": "input/x"}


# shapes and order


@given(st.lists(st.lists(st.sampled_from([-np.inf, 0.5, 1.0, 2.5, 3.0]), min_size=3, max_size=3), max_size=4))
def test_align_finds_the_largest_sum(rows: list[list[float]]) -> None:
    scores = np.array(rows).reshape(-1, 3)
    pairs = align(scores)
    assert pairs == sorted(pairs)
    assert len({i for i, _ in pairs}) == len({j for _, j in pairs}) == len(pairs)
    n, m = scores.shape
    every = (
        sum(scores[i, j] for i, j in zip(left, right))
        for k in range(min(n, m) + 1)
        for left in combinations(range(n), k)
        for right in combinations(range(m), k)
    )
    assert sum(scores[i, j] for i, j in pairs) == max(every)


@given(st.permutations(range(6)), st.integers(1, 5))
def test_arrays_without_common_names_are_found_by_their_values(order: list[int], count: int) -> None:
    """Some of a chain, in its order, under other names, slightly moved."""
    kept = sorted(order[:count])
    reference = [Entry("trace", f"a{i}", normal(i, 3, 4)) for i in range(6)]
    candidate = [Entry("trace", f"b{i}", normal(i, 3, 4) * 1.01) for i in kept]
    found = match(reference, candidate)
    assert [(m.reference, m.candidate) for m in found] == list(zip(kept, range(count)))
    assert {m.how for m in found} == {"order"}


def test_only_equal_shapes_are_aligned(tmp_path: Path) -> None:
    reference = {"a": normal(0, 2, 3), "b": normal(1, 4), "c": normal(2, 2, 3)}
    candidate = {"u": normal(0, 2, 3), "v": normal(3, 5), "w": normal(2, 2, 3)}
    result = compared(tmp_path, reference, candidate)
    assert matched(result) == {"a": "u", "c": "w"}
    assert (result.unmatched_reference, result.unmatched_candidate) == (["b"], ["v"])


def test_nothing_is_aligned_across_a_pair_that_names_gave(tmp_path: Path) -> None:
    reference = {"only here": normal(0, 3), "same": normal(1, 3)}
    candidate = {"same": normal(1, 3), "only there": normal(0, 3)}
    result = compared(tmp_path, reference, candidate)
    assert matched(result) == {"same": "same"}
    assert result.passed


def test_gradients_are_never_matched_with_points(tmp_path: Path) -> None:
    reference = {"output/y": normal(0, 3), "grad_input/x": normal(1, 3)}
    result = compared(tmp_path, reference, {"output/y": normal(0, 3), "output/z": normal(1, 3)})
    assert matched(result) == {"output/y": "output/y"}


def test_unnamed_channels_first_dump_of_a_channels_last_model(tmp_path: Path) -> None:
    reference = chain(5, 2, 4, 4, 3)
    candidate = {f"v{i}": array.transpose(0, 3, 1, 2) for i, array in enumerate(reference.values()) if i != 2}
    result = compared(tmp_path, reference, candidate)
    assert matched(result) == {"layer.0": "v0", "layer.1": "v1", "layer.3": "v3", "layer.4": "v4"}
    assert result.passed
    assert "channels first in the candidate, last in the reference" in result.pairs[0].note


# layouts


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x: x.transpose(0, 3, 1, 2), "channels first in the candidate, last in the reference"),
        (lambda x: x.transpose(0, 2, 3, 1), "channels last in the candidate, first in the reference"),
        (lambda x: x.transpose(0, 2, 1, 3), "axes 1 and 2 swapped"),
        (lambda x: x.transpose(3, 1, 0, 2), "order (2, 1, 3, 0)"),
        (lambda x: x[:, None], "instead of"),
        (lambda x: np.repeat(x[None], 3, axis=0), "there once for the whole batch in the reference"),
        (lambda x: x.reshape(2, 3, 20), "instead of"),
        (lambda x: x.transpose(0, 2, 1, 3).reshape(2, 4, 15), "axes 1 and 2 swapped"),
        (lambda x: x.reshape(2, 3, 2, 2, 5), "instead of"),
    ],
)
def test_layouts_are_recognised(change: Any, said: str) -> None:
    x = normal(0, 2, 3, 4, 5)
    layout = in_layout_of(change(x), x)
    assert np.array_equal(layout.array, x)
    assert said in layout.said


def test_a_batch_computed_once() -> None:
    x = np.repeat(normal(0, 1, 3, 4), 5, axis=0)
    layout = in_layout_of(x[0], x)
    assert np.array_equal(layout.array, x)
    assert layout.said == "there once for the whole batch in the candidate"
    assert in_layout_of(normal(0, 5, 3, 4), x[0]) is None  # rows that differ are not one row


@given(st.permutations(range(4)))
def test_every_order_of_axes_is_undone(order: list[int]) -> None:
    x = normal(0, 2, 3, 3, 2)  # equal sizes: the values decide
    moved = x.transpose(order)
    assert np.array_equal(in_layout_of(moved, x).array, moved if moved.shape == x.shape else x)


def test_other_values_of_the_same_size_are_no_other_layout() -> None:
    assert in_layout_of(normal(0, 4, 6), normal(1, 24)) is None
    assert in_layout_of(normal(0, 4, 6), normal(1, 5, 5)) is None


def test_a_transposition_that_shapes_hide_is_a_mismatch_with_a_hint(tmp_path: Path) -> None:
    x = normal(0, 2, 3, 3)
    result = compared(tmp_path, {"x": x}, {"x": x.transpose(0, 2, 1)})
    assert not result.passed
    assert result.first.note == "agrees with axes 1 and 2 swapped"
    assert same_shape_transposed(normal(1, 2, 3, 3), x, 1e-10) == ""


def test_another_shape_under_the_same_name_is_a_mismatch(tmp_path: Path) -> None:
    result = compared(tmp_path, {"x": normal(0, 2, 3), "y": normal(1, 2)}, {"x": normal(0, 2, 4), "y": normal(1, 2)})
    assert not result.passed
    assert result.first.candidate is None
    assert result.first.note == "shape [2, 3] in the reference, [2, 4] in the candidate"


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
        rebuilt.run(params, dict(case.inputs), case.meta["call"], Call(training=training, state=state, key=0))
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
