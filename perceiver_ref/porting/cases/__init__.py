"""The vector format: one `.npz` a case, holding a peer's parameters, inputs, outputs, gradients and traces.

Parameters, buffers and module paths carry the peer's own names. Version 1; see `Case` for the keys.

case        what a case is, and reading and writing one
compare     when two arrays agree
probe       a case of samples, for a model of any size
samples     what is kept of an array in its place
generator   arrays that any language can make again
execution   a case's class rebuilt, and run forward and backward by the peer's names
tensors     arrays of any framework as NumPy's
packaged/   the cases that the package ships
"""

from .case import PACKAGED, Case, read_case, write_case
from .compare import TOLERANCES, Agreement, agreement
from .probe import expanded, fingerprint, is_probe, keep, new_probe
from .samples import sampled

__all__ = [
    "PACKAGED",
    "TOLERANCES",
    "Agreement",
    "Case",
    "agreement",
    "expanded",
    "fingerprint",
    "is_probe",
    "keep",
    "new_probe",
    "read_case",
    "sampled",
    "write_case",
]
