"""The engine, second half: the walk back, and gradients of functions of trees. `core` is the first.

    backward              from the newest node to the oldest: each rule is run once, on the sum of what arrived
    fit                   what every rule would repeat: sums over broadcast axes; shape and dtype insisted on
    value_and_grad, vjp   the way in

Gradients are added without aliasing, and residuals are freed as the walk passes them. The walk is a loop, not a
recursion: a chain of 100,000 ops works.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from enum import Enum
from functools import wraps
from typing import Any

import numpy as np

from . import checks, half, sums, tree
from .backend import Array, as_array, is_array, refusal, xp
from .checks import FIRST_ORDER
from .core import Added, Edge, Node, Slot, Sum, Tape, Tensor, array_of, leaf
from .independence import warn_if_computed
from .tree import Tree

_Pending = dict[Node, list[Sum | None]]
"""What has arrived of the gradients of nodes that are still to be walked: for each output of a node."""

around: Callable[[], AbstractContextManager[None]] = nullcontext
"""A context around each walk, and around the function of `value_and_grad`; kernels put theirs here."""


def value_and_grad(function: Callable[..., Any], *, has_aux: bool = False) -> Callable[..., tuple[Any, Tree]]:
    """`(params, ...) -> (loss, gradients)` for a function `(params, ...) -> loss`.

    `params` is a tree of floating-point arrays (NumPy scalars count as such) and `loss` a 0-d value; `gradients` has
    the structure, shapes and dtypes of `params`, zeros where the loss does not depend on a leaf. With `has_aux` the
    function returns `(loss, aux)` and the result is `((loss, aux), gradients)`, aux as plain arrays.

    Raises `TypeError` for leaves that are not floating-point arrays, and when calls nest (first order only);
    `ValueError` when the loss is not 0-d.

    >>> import numpy as np
    >>> from perceiver_ref.autograd import ops
    >>> params = {"w": np.array([1.0, 2.0, 3.0])}
    >>> loss, gradients = value_and_grad(lambda p: ops.sum(ops.multiply(p["w"], p["w"])))(params)
    >>> float(loss), gradients["w"].tolist()
    (14.0, [2.0, 4.0, 6.0])
    """

    @wraps(function)
    def wrapped(params: Tree, *arguments: Any, **keywords: Any) -> tuple[Any, Tree]:
        with around():
            return computed(params, *arguments, **keywords)

    def computed(params: Tree, *arguments: Any, **keywords: Any) -> tuple[Any, Tree]:
        tape = Tape()
        traced = tree.unflatten_like(params, [_parameter(path, array, tape) for path, array in tree.leaves(params)])
        result = function(traced, *arguments, **keywords)
        loss, aux = result if has_aux else (result, None)
        if getattr(loss, "shape", None) != ():
            got = getattr(loss, "shape", type(loss).__name__)
            raise ValueError(f"the function must return a 0-d loss to differentiate, got {got}; sum or average it")
        if type(loss) is not Tensor:
            warn_if_computed(function, loss, traced, *arguments, **keywords)
        value, aux = _finished(loss, tape), _finished(aux, tape)
        wrt = [tensor for _, tensor in tree.leaves(traced)]
        outputs = [loss] if type(loss) is Tensor else []
        ones = [xp(o.data).ones((), o.dtype) for o in outputs]
        gradients = tree.unflatten_like(params, backward(outputs, ones, wrt))
        return ((value, aux), gradients) if has_aux else (value, gradients)

    return wrapped


def vjp(function: Callable[..., Any], *arguments: Tree) -> tuple[Tree, Callable[[Tree], tuple[Tree, ...]]]:
    """`(output, pull)`, where `pull(cotangents)` is the vector-Jacobian product for every argument.

    Arguments and output are trees. `cotangents` has the output's structure, shapes and dtypes; `pull` returns one
    tree for each argument, with None for leaves that are not floating-point arrays. It can be called once: the
    recorded graph is freed by the walk. Raises `ValueError` for cotangents of another structure, shape or dtype, and
    `TypeError` for arguments that cannot be computed with.

    >>> import numpy as np
    >>> from perceiver_ref.autograd import ops
    >>> out, pull = vjp(ops.tanh, np.zeros(2))
    >>> pull(np.array([1.0, -1.0]))[0].tolist()
    [1.0, -1.0]
    """
    tape = Tape()

    def differentiable(value: Any) -> bool:
        if type(value) is Tensor:
            raise TypeError(f"vjp of values that are being differentiated: {FIRST_ORDER}")
        if not (is_array(value) or isinstance(value, np.generic)) or value.dtype.kind != "f":
            return False
        if reason := refusal(value):
            raise TypeError(f"an argument of vjp {reason}")
        return True

    traced = tree.map(lambda value: leaf(value, tape) if differentiable(value) else value, list(arguments))
    out = function(*traced)
    wrt = [value for _, value in tree.leaves(traced) if type(value) is Tensor]

    def pull(cotangents: Tree) -> tuple[Tree, ...]:
        pairs: list[tuple[Any, Any]] = []
        tree.map(lambda o, c: pairs.append((o, c)), out, cotangents)
        for output, cotangent in pairs:
            if is_array(output) and output.dtype.kind == "f":  # constant, but of one shape all the same
                checks.cotangent(cotangent, output)
        pairs = [pair for pair in pairs if type(pair[0]) is Tensor]
        gradients = iter(backward([o for o, _ in pairs], [c for _, c in pairs], wrt))
        return tuple(tree.map(lambda value: next(gradients) if type(value) is Tensor else None, traced))

    return _finished(out, tape), pull


def backward(outputs: Sequence[Tensor], cotangents: Sequence[Array], wrt: Sequence[Tensor]) -> list[Array]:
    """Gradients of sum(output * cotangent) over all outputs, with respect to each leaf of `wrt`.

    The graph is used up: its residuals are freed as the walk passes, so a second walk raises `RuntimeError`.
    Returned arrays share no memory with each other, with the cotangents or with the leaves; a leaf that the outputs do
    not depend on gets zeros.
    """
    with around():
        return _walked(outputs, cotangents, wrt)


def _walked(outputs: Sequence[Tensor], cotangents: Sequence[Array], wrt: Sequence[Tensor]) -> list[Array]:
    pending: _Pending = {}
    queue: list[tuple[int, Node]] = []
    found: dict[Node, Array] = {}

    def send(node: Node, output: int, gradient: Array, given: _Given) -> None:
        sums = pending.get(node)
        if sums is None:
            sums = pending[node] = [None] * len(node.outputs)
            heapq.heappush(queue, (-node.serial, node))
        before = sums[output]
        if before is None or given is _Given.ADDED:
            sums[output] = Sum(gradient, given is not _Given.BORROWED)
        elif before.own:
            added = before.array
            added += gradient
            sums[output] = Sum(added, True)
        else:
            sums[output] = Sum(as_array(before.array + gradient), True)

    cotangents = [checks.cotangent(c, tensor.data) for tensor, c in zip(outputs, cotangents, strict=True)]
    for tensor, cotangent in zip(outputs, cotangents):
        send(tensor.node, tensor.output, cotangent, _Given.BORROWED)
    leaf_nodes = {tensor.node for tensor in wrt}
    while queue:
        _, node = heapq.heappop(queue)
        arrived = [None if entry is None else entry.array for entry in pending.pop(node)]
        if node.op is None:
            if node in leaf_nodes:
                found[node] = arrived[0]
            continue
        for edge, gradient, given in _pulled(node, arrived, pending):
            send(edge.node, edge.output, gradient, given)
    return _separate([found.get(tensor.node) for tensor in wrt], wrt, cotangents)


class _Given(Enum):
    """Whose memory a gradient is in that a rule has returned."""

    BORROWED = 0  # anyone's: the rule may have returned one array twice
    OWNED = 1
    ADDED = 2  # owned, and what had arrived before is in it


def _pulled(node: Node, gradients: list[Any], pending: _Pending) -> list[tuple[Edge, Array, _Given]]:
    """Run one node's backward rule on the gradients of its outputs, and use the node up."""
    assert node.op is not None
    if node.edges is None or node.residuals is None:
        raise checks.walked(node.op)
    if node.rule is None or node.rule.backward is None:
        raise TypeError(f"{node.op.name} has no backward rule")
    if len(gradients) == 1:
        upstream = gradients[0]
    else:
        like = next(g for g in gradients if g is not None)
        upstream = tuple([_zeros(like, slot) if g is None else g for g, slot in zip(gradients, node.outputs)])
    onto = _onto(node.edges, pending, len(node.needs)) if node.rule.adds else ()
    try:
        made = node.op.pull(node, upstream, node.arrays(), onto)
    except (ValueError, TypeError, IndexError) as error:
        raise ValueError(f"backward of {node.op.name}: {error}") from error
    sent, owned = [], _Given.OWNED if type(made) is Added else _Given.BORROWED
    for edge in node.edges:
        if edge.position >= len(made):
            raise ValueError(f"backward of {node.op.name} gave argument {edge.position + 1} no gradient, not even None")
        gradient = made[edge.position]
        if gradient is None:
            continue
        given = _Given.ADDED if owned is _Given.OWNED and onto and onto[edge.position] else owned
        sent.append((edge, fit(gradient, edge.node.outputs[edge.output], node.op.name, edge.position), given))
    node.used()
    return sent


def _onto(edges: Sequence[Edge], pending: _Pending, count: int) -> tuple[Sum | None, ...]:
    """What has arrived before for each argument; for one that is there twice, at its first place alone."""
    found: list[Sum | None] = [None] * count
    seen = set()
    for edge in edges:
        if edge.node in pending and (edge.node, edge.output) not in seen:
            found[edge.position] = pending[edge.node][edge.output]
        seen.add((edge.node, edge.output))
    return tuple(found)


def fit(gradient: Array, slot: Slot, where: str, position: int) -> Array:
    """A gradient summed over the axes along which its argument was broadcast, of the argument's shape and dtype.

    float32 is rounded for a float16 argument (see `half`); anything else that does not fit is a `ValueError`.
    """
    if type(gradient) is np.ndarray and gradient.shape == slot.shape and gradient.dtype is slot.dtype:
        return gradient
    fitting = gradient if gradient.shape == slot.shape else unbroadcast(gradient, slot.shape)
    fitting = half.rounded(as_array(fitting), slot.dtype)
    if fitting is None or fitting.shape != slot.shape or fitting.dtype != slot.dtype:
        came = "no matching shape" if fitting is None else checks.describe(fitting)
        want = f"{slot.dtype}{list(slot.shape)}"
        raise ValueError(f"{where} gave argument {position + 1} a gradient of {came}; expected {want}")
    return fitting


def unbroadcast(gradient: Array, shape: tuple[int, ...]) -> Array | None:
    """Sum `gradient` over the axes that broadcasting added to `shape`; None when it is no broadcast of `shape`."""
    extra = gradient.ndim - len(shape)
    if gradient.shape[extra:] == shape:
        return sums.total(gradient, tuple(range(extra)))
    if extra < 0 or any(want not in (1, got) for want, got in zip(shape, gradient.shape[extra:])):
        return None
    stretched = (extra + i for i, n in enumerate(shape) if n == 1 and gradient.shape[extra + i] != 1)
    return sums.total(gradient, (*range(extra), *stretched)).reshape(shape)


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
            buffer = id(gradient)
        taken.add(buffer)
        result.append(gradient)
    return result


def _memory(array: Array) -> tuple[int, int]:
    """Identity and size in bytes of the buffer that an array is a view of."""
    while (base := array.base) is not None and is_array(base):
        array = base
    return id(array), array.nbytes


def _finished(out: Tree, tape: Tape) -> Tree:
    """The plain arrays of what a function returned; `TypeError` for a value of a differentiation around this one."""

    def plain(value: Any) -> Any:
        if type(value) is Tensor and value.node.tape is not tape:
            raise TypeError(f"the result belongs to another differentiation: {FIRST_ORDER}")
        return array_of(value)

    return tree.map(plain, out)


def _parameter(path: str, array: Any, tape: Tape) -> Tensor:
    if type(array) is Tensor:
        raise TypeError(f"value_and_grad of values that are being differentiated: {FIRST_ORDER}")
    checks.parameter(path, array)
    return leaf(array, tape)
