"""Fixtures that force the tiled attention kernel onto small problems, or keep it off them."""

from __future__ import annotations

import sys

import pytest

_KERNEL = "perceiver_ref.autograd.kernels.attention"


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of 2 queries by 3 keys."""
    monkeypatch.setattr(sys.modules[_KERNEL], "TILE", {"numpy": (2, 3), "cupy": (2, 3)})


@pytest.fixture
def whole_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles larger than any test."""
    monkeypatch.setattr(sys.modules[_KERNEL], "TILE", {"numpy": (512, 2048), "cupy": (512, 2048)})
