"""`observe` sees every op as it runs, recorded or not, and nothing after its context."""

from __future__ import annotations

import numpy as np

from perceiver_ref.autograd import ops, value_and_grad
from perceiver_ref.autograd.observing import observe


def test_every_op_is_seen_with_its_arrays_and_its_node():
    seen = []
    x = np.arange(3.0)
    with observe(seen.append):
        plain = ops.exp(x)
        ops.greater(x, 1.0)
        value_and_grad(lambda p: ops.sum(ops.multiply(p, p)))(x)
    ops.exp(x)
    assert [event.op.name for event in seen] == ["exp", "greater", "multiply", "sum"]
    assert seen[0].arguments[0] is x
    assert seen[0].outputs[0] is plain
    assert [event.node is not None for event in seen] == [False, False, True, True]
    assert type(seen[2].outputs[0]) is np.ndarray


def test_observers_nest():
    outer, inner = [], []
    with observe(outer.append):
        with observe(inner.append):
            ops.exp(np.ones(2))
        ops.log(np.ones(2))
    assert [e.op.name for e in outer] == ["exp", "log"]
    assert [e.op.name for e in inner] == ["exp"]
