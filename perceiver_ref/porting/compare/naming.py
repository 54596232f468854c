"""What two names by one peer say of each other: different points of it are no pair, whatever their values are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .matching import Translate


def told_apart(names: tuple[str, str], peers: Iterable[Translate]) -> bool:
    """Whether a peer knows both names, as those of different points."""
    for translate in peers:
        a, b = (translate(name) for name in names)
        if a and b and a != b:
            return True
    return False


def elsewhere(names: Sequence[str], others: Sequence[str], peers: Iterable[Translate]) -> frozenset[str]:
    """Those of the names that a peer knows which knows most of the other dump's, too: points not recorded there."""
    for translate in peers:
        if 2 * sum(bool(translate(name)) for name in others) > len(others):
            return frozenset(name for name in names if translate(name))
    return frozenset()
