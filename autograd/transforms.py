"""Gradients of functions of trees: `value_and_grad`, `vjp`, and `checkpoint` (recompute to save memory)."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np

from . import tree
from .backend import is_array, refusal, xp
from .engine import Op, Rule
from .tensor import FIRST_ORDER, Tape, Tensor, array_of, leaf
from .tree import Tree
from .walk import backward, fitting


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
        tape = Tape()
        traced = tree.unflatten_like(params, [_leaf(path, array, tape) for path, array in tree.leaves(params)])
        result = function(traced, *arguments, **keywords)
        loss, aux = result if has_aux else (result, None)
        if getattr(loss, "shape", None) != ():
            got = getattr(loss, "shape", type(loss).__name__)
            raise ValueError(f"the function must return a 0-d loss to differentiate, got {got}; sum or average it")
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
                fitting(cotangent, output)
        pairs = [pair for pair in pairs if type(pair[0]) is Tensor]
        gradients = iter(backward([o for o, _ in pairs], [c for _, c in pairs], wrt))
        return tuple(tree.map(lambda value: next(gradients) if type(value) is Tensor else None, traced))

    return _finished(out, tape), pull


def checkpoint(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, which keeps its arguments instead of its residuals and runs again on the way back.

    Memory for one more forward pass (Chen et al. 2016, arXiv 1604.06174). Arguments and output are trees; everything
    differentiated must be an argument, and randomness must come from an explicit key, or the second run differs.
    """

    @wraps(function)
    def wrapped(*arguments: Any) -> Any:
        flat = [value for _, value in tree.leaves(list(arguments))]
        positions = [i for i, value in enumerate(flat) if type(value) is Tensor]
        if not positions:
            return function(*arguments)
        constants = [None if type(value) is Tensor else value for value in flat]
        structure = tree.map(lambda _: 0, list(arguments))  # not the arguments: the graph must not hold Tensors
        template: list[Tree] = []

        def call(*traced: Any) -> Any:
            values = list(constants)
            for position, value in zip(positions, traced):
                values[position] = value
            return function(*tree.unflatten_like(structure, values))

        def forward(*arrays: Any) -> Any:
            out = call(*arrays)
            values = [value for _, value in tree.leaves(out)]
            if any(type(value) is Tensor for value in values):
                raise TypeError("a checkpointed function uses a Tensor that is not among its arguments; pass it in")
            template.append(tree.map(lambda _: 0, out))
            return tuple(values), arrays

        def pull(gradients: Any, *arrays: Any) -> Any:
            tape = Tape()
            traced = [leaf(array, tape) for array in arrays]
            outputs = [value for _, value in tree.leaves(call(*traced))]
            gradients = gradients if isinstance(gradients, tuple) else (gradients,)
            pairs = [(o, g) for o, g in zip(outputs, gradients, strict=True) if type(o) is Tensor]
            return backward([o for o, _ in pairs], [g for _, g in pairs], traced)

        run = Op(forward, numbers="cast")  # the ops inside round
        run.name = f"checkpoint({getattr(function, '__name__', 'function')})"
        run.rules["plain"] = Rule(forward, pull)
        outputs = run(*(flat[i] for i in positions))
        return tree.unflatten_like(template[0], list(outputs))

    return wrapped


def _finished(out: Tree, tape: Tape) -> Tree:
    """The plain arrays of what a function returned; `TypeError` for a value of a differentiation around this one."""

    def plain(value: Any) -> Any:
        if type(value) is Tensor and value.node.tape is not tape:
            raise TypeError(f"the result belongs to another differentiation: {FIRST_ORDER}")
        return array_of(value)

    return tree.map(plain, out)


def _leaf(path: str, array: Any, tape: Tape) -> Tensor:
    if type(array) is Tensor:
        raise TypeError(f"value_and_grad of values that are being differentiated: {FIRST_ORDER}")
    if not (is_array(array) or isinstance(array, np.floating)) or array.dtype.kind != "f":
        came = f"{array.dtype} array" if isinstance(array, np.ndarray) else type(array).__name__
        raise TypeError(f"parameter {path or '(the root)'!r} is a {came}; only floating-point arrays have gradients")
    if reason := refusal(array):
        raise TypeError(f"parameter {path or '(the root)'!r} {reason}")
    return leaf(array, tape)
