"""Every public name says what it is, functions of arrays their shapes; examples in docstrings give what they show."""

from __future__ import annotations

import dataclasses
import doctest
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import perceiver_ref as pr
from perceiver_ref.autograd import registry
from perceiver_ref.autograd.core import Op
from perceiver_ref.models.module import Module


@cache
def modules() -> dict[str, ModuleType]:
    """Every module of the package without an underscore."""
    folders = {
        "perceiver_ref.": pr.__path__,
        "perceiver_ref.autograd.": pr.autograd.__path__,
    }  # two where it is editable
    found = [m.name for prefix, path in folders.items() for m in pkgutil.walk_packages(path, prefix)]
    public = [name for name in found if not any(part.startswith("_") for part in name.split("."))]
    return {name: importlib.import_module(name) for name in ("perceiver_ref", *public)}


def defined(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """Public functions, operations and classes that the module itself defines."""
    for name, value in vars(module).items():
        kind = isinstance(value, type | Op) or inspect.isfunction(value)
        if kind and not name.startswith("_") and getattr(value, "__module__", None) == module.__name__:
            yield name, value


def members(cls: type) -> Iterator[tuple[str, Any]]:
    """Public methods and properties that the class itself defines, without fields whose default is a function."""
    fields = getattr(cls, "__dataclass_fields__", {})
    for name, value in vars(cls).items():
        if name in fields:
            continue
        function = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        if not name.startswith("_") and inspect.isfunction(function):
            yield name, function


def says(value: Any) -> str:
    """The docstring, but not the signature that `dataclass` and `NamedTuple` write in its place."""
    text = inspect.getdoc(value) or ""
    return "" if isinstance(value, type) and text.startswith(f"{value.__name__}(") else text


def inherited(cls: type, name: str) -> str:
    """The docstring of a method, or of the first class that it overrides."""
    return next((text for base in cls.__mro__ if (text := says(vars(base).get(name)))), "")


def public() -> Iterator[tuple[str, str]]:
    """(name, docstring) of everything public."""
    for path, module in modules().items():
        yield path, module.__doc__ or ""
        for name, value in defined(module):
            yield f"{path}.{name}", says(value)
            if isinstance(value, type):
                for method, function in members(value):
                    yield f"{path}.{name}.{method}", says(function) or inherited(value, method)


def test_there_is_much_to_look_at() -> None:
    assert len(modules()) > 200
    assert len(list(public())) > 1000


def test_every_public_name_has_a_docstring() -> None:
    assert [name for name, text in public() if not text.strip()] == []


def test_every_name_of_the_package_has_one() -> None:
    for name in pr.__all__:
        value = getattr(pr, name)
        if isinstance(value, type | ModuleType) or callable(value):
            assert says(value), name


SHAPE = re.compile(r"\((?:\.\.\.|\*?[A-Za-z]\w*|\d+)(?:, [^()]*)?\)|\bshapes?\b|\bbroadcast|^As `\w+\.apply`")
"""A shape such as (B, N, D), the word, or the method whose shapes they are."""


@pytest.mark.parametrize("name", sorted(registry))
def test_an_operation_says_its_shapes(name: str) -> None:
    assert SHAPE.search(says(registry[name])), says(registry[name])


def test_a_model_says_the_shapes_of_what_it_is_applied_to() -> None:
    lacking = []
    for path, module in modules().items():
        for name, value in defined(module):
            if isinstance(value, type) and issubclass(value, Module) and "apply" in vars(value):
                text = says(value.apply) or inherited(value, "apply")
                if not SHAPE.search(text):
                    lacking.append(f"{path}.{name}: {text}")
    assert lacking == []


def test_a_docstring_that_is_only_a_signature_does_not_count() -> None:
    @dataclasses.dataclass
    class Row:
        name: str

    assert Row.__doc__
    assert says(Row) == ""


def with_examples() -> list[str]:
    return [path for path, module in modules().items() if ">>> " in inspect.getsource(module)]


@pytest.mark.parametrize("path", with_examples())
def test_examples(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = doctest.testmod(modules()[path])
    assert done.attempted > 0
    assert done.failed == 0


def test_there_are_examples() -> None:
    assert len(with_examples()) >= 5
