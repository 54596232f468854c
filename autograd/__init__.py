"""A small reverse-mode automatic differentiation engine on NumPy and CuPy arrays.

    loss, gradients = value_and_grad(function)(params, ...)

`ops` holds the operations; models built from them compute on plain arrays, and record only while they are being
differentiated. The backend (NumPy or CuPy) follows from the arrays.

core, gradients   the engine in one sitting: what is recorded, and the walk back
ops/              the operations, each its equation, forward and backward
optim/            optimizers, learning rates, clipping
kernels/          faster rules for single operations; all works without them
methods           NumPy's ways of writing for a Tensor: x.mean(), x.T, x[ids]
checks, half, sums, tree, backend    what the core leaves to others: arguments, float16, summing, trees, array libraries
branches          calls that a backend may run at once
modes, observing, checkpointing, testing    contexts and functions on top of it
"""

from importlib.util import find_spec

from . import backend, ops, optim, tree
from . import methods as methods  # what they add to Tensor
from .backend import BackendError
from .checkpointing import checkpoint
from .core import Op, Tensor, op, registry
from .gradients import value_and_grad, vjp
from .memory import keep_memory
from .observing import NonFiniteError, detect_nonfinite

if find_spec(f"{__name__}.kernels"):
    from .kernels import recorded, threads
else:  # the folder was taken away
    from .modes import recorded, threads

from .modes import kernels, products  # after the folder of that name

__all__ = [
    "BackendError",
    "NonFiniteError",
    "Op",
    "Tensor",
    "backend",
    "checkpoint",
    "detect_nonfinite",
    "keep_memory",
    "kernels",
    "op",
    "ops",
    "optim",
    "products",
    "recorded",
    "registry",
    "threads",
    "tree",
    "value_and_grad",
    "vjp",
]
