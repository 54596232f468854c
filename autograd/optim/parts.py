"""What optimizers are made of: each part turns the update u of one parameter p into another, and may remember arrays.

The first part gets the gradient; after the last, p' = p - learning rate * u. Where implementations differ, the
difference is the order of the parts or a named option.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..backend import Array, xp
from ..sums import sum_of_squares

Slots = dict[str, Array]
"""What a part remembers about one parameter, by name."""
Chosen = Callable[[str], bool]
"""Which parameters are meant: a predicate on their paths in the tree, such as `encoder/blocks/0/mlp/weight`."""


def every(path: str) -> bool:
    """All parameters."""
    return True


@dataclass(frozen=True)
class Part:
    """One part: `rule(u, p, slots, t) -> (u, slots)` for update number t, from 1, of a parameter p.

    `slots` names what is remembered, zeros like p before the first update; `only` says which parameters it is for.
    `kind` names the part and its constants for a kernel that computes several parts at once; None: it has none.
    `counts`: the rule depends on t.
    """

    rule: Callable[[Array, Array, Slots, int], tuple[Array, Slots]]
    slots: tuple[str, ...] = ()
    only: Chosen = every
    kind: tuple[str, Mapping[str, Any]] | None = None
    counts: bool = True


def momentum(decay: float, *, dampening: float = 0.0, nesterov: bool = False) -> Part:
    """A sum of past updates (Sutskever et al. 2013, section 2, as PyTorch and optax write it).

        b = decay b + (1 - dampening) u, and u' = b;  with `nesterov` u' = u + decay b

    b starts as the first u, undamped, as in PyTorch.
    """

    def rule(u: Array, p: Array, slots: Slots, t: int) -> tuple[Array, Slots]:
        b = u.copy() if t == 1 else decay * slots["momentum"] + (1 - dampening) * u
        return u + decay * b if nesterov else b, {"momentum": b}

    return Part(rule, ("momentum",))


def adaptive(
    b1: float,
    b2: float,
    eps: float,
    *,
    eps_root: float = 0.0,
    bias_correction: bool = True,
    nesterov: bool = False,
    amsgrad: Literal["corrected", "raw"] | None = None,
) -> Part:
    """Adam's direction (Kingma and Ba 2015, arXiv 1412.6980, algorithm 1).

        m = b1 m + (1 - b1) u            M = m / (1 - b1^t)
        v = b2 v + (1 - b2) u^2          V = v / (1 - b2^t)          u' = M / (sqrt(V + eps_root) + eps)

    `bias_correction=False`: M = m and V = v. `nesterov` looks ahead, M = b1 m / (1 - b1^(t+1)) + (1 - b1) u /
    (1 - b1^t) (Dozat 2016, as optax). `amsgrad` takes the largest V so far (Reddi et al. 2018, arXiv 1904.09237):
    of the corrected ones (optax) or of the raw v, corrected afterwards (PyTorch).
    """

    def rule(u: Array, p: Array, slots: Slots, t: int) -> tuple[Array, Slots]:
        m = b1 * slots["mean"] + (1 - b1) * u
        v = b2 * slots["square"] + (1 - b2) * u * u
        made = {"mean": m, "square": v}
        first, second = (1 - b1**t, 1 - b2**t) if bias_correction else (1.0, 1.0)
        if amsgrad:
            candidate = v / second if amsgrad == "corrected" else v
            v = made["largest_square"] = xp(v).maximum(slots["largest_square"], candidate)
            second = 1.0 if amsgrad == "corrected" else second
        if nesterov:
            m = b1 * (m / (1 - b1 ** (t + 1) if bias_correction else 1.0)) + (1 - b1) * (u / first)
        else:
            m = m / first
        return m / (xp(v).sqrt(v / second + eps_root) + eps), made

    constants = {"b1": b1, "b2": b2, "eps": eps, "eps_root": eps_root, "bias_correction": bias_correction}
    slots = ("mean", "square", *(("largest_square",) if amsgrad else ()))
    kind = ("adaptive", {**constants, "nesterov": nesterov, "amsgrad": amsgrad})
    return Part(rule, slots, kind=kind)


def decay(weight_decay: float, only: Chosen = every) -> Part:
    """u' = u + weight_decay p.

    Before the other parts it is the gradient of an L2 penalty; after them it is decoupled from the gradient's scale
    (Loshchilov and Hutter 2019, arXiv 1711.05101, algorithm 2).
    """
    kind = ("decay", {"weight_decay": weight_decay})
    return Part(lambda u, p, slots, t: (u + weight_decay * p, slots), only=only, kind=kind, counts=False)


def trust_ratio(*, least: float = 0.0, most: float = float("inf")) -> Part:
    """u' = u phi(|p|) / |u|, phi(z) = min(max(z, least), most); u' = u where either norm is 0.

    Norms are of one whole parameter (You et al. 2020, arXiv 1904.00962, algorithm 2, with the ratio of its section 3).
    """

    def rule(u: Array, p: Array, slots: Slots, t: int) -> tuple[Array, Slots]:
        return u * ratio_of_norms(u, p, least, most)[0], slots

    return Part(rule, kind=("trust_ratio", {"least": least, "most": most}), counts=False)


def ratio_of_norms(u: Array, p: Array, least: float, most: float) -> tuple[Array, Array, Array]:
    """(ratio, phi(|p|), |u|) of `trust_ratio`, each 0-d."""
    library: Any = xp(p)
    size = library.sqrt(sum_of_squares(p)).clip(least, most)
    length = library.sqrt(sum_of_squares(u))
    degenerate = (size == 0) | (length == 0)
    ratio = library.where(degenerate, 1, size / library.where(degenerate, 1, length))
    return ratio.astype(p.dtype), size, length
