"""The table of peers: names, and modules that are imported when they are asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest

from perceiver_ref import InputError
from perceiver_ref.peers import PEERS, Peer, Peers, peer, reference


def test_each_peer_is_called_as_its_row() -> None:
    assert {name: made.name for name, made in PEERS.items()} == {name: name for name in PEERS}
    assert PEERS[reference.NAME] is reference.PEER
    assert all(made.classes for made in PEERS.values())


def test_only_what_is_asked_for_is_imported() -> None:
    program = """
import sys
from perceiver_ref.peers import PEERS, peer
loaded = lambda: {name for name in sys.modules if name.startswith("perceiver_ref.peers.")}
assert len(PEERS) > 10 and "deepmind" in PEERS
assert {name.rpartition(".")[2] for name in loaded()} <= {"base", "names", "bounds"}, loaded()
peer("mllama")
assert "perceiver_ref.peers.transformers.mllama" in loaded(), loaded()
assert "perceiver_ref.peers.deepmind" not in loaded(), loaded()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_rows_come_and_go() -> None:
    table = Peers({"mllama": "mllama"})
    table["mine"] = Peer("mine", {})
    assert list(table) == ["mllama", "mine"]
    assert table["mine"].name == "mine"
    del table["mine"]
    assert "mine" not in table
    with pytest.raises(KeyError):
        table["mine"]


def test_an_unknown_peer_gets_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"unknown peer 'hff'; did you mean 'hf'\?.*lucidrains-perceiver"):
        peer("hff")
