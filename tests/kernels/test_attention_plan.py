"""How attention on a GPU is divided: memory and passes over the keys, for any sizes. Needs no GPU."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from perceiver_ref.autograd.kernels.cuda.attention_plan import FEWEST, WORKSPACE, _division


@given(
    count=st.integers(1, 1000),
    n=st.integers(1, 10**6),
    m=st.integers(1, 10**8),
    itemsize=st.sampled_from([4, 8]),
)
@example(count=1, n=512, m=4 * 10**6, itemsize=4)
@example(count=8, n=2048, m=2048, itemsize=4)
def test_scores_take_memory_and_passes_linear_in_the_keys(count: int, n: int, m: int, itemsize: int) -> None:
    rows, heads = _division(count, n, m, itemsize)
    assert 1 <= rows <= n
    assert 1 <= heads <= count
    assert heads == 1 or rows == n
    assert heads * rows * m * itemsize <= max(WORKSPACE, min(n, FEWEST) * m * itemsize)
    assert -(-n // rows) <= -(-n // FEWEST)  # however many keys there are
    assert rows == n or rows % 4 == 0  # each part of the queries starts where vectors of four do
