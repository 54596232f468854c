"""More than one deviation at once, and deviations in half precision; planted as in `test_diagnose`, by other means."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from export.exported import subject_of
from porting.cases import case_of
from porting.diagnosing import diagnose, on_backend
from porting.test_diagnose import PLANTED, planted, swapped_halves, weights

from perceiver_ref.peers import Given, peer
from perceiver_ref.porting.cases import Case, read_case
from perceiver_ref.porting.cases.execution import run
from perceiver_ref.porting.deviations import Candidate
from perceiver_ref.porting.deviations.base import Change
from perceiver_ref.porting.diagnosis.ranking import in_rounds, placed
from perceiver_ref.porting.export.adversarial import rows
from perceiver_ref.porting.export.make import ExportOptions, make

pytestmark = on_backend

HALF = Path(__file__).parent / "half"
TRIPLE = ("q", "k", "v")
NAMES = {"q": "query", "k": "key", "v": "value"}
HEADS = 3
"""Of self-attention in hf/model_bare"""


def both(*changes: Callable[[Case], Case]) -> Callable[[Case], Case]:
    def change(case: Case) -> Case:
        for each in changes:
            case = each(case)
        return case

    return change


@pytest.mark.parametrize("traced", [False, True], ids=["outputs alone", "with traces"])
def test_three_at_once_are_named(traced: bool) -> None:
    change = both(
        PLANTED["all media before"][2],
        PLANTED["gates wide open"][2],
        weights(swapped_halves),
    )
    found = diagnose(planted("open-flamingo/gated_immediate", change, traced=traced))
    assert (found.verdict, sorted(found.causes)) == ("deviation", ["gate-missing", "key-value-swapped", "media-mask"])
    assert found.explanation[0].remaining < 1e-6


def test_two_before_the_same_point_are_both_named() -> None:
    """Neither sets the first point right alone."""
    change = both(
        weights(lambda name, a: 0 * a if name.endswith("value.bias") else a),
        weights(lambda name, a: a.reshape(a.shape[::-1]).T if name.endswith("self.query.weight") else a),
    )
    found = diagnose(planted("hf/model_mask_holes", change, traced=True))
    assert (found.verdict, sorted(found.causes)) == ("deviation", ["bias-missing", "weight-transposed"])
    assert found.explanation[0].remaining < 1e-6


def test_every_pair_comes_in_rounds_the_likeliest_first() -> None:
    sizes = {"a": 5, "b": 7, "c": 3}
    found = [
        Candidate(cause, f"number {i}{', in the decoder' * (i == 2)}", Change(), rare=i == 4)
        for cause, size in sizes.items()
        for i in range(size)
    ]
    places = placed(found)
    assert [place for place, _ in places] == sorted(place for place, _ in places)
    leaders = [(place, (candidate,)) for place, candidate in places]

    def beside(chosen: tuple[Candidate, ...]) -> list[tuple[int, Candidate]]:
        return placed([c for c in found if c.cause != chosen[0].cause])

    came = [(*chosen, c) for chosen, others in in_rounds([lambda: leaders], beside, 1024) for c in others]
    pairs = {frozenset((x, y)) for x in found for y in found if x.cause != y.cause}
    assert {frozenset(pair) for pair in came} == pairs
    place = {candidate: number for number, candidate in places}
    first = came[: next(i for i, pair in enumerate(came) if pair in came[:i])]  # a round begins with known ones
    assert len(first) < 2 * len(pairs)  # of either order
    assert max(place[x] for x, _ in first) <= 8
    assert came[0] == (found[0], beside((found[0],))[0][1])


# ----------------------------------------------------------------------------------------------------- maps as one


def fused(rows: np.ndarray, layout: str) -> np.ndarray:
    """The rows of queries, keys and values, (3, heads, d, ...), in the order that a map of this layout has them."""
    axes = {"(3 h d)": (0, 1, 2), "(h 3 d)": (1, 0, 2), "(h d 3)": (1, 2, 0), "(3 d h)": (0, 2, 1)}[layout]
    return rows.transpose(*axes, *range(3, rows.ndim)).reshape(-1, *rows.shape[3:])


def recut(order: str, layout: str) -> Callable[[Case], Case]:
    """Self-attention's maps stored as one, of this order and layout, and read as queries, keys, values."""

    def change(case: Case) -> Case:
        params = dict(case.params)
        for name in [n for n in params if ".self_attends." in n and ".self.query." in n]:
            own = {part: params[name.replace("query", NAMES[part])] for part in TRIPLE}
            rows = np.stack([own[part].reshape(HEADS, -1, *own[part].shape[1:]) for part in order])
            for part, array in zip(TRIPLE, np.split(fused(rows, layout), 3)):
                params[name.replace("query", NAMES[part])] = array
        return replace(case, params=params)

    return change


ORDERS = ("qvk", "kqv", "vkq", "kvq", "vqk")


@pytest.mark.parametrize("order", ORDERS)
def test_every_order_of_queries_keys_and_values_is_named(order: str) -> None:
    found = diagnose(planted("hf/model_bare", recut(order, "(3 h d)")))
    assert (found.verdict, found.causes) == ("deviation", ["key-value-swapped"])
    assert found.explanation[0].remaining < 1e-6


@pytest.mark.parametrize("layout", ["(h 3 d)", "(h d 3)", "(3 d h)"])
def test_every_layout_of_a_fused_map_is_named(layout: str) -> None:
    found = diagnose(planted("hf/model_bare", recut("qkv", layout)))
    assert (found.verdict, found.causes) == ("deviation", ["head-layout"])
    assert found.explanation[0].remaining < 1e-6


# -------------------------------------------------------------------------------------------------- half precision


def halves_changed(case: Case) -> Case:
    """The case's weights are such that the port, which PyTorch ran, had keys and values swapped."""
    other = {".k_proj.": ".v_proj.", ".v_proj.": ".k_proj."}
    params = dict(case.params)
    for ours, theirs in other.items():
        params |= {name: case.params[name.replace(ours, theirs)] for name in case.params if ours in name}
    return replace(case, params=params, cotangents={}, grad_params={}, grad_inputs={})


@pytest.mark.parametrize("traced", [False, True], ids=["outputs alone", "with traces"])
@pytest.mark.parametrize("name", ["resampler_bfloat16", "resampler_float16"])
def test_a_deviation_of_a_half_precision_run_is_named(name: str, traced: bool) -> None:
    case = halves_changed(read_case(HALF / f"{name}.npz"))
    found = diagnose(case if traced else replace(case, trace={}))
    assert (found.verdict, found.causes) == ("deviation", ["key-value-swapped"])


@pytest.mark.parametrize("name", ["resampler_bfloat16", "resampler_float16", "gated_bfloat16"])
def test_rounding_of_a_half_precision_run_is_not_accused(name: str) -> None:
    case = replace(read_case(HALF / f"{name}.npz"), cotangents={}, grad_params={}, grad_inputs={})
    for each in (case, replace(case, trace={})):
        found = diagnose(each)
        assert (found.verdict, found.causes) == ("rounding", [])


# -------------------------------------------------------------------------------------------------------- gradients


def test_two_wrong_gradients_are_both_named() -> None:
    """A finished gradient negated, and another left out: what no single rule makes."""
    case = case_of("lucidrains-flamingo/resampler_4d")
    grads = dict(case.grad_params)
    grads["latents"] = -grads["latents"]
    grads["norm.bias"] = 0 * grads["norm.bias"]
    found = diagnose(replace(case, grad_params=grads, trace={}))
    assert (found.verdict, sorted(found.causes)) == ("deviation", ["gradient-sign", "gradient-stopped"])


def test_a_scale_by_the_width_of_the_values_is_named() -> None:
    """Where heads of values are wider than those of queries: as if queries were larger by the root of that."""
    subject = subject_of("perceiver-io/language")
    case = make(subject, rows(subject)[0], ExportOptions(trace=False))
    widths = {p: a.shape[1] for p, a in case.params.items() if p.endswith("attention/value/weight")}
    params = dict(case.params)
    for path, array in params.items():
        place, _, rest = path.rpartition("/query/")
        if rest in ("weight", "bias") and place.endswith("attention"):
            params[path] = array * np.sqrt(array.shape[-1] / widths[f"{place}/value/weight"])
    assert all((params[p] != a).any() for p, a in case.params.items() if p.endswith("attention/query/weight"))
    rebuilt = peer("perceiver-ref").rebuild(case.meta["class"], Given(case.meta["config"]))
    made = run(rebuilt, params, case.inputs, {}).outputs
    found = diagnose(replace(case, outputs=made, cotangents={}, grad_params={}, grad_inputs={}))
    assert (found.verdict, list(found.causes)) == ("deviation", ["attention-scale"])
    assert "values of one head" in found.explanation[0].variant
