"""Kernels for CuPy arrays, in CUDA C++ and by cuBLAS; `rules` are their rows of the table.

Nothing here imports CuPy before an array of its own turns up. Arrays that a kernel is not made for (of float16, empty,
with rows longer than 4096) go to the definition.
"""

from __future__ import annotations

from ...engine import Rule
from . import activation, attention, index, linear, loss, norms, softmax

rules: dict[str, Rule] = {
    "linear": Rule(linear.forward, linear.backward),
    "attention": Rule(attention.forward, attention.backward),
    "layer_norm": Rule(norms.layer_norm_forward, norms.layer_norm_backward),
    "rms_norm": Rule(norms.rms_norm_forward, norms.rms_norm_backward),
    "softmax": Rule(softmax.softmax_forward, softmax.softmax_backward),
    "log_softmax": Rule(softmax.log_softmax_forward, softmax.log_softmax_backward),
    "gelu_erf": Rule(activation.gelu_erf_forward, activation.gelu_erf_backward),
    "gelu_tanh": Rule(activation.gelu_tanh_forward, activation.gelu_tanh_backward),
    "take": Rule(index.take_forward, index.take_backward),
    "cross_entropy": Rule(loss.forward, loss.backward),
}
"""Op -> its rule on CuPy arrays."""
