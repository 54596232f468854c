"""A stand-in for CuPy, on the host: its arrays refuse what CuPy's refuse, so that mixing is seen without a GPU.

NumPy's arrays are never converted but by `asarray` and `array`, and as indices; the stand-in's never but by `get`, and
as Python numbers. Methods have the arguments that CuPy's have, no more. Numbers are NumPy's, bit for bit. What is
refused is counted in `refused`, whoever catches the error.
"""

from __future__ import annotations

import operator
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import scipy.special

from perceiver_ref.autograd import sums
from perceiver_ref.autograd.core import registry
from perceiver_ref.autograd.modes import kernels

refused: list[str] = []
"""What has been refused: where in the package, and why."""
_METHODS = frozenset(
    """all any argmax argmin argsort astype clip copy cumsum dot fill flatten max mean min nonzero prod ravel repeat
    reshape round sort squeeze std sum swapaxes take transpose var""".split()  # noqa: SIM905 - names as a reader has them
)
_ATTRIBUTES = ("dtype", "flags", "itemsize", "nbytes", "ndim", "shape", "size", "strides")
_CREATING = ("array", "asarray", "asanyarray")
_NOT_CUPYS = frozenset(("initial", "where"))
"""Arguments of NumPy's reductions that CuPy's do not have"""


def _refuse(why: str) -> TypeError:
    here = [f for f in traceback.extract_stack() if "perceiver_ref" in f.filename or "autograd" in f.filename]
    refused.append(f"{why}, in {here[-1].filename}:{here[-1].lineno}" if here else why)
    return TypeError(why)


def _given(value: Any, what: str) -> Any:
    """What NumPy is to compute with; an array of its own is refused."""
    if isinstance(value, ndarray):
        return value.host
    if isinstance(value, np.ndarray):
        raise _refuse(f"{what} of an array of NumPy beside one of CuPy")
    if isinstance(value, (tuple, list)):
        return type(value)(_given(v, what) for v in value)
    return value


def _index(value: Any) -> Any:
    """CuPy takes indices from either side."""
    if isinstance(value, tuple):
        return tuple(map(_index, value))
    return value.host if isinstance(value, ndarray) else value


def _made(value: Any, source: ndarray | None = None) -> Any:
    if isinstance(value, (tuple, list)):
        return type(value)(_made(v, source) for v in value)
    if not isinstance(value, (np.ndarray, np.generic)):
        return value
    made = ndarray(np.asarray(value))
    if source is not None and isinstance(value, np.ndarray) and np.shares_memory(value, source.host):
        made.base = source if source.base is None else source.base
    return made


class ndarray:  # noqa: N801 - CuPy's name
    """As `cupy.ndarray`."""

    __module__ = "cupy"
    __array_priority__ = 100
    device = SimpleNamespace(id=0)
    __cuda_array_interface__: ClassVar[dict[str, Any]] = {}
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, host: np.ndarray) -> None:
        self.host = host
        self.base: ndarray | None = None

    def __getattr__(self, name: str) -> Any:
        if name in _ATTRIBUTES:
            return getattr(self.host, name)
        if name == "T":
            return self.transpose()
        if name not in _METHODS:
            raise AttributeError(f"cupy.ndarray has no {name} here")
        method = getattr(self.host, name)

        def run(*arguments: Any, **options: Any) -> Any:
            if _NOT_CUPYS & set(options):
                raise _refuse(f"{name} with {options}")
            with np.errstate(all="ignore"):  # a GPU gives no warnings
                return _made(method(*_given(arguments, name), **options), self)

        return run

    def get(self) -> np.ndarray:
        return self.host.copy()

    def item(self) -> Any:
        return self.host.item()

    def tolist(self) -> Any:
        return self.host.tolist()

    def view(self, dtype: Any = None) -> Any:
        return _made(self.host.view(dtype or self.dtype), self)

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise _refuse("implicit conversion to a NumPy array")

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        with np.errstate(all="ignore"):
            out = getattr(ufunc, method)(*_given(inputs, ufunc.__name__), **options)
        return _made(out)

    def __array_function__(self, function: Callable[..., Any], types: Any, given: Any, options: Any) -> Any:
        return _function(function)(*given, **options)

    def __getitem__(self, index: Any) -> Any:
        return _made(self.host[_index(index)], self)

    def __setitem__(self, index: Any, value: Any) -> None:
        self.host[_index(index)] = _given(value, "setting")

    def __len__(self) -> int:
        return len(self.host)

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))

    def __bool__(self) -> bool:
        return bool(self.host)

    def __int__(self) -> int:
        return int(self.host)

    def __float__(self) -> float:
        return float(self.host)

    def __repr__(self) -> str:
        return f"on the device: {self.host!r}"

    def __format__(self, how: str) -> str:
        return format(self.host[()], how)


def _operator(name: str) -> None:
    function = getattr(operator, name)

    def forward(self: ndarray, other: Any) -> Any:
        with np.errstate(all="ignore"):
            return _made(function(self.host, _given(other, name)))

    def backward(self: ndarray, other: Any) -> Any:
        with np.errstate(all="ignore"):
            return _made(function(_given(other, name), self.host))

    plain = name.strip("_")
    setattr(ndarray, f"__{plain}__", forward)
    if plain not in ("lt", "le", "eq", "ne", "gt", "ge"):
        setattr(ndarray, f"__r{plain}__", backward)

        def in_place(self: ndarray, other: Any) -> Any:
            self.host[...] = function(self.host, _given(other, name))
            return self

        setattr(ndarray, f"__i{plain}__", in_place)


_TWO = "add sub mul truediv floordiv mod pow matmul and_ or_ xor lshift rshift lt le eq ne gt ge"
for _name in _TWO.split():
    _operator(_name)
for _name in ("neg", "pos", "abs", "invert"):
    _one = getattr(operator, _name)
    setattr(ndarray, f"__{_name}__", lambda self, one=_one: _made(one(self.host)))


def _function(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of NumPy on arrays of the stand-in."""

    def run(*arguments: Any, **options: Any) -> Any:
        name = getattr(function, "__name__", "")
        if _NOT_CUPYS & set(options):
            raise _refuse(f"{name} with {options}")
        source = arguments[0] if arguments and isinstance(arguments[0], ndarray) else None
        if name == "at":
            arguments = (arguments[0], _index(arguments[1]), *arguments[2:])
            given = [_given(a, name) if i != 1 else a for i, a in enumerate(arguments)]
        else:
            given = _given(arguments, name)
        named = {key: _given(value, name) for key, value in options.items()}
        with np.errstate(all="ignore"):
            return _made(function(*given, **named), source)

    return run


def _creating(function: Callable[..., Any]) -> Callable[..., Any]:
    def run(value: Any, dtype: Any = None, **options: Any) -> Any:
        if isinstance(value, ndarray) and dtype in (None, value.dtype) and function is np.asarray:
            return value
        host = value.host if isinstance(value, ndarray) else np.array(value, dtype, copy=True)
        return ndarray(np.array(host, dtype, copy=True))

    return run


class _Module(ModuleType):
    """Names of NumPy as names of CuPy."""

    def __init__(self, name: str, of: ModuleType) -> None:
        super().__init__(name)
        self._of = of

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._of, name)
        if name in _CREATING:
            return _creating(found)
        if isinstance(found, ModuleType):
            return _Module(f"cupy.{name}", found)
        if isinstance(found, type) or not callable(found):
            return found
        made = _function(found)
        for method in ("at", "reduce", "outer") if isinstance(found, np.ufunc) else ():
            setattr(made, method, _function(getattr(found, method)))
        return made


def module() -> ModuleType:
    """The stand-in's `cupy`."""
    made: Any = _Module("cupy", np)
    made.ndarray = ndarray
    made.cuda = SimpleNamespace(
        runtime=SimpleNamespace(getDeviceCount=lambda: 1),
        get_current_stream=lambda: SimpleNamespace(is_capturing=lambda: False),
    )
    return made  # type: ignore[no-any-return]


@contextmanager
def installed(patch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Within this context `import cupy` gives the stand-in. Ops run by their definitions: kernels are of a real GPU.

    Of NumPy's arrays, too, so that numbers are the same.
    """
    made = module()
    cupyx = {name: ModuleType(name) for name in ("cupyx", "cupyx.scipy")}
    cupyx["cupyx.scipy.special"] = _Module("cupyx.scipy.special", scipy.special)
    cupyx["cupyx"].scipy = cupyx["cupyx.scipy"]  # type: ignore[attr-defined]
    cupyx["cupyx.scipy"].special = cupyx["cupyx.scipy.special"]  # type: ignore[attr-defined]
    for name, value in {"cupy": made, **cupyx}.items():
        patch.setitem(sys.modules, name, value)
    patch.delitem(sums.of_rows, "cupy", raising=False)
    for op in registry.values():
        patch.delitem(op.kernels, "cupy", raising=False)
    refused.clear()
    with kernels("plain"):
        yield made
