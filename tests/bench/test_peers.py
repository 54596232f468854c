"""The other implementations at quick sizes, where they are installed: each computes what ours does."""

from __future__ import annotations

import pytest

from bench.base import Spec
from bench.case import STEP
from bench.cases import CASES
from bench.process import LostError, Worker

OTHERS = [
    (name, who)
    for name, row in CASES.items()
    for who in row.implementations
    if who in ("transformers", "perceiver-pytorch", "flamingo-pytorch", "jax", "torch", "autograd", "mygrad")
    and row.kind != "import"
    and not name.endswith("-8")  # the same at quick sizes
]


@pytest.mark.heavy
@pytest.mark.parametrize(("name", "who"), OTHERS)
def test_a_peer_agrees_with_ours(name: str, who: str) -> None:
    import numpy as np

    from bench.base import difference

    workers: list[Worker] = []
    try:
        for which in ("ours", who):
            try:
                workers.append(Worker(Spec(name, which, quick=True), 1))
            except LostError as error:
                if which != "ours" and "not installed" in str(error):
                    pytest.skip(str(error))
                raise
        for pass_name in CASES[name].passes:
            ours, theirs = (np.array(worker.ask("check", pass_name)["vector"]) for worker in workers)
            # float32, two orders of summation; a step's loss passes through the update before, too
            assert difference(theirs, ours) < (1e-3 if pass_name == STEP else 1e-4)
    finally:
        for worker in workers:
            worker.stop()
