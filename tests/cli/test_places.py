"""Where commands write: into devices and pipes, through links, and never over what they read."""

from __future__ import annotations

import argparse
import json
import os
import re
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cli.command import invoke
from porting.cases import case_of

from perceiver_ref.cli.main import _parser
from perceiver_ref.cli.places import PLACES
from perceiver_ref.cli.table import COMMANDS
from perceiver_ref.errors import InputError
from perceiver_ref.host.files import check_apart, check_writable, write_json, write_text, write_whole
from perceiver_ref.porting.cases import write_case
from perceiver_ref.weights.formats.npz import read_npz, write_npz
from perceiver_ref.weights.formats.safetensors_file import write_safetensors

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX files")
ARRAYS = {"a": np.arange(6.0)}
WRITERS: dict[str, Callable[[Path], None]] = {
    "json": lambda path: write_json(path, {"a": 1}),
    "text": lambda path: write_text(path, "text"),
    "npz": lambda path: write_npz(path, ARRAYS),
    "safetensors": lambda path: write_safetensors(path, ARRAYS),
}


def read_all(path: Path, got: list[bytes]) -> threading.Thread:
    """A reader of a pipe, started."""
    reader = threading.Thread(target=lambda: got.append(path.read_bytes()), daemon=True)
    reader.start()
    return reader


@posix
@pytest.mark.parametrize("writer", WRITERS)
def test_a_pipe_gets_what_a_file_would(tmp_path: Path, writer: str) -> None:
    pipe, file, got = tmp_path / "pipe", tmp_path / "file", []
    os.mkfifo(pipe)
    reader = read_all(pipe, got)
    WRITERS[writer](pipe)
    reader.join(10)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    WRITERS[writer](file)
    if writer == "npz":  # a zip says when it was made
        file.write_bytes(got[0])
        assert np.array_equal(read_npz(file)["a"], ARRAYS["a"])
    else:
        assert got == [file.read_bytes()]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "pipe"]


@posix
def test_a_terminal_is_written_to() -> None:
    ours, theirs = os.openpty()
    try:
        write_json(os.ttyname(theirs), {"a": 1})
        assert json.loads(os.read(ours, 1000)) == {"a": 1}
        assert stat.S_ISCHR(os.stat(os.ttyname(theirs)).st_mode)  # noqa: PTH116
    finally:
        os.close(ours)
        os.close(theirs)


@posix
@pytest.mark.parametrize("writer", WRITERS)
def test_a_device_stays_one(tmp_path: Path, writer: str) -> None:
    device = tmp_path / "null"
    try:
        os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        device.write_bytes(b"")
    except (OSError, AttributeError):
        pytest.skip("only the superuser makes devices, and not everywhere")
    WRITERS[writer](device)
    assert stat.S_ISCHR(device.stat().st_mode)
    assert [path.name for path in tmp_path.iterdir()] == ["null"]


@posix
@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("relative", [True, False])
def test_a_link_is_followed(tmp_path: Path, writer: str, there: bool, relative: bool) -> None:
    link, inner, target = tmp_path / "link", tmp_path / "inner", tmp_path / "folder" / "target"
    target.parent.mkdir()
    if there:
        target.write_text("before")
        target.chmod(0o600)
    inner.symlink_to("folder/target" if relative else target)
    link.symlink_to(inner)
    WRITERS[writer](link)
    assert link.is_symlink()
    assert inner.is_symlink()
    assert target.read_bytes() not in (b"", b"before")
    assert not there or stat.S_IMODE(target.stat().st_mode) == 0o600, "a file that was there keeps its permissions"
    assert [path.name for path in target.parent.iterdir()] == ["target"]


@posix
def test_a_loop_of_links_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    for check in (check_writable, lambda path: write_json(path, {})):
        with pytest.raises(InputError, match=r"cannot write .*a \("):
            check(tmp_path / "a")


@posix
def test_nothing_reaches_a_pipe_when_writing_fails(tmp_path: Path) -> None:
    pipe, got = tmp_path / "pipe", []
    os.mkfifo(pipe)

    def fails(file: object) -> None:
        raise OSError(28, "No space left on device")

    handle = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(OSError, match="No space left"):
            write_whole(pipe, fails)
        assert os.read(handle, 100) == b""
    finally:
        os.close(handle)
    assert got == []


@pytest.fixture
def cases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a right and a wrong case, where the commands run."""
    case = case_of("hf/model_bare")
    write_case(tmp_path / "good.npz", case)
    case.outputs["last_hidden_state"][0, 0, 0] += 1
    write_case(tmp_path / "bad.npz", case)
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@posix
@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "good.npz", "--json"),
        ("compare", "good.npz", "bad.npz", "--json"),
        ("compare", "good.npz", "bad.npz", "--html"),
        ("info", "--json"),
        ("explain", "flamingo/resampler-3b", "--json"),
    ],
)
def test_every_report_may_be_a_pipe(capsys, cases: Path, arguments: tuple[str, ...]) -> None:
    os.mkfifo("pipe")
    got: list[bytes] = []
    reader = read_all(Path("pipe"), got)
    assert invoke(capsys, *arguments, "pipe").code < 2
    reader.join(10)
    assert len(got[0]) > 100
    assert stat.S_ISFIFO(Path("pipe").stat().st_mode)


NAMES: dict[str, Callable[[], object]] = {
    "good.npz": lambda: None,
    "./good.npz": lambda: None,
    "sub/../good.npz": lambda: None,
    "link": lambda: Path("link").symlink_to("good.npz"),
    "sub/link": lambda: Path("sub/link").symlink_to("../good.npz"),
    "hard": lambda: os.link("good.npz", "hard"),
}
"""Names of good.npz, and what makes them."""


@posix
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "bad.npz", "good.npz", "--json"),
        ("check", ".", "--json"),
        ("diagnose", "good.npz", "--json"),
        ("diagnose", "good.npz", "--html"),
        ("diagnose", "good.npz", "--excerpt"),
        ("compare", "bad.npz", "good.npz", "--html"),
        ("run", "--peer", "hf", "--weights", "good.npz", "--inputs", "bad.npz", "--output"),
        ("run", "--peer", "hf", "--weights", "bad.npz", "--inputs", "good.npz", "--output"),
        ("convert", "--peer", "hf", "--weights", "good.npz", "--output"),
        ("convert", "--peer", "hf", "--weights", "sub", "--config", "good.npz", "--output", "x.npz", "--json"),
        ("export", "good.npz", "--out", "new", "--json"),
    ],
)
def test_nothing_is_written_over_what_is_read(capsys, cases: Path, arguments: tuple[str, ...], name: str) -> None:
    NAMES[name]()
    before = Path("good.npz").read_bytes()
    done = invoke(capsys, *arguments, name)
    done.assert_refused("which is read; choose another file")
    assert Path("good.npz").read_bytes() == before
    assert not Path("new").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("compare", "good.npz", "bad.npz", "--html", "a", "--json", "./a"),
        ("diagnose", "bad.npz", "--html", "a", "--excerpt", "sub/../a"),
        ("diagnose", "bad.npz", "--json", "bad.excerpt.npz"),
        ("run", "--peer", "hf", "--weights", "bad.npz", "--inputs", "good.npz", "--output", "a", "--json", "a"),
    ],
)
def test_two_outputs_are_two_files(capsys, cases: Path, arguments: tuple[str, ...]) -> None:
    invoke(capsys, *arguments).assert_refused("are one file")
    assert not Path("a").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("export", "flamingo/resampler-3b", "--out", "sub", "--json", "sub/index.json"),
        ("export", "sub/plain.npz", "--out", "sub", "--force"),
        ("train", "digits", "--quick", "--out", "sub", "--json", "sub/result.json"),
        ("train", "digits", "--quick", "--out", "sub", "--json", "sub/checkpoint.npz"),
    ],
)
def test_a_folder_that_is_written_is_no_place_for_other_files(capsys, cases: Path, arguments: tuple[str, ...]) -> None:
    invoke(capsys, *arguments).assert_refused("choose another place")


def test_devices_may_be_named_twice(tmp_path: Path) -> None:
    check_apart({"--json": os.devnull, "--html": os.devnull}, [os.devnull])
    with pytest.raises(InputError, match="--json and --html are one file"):
        check_apart({"--json": tmp_path / "a", "--html": tmp_path / "a"}, [])


def test_an_excerpt_that_nobody_asked_for_changes_no_verdict(capsys, cases: Path) -> None:
    """The report that was asked for is there, and the exit code is the verdict's."""
    case = case_of("idefics/gated_xattn_float")  # a small one
    next(iter(case.outputs.values()))[...] += 1
    write_case("bad.npz", case)
    Path("bad.excerpt.npz").mkdir()
    done = invoke(capsys, "diagnose", "bad.npz", "--json", "report.json", "--budget", "4")  # nothing is to be found
    assert done.code == 1
    assert json.loads(Path("report.json").read_text())["verdict"] == "unexplained"
    assert "say where with --excerpt" in done.err


def test_every_option_that_names_a_path_is_in_the_table() -> None:
    assert set(PLACES) == {row.name for row in COMMANDS}
    for name, places in PLACES.items():
        parser = _parser([name])
        (commands,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
        named = {
            action.dest
            for action in commands.choices[name]._actions
            if re.search(r"\b(F|FILE|DIR|PATH|CASE|MINE|REFERENCE|CANDIDATE|CONFIG)\b|\.npz", str(action.metavar))
        }
        assert named == {*places.inputs, *places.outputs, *places.folders, "json"}, name
