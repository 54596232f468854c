"""What attention says about masks, padding, extreme logits and shapes, in both kernel modes.

Agreement with the definition and the gradients for drawn shapes, masks and biases is in `test_ops`.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from engine import definitions as define

from perceiver_ref.autograd import kernels, ops, vjp
from perceiver_ref.autograd.backend import to_host
from perceiver_ref.autograd.testing import check_grads

INF, NAN = np.inf, np.nan


@pytest.fixture(params=["plain", "fast", "tiled", "heads"], autouse=True)
def mode(request: pytest.FixtureRequest, small_tiles: None) -> Iterator[None]:
    """The definition, and its kernels: tiles of 2 queries by 3 keys ("fast" leaves small problems whole), and heads."""
    if fixture := {"fast": "whole_tiles", "heads": "whole_heads"}.get(request.param):
        request.getfixturevalue(fixture)
    with kernels("plain" if request.param == "plain" else "fast"):
        yield


def drawn(xp: ModuleType, *shapes: tuple[int, ...], seed: int = 0) -> list[Any]:
    rng = np.random.default_rng(seed)
    return [xp.asarray(rng.standard_normal(shape)) for shape in shapes]


def pulled(xp: ModuleType, arrays: list[Any], **static: Any) -> tuple[np.ndarray, list[np.ndarray]]:
    """Output and gradients (for a fixed random cotangent) on the host."""
    out, pull = vjp(lambda *traced: ops.attention(*traced, **static), *arrays)
    cotangent = xp.asarray(np.random.default_rng(1).standard_normal(out.shape), out.dtype)
    return to_host(out), [to_host(g) for g in pull(cotangent)]


def test_fully_masked_rows_are_zero(xp: ModuleType) -> None:
    arrays = drawn(xp, (3, 2), (4, 2), (4, 5), (3, 4))
    mask = xp.asarray([[True] * 4, [False] * 4, [True, False, True, False]])
    out, (dq, _, _, dbias) = pulled(xp, arrays, mask=mask)
    for zero in (out[1], dq[1], dbias[1], dbias[2, 1::2]):
        np.testing.assert_array_equal(zero, np.zeros_like(zero))
    assert np.abs(out[[0, 2]]).min() > 0


def test_fully_masked_rows_are_uniform(xp: ModuleType) -> None:
    arrays = drawn(xp, (3, 2), (4, 2), (4, 5), (3, 4))
    mask = xp.asarray([[True] * 4, [False] * 4, [True, False, True, False]])
    out, (dq, _, _, dbias) = pulled(xp, arrays, mask=mask, masked_rows="uniform")
    np.testing.assert_allclose(out[1], to_host(arrays[2]).mean(0), rtol=1e-14)
    for zero in (dq[1], dbias[1], dbias[2, 1::2]):
        np.testing.assert_array_equal(zero, np.zeros_like(zero))
    check_grads(lambda *a: ops.attention(*a, mask=mask, masked_rows="uniform"), *arrays)


@pytest.mark.parametrize("keys", [1, 4, 23])
def test_fully_masked_rows_of_added_numbers_pass_gradients_on(keys: int, xp: ModuleType) -> None:
    """What autograd makes of softmax(scores + lowest) in such a row: weights 1 / M, whose slope the scores have."""
    arrays = drawn(xp, (3, 2), (keys, 2), (keys, 5), (3, keys))
    q, k, v, _ = (to_host(x) for x in arrays)
    mask = np.array([[True] * keys, [False] * keys, [m % 2 == 0 for m in range(keys)]])
    given = xp.asarray(mask)
    out, (dq, dk, dv, dbias) = pulled(xp, arrays, mask=given, masked_rows="added")
    filled, (_, dk_filled, dv_filled, dbias_filled) = pulled(xp, arrays, mask=given, masked_rows="uniform")
    np.testing.assert_array_equal(out, filled)
    g = np.random.default_rng(1).standard_normal(out.shape)[1]
    ds = (v @ g - (v @ g).mean()) / keys
    # sums of at most 23 products of numbers near 1
    np.testing.assert_allclose(dbias[1], ds, rtol=0, atol=1e-14)
    np.testing.assert_allclose(dq[1], ds @ k / np.sqrt(2), rtol=0, atol=1e-14)
    np.testing.assert_allclose(dk - dk_filled, np.outer(ds, q[1]) / np.sqrt(2), rtol=0, atol=1e-14)
    np.testing.assert_array_equal(dbias[[0, 2]], dbias_filled[[0, 2]])
    np.testing.assert_array_equal(dv, dv_filled)


@pytest.mark.parametrize("rows", ["zero", "uniform", "added"])
@pytest.mark.parametrize("mask_shape", ["keys", "batch and keys", "full"])
@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_padding_does_not_leak(bad: float, mask_shape: str, rows: str, xp: ModuleType) -> None:
    """Padded keys and values may hold anything: the result is that of the shorter sequence, with no gradient there."""
    q, k, v = drawn(xp, (2, 3, 2), (2, 5, 2), (2, 5, 4))
    want, (want_q, want_k, want_v) = pulled(xp, [q, k[:, :4], v[:, :4]])
    k[:, 4:], v[:, 4:] = bad, bad
    mask = np.arange(5) < 4
    shape = {"keys": (5,), "batch and keys": (2, 1, 5), "full": (2, 3, 5)}[mask_shape]
    out, (dq, dk, dv) = pulled(xp, [q, k, v], mask=xp.asarray(np.broadcast_to(mask, shape)), masked_rows=rows)
    # the order of sums differs with the number of keys: some 1e-16 of numbers near 1
    np.testing.assert_allclose(out, want, rtol=0, atol=1e-14)
    for got, expected in ((dq, want_q), (dk[:, :4], want_k), (dv[:, :4], want_v)):
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-14)
    np.testing.assert_array_equal(dk[:, 4:], np.zeros((2, 1, 2)))
    np.testing.assert_array_equal(dv[:, 4:], np.zeros((2, 1, 4)))


def test_padding_that_differs_within_a_batch_does_not_leak(xp: ModuleType) -> None:
    q, k, v = drawn(xp, (2, 3, 2), (2, 5, 2), (2, 5, 4))
    k[0, 3:], v[1, 1:] = NAN, INF
    mask = xp.asarray(np.arange(5) < np.array([[[3]], [[1]]]))
    out, gradients = pulled(xp, [q, k, v], mask=mask)
    assert all(np.isfinite(x).all() for x in (out, *gradients))
    np.testing.assert_allclose(out[1], np.broadcast_to(to_host(v)[1, :1], (3, 4)), rtol=1e-15)


def test_weights_ignore_what_padded_keys_hold(xp: ModuleType) -> None:
    q, k = drawn(xp, (3, 2), (4, 2))
    k[3] = NAN
    out, pull = vjp(lambda a, b: ops.attention_weights(a, b, mask=xp.asarray([True, True, True, False])), q, k)
    gradients = pull(out)
    np.testing.assert_allclose(to_host(out.sum(-1)), np.ones(3), rtol=1e-15)
    np.testing.assert_array_equal(to_host(out[:, 3]), np.zeros(3))
    np.testing.assert_array_equal(to_host(gradients[1][3]), np.zeros(2))
    assert all(bool(xp.isfinite(g).all()) for g in gradients)


def test_large_logits(xp: ModuleType) -> None:
    """Logits of 1e4 in float32: all of the weight goes to the largest, and no exponential overflows."""
    q = xp.asarray([[1e4], [-1e4]], np.float32)
    k, v = xp.asarray([[1.0], [0.5], [-1.0], [0.0]], np.float32), xp.asarray([[1.0], [2.0], [3.0], [4.0]], np.float32)
    out, gradients = pulled(xp, [q, k, v], scale=1.0)
    np.testing.assert_array_equal(out, [[1.0], [3.0]])
    assert out.dtype == np.float32
    assert all(np.isfinite(g).all() for g in gradients)


@pytest.mark.parametrize("scale", [None, 0.3])
def test_values_may_be_wider_than_queries(scale: float | None, xp: ModuleType) -> None:
    arrays = drawn(xp, (5, 3), (7, 3), (7, 11))
    want = define.attention(*map(to_host, arrays), scale=scale)
    np.testing.assert_allclose(pulled(xp, arrays, scale=scale)[0], want, rtol=1e-12)


def test_query_heads_share_keys(xp: ModuleType) -> None:
    """Grouped queries: 2 key heads serve 3 query heads each, and get the sum of their gradients."""
    q, k, v = drawn(xp, (2, 3, 4, 5), (2, 1, 6, 5), (2, 1, 6, 7))
    out, (_, dk, dv) = pulled(xp, [q, k, v])
    wide_k, wide_v = (xp.asarray(np.broadcast_to(to_host(x), (2, 3, *x.shape[-2:]))) for x in (k, v))
    want, (_, wide_dk, wide_dv) = pulled(xp, [q, wide_k, wide_v])
    np.testing.assert_allclose(out, want, rtol=1e-13)
    assert (dk.shape, dv.shape) == (k.shape, v.shape)
    # sums of some dozen numbers near 1, in another order
    np.testing.assert_allclose(dk, wide_dk.sum(1, keepdims=True), rtol=0, atol=1e-13)
    np.testing.assert_allclose(dv, wide_dv.sum(1, keepdims=True), rtol=0, atol=1e-13)


@pytest.mark.parametrize("rows", ["zero", "uniform", "added"])
@pytest.mark.parametrize("masked", [False, True])
def test_no_keys_give_zeros(rows: str, masked: bool, xp: ModuleType) -> None:
    mask = xp.ones((3, 0), bool) if masked else None
    out, gradients = pulled(xp, drawn(xp, (3, 2), (0, 2), (0, 4)), mask=mask, masked_rows=rows)
    np.testing.assert_array_equal(out, np.zeros((3, 4)))
    np.testing.assert_array_equal(gradients[0], np.zeros((3, 2)))
    assert [g.shape for g in gradients] == [(3, 2), (0, 2), (0, 4)]


@pytest.mark.parametrize("shape", [(3, 5), (5, 4), (2, 4), (5,), ()])
@pytest.mark.parametrize("what", ["mask", "bias"])
def test_masks_and_biases_must_fit(what: str, shape: tuple[int, ...], xp: ModuleType) -> None:
    extra = {what: xp.ones(shape, bool if what == "mask" else float)}
    with pytest.raises(ValueError, match=rf"{what} .* does not broadcast to \(\.\.\., queries, keys\) = \(3, 4\)"):
        ops.attention(*drawn(xp, (3, 2), (4, 2), (4, 2)), **extra)


def test_masks_add_no_leading_axes(xp: ModuleType) -> None:
    with pytest.raises(
        ValueError, match=r"mask \(2, 3, 4\) does not broadcast to \(\.\.\., queries, keys\) = \(3, 4\)"
    ):
        ops.attention(*drawn(xp, (3, 2), (4, 2), (4, 2)), mask=xp.ones((2, 3, 4), bool))


def test_one_key_is_not_stretched_to_the_mask(xp: ModuleType) -> None:
    """Zeroing unused keys broadcasts them against the mask, which must not multiply them."""
    q, k, v = drawn(xp, (3, 2), (1, 2), (1, 2))
    with pytest.raises(ValueError, match=r"mask \(3, 5\) does not broadcast"):
        ops.attention(q, k, v, mask=xp.ones((3, 5), bool))
    with pytest.raises(ValueError, match=r"bias \(5, 1\) does not broadcast"):
        ops.attention(q[:1], k, v, xp.zeros((5, 1)))


def test_masks_must_be_bool(xp: ModuleType) -> None:
    q, k, v = drawn(xp, (3, 2), (4, 2), (4, 2))
    with pytest.raises(TypeError, match=r"mask must be bool \(True = attend\), got float64"):
        ops.attention(q, k, v, mask=xp.ones((3, 4)))
