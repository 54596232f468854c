"""Optimizers against closed forms, and what all of them promise: dtypes, states that resume, frozen parameters."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import assert_close, host, on

from perceiver_ref.autograd import optim, tree
from perceiver_ref.autograd.optim import Optimizer

MAKERS: dict[str, Callable[..., Optimizer]] = {
    "sgd": optim.sgd,
    "sgd momentum": lambda rate, **o: optim.sgd(rate, momentum=0.9, dampening=0.1, weight_decay=0.1, **o),
    "sgd nesterov": lambda rate, **o: optim.sgd(rate, momentum=0.9, nesterov=True, **o),
    "adam": lambda rate, **o: optim.adam(rate, weight_decay=0.1, **o),
    "adam nesterov": lambda rate, **o: optim.adam(rate, nesterov=True, eps_root=1e-6, **o),
    "amsgrad": lambda rate, **o: optim.adam(rate, amsgrad="raw", **o),
    "amsgrad corrected": lambda rate, **o: optim.adamw(rate, amsgrad="corrected", **o),
    "adamw": lambda rate, **o: optim.adamw(rate, weight_decay=0.1, max_norm=2.0, **o),
    "lamb": lambda rate, **o: optim.lamb(rate, weight_decay=0.1, **o),
    "lamb bounded": lambda rate, **o: optim.lamb(rate, norm_bounds=(0.1, 1.0), bias_correction=False, **o),
}
each = pytest.mark.parametrize("name", sorted(MAKERS))


def parameters(seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "layers": [{"weight": rng.standard_normal((4, 3)), "bias": rng.standard_normal(3)} for _ in range(2)],
        "scale": np.asarray(rng.standard_normal()),
        "none": np.zeros((0, 2)),
    }


def gradients_of(step: int) -> dict[str, Any]:
    return parameters(1000 + step)


def run(optimizer: Any, params: Any, steps: range, state: Any = None, backend: str = "numpy", dtype: Any = None) -> Any:
    state = optimizer.init(params) if state is None else state
    for step in steps:
        params, state = optimizer.step(params, on(backend, gradients_of(step), dtype), state)
    return params, state


@given(
    rate=st.floats(0.01, 1.9),
    momentum=st.sampled_from([0.0, 0.5]),
    curvature=st.floats(0.1, 1.0),
    steps=st.integers(1, 30),
)
def test_sgd_on_a_quadratic(backend: str, rate: float, momentum: float, curvature: float, steps: int) -> None:
    """For the loss c x^2 / 2, x and the momentum move by a fixed 2 x 2 matrix each step."""
    optimizer = optim.sgd(rate, momentum=momentum)
    x = on(backend, {"x": np.array([1.0, -2.0])})
    state = optimizer.init(x)
    for _ in range(steps):
        x, state = optimizer.step(x, {"x": curvature * x["x"]}, state)
    matrix = np.array([[1 - rate * curvature, -rate * momentum], [curvature, momentum]])
    final = np.linalg.matrix_power(matrix, steps) @ np.array([[1.0, -2.0], [0.0, 0.0]])
    assert_close(host(x)["x"], final[0])


@given(momentum=st.floats(0.1, 0.95), dampening=st.floats(0, 0.9), nesterov=st.booleans(), steps=st.integers(1, 30))
def test_momentum_of_a_constant_gradient(momentum: float, dampening: float, nesterov: bool, steps: int) -> None:
    """The buffer is momentum^(n-1) + (1 - dampening) times the geometric sum of the rest."""
    optimizer = optim.sgd(0.1, momentum=momentum, dampening=dampening, nesterov=nesterov)
    x, state = {"x": np.zeros(1)}, None
    state = optimizer.init(x)
    for _ in range(steps):
        x, state = optimizer.step(x, {"x": np.ones(1)}, state)
    n = np.arange(1, steps + 1)
    buffers = momentum ** (n - 1) + (1 - dampening) * (1 - momentum ** (n - 1)) / (1 - momentum)
    moved = 1 + momentum * buffers if nesterov else buffers
    np.testing.assert_allclose(x["x"], -0.1 * moved.sum(), rtol=1e-12)
    np.testing.assert_allclose(state["momentum"]["x"], buffers[-1], rtol=1e-12)


@pytest.mark.parametrize("make", [optim.adam, lambda rate, **o: optim.adamw(rate, weight_decay=0.0, **o)])
@given(seed=st.integers(0, 2**32), scale=st.floats(1e-3, 1e3))
def test_adams_first_step_is_the_sign_of_the_gradient(make: Callable[..., Optimizer], seed: int, scale: float) -> None:
    """Both moments are corrected to the gradient and its square; so is every step while the gradient stays."""
    g = {"x": scale * np.random.default_rng(seed).standard_normal(5)}
    optimizer = make(0.1, eps=0.0)
    x = {"x": np.zeros(5)}
    state = optimizer.init(x)
    for step in range(1, 4):
        x, state = optimizer.step(x, g, state)
        np.testing.assert_allclose(x["x"], -0.1 * step * np.sign(g["x"]), rtol=1e-12)


def test_adam_written_out() -> None:
    """Two steps of Kingma and Ba's algorithm 1, with epsilon outside the root, by hand."""
    optimizer = optim.adam(0.5, b1=0.5, b2=0.75, eps=1.0, eps_root=3.0)
    x = {"x": np.array([0.0])}
    x, state = optimizer.step(x, {"x": np.array([1.0])}, optimizer.init(x))
    # m = 0.5, corrected 1; v = 0.25, corrected 1; root of 1 + 3 is 2
    assert x["x"][0] == -0.5 * 1 / (2 + 1)
    x, state = optimizer.step(x, {"x": np.array([-2.0])}, state)
    m, v = (0.5 * 0.5 - 1) / 0.75, (0.75 * 0.25 + 1) / (1 - 0.75**2)
    np.testing.assert_allclose(x["x"][0], -1 / 6 - 0.5 * m / (np.sqrt(v + 3) + 1), rtol=1e-14)


def test_decoupled_decay_does_not_pass_through_the_moments() -> None:
    """Without a gradient AdamW shrinks a parameter by 1 - rate * decay; Adam makes a step of the size of the rate."""
    x, zero = {"x": np.array([2.0, -3.0])}, {"x": np.zeros(2)}
    decoupled = optim.adamw(0.1, weight_decay=0.5)
    coupled = optim.adam(0.1, weight_decay=0.5, eps=0.0)
    np.testing.assert_allclose(decoupled.step(x, zero, decoupled.init(x))[0]["x"], x["x"] * 0.95, rtol=1e-14)
    np.testing.assert_allclose(coupled.step(x, zero, coupled.init(x))[0]["x"], [1.9, -2.9], rtol=1e-14)


def test_amsgrad_never_forgets_a_large_gradient() -> None:
    """After one gradient of 100 and many of 1e-3, Adam has grown its step again; AMSGrad has not."""
    x = {"x": np.zeros(1)}
    last = {}
    for kind in (None, "raw", "corrected"):
        optimizer = optim.adam(1.0, b1=0.0, b2=0.5, amsgrad=kind)
        state = optimizer.init(x)
        for g in (100.0, *[1e-3] * 60):
            updates, state = optimizer.updates(x, {"x": np.array([g])}, state)
        last[kind] = abs(updates["x"][0])
    assert last[None] > 0.9
    # the root of the largest square is 100 if corrected (v / (1 - b2) = 100^2), and sqrt(1/2) of it if not
    np.testing.assert_allclose(last["corrected"], 1e-5, rtol=1e-6)
    np.testing.assert_allclose(last["raw"], 1e-5 * np.sqrt(2), rtol=1e-6)


@given(seed=st.integers(0, 2**32), scale=st.floats(1e-3, 1e3), decay=st.floats(0, 0.5))
def test_a_lamb_step_is_as_long_as_the_rate_says(seed: int, scale: float, decay: float) -> None:
    """|update| = rate |p|, whatever the size of the gradient; zero parameters move by rate |direction|."""
    rng = np.random.default_rng(seed)
    params = {"w": rng.standard_normal((3, 2)), "zero": np.zeros(4)}
    gradients = {"w": scale * rng.standard_normal((3, 2)), "zero": scale * np.ones(4)}
    optimizer = optim.lamb(0.1, weight_decay=decay, eps=0.0)
    updates, _ = optimizer.updates(params, gradients, optimizer.init(params))
    np.testing.assert_allclose(np.linalg.norm(updates["w"]), 0.1 * np.linalg.norm(params["w"]), rtol=1e-12)
    np.testing.assert_allclose(updates["zero"], -0.1, rtol=1e-12)


def test_lambs_bounds_are_on_the_norm_of_the_parameter() -> None:
    gradients = {"large": np.ones(4), "small": np.ones(4)}
    params = {"large": 5 * np.ones(4), "small": 0.005 * np.ones(4)}
    optimizer = optim.lamb(0.1, norm_bounds=(0.2, 4.0))
    updates, _ = optimizer.updates(params, gradients, optimizer.init(params))
    np.testing.assert_allclose(np.linalg.norm(updates["large"]), 0.4, rtol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(updates["small"]), 0.02, rtol=1e-12)


def test_the_schedule_counts_updates_from_zero() -> None:
    seen: list[int] = []

    def rate(count: int) -> float:
        seen.append(count)
        return 10.0**-count

    x = {"x": np.zeros(1)}
    optimizer = optim.sgd(rate)
    state = optimizer.init(x)
    for _ in range(3):
        x, state = optimizer.step(x, {"x": np.ones(1)}, state)
    assert seen == [0, 1, 2]
    np.testing.assert_allclose(x["x"], -1.11, rtol=1e-14)


@each
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dtypes_shapes_and_backend_stay(name: str, dtype: str, backend: str) -> None:
    start = on(backend, parameters(), dtype)
    params, state = run(MAKERS[name](0.1), start, range(3), backend=backend, dtype=dtype)
    for path, p in tree.leaves(params):
        old = tree.flatten(start)[path]
        assert (type(p), p.shape, p.dtype) == (type(old), old.shape, old.dtype), path
    for path, array in tree.leaves(state):
        if path != "count":
            assert (type(array), str(array.dtype)) == (type(old), dtype), path
    assert (type(state["count"]), state["count"].dtype, int(state["count"])) == (np.ndarray, np.int64, 3)


@each
def test_every_backend_computes_the_same(name: str, backend: str) -> None:
    ours, _ = run(MAKERS[name](0.1), on(backend, parameters()), range(5), backend=backend)
    expected, _ = run(MAKERS[name](0.1), parameters(), range(5))
    assert_close(host(ours), expected)


@each
def test_float32_follows_float64(name: str) -> None:
    single, _ = run(MAKERS[name](0.1), on("numpy", parameters(), "float32"), range(5), dtype="float32")
    double, _ = run(MAKERS[name](0.1), parameters(), range(5))
    # steps of 0.1 with directions near 1, each with a few roundings of 6e-8
    assert_close(on("numpy", single, "float64"), double, 1e-5)


@each
def test_a_saved_state_continues_bit_for_bit(name: str) -> None:
    optimizer = MAKERS[name](optim.warmup_cosine(0.1, 3, 10))
    whole, _ = run(optimizer, parameters(), range(6))
    params, state = run(optimizer, parameters(), range(3))
    file = io.BytesIO()
    np.savez(file, **tree.flatten(state))
    file.seek(0)
    with np.load(file) as saved:
        loaded = tree.unflatten({key: saved[key] for key in saved.files})
    resumed, _ = run(optimizer, params, range(3, 6), loaded)
    for path, p in tree.leaves(resumed):
        np.testing.assert_array_equal(p, tree.flatten(whole)[path], strict=True)


@each
def test_nothing_given_is_changed_or_kept(name: str) -> None:
    optimizer = MAKERS[name](0.1)
    params, gradients = parameters(), gradients_of(0)
    state = optimizer.init(params)
    copies = [{path: a.copy() for path, a in tree.leaves(t)} for t in (params, gradients, state)]
    _, after = optimizer.step(params, gradients, state)
    for _, array in tree.leaves(gradients):
        array += 1  # what the state remembers is its own
    again = optimizer.step(params, tree.unflatten(copies[1]), state)[1]
    for path, array in tree.leaves(after):
        np.testing.assert_array_equal(array, tree.flatten(again)[path])
    for before, now in ((copies[0], params), (copies[2], state)):
        for path, array in tree.leaves(now):
            np.testing.assert_array_equal(array, before[path])


class OnDevice(np.ndarray):
    """An array whose values the host may not ask for."""

    def _waits(self, *_: Any) -> Any:
        raise AssertionError("the host waited for the device")

    __float__ = __int__ = __bool__ = item = tolist = _waits


@each
def test_a_step_does_not_wait_for_the_device(name: str) -> None:
    clipped = replace(MAKERS[name](optim.cosine(0.1, 0.0, 9)), max_norm=1.0)
    optimizer = optim.Accumulated(clipped, 2)
    params = tree.map(lambda a: a.view(OnDevice), parameters())
    state = optimizer.init(params)
    for step in range(4):
        gradients = tree.map(lambda a: a.view(OnDevice), gradients_of(step))
        params, state = optimizer.step(params, gradients, state)
    assert all(type(p) is OnDevice for _, p in tree.leaves(params))


@each
def test_frozen_parameters_have_no_state_and_do_not_move(name: str) -> None:
    optimizer = MAKERS[name](0.1, trainable=lambda path: not path.startswith("layers/0"))
    start = parameters()
    params, state = run(optimizer, start, range(2))
    assert params["layers"][0] is not None
    for key in ("weight", "bias"):
        np.testing.assert_array_equal(params["layers"][0][key], start["layers"][0][key])
        assert not np.array_equal(params["layers"][1][key], start["layers"][1][key])
    assert not any("layers/0" in path for path in tree.flatten(state))


def test_parameters_without_a_gradient_stay_with_their_state() -> None:
    optimizer = optim.adam(0.1)
    params, state = run(optimizer, parameters(), range(2))
    gradients = gradients_of(2)
    gradients["scale"] = None
    del gradients["layers"][1]["bias"]
    after, later = optimizer.step(params, gradients, state)
    assert after["scale"] is params["scale"]
    assert after["layers"][1]["bias"] is params["layers"][1]["bias"]
    np.testing.assert_array_equal(later["mean"]["scale"], state["mean"]["scale"])
    assert not np.array_equal(after["layers"][0]["bias"], params["layers"][0]["bias"])


@pytest.mark.parametrize("make", [optim.sgd, optim.adam, optim.adamw, optim.lamb])
def test_decay_is_only_of_the_chosen(make: Callable[..., Optimizer]) -> None:
    def decays(path: str) -> bool:
        return path.endswith("weight")

    with_decay, _ = run(make(0.1, weight_decay=0.5, decays=decays), parameters(), range(2))
    without, _ = run(make(0.1, weight_decay=0.0), parameters(), range(2))
    for path, p in tree.leaves(with_decay):
        assert np.array_equal(p, tree.flatten(without)[path]) != decays(path), path


@settings(max_examples=20)
@given(batches=st.integers(1, 5), updates=st.integers(1, 3), extra=st.integers(0, 4), seed=st.integers(0, 99))
@each
def test_accumulated_batches_equal_one(name: str, batches: int, updates: int, extra: int, seed: int) -> None:
    """The gradient of a mean over all examples is the mean of the gradients of the equal parts."""
    extra %= batches
    optimizer = MAKERS[name](0.1)
    params = whole = parameters(seed)
    state = optimizer.init(whole)
    split = optim.Accumulated(optimizer, batches)
    split_state = split.init(params)
    for update in range(updates):
        parts = [gradients_of(seed + update * batches + i) for i in range(batches)]
        whole, state = optimizer.step(whole, tree.map(lambda *gs: sum(gs) / batches, *parts), state)
        for part in parts:
            params, split_state = split.step(params, part, split_state)
    for i in range(extra):  # not yet enough for another update
        params, split_state = split.step(params, gradients_of(i), split_state)
    assert_close(params, whole)
    assert int(split_state["batch"]) == extra
    assert int(split_state["optimizer"]["count"]) == updates


def test_what_does_not_fit_is_named() -> None:
    params = {"a": {"w": np.ones((2, 3))}}
    optimizer = optim.adam(0.1)
    state = optimizer.init(params)
    cases: list[tuple[Any, str]] = [
        ({"a": {"w": np.ones((3, 2))}}, r"gradient of 'a/w' is float64\[3, 2\], but the parameter is float64\[2, 3\]"),
        ({"a": {"w": np.ones((2, 3), np.float32)}}, r"gradient of 'a/w' is float32\[2, 3\]"),
        ({"a": {"v": np.ones((2, 3))}}, "gradient of 'a/v', but no such parameter"),
    ]
    for gradients, message in cases:
        with pytest.raises(ValueError, match=message):
            optimizer.step(params, gradients, state)
        accumulated = optim.Accumulated(optimizer, 2)
        with pytest.raises(ValueError, match=message):
            accumulated.step(params, gradients, accumulated.init(params))
    with pytest.raises(ValueError, match="the state holds no mean of 'a/w'"):
        optimizer.step(params, params, optim.sgd(0.1, momentum=0.9).init(params))
    with pytest.raises(ValueError, match="two parts remember under one name"):
        Optimizer(0.1, optim.sgd(0.1, momentum=0.9).parts * 2)
    with pytest.raises(ValueError, match="batches must be at least 1, got 0"):
        optim.Accumulated(optimizer, 0)
