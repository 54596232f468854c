"""Changes of a built module that leave its outputs alone and make its gradients wrong."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from mutants.backward import wrong
from mutants.deviations.row import Change, NotApplicable, parameters


def _kinds(module: nn.Module, kind: str, pattern: str) -> list[nn.Module]:
    found = [m for p, m in module.named_modules() if re.search(kind, type(m).__name__) and re.search(pattern, p)]
    if not found:
        raise NotApplicable(kind)
    return found


def norms(pattern: str = "", *, mean: bool = True, variance: bool = True) -> Change:
    """Layer norms take a statistic for a constant."""

    def change(module: nn.Module) -> None:
        for part in _kinds(module, "^LayerNorm$", pattern):
            weight, bias = getattr(part, "weight", None), getattr(part, "bias", None)
            weight, bias = (part.scale, part.offset) if weight is None else (weight, bias)
            part.forward = lambda x, w=weight, b=bias, eps=part.eps: wrong.layer_norm(
                x, x.shape[-1], w, b, eps, mean=mean, variance=variance
            )

    return change


def rms_norms(pattern: str = "") -> Change:
    """RMS norms take their mean square for a constant."""

    def change(module: nn.Module) -> None:
        for part in _kinds(module, "RMSNorm$", pattern):
            part.forward = lambda x, part=part: wrong.rms_norm(x, part.weight, part.variance_epsilon)

    return change


def unscaled_norm(pattern: str) -> Change:
    """Layer norms do not multiply by their scale on the way back to x."""

    def change(module: nn.Module) -> None:
        for part in _kinds(module, "^LayerNorm$", pattern):

            def forward(x: Any, part: Any = part, right: Any = part.forward) -> Any:
                unit = nn.functional.layer_norm(x, x.shape[-1:], None, None, part.eps)
                own = unit.detach() * part.weight + part.bias
                return wrong.instead(right(x), unit + own - unit.detach())

            part.forward = forward

    return change


def activations(other: Callable[[Any], Any], kind: str = "^GELU", pattern: str = "") -> Change:
    """Activations have the derivative of another."""

    def change(module: nn.Module) -> None:
        for part in _kinds(module, kind, pattern):
            part.forward = lambda x, right=part.forward: wrong.instead(right(x), other(x))

    return change


def hooked(pattern: str, rule: Callable[[Any], Any]) -> Change:
    """The finished gradients of parameters are changed."""

    def change(module: nn.Module) -> None:
        found = {id(p): p for _, p in parameters(module, pattern)}
        for p in found.values():
            p.register_hook(rule)

    return change


def embeddings(how: str, pattern: str = "") -> Change:
    """Tokens: "last" (assigned, not added), "mean" (divided by their number), or "padding" (token 3 gets none)."""

    def change(module: nn.Module) -> None:
        for part in _kinds(module, "^Embedding$", pattern):

            def forward(ids: Any, part: Any = part) -> Any:
                if how == "mean":
                    return nn.functional.embedding(ids, part.weight, scale_grad_by_freq=True)
                if how == "padding":
                    return nn.functional.embedding(ids, part.weight, padding_idx=3)
                flat = ids.reshape(-1).tolist()
                last = {token: place for place, token in enumerate(flat)}
                keep = torch.tensor([last[token] == place for place, token in enumerate(flat)])
                out = part.weight[ids]
                return torch.where(keep.reshape(ids.shape)[..., None], out, out.detach())

            part.forward = forward

    return change


def outputs(pattern: str, rule: Callable[[Any], Any]) -> Change:
    """What modules give has its gradient changed, or is exchanged for the like of it."""

    def change(module: nn.Module) -> None:
        found = [part for path, part in module.named_modules() if re.search(pattern, path)]
        if not found:
            raise NotApplicable(pattern)
        for part in found:
            part.forward = lambda *a, right=part.forward, **k: rule(right(*a, **k))

    return change


def first_use(pattern: str) -> Change:
    """Modules that are called several times with the same weights: the gradients of the first call do not count."""

    def change(module: nn.Module) -> None:
        found = [(path, part) for path, part in module.named_modules() if re.search(pattern, path)]
        if not found:
            raise NotApplicable(pattern)
        for _, part in found:
            calls: list[int] = []

            def forward(
                *a: Any, right: Any = part.forward, part: Any = part, calls: list[int] = calls, **k: Any
            ) -> Any:
                calls.append(0)
                if len(calls) > 1:
                    return right(*a, **k)
                detached = {name: p.detach() for name, p in part.named_parameters()}
                own = part.forward
                part.forward = right
                try:
                    return torch.func.functional_call(part, detached, a, k)
                finally:
                    part.forward = own

            part.forward = forward

    return change
