"""PyTorch's GRU cell, which is a class of one peer and a part of another."""

from __future__ import annotations

from typing import Any

from ..autograd import ops


def gru_cell(from_input: Any, from_state: Any, state: Any) -> Any:
    """The next state of a gated recurrent unit (Cho et al. 2014, arXiv 1406.1078, eq. 5 to 8, as cuDNN has it).

        r = sigmoid(ir + hr), z = sigmoid(iz + hz), n = tanh(in + r hn); h' = (1 - z) n + z h

    from_input and from_state (..., 3 H): linear maps of the input and of the state, each r, z and n side by side;
    state (..., H) -> (..., H).
    """
    sizes = (state.shape[-1],) * 3
    (r_input, z_input, n_input), (r_state, z_state, n_state) = (
        ops.split(part, sizes=sizes, axis=-1) for part in (from_input, from_state)
    )
    reset, update = ops.sigmoid(ops.add(r_input, r_state)), ops.sigmoid(ops.add(z_input, z_state))
    candidate = ops.tanh(ops.add(n_input, ops.multiply(reset, n_state)))
    return ops.add(ops.multiply(ops.subtract(1.0, update), candidate), ops.multiply(update, state))
