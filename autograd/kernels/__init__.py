"""Faster rules for single ops on one backend, on top of everything: nothing below imports this folder.

`table` lists them, and importing the folder puts them into the ops. With the folder taken away all works, more slowly.
`with kernels("plain"):`, `--kernels plain` on the command line or the environment variable PERCEIVER_REF_KERNELS=plain
runs the definitions instead. A rule is a pair: what its forward keeps is for its own backward, whatever the definition
keeps; one that returns `NotImplemented` leaves a call to the next rule, at last to the definition.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from .. import branches, gradients, sums
from ..core import Rule, registry
from ..modes import mode
from ..optim import optimizers
from . import attention as tiled
from . import cuda
from .cpu import attention, gelu, heads, index, linear, loss, matmul, normalise, optimizer
from .cpu.threads import single, threads
from .cuda import branches as cuda_branches
from .cuda import optimizer as cuda_optimizer
from .cuda.graphs import recorded
from .cuda.launch import column_sums
from .fused import fused

__all__ = ["recorded", "table", "threads"]


def around() -> AbstractContextManager[None]:
    """Around gradients: BLAS's own threads rest, unless it is definitions that are asked for."""
    return nullcontext() if mode() == "plain" else single()


_TILED = Rule(tiled.forward, tiled.backward)

table: dict[tuple[str, str], tuple[Rule, ...]] = {
    ("attention", "numpy"): (
        Rule(heads.forward, heads.backward, held=heads.scores_held),
        Rule(attention.forward, attention.backward),
    ),
    ("cross_entropy", "numpy"): (Rule(loss.forward, loss.backward),),
    ("gelu_erf", "numpy"): (Rule(gelu.erf_forward, gelu.erf_backward),),
    ("gelu_tanh", "numpy"): (Rule(gelu.tanh_forward, gelu.tanh_backward),),
    ("layer_norm", "numpy"): (Rule(normalise.layer_norm_forward, normalise.layer_norm_backward),),
    ("linear", "numpy"): (Rule(linear.forward, linear.backward),),
    ("matmul", "numpy"): (Rule(matmul.forward, matmul.backward),),
    ("rms_norm", "numpy"): (Rule(normalise.rms_norm_forward, normalise.rms_norm_backward),),
    ("softmax", "numpy"): (Rule(normalise.softmax_forward, normalise.softmax_backward),),
    ("take", "numpy"): (Rule(index.take_forward, index.take_backward),),
    **{(op, "cupy"): (rule,) for op, rule in cuda.rules.items()},
    ("attention", "cupy"): (cuda.rules["attention"], _TILED),
}
"""(op, backend) -> its kernels, in the order in which they are tried."""

for (_op, _backend), _rules in table.items():
    registry[_op].kernels[_backend] = _rules
sums.of_rows["cupy"] = column_sums
optimizers.fused |= {"numpy": fused(optimizer), "cupy": fused(cuda_optimizer)}
gradients.around = around
branches.run = cuda_branches.run
