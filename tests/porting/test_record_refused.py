"""What recording refuses, what an error leaves behind, and how much memory it takes, on a stand-in for PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from porting.record_stand_in import Linear, Module, Tensor, files, tensor

import perceiver_ref as pr


def raising(error: Exception) -> Any:
    def forward(input: Any) -> Any:
        raise error

    return forward


def test_nothing_is_left_behind_by_an_error(tmp_path: Path) -> None:
    (tmp_path / "case.npz").write_text("before")
    module = Linear(3, 2)
    own, module.forward = module.forward, raising(KeyError("inside"))
    with pytest.raises(KeyError, match="inside"), pr.record(module, tmp_path / "case.npz"):
        module(tensor(2, 3))

    def again() -> None:
        with pr.record(module, tmp_path / "case.npz"):
            with pytest.raises(KeyError):
                module(tensor(2, 3))
            module.forward = own
            module(tensor(2, 3))

    with pytest.raises(pr.InputError, match="the call to record raised an error"):
        again()
    with (
        pytest.raises(pr.InputError, match="the module was called never inside"),
        pr.record(module, tmp_path / "case.npz"),
    ):
        module.forward(tensor(2, 3))
    with (
        pytest.raises(pr.InputError, match=r"called 1 times .* there is no call 2"),
        pr.record(module, tmp_path / "case.npz", call=2),
    ):
        module(tensor(2, 3))
    with pytest.raises(pr.InputError, match="several calls"), pr.record(module, tmp_path / "case.npz"):
        (module(tensor(2, 3)) + module(tensor(2, 3))).backward(np.ones((2, 2)))
    module.weight.array[0, 0] = np.nan
    with (
        pytest.raises(pr.InputError, match="parameter 'weight' holds a NaN"),
        pr.record(module, tmp_path / "case.npz"),
    ):
        module(tensor(2, 3))
    assert (tmp_path / "case.npz").read_text() == "before"
    assert files(tmp_path) == ["case.npz"]
    assert not module._before
    assert not module._after
    assert not module.weight.hooks


class OptimizedModule(Linear):
    """As `torch.compile` gives."""

    def __init__(self) -> None:
        super().__init__(3, 2)
        self._orig_mod = Linear(3, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (lambda: (OptimizedModule(), "case.npz"), "compiled by torch.compile"),
        (lambda: (Linear, "case.npz"), "Linear is a class; make one"),
        (lambda: (Linear(3, 2),), "needs the path of the case"),
        (lambda: (3.0, "case.npz"), "a builtins.float cannot be recorded: expected a module of PyTorch, Flax"),
        (lambda: (Linear(3, 2), "."), "is a directory"),
        (lambda: (Linear(3, 2), "nowhere/case.npz"), "does not exist"),
    ],
)
def test_wrong_use_is_one_clear_line(tmp_path: Path, monkeypatch: Any, arguments: Any, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(pr.InputError, match=message) as raised:
        pr.record(*arguments())
    assert "\n" not in str(raised.value)
    for option in ({"call": -1}, {"samples": True}, {"largest": 1.5}, {"meta": {"seed": object()}}):
        with pytest.raises(pr.InputError, match=next(iter(option))):
            pr.record(Linear(3, 2), "case.npz", **option)
    assert files(tmp_path) == []


def test_memory_is_that_of_a_few_values(tmp_path: Path) -> None:
    """40 values of 1 MB each, of which the module keeps none."""
    import tracemalloc

    class Step(Module):
        def forward(self, x: Any) -> Any:
            return Tensor(np.full(1 << 17, 0.5))

    class Long(Module):
        def __init__(self) -> None:
            super().__init__()
            self.steps = [Step() for _ in range(40)]

        def forward(self, x: Any) -> Any:
            for step in self.steps:
                x = step(x)
            return x

    module = Long()
    tracemalloc.start()
    try:
        with pr.record(module, tmp_path / "case.npz"):
            module(tensor(1, grad=False))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (tmp_path / "case.npz").stat().st_size > 40 << 20
    assert peak < 8 << 20, f"{peak >> 20} MB"  # one value, its bytes on the way out, and buffers of a MB
