"""What ports of the newer resamplers and poolers get wrong is named: mistakes made in NumPy alone (tests/restated).

All of them are heavy; here one of each cause.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from porting.cases import FILES, label, path_of
from porting.diagnosing import diagnose, on_backend
from porting.traps import TRAPS, Trap
from restated import MODELS, Given, Outputs

from perceiver_ref.porting.cases import Case, read_case
from perceiver_ref.porting.deviations import CAUSES

pytestmark = on_backend

SLOW = ("edgetam", "perceiver-ar", "nemo", "pulid", "aurora", "diffusers", "shape2vecset/a", "shape2vecset/k")
SLOW += ("shape2vecset/vecset",)
PEERS = {name.partition("/")[0] for name in MODELS}


@cache
def restated(name: str) -> Case | None:
    """The case, where its class is restated, without gradients and traces."""
    case = read_case(path_of(name))
    known = key(case) in MODELS and "method" not in case.meta["call"]
    return replace(case, cotangents={}, grad_params={}, grad_inputs={}, trace={}) if known else None


def key(case: Case) -> str:
    return f"{case.meta['peer']}/{case.meta['class'].rpartition('.')[2]}"


def outputs_of(case: Case, mistake: str = "") -> Outputs:
    given = Given(case.meta["config"], case.meta["call"], {**case.params, **case.state}, case.inputs, mistake)
    made = MODELS[key(case)](given)
    return {name: made[name] for name in case.outputs}


def cost(case: Case, made: Outputs) -> float:
    """The largest error, in parts of the largest number, or of 1."""
    return max(float(np.abs(made[n] - a).max() / max(np.abs(a).max(), 1)) for n, a in case.outputs.items())


@pytest.mark.parametrize("name", [label(path) for path in FILES if path.parent.name in PEERS])
def test_what_is_restated_is_right_without_a_mistake(name: str) -> None:
    """So that nothing but the mistake differs; 1e-12 is rounding of float64 over the steps of a model."""
    if (case := restated(name)) is None:
        pytest.skip("not restated")
    assert cost(case, outputs_of(case)) < 1e-12


@pytest.mark.parametrize("trap", TRAPS, ids=lambda trap: f"{trap.case}: {trap.mistake}")
def test_a_mistake_costs_what_is_stated(trap: Trap) -> None:
    case = restated(trap.case)
    assert case is not None
    assert float(f"{cost(case, outputs_of(case, trap.mistake)):.2g}") == trap.cost


def named(trap: Trap) -> None:
    """The first cause is among those of the trap, in words, and leaves nothing."""
    case = restated(trap.case)
    assert case is not None
    found = diagnose(replace(case, outputs=outputs_of(case, trap.mistake)))
    assert found.verdict == "deviation"
    assert len(found.causes) == 1
    assert found.causes[0] in trap.causes, found.explanation
    assert found.explanation[0].variant
    assert found.explanation[0].remaining < 1e-6


QUICK = {trap.causes[0]: trap for trap in reversed(TRAPS) if not trap.case.startswith(SLOW)}.values()


@pytest.mark.parametrize("trap", QUICK, ids=lambda trap: f"{trap.case}: {trap.mistake}")
def test_a_mistake_of_each_cause_is_named(trap: Trap) -> None:
    named(trap)


@pytest.mark.heavy
@pytest.mark.parametrize("trap", TRAPS, ids=lambda trap: f"{trap.case}: {trap.mistake}")
def test_every_mistake_is_named(trap: Trap) -> None:
    named(trap)


def test_the_causes_are_in_the_table() -> None:
    assert {cause for trap in TRAPS for cause in trap.causes} <= set(CAUSES)
