"""pyproject.toml agrees with the source tree: every subpackage is listed, every extra that an error names exists."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

FOLDERS = {"perceiver_ref": "perceiver_ref", "autograd": "perceiver_ref.autograd"}
"""Top-level folder -> the package that it is installed as."""


@pytest.fixture(scope="module")
def pyproject(root: Path) -> dict[str, Any]:
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))


def packages(root: Path) -> list[str]:
    """The dotted name of every folder that holds Python files, as it is installed."""
    found = set()
    for folder, package in FOLDERS.items():
        for file in (root / folder).rglob("*.py"):
            found.add(".".join([package, *file.parent.relative_to(root / folder).parts]))
    return sorted(found)


def test_every_subpackage_is_listed(root: Path, pyproject: dict[str, Any]) -> None:
    listed = pyproject["tool"]["setuptools"]["packages"]
    assert listed == packages(root), "[tool.setuptools] packages must list, sorted, every folder of Python files"


def test_every_folder_of_python_files_is_a_package(root: Path) -> None:
    files = [file for folder in FOLDERS for file in (root / folder).rglob("*.py")]
    lacking = {str(file.parent.relative_to(root)) for file in files if not (file.parent / "__init__.py").exists()}
    assert not lacking


def test_the_hard_dependencies_are_numpy_and_scipy(pyproject: dict[str, Any]) -> None:
    names = [re.match(r"[\w-]+", line)[0] for line in pyproject["project"]["dependencies"]]
    assert names == ["numpy", "scipy"]


def test_what_a_message_says_to_install_is_in_an_extra(root: Path, pyproject: dict[str, Any]) -> None:
    lines = [line for extra in pyproject["project"]["optional-dependencies"].values() for line in extra]
    known = {re.match(r"[\w-]+", line)[0] for line in lines}
    files = [file for folder in FOLDERS for file in (root / folder).rglob("*.py")]
    said = [text for file in files for text in re.findall(r"pip install (\w.*)", file.read_text("utf-8"))]
    named = {package for text in said for package in re.findall(r"[a-z][\w-]*-[\w-]+", text)}
    assert named == {"cupy-cuda12x", "cupy-cuda13x"}
    assert named <= known


def test_tools_and_peers_are_pinned(pyproject: dict[str, Any]) -> None:
    extras = pyproject["project"]["optional-dependencies"]
    loose = [line for line in extras["dev"] + extras["peers"] if "==" not in line]
    assert loose == ["safetensors>=0.4.5"]  # a file format of ours, not an implementation compared with


def test_the_name_packaging_is_still_the_library() -> None:
    import packaging.version  # this folder has the same name and no __init__.py

    assert packaging.version.__file__
