"""`import perceiver_ref as pr` gives every public name, whichever modules happen to be imported already."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

import pytest

import perceiver_ref as pr


def modules() -> list[str]:
    found = pkgutil.walk_packages(pr.__path__, "perceiver_ref.")
    return [module.name for module in found if not module.name.endswith("__main__")]


def test_every_module_imports_and_hides_no_public_name() -> None:
    """A module named like a public function would replace it as soon as it is imported."""
    for name in modules():
        importlib.import_module(name)
    for name in pr.__all__:
        expected_module = name in ("autograd", "peers", "vectors", "crosscheck", "ledger", "training")
        assert isinstance(getattr(pr, name), ModuleType) == expected_module, name


def test_dir_lists_the_public_names() -> None:
    assert set(pr.__all__) <= set(dir(pr))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'perceiver'"):
        _ = pr.perceiver
