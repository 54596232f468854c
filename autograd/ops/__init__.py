"""The operations: each is its equation, its forward and its backward rule, side by side and written plainly.

    elementwise   arithmetic, comparisons, where, exp, log, sqrt, tanh, erf, sin, cos
    activation    relu, squared_relu, sigmoid, silu, gelu_erf, gelu_tanh
    reduce        sum, mean, max, logsumexp
    shape         reshape, transpose, broadcast_to, concatenate, stack, split, pad
    index         getitem, take, take_along_axis
    linear        matmul, linear
    normalise     softmax, log_softmax, layer_norm, rms_norm
    attention     attention, attention_weights
    convolution   convolution, transposed_convolution, max_pool, same_padding
    dropout       dropout
    cast          cast, in_float32
    loss          cross_entropy, binary_cross_entropy, squared_error, absolute_error

Positional arguments are arrays (`Tensor`s when they are being differentiated), keyword arguments are options.
"""

from .activation import activations, gelu_erf, gelu_tanh, relu, sigmoid, silu, squared_relu
from .attention import attention, attention_weights
from .cast import cast, in_float32
from .convolution import convolution, max_pool, same_padding, transposed_convolution
from .dropout import dropout
from .elementwise import (
    absolute,
    add,
    cos,
    divide,
    equal,
    erf,
    exp,
    greater,
    greater_equal,
    less,
    less_equal,
    log,
    maximum,
    minimum,
    multiply,
    negative,
    not_equal,
    power,
    sin,
    sqrt,
    subtract,
    tanh,
    where,
)
from .index import getitem, take, take_along_axis
from .linear import linear, matmul
from .loss import absolute_error, binary_cross_entropy, cross_entropy, squared_error
from .normalise import layer_norm, log_softmax, rms_norm, softmax
from .reduce import logsumexp, max, mean, sum
from .shape import broadcast_to, concatenate, pad, reshape, split, stack, transpose

__all__ = [
    "absolute",
    "absolute_error",
    "activations",
    "add",
    "attention",
    "attention_weights",
    "binary_cross_entropy",
    "broadcast_to",
    "cast",
    "concatenate",
    "convolution",
    "cos",
    "cross_entropy",
    "divide",
    "dropout",
    "equal",
    "erf",
    "exp",
    "gelu_erf",
    "gelu_tanh",
    "getitem",
    "greater",
    "greater_equal",
    "in_float32",
    "layer_norm",
    "less",
    "less_equal",
    "linear",
    "log",
    "log_softmax",
    "logsumexp",
    "matmul",
    "max",
    "max_pool",
    "maximum",
    "mean",
    "minimum",
    "multiply",
    "negative",
    "not_equal",
    "pad",
    "power",
    "relu",
    "reshape",
    "rms_norm",
    "same_padding",
    "sigmoid",
    "silu",
    "sin",
    "softmax",
    "split",
    "sqrt",
    "squared_error",
    "squared_relu",
    "stack",
    "subtract",
    "sum",
    "take",
    "take_along_axis",
    "tanh",
    "transpose",
    "transposed_convolution",
    "where",
]
