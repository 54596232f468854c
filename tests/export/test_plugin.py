"""The pytest plugin: one test a case, skips with reasons, clear errors, and no cost when it is not used."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from export.exported import subject_of
from files import dump_writers

from perceiver_ref.porting.cases import read_case
from perceiver_ref.porting.export.adversarial import rows
from perceiver_ref.porting.export.make import ExportOptions, make
from perceiver_ref.porting.export.write import arrays_of, write_folder

pytest_plugins = ["pytester"]
PLUGIN = ("-p", "perceiver_ref.pytest_plugin", "-p", "no:cacheprovider")
ADAPTER = """
import numpy as np

def right(case):
    return {"outputs": case.outputs, "gradients": {**case.grad_params, **case.grad_inputs}, "trace": case.trace}

def outputs(case):
    return case.outputs

def wrong(case):
    if "batch" in case.meta["flags"]:
        return {name: array + 1 for name, array in case.outputs.items()}
    return case.outputs

def wrong_gradients(case):
    return {"outputs": case.outputs, "gradients": {name: 2 * array for name, array in case.grad_params.items()}}

def none(case):
    return NotImplemented, "no language"

def bare(case):
    return NotImplemented

def raises(case):
    raise NotImplementedError("not yet")

def nothing(case):
    pass

def fails(case):
    return 1 / 0

def rounded(case):
    return {name: array.astype(np.float32) for name, array in case.outputs.items()}

number = 3
"""


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    subject = subject_of("perceiver-io/language")
    made = tmp_path_factory.mktemp("plugin") / "pack"
    chosen = rows(subject, ["plain", "batch-1", "padding"])
    write_folder(made, (make(subject, row, ExportOptions()) for row in chosen))
    return made


@pytest.fixture
def run(pytester: pytest.Pytester, pack: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makepyfile(adapter_under_test=ADAPTER)

    def run(function: str, *arguments: str, vectors: Path = pack) -> pytest.RunResult:
        options = ("--perceiver-vectors", str(vectors), "--perceiver-adapter", function)
        return pytester.runpytest_inprocess(*PLUGIN, *options, *arguments)

    return run


@pytest.mark.parametrize("function", ["right", "outputs"])
def test_a_right_port_passes_one_test_a_case(run, function: str) -> None:
    result = run(f"adapter_under_test:{function}", "-v")
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["*perceiver-io/language/padding PASSED*"])


def test_a_wrong_case_fails_alone_and_without_a_traceback(run) -> None:
    result = run("adapter_under_test:wrong")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["outputs of perceiver-io/language/batch-1: 1 of 1 arrays do not match*"])
    result.stdout.no_fnmatch_line("*assert_matches(*")


def test_wrong_and_missing_gradients_fail(run) -> None:
    result = run("adapter_under_test:wrong_gradients")
    result.assert_outcomes(failed=3)
    result.stdout.fnmatch_lines(["*gradients of perceiver-io/language/plain*", "*grad_param/*: error*"])


@pytest.mark.parametrize(
    ("function", "reason"), [("none", "no language"), ("bare", "not implemented"), ("raises", "not yet")]
)
def test_what_a_port_does_not_have_is_skipped_with_the_reason(run, function: str, reason: str) -> None:
    result = run(f"adapter_under_test:{function}", "-rs")
    result.assert_outcomes(skipped=3)
    result.stdout.fnmatch_lines([f"SKIPPED*{reason}*"])


def test_another_type_is_an_error_that_says_what_was_expected(run) -> None:
    result = run("adapter_under_test:nothing")
    result.assert_outcomes(failed=3)
    result.stdout.fnmatch_lines(["the adapter returned NoneType; expected a dict of outputs by name*"])


def test_an_error_of_the_adapter_keeps_its_traceback(run) -> None:
    result = run("adapter_under_test:fails")
    result.assert_outcomes(failed=3)
    result.stdout.fnmatch_lines(["*return 1 / 0*", "*ZeroDivisionError*"])


def test_cases_are_chosen_by_k_and_dtype_sets_the_tolerance(run) -> None:
    run("adapter_under_test:rounded", "-k", "padding").assert_outcomes(failed=1, deselected=2)
    run("adapter_under_test:rounded", "--perceiver-dtype", "float32").assert_outcomes(passed=3)


def test_a_folder_without_an_index_and_a_single_case_will_do(run, pack: Path) -> None:
    run("adapter_under_test:right", vectors=pack / "perceiver-io").assert_outcomes(passed=3)
    run("adapter_under_test:right", vectors=pack / "perceiver-io/language/plain.npz").assert_outcomes(passed=1)


def test_a_pack_of_safetensors_alone(run, pack: Path, tmp_path: Path) -> None:
    """Where somebody has left the `.npz` files out, the index leads to the others."""
    made = tmp_path / "pack"
    subject = subject_of("perceiver-io/language")
    cases = (make(subject, row, ExportOptions()) for row in rows(subject, ["plain", "batch-1"]))
    write_folder(made, cases, safetensors=True)
    for file in made.rglob("*.npz"):
        file.unlink()
    run("adapter_under_test:right", vectors=made).assert_outcomes(passed=2)


def test_cases_of_other_formats(run, pack: Path, tmp_path: Path) -> None:
    """`.safetensors` files, and folders of raw numbers: one test each, by the same names."""
    for name in ("plain", "padding"):
        case = read_case(pack / f"perceiver-io/language/{name}.npz")
        dump_writers.safetensors(tmp_path, arrays_of(case), {"meta": json.dumps(case.meta)}).rename(
            tmp_path / f"{name}.safetensors"
        )
    dump_writers.raw(tmp_path, arrays_of(case), case.meta)
    result = run("adapter_under_test:right", "-v", vectors=tmp_path)
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["*perceiver-vectors::dump PASSED*", "*perceiver-vectors::padding PASSED*"])
    run("adapter_under_test:right", vectors=tmp_path / "dump").assert_outcomes(passed=1)
    run("adapter_under_test:right", vectors=tmp_path / "plain.safetensors").assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("adapter_under_test", "'adapter_under_test' is not MODULE:FUNCTION"),
        ("no_such_module:run", "no_such_module cannot be imported"),
        ("adapter_under_test:run", "adapter_under_test has no function 'run'"),
        ("adapter_under_test:number", "has no function 'number'"),
    ],
)
def test_an_adapter_that_is_not_there_is_a_usage_error(run, function: str, message: str) -> None:
    result = run(function)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*{message}*"])


def test_a_pack_that_is_not_there_or_damaged_is_a_usage_error(run, pytester: pytest.Pytester, tmp_path: Path) -> None:
    empty, damaged, stale = (tmp_path / name for name in ("empty", "damaged", "stale"))
    for folder in (empty, damaged, stale):
        folder.mkdir()
    (damaged / "index.json").write_text("{}")
    (stale / "index.json").write_text('{"cases": [{"id": "a", "file": "a.npz"}]}')
    messages = {
        tmp_path / "none": "is not there; perceiver-ref export --pack",
        empty: "holds neither index.json nor .npz files",
        damaged: "is no index of cases",
        stale: "which does not exist",
    }
    for vectors, message in messages.items():
        result = run("adapter_under_test:right", vectors=vectors)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines([f"*{message}*"])


def test_one_option_needs_the_other(pytester: pytest.Pytester, pack: Path) -> None:
    for options in (("--perceiver-vectors", str(pack)), ("--perceiver-adapter", "a:b")):
        result = pytester.runpytest_inprocess(*PLUGIN, *options)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines(["*go together*"])


def test_without_options_pytest_is_as_ever_and_numpy_is_not_imported(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile("import sys\ndef test_numpy(): assert 'numpy' not in sys.modules")
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.runpytest_subprocess(*PLUGIN).assert_outcomes(passed=1)


def test_importing_the_plugin_imports_nothing_else_of_the_package() -> None:
    own = "[m for m in sys.modules if m.startswith('perceiver_ref')]"
    code = f"import sys, perceiver_ref.pytest_plugin; print(*sorted({own}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["perceiver_ref", "perceiver_ref.pytest_plugin", "perceiver_ref.version"]
