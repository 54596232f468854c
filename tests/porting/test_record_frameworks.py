"""Recording Flax, Haiku and MLX modules, on stand-ins with the interface that each documents; live in `heavy`."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import perceiver_ref as pr
from perceiver_ref.porting.cases import read_case

X = np.arange(6.0).reshape(2, 3)


class MLXModule(dict):  # type: ignore[type-arg]
    """As mlx.nn.Module: a dict of parts and arrays."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, (np.ndarray, dict, list)):
            self[name] = value
        else:
            super().__setattr__(name, value)

    def named_modules(self) -> list[tuple[str, Any]]:
        found = [("", self)]
        for name, value in self.items():
            for key, part in (
                [(name, value)]
                if not isinstance(value, list)
                else [(f"{name}.{i}", part) for i, part in enumerate(value)]
            ):
                if isinstance(part, MLXModule):
                    found += [(f"{key}.{inner}" if inner else key, m) for inner, m in part.named_modules()]
        return found

    def parameters(self) -> dict[str, Any]:
        def own(value: Any) -> Any:
            if isinstance(value, MLXModule):
                return value.parameters()
            return [own(part) for part in value] if isinstance(value, list) else value

        return {name: own(value) for name, value in self.items()}


MLXModule.__module__ = "mlx.nn.layers.base"


class Scale(MLXModule):
    def __init__(self, by: float) -> None:
        super().__init__()
        self.weight = np.full(3, by)

    def __call__(self, x: Any) -> Any:
        return x * self.weight


class Derived(Scale):
    """Calls its base's `__call__`, and has none of its own beside."""

    def __call__(self, x: Any) -> Any:
        return super().__call__(x) + 1


class Inherits(Scale):
    pass


class Net(MLXModule):
    def __init__(self) -> None:
        super().__init__()
        self.first = Derived(2.0)
        self.layers = [Scale(3.0), Inherits(5.0)]
        self.depth = 2

    def __call__(self, x: Any, mask: Any = None) -> Any:
        x = self.first(x)
        for layer in self.layers:
            x = layer(x)
        return self.layers[0](x)


def test_mlx(tmp_path: Path) -> None:
    net, other, calls = Net(), Scale(7.0), (Scale.__call__, Derived.__call__, Net.__call__)
    with pr.record(net, tmp_path / "case.npz"):
        other(X)  # of the same class, but no part
        net.first(X)  # a part outside the call
        out = net(X, mask=None)
        net(X)
    case = read_case(tmp_path / "case.npz")
    assert case.meta["class"].endswith(".Net")
    assert case.meta["config"] == {"depth": 2}
    assert case.meta["call"] == {"mask": None}
    assert sorted(case.params) == ["first.weight", "layers.0.weight", "layers.1.weight"]
    assert list(case.trace) == ["first", "layers.0@0", "layers.1", "layers.0@1"]
    np.testing.assert_array_equal(case.trace["first"], X * 2 + 1)
    np.testing.assert_array_equal(case.trace["layers.1"], (X * 2 + 1) * 15)
    np.testing.assert_array_equal(case.outputs["out"], out)
    assert (Scale.__call__, Derived.__call__, Net.__call__) == calls
    assert "__call__" not in vars(Inherits)


def test_classes_are_as_before_after_an_error(tmp_path: Path) -> None:
    net, before = Net(), Net.__call__
    with pytest.raises(ZeroDivisionError), pr.record(net, tmp_path / "case.npz"):
        net(1 / 0)
    with pytest.raises(ValueError, match="operands"), pr.record(net, tmp_path / "case.npz"):
        net(np.ones(5))
    with pytest.raises(pr.InputError, match="called never"), pr.record(net, tmp_path / "case.npz"):
        pass
    assert Net.__call__ is before
    assert list(tmp_path.iterdir()) == []


@dataclasses.dataclass
class Context:
    module: Any
    method_name: str
    orig_method: Any = None


@pytest.fixture
def interceptors(monkeypatch: pytest.MonkeyPatch) -> list[Callable[..., Any]]:
    """`intercept_methods` of both frameworks: within it every method of a module is called through the interceptor."""
    active: list[Callable[..., Any]] = []

    @contextmanager
    def intercept_methods(interceptor: Callable[..., Any]) -> Any:
        active.append(interceptor)
        try:
            yield
        finally:
            active.pop()

    linen = types.SimpleNamespace(intercept_methods=intercept_methods)
    haiku = types.SimpleNamespace(intercept_methods=intercept_methods, running_init=lambda: False)
    monkeypatch.setitem(__import__("sys").modules, "flax.linen", linen)
    monkeypatch.setitem(__import__("sys").modules, "haiku", haiku)
    return active


def method(name: str, function: Callable[..., Any], module: Any, active: list[Any]) -> Callable[..., Any]:
    """A method as a framework wraps it."""

    def call(*args: Any, **kwargs: Any) -> Any:
        if not active:
            return function(module, *args, **kwargs)

        def following(*args: Any, **kwargs: Any) -> Any:
            return function(module, *args, **kwargs)

        return active[-1](following, args, kwargs, Context(module, name, function))

    return call


def linen_module(active: list[Any], path: tuple[str, ...] = (), cls: str = "Net") -> Any:
    @dataclasses.dataclass
    class Module:
        width: int = 3
        parent: Any = None
        name: str = "net"

        def is_initializing(self) -> bool:
            return False

        def apply(self, variables: Any, x: Any) -> Any:
            """Of a copy that is bound to the variables, as Linen does."""
            bound = linen_module(active, path)
            bound.__class__ = Module
            bound.variables = variables
            return method("__call__", type(bound).compute, bound, active)(x)

        def clone(self) -> Any:
            return self

        def compute(self, x: Any, scale: float = 2.0) -> Any:
            part = linen_module(active, (*self.path, "part"))
            method("setup", lambda module: None, self, active)()
            hidden = method("__call__", lambda module, x: x * scale, part, active)(x)
            return method("encode", lambda module, x: (x + 1, x), part, active)(hidden)

    Module.__module__, Module.__qualname__ = "flax.linen.module", cls
    made = Module()
    made.path = path  # type: ignore[attr-defined]
    made.__call__ = made.encode = lambda x, scale=2.0: None  # type: ignore[attr-defined]
    return made


def test_flax_linen(tmp_path: Path, interceptors: list[Any]) -> None:
    net = linen_module(interceptors)
    variables = {"params": {"part": {"kernel": X}}, "batch_stats": {"norm": {"mean": X[0]}}}
    with pr.record(net, tmp_path / "case.npz"):
        net.apply(variables, X)
    assert interceptors == []
    case = read_case(tmp_path / "case.npz")
    assert case.meta["class"] == "flax.linen.module.Net"
    assert case.meta["config"] == {"width": 3}
    assert (list(case.params), list(case.state)) == (["part.kernel"], ["batch_stats.norm.mean"])
    assert list(case.trace) == ["part", "part.encode", "part.encode.out1"]
    np.testing.assert_array_equal(case.inputs["x"], X)
    np.testing.assert_array_equal(case.outputs["out0"], 2 * X + 1)
    np.testing.assert_array_equal(case.trace["part"], 2 * X)


class HaikuModule:
    def __init__(self, name: str, params: dict[str, Any]) -> None:
        self.module_name, self.params = name, params

    def params_dict(self) -> dict[str, Any]:
        return self.params

    def state_dict(self) -> dict[str, Any]:
        return {}


class Transformed:
    """As `hk.transform` gives."""


HaikuModule.__module__ = Transformed.__module__ = "haiku._src.transform"


def test_haiku(tmp_path: Path, interceptors: list[Any]) -> None:
    inner = HaikuModule("mlp/~/linear", {"mlp/~/linear/w": X})
    outer = HaikuModule("mlp", {"mlp/b": X[0]})

    def compute(module: Any, inputs: Any) -> Any:
        return method("__call__", lambda module, x: 3 * x, inner, interceptors)(inputs) - 1

    with pr.record(Transformed(), tmp_path / "case.npz"):
        method("__call__", compute, outer, interceptors)(X)
    case = read_case(tmp_path / "case.npz")
    assert sorted(case.params) == ["mlp/b", "mlp/~/linear/w"]
    assert list(case.trace) == ["mlp/~/linear"]
    np.testing.assert_array_equal(case.inputs["inputs"], X)
    np.testing.assert_array_equal(case.outputs["out"], 3 * X - 1)
