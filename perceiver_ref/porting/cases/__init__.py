"""The vector format: one `.npz` a case, holding a peer's parameters, inputs, outputs, gradients and traces.

Parameters, buffers and module paths carry the peer's own names. Version 1; see `Case` for the keys.

case        what a case is, and reading and writing one
compare     when two arrays agree
execution   a case's class rebuilt, and run forward and backward by the peer's names
packaged/   the cases that the package ships
"""

from .case import PACKAGED, Case, read_case, write_case
from .compare import TOLERANCES, Agreement, agreement

__all__ = ["PACKAGED", "TOLERANCES", "Agreement", "Case", "agreement", "read_case", "write_case"]
