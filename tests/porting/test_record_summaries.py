"""Statistics and samples of a recording are compared as values are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from porting import cases

import perceiver_ref as pr
from perceiver_ref.porting.cases import Case, read_case, write_case


def test_summaries_are_compared(tmp_path: Path) -> None:
    """A known module's statistics and samples, and the same with one of them wrong."""
    given = pr.vectors.read_case(cases.path_of("hf/model_bare"))
    meta = {key: given.meta[key] for key in ("peer", "class", "config", "call")}
    arrays = {"inputs": given.inputs, "params": given.params, "state": given.state}
    wrong = list(given.trace)[2]
    for samples in (0, 5):
        for add in (0.0, 0.01):
            with pr.record(tmp_path / "case.npz", meta=meta, statistics=True, samples=samples, **arrays) as recording:
                for name, array in given.trace.items():
                    pr.record.point(name, array + add * (name == wrong))
                recording.outputs(**given.outputs)
            result = pr.crosscheck.check_file(tmp_path / "case.npz")
            assert sum(a.kind == "trace" for a in result.agreements) == len(given.trace)
            failed = [a.name for a in result.agreements if not a.passed]
            assert failed == ([f"{wrong} (summary)"] if add else []), result.message
    case = read_case(tmp_path / "case.npz")
    first = next(iter(case.meta["summaries"]))
    spoilt: tuple[Any, ...] = (
        3,
        {},
        {"shape": [2]},
        {"shape": [-1]},
        {**case.meta["summaries"][first], "at": [1 << 40]},
        {"shape": [1 << 50, 1 << 50], "dtype": "float32"},
        {"shape": [1] * 99, "dtype": ["float32"]},
        {**case.meta["summaries"][first], "values": "ab"},
    )
    for bad in spoilt:
        summaries = {**case.meta["summaries"], first: bad}
        write_case(tmp_path / "bad.npz", Case({**case.meta, "summaries": summaries}, **_groups(case)))
        assert pr.crosscheck.check_file(tmp_path / "bad.npz").status != "pass"
    write_case(tmp_path / "bad.npz", Case({**case.meta, "summaries": [1]}, **_groups(case)))
    assert "meta.summaries must be" in pr.crosscheck.check_file(tmp_path / "bad.npz").message


def _groups(case: Case) -> dict[str, Any]:
    return {name: getattr(case, name) for name in ("params", "state", "inputs", "outputs")}
