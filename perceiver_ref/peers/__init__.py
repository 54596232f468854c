"""Other implementations, one file each: tables that rename their parameters and map their configurations to ours."""

from ..errors import one_of
from . import (
    deepmind,
    evolla,
    hf,
    idefics,
    idefics2,
    krasserm,
    lucidrains,
    lucidrains_flamingo,
    mllama,
    open_flamingo,
    optax,
    perceiver_ar,
    reference,
    torch,
    torch_optimizer,
)
from .base import Given, Peer, Rebuilt

PEERS: dict[str, Peer] = {
    "deepmind": deepmind.PEER,
    "hf": hf.PEER,
    "krasserm": krasserm.PEER,
    "perceiver-ar": perceiver_ar.PEER,
    "lucidrains-perceiver": lucidrains.PEER,
    "lucidrains-flamingo": lucidrains_flamingo.PEER,
    "open-flamingo": open_flamingo.PEER,
    "idefics": idefics.PEER,
    "idefics2": idefics2.PEER,
    "evolla": evolla.PEER,
    "mllama": mllama.PEER,
    "optax": optax.PEER,
    "torch": torch.PEER,
    "torch-optimizer": torch_optimizer.PEER,
    reference.NAME: reference.PEER,
}
"""Peers by name."""


def peer(name: str) -> Peer:
    """The peer of this name; `InputError` listing the known ones."""
    if name not in PEERS:
        raise one_of("peer", name, PEERS)
    return PEERS[name]


__all__ = ["PEERS", "Given", "Peer", "Rebuilt", "peer"]
