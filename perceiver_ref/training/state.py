"""What a checkpoint of a training run holds, and writing and reading it.

One `.npz`, `checkpoint.npz`; the one before it stays as `checkpoint.previous.npz`, should the newest be unreadable:

| key | what |
| --- | --- |
| `meta` | JSON in a 0-d text array: `format`, `version`, `perceiver_ref`, `configuration`, `position`, `seconds` |
| `param/<path>` | every parameter, trained or not |
| `optimizer/<path>` | the optimizer's state |
| `state/<path>` | running statistics, where there are some |

`best.npz` is the same for the best evaluation so far.

`position` is {stage, step, data, random}: the next batch is number `data` of the stage, the next random key `random`.
Batches and keys are functions of the seed and these numbers, so nothing else has a state of its own.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..autograd import backend as backends
from ..autograd import tree
from ..autograd.backend import Array, to_host
from ..autograd.tree import Tree
from ..errors import InputError, listed, shortened
from ..host import json_text
from ..version import __version__
from ..weights.formats.npz import read_npz, write_npz

FORMAT, VERSION = "perceiver-ref training", 1
BEST = "best.npz"
CHECKPOINT, PREVIOUS, FRESH = "checkpoint.npz", "checkpoint.previous.npz", "checkpoint.new.npz"
_LONGEST = 1e12  # seconds
_WRITTEN = (FRESH, "metrics.jsonl", "result.json")
"""Files that are written aside first, under names that begin with a dot and their own."""


@dataclass
class State:
    """Where a run is: `step` steps of stage number `stage` are done. Parameters by path, on the backend.

    `running` are running statistics, in the structure of `Module.state`.
    """

    stage: int
    step: int
    params: dict[str, Array]
    optimizer: Tree
    seconds: float = 0.0
    running: Tree = field(default_factory=dict)

    def tree(self, structure: Tree) -> Tree:
        """The parameters in the structure of a tree of them."""
        return tree.unflatten_like(structure, [self.params[path] for path, _ in tree.leaves(structure)])

    def all_finite(self) -> bool:
        """Whether no parameter has become infinite or NaN. Waits for a device."""
        return all(bool(backends.xp(p).isfinite(p).all()) for p in self.params.values())


@dataclass
class Saved:
    """A checkpoint as read: parameters, optimizer's state and running statistics by path, as NumPy arrays."""

    path: Path
    meta: dict[str, Any]
    params: dict[str, np.ndarray] = field(default_factory=dict)
    optimizer: dict[str, np.ndarray] = field(default_factory=dict)
    running: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run, in its folder; `configuration` is what a run that goes on must share."""

    folder: Path
    configuration: dict[str, Any]

    def prepare(self) -> None:
        """Remove what a process that was killed has left. `InputError` where nothing can be written: found before the
        work, and for the superuser, too."""
        try:
            (self.folder / FRESH).unlink(missing_ok=True)  # whatever it is, nothing is written into it
            (self.folder / FRESH).write_bytes(b"can this be written?")
            for left in [self.folder / FRESH, *(p for name in _WRITTEN for p in self.folder.glob(f".{name}.*"))]:
                left.unlink()
        except OSError as error:
            raise InputError(f"cannot write to the folder {self.folder} ({error.strerror}); choose another") from None

    def exist(self) -> bool:
        """Whether there is one."""
        return any((self.folder / name).exists() for name in (CHECKPOINT, PREVIOUS))

    def save(self, state: State, random: tuple[int, ...]) -> None:
        """Write a checkpoint aside, flush it and rename it; the last one is kept as the previous one."""
        arrays = self._arrays(state, list(random))
        newest, fresh = self.folder / CHECKPOINT, self.folder / FRESH
        with writing(newest):
            write_npz(fresh, arrays)
            if newest.exists():
                newest.replace(self.folder / PREVIOUS)
            fresh.replace(newest)
            _flush_folder(self.folder)

    def save_best(self, state: State, step: int) -> None:
        """Write those of the best evaluation so far, after `step` steps."""
        with writing(self.folder / BEST):
            write_npz(self.folder / BEST, self._arrays(state, [step]))

    def load_best(self, step: int) -> Saved | None:
        """The best parameters, if they are those after so many steps."""
        path = self.folder / BEST
        if not path.exists():
            return None
        saved = _read(path)
        self._compare(saved.meta["configuration"], path)
        return saved if saved.meta["position"].get("random") == [step] else None

    def _arrays(self, state: State, random: list[int]) -> dict[str, np.ndarray]:
        position = {"stage": state.stage, "step": state.step, "data": state.step, "random": random}
        meta = {
            "format": FORMAT,
            "version": VERSION,
            "perceiver_ref": __version__,
            "configuration": self.configuration,
            "position": position,
            "seconds": state.seconds,
        }
        arrays = {"meta": np.array(json.dumps(meta))}
        groups = {"param": state.params, "optimizer": state.optimizer, "state": state.running}
        return arrays | {f"{name}/{path}": to_host(a) for name, part in groups.items() for path, a in tree.leaves(part)}

    def load(self) -> Saved | None:
        """The newest checkpoint that can be read; None where there is none. A line on stderr tells of a newer one that
        cannot.

        `InputError` when none of those there can be read, or when the run was another: the line says what differs.
        """
        problems = []
        for path in (self.folder / CHECKPOINT, self.folder / PREVIOUS):
            if path.exists():
                try:
                    saved = _read(path)
                except InputError as error:
                    problems.append(str(error))
                    continue
                self._compare(saved.meta["configuration"], path)
                for problem in problems:
                    print(f"note: {problem}; going on from the one before, {path}", file=sys.stderr)
                return saved
        if problems:
            raise InputError(f"no checkpoint can be read: {'; '.join(problems)}; choose another folder to start anew")
        return None

    def _compare(self, theirs: dict[str, Any], path: Path) -> None:
        ours, theirs = (dict(tree.leaves(json.loads(json.dumps(c)))) for c in (self.configuration, theirs))
        wrong = [key for key in {**theirs, **ours} if ours.get(key) != theirs.get(key)]
        if wrong:
            differs = listed((_differs(key, theirs.get(key), ours.get(key)) for key in wrong), 4, "; ")
            raise InputError(
                f"{path} is of another run: {differs}; go on with the same settings, or choose another folder"
            )


def restore(saved: Saved, state: State, backend: str) -> None:
    """Put what was saved into the state of a stage at its start; `InputError` when it does not fit."""
    for ours, theirs in (
        (state.params, saved.params),
        (tree.flatten(state.optimizer), saved.optimizer),
        (tree.flatten(state.running), saved.running),
    ):
        wanted, found = ({key: (a.shape, a.dtype) for key, a in arrays.items()} for arrays in (ours, theirs))
        if wanted != found:
            raise InputError(f"{saved.path} does not fit this release's recipe; start anew in another folder")
    state.params = {path: backends.to_backend(saved.params[path], backend) for path in state.params}
    kept = [saved.optimizer[path] for path, _ in tree.leaves(state.optimizer)]
    placed = [a if a.dtype.kind in "iu" else backends.to_backend(a, backend) for a in kept]  # counts stay on the host
    state.optimizer = tree.unflatten_like(state.optimizer, placed)
    running = [backends.to_backend(saved.running[path], backend) for path, _ in tree.leaves(state.running)]
    state.running = tree.unflatten_like(state.running, running)
    state.step, state.seconds = saved.meta["position"]["step"], saved.meta["seconds"]


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Around writing a run's files: a full disk or a folder that became read-only is one clear line."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"cannot write {path} ({error.strerror or error}); the last checkpoint is kept: make room, then go on with "
            "--resume"
        ) from error


def _differs(key: str, was: Any, now: Any) -> str:
    said = [shortened(value, bare=True) for value in (key, was, now)]
    return f"{said[0]} was {said[1]}, now {said[2]}"


def _read(path: Path) -> Saved:
    arrays = read_npz(path)
    try:
        meta = json_text.parse(str(arrays.pop("meta")))
        known = meta["format"] == FORMAT and all(isinstance(meta[k], dict) for k in ("configuration", "position"))
    except (KeyError, TypeError, ValueError):
        known = False
    if not known:
        raise InputError(f"{path} is no checkpoint of a training run")
    if meta.get("version") != VERSION:
        version = shortened(meta.get("version"))
        raise InputError(f"{path} is a checkpoint of version {version}; this release reads {VERSION}")
    position = meta["position"]
    if wrong := [key for key in ("stage", "step") if type(position.get(key)) is not int or position[key] < 0]:
        raise InputError(f"{path}: meta: position must have {' and '.join(wrong)}, counts of at least 0")
    seconds = meta.get("seconds")
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds < _LONGEST:
        raise InputError(f"{path}: meta: seconds must be the time that the run has taken, got {shortened(seconds)}")
    saved = Saved(path, meta)
    groups = {"param": saved.params, "optimizer": saved.optimizer, "state": saved.running}
    for key, array in arrays.items():
        group, _, name = key.partition("/")
        if group in groups:
            groups[group][name] = array
    return saved


def _flush_folder(folder: Path) -> None:
    """So that the new name outlives a loss of power; where folders cannot be opened, as on Windows, nothing."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
