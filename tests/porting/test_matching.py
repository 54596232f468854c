"""Which arrays of two dumps are compared: by names, by shape and order, and in which layout."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from porting.dump_files import chain, compared, matched
from support import normal

from perceiver_ref.porting.compare.layouts import in_layout_of, same_shape_transposed
from perceiver_ref.porting.compare.matching import Entry, align, match


def entries(*names: str, seed: int = 0) -> list[Entry]:
    return [Entry("trace", name, normal(seed + ord(name[0]), 2, 3)) for name in names]


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


def test_an_output_is_found_among_points_in_other_pairs_already(tmp_path: Path) -> None:
    reference = {"trace/encoder": normal(0, 3), "output/last": normal(0, 3), "output/second": normal(1, 4)}
    candidate = {"other": normal(7, 3), "encoder": normal(0, 3) * (1 + 1e-12), "head": normal(1, 4)}
    for swapped in (False, True):
        result = compared(tmp_path, *((candidate, reference) if swapped else (reference, candidate)))
        pairs = [(p.other, p.name) if swapped else (p.name, p.other) for p in result.pairs]
        assert sorted(pairs) == [("encoder", "encoder"), ("output/last", "encoder"), ("output/second", "head")]
        assert result.passed


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


def test_the_same_shape_comes_before_the_same_sizes(tmp_path: Path) -> None:
    zeros = np.zeros((2, 3))  # whose values tell nothing
    assert matched(compared(tmp_path, {"a": zeros}, {"u": zeros.T, "v": zeros, "w": zeros.T})) == {"a": "v"}


def test_equal_values_come_together_across_a_pair_that_names_gave(tmp_path: Path) -> None:
    reference = {"only here": normal(0, 3), "same": normal(1, 3)}
    candidate = {"same": normal(1, 3), "only there": normal(0, 3)}
    result = compared(tmp_path, reference, candidate)
    assert matched(result) == {"only here": "only there", "same": "same"}
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
