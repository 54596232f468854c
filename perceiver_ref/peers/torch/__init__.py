"""PyTorch 2.13's operations and optimizers, one at a time: what a port to it is made of."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from dataclasses import replace

from ...errors import InputError
from ..base import Given, Peer, Rebuilt
from .attention import ATTENTION
from .grids import GRIDS
from .losses import LOSSES
from .norms import NORMS
from .optimizers import OPTIMIZERS
from .pointwise import POINTWISE
from .resizing import RESIZING

CLASSES: dict[str, Callable[[Given], Rebuilt]] = {
    **POINTWISE,
    **NORMS,
    **LOSSES,
    **ATTENTION,
    **GRIDS,
    **RESIZING,
    **OPTIMIZERS,
}


class TorchPeer(Peer):
    """A class may be named with options, such as `torch.nn.functional.normalize(p=1, eps=1e-8)`."""

    def rebuild(self, cls: str, given: Given) -> Rebuilt:
        """As any peer's; options in the name are part of the configuration."""
        match = re.fullmatch(r"([\w.]+)\((\s*\w+\s*=.*)\)", cls)
        if cls in self.classes or match is None:
            return super().rebuild(cls, given)
        try:
            keywords = ast.parse(f"f({match[2]})", mode="eval").body.keywords  # type: ignore[attr-defined]
            named = {k.arg: ast.literal_eval(k.value) for k in keywords}
        except (SyntaxError, ValueError):
            raise InputError(f"the options of {cls!r} cannot be read; expected name=value, ...") from None
        return super().rebuild(match[1], replace(given, config={**named, **given.config}))


PEER = TorchPeer("torch", CLASSES)
