"""Recording a live model as a case: one call around its own call.

session     `record`: the context manager, `record.point` and `record.traced`
hooks       PyTorch's modules, by their own hooks
called      calls of objects whose class has no hooks, for what follows
flax        Flax's modules: Linen's by its interceptor, NNX's by their calls
haiku       Haiku's, by its interceptor
mlx         MLX's, by their calls
recorder    what is gathered, and where it goes
spool       arrays written aside as they come, then put together
choose      which intermediate values
keep        what of each
probe       a recording as a probe
structure   nested arguments and outputs as named arrays
recognise/  the table of known classes: peer, class, configuration
"""

from .session import record

__all__ = ["record"]
