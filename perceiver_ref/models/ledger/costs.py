"""What one op costs: FLOPs by the papers' rule, and the memory that attention needs while it runs.

The rule (it reproduces the papers' tables): a multiply-accumulate of a linear map, of Q K^T or of weights times V is 2
FLOPs, and the softmax is 3 for each of its heads x queries x keys weights. Layer norms, activations, biases, residual
sums, position encodings and the convolutions of a stem are not counted.
"""

from __future__ import annotations

import math

import numpy as np

from ...autograd.observing import Event

RULE = (
    "2 x multiply-accumulates of linear maps, QK^T and AV, plus 3 x heads x queries x keys for the softmax; "
    "norms, activations, biases and convolutional stems not counted"
)


def linear_flops(event: Event) -> int:
    """x (..., D) times a weight (D, E): 2 rows D E. Any other op: 0."""
    if event.op.name != "linear":
        return 0
    x, weight = event.arguments[:2]
    inputs, outputs = weight.shape
    return 2 * math.prod(map(int, x.shape[:-1])) * int(inputs) * int(outputs)


def weights_flops(event: Event) -> int:
    """Attention's logits and softmax, q (..., N, d) and k (..., M, d): (2 d + 3) N M a head."""
    queries, keys, depth, heads = _sizes(event)
    return heads * queries * keys * (2 * depth + 3)


def mixed_flops(event: Event) -> int:
    """Attention's weights (..., N, M) times v (..., M, e): 2 N M e a head."""
    queries, keys, _, heads = _sizes(event)
    return heads * queries * keys * 2 * int(event.arguments[2].shape[-1])


def weights_shape(event: Event) -> tuple[int, ...]:
    """(..., N, M): batch, heads, queries, keys."""
    return (*_lead(event), event.arguments[0].shape[-2], event.arguments[1].shape[-2])


def scores_bytes(event: Event, *, tiled: bool) -> int:
    """The scores that attention holds at once: all of them, or one tile of those that are too many for the definition.

    The kernel itself says how large its tiles are; each further thread holds one more.
    """
    queries, keys, _, heads = _sizes(event)
    kernel = next((rule.held for rule in event.op.kernels.get("numpy", ()) if rule.held), None)
    held = kernel(*event.arguments[:3]) if tiled and kernel else heads * queries * keys
    return held * max(int(event.outputs[0].itemsize), 4)  # float16 is computed in float32


def _lead(event: Event) -> tuple[int, ...]:
    q, k, v = event.arguments[:3]
    return np.broadcast_shapes(q.shape[:-2], k.shape[:-2], v.shape[:-2])


def _sizes(event: Event) -> tuple[int, int, int, int]:
    """Queries, keys, width of a head, and heads (times batch)."""
    q, k = event.arguments[:2]
    return int(q.shape[-2]), int(k.shape[-2]), int(q.shape[-1]), math.prod(_lead(event))
