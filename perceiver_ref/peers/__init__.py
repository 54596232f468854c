"""Other implementations, a file or folder each: their parameters renamed, their configurations and calls as ours.

base    what a peer is, and reading its options and calls
names   renaming of arrays and traced points, in both directions
replay  what the peers that are optimizers share
gru     a cell that two of them use
masks   masks as PyTorch's functions take them
hard_coded  constants of a class's source that a case has replaced
"""

from collections.abc import Iterator, MutableMapping
from importlib import import_module

from ..errors import InputError, one_of
from .base import Given, Peer, Rebuilt


class Peers(MutableMapping[str, Peer]):
    """Peers by name; the module of each is imported when it is first asked for, as all together take a second."""

    def __init__(self, modules: dict[str, str]) -> None:
        """`modules`: name -> the module of this package whose `PEER` it is."""
        self._rows: dict[str, str | Peer] = dict(modules)

    def __getitem__(self, name: str) -> Peer:
        row = self._rows[name]
        if isinstance(row, str):
            row = self._rows[name] = import_module(f".{row}", __name__).PEER
        assert isinstance(row, Peer)
        return row

    def __setitem__(self, name: str, peer: Peer) -> None:
        self._rows[name] = peer

    def __delitem__(self, name: str) -> None:
        del self._rows[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, name: object) -> bool:
        return name in self._rows


PEERS = Peers(
    {
        "deepmind": "deepmind",
        "hf": "transformers.perceiver",
        "krasserm": "krasserm",
        "perceiver-ar": "perceiver_ar",
        "lucidrains-perceiver": "lucidrains.perceiver",
        "lucidrains-flamingo": "lucidrains.flamingo",
        "open-flamingo": "open_flamingo",
        "idefics": "transformers.idefics",
        "idefics2": "transformers.idefics2",
        "evolla": "transformers.evolla",
        "mllama": "transformers.mllama",
        "shape2vecset": "shape2vecset",
        "edgetam": "transformers.edgetam",
        "aurora": "aurora",
        "perceiver-ar-pytorch": "lucidrains.perceiver_ar",
        "nemo": "nemo",
        "ip-adapter": "ip_adapter",
        "diffusers": "diffusers",
        "pulid": "pulid",
        "xtts": "xtts",
        "naturalspeech2": "naturalspeech2",
        "timm": "timm",
        "open-clip": "open_clip",
        "siglip": "transformers.siglip",
        "chatterbox": "chatterbox",
        "kosmos2": "transformers.kosmos2",
        "aria": "transformers.aria",
        "minicpmv": "minicpmv",
        "optax": "optax",
        "torch": "torch",
        "torch-optimizer": "torch_optimizer",
        "perceiver-ref": "reference",
    }
)
"""Peers by name."""
UNKNOWN = "unknown"
"""In place of a peer's name in cases of a model that is none of them: one with its own classes and names."""


def peer(name: str) -> Peer:
    """The peer of this name; `InputError` listing the known ones."""
    if name == UNKNOWN:
        raise InputError(
            "its model is no known implementation, so its names mean nothing yet: "
            "`perceiver-ref bind CASE --to CONFIG|PRESET` finds which is which"
        )
    if name not in PEERS:
        raise one_of("peer", name, PEERS)
    return PEERS[name]


__all__ = ["PEERS", "UNKNOWN", "Given", "Peer", "Peers", "Rebuilt", "peer"]
