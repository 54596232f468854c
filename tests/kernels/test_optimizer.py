"""The kernel of an optimizer's step on a CPU against its parts, update after update: the same bits."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from perceiver_ref.autograd import kernels, optim, threads, tree
from perceiver_ref.autograd.optim import optimizers

cpu = sys.modules["perceiver_ref.autograd.kernels.cpu.optimizer"]
rows = sys.modules["perceiver_ref.autograd.kernels.cpu.rows"]


@pytest.fixture(autouse=True)
def numpy_alone(backend: str) -> None:
    if backend != "numpy":
        pytest.skip("this kernel is NumPy's")


def matrices(path: str) -> bool:
    return path.endswith("weight")


MAKERS: dict[str, Callable[[], optim.Optimizer]] = {
    "adam": lambda: optim.adam(0.1),
    "adam with a penalty": lambda: optim.adam(0.1, weight_decay=0.1, decays=matrices),
    "adamw": lambda: optim.adamw(optim.warmup_cosine(0.1, 2, 10), weight_decay=0.1, decays=matrices, max_norm=2.0),
    "another root": lambda: optim.adamw(0.1, eps_root=1e-3, bias_correction=False),
    "norm below the bound": lambda: optim.adamw(0.1, max_norm=1e9),
    "frozen": lambda: optim.adam(0.1, trainable=matrices),
}
OTHERS: dict[str, Callable[[], optim.Optimizer]] = {
    "sgd": lambda: optim.sgd(0.1, momentum=0.9),
    "amsgrad": lambda: optim.adam(0.1, amsgrad="raw"),
    "nesterov": lambda: optim.adam(0.1, nesterov=True),
    "lamb": lambda: optim.lamb(0.1),
}


def parameters(dtype: Any, seed: int) -> dict[str, Any]:
    """Small ones beside some of several blocks, one of them in column-major order; without elements; without axes."""
    rng = np.random.default_rng(seed)
    shapes = {"weight": (13, 70), "bias": (70,), "empty": (0, 3), "scale": (), "other/weight": (5, 4)}
    layers = [{name: np.asarray(rng.standard_normal(s), dtype) for name, s in shapes.items()} for _ in range(3)]
    turned = np.asfortranarray(rng.standard_normal((31, 9)).astype(dtype))
    return {"layers": layers, "turned": turned, "zero": {"weight": np.zeros(257, dtype)}}


def stepped(make: Callable[[], optim.Optimizer], dtype: Any, mode: str) -> tuple[Any, Any]:
    """Parameters and state after updates of which one lacks a gradient."""
    optimizer, params = make(), parameters(dtype, 0)
    state = optimizer.init(params)
    with kernels(mode):
        for step in range(1, 5):
            gradients = parameters(dtype, step)
            if step == 2:  # from here on its count is another one
                gradients["layers"][1].pop("bias")
            params, state = optimizer.step(params, gradients, state)
    return params, state


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", sorted(MAKERS))
def test_updates_are_those_of_the_parts(name: str, dtype: Any, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In blocks of 100 elements, several parameters in one, several blocks in one."""
    for module, constant, value in ((cpu, "BLOCK", 100), (rows, "SHARED_BLOCK", 100), (rows, "ALONE", 0)):
        monkeypatch.setattr(module, constant, value)
    with threads(number):
        fast, plain = (stepped(MAKERS[name], dtype, mode) for mode in ("fast", "plain"))
    for (path, got), (other, want) in zip(*(tree.leaves(result) for result in (fast, plain)), strict=True):
        assert path == other
        np.testing.assert_array_equal(got, want, err_msg=path, strict=True)


@pytest.mark.parametrize("name", sorted(MAKERS | OTHERS))
def test_the_kernel_is_used_for_what_it_computes(name: str) -> None:
    optimizer, params = (MAKERS | OTHERS)[name](), parameters(np.float32, 0)
    made = optimizers.fused["numpy"](optimizer, params, parameters(np.float32, 1), optimizer.init(params))
    assert (made is not None) == (name in MAKERS)


def test_other_types_are_left_to_the_parts() -> None:
    optimizer = optim.adam(0.1)
    for params in ({"a": np.ones(3, np.float16)}, {"a": np.ones(3, np.float32), "b": np.ones(2)}):
        assert optimizers.fused["numpy"](optimizer, params, params, optimizer.init(params)) is None
