"""A peer run in half precision, one of whose features is at 400: its squares overflow in float16, its norms do not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from porting.cases import case_of, path_of

from perceiver_ref.autograd import kernels
from perceiver_ref.cli import main
from perceiver_ref.porting.cases.execution import rebuild, run

CASE = "lucidrains-flamingo/resampler_half"


@pytest.mark.parametrize("mode", ["plain", "fast"])
def test_the_reference_in_float16_is_as_near_to_float64_as_the_peer(backend: str, mode: str) -> None:
    case = case_of(CASE)
    rebuilt, arrays = rebuild(case)
    made = {}
    with kernels(mode):
        for dtype in (np.float16, np.float64):
            ran = run(rebuilt, arrays, case.inputs, {}, cotangents=case.cotangents, dtype=dtype, backend=backend)
            made[dtype] = {**ran.outputs, **ran.grad_params, **ran.grad_inputs}
    for name, exact in made[np.float64].items():
        theirs = {**case.outputs, **case.grad_params, **case.grad_inputs}[name].astype(float)
        scale = max(abs(exact).max(), 1e-3)
        ours_off, theirs_off = (abs(a.astype(float) - exact).max() / scale for a in (made[np.float16][name], theirs))
        # roundings fall differently: as near as the peer but for chance, of three roundings at least
        assert ours_off <= max(2 * theirs_off, 3 * 2.0**-11), name


def test_check_passes_and_diagnose_says_rounding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, told = str(path_of(CASE)), tmp_path / "told.json"
    assert main(["check", path]) == 0
    assert main(["diagnose", path, "--json", str(told)]) == 0
    verdict = json.loads(told.read_text(encoding="utf-8"))
    assert (verdict["verdict"], verdict["dtype"]) == ("rounding", "float16")
    capsys.readouterr()
