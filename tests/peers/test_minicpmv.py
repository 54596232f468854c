"""What MiniCPM-V's resamplers do: places of patches, padding, groups of frames; and what they refuse."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from peers.runs import Refused, changed, out, ran
from porting.cases import case_of
from support import assert_close, normal

from perceiver_ref import InputError
from perceiver_ref.peers.minicpmv import grid_sinusoids, sinusoids

NEW, GROW = "minicpmv/resampler25", "minicpmv/resampler25_grow"
IMAGES, TEMPORAL = "minicpmv/resampler45_images", "minicpmv/resampler45_temporal"
OLD, ADAPTIVE = "minicpmv/resampler2_interpolated", "minicpmv/resampler2_adaptive"


def test_places_by_their_definition() -> None:
    """Width first; sines, then cosines, of position / 10000^(i / (C / 4))."""
    table = grid_sinusoids(2, 3, 8, np.float64)
    assert table.shape == (6, 8)
    for y in range(2):
        for x in range(3):
            expected = []
            for place in (x, y):
                angles = [place / 10000 ** (i / 2) for i in range(2)]
                expected += [*map(math.sin, angles), *map(math.cos, angles)]
            assert_close(table[3 * y + x], np.array(expected))
    assert_close(
        sinusoids(np.array([5.0]), 4, np.float64)[0],
        np.array([math.sin(5), math.sin(0.05), math.cos(5), math.cos(0.05)]),
    )


def test_padding_changes_nothing(backend: str) -> None:
    case = case_of(NEW)
    x, sizes = case.inputs["x"], case.inputs["tgt_sizes"]
    whole = out(case, backend)
    spoiled = x.copy()
    for row, count in zip(spoiled, sizes.prod(1)):
        row[count:] = 1e3
    assert_close(out(case, backend, x=spoiled), whole)
    for i, count in enumerate(sizes.prod(1)):
        alone = out(case, backend, x=x[i : i + 1, :count], tgt_sizes=sizes[i : i + 1])
        assert_close(alone[0], whole[i])


def test_the_largest_size_changes_nothing(backend: str) -> None:
    case = case_of(GROW)
    for most in ([1, 1], [70, 70]):
        case.meta["config"]["max_size"] = most
        assert_close(out(case, backend), case.outputs["out"])


def test_an_image_without_patches_is_nan(backend: str) -> None:
    case = case_of(NEW)
    sizes = case.inputs["tgt_sizes"].copy()
    sizes[1] = (0, 3)
    with np.errstate(invalid="ignore"):
        made = out(case, backend, tgt_sizes=sizes)
    assert np.isnan(made[1]).all()
    assert np.isfinite(made[[0, 2]]).all()


def test_positions_are_for_keys_alone(backend: str) -> None:
    traced = ran(case_of(NEW), backend).trace
    p = case_of(NEW).params
    width = p["query"].shape[1]
    values = (
        traced["pool.features_norm"] @ p["attn.in_proj_weight"][2 * width :].T + p["attn.in_proj_bias"][2 * width :]
    )
    assert_close(traced["pool.attention.value"], values)
    keys = traced["pool.features_norm"] @ p["attn.in_proj_weight"][width : 2 * width].T
    assert np.abs(traced["pool.attention.key"] - keys - p["attn.in_proj_bias"][width : 2 * width]).max() > 0.1


# 2.0.


def test_without_a_size_the_grid_is_square(backend: str) -> None:
    for name in (OLD, ADAPTIVE):
        case = case_of(name)
        x = normal(0, 3, 4, case.inputs["x"].shape[-1])
        made = [out(case, backend, call, x=x, attn_mask=None) for call in ({}, {"tgt_sizes": [2, 2]}, {"tgt_sizes": 2})]
        assert_close(made[0], made[1], tolerance=0)
        assert_close(made[0], made[2], tolerance=0)
        given = out(case, backend, {}, x=x, attn_mask=None, tgt_sizes=np.array([2, 2]))
        assert_close(made[0], given, tolerance=0)


def test_the_table_itself_serves_its_own_grid(backend: str) -> None:
    case = case_of(OLD)
    x = normal(0, 2, 9, 7)
    traced = ran(case, backend, {"tgt_sizes": [3, 3]}, x=x, attn_mask=None).trace
    p = case.params
    inputs = traced["pool.features_norm"] + p["pos_embed"]
    assert_close(
        traced["pool.attention.key"], inputs @ p["attn.in_proj_weight"][12:24].T + p["attn.in_proj_bias"][12:24]
    )


def test_masks_of_2_0(backend: str) -> None:
    """True leaves out, a number is added, each head may have its own, and a query without any patch is NaN."""
    case = case_of(OLD)
    mask, call = case.inputs["attn_mask"], case.meta["call"]
    assert_close(out(case, backend, attn_mask=np.where(mask, -np.inf, 0.0)), case.outputs["out"])
    heads = np.repeat(mask[None], len(case.inputs["x"]) * 2, 0)
    assert_close(out(case, backend, attn_mask=heads), case.outputs["out"])
    mask = mask.copy()
    mask[4] = True
    with np.errstate(invalid="ignore"):
        made = out(case, backend, call, attn_mask=mask)
    assert np.isnan(made[:, 4]).all()
    assert np.isfinite(np.delete(made, 4, 1)).all()


# 4.5.


def test_frames_of_a_group_are_read_as_one_set(backend: str) -> None:
    """Their order in the group is of no matter, and a group of one frame is that frame alone."""
    case = case_of(TEMPORAL)
    order = [0, 2, 1, 3]
    inputs = {name: array[order] for name, array in case.inputs.items()}
    made = out(case, backend, {"temporal_ids": [[5], [3, -1], [0]]}, **inputs)
    assert_close(made, case.outputs["out"])
    single = out(case, backend, {"temporal_ids": None})
    assert_close(made[[0, 2]], single[[0, 3]])


def test_without_times_nothing_is_merged(backend: str) -> None:
    case = case_of(IMAGES)
    for call in ({}, {"temporal_ids": None}, {"temporal_ids": [[-1, -1, -1]]}):
        assert_close(out(case, backend, call), case.outputs["out"])


def test_an_empty_group_is_nan(backend: str) -> None:
    case = case_of(TEMPORAL)
    with np.errstate(invalid="ignore"):
        made = out(case, backend, {"temporal_ids": [[5], [], [-1, 3], [0]]})
    assert np.isnan(made[1]).all()
    assert_close(made[[0, 2, 3]], case.outputs["out"])


REFUSED: list[Refused] = [
    (NEW, {"embed_dim": 10}, None, {}, "embed_dim (10) must be divisible by 4"),
    (NEW, {"grid_size": 3}, None, {}, "unknown option of Resampler2_5 'grid_size'"),
    (NEW, {"num_heads": 5}, None, {}, "number of heads (5)"),
    (NEW, {}, None, {"tgt_sizes": None}, "needs the argument 'tgt_sizes'"),
    (NEW, {}, None, {"tgt_sizes": np.ones((2, 2), int)}, "tgt_sizes must be whole numbers of shape (3, 2)"),
    (NEW, {}, None, {"tgt_sizes": np.ones((3, 2))}, "tgt_sizes must be whole numbers of shape (3, 2)"),
    (NEW, {}, None, {"tgt_sizes": -np.ones((3, 2), int)}, "tgt_sizes must be whole numbers of shape (3, 2)"),
    (OLD, {}, {"tgt_sizes": [2, 4]}, {}, "tgt_sizes must be (height, width) of the 10 patches, got [2, 4]"),
    (OLD, {}, {}, {}, "tgt_sizes must be (height, width) of the 10 patches, got 3"),
    (OLD, {}, None, {"attn_mask": np.zeros((3, 10), bool)}, "attn_mask must be (queries, patches) = (9, 10)"),
    (OLD, {}, None, {"attn_mask": np.zeros((9, 10), int)}, "must be bool (True = masked) or floating point"),
    (TEMPORAL, {}, {"temporal_ids": [[5], [-1, 3]]}, {}, "temporal_ids has 3 times for 4 frames"),
    (TEMPORAL, {}, {"temporal_ids": [[6], [-1, 3], [0]]}, {}, "times must be below max_temporal_size (6), got 6"),
    (TEMPORAL, {}, {"temporal_ids": [[-2], [-1, 3], [0]]}, {}, "whole numbers of at least -1"),
    (TEMPORAL, {}, {"temporal_ids": [5, -1, 3, 0]}, {}, "temporal_ids must be lists"),
    (TEMPORAL, {}, None, {"x": normal(0, 4, 9, 7)}, "x must have as many patches as its largest image, 8; got 9"),
]


@pytest.mark.parametrize("row", REFUSED, ids=[row[-1] for row in REFUSED])
def test_it_is_refused_in_one_line(row: Refused) -> None:
    with pytest.raises(InputError, match=re.escape(row[-1])) as raised:
        changed(row)
    assert "\n" not in str(raised.value)
