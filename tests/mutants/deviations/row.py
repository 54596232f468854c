"""A row of the table, and the changes of a built model that rows name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mutants.models import Model
from mutants.source import Edit

Change = Callable[[nn.Module], None]
LOW = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


class NotApplicable(Exception):  # noqa: N818
    """The deviation has nothing to change in this model."""


@dataclass(frozen=True)
class Deviation:
    """One way in which an implementation may differ from its peer.

    edits: of the peer's source, held to the modules that stand where `scopes` say; change: of the built model, after
    its parameters are set. only: a pattern that "peer/model" must match. also: causes by which it may as well be named.
    """

    cause: str
    variant: str
    peers: tuple[str, ...]
    edits: tuple[Edit, ...] = ()
    scopes: tuple[str, ...] = ()
    change: Change | None = None
    only: str = ""
    also: tuple[str, ...] = ()

    def concerns(self, model: Model) -> bool:
        """Whether it may be planted in this model at all."""
        return model.peer in self.peers and re.search(self.only, f"{model.peer}/{model.name}") is not None


SCOPE_NAMES = {
    (): "",
    ("cross",): " (cross-attention of the encoder)",
    ("self",): " (self-attention)",
    ("decoder",): " (decoder)",
    ("cross", "decoder"): " (every cross-attention)",
    ("first",): " (first layer only)",
}


def scoped(
    cause: str,
    variant: str,
    peers: tuple[str, ...],
    *edits: Edit,
    scopes: Iterable[tuple[str, ...]] = ((),),
    only: str = "",
    also: tuple[str, ...] = (),
) -> list[Deviation]:
    """The same edits in every place, and in some of them only."""
    return [Deviation(cause, variant + SCOPE_NAMES[where], peers, edits, where, None, only, also) for where in scopes]


def changed(cause: str, peers: tuple[str, ...], rows: dict[str, Change], only: str = "") -> list[Deviation]:
    """Rows of changes of the built model, by the sentence that tells them."""
    return [Deviation(cause, variant, peers, change=change, only=only) for variant, change in rows.items()]


def parameters(module: nn.Module, pattern: str) -> Iterator[tuple[str, nn.Parameter]]:
    """Parameters whose names match; none is an error that leaves the model out."""
    found = [(name, p) for name, p in module.named_parameters() if re.search(pattern, name)]
    if not found:
        raise NotApplicable(pattern)
    return iter(found)


def submodules(module: nn.Module, pattern: str) -> list[nn.Module]:
    """Modules whose paths match."""
    found = [part for path, part in module.named_modules() if re.search(pattern, path)]
    if not found:
        raise NotApplicable(pattern)
    return found


def skip(pattern: str) -> Change:
    """Modules give back what they are given."""

    def change(module: nn.Module) -> None:
        for part in submodules(module, pattern):
            part.forward = lambda x: x

    return change


def replace(pattern: str, function: Callable[[Any], Any]) -> Change:
    """Modules compute this function instead."""

    def change(module: nn.Module) -> None:
        for part in submodules(module, pattern):
            part.forward = function

    return change


def zero(pattern: str) -> Change:
    """Parameters are zero, as where they are left out."""

    def change(module: nn.Module) -> None:
        for _, p in parameters(module, pattern):
            p.data.zero_()

    return change


def one(pattern: str) -> Change:
    """Scales are one, as where they are left out."""

    def change(module: nn.Module) -> None:
        for _, p in parameters(module, pattern):
            p.data.fill_(1.0)

    return change


def transposed(pattern: str) -> Change:
    """Square matrices are used the other way round."""

    def change(module: nn.Module) -> None:
        square = [p for _, p in parameters(module, pattern) if p.ndim == 2 and p.shape[0] == p.shape[1] > 1]
        if not square:
            raise NotApplicable(pattern)
        for p in square:
            p.data = p.data.T.clone()

    return change


def reread(pattern: str) -> Change:
    """Matrices of any shape are read from memory in the other layout (reshaped where they should be transposed)."""

    def change(module: nn.Module) -> None:
        for _, p in parameters(module, pattern):
            if p.ndim == 2:
                p.data = p.data.reshape(p.shape[::-1]).T.clone()

    return change


def halves_swapped(pattern: str) -> Change:
    """The two halves of a joint matrix change places."""

    def change(module: nn.Module) -> None:
        for _, p in parameters(module, pattern):
            p.data = torch.cat(list(p.data.chunk(2))[::-1])

    return change


def eps(pattern: str, value: float) -> Change:
    """Norms use another epsilon."""

    def change(module: nn.Module) -> None:
        for part in submodules(module, pattern):
            if not (hasattr(part, "eps") or hasattr(part, "variance_epsilon")):
                continue
            setattr(part, "eps" if hasattr(part, "eps") else "variance_epsilon", value)

    return change


def copied(source: str, target: str) -> Change:
    """Every parameter whose name matches `target` (a substitution of it gives `source`) takes the other's value."""

    def change(module: nn.Module) -> None:
        named = dict(module.named_parameters())
        values = {name: p.data.clone() for name, p in named.items()}
        found = False
        for name, p in named.items():
            other = re.sub(target, source, name)
            if other != name and other in values and values[other].shape == p.shape:
                p.data = values[other]
                found = True
        if not found:
            raise NotApplicable(target)

    return change


def lowered(pattern: str, dtype: str) -> Change:
    """Modules compute in a lower precision; what they give is cast back."""
    low = LOW[dtype]

    def cast(value: Any, to: torch.dtype) -> Any:
        if torch.is_tensor(value):
            return value.to(to) if value.dtype.is_floating_point else value
        if isinstance(value, tuple):
            return tuple(cast(v, to) for v in value)
        return value

    def change(module: nn.Module) -> None:
        for part in submodules(module, pattern):
            part.to(low)
            forward = part.forward
            part.forward = lambda *args, forward=forward, **kwargs: cast(
                forward(*cast(args, low), **{k: cast(v, low) for k, v in kwargs.items()}), torch.float64
            )

    return change


def together(*changes: Change) -> Change:
    """All of these changes."""

    def change(module: nn.Module) -> None:
        for each in changes:
            each(module)

    return change
