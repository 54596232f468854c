"""The kernels for NumPy at sizes that use them: blocks, tiles and threads; and the error bound of phi."""

from __future__ import annotations

import sys
import tracemalloc
from typing import Any

import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st

from perceiver_ref.autograd import kernels, ops, registry, threads, vjp

KERNELS = "perceiver_ref.autograd.kernels.cpu"
erf, rows, attention, linear = (sys.modules[f"{KERNELS}.{name}"] for name in ("erf", "rows", "attention", "linear"))


@pytest.fixture(autouse=True)
def numpy_alone(backend: str) -> None:
    if backend != "numpy":
        pytest.skip("these kernels are NumPy's")


def normal(x: np.ndarray) -> np.ndarray:
    out, *spare = (np.empty_like(x) for _ in range(3))
    erf.normal(x, out, tuple(spare))
    return out


@pytest.mark.parametrize(("dtype", "bound"), [(np.float32, 2e-7), (np.float64, 8e-16)])
def test_phi_is_within_its_bound_everywhere(dtype: Any, bound: float) -> None:
    """Two million points, dense where phi bends and near 0; the bounds are those that the module states."""
    x = np.concatenate([np.linspace(-12, 12, 1_500_001), np.geomspace(1e-30, 40, 250_001), [0.0, -0.0]])
    x = np.concatenate([x, -np.geomspace(1e-30, 40, 250_001)]).astype(dtype)
    error = np.abs(normal(x).astype(np.float64) - scipy.special.ndtr(x.astype(np.float64)))
    assert error.max() <= bound
    assert error.max() > 0.2 * bound  # the bound says something


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_phi_at_the_ends(dtype: Any) -> None:
    x = np.array([np.inf, -np.inf, np.nan, 50, -50], dtype)
    np.testing.assert_array_equal(normal(x), np.array([1, 0, np.nan, 1, 0], dtype))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_phi_is_symmetric_and_rises_but_for_rounding(dtype: Any) -> None:
    x = np.linspace(-6, 6, 20_001).astype(dtype)
    y = normal(x)
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(y + normal(-x), 1, rtol=0, atol=eps)
    assert np.diff(y).min() >= -2 * eps


def arrays(op: str, rng: np.random.Generator, dtype: Any) -> list[np.ndarray]:
    width = int(rng.integers(1, 200))
    lead = (int(rng.integers(1, 4)), int(rng.integers(1, 300)))
    vectors = {"layer_norm": 2, "rms_norm": 1}.get(op, 0)
    made = [rng.standard_normal((*lead, width)), *(rng.standard_normal(width) for _ in range(vectors))]
    return [x.astype(dtype) for x in made]


def pulled(op: Any, given: list[np.ndarray], mode: str) -> list[np.ndarray]:
    with kernels(mode):
        out, pull = vjp(op, *given)
        cotangent = np.random.default_rng(1).standard_normal(out.shape).astype(out.dtype)
        return [out, *pull(cotangent)]


def agree(got: list[np.ndarray], want: list[np.ndarray], tolerance: float) -> None:
    for a, b in zip(got, want, strict=True):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1.0, float(np.abs(b).max(initial=0))))


ROW_OPS = ("gelu_erf", "gelu_tanh", "layer_norm", "rms_norm", "softmax")


@pytest.mark.parametrize("op", ROW_OPS)
@pytest.mark.parametrize("number", [1, 3])
# gradients of parameters are sums over up to 900 rows of up to 200 products, in another order: their rounding grows as
# the root of that, some 30 units in the last place of 1e-16 and of 6e-8
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 2e-14), (np.float32, 1e-5)])
@pytest.mark.parametrize("kept", [0, 1 << 18])  # elements up to which activations are kept for the way back
@settings(max_examples=10)
@given(seed=st.integers(0, 2**32 - 1))
def test_blocks_and_threads_give_what_definitions_do(
    op: str, number: int, dtype: Any, tolerance: float, kept: int, seed: int, small_blocks: None
) -> None:
    made = arrays(op, np.random.default_rng(seed), dtype)
    rows.KEPT = kept  # of the fixture, which sets it back
    with threads(number):
        agree(pulled(registry[op], made, "fast"), pulled(registry[op], made, "plain"), tolerance)


@pytest.mark.parametrize("op", ROW_OPS)
def test_rows_without_a_gradient_are_computed_alike(op: str, small_blocks: None) -> None:
    """Called on arrays alone, kernels keep no residuals, and give the same bits."""
    made = arrays(op, np.random.default_rng(0), np.float32)
    with kernels("fast"):
        np.testing.assert_array_equal(registry[op](*made), vjp(registry[op], *made)[0])


@pytest.mark.parametrize("op", ROW_OPS)
def test_arrays_in_any_memory_order(op: str, small_blocks: None) -> None:
    made = arrays(op, np.random.default_rng(3), np.float64)
    made[0] = np.asfortranarray(made[0])
    agree(pulled(registry[op], made, "fast"), pulled(registry[op], made, "plain"), 2e-14)  # as above


@pytest.mark.parametrize("number", [2, 3])
@pytest.mark.parametrize("biased", [True, False])
@settings(max_examples=20)
@given(
    lead=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    sizes=st.tuples(st.integers(1, 20), st.integers(1, 40)),
    turned=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_linear_maps_over_threads(
    number: int, biased: bool, lead: list[int], sizes: tuple[int, int], turned: bool, seed: int, small_blocks: None
) -> None:
    """More rows than columns and fewer, in shares of 4, the last of them smaller; a weight that is a transpose."""
    rng = np.random.default_rng(seed)
    x, w = rng.standard_normal((*lead, sizes[0])), rng.standard_normal(sizes)
    made = [x, np.asfortranarray(w) if turned else w, *([rng.standard_normal(sizes[1])] if biased else [])]
    with threads(number):
        fast, plain = (pulled(ops.linear, made, mode) for mode in ("fast", "plain"))
    agree(fast, plain, 1e-13)  # sums of at most 125 terms in another order: a few dozen roundings of 1e-16


@pytest.mark.parametrize("number", [2, 3])
@pytest.mark.parametrize(
    ("x_lead", "y_lead"), [((), ()), ((4,), ()), ((3, 5), (3, 5)), ((3, 1), (5,)), ((), (7,)), ((2, 1, 4), (6, 1))]
)
@settings(max_examples=10)
@given(sizes=st.tuples(*[st.integers(1, 20)] * 3), turned=st.booleans(), seed=st.integers(0, 1000))
def test_products_over_threads(
    number: int,
    x_lead: tuple[int, ...],
    y_lead: tuple[int, ...],
    sizes: tuple[int, int, int],
    turned: bool,
    seed: int,
    small_blocks: None,
) -> None:
    """Of one matrix and of many, with leading axes that broadcast, divided along the longest of them."""
    rng = np.random.default_rng(seed)
    n, d, e = sizes
    x, y = rng.standard_normal((*x_lead, n, d)), rng.standard_normal((*y_lead, d, e))
    y = np.ascontiguousarray(y.swapaxes(-1, -2)).swapaxes(-1, -2) if turned else y
    with threads(number):
        fast, plain = (pulled(ops.matmul, [x, y], mode) for mode in ("fast", "plain"))
    agree(fast, plain, 1e-13)  # as above, of at most 20 times the product of the leading axes


@pytest.mark.parametrize("needs", [(True, False), (False, True)])
@pytest.mark.parametrize("lead", [(), (3,)])
def test_a_product_computes_the_gradient_that_is_asked_for(
    needs: tuple[bool, bool], lead: tuple[int, ...], small_blocks: None
) -> None:
    rng = np.random.default_rng(0)
    given = [rng.standard_normal((3, 30, 7)), rng.standard_normal((*lead, 7, 9))]
    at = needs.index(True)

    def op(free: np.ndarray) -> Any:
        return ops.matmul(*(free if i == at else a for i, a in enumerate(given)))

    with threads(2):
        agree(pulled(op, [given[at]], "fast"), pulled(op, [given[at]], "plain"), 1e-13)  # as above


def test_products_of_many_are_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    """Along the longest axis; small ones are not."""
    shares: list[list[tuple[int, ...]]] = []
    spread = linear.threads.spread

    def watched(work: Any, of: Any, size: int) -> None:
        shares.append([piece[2].shape for piece in of])
        spread(work, of, size)

    monkeypatch.setattr(linear.threads, "spread", watched)
    x, y = np.ones((2, 7, 60, 80), np.float32), np.ones((7, 80, 130), np.float32)
    with threads(2), kernels("fast"):
        np.testing.assert_array_equal(ops.matmul(x, y), np.full((2, 7, 60, 130), 80, np.float32))
        assert shares == [[(2, 3, 60, 130), (2, 4, 60, 130)]]
        ops.matmul(x[..., :2, :2], y[:, :2])
        assert len(shares) == 1


@pytest.mark.parametrize("needs", [(True, False), (False, True)])
def test_a_linear_map_computes_the_gradients_that_are_asked_for(needs: tuple[bool, bool], small_blocks: None) -> None:
    rng = np.random.default_rng(0)
    fixed = {"x": rng.standard_normal((30, 7)), "w": rng.standard_normal((7, 9))}
    free = {name: a for (name, a), need in zip(fixed.items(), needs, strict=True) if need}
    (name,) = free

    def op(given: np.ndarray) -> Any:
        return ops.linear(*{**fixed, name: given}.values())

    with threads(2):
        agree(pulled(op, [free[name]], "fast"), pulled(op, [free[name]], "plain"), 1e-13)  # as above


def test_large_products_are_divided_and_leave_blas_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    shares: list[int] = []
    spread = linear.threads.spread
    monkeypatch.setattr(
        linear.threads, "spread", lambda work, of, size: (shares.append(len(of)), spread(work, of, size))
    )
    x, w = np.ones((2, 600, 256), np.float32), np.ones((256, 128), np.float32)
    with threads(3):
        np.testing.assert_array_equal(ops.linear(x, w), np.full((2, 600, 128), 256, np.float32))
        assert shares == [3]
        ops.linear(x[:, :20], w)  # in one piece, and on one thread
        assert shares == [3, 1]
        ops.linear(x[:, :2], w)  # so small that BLAS has no other way
        assert shares == [3, 1]
        assert linear.threads.count() == 3


@pytest.fixture(params=["heads", "tiles"])
def attending(request: pytest.FixtureRequest, small_blocks: None, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every attention by blocks of whole heads, of at most 64 scores where a head has no more, or by tiles."""
    if request.param == "heads":
        for constant, value in {"FEW": 1 << 20, "LEAST": 1, "BLOCK": 64}.items():
            monkeypatch.setattr(sys.modules[f"{KERNELS}.heads"], constant, value)
    return str(request.param)


def heads(rng: np.random.Generator, batch: int, n: int, count: int, depth: int) -> np.ndarray:
    """(batch, heads, n, depth), in memory as heads are split off channels."""
    return rng.standard_normal((batch, n, count, depth)).swapaxes(1, 2)


@pytest.mark.parametrize("number", [1, 2, 5])
@pytest.mark.parametrize("logits", [1.0, 20.0])  # below 30 mostly, which is without running maxima, or above
@settings(max_examples=20)
@given(
    sizes=st.tuples(*(st.integers(1, top) for top in (3, 4, 40, 40, 5, 5))),
    masked=st.sampled_from(["zero", "uniform", "added", None]),
    biased=st.booleans(),
    shared=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_attention_over_threads(
    number: int,
    logits: float,
    sizes: tuple[int, ...],
    masked: str | None,
    seed: int,
    biased: bool,
    shared: bool,
    attending: str,
) -> None:
    """Heads, queries or keys are divided, according to their numbers; tiles of 4 queries by 6 keys."""
    batch, count, n, m, d, e = sizes
    rng = np.random.default_rng(seed)
    own = 1 if shared else count  # heads of keys and values
    made = [heads(rng, batch, n, count, d), heads(rng, batch, m, own, d), heads(rng, batch, m, own, e)]
    made += [rng.standard_normal((count, 1, m))] if biased else []
    static: dict[str, Any] = {"scale": logits / np.sqrt(d)}
    if masked is not None:
        static |= {"mask": rng.random((batch, 1, n, m)) < 0.5, "masked_rows": masked}
    with threads(number):

        def op(*given: Any) -> Any:
            return ops.attention(*given, **static)

        agree(
            pulled(op, made, "fast"), pulled(op, made, "plain"), 1e-12
        )  # a few dozen roundings of 1e-16, of logits up to 200


@pytest.mark.parametrize(("n", "m"), [(5, 900), (900, 5)])
def test_attention_repeats_itself_bit_for_bit(n: int, m: int, attending: str) -> None:
    rng = np.random.default_rng(0)
    made = [rng.standard_normal(shape).astype(np.float32) for shape in ((1, 1, n, 8), (1, 1, m, 8), (1, 1, m, 8))]
    with threads(3):
        first, *others = (pulled(ops.attention, made, "fast") for _ in range(4))
    for other in others:
        for a, b in zip(first, other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_heads_are_joined_without_a_copy(attending: str) -> None:
    """The result lies in memory as joining its heads wants it, and so do gradients."""
    rng = np.random.default_rng(0)
    made = [heads(rng, 2, 25, 4, 8) for _ in range(3)]
    with kernels("fast"):
        out, pull = vjp(ops.attention, *made)
        for x in (out, *pull(out)):
            assert x.swapaxes(1, 2).flags.c_contiguous


def test_a_weight_of_1_gives_scores_no_gradient_by_heads() -> None:
    """Not even a rounding of one: of the definition's promises, what blocks of heads keep."""
    rng = np.random.default_rng(0)
    made = [heads(rng, 16, n, 8, 4).astype(np.float32) for n in (9, 11, 11)]
    mask = np.eye(9, 11, dtype=bool)
    by_heads, *_ = registry["attention"].kernels["numpy"]
    assert by_heads.run(made, {"mask": mask}, (True,) * 3) is not NotImplemented  # a case of theirs
    with kernels("fast"):
        out, pull = vjp(lambda *given: ops.attention(*given, mask=mask), *made)
        dq, dk, _ = pull(rng.standard_normal(out.shape).astype(np.float32))
    assert not dq.any()
    assert not dk.any()


def test_attention_takes_memory_for_tiles_alone() -> None:
    """8 times the keys: 8 times the gradients, and no more for scores than a few tiles."""

    def peak(m: int) -> int:
        rng = np.random.default_rng(0)
        q, k, v = (rng.standard_normal((n, 2)).astype(np.float32) for n in (64, m, m))
        with kernels("fast"), threads(2):
            tracemalloc.start()
            try:
                out, pull = vjp(ops.attention, q, k, v)
                pull(out)
                return tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()

    tile = attention.TILE[0] * attention.TILE[1] * 4
    assert peak(1 << 17) < 2 * 2 * (1 << 17) * 4 * 2 + 8 * tile  # dk and dv, twice, and two tiles a thread, twice


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropies_of_many_rows(reduction: str, smoothing: float) -> None:
    """Some of them ignored, one of those with a NaN, one gradient infinite where each has its own."""
    rng = np.random.default_rng(0)
    logits, targets = rng.standard_normal((7, 90, 11)), rng.integers(0, 11, (7, 90))
    targets[rng.random((7, 90)) < 0.2] = -100
    logits[tuple(np.argwhere(targets == -100)[3])] = np.nan
    g = np.asarray(rng.standard_normal(targets.shape if reduction == "none" else ()))
    g[(2, 5) if reduction == "none" else ()] = np.inf if reduction == "none" else 3.0
    rule = registry["cross_entropy"].kernels["numpy"][0]
    options = {"label_smoothing": smoothing, "reduction": reduction}
    assert rule.run([logits, targets], options, (True, False)) is not NotImplemented  # a case of the kernel's
    found = {}
    for mode in ("fast", "plain"):
        with kernels(mode):
            out, pull = vjp(lambda x: ops.cross_entropy(x, targets, **options), logits)
            found[mode] = [out, *pull(g)]
    for fast, plain in zip(found["fast"], found["plain"], strict=True):
        np.testing.assert_allclose(fast, plain, rtol=1e-13, atol=1e-13)  # a few dozen roundings of 1e-16, 500 summed


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(np.float64, 1e-14), (np.float32, 1e-6)]
)  # some 20 terms, 1e-16, 6e-8
def test_picked_rows_add_up(dtype: Any, tolerance: float) -> None:
    """Some rows are picked many times, some never."""
    rng = np.random.default_rng(0)
    table, ids = rng.standard_normal((30, 3, 5)).astype(dtype), rng.integers(-9, 9, (40, 7))
    fast, plain = (pulled(lambda t: ops.take(t, ids), [table], mode) for mode in ("fast", "plain"))
    agree(fast, plain, tolerance)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels for arrays of any size: blocks of 512 elements, tiles of 4 queries by 6 keys."""
    for name, values in {
        "rows": {"BLOCK": 512, "SHARED_BLOCK": 512, "SMALL": 0, "ALONE": 0, "KEPT": rows.KEPT},
        "attention": {"TILE": (4, 6), "SMALL": 0},
        "heads": {"FEW": 0},
        "linear": {"LEAST": 1, "SMALL": 1, "GRAIN": 4, "EARLY": 40},
    }.items():
        for constant, value in values.items():
            monkeypatch.setattr(sys.modules[f"{KERNELS}.{name}"], constant, value)


@pytest.mark.parametrize("at", ["q", "k"])
@pytest.mark.parametrize("value", [1e30, np.inf, np.nan])
def test_one_large_number_is_enough_for_running_maxima(at: str, value: float, attending: str) -> None:
    """A single number among small ones, in the last tile, that makes scores overflow without a maximum."""
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((n, 3)).astype(np.float32) for n in (5, 20, 20))
    {"q": q, "k": k}[at][-1, -1] = value
    with np.errstate(all="ignore"):
        with kernels("plain"):
            want = ops.attention(q, k, v)
        with kernels("fast"):
            got = ops.attention(q, k, v)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)  # weights of 1, or a few roundings of 6e-8
