"""A small reverse-mode automatic differentiation engine on NumPy and CuPy arrays.

    loss, gradients = value_and_grad(function)(params, ...)

`ops` holds the operations; models built from them compute on plain arrays, and record only while they are being
differentiated. The backend (NumPy or CuPy) follows from the arrays.
"""

from . import backend, ops, optim, tree
from .backend import BackendError
from .debug import NonFiniteError, detect_nonfinite
from .engine import Op, op
from .kernels import keep_memory, kernels, recorded, threads
from .tensor import Tensor, registry
from .transforms import checkpoint, value_and_grad, vjp

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
    "recorded",
    "registry",
    "threads",
    "tree",
    "value_and_grad",
    "vjp",
]
