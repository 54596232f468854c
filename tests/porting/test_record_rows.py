"""The table of classes that recordings know, against the peers' classes."""

from __future__ import annotations

import pytest

from perceiver_ref.peers import PEERS
from perceiver_ref.porting.record.recognise import rows


def test_every_row_names_a_class_of_its_peer() -> None:
    for path, row in rows():
        name = row.name or path
        classes = PEERS[row.peer].classes
        parts = name.split(".")
        assert name in classes or any(".".join(parts[i:]) in classes for i in range(len(parts))), (path, row.peer)


FUNCTIONS = {
    "hf": {"generate_fourier_features", "build_linear_positions", "space_to_depth"},
    "lucidrains-perceiver": {"fourier_encode"},
    "minicpmv": {"MiniCPMV"},
}
"""Classes of cases that are no modules of their own."""


@pytest.mark.parametrize(
    "peer",
    sorted({row.peer for _, row in rows()} - {"torch"}),
)
def test_every_module_of_a_peer_has_a_row(peer: str) -> None:
    named = [path for path, row in rows() if row.peer == peer]
    for name in set(PEERS[peer].classes) - FUNCTIONS.get(peer, set()):
        assert any(path == name or path.endswith(f".{name}") for path in named), name
