"""Faster pairs of rules for single ops on one backend: same signature and residuals as the definition in `ops/`.

`table` lists them. They are used by default; `with kernels("plain"):`, `--kernels plain` on the command line or the
environment variable PERCEIVER_REF_KERNELS=plain runs the definitions instead. Because residuals agree, forward and
backward can be exchanged one by one, and the tests run all four combinations.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..engine import Rule, kernel_mode
from ..tensor import registry
from . import cuda
from .cpu import attention, gelu, linear, normalise
from .cpu.memory import keep_memory
from .cpu.threads import threads
from .cuda.graphs import recorded

__all__ = ["MODES", "keep_memory", "kernels", "recorded", "table", "threads"]

MODES = ("fast", "plain")

table: dict[tuple[str, str], Rule] = {
    ("attention", "numpy"): Rule(attention.forward, attention.backward),
    ("gelu_erf", "numpy"): Rule(gelu.erf_forward, gelu.erf_backward),
    ("gelu_tanh", "numpy"): Rule(gelu.tanh_forward, gelu.tanh_backward),
    ("layer_norm", "numpy"): Rule(normalise.layer_norm_forward, normalise.layer_norm_backward),
    ("linear", "numpy"): Rule(linear.forward, linear.backward),
    ("rms_norm", "numpy"): Rule(normalise.rms_norm_forward, normalise.rms_norm_backward),
    ("softmax", "numpy"): Rule(normalise.softmax_forward, normalise.softmax_backward),
    **{(op, "cupy"): rule for op, rule in cuda.rules.items()},
}
"""(op, backend) -> its kernel."""

for (_op, _backend), _rule in table.items():
    registry[_op].rules[_backend] = _rule


@contextmanager
def kernels(mode: str) -> Iterator[None]:
    """Within this context use `"fast"` kernels where there are any, or only the `"plain"` definitions."""
    with kernel_mode.entered(_known(mode)):
        yield


def _known(mode: str) -> str:
    if mode not in MODES:
        raise ValueError(f"unknown kernels mode {mode!r}; known: {', '.join(MODES)}")
    return mode


if kernel_mode.get() not in MODES:  # the environment variable may hold anything
    raise ValueError(f"PERCEIVER_REF_KERNELS must be {' or '.join(MODES)}, got {kernel_mode.get()[:40]!r}")
