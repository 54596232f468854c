"""PyTorch's functions on tensors without axes: what PyTorch 2.13 gives, with gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from perceiver_ref.porting import check_case
from perceiver_ref.porting.cases import Case

PAIR = {"input": np.asarray(2.0), "target": np.asarray(0.5)}
ONE = {"input": np.asarray(2.0)}
LABELLED = {"input": np.array([1.0, 2.0, 3.0]), "target": np.asarray(1)}

# class -> (inputs, options, the output's name and value, the gradient of `input` for a cotangent of 1)
ROWS: dict[str, tuple[dict[str, Any], dict[str, Any], str, float, Any]] = {
    "mse_loss": (PAIR, {}, "loss", 2.25, 3.0),
    "l1_loss": (PAIR, {}, "loss", 1.5, 1.0),
    "smooth_l1_loss": (PAIR, {}, "loss", 1.0, 1.0),
    "smooth_l1_loss, beta": (PAIR, {"beta": 3.0}, "loss", 0.375, 0.5),
    "smooth_l1_loss, beta 0": (PAIR, {"beta": 0.0}, "loss", 1.5, 1.0),
    "binary_cross_entropy_with_logits": (PAIR, {}, "loss", 1.1269280110429725, 0.3807970779778823),
    "cross_entropy": (
        LABELLED,
        {},
        "loss",
        1.4076059644443804,
        [0.09003057317038043, -0.7552715289452023, 0.6652409557748218],
    ),
    "cross_entropy, smoothed": (
        LABELLED,
        {"label_smoothing": 0.3},
        "loss",
        1.4076059644443804,
        [-0.009969426829619567, -0.5552715289452023, 0.5652409557748217],
    ),
    "gelu": (ONE, {}, "gelu", 1.9544997361036416, 1.085231801078197),
    "relu": (ONE, {}, "relu", 2.0, 1.0),
    "softmax": (ONE, {"dim": 0, "only": True}, "softmax", 1.0, 0.0),
    "softmax, last": (ONE, {"dim": -1, "only": True}, "softmax", 1.0, 0.0),
    "normalize": (ONE, {"dim": 0}, "out", 1.0, 0.0),
}


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", ROWS)
def test_a_function_of_numbers(name: str, reduction: str) -> None:
    inputs, options, output, value, gradient = ROWS[name]
    if output == "loss":
        options = {**options, "reduction": reduction}
    meta = {"peer": "torch", "class": f"torch.nn.functional.{name.split(',')[0]}", "config": {}, "dtype": "float64"}
    case = Case(
        {**meta, "call": options},
        inputs=inputs,
        outputs={output: np.asarray(value)},
        cotangents={output: np.asarray(1.0)},
        grad_inputs={"input": np.asarray(gradient)},
    )
    result = check_case(case)
    assert (result.status, [a for a in result.agreements if not a.passed]) == ("pass", [])


def test_an_embedding_of_one_index() -> None:
    table = np.arange(6.0).reshape(3, 2)
    case = Case(
        {"peer": "torch", "class": "torch.nn.functional.embedding", "config": {}, "call": {}, "dtype": "float64"},
        inputs={"indices": np.asarray(1), "weight": table},
        outputs={"out": table[1]},
    )
    assert check_case(case).status == "pass"
