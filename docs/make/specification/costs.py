"""Sizes and FLOPs of the published models, from the ledger: what the papers print is derived, not repeated."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache

from perceiver_ref.autograd import tree
from perceiver_ref.models.ledger import Ledger, default_sizes, example, ledger
from perceiver_ref.models.ledger.printed import PRINTED, agrees
from perceiver_ref.models.published import INPUTS, preset

from .shapes import Shape, traced

TABLE = (
    "perceiver/imagenet",
    "perceiver-io/imagenet-fourier",
    "perceiver-io/imagenet-learned",
    "perceiver-io/imagenet-conv",
    "perceiver-io/language",
    "perceiver-io/optical-flow",
    "perceiver-io/multimodal",
    "perceiver-io/audioset",
    "flamingo/resampler-3b",
    "flamingo/gated-xattn-3b",
    "flamingo/gated-xattn-9b",
    "flamingo/gated-xattn-80b",
)
"""The presets of the table of sizes."""

WORKED = "perceiver-io/imagenet-fourier"
"""The preset of the worked example."""

_POINTS = {
    "input": "B, M, C",
    "encoder": "B, N, D",
    "decoder.cross_attention": "B, O, E",
    "resampler.features": "B, m, T S, D",
    "resampler": "B, m, N, D",
    "given.1": "B, m, N, C",
    "gated.0": "B, L, D",
}
"""What the table shows of a model: the points that it has."""


@cache
def costed(name: str) -> Ledger:
    """The ledger of a preset, for one example of the size that it was made for."""
    model = preset(name)
    return ledger(model, example(model, INPUTS.get(name) or default_sizes(model)))


def sizes() -> str:
    """The published models as a table: their arrays, parameters and FLOPs, and what the papers print."""
    head = "| preset | arrays | parameters | printed | FLOPs | printed |"
    rows = [head, "| --- | --- | ---: | ---: | ---: | ---: |"]
    for name in TABLE:
        shapes, book, printed = traced(name), costed(name), PRINTED[name]
        arrays = [f"{s.removeprefix('B, ')} = {_times(shapes[p][1:])}" for p, s in _POINTS.items() if p in shapes]
        marks = [
            f"{figure}{'' if agrees(value, figure) else ' (differs)'}" if figure else ""
            for value, figure in ((book.parameters, printed.parameters), (book.flops, printed.flops))
        ]
        cells = [f"`{name}`", "<br>".join(arrays), f"{book.parameters:,}", marks[0], f"{book.flops:,}", marks[1]]
        rows.append(f"| {' | '.join(cells)} |")
    remarks = [f"- `{name}`: {PRINTED[name].remark}." for name in TABLE if PRINTED[name].remark]
    return "\n".join([*rows, "", *remarks])


@dataclass(frozen=True)
class LayerSizes:
    """The sizes of an attention layer with its MLP, in the notation of an attention."""

    N: int
    M: int
    D: int
    C: int
    H: int
    d: int
    e: int
    w: int

    def flops(self) -> int:
        """The papers' rule: four linear maps, scores and softmax, weights times values, the two maps of the MLP."""
        maps = self.N * self.D * self.H * self.d + self.M * self.C * self.H * (self.d + self.e)
        maps += self.N * self.H * self.e * self.D + 2 * self.N * self.w * self.D**2
        return 2 * maps + self.H * self.N * self.M * (2 * self.d + 3 + 2 * self.e)


RULE = "2 N D H d + 2 M C H (d + e) + H N M (2 d + 3 + 2 e) + 2 N H e D + 4 N w D D"
"""`LayerSizes.flops` in symbols."""


def layer(shapes: dict[str, Shape], at: str) -> LayerSizes:
    """The layer at this place of a trace; of several media or examples, all of them together."""
    heads, queries, keys = shapes[f"{at}.attention.weights"][-3:]
    norms = ("key_value_norm", "features_norm", "norm")
    attended = next(f"{at}.{norm}" for norm in norms if f"{at}.{norm}" in shapes)
    return LayerSizes(
        N=queries,
        M=keys,
        D=shapes[at][-1],
        C=shapes[attended][-1],
        H=heads,
        d=shapes[f"{at}.attention.query"][-1] // heads,
        e=shapes[f"{at}.attention.value"][-1] // heads,
        w=shapes[f"{at}.mlp.hidden"][-1] // shapes[at][-1],
    )


def worked() -> str:
    """The FLOPs of one model layer by layer: sizes in the notation of an attention, and what the rule gives."""
    names = [f.name for f in fields(LayerSizes)]
    rows = [f"| layer | {' | '.join(f'${name}$' for name in names)} | FLOPs of one | times | FLOPs |"]
    rows.append(f"| --- |{' ---: |' * (len(names) + 3)}")
    for title, sizes, times in layers():
        cells = [f"{getattr(sizes, name):,}" for name in names]
        rows.append(f"| {title} | {' | '.join(cells)} | {sizes.flops():,} | {times} | {sizes.flops() * times:,} |")
    blank = " |" * len(names)
    rows.append(f"| linear map to the logits |{blank} {logits():,} | 1 | {logits():,} |")
    rows.append(f"| all |{blank} | | {total():,} |")
    return "\n".join(rows)


def layers() -> list[tuple[str, LayerSizes, int]]:
    """(layer, its sizes, how many there are) of the worked example."""
    shapes = traced(WORKED)
    encoder = preset(WORKED).encoder
    return [
        ("encoder's cross-attention", layer(shapes, "encoder.cross_attention"), encoder.cross_attends),
        ("self-attention", layer(shapes, "encoder.blocks.0.0"), encoder.blocks * encoder.layers),
        ("decoder's cross-attention", layer(shapes, "decoder.cross_attention"), 1),
    ]


def logits() -> int:
    """The FLOPs of the worked example's last linear map."""
    shapes = traced(WORKED)
    return 2 * shapes["decoder.cross_attention"][-1] * shapes["decoder"][-1]


def total() -> int:
    """The FLOPs of the worked example by the rule: what its ledger counts."""
    return logits() + sum(sizes.flops() * times for _, sizes, times in layers())


def parts(name: str) -> dict[str, int]:
    """The parameters of a model by its parts."""
    counted: dict[str, int] = {}
    for path, parameter in tree.leaves(preset(name).parameters()):
        where = "/".join(path.split("/")[:2])
        counted[where] = counted.get(where, 0) + parameter.size
    return counted


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(f"{n:,}" for n in shape)


def parameter_table(name: str = WORKED) -> str:
    """Where the parameters of a model are."""
    rows = ["| part | parameters |", "| --- | ---: |"]
    rows += [f"| `{part}` | {count:,} |" for part, count in parts(name).items() if count]
    rows.append(f"| all | {sum(parts(name).values()):,} |")
    return "\n".join(rows)
