"""A run that was stopped, at any moment and however, and gone on with is the run that was never stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from training import small

from perceiver_ref.errors import InputError
from perceiver_ref.training.interrupts import Interrupted
from perceiver_ref.weights.formats.npz import read_npz

CHECKPOINT, PREVIOUS = "checkpoint.npz", "checkpoint.previous.npz"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run without a stop."""
    out = tmp_path_factory.mktemp("whole") / "run"
    small.run(out)
    return out


def stop_at(stage: int, step: int):
    """Ctrl-C while this batch is made."""

    def on_batch(*now: int) -> None:
        if now == (stage, step):
            os.kill(os.getpid(), signal.SIGINT)

    return on_batch


def assert_same_run(out: Path, whole: Path) -> None:
    """Every array of the last checkpoint, every line of metrics and the result, but for the time."""
    ours, theirs = read_npz(out / CHECKPOINT), read_npz(whole / CHECKPOINT)
    metas = [json.loads(str(arrays.pop("meta"))) for arrays in (ours, theirs)]
    assert [meta.pop("seconds") > 0 for meta in metas] == [True, True]
    assert metas[0] == metas[1]
    assert set(ours) == set(theirs)
    for name, array in ours.items():
        assert array.dtype == theirs[name].dtype, name
        assert array.tobytes() == theirs[name].tobytes(), name
    assert (out / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    results = [json.loads((folder / "result.json").read_text()) for folder in (out, whole)]
    assert [result.pop("seconds") >= 0 for result in results] == [True, True]  # to a tenth: 0 on a fast machine
    assert results[0] == results[1]
    assert names(out) == names(whole)


def names(folder: Path) -> set[str]:
    """The files of a run."""
    return {path.name for path in folder.iterdir()}


def test_a_run_without_a_stop(whole: Path) -> None:
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == small.LOGGED
    assert [line["step"] for line in lines if "evaluation" in line] == [10, 20, 35, 45]
    assert {line["stage"] for line in lines} == {"first", "second"}
    result = json.loads((whole / "result.json").read_text())
    assert (result["recipe"], result["metric"], result["seed"], result["steps"]) == ("small", "error", 0, small.STEPS)
    assert result["value"] == lines[-1]["evaluation"]["error"]
    assert result["files"][-1] == "sample.txt"
    assert result["parameters"] == 6 * 4 + 4 * 4 + 4
    arrays = read_npz(whole / CHECKPOINT)
    assert json.loads(str(arrays["meta"]))["position"] == {"stage": 1, "step": 25, "data": 25, "random": [0, 1, 25]}
    assert not any("map" in name for name in arrays if name.startswith("optimizer/"))  # frozen by then


def test_killed_at_random_moments(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    rng = np.random.default_rng()
    command = [sys.executable, "-W", "error", small.__file__, str(out), "--resume", "--pause"]
    kills = 0
    for _ in range(4):
        child = subprocess.Popen([*command, "0.02"], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        before = _written(out)
        while _written(out) == before and child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)  # until it has written something: imports take longer than the steps
        time.sleep(rng.uniform(0, 0.25))
        child.kill()
        kills += child.wait() == -signal.SIGKILL
    assert kills >= 2  # at least these came before the end
    done = subprocess.run([*command, "0"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert_same_run(out, whole)


def _written(out: Path) -> object:
    try:
        return (out / "metrics.jsonl").stat().st_mtime_ns
    except OSError:
        return None


@pytest.mark.parametrize(("stage", "step"), [(0, 0), (0, 7), (0, 8), (0, 19), (1, 0), (1, 13), (1, 24)])
def test_ctrl_c_finishes_the_step_saves_and_says_how_to_go_on(
    whole: Path, tmp_path: Path, stage: int, step: int
) -> None:
    out, done = tmp_path / "run", 20 * stage + step + 1
    with pytest.raises(Interrupted, match=f"after step {done}, which is saved; go on with: .*train small .*--resume"):
        small.run(out, on_batch=stop_at(stage, step))
    assert json.loads(str(read_npz(out / CHECKPOINT)["meta"]))["position"]["step"] == step + 1
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    small.run(out, resume=True)
    assert names(out) <= names(whole)
    (out / PREVIOUS).touch()  # a run that stopped in its last step saves no second time
    assert_same_run(out, whole)


def test_a_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    def twice(stage: int, step: int) -> None:
        if step == 6:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt) as stopped:
        small.run(tmp_path, on_batch=twice)
    assert not isinstance(stopped.value, Interrupted)
    assert json.loads(str(read_npz(tmp_path / CHECKPOINT)["meta"]))["position"]["step"] == 4


def test_without_a_folder_nothing_is_saved() -> None:
    with pytest.raises(Interrupted, match="after step 3; nothing is saved without --out"):
        small.run(on_batch=stop_at(0, 2))


def test_resuming_in_a_folder_without_a_checkpoint_begins(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 7.0}\n{"ste')  # of a run killed before its first save
    small.run(tmp_path, resume=True)
    assert_same_run(tmp_path, whole)


def test_resuming_a_complete_run_gives_its_result_again(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    small.run(out)
    (out / "result.json").unlink()
    small.run(out, resume=True)
    assert_same_run(out, whole)


def test_a_folder_with_a_run_needs_resume(tmp_path: Path) -> None:
    small.run(tmp_path)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    with pytest.raises(InputError, match=f"{tmp_path} holds a run; go on with --resume, or choose another folder"):
        small.run(tmp_path)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_other_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        small.run(tmp_path, on_batch=stop_at(0, 5))
    with pytest.raises(InputError, match=r"is of another run: seed was 0, now 1; go on with the same settings"):
        small.run(tmp_path, resume=True, seed=1)
    with pytest.raises(InputError, match=r"stages/first/learning_rate was 0\.05, now 0\.1"):
        small.run(tmp_path, resume=True, first=replace(small.FIRST, learning_rate=0.1))


def test_a_broken_checkpoint_leaves_the_one_before(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        small.run(tmp_path, on_batch=stop_at(1, 13))
    newest = tmp_path / CHECKPOINT
    newest.write_bytes(newest.read_bytes()[:1000])
    small.run(tmp_path, resume=True)
    assert_same_run(tmp_path, whole)


def test_no_checkpoint_that_can_be_read_is_refused(tmp_path: Path) -> None:
    for name in (CHECKPOINT, PREVIOUS):
        (tmp_path / name).write_bytes(b"PK")
    with pytest.raises(InputError, match=r"no checkpoint can be read: .*npz.*; choose another folder to start anew"):
        small.run(tmp_path, resume=True)
    (tmp_path / PREVIOUS).unlink()
    np.savez(tmp_path / CHECKPOINT, weights=np.zeros(3))
    with pytest.raises(InputError, match="is no checkpoint of a training run"):
        small.run(tmp_path, resume=True)


def test_what_a_killed_process_left_is_removed(whole: Path, tmp_path: Path) -> None:
    (tmp_path / ".checkpoint.new.npz.abcd").write_bytes(b"half")
    (tmp_path / "checkpoint.new.npz").write_bytes(b"whole, but not renamed")
    small.run(tmp_path, resume=True)
    assert_same_run(tmp_path, whole)
