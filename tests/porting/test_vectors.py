"""Every case file that is shipped or tested on passes: outputs, gradients and traces of the other implementations."""

from __future__ import annotations

from pathlib import Path

import pytest
from porting.cases import FILES, PACKAGED, label

from perceiver_ref.autograd import kernels
from perceiver_ref.porting import check_file
from perceiver_ref.porting.cases import TOLERANCES, read_case

every_file = pytest.mark.parametrize("path", FILES, ids=label)
FLOAT32_ALLOWANCE = {
    "image_fourier": 4.0,  # sin(pi 112 x) in float32: the angle of 350 alone is rounded by up to 2e-5
    "model_large_inputs": 2.0,  # inputs reach 1e4; rounding them, and nothing else, moves a traced value by 4e-6
}
"""How many times the tolerance a case's error may be in float32, where it is more than once."""


def is_model(path: Path) -> bool:
    """Whole models: single functions are tried at arguments that float32 cannot hold, such as angles of 10,000."""
    return "encoder" in " ".join(read_case(path).trace)


def test_there_are_cases_to_check() -> None:
    assert len(FILES) >= 21
    assert len([path for path in FILES if PACKAGED in path.parents]) >= 10


@every_file
def test_the_case_passes(backend: str, path: Path) -> None:
    passes(path, backend)


@pytest.mark.parametrize("path", [path for path in FILES if PACKAGED in path.parents], ids=label)
def test_the_case_passes_by_the_plain_definitions(backend: str, path: Path) -> None:
    with kernels("plain"):
        passes(path, backend)


def passes(path: Path, backend: str) -> None:
    result = check_file(path, backend=backend)
    failed = [a for a in result.agreements if not a.passed]
    assert (result.status, result.message, failed) == ("pass", "", [])


@every_file
def test_everything_in_the_file_is_compared(backend: str, path: Path) -> None:
    case = read_case(path)
    compared = [(a.kind, a.name) for a in check_file(path, backend=backend).agreements]
    expected = [("output", name) for name in case.outputs] + [("trace", name) for name in case.trace]
    expected += [("state", name) for name in case.state_out]
    if case.meta.get("compare_gradients", True):
        expected += [("grad_param", name) for name in case.grad_params]
        expected += [("grad_input", name) for name in case.grad_inputs]
    assert sorted(compared) == sorted(expected)


@pytest.mark.parametrize("path", [path for path in FILES if is_model(path)], ids=label)
def test_a_model_passes_in_float32(backend: str, path: Path) -> None:
    result = check_file(path, backend=backend, dtype="float32")
    assert result.status in ("pass", "fail"), result.message
    allowed = FLOAT32_ALLOWANCE.get(path.stem, 1.0)
    beyond = [a for a in result.agreements if a.error > allowed * a.tolerance]
    assert beyond == []
    usual = TOLERANCES["float32"]
    assert all(a.tolerance <= usual["gradient" if a.kind.startswith("grad") else "output"] for a in result.agreements)
    assert {a.tolerance for a in result.agreements if not a.kind.startswith("grad")} == {usual["output"]}
    # computed in float32 indeed: float64 would agree to 1e-12
    assert max(a.error for a in result.agreements) > 1e-9
