"""A parameter without a gradient for some updates: as PyTorch has it, those do not exist for it."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from optim.test_optimizers import MAKERS
from support import assert_close, host, on

from perceiver_ref.autograd import kernels, optim, tree
from perceiver_ref.autograd.optim import Optimizer

STEPS = [1.0, -2.0, 0.5, 3.0, -1.0, 2.0]
"""The gradient of step i is (g, g / 4 + 0.1)."""
GIVEN = {"a": "111111", "b": "000111", "c": "101010", "d": "000000"}
"""Which steps have a gradient of a parameter."""

PYTORCH: dict[str, tuple[Callable[[], Optimizer], dict[str, list[float]]]] = {
    # what PyTorch 2.13's optimizers make of parameters that start at (1, -0.5)
    "Adam": (
        lambda: optim.adam(0.1),
        {
            "a": [0.8548550658336624, -0.7538487674983703],
            "b": [0.7996694944519462, -0.7231923283883293],
            "c": [0.7957037312938717, -0.7451752947798088],
        },
    ),
    "Adam with decay": (
        lambda: optim.adam(0.1, b1=0.8, b2=0.95, weight_decay=0.1),
        {
            "a": [0.8223172799532554, -0.6988883990846922],
            "b": [0.7991539847200628, -0.7052719420392177],
            "c": [0.7950131027853171, -0.7119668299221382],
        },
    ),
    "AdamW": (
        lambda: optim.adamw(0.1, weight_decay=0.1),
        {
            "a": [0.8003540665017729, -0.7181742553694123],
            "b": [0.7723587130154771, -0.7058213588616411],
            "c": [0.7689249109009901, -0.7273686986860932],
        },
    ),
    "AMSGrad": (
        lambda: optim.adam(0.1, amsgrad="raw"),
        {
            "a": [0.8548550658336624, -0.7538487674983703],
            "b": [0.7996694944519462, -0.7231923283883293],
            "c": [0.7957037312938717, -0.7451752947798088],
        },
    ),
    "SGD with dampening": (
        lambda: optim.sgd(0.1, momentum=0.9, dampening=0.5, weight_decay=0.1),
        {
            "a": [0.34245192228159355, -0.6919835954452188],
            "b": [0.14605724999999992, -0.7238319999999999],
            "c": [0.69213725, -0.587312],
        },
    ),
    "SGD with Nesterov's momentum": (
        lambda: optim.sgd(0.1, momentum=0.9, nesterov=True),
        {
            "a": [0.06995990000000007, -0.9529772350000001],
            "b": [-0.14070000000000019, -0.865665],
            "c": [0.7106, -0.6528400000000001],
        },
    ),
}


def gradients(xp: ModuleType, step: int, how: str) -> dict[str, Any]:
    """Those of one step, where a missing one is None or not there."""
    made = {name: xp.asarray([STEPS[step], STEPS[step] / 4 + 0.1]) for name in GIVEN if GIVEN[name][step] == "1"}
    return {name: made.get(name) for name in GIVEN} if how == "None" else made


@pytest.mark.parametrize("mode", ["fast", "plain"])
@pytest.mark.parametrize("how", ["None", "left out"])
@pytest.mark.parametrize("name", PYTORCH)
def test_parameters_end_where_pytorchs_do(name: str, how: str, mode: str, xp: ModuleType) -> None:
    make, expected = PYTORCH[name]
    optimizer = make()
    params = {key: xp.asarray([1.0, -0.5]) for key in GIVEN}
    state = optimizer.init(params)
    with kernels(mode):
        for step in range(len(STEPS)):
            params, state = optimizer.step(params, gradients(xp, step, how), state)
    assert_close(host(params), {key: np.array(values) for key, values in {**expected, "d": [1.0, -0.5]}.items()})
    assert int(state["count"]) == 6
    assert {key: int(n) for key, n in state["missed"].items()} == {"b": 3, "c": 3, "d": 6}


@settings(max_examples=10)
@given(pattern=st.lists(st.sampled_from(["both", "x", "y", "none"]), min_size=1, max_size=6), seed=st.integers(0, 99))
@example(pattern=["x", "both", "y", "both"], seed=0)
@pytest.mark.parametrize("name", sorted(MAKERS))
def test_an_update_without_a_gradient_does_not_exist(name: str, pattern: list[str], seed: int, backend: str) -> None:
    """A parameter goes where it goes alone, stepped by its own gradients only; and so does what is remembered of it."""
    optimizer = replace(MAKERS[name](0.1), max_norm=None)  # which would let the others have a say
    rng = np.random.default_rng(seed)
    start = on(backend, {"x": rng.standard_normal((2, 3)), "y": rng.standard_normal(4)})
    given_gradients = [on(backend, {key: rng.standard_normal(p.shape) for key, p in start.items()}) for _ in pattern]
    params, state = start, optimizer.init(start)
    alone = {key: ({key: p}, optimizer.init({key: p})) for key, p in start.items()}
    for which, g in zip(pattern, given_gradients):
        present = {key: g[key] for key in g if which in ("both", key)}
        params, state = optimizer.step(params, present, state)
        for key in present:
            alone[key] = optimizer.step(alone[key][0], {key: g[key]}, alone[key][1])
    for key, (expected, its_state) in alone.items():
        assert_close(host(params[key]), host(expected[key]))
        for slot in set(its_state) - {"count"}:
            assert_close(host(state[slot][key]), host(its_state[slot][key]))


@pytest.mark.parametrize("name", ["adam", "sgd momentum", "lamb"])
def test_a_saved_state_knows_what_was_missed(name: str) -> None:
    optimizer = MAKERS[name](optim.warmup_cosine(0.1, 3, 10))
    params = {key: np.array([1.0, -0.5]) for key in GIVEN}
    state = optimizer.init(params)
    for step in range(6):
        params, state = optimizer.step(params, gradients(np, step, "None"), state)
        if step == 3:
            file = io.BytesIO()
            np.savez(file, **tree.flatten(state))
            file.seek(0)
            with np.load(file) as saved:
                resumed, loaded = params, tree.unflatten({key: saved[key] for key in saved.files})
        if step > 3:
            resumed, loaded = optimizer.step(resumed, gradients(np, step, "left out"), loaded)
    for path, p in tree.leaves(params):
        np.testing.assert_array_equal(p, resumed[path], strict=True)


def test_states_are_as_ever_where_no_gradient_is_missing() -> None:
    """And where counts do not matter, or what is missing is not trained."""
    params = {"a": np.ones(2), "b": np.ones(2)}
    for optimizer, given_gradients in [
        (optim.adam(0.1), params),
        (optim.sgd(0.1, weight_decay=0.1), {"a": np.ones(2)}),
        (optim.adam(0.1, trainable=lambda path: path == "a"), {"a": np.ones(2)}),
    ]:
        before = optimizer.init(params)
        assert optimizer.step(params, given_gradients, before)[1].keys() == before.keys()


def test_one_count_for_all_as_in_optax() -> None:
    """The first gradient comes with the fourth update; both averages are corrected as if of four."""
    optimizer = replace(optim.adam(0.1, eps=0.0), own_counts=False)
    params = {"a": np.ones(1), "b": np.ones(1)}
    state = optimizer.init(params)
    for step in range(4):
        given_gradients = {"a": np.ones(1)} if step < 3 else {"a": np.ones(1), "b": np.full(1, 2.0)}
        params, state = optimizer.step(params, given_gradients, state)
    m, v = 0.1 * 2 / (1 - 0.9**4), 0.001 * 4 / (1 - 0.999**4)
    np.testing.assert_allclose(params["b"], 1 - 0.1 * m / np.sqrt(v), rtol=1e-14)
    assert "missed" not in state


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd momentum"])
def test_an_update_from_batches_of_which_none_has_a_gradient(name: str) -> None:
    """It has none; one batch with a gradient is enough, and the others count as zero."""
    optimizer = MAKERS[name](0.1)
    split = optim.Accumulated(optimizer, 2)
    params = whole = {"x": np.array([1.0, -0.5]), "y": np.array([2.0])}
    state, split_state = optimizer.init(params), split.init(params)
    x, y = np.array([0.5, 1.5]), np.array([3.0])
    for first, second, mean in [
        ({"x": x, "y": None}, {"x": x}, {"x": x}),
        ({"x": x, "y": y}, {"x": x, "y": None}, {"x": x, "y": y / 2}),
        ({"x": x}, {"x": x, "y": y}, {"x": x, "y": y / 2}),
        ({}, {}, {}),
        ({"x": x, "y": y}, {"x": x, "y": y}, {"x": x, "y": y}),
    ]:
        whole, state = optimizer.step(whole, mean, state)
        params, split_state = split.step(params, first, split_state)
        params, split_state = split.step(params, second, split_state)
        assert_close(params, whole)
    assert split_state.keys() == split.init(params).keys()


UNUSABLE: dict[str, tuple[Any, str]] = {
    "byte order": (np.ones(2, ">f4"), "is >f4, in another byte order"),
    "mask": (np.ma.masked_less(np.ones(2), 0), "is a masked array"),
    "complex": (np.ones(2, complex), "is of the dtype complex128"),
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_arrays_that_would_be_misread_are_refused(kind: str) -> None:
    array, message = UNUSABLE[kind]
    optimizer = optim.adam(0.1)
    with pytest.raises(ValueError, match=f"parameter 'w' {message}"):
        optimizer.init({"w": array})
    state = optimizer.init({"w": np.ones(2)})
    with pytest.raises(ValueError, match=f"parameter 'w' {message}"):
        optimizer.step({"w": array}, {"w": array}, state)
    if kind == "mask":
        with pytest.raises(ValueError, match=f"the gradient of 'w' {message}"):
            optimizer.step({"w": np.ones(2)}, {"w": array}, state)
