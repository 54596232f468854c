"""Every module of transformers' Perceiver under a hook, in every class of the vectors: known, and the same value.

The relatives of Flamingo and perceiver-pytorch have theirs in `test_live_flamingo` and `test_live_lucidrains`, the task
classes with random sizes in `test_hf_modalities`. `compare` then finds all of them again under names that mean nothing.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from porting.cases import FILES, label

from perceiver_ref.porting import check_case
from perceiver_ref.porting.cases import Case, read_case
from perceiver_ref.porting.cases.execution import rebuild, run
from perceiver_ref.porting.compare.dumps import as_dump, compare_dumps

pytest.importorskip("torch", reason="needs the extra: perceiver-ref[peers]")
pytest.importorskip("transformers", reason="needs the extra: perceiver-ref[peers]")
from heavy import hf_configurations

pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("ignore")]
FUNCTIONS = (
    "generate_fourier_features",
    "build_linear_positions",
    "space_to_depth",
    "PerceiverFourierPositionEncoding",
)
"""Without modules inside."""


def hooked() -> list[Path]:
    return [
        path
        for path in FILES
        if path.parent.name == "hf" and read_case(path).meta["class"].rpartition(".")[2] not in FUNCTIONS
    ]


def live(path: Path) -> Case:
    case = read_case(path)
    call = dict(case.meta["call"])
    positional = bool(call.pop("positional", False))
    name = case.meta["class"].rpartition(".")[2]
    return hf_configurations.case(name, case.meta["config"], case.inputs, call, seed=1, positional=positional)


@pytest.mark.parametrize("path", hooked(), ids=label)
def test_every_hooked_module_is_known_and_agrees(path: Path) -> None:
    made = live(path)
    result = check_case(made)
    assert result.notes == []
    assert [a for a in result.agreements if not a.passed and not a.kind.startswith("grad")] == []
    assert {a.name for a in result.agreements if a.kind == "trace"} == set(made.trace)


@pytest.mark.parametrize("path", hooked(), ids=label)
def test_hooks_under_other_names_match_our_trace(path: Path) -> None:
    made = live(path)
    rebuilt, arrays = rebuild(made)
    ours = run(rebuilt, arrays, made.inputs, made.meta["call"], points=lambda name: True)
    reference = {f"trace/{n}": a for n, a in ours.trace.items()} | {f"output/{n}": a for n, a in ours.outputs.items()}
    names = list(made.trace)
    np.random.default_rng(0).shuffle(names)
    if not names or not ours.trace:
        pytest.skip("there are no modules inside")
    candidate = {f"hook{i}": made.trace[name] for i, name in enumerate(names)}
    result = compare_dumps(as_dump(reference, "ours"), as_dump(candidate, "theirs"))
    assert result.passed, (result.first, names)
