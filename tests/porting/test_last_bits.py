"""Diagnoses of large cases do not hang on the last bits of float32: results here are moved as other sums move them.

A large case is run in float32 once, and the reference in float32 again beside it: on the machine that made the case the
two are the same bit by bit, and on a GPU they are not.
"""

from __future__ import annotations

import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from porting.diagnosing import diagnose, on_backend
from porting.test_diagnose import PLANTED, case_of, outputs_of, planted
from porting.test_large_cases import in_float32

from perceiver_ref.autograd import backend as backends
from perceiver_ref.autograd import handlers
from perceiver_ref.porting.cases import Case
from perceiver_ref.porting.cases.execution import rebuild, run
from perceiver_ref.porting.rounding.arithmetic import MOVING, arithmetic
from perceiver_ref.porting.subject import large

pytestmark = on_backend
SEED = 1


def moved(out: Any) -> Any:
    """float32 numbers a unit in the last place up, down or where they were; equal arrays alike, as on one machine."""
    if isinstance(out, (list, tuple)):
        return type(out)(moved(part) for part in out)
    if not backends.is_array(out) or out.dtype != np.float32 or not out.ndim:
        return out
    host = backends.to_host(out)
    rng = np.random.default_rng((SEED, zlib.crc32(np.ascontiguousarray(host).tobytes())))
    units = rng.integers(-1, 2, host.shape).astype(np.float32) * np.finfo(np.float32).eps
    return backends.to_backend(host + host * units, backends.name(out))


@pytest.fixture(autouse=True)
def all_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large, "LARGE", 0)


@pytest.fixture
def other_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every result of an op in float32 is moved."""

    def run(op: Any, arguments: tuple[Any, ...], static: dict[str, Any]) -> Any:
        out = op(*arguments, **static)
        return out if op.name in MOVING else moved(out)

    monkeypatch.setattr(handlers, "always", [*handlers.always, handlers.Handler(run)])


def both(case: Case) -> Case:
    return PLANTED["another activation"][2](PLANTED["padding not left out"][2](case))


@pytest.mark.usefixtures("other_bits")
def test_what_is_as_small_as_rounding_to_tf32_is_named() -> None:
    """Its errors have the size of tf32's, and another direction."""
    cause, name, change = PLANTED["another epsilon"]
    found = diagnose(in_float32(planted(name, change, traced=False)))
    assert (found.verdict, found.causes) == ("deviation", [cause])


@pytest.mark.usefixtures("other_bits")
def test_two_between_two_points_are_both_named() -> None:
    """Without masks the activation, in the same layer, changes a ten-thousandth of what they do."""
    found = diagnose(in_float32(planted("hf/model_mask_holes", both, traced=True)))
    assert (found.verdict, found.causes) == ("deviation", ["mask-ignored", "activation"])
    assert not found.stopped


@pytest.mark.usefixtures("other_bits")
@pytest.mark.parametrize("traced", [False, True], ids=["outputs alone", "with traces"])
def test_rounding_is_no_deviation(traced: bool) -> None:
    found = diagnose(in_float32(outputs_of(case_of("hf/model_mask_holes"), traced=traced)))
    assert found.verdict in ("match", "rounding")
    assert (found.dtype or "float32", found.causes) == ("float32", [])


@pytest.mark.parametrize("dtype", ["tf32", "bfloat16"])
def test_a_format_is_named_by_outputs_alone(dtype: str) -> None:
    """Sums in an order of their own, which a port has."""
    case = replace(case_of("hf/model_mask_holes"), trace={})
    rebuilt, arrays = rebuild(case)
    with arithmetic(dtype, np.random.default_rng(0)):
        made = run(rebuilt, arrays, case.inputs, case.meta["call"], dtype=np.float32)
    found = diagnose(in_float32(replace(case, outputs={n: made.outputs[n] for n in case.outputs})))
    assert (found.verdict, found.dtype, found.causes) == ("rounding", dtype, [])
