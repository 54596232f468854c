"""The walk back: gradients of outputs with respect to leaves, from the newest node to the oldest.

What every rule would otherwise repeat is done here once: summing gradients over broadcast axes, checking shape and
dtype, accumulating without aliasing, and freeing residuals on the way.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Any

import numpy as np

from . import debug
from .backend import Array, is_array, name, of_base_class, refusal, rounded_to, wide, xp
from .engine import accepted
from .sums import total
from .tensor import Edge, Node, Slot, Tensor, as_array

_HALF = np.dtype(np.float16)


def backward(outputs: Sequence[Tensor], cotangents: Sequence[Array], wrt: Sequence[Tensor]) -> list[Array]:
    """Gradients of sum(output * cotangent) over all outputs, with respect to each leaf of `wrt`.

    The graph is used up: its residuals are freed as the walk passes, so a second walk raises `RuntimeError`.
    Returned arrays share no memory with each other, with the cotangents or with any input; a leaf that the outputs do
    not depend on gets zeros.
    """
    pending: dict[Node, list[Any]] = {}  # per output of a node: None, or [sum so far, whether it may be added to]
    queue: list[tuple[int, Node]] = []
    found: dict[Node, Array] = {}

    def send(node: Node, output: int, gradient: Array) -> None:
        slots = pending.get(node)
        if slots is None:
            slots = pending[node] = [None] * len(node.outputs)
            heapq.heappush(queue, (-node.serial, node))
        if slots[output] is None:
            slots[output] = [gradient, False]  # borrowed: the rule may have returned one array twice
        elif slots[output][1]:
            slots[output][0] += gradient
        else:
            slots[output] = [as_array(slots[output][0] + gradient), True]

    cotangents = [fitting(cotangent, tensor.data) for tensor, cotangent in zip(outputs, cotangents, strict=True)]
    for tensor, cotangent in zip(outputs, cotangents):
        send(tensor.node, tensor.output, cotangent)
    leaf_nodes = {tensor.node for tensor in wrt}
    while queue:
        _, node = heapq.heappop(queue)
        slots = pending.pop(node)
        if node.op is None:
            if node in leaf_nodes:
                found[node] = slots[0][0]
            continue
        for edge, gradient in _pull(node, slots):
            send(edge.node, edge.output, gradient)
    return _separate([found.get(tensor.node) for tensor in wrt], wrt, cotangents)


def fitting(cotangent: Any, output: Array) -> Array:
    """A cotangent as an array; `ValueError` unless it has its output's library, shape and dtype."""
    want = f"a cotangent must be {debug.describe(output)} as its output"
    cotangent = as_array(cotangent)
    if not is_array(cotangent):
        raise ValueError(f"{want}, got {type(cotangent).__name__}")
    if (cotangent.shape, cotangent.dtype) != (output.shape, output.dtype):
        raise ValueError(f"{want}, got {debug.describe(cotangent)}")
    if name(cotangent) != name(output):
        raise ValueError(f"{want}, of {name(output)}, got one of {name(cotangent)}")
    if reason := refusal(cotangent):
        raise ValueError(f"{want}, and it {reason}")
    return of_base_class(cotangent)


def _pull(node: Node, slots: list[Any]) -> list[tuple[Edge, Array]]:
    """Run one node's backward rule on the gradients of its outputs, and use the node up."""
    assert node.op is not None
    if node.edges is None or node.residuals is None:
        raise RuntimeError(f"the graph through {node.op.name} was already walked back; compute the output again")
    sample = next(slot[0] for slot in slots if slot is not None) if len(slots) > 1 else slots[0][0]
    gradients = [_zeros(sample, out) if s is None else s[0] for s, out in zip(slots, node.outputs)]
    rule = node.op.rule("numpy" if type(sample) is np.ndarray else name(sample)).pull
    residuals = node.arrays()
    if node.op.numbers == "computed" and node.outputs[0].dtype == _HALF:
        gradients, residuals = [wide(g) for g in gradients], tuple(map(wide, residuals))
    upstream = gradients[0] if len(gradients) == 1 else tuple(gradients)
    needs = node.static.pop("needs")
    try:
        result = rule(upstream, *residuals, **accepted(rule, {**node.op.static, **node.static}, needs))
    except (ValueError, TypeError, IndexError) as error:
        raise ValueError(f"backward of {node.op.name}: {error}") from error
    if not isinstance(result, (tuple, list)):
        result = (result,)
    checking = debug.enabled()
    sent = []
    for edge in node.edges:
        if edge.position >= len(result):
            raise ValueError(f"backward of {node.op.name} gave argument {edge.position + 1} no gradient, not even None")
        gradient = result[edge.position]
        if gradient is None:
            continue
        slot = edge.node.outputs[edge.output]
        if slot.dtype == _HALF:
            gradient = _to_float16(gradient, slot.shape)
        gradient = _fit(gradient, slot, node.op.name, edge.position)
        if checking:
            debug.check_backward(node.op.name, edge.position, gradient, gradients, node.site)
        sent.append((edge, gradient))
    node.used()
    return sent


def _fit(gradient: Array, slot: Slot, where: str, position: int) -> Array:
    """Sum a gradient over the axes along which its argument was broadcast; insist on its shape and dtype."""
    if gradient.shape != slot.shape:
        gradient = unbroadcast(gradient, slot.shape)
    if type(gradient) is not np.ndarray:
        gradient = as_array(gradient)
    if gradient is None or gradient.shape != slot.shape or gradient.dtype != slot.dtype:
        came = "no matching shape" if gradient is None else debug.describe(gradient)
        want = f"{slot.dtype}{list(slot.shape)}"
        raise ValueError(f"{where} gave argument {position + 1} a gradient of {came}; expected {want}")
    return gradient


def _to_float16(gradient: Array, shape: tuple[int, ...]) -> Array:
    """What a rule computed in float32 for a float16 argument, rounded once: after it is summed over broadcast axes."""
    if gradient.dtype != np.float32:
        return gradient
    fitting = gradient if gradient.shape == shape else unbroadcast(gradient, shape)
    return rounded_to(np.float16, gradient if fitting is None else fitting)


def unbroadcast(gradient: Array, shape: tuple[int, ...]) -> Array:
    """Sum `gradient` over the axes that broadcasting added to `shape`; None when it is no broadcast of `shape`."""
    extra = gradient.ndim - len(shape)
    if extra < 0 or any(want not in (1, got) for want, got in zip(shape, gradient.shape[extra:])):
        return None
    stretched = (extra + i for i, n in enumerate(shape) if n == 1 and gradient.shape[extra + i] != 1)
    return total(gradient, (*range(extra), *stretched)).reshape(shape)


def _zeros(like: Array, slot: Slot) -> Array:
    return xp(like).zeros(slot.shape, slot.dtype)


def _separate(gradients: list[Any], wrt: Sequence[Tensor], cotangents: Sequence[Array]) -> list[Array]:
    """Copy what is shared: each returned gradient owns its memory."""
    taken = {_memory(array)[0] for array in (*cotangents, *(tensor.data for tensor in wrt))}
    result = []
    for gradient, tensor in zip(gradients, wrt):
        if gradient is None:
            result.append(_zeros(tensor.data, tensor.node.outputs[0]))
            continue
        buffer, size = _memory(gradient)
        if buffer in taken or size != gradient.nbytes or not getattr(gradient.flags, "writeable", True):
            gradient = gradient.copy()
        taken.add(_memory(gradient)[0])
        result.append(gradient)
    return result


def _memory(array: Array) -> tuple[int, int]:
    """Identity and size in bytes of the buffer that an array is a view of."""
    while (base := array.base) is not None and is_array(base):
        array = base
    return id(array), array.nbytes
