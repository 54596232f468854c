"""Single files of installed packages, run as they stand: without their packages' own imports, some of them missing."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar
from unittest.mock import MagicMock

import pytest


class _Anything(ModuleType):
    """A module that is not there: whatever is asked of it exists and does nothing."""

    __path__: ClassVar[list[str]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return MagicMock()


class _Missing(MetaPathFinder, Loader):
    """Finds those packages, and all in them, that are named and cannot be found otherwise."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if name.partition(".")[0] in self.names else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Anything(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


class _Absent:
    """A package that is not installed."""

    def __init__(self, package: str) -> None:
        self._package = package

    def __getattr__(self, name: str) -> Any:
        pytest.skip(f"needs {self._package}")


@contextmanager
def _bare(package: str, inner: Sequence[str]) -> Iterator[None]:
    """The package and the folders on the way to the modules `inner`, without what their __init__ files do."""
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations
    before = {name for name in sys.modules if name.partition(".")[0] == package}
    for path in inner:
        place, name = Path(next(iter(spec.submodule_search_locations))), package
        for part in ["", *path.split(".")]:
            place, name = (place / part, f"{name}.{part}") if part else (place, name)
            if place.is_dir() and name not in sys.modules:
                sys.modules[name] = made = ModuleType(name)
                made.__path__ = [str(place)]
    try:
        yield
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == package]:
            if name not in before:
                del sys.modules[name]


def source(package: str, inner: str, beside: Sequence[str] = (), missing: Sequence[str] = ()) -> Any:
    """The module `package.inner`; where the package is not installed, what skips a test that uses it.

    `beside`: other modules of the package that it imports from. `missing`: packages that it names, and does not need
    for what it is wanted for.
    """
    if importlib.util.find_spec(package) is None:
        return _Absent(package)
    finder = _Missing(missing)
    sys.meta_path.append(finder)
    try:
        with _bare(package, [inner, *beside]):
            return importlib.import_module(f"{package}.{inner}")
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name, module in sys.modules.items() if isinstance(module, _Anything)]:
            del sys.modules[name]
