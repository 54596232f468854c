"""Fixtures that force the kernels onto small problems, or keep attention's tiles off them."""

from __future__ import annotations

import sys

import pytest

_KERNELS = "perceiver_ref.autograd.kernels"


def _set(monkeypatch: pytest.MonkeyPatch, module: str, **values: object) -> None:
    for name, value in values.items():
        monkeypatch.setattr(sys.modules[f"{_KERNELS}.{module}"], name, value)


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of 2 queries by 3 keys with running maxima, and blocks of 8 elements, for arrays of any size."""
    _set(monkeypatch, "attention", TILE={"numpy": (2, 3), "cupy": (2, 3)})
    _set(monkeypatch, "cpu.attention", TILE=(2, 3), SMALL=0, STEADY=-1.0)
    _set(monkeypatch, "cpu.heads", FEW=0)
    _set(monkeypatch, "cpu.linear", LEAST=1, GRAIN=2)
    _set(monkeypatch, "cpu.rows", BLOCK=8, SHARED_BLOCK=8, SMALL=0, ALONE=0)


@pytest.fixture
def whole_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles larger than any test."""
    _set(monkeypatch, "attention", TILE={"numpy": (512, 2048), "cupy": (512, 2048)})
    _set(monkeypatch, "cpu.attention", TILE=(512, 2048))


@pytest.fixture
def whole_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of whole heads in place of tiles, a block for each piece of the longest leading axis."""
    _set(monkeypatch, "cpu.heads", FEW=1 << 20, LEAST=1, BLOCK=1)


@pytest.fixture(params=["tiles", "heads"])
def small_attention(request: pytest.FixtureRequest, small_tiles: None) -> None:
    """Attention in either of its kernels' pieces, however small the problem."""
    if request.param == "heads":
        request.getfixturevalue("whole_heads")
