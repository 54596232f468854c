"""Running a case of a peer on other inputs and options."""

from __future__ import annotations

from typing import Any

import numpy as np
from porting.cases import case_of

from perceiver_ref.peers import Given, Rebuilt, peer
from perceiver_ref.porting import Run, run
from perceiver_ref.porting.cases import Case


def rebuilt(case: Case, **config: Any) -> Rebuilt:
    given = Given({**case.meta["config"], **config})
    return peer(case.meta["peer"]).rebuild(case.meta["class"], given)


def ran(case: Case, backend: str = "numpy", call: dict[str, Any] | None = None, **changed: Any) -> Run:
    """The case on other inputs (None: left out), with every trace point."""
    inputs = {name: array for name, array in {**case.inputs, **changed}.items() if array is not None}
    options = case.meta["call"] if call is None else call
    return run(rebuilt(case), case.params, inputs, options, points=lambda name: True, backend=backend)


def out(case: Case, backend: str = "numpy", call: dict[str, Any] | None = None, **changed: Any) -> np.ndarray:
    return ran(case, backend, call, **changed).outputs["out"]


Refused = tuple[str, dict[str, Any], dict[str, Any] | None, dict[str, Any], str]
"""A case's name, what is changed of its configuration, call (None: nothing) and inputs, and what is said of it."""


def changed(row: Refused) -> np.ndarray:
    """The case of a row with its changes."""
    name, config, call, inputs, _ = row
    case = case_of(name)
    rebuilt(case, **config)
    return out(case, call=call, **inputs)
