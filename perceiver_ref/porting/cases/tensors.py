"""Arrays of any framework as NumPy has them. No framework is imported: each is known by the methods of its arrays."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from ...errors import InputError, one_line
from ...weights.formats.dtypes import BFLOAT16, WIDENED

_KINDS = "biuf"


def is_array(value: Any) -> bool:
    """Whether a value is an array or tensor: NumPy's, CuPy's, PyTorch's, JAX's, MLX's or one built like these."""
    if isinstance(value, (type, str, bytes)):
        return False
    return isinstance(value, np.ndarray) or (
        hasattr(value, "shape") and hasattr(value, "dtype") and (hasattr(value, "ndim") or hasattr(value, "dim"))
    )


def dtype_of(value: Any) -> str:
    """The name of an array's dtype: `torch.bfloat16`, `mlx.core.bfloat16` and NumPy's are all "bfloat16"."""
    return str(getattr(value.dtype, "name", value.dtype)).rpartition(".")[2]


def as_array(value: Any, what: str) -> np.ndarray:
    """An array or tensor of any framework, device and layout as a NumPy array of bools, integers or numbers.

    The memory is shared where that is possible. What NumPy has no dtype for, bfloat16 and float8, becomes float32,
    which holds each number exactly. Raises `InputError`, one line that says `what` it was, for complex and quantized
    numbers, sparse and nested layouts, and tensors without values (on the device "meta", or while a function is traced
    or compiled).
    """
    if isinstance(value, np.ndarray) and value.dtype.kind in _KINDS:
        return value
    kind = dtype_of(value) if is_array(value) else type(value).__name__
    try:
        made = np.asarray(_on_host(value, kind))
    except Exception as error:  # whatever a framework raises where it has no numbers to give
        if "Tracer" in type(value).__name__ or "Fake" in type(value).__name__:
            raise InputError(
                f"{what} has no values while its function is traced: call it without jit or grad"
            ) from None
        why = one_line(error, 90)
        raise InputError(f"{what} has no plain numbers ({kind}: {why}); give it as a dense array with values") from None
    if made.dtype.kind == "V" and made.dtype.name in WIDENED:  # as ml_dtypes has them
        made = made.astype(np.float32)
    if made.dtype.kind not in _KINDS:
        raise InputError(f"{what} is {kind}; expected bool, integer or floating-point numbers")
    return made


def _on_host(value: Any, kind: str) -> Any:
    """What `numpy.asarray` takes, on the host."""
    if hasattr(value, "detach"):  # PyTorch
        value = value.detach().cpu()
        if kind in WIDENED:
            value = value.float()
        for lazy in ("resolve_conj", "resolve_neg"):
            value = getattr(value, lazy, lambda value=value: value)()
        return value.numpy()
    if type(value).__module__.partition(".")[0] == "mlx" and kind == BFLOAT16:
        return value.astype(sys.modules["mlx.core"].float32)
    if hasattr(value, "get") and type(value).__module__.partition(".")[0] == "cupy":
        return value.get()
    return value
