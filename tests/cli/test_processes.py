"""The command as the shell runs it: exit codes, pipes that close, and what importing costs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cli.command import execute
from porting.cases import case_of, path_of

from perceiver_ref.porting.cases import write_case

posix = pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell")
COMMAND = f"{sys.executable} -m perceiver_ref"


def test_exit_codes_reach_the_shell(tmp_path: Path) -> None:
    case = case_of("hf/model_bare")
    case.outputs["last_hidden_state"][0, 0, 0] += 1
    write_case(tmp_path / "faulty.npz", case)
    good = path_of("hf/model_bare")
    assert [execute("check", path).code for path in (good, tmp_path / "faulty.npz", tmp_path / "none")] == [0, 1, 2]


@posix
@pytest.mark.parametrize("reader", ["head -1", "true", "head -c 1"])
def test_a_reader_that_has_seen_enough_is_no_error(reader: str) -> None:
    pipe = f"{COMMAND} check | {reader} > /dev/null; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", pipe], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


@posix
def test_the_first_line_is_the_header() -> None:
    done = subprocess.run(f"{COMMAND} check | head -1", shell=True, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["case", "result", "outputs", "gradients", "NMSE"]


@posix
def test_output_that_cannot_be_written_is_one_line() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "perceiver_ref", "info"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.splitlines()[0].startswith("perceiver-ref info: error: No space left on device")
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A right and a wrong case."""
    folder = tmp_path_factory.mktemp("cases")
    case = case_of("idefics/gated_xattn_float")
    write_case(folder / "good.npz", case)
    next(iter(case.outputs.values()))[...] *= 2
    write_case(folder / "bad.npz", case)
    return folder


COMMANDS = {
    "check bad.npz": 1,
    "check good.npz": 0,
    "check none.npz": 2,
    "compare good.npz bad.npz": 1,
    "explain flamingo/resampler-3b": 0,
    "export flamingo/resampler-3b --out NEW --cases plain": 0,
    "info": 0,
    "train": 0,
    "train none": 2,
}
"""A command, and how it ends whoever listens."""


@posix
@pytest.mark.parametrize(
    ("command", "stream"),
    [*((command, "| true") for command in COMMANDS), *(("check bad.npz", s) for s in (">&-", ">&- 2>&-", "<&- 2>&-"))],
)
def test_who_listens_changes_no_answer(folder: Path, tmp_path: Path, command: str, stream: str) -> None:
    """A report that was asked for is there, and the exit code is that of what was found."""
    report, answer = tmp_path / "report.json", COMMANDS[command]
    line = command.replace("NEW", str(tmp_path / "new"))
    # the reader is gone before the first byte, as it waits for nothing
    full = f"{COMMAND} {line} --json {report} {stream}; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", full], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == answer, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert report.exists() == (answer < 2 or command.startswith("check"))
    if command.startswith("check") and answer < 2:
        assert json.loads(report.read_text())["failed"] == answer


@posix
@pytest.mark.parametrize("arguments", ["--help", "--version", "check --help", "--nonsense"])
def test_help_goes_into_a_closed_pipe(arguments: str) -> None:
    full = f"{COMMAND} {arguments} | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", full], capture_output=True, text=True, timeout=120)
    assert done.returncode == (2 if arguments == "--nonsense" else 0)
    assert "Exception ignored" not in done.stderr


@posix
def test_a_file_is_not_taken_for_a_closed_stdout(folder: Path, tmp_path: Path) -> None:
    """The first file to be opened would get its number, and whatever writes to that would write into the file."""
    program = "import os, perceiver_ref.cli as cli; cli.main(['info', '--json', 'a.json']); os.write(1, b'x' * 9)"
    full = f'{sys.executable} -c "{program}" >&-'
    subprocess.run(["bash", "-c", full], cwd=tmp_path, timeout=120, check=True)
    assert "x" * 9 not in (tmp_path / "a.json").read_text()


@posix
def test_a_report_may_go_where_stdout_goes(folder: Path) -> None:
    for full in ("check good.npz --json /dev/stdout | cat", "check good.npz --json /dev/stdout > all; cat all"):
        done = subprocess.run(
            ["bash", "-c", f"{COMMAND} {full}"], cwd=folder, capture_output=True, text=True, timeout=120
        )
        table, _, report = done.stdout.partition("{")
        assert "1 passed, 0 failed" in table
        assert json.loads("{" + report)["passed"] == 1


def imported_by(code: str) -> set[str]:
    """The modules that are loaded after running `code` in a process of its own."""
    program = f"{code}\nimport sys; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    return set(done.stdout.split())


HEAVY = {"scipy", "cupy", "safetensors", "matplotlib", "tqdm", "torch"}


@pytest.mark.parametrize(
    "code",
    [
        "import perceiver_ref",
        "import perceiver_ref as pr; pr.preset, pr.presets(), pr.trace, pr.load, pr.autograd, pr.peers, pr.crosscheck",
        "import perceiver_ref.cli",
        "import perceiver_ref as pr; pr.preset('perceiver-io/language').count()",
    ],
)
def test_importing_loads_no_optional_or_slow_package(code: str) -> None:
    assert not imported_by(code) & HEAVY


def test_scipy_is_loaded_only_by_what_needs_erf() -> None:
    program = (
        "import numpy as np\nfrom dataclasses import replace\nfrom perceiver_ref.models.layers import MLP\n"
        "from perceiver_ref.models.conventions import DIALECTS\n"
        "mlp = MLP(2, 1, DIALECTS[{!r}])\nmlp.apply(mlp.init(0), np.ones((1, 2), np.float32))"
    )
    assert "scipy" not in imported_by(program.format("deepmind"))  # the tanh approximation
    assert "scipy" in imported_by(program.format("hf"))


def seconds_beyond_numpy() -> float:
    command = [sys.executable, "-X", "importtime", "-c", "import perceiver_ref"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    cumulative = {}
    for line in done.stderr.splitlines():
        _, microseconds, name = line.removeprefix("import time:").split("|")
        if microseconds.strip().isdigit():
            cumulative[name.strip()] = int(microseconds) / 1e6
    return cumulative["perceiver_ref"] - cumulative.get("numpy", 0.0)


def test_importing_costs_a_tenth_of_a_second_at_most() -> None:
    """Beyond NumPy's own import; the best of three, since the machine may be busy."""
    assert min(seconds_beyond_numpy() for _ in range(3)) < 0.1
