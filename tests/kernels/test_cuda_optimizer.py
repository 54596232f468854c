"""The kernel of an optimizer's step against its parts, update after update."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from perceiver_ref.autograd import kernels, optim, tree
from perceiver_ref.autograd.backend import to_host
from perceiver_ref.autograd.kernels.fused import chain


def matrices(path: str) -> bool:
    return path.endswith("weight")


MAKERS: dict[str, Callable[[], optim.Optimizer]] = {
    "adam": lambda: optim.adam(0.1),
    "adam with a penalty": lambda: optim.adam(0.1, weight_decay=0.1, decays=matrices),
    "nesterov": lambda: optim.adam(optim.warmup_cosine(0.1, 2, 10), nesterov=True, eps_root=1e-6),
    "adamw": lambda: optim.adamw(0.1, weight_decay=0.1, decays=matrices, max_norm=2.0),
    "norm below the bound": lambda: optim.adamw(0.1, max_norm=1e9),
    "lamb": lambda: optim.lamb(0.1, weight_decay=0.1, decays=matrices, max_norm=1.0),
    "lamb bounded": lambda: optim.lamb(0.1, norm_bounds=(0.1, 1.0), bias_correction=False),
    "frozen": lambda: optim.lamb(0.1, trainable=matrices),
}
OTHERS: dict[str, Callable[[], optim.Optimizer]] = {
    "sgd": lambda: optim.sgd(0.1, momentum=0.9),
    "amsgrad": lambda: optim.adam(0.1, amsgrad="raw"),
}


def parameters(xp: Any, dtype: Any, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    shapes = {"weight": (130, 70), "bias": (70,), "empty": (0, 3), "scale": ()}
    layers = [{name: xp.asarray(rng.standard_normal(shape), dtype) for name, shape in shapes.items()} for _ in range(2)]
    return {"layers": layers, "zero": {"weight": xp.zeros((4097,), dtype)}}


@pytest.mark.parametrize("name", sorted(MAKERS | OTHERS))
def test_the_kernel_is_used_for_what_it_computes(name: str) -> None:
    made = (MAKERS | OTHERS)[name]()
    assert (chain([part.kind for part in made.parts]) is not None) == (name in MAKERS)


# each update rounds a dozen times, and the direction of Adam divides by roots of rounded squares
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 1e-5)])
@pytest.mark.parametrize("name", sorted(MAKERS))
def test_updates_are_those_of_the_parts(name: str, dtype: Any, tolerance: float, backend: str, xp: Any) -> None:
    if backend != "cupy":
        pytest.skip("needs a GPU: pytest --backend cupy")
    results = []
    for mode in ("plain", "fast"):
        optimizer, params = MAKERS[name](), parameters(xp, dtype, 0)
        state = optimizer.init(params)
        with kernels(mode):
            for step in range(1, 4):
                gradients = parameters(xp, dtype, step)
                gradients["layers"][1].pop("bias")  # a leaf without a gradient stays as it is
                params, state = optimizer.step(params, gradients, state)
        results.append((params, state))
    for (path, want), (other, got) in zip(*(tree.leaves(result) for result in results), strict=True):
        assert (path, want.dtype, want.shape) == (other, got.dtype, got.shape)
        np.testing.assert_allclose(to_host(got), to_host(want), rtol=tolerance, atol=tolerance, err_msg=path)
