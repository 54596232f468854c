"""What goes wrong outside: one clear line each, and the last good checkpoint stays."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from training import small
from training.test_resuming import CHECKPOINT, assert_same_run

from perceiver_ref.autograd import ops
from perceiver_ref.errors import InputError
from perceiver_ref.training import metrics
from perceiver_ref.weights.formats.npz import read_npz


def position(out: Path) -> int:
    return json.loads(str(read_npz(out / CHECKPOINT)["meta"]))["position"]["step"]


def full_after(monkeypatch: pytest.MonkeyPatch, calls: int) -> None:
    """The disk is full from this flush on."""
    made = iter(range(10**6))
    flush = os.fsync

    def fsync(handle: int) -> None:
        if next(made) >= calls:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(handle)

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("calls", range(4, 12))
def test_a_full_disk_keeps_the_last_checkpoint(monkeypatch, tmp_path: Path, calls: int) -> None:
    whole, out = tmp_path / "whole", tmp_path / "run"
    small.run(whole)
    with monkeypatch.context() as patch:
        full_after(patch, calls)
        with pytest.raises(InputError, match=r"cannot write .*No space left on device\); .* go on with --resume"):
            small.run(out)
    kept = position(out)
    assert kept % 4 == 0
    small.run(out, resume=True)
    assert_same_run(out, whole)


def test_a_full_disk_in_the_middle_of_a_line_of_metrics(monkeypatch, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "run"
    small.run(whole)

    def half(self: metrics.Metrics, line: dict) -> None:
        if line["step"] == 9:
            with metrics.writing(self.path):
                self._file.write('{"step": 9, "lo')
                self._file.flush()
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(self, line)

    write = metrics.Metrics.write
    with monkeypatch.context() as patch:
        patch.setattr(metrics.Metrics, "write", half)
        with pytest.raises(InputError, match=r"metrics\.jsonl \(No space left on device\)"):
            small.run(out)
    small.run(out, resume=True)
    assert_same_run(out, whole)


def test_a_read_only_folder_is_found_before_the_work(monkeypatch, tmp_path: Path) -> None:
    steps = []
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", _refused)  # permissions do not stop the superuser, who may run the tests
        with pytest.raises(InputError, match=r"cannot write to the folder .*run \(Read-only file system\)"):
            small.run(tmp_path / "run", on_batch=lambda *now: steps.append(now))
    assert not steps


def test_a_folder_without_permission(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(mode=0o500)
    if os.access(tmp_path / "run", os.W_OK):
        pytest.skip("permissions do not stop the superuser")
    with pytest.raises(InputError, match=r"cannot write to the folder .*run \(Permission denied\)"):
        small.run(tmp_path / "run")


def test_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write to the folder .*file"):
        small.run(tmp_path / "file")


def _refused(path: Path, data: bytes) -> int:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))


@dataclass(frozen=True)
class Spoiled(small.Fit):
    """The loss of the batches from `first` to `last` has this added to it: (weight) -> 0-d."""

    first = last = 0
    added = staticmethod(lambda weight: weight)

    def batch(self, step):
        made = super().batch(step)
        return {**made, "spoil": np.ones(1)} if self.first <= step <= self.last and not self.second else made

    def loss(self, params, batch, call):
        loss, logged = super().loss(params, batch, call)
        return ops.add(loss, self.added(params["map"]["weight"])) if "spoil" in batch else loss, logged


def spoil(monkeypatch: pytest.MonkeyPatch, first: int, last: int, added: Any) -> None:
    rows = {"first": first, "last": last, "added": staticmethod(added)}
    monkeypatch.setattr(small, "Fit", type("Worse", (Spoiled,), rows))


def test_a_nan_loss_keeps_the_last_good_checkpoint(monkeypatch, tmp_path: Path) -> None:
    spoil(monkeypatch, 10, 99, lambda weight: ops.multiply(ops.sum(weight), np.float32("nan")))
    cause = r"the loss of step 11 is nan; first: multiply\(.*nan.* produced NaN .*; "
    said = rf"{cause}{tmp_path}/checkpoint.npz is the last good"
    with pytest.raises(InputError, match=said):
        small.run(tmp_path)
    assert position(tmp_path) == 8
    assert all(np.isfinite(a).all() for a in read_npz(tmp_path / CHECKPOINT).values() if a.dtype.kind == "f")
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [3, 6, 9, 10]


def test_parameters_that_are_not_finite_are_never_saved(monkeypatch, tmp_path: Path) -> None:
    def zero_of_infinite_slope(weight: Any) -> Any:
        return ops.sum(ops.sqrt(ops.multiply(weight, np.float32(0.0))))

    spoil(monkeypatch, 7, 7, zero_of_infinite_slope)
    with pytest.raises(InputError, match=rf"a parameter is not finite after step 8; {tmp_path}/checkpoint.npz is the"):
        small.run(tmp_path)
    assert position(tmp_path) == 4


def test_without_a_checkpoint_the_message_says_so(monkeypatch, tmp_path: Path) -> None:
    spoil(monkeypatch, 0, 99, lambda weight: ops.multiply(ops.sum(weight), np.float32("nan")))
    with pytest.raises(InputError, match=r"the loss of step 1 is nan; first: multiply.*; nothing was saved"):
        small.run(tmp_path)


def test_a_missed_threshold_is_a_result(tmp_path: Path) -> None:
    result = small.run(tmp_path, threshold=1e-9)
    assert not result["passed"]
    assert json.loads((tmp_path / "result.json").read_text())["passed"] is False
