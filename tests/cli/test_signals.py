"""SIGINT, SIGTERM and SIGHUP: nothing half-written, nothing left behind, 128 and the signal's number."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from cli.command import invoke

from perceiver_ref.host import files
from perceiver_ref.host.files import temporary_file, temporary_folder, write_text
from perceiver_ref.host.signals import NUMBERS, Stopped, held, settle, stopping
from perceiver_ref.porting.cases import Case, read_case
from perceiver_ref.porting.export import write as writing
from perceiver_ref.porting.export.write import write_folder

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
LANGUAGE = "perceiver-io/language"
every_signal = pytest.mark.parametrize("number", NUMBERS, ids=lambda number: signal.Signals(number).name)


def send(number: int) -> None:
    os.kill(os.getpid(), number)


def below(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, hidden ones too."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@every_signal
def test_a_signal_is_an_exception_with_its_number(number: int) -> None:
    before = [signal.getsignal(n) for n in NUMBERS]
    with pytest.raises(Stopped) as stopped, stopping():
        send(number)
    assert stopped.value.number == number
    assert [signal.getsignal(n) for n in NUMBERS] == before


@every_signal
def test_steps_that_belong_together_are_finished_first(number: int) -> None:
    done = []
    with pytest.raises(Stopped), stopping(), held():  # noqa: PT012
        with held():
            send(number)
        send(number)
        done.append(True)
    assert done == [True]


def test_what_is_ignored_stays_so() -> None:
    """As nohup asks for."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopping():
            send(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_once_things_are_put_in_order_no_signal_interrupts() -> None:
    with stopping():
        settle()
        send(signal.SIGTERM)
        with held():
            send(signal.SIGINT)


def test_threads_leave_signals_to_the_main_one() -> None:
    errors: list[BaseException] = []

    def work() -> None:
        try:
            with stopping(), held():
                pass
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert errors == []


@every_signal
@pytest.mark.parametrize("kind", [temporary_file, temporary_folder])
def test_temporaries_are_removed(tmp_path: Path, number: int, kind) -> None:
    seen = []
    with pytest.raises(Stopped), stopping(), kind(tmp_path / "name") as made:  # noqa: PT012
        seen += [made.exists(), made.parent == tmp_path]
        send(number)
    assert seen == [True, True]
    assert list(tmp_path.iterdir()) == []


def test_temporaries_of_a_signal_at_the_worst_moment_are_removed_by_the_command(tmp_path: Path, monkeypatch) -> None:
    """Between the file and the `try` that removes it."""
    opened = os.open

    def signalled(path, *given: int) -> int:
        handle = opened(path, *given)
        send(signal.SIGTERM)
        return handle

    monkeypatch.setattr(os, "open", signalled)
    with pytest.raises(Stopped), stopping(), temporary_file(tmp_path / "name"):
        pytest.fail("the signal was forgotten")
    monkeypatch.undo()
    files.remove_temporaries()
    assert list(tmp_path.iterdir()) == []


@every_signal
@pytest.mark.parametrize("when", ["first case", "last case", "fsync"])
def test_an_export_that_is_stopped_leaves_nothing(capsys, tmp_path: Path, monkeypatch, number: int, when: str) -> None:
    if when == "fsync":
        monkeypatch.setattr(os, "fsync", lambda handle: send(number))
    else:
        calls = []
        write_case = writing.write_case

        def signalled(path: Path, case: Case, *, with_list: bool) -> None:
            calls.append(path)
            if len(calls) == (1 if when == "first case" else 2):
                send(number)
            write_case(path, case, with_list=with_list)

        monkeypatch.setattr(writing, "write_case", signalled)
    done = invoke(capsys, "export", LANGUAGE, "--out", tmp_path / "vectors", "--cases", "plain,padding")
    assert done.code == 128 + number
    assert list(tmp_path.iterdir()) == []
    said = "interrupted" if number == signal.SIGINT else f"stopped by {signal.Signals(number).name}"
    assert done.err == f"perceiver-ref export: error: {said}\n"


@pytest.fixture
def export(tmp_path: Path, capsys) -> tuple[Path, dict[str, bytes]]:
    """A folder with an earlier export and another file, and what is in it."""
    folder = tmp_path / "vectors"
    assert invoke(capsys, "export", LANGUAGE, "--out", folder, "--cases", "plain,padding,single").code == 0
    (folder / "notes.txt").write_text("mine")
    return folder, below(folder)


STEPS = range(6)
"""Three files aside, two into their places, the index."""


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")], ids=["Ctrl-C", "disk"])
def test_a_replaced_export_is_the_old_or_the_new_one(
    tmp_path: Path, export, monkeypatch, step: int, error: BaseException
) -> None:
    """Whatever fails at whichever step: the earlier export is there again, to the bit."""
    folder, before = export
    calls = []

    def failing(rename):
        def moved(self: Path, target: Path):
            calls.append(target)
            if len(calls) == step + 1:
                raise error
            return rename(self, target)

        return moved

    new = [read_case(folder / LANGUAGE / f"{name}.npz") for name in ("plain", "single")]
    with monkeypatch.context() as patch:
        write_case = writing.write_case

        def written(path: Path, case: Case, *, with_list: bool) -> None:
            write_case(path, case, with_list=with_list)
            if path.name == "single.npz":  # the last: what is renamed from now on is the folder's
                patch.setattr(Path, "rename", failing(Path.rename))
                patch.setattr(Path, "replace", failing(Path.replace))

        patch.setattr(writing, "write_case", written)
        with pytest.raises(type(error)):
            write_folder(folder, new, force=True)
    assert len(calls) > step
    assert below(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["vectors"]


@every_signal
@pytest.mark.parametrize("step", STEPS)
def test_a_signal_at_the_end_of_an_export_leaves_the_new_one(
    capsys, tmp_path: Path, export, monkeypatch, number: int, step: int
) -> None:
    folder, before = export
    calls = []
    rename, replace = Path.rename, Path.replace

    def signalled(self: Path, target: Path) -> Path:
        moved = rename(self, target)
        if folder in (Path(target), *Path(target).parents, *self.parents):
            calls.append(target)
            if len(calls) == step + 1:
                send(number)
        return moved

    monkeypatch.setattr(Path, "rename", signalled)
    monkeypatch.setattr(Path, "replace", lambda self, target: replace(self, target))
    done = invoke(capsys, "export", LANGUAGE, "--out", folder, "--cases", "plain,single", "--force", "--seed", "1")
    monkeypatch.undo()
    assert done.code == (128 + number if len(calls) > step else 0)
    after = below(folder)
    assert set(after) == {"index.json", f"{LANGUAGE}/plain.npz", f"{LANGUAGE}/single.npz", "notes.txt"}
    assert after[f"{LANGUAGE}/plain.npz"] != before[f"{LANGUAGE}/plain.npz"]
    assert [path.name for path in tmp_path.iterdir()] == ["vectors"]
    assert invoke(capsys, "check", folder).code == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_process_that_is_stopped_while_it_writes(tmp_path: Path, number: int) -> None:
    """In the middle of a file, as the system sees it."""
    program = (
        "import os, sys, time\n"
        "import perceiver_ref.cli.info as info\n"
        "from perceiver_ref.cli import main\n"
        "from perceiver_ref.host.files import write_whole\n"
        "def write(file):\n"
        "    file.write(b'half'); file.flush(); print('writing', flush=True); time.sleep(60)\n"
        "info.info = lambda given: write_whole('report', write)\n"
        "sys.exit(main(['info']))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "writing\n"
        child.send_signal(number)
        _, errors = child.communicate(timeout=60)
    assert child.returncode == 128 + number
    assert errors == f"perceiver-ref info: error: stopped by {signal.Signals(number).name}\n"
    assert list(tmp_path.iterdir()) == []


def test_a_library_call_is_as_whole_without_handlers(tmp_path: Path, monkeypatch) -> None:
    """Python's own Ctrl-C, outside of the command."""
    monkeypatch.setattr(os, "fsync", lambda handle: send(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        write_text(tmp_path / "text", "a")
    assert list(tmp_path.iterdir()) == []
