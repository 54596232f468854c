"""The machine's own matrix product in float32: what FLOP/s are a share of. It takes its turns beside the others."""

from __future__ import annotations

import numpy as np

from perceiver_ref.autograd import backend as backends

from .base import Built, Spec
from .case import BOTH, FORWARD, STEP

SIZE = {"numpy": 2048, "cupy": 8192}
"""Of the square matrices: large enough for the machine's full rate, small enough for a short turn."""


def build(spec: Spec) -> Built:
    """x @ y, whatever the pass is called."""
    library = backends.module(spec.backend)
    n = 64 if spec.quick else SIZE[spec.backend]
    x = library.asarray(np.random.default_rng(0).standard_normal((n, n), np.float32))
    out = library.empty_like(x)

    def run() -> None:
        library.matmul(x, x, out=out)

    passes = (FORWARD, BOTH, STEP)
    return Built(
        dict.fromkeys(passes, run),
        dict.fromkeys(passes, lambda _: np.zeros(1)),
        library.cuda.get_current_stream().synchronize if spec.backend == "cupy" else lambda: None,
        flops=lambda _: 2 * n**3,
        versions={"numpy": np.__version__},
    )
