"""Debug mode: the first op that makes a number non-finite is named, with shapes and the line that called it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from perceiver_ref.autograd import NonFiniteError, Op, checkpoint, detect_nonfinite, ops, value_and_grad, vjp
from perceiver_ref.autograd.checks import describe

HERE = Path(__file__).resolve()


def line_of(marker: str) -> int:
    """The number of the line of this file that ends with this comment."""
    return next(i for i, line in enumerate(HERE.read_text().splitlines(), 1) if line.endswith(f"# {marker}"))


def test_forward_names_op_shapes_and_place(xp: ModuleType) -> None:
    def function(x: Any) -> Any:
        y = ops.exp(x)
        bad = ops.log(y - 1.0)  # the log of zero
        return ops.sum(bad * 2.0)

    with np.errstate(divide="ignore"), detect_nonfinite(), pytest.raises(NonFiniteError) as caught:
        value_and_grad(function)(xp.zeros((2, 3)))
    message = str(caught.value)
    assert message == f"log(float64[2, 3]) produced an infinity in float64[2, 3] at {HERE}:{line_of('the log of zero')}"


def test_forward_on_plain_arrays_is_checked_too(xp: ModuleType) -> None:
    named = pytest.raises(NonFiniteError, match=r"sqrt\(float32\[1\]\) produced NaN in float32\[1\] at .*test_debug")
    with np.errstate(invalid="ignore"), detect_nonfinite(), named:
        ops.sqrt(xp.asarray([-1.0], np.float32))


def test_an_argument_that_was_not_finite_is_named(xp: ModuleType) -> None:
    with detect_nonfinite(), pytest.raises(NonFiniteError, match=r"; argument 2 already held one$"):
        ops.add(xp.ones(2), xp.asarray([1.0, np.nan]))


def test_only_one_of_several_outputs_may_be_bad(xp: ModuleType) -> None:
    with detect_nonfinite(), pytest.raises(NonFiniteError, match=r"split\(float64\[3\]\) produced NaN in float64\[2\]"):
        ops.split(xp.asarray([1.0, 2.0, np.nan]), sizes=(1, 2))


def test_backward_names_op_argument_and_place(xp: ModuleType) -> None:
    def function(x: Any) -> Any:
        root = ops.sqrt(x)  # the root of zero
        return ops.sum(root * 2.0)

    with np.errstate(divide="ignore"), detect_nonfinite(), pytest.raises(NonFiniteError) as caught:
        value_and_grad(function)(xp.zeros(3, np.float32))
    assert str(caught.value) == (
        "backward of sqrt produced an infinity in the gradient of argument 1, float32[3]; "
        f"the op was called at {HERE}:{line_of('the root of zero')}"
    )


def test_backward_accuses_the_first_rule_only(xp: ModuleType) -> None:
    """The rules after it pass on what they got."""

    def forward(x: Any) -> Any:
        return x + 1, ()

    culprit = Op(forward)
    culprit.name = "culprit"
    culprit.backward(lambda g: g * np.nan)
    with detect_nonfinite(), pytest.raises(NonFiniteError, match=r"^backward of culprit produced NaN"):
        value_and_grad(lambda x: ops.sin(culprit(ops.exp(x))))(xp.asarray(1.0))


def test_backward_does_not_accuse_a_rule_of_what_came_in(xp: ModuleType) -> None:
    with detect_nonfinite():
        _, pull = vjp(ops.sin, xp.ones(2))
        (gradient,) = pull(xp.asarray([np.nan, 1.0]))
    assert np.isnan(float(gradient[0]))


def test_a_graph_recorded_before_is_not_looked_at(xp: ModuleType) -> None:
    """What is looked at is put into a node when its op runs."""
    _, pull = vjp(ops.sqrt, xp.zeros(1))
    with np.errstate(divide="ignore"), detect_nonfinite():
        (gradient,) = pull(xp.ones(1))
    assert np.isinf(float(gradient[0]))


def test_an_op_inside_a_checkpoint_is_named(xp: ModuleType) -> None:
    inner = checkpoint(lambda x: ops.log(x) * 2.0)  # inside a checkpoint
    with np.errstate(divide="ignore"), detect_nonfinite(), pytest.raises(NonFiniteError, match=r"^log\(") as caught:
        value_and_grad(inner)(xp.asarray(0.0))
    assert str(caught.value).endswith(f"{HERE}:{line_of('inside a checkpoint')}")


def test_it_is_off_by_default_and_ends_with_its_context(xp: ModuleType) -> None:
    bad = xp.asarray([np.nan])
    ops.negative(bad)
    with detect_nonfinite(), pytest.raises(NonFiniteError):
        ops.negative(bad)
    ops.negative(bad)


def test_finite_and_integer_results_pass(xp: ModuleType) -> None:
    with detect_nonfinite():
        loss, gradient = value_and_grad(lambda x: ops.sum(ops.where(x > 1.0, x, 0.0)))(xp.asarray([1.0, 2.0]))
        assert (float(loss), gradient.tolist()) == (2.0, [0.0, 1.0])
        assert int(ops.take(xp.asarray([1, 2]), xp.asarray([1]))[0]) == 2


def test_values_are_described(xp: ModuleType) -> None:
    assert describe(xp.ones((2, 0), np.float16)) == "float16[2, 0]"
    assert (describe(2.5), describe(None)) == ("2.5", "None")


@pytest.mark.parametrize(("value", "raises"), [("1", True), ("0", False), ("", False)])
def test_the_environment_variable_turns_it_on(value: str, raises: bool) -> None:
    """In a process of its own, in a thread besides; NumPy alone, since the switch knows no backend."""
    script = (
        "import threading, numpy as np\n"
        "from perceiver_ref.autograd import NonFiniteError, ops\n"
        "def probe():\n"
        "    try: ops.negative(np.array([np.nan])); print('passed')\n"
        "    except NonFiniteError: print('raised')\n"
        "probe(); thread = threading.Thread(target=probe); thread.start(); thread.join()\n"
    )
    environment = {**os.environ, "PERCEIVER_REF_DEBUG": value}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["raised" if raises else "passed"] * 2
