"""A stand-in for PyTorch with the interface that recording uses, for an environment without it.

Tensors have their documented methods and a tape; modules have hooks, named parts, parameters and buffers.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np


class DType:
    """`torch.float32`, as it is printed."""

    def __init__(self, name: str) -> None:
        self.name_ = name

    def __str__(self) -> str:
        return f"torch.{self.name_}"


class Handle:
    def __init__(self, hooks: dict[int, Any], key: int) -> None:
        self.hooks, self.key = hooks, key

    def remove(self) -> None:
        self.hooks.pop(self.key, None)


_keys = itertools.count()
state = {"grad": True, "live": 0}


def hooked(hooks: dict[int, Any], hook: Any) -> Handle:
    key = next(_keys)
    hooks[key] = hook
    return Handle(hooks, key)


class Tensor:
    def __init__(self, array: Any, requires_grad: bool = False, dtype: str | None = None, parents: Any = ()) -> None:
        self.array = np.asarray(array)
        self.dtype = DType(dtype or self.array.dtype.name)
        self.parents = [(p, f) for p, f in parents if p.requires_grad] if state["grad"] else []
        self.requires_grad = requires_grad or bool(self.parents)
        self.hooks: dict[int, Any] = {}
        self.device = "elsewhere"

    shape = property(lambda self: self.array.shape)
    ndim = property(lambda self: self.array.ndim)

    def dim(self) -> int:
        return self.array.ndim

    def detach(self) -> Tensor:
        return Tensor(self.array, dtype=self.dtype.name_)

    def cpu(self) -> Tensor:
        made = self.detach()
        made.device = "cpu"
        return made

    def float(self) -> Tensor:
        made = Tensor(self.array.astype(np.float32))
        made.device = self.device
        return made

    def numpy(self) -> np.ndarray:
        if self.requires_grad or self.device != "cpu":
            raise RuntimeError("call detach().cpu() first")
        if self.dtype.name_ == "bfloat16":
            raise TypeError("Got unsupported ScalarType BFloat16")
        return self.array

    def view_as(self, other: Tensor) -> Tensor:
        return Tensor(self.array, dtype=self.dtype.name_, parents=[(self, lambda g: g)])

    def register_hook(self, hook: Callable[[Any], None]) -> Handle:
        assert self.requires_grad
        return hooked(self.hooks, hook)

    def backward(self, gradient: Any) -> None:
        """Hooks of every tensor on the way get its whole gradient."""
        order: list[Tensor] = []

        def visit(tensor: Tensor) -> None:
            if tensor not in order:
                for parent, _ in tensor.parents:
                    visit(parent)
                order.append(tensor)

        visit(self)
        gradients = {id(self): np.asarray(gradient)}
        for tensor in reversed(order):
            if (g := gradients.get(id(tensor))) is not None:
                for hook in list(tensor.hooks.values()):
                    hook(Tensor(g, dtype=tensor.dtype.name_))
                for parent, back in tensor.parents:
                    gradients[id(parent)] = gradients.get(id(parent), 0) + back(g)

    def __add__(self, other: Tensor) -> Tensor:
        parents = [(self, lambda g: g), (other, lambda g: g)]
        return Tensor(self.array + other.array, parents=parents)


_RNG = np.random.default_rng(5)


def tensor(*shape: int, grad: bool = True) -> Tensor:
    return Tensor(_RNG.standard_normal(shape), grad)


def files(folder: Path) -> list[str]:
    """The names of what a folder holds."""
    return sorted(path.name for path in folder.iterdir())


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    def of_weight(g: Any) -> Any:
        return g.reshape(-1, g.shape[-1]).T @ x.array.reshape(-1, x.shape[-1])

    parents = [
        (x, lambda g: g @ weight.array),
        (weight, of_weight),
        (bias, lambda g: g.reshape(-1, g.shape[-1]).sum(0)),
    ]
    return Tensor(x.array @ weight.array.T + bias.array, parents=parents)


def twice(x: Tensor) -> Tensor:
    return Tensor(2 * x.array, parents=[(x, lambda g: 2 * g)])


class Module:
    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._after: dict[int, tuple[Any, bool]] = {}
        self.training = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        for hook in list(self._before.values()):
            if (changed := hook(self, args, kwargs)) is not None:
                args, kwargs = changed
        try:
            out = self.forward(*args, **kwargs)
        except Exception:
            for hook, always in list(self._after.values()):
                if always:
                    hook(self, args, None)
            raise
        for hook, _ in list(self._after.values()):
            if (changed := hook(self, args, out)) is not None:
                out = changed
        return out

    def register_forward_pre_hook(self, hook: Any, *, with_kwargs: bool = False) -> Handle:
        assert with_kwargs
        return hooked(self._before, hook)

    def register_forward_hook(self, hook: Any, *, always_call: bool = False) -> Handle:
        return hooked(self._after, (hook, always_call))

    def _own(self, kind: type) -> Iterator[tuple[str, Any]]:
        for name, value in vars(self).items():
            if isinstance(value, kind):
                yield name, value
            elif isinstance(value, list):
                yield from ((f"{name}.{i}", part) for i, part in enumerate(value) if isinstance(part, kind))

    def named_modules(self, memo: Any = None, prefix: str = "") -> Iterator[tuple[str, Module]]:
        memo = set() if memo is None else memo
        if id(self) not in memo:
            memo.add(id(self))
            yield prefix, self
            for name, part in self._own(Module):
                yield from part.named_modules(memo, f"{prefix}.{name}" if prefix else name)

    def _every(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        yield prefix, self
        for name, part in self._own(Module):
            yield from part._every(f"{prefix}.{name}" if prefix else name)

    def named_parameters(self, remove_duplicate: bool = True) -> Iterator[tuple[str, Tensor]]:
        seen: set[int] = set()
        for path, part in self._every():
            for name, value in part._own(Tensor):
                if not name.startswith("buffer_") and not (remove_duplicate and id(value) in seen):
                    seen.add(id(value))
                    yield f"{path}.{name}" if path else name, value

    def named_buffers(self) -> Iterator[tuple[str, Tensor]]:
        for path, part in self.named_modules():
            for name, value in part._own(Tensor):
                if name.startswith("buffer_"):
                    yield f"{path}.{name}" if path else name, value

    def state_dict(self) -> dict[str, Tensor]:
        return {**dict(self.named_parameters(False)), **dict(self.named_buffers())}


class Linear(Module):
    """Under the class path of PyTorch's, so that it is known."""

    def __init__(self, inputs: int, outputs: int, seed: int = 0, dtype: Any = np.float64) -> None:
        super().__init__()
        rng = np.random.default_rng(seed)
        self.weight = Tensor(rng.standard_normal((outputs, inputs)).astype(dtype), True)
        self.bias = Tensor(rng.standard_normal(outputs).astype(dtype), True)

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)


Linear.__module__, Linear.__qualname__ = "torch.nn.modules.linear", "Linear"
