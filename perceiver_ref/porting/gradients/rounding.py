"""The errors that a correct backward pass of a dtype makes on a case: the envelope of rounding, for gradients.

The reference runs forward with every result rounded and back with every gradient rounded, in other orders of summation
besides, as `rounding.envelope` does for outputs. Attention and norms, whose gradients are small differences of large
terms, are rounded term by term.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ...autograd import tree
from ...autograd.backend import is_array, xp
from ...autograd.core import Op, Tensor, array_of
from ...autograd.handlers import handle
from ...autograd.ops.attention import keep_used, scale_factor, slopes
from ..cases.compare import difference
from ..exchange import exchanged_steps
from ..rounding.arithmetic import DIGITS, MOVING, kept_digits, lowered, rounded, rounded_tree
from ..rounding.attention import logits, weights
from ..rounding.steps import Rounding
from .graph import Graph, Pull, Ran

FACTOR = 10.0
"""Rounding errors may be this many times those of the runs that they are estimated from. In 50 runs of peers in true
float32 the largest was at 0.35 of the limit that this gives."""
_TYPICAL = 0.25
"""An array of few elements may be lucky in every run: none has less than this part of the median array's limit, each
in units of its own size."""
LEAST = 1e-3
"""Where everything is rounded, no gradient is better than this part of its own envelope, unless it is zero."""
_RUNS = 5
_Round = Callable[[Any], Any]


class GradientRoundings:
    """Measured when first asked for. `record(round)` gives the graph of a run between whose ops values are rounded."""

    def __init__(
        self,
        record: Callable[[Callable[[Any], Any]], Graph],
        by_name: Callable[[Mapping[str, Any]], Mapping[str, np.ndarray]],
        ours: Mapping[str, np.ndarray],
        *,
        once: bool = False,
    ) -> None:
        """`once`: a single run, of a large model."""
        self.record, self.by_name, self.ours, self.once = record, by_name, ours, once
        self.known: dict[str, dict[str, float]] = {}

    def at(self, dtype: str) -> dict[str, float]:
        """By the peer's name of each gradient: the largest error of a few runs in `dtype`, times `FACTOR`."""
        if dtype not in self.known:
            largest = dict.fromkeys(self.ours, 0.0)
            kept = kept_digits(dtype)
            for seed in (1,) if self.once else range(_RUNS):
                rng = np.random.default_rng(seed) if seed else None

                def near(value: Any, rng: np.random.Generator | None = rng) -> Any:
                    if value.dtype == np.float32:  # of a large model, which is run in it
                        return lowered(value, dtype, rng)
                    if rng is not None:
                        value = value * xp(value).asarray(1 + rng.uniform(-1, 1, value.shape) * 2.0**-kept)
                    return rounded(value, kept)

                def grid(original: Any, *arguments: Any, **options: Any) -> Any:
                    return rounded(original(*arguments, **options), kept)

                products = DIGITS["tf32"] if dtype == "tf32" else None
                with _forward(near, products), exchanged_steps({"linear_positions": grid}), np.errstate(all="ignore"):
                    graph = self.record(lambda values: _stored(values, dtype, kept))
                with np.errstate(all="ignore"):
                    made = self.by_name(graph.walk(near, _pulls(near, products)))
                for name, array in made.items():
                    largest[name] = max(largest[name], difference(array, self.ours[name]))
            sizes = {name: min(1.0, float(np.abs(array).max(initial=0.0))) for name, array in self.ours.items()}
            parts = [e / sizes[name] for name, e in largest.items() if e > 0 and sizes[name]]
            least = _TYPICAL * float(np.median(parts or [0.0]))
            self.known[dtype] = {name: FACTOR * max(e, least * sizes[name]) for name, e in largest.items()}
        return self.known[dtype]

    def holds(self, dtype: str, errors: Mapping[str, float]) -> bool:
        """Whether every error is within that of `dtype`, and none is too small for it."""
        limits = self.at(dtype)
        if not all(e <= limits[name] for name, e in errors.items()):
            return False
        sizes = {name: float(np.abs(array).max(initial=0.0)) for name, array in self.ours.items()}
        return all(e >= LEAST * limits[name] / FACTOR or sizes[name] <= limits[name] for name, e in errors.items())


def _stored(values: Any, dtype: str, kept: int) -> Any:
    """Parameters or inputs as they are in a format."""
    wide = any(a.dtype == np.float64 for _, a in tree.leaves(values) if is_array(a))
    return rounded_tree(values, kept) if wide else tree.map(lambda a: lowered(a, dtype), values)


def _forward(near: _Round, products: int | None) -> Any:
    """Within this context results are rounded, and stay part of the graph."""

    def result(out: Any) -> Any:
        if isinstance(out, (tuple, list)):
            return type(out)(result(o) for o in out)
        data = array_of(out)
        if not is_array(data) or data.dtype.kind != "f":
            return out
        return Tensor(near(data), out.node, out.output) if type(out) is Tensor else near(data)

    def run(op: Op, arguments: tuple[Any, ...], static: dict[str, Any]) -> Any:
        out = op(*arguments, **static)
        return out if op.name in MOVING else result(out)

    return handle(run)


def _pulls(near: _Round, products: int | None) -> dict[str, Pull]:
    """The backward rules whose terms are rounded one by one."""

    def short(value: Any) -> Any:
        return value if products is None or value is None else rounded(value, products)

    to = Rounding(factor=short)

    def attention(step: Ran, g: Any) -> Any:
        q, k, v, *bias = step.arguments
        options = step.options
        mask, rows = options["mask"], options["masked_rows"]
        s = near(logits(to, q, keep_used(k, mask, "zero"), *bias, options=options))
        p = near(weights(to, s, options))
        p_g = near(short(g) @ keep_used(short(v), mask, rows).swapaxes(-1, -2))
        ds = near(p * near(p_g - near((p * p_g).sum(-1, keepdims=True))))
        if mask is not None and rows == "uniform":
            ds = xp(ds).where(mask, ds, 0.0)
        scaled = short(near(ds * scale_factor(q, options["scale"])))
        return (
            scaled @ keep_used(short(k), mask, slopes(rows)),
            scaled.swapaxes(-1, -2) @ short(q),
            short(p).swapaxes(-1, -2) @ short(g),
            ds,
        )

    def layer_norm(step: Ran, g: Any) -> Any:
        unit, inverse, scale = step.residuals
        g_unit, unit = near(g * scale), near(unit)
        mean, projected = near(g_unit.mean(-1, keepdims=True)), near((g_unit * unit).mean(-1, keepdims=True))
        return near(inverse) * near(near(g_unit - mean) - near(unit * projected)), near(g * unit), g

    def rms_norm(step: Ran, g: Any) -> Any:
        unit, inverse, scale = step.residuals
        g_unit, unit = near(g * scale), near(unit)
        projected = near((g_unit * unit).mean(-1, keepdims=True))
        return near(inverse) * near(g_unit - near(unit * projected)), near(g * unit)

    def product(step: Ran, g: Any) -> Any:
        made = step.pull(short(g), [short(r) if is_array(r) else r for r in step.residuals])
        return (*made[:2], g) if step.op.name == "linear" else made

    pulls: dict[str, Pull] = {"attention": attention, "layer_norm": layer_norm, "rms_norm": rms_norm}
    return pulls if products is None else {**pulls, "linear": product, "matmul": product}
