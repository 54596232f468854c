"""The vector format: one `.npz` a case, holding a peer's parameters, inputs, outputs, gradients and traces.

Parameters, buffers and module paths carry the peer's own names. Version 1; see `Case` for the keys.
"""

from .case import Case, read_case, write_case
from .compare import TOLERANCES, Agreement, agreement

__all__ = ["TOLERANCES", "Agreement", "Case", "agreement", "read_case", "write_case"]
