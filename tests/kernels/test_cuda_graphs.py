"""Recorded functions: what replays give, and what cannot be recorded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from perceiver_ref.autograd import ops, recorded, tree, value_and_grad
from perceiver_ref.autograd.backend import to_host
from perceiver_ref.autograd.branches import side_by_side
from perceiver_ref.models.encoder import Encoder


@pytest.fixture(autouse=True)
def on_a_gpu(backend: str) -> None:
    if backend != "cupy":
        pytest.skip("needs a GPU: pytest --backend cupy")


MODEL = Encoder(inputs=6, latents=4, channels=16, layers=2, self_heads=2)


def same(got: Any, want: Any) -> None:
    """The same launches on the same numbers: equal to the last bit."""
    pairs = list(zip(tree.leaves(got), tree.leaves(want), strict=True))
    assert pairs
    for (path, a), (other, b) in pairs:
        assert path == other
        np.testing.assert_array_equal(to_host(a), to_host(b), err_msg=path)


def test_replays_read_their_arguments_anew(xp: Any) -> None:
    run = recorded(MODEL.apply)
    for seed in range(3):
        x = xp.asarray(np.random.default_rng(seed).standard_normal((2, 40, 6)), np.float32)
        params = MODEL.init(seed=seed, backend="cupy")
        same(run(params, x), MODEL.apply(params, x))
    same(run(params, x[:1]), MODEL.apply(params, x[:1]))  # another kind of arguments
    strided = xp.asarray(np.ones((2, 6, 40), np.float32)).swapaxes(1, 2)
    same(run(params, strided), MODEL.apply(params, strided))


def test_arguments_are_read_where_they_lie(xp: Any) -> None:
    """What was written there since the last call is seen; those given elsewhere later are copied, each of them."""
    runs: list[int] = []

    def function(x: Any, y: Any) -> Any:
        runs.append(0)
        return {"sum": x + y, "turned": (x * y).T, "same": x}

    def check(x: Any, y: Any) -> None:
        made = run(x, y)
        for name, want in (("sum", x + y), ("turned", (x * y).T), ("same", x)):
            np.testing.assert_array_equal(to_host(made[name]), to_host(want), err_msg=name)
        assert made["same"].data.ptr != x.data.ptr

    run = recorded(function)
    x, y = xp.asarray(np.arange(12.0).reshape(3, 4)), xp.ones((3, 4))
    check(x, y)
    x += 5
    y *= 3
    check(x, y)
    assert len(runs) == 2  # to compile, and to record
    for other in (x + 1, x + 2, x + 3):
        check(other, y)
    assert len(runs) == 4
    y -= 2
    check(x, y)
    for other in (y + 1, y + 2):
        check(x + 1, other)
    assert len(runs) == 6
    check(xp.asfortranarray(x), y[:, ::-1])
    assert len(runs) == 6


def test_results_are_not_overwritten(xp: Any) -> None:
    run = recorded(lambda x: ops.exp(x))
    first = run(xp.zeros(5))
    run(xp.ones(5))
    np.testing.assert_array_equal(to_host(first), np.ones(5))


def test_steps_with_gradients(xp: Any) -> None:
    def loss(p: Any, x: Any, labels: Any) -> Any:
        return ops.cross_entropy(MODEL.apply(p, x), labels)

    run = recorded(value_and_grad(loss))
    for seed in range(2):
        rng = np.random.default_rng(seed)
        x, labels = xp.asarray(rng.standard_normal((2, 40, 6))), xp.asarray(rng.integers(0, 16, (2, 4)))
        params = MODEL.init(seed=seed, dtype=np.float64, backend="cupy")
        same(run(params, x, labels), value_and_grad(loss)(params, x, labels))


def test_branches_give_what_one_stream_does(xp: Any) -> None:
    """Of a model whose launches overlap: at one recording's replays with other parameters, forward and back."""
    model = Encoder(inputs=96, latents=128, channels=256, layers=3, self_heads=4)

    def loss(p: Any, x: Any) -> Any:
        out = model.apply(p, x)
        return ops.sum(ops.multiply(out, out))

    run = recorded(value_and_grad(loss))
    x = xp.asarray(np.random.default_rng(0).standard_normal((1, 1000, 96)), np.float32)
    for seed in (0, 1, 1, 2):
        params = model.init(seed=seed, backend="cupy")
        same(run(params, x), value_and_grad(loss)(params, x))


def test_calls_that_need_nothing_of_each_other_are_branches(xp: Any) -> None:
    """Each in a stream of its own, the same ones when memory is taken and when it is recorded, also within branches."""
    streams: list[int] = []

    def made(x: Any) -> Any:
        streams.append(xp.cuda.get_current_stream().ptr)
        return ops.exp(x)

    def function(x: Any) -> Any:
        one, (two, three) = side_by_side(
            lambda: made(x), lambda: side_by_side(lambda: made(ops.add(x, x)), lambda: made(x))
        )
        (four, five) = side_by_side(lambda: made(two), lambda: made(three))
        return [one, two, three, four, five]

    run = recorded(function)
    for n in range(3):
        x = xp.asarray(np.linspace(-1, n, 20000))
        got = [to_host(y) for y in run(x)]
        assert len(streams) == (10 if n == 0 else 20)  # made anew for arguments elsewhere, which are then copied
        np.testing.assert_array_equal(got, [to_host(y) for y in one_after_the_other(x)])
    for first, second in ((0, 5), (10, 15)):
        assert streams[first : first + 5] == streams[second : second + 5]
        one, two, three, four, five = streams[first : first + 5]
        assert len({one, two, three}) == 3
        assert (four, five) == (one, two)


def one_after_the_other(x: Any) -> list[Any]:
    two, three = ops.exp(x + x), ops.exp(x)
    return [ops.exp(x), two, three, ops.exp(two), ops.exp(three)]


def test_embeddings(xp: Any) -> None:
    table = xp.asarray(np.arange(12.0).reshape(4, 3))
    run = recorded(lambda ids: ops.take(table, ids))
    for ids in ([0, 3, -1], [2, 2, 1]):
        np.testing.assert_array_equal(to_host(run(xp.asarray(ids))), to_host(table)[ids])


@pytest.mark.parametrize("count", [2, 12])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_joins(xp: Any, axis: int, count: int) -> None:
    """As many as the chunks of a decoder, there and back; CuPy gets the addresses of many from the host."""

    def function(x: Any) -> Any:
        pieces = ops.split(x, sizes=(3, x.shape[axis] - 3), axis=axis)
        many = ops.concatenate([*pieces * count, x], axis=axis)
        return ops.concatenate([ops.reshape(y, shape=(-1,)) for y in (ops.stack([many] * count, axis=axis), x)])

    gradients = recorded(value_and_grad(lambda x: ops.sum(function(x) * function(x))))
    run = recorded(function)
    for seed in range(2):
        x = xp.asarray(np.random.default_rng(seed).standard_normal((5, 4, 6)))
        same(run(x), function(x))
        same(gradients(x), value_and_grad(lambda x: ops.sum(function(x) * function(x)))(x))


def test_arrays_of_the_host_cannot_be_recorded(xp: Any) -> None:
    constant = np.arange(5.0)
    with pytest.raises(
        RuntimeError, match=r"moves .* bytes from the host to the device; give them among its arguments"
    ):
        recorded(lambda x: x + xp.asarray(constant))(xp.ones(5))
    np.testing.assert_array_equal(to_host(xp.asarray(constant)), constant)  # afterwards they move as before


def test_a_function_that_waits_cannot_be_recorded(xp: Any) -> None:
    with pytest.raises(Exception, match=r"(?i)captur"):
        recorded(lambda x: x * float(x.sum()))(xp.ones(5))
    np.testing.assert_array_equal(to_host(xp.ones(3) * 2), np.full(3, 2.0))


def test_without_device_arrays_a_function_is_called_as_it_is() -> None:
    assert recorded(lambda x: x + 1)(2) == 3
    np.testing.assert_array_equal(recorded(lambda x: x + 1)(np.ones(2)), np.full(2, 2.0))
