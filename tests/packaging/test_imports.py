"""Imports go one way: no circle of files, none of a folder's entries, and each wing imports only what it stands on.

An import counts wherever it stands, in a function or for types alone, too.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PLACES = {"perceiver_ref": "perceiver_ref", "autograd": "perceiver_ref.autograd", "bench": "bench"}
"""Top-level folder -> the package that it is imported as."""

WINGS = {
    "version": "",
    "errors": "",
    "plain": "",
    "autograd": "",
    "host": "errors",
    "models": "autograd errors host",
    "peers": "autograd errors host models",
    "weights": "autograd errors host models peers version",
    "training": "autograd errors host models version weights",
    "porting": "autograd errors host models peers version weights",
    "testing": "errors host porting",
    "pytest_plugin": "errors host porting testing",
    "cli": "autograd errors host models peers porting training version weights",
    "__main__": "cli",
}
"""Entry of perceiver_ref/ -> the others that it may import."""

Edges = Mapping[str, set[str]]


@pytest.fixture(scope="module")
def files(root: Path) -> dict[str, Path]:
    """Module -> its file."""
    found = {}
    for folder, package in PLACES.items():
        for file in (root / folder).rglob("*.py"):
            parts = file.relative_to(root / folder).with_suffix("").parts
            found[".".join([package, *parts]).removesuffix(".__init__")] = file
    return found


@pytest.fixture(scope="module")
def imports(files: dict[str, Path]) -> Edges:
    """Module -> the modules of ours that it imports."""
    return {
        module: {_known(name, files) for name in _imported(module, file)} - {module, ""}
        for module, file in files.items()
    }


def _imported(module: str, file: Path) -> Iterator[str]:
    """Every name that a file imports, with the module that it comes from."""
    package = module.split(".") if file.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else []
            yield from (".".join([*above, *filter(None, [node.module]), name.name]) for name in node.names)


def _known(name: str, files: Iterable[str]) -> str:
    """The module of ours that a name is, or is in; "" for what is not ours."""
    while name and name not in files:
        name = name.rpartition(".")[0]
    return name


def _circle(edges: Edges) -> list[str]:
    """A circle, as the names along it; empty where there is none."""
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def _entries(imports: Edges) -> dict[str, dict[str, set[str]]]:
    """Folder -> its entries, files and folders -> those of the same folder that they import, with all inside them."""
    made: dict[str, dict[str, set[str]]] = {}
    for module, targets in imports.items():
        for target in targets:
            a, b = module.split("."), target.split(".")
            same = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), None)
            if same:  # elsewhere one is the face of a folder that the other is in
                made.setdefault(".".join(a[:same]), {}).setdefault(a[same], set()).add(b[same])
    return made


def test_imports_are_found(imports: Edges) -> None:
    assert "perceiver_ref.models.module" in imports["perceiver_ref.weights.checkpoints"]
    assert "models" in _entries(imports)["perceiver_ref"]["weights"]
    assert _circle({"a": {"b"}, "b": {"c"}, "c": {"a"}})


def test_no_file_is_in_a_circle(imports: Edges) -> None:
    assert not _circle(imports)


def test_the_entries_of_no_folder_are_in_a_circle(imports: Edges) -> None:
    assert not {folder: circle for folder, edges in _entries(imports).items() if (circle := _circle(edges))}


def test_each_wing_imports_only_what_it_stands_on(imports: Edges) -> None:
    found = _entries(imports)["perceiver_ref"]
    assert {wing: others for wing, may in WINGS.items() if (others := found.get(wing, set()) - set(may.split()))} == {}
    assert set(found) <= set(WINGS)


def test_nothing_that_is_installed_imports_the_face_of_the_package(imports: Edges) -> None:
    assert not [module for module, targets in imports.items() if "perceiver_ref" in targets and module[:5] != "bench"]


def test_nothing_that_is_installed_imports_what_measures_it(imports: Edges) -> None:
    measured = {module for module in imports if module.startswith("perceiver_ref")}
    assert not {target for module in measured for target in imports[module] if target.startswith("bench")}
