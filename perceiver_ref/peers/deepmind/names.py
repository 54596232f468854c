"""How DeepMind's Haiku code names parameters and running statistics, as tables of `peers.names` with separator "/".

"~" stands for a module's constructor and "~method" for a method other than `__call__`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from ..base import Given, Peer, Rebuilt
from ..names import Binding, Table, bind, flat, same

SEPARATOR = "/"


def pointwise(array: Any) -> Any:
    """A 1x1 convolution (1, 1, C, E) as a linear map."""
    return array[0, 0]


def flipped(array: Any) -> Any:
    """A transposed convolution's (*window, E, C), whose window Haiku reads backwards, as ours (*window, C, E)."""
    return array[(slice(None, None, -1),) * (array.ndim - 2)].swapaxes(-1, -2)


class HaikuPeer(Peer):
    """Parameters and trace points may be named with or without "~/", which some versions of Haiku leave out."""

    def rebuild(self, cls: str, given: Given) -> Rebuilt:
        """As any peer's; parameters have the names that were given."""
        made = super().rebuild(cls, given)
        short = {name.replace("/~/", "/"): name for name in given.params}

        def named(bindings: Iterable[Binding]) -> list[Binding]:
            return [
                b if b.name in given.params else b._replace(name=short.get(b.name.replace("/~/", "/"), b.name))
                for b in bindings
            ]

        points = [(theirs.replace(re.escape("/~/"), "/(?:~/)?"), ours) for theirs, ours in made.points]
        return replace(made, bindings=named(made.bindings), state=named(made.state), points=points)


LINEAR: Table = {"weight": ("w", same), "bias": ("b", same)}
NORM: Table = {"scale": ("scale", same), "offset": ("offset", same)}
POINTWISE: Table = {"weight": ("w", pointwise), "bias": ("b", same)}
CONVOLUTION: Table = {"weight": ("w", same), "bias": ("b", same)}
TRANSPOSED: Table = {"weight": ("w", flipped), "bias": ("b", same)}
BATCH_NORM: Table = {"scale": ("scale", flat), "offset": ("offset", flat)}
STATISTICS: Table = {
    "mean": ("~/mean_ema/average", flat),
    "variance": ("~/var_ema/average", flat),
    "mean_hidden": ("~/mean_ema/hidden", flat),
    "variance_hidden": ("~/var_ema/hidden", flat),
    "count": ("~/mean_ema/counter", same),
}

ATTENTION: Table = {
    "query": ("linear", LINEAR),
    "key": ("linear_1", LINEAR),
    "value": ("linear_2", LINEAR),
    "output": ("linear_3", LINEAR),
}
MLP: Table = {"hidden": ("linear", LINEAR), "output": ("linear_1", LINEAR)}
CROSS_ATTENTION: Table = {
    "query_norm": ("layer_norm", NORM),
    "key_value_norm": ("layer_norm_1", NORM),
    "attention": ("attention", ATTENTION),
    "mlp_norm": ("layer_norm_2", NORM),
    "mlp": ("mlp", MLP),
}
SELF_ATTENTION: Table = {
    "norm": ("layer_norm", NORM),
    "attention": ("attention", ATTENTION),
    "mlp_norm": ("layer_norm_1", NORM),
    "mlp": ("mlp", MLP),
}
ENCODER: Table = {
    "latents": ("trainable_position_encoding/pos_embs", same),
    "cross_attention": ("cross_attention", CROSS_ATTENTION),
    "block/{i}": ("self_attention{_i}", SELF_ATTENTION),
}
POSITIONS: Table = {
    "table": ("trainable_position_encoding/pos_embs", same),
    "encoding/table": ("trainable_position_encoding/pos_embs", same),
    "projection": ("position_encoding_projector/linear", LINEAR),
}
DOWNSAMPLE: Table = {
    "{i}/convolution": ("conv{_i}/w", same),
    "{i}/norm": ("batchnorm{_i}", BATCH_NORM),
}
UPSAMPLE_2D: Table = {"0": ("transp_conv_1", TRANSPOSED), "1": ("transp_conv_2", TRANSPOSED)}
UPSAMPLE_3D: Table = {"{i}": ("conv3d_transpose_{i}", TRANSPOSED)}


def below(prefix: str, table: Table) -> Table:
    """The same table with all names below `prefix`."""
    return {path: (f"{prefix}{SEPARATOR}{name}", rest) for path, (name, rest) in table.items()}


def downsample_state(layers: int) -> Table:
    """The running statistics of a Conv2DDownsample."""
    return {str(i): (f"batchnorm_{i}" if i else "batchnorm", STATISTICS) for i in range(layers)}


def state_bindings(state: Any, table: Table) -> list[Binding]:
    """Haiku counts the updates of mean and variance separately; we count them once."""
    bindings = bind(state, table, SEPARATOR)
    counts = [b for b in bindings if b.path.endswith("count")]
    return bindings + [b._replace(name=b.name.replace("mean_ema", "var_ema")) for b in counts]


@dataclass
class Names:
    """Haiku's names for the modules of one scope: one that is taken gets the suffix "_1", "_2", ..."""

    taken: dict[str, int] = field(default_factory=dict)

    def __call__(self, name: str) -> str:
        times = self.taken.get(name, 0)
        self.taken[name] = times + 1
        return f"{name}_{times}" if times else name


def attention_points(theirs: str, ours: str) -> Iterator[tuple[str, str]]:
    """Trace points of an `Attention` at these paths."""
    yield from (
        (f"{theirs}/linear/output", f"{ours}.query"),
        (f"{theirs}/linear_1/output", f"{ours}.key"),
        (f"{theirs}/linear_2/output", f"{ours}.value"),
        (f"{theirs}/linear_3/output", ours),
        (f"{theirs}/output", ours),
    )


def layer_points(theirs: str, ours: str, norms: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Trace points of a cross- or self-attention layer with these norms, in Haiku's order."""
    dot = f"{ours}." if ours else ""
    yield theirs + "/output", ours
    for i, norm in enumerate(norms):
        yield f"{theirs}/layer_norm{f'_{i}' if i else ''}/output", dot + norm
    yield from attention_points(f"{theirs}/attention", f"{dot}attention")
    yield from mlp_points(f"{theirs}/mlp", f"{dot}mlp")


def mlp_points(theirs: str, ours: str) -> Iterator[tuple[str, str]]:
    """Trace points of an `MLP` at these paths."""
    yield from (
        (f"{theirs}/linear/output", f"{ours}.hidden"),
        (f"{theirs}/linear_1/output", ours),
        (f"{theirs}/output", ours),
    )
