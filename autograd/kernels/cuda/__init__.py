"""Kernels for CuPy arrays, in CUDA C++ and by cuBLAS; `rules` are their rows of the table.

Measured on one H100 in float32, where adding two arrays of 1 GiB moves 2.53 TB/s ("of a copy's" below) and the peak of
arithmetic is 67 TFLOP/s. Rows are 401,408 of 261 elements unless a size stands there.

    kernel                             reads and writes   time       reached
    layer_norm, inference              2                  0.38 ms    88% of a copy's
    layer_norm, with residuals         3                  0.46 ms    107%
    layer_norm, backward               3                  0.88 ms    56%: two barriers a row, in blocks of 64 threads
    rms_norm, inference                2                  0.32 ms    103%
    softmax                            2                  0.60 ms    55%: the same
    softmax, backward                  3                  0.43 ms    115%
    gelu                               2                  0.34 ms    98%
    sums over rows                     1                  0.18 ms    93%
    attention's rows, 32768 x 512      2                  0.068 ms   79%
    the same, backward                 4                  0.13 ms    81%
    attention's rows, 512 x 50176      3                  0.18 ms    68%: rows longer than registers are read twice
    the same, backward                 6                  0.37 ms    67%
    AdamW, 48.4 million parameters     28 bytes each      3.2 ms     19%: the host gathers addresses meanwhile

    product                                        time       reached
    linear 4096 x 1024 x 1024, bias added          0.175 ms   49 TFLOP/s
    linear 401408 x 261 x 261                      1.66 ms    33: tiles of 128 columns are a third empty at 261
    its weight's gradient                          2.05 ms    27
    scores of 64 heads, 512 x 512 x 128            0.118 ms   36
    weights times values of the same               0.098 ms   44
    scores of one head, 512 x 50176 x 261          0.34 ms    39
    weights times values of the same               0.35 ms    38

`products("3xtf32")` makes products on Hopper's tensor cores (`tensor_cores`), on an H200:

    product                                        float32        3xtf32
    4096 x 1024 x 1024                             49 TFLOP/s     81 TFLOP/s
    4096 x 4096 x 4096                             51             82
    2048 x 1280 x 1280                             41             67
    1024 x 1024 x 4096, a weight's gradient        49             65
    Perceiver IO on ImageNet, batch 8, forward     79 ms          55 ms, both recorded

On an H200, Perceiver IO on ImageNet at batch 8 takes 76 ms forward and 241 ms with gradients when recorded by
`graphs.recorded` (on the H100, before, 81 and 257, of which products were 70 and 221): cuBLAS is the limit, at 1.45
times what the peak would allow. At batch 1 the host is: 32 ms forward, 14 ms recorded. Outputs of norms and GELU are
computed again on the way back: arrays take 7.7 GB for a gradient at batch 8, parameters included.

Nothing here imports CuPy before an array of its own turns up. Arrays that a kernel is not made for (empty, with rows
longer than 4096) go to the definition; float16 comes as float32, in which it is computed.
"""

from __future__ import annotations

from ...core import Rule
from . import activation, attention, elementwise, index, linear, loss, norms, softmax

rules: dict[str, Rule] = {
    "add": Rule(elementwise.add_forward, elementwise.add_backward),
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
