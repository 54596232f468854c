"""Damaged and hostile files for every reader, by the thousand.

    python tests/files/fuzz.py [READER ...] [--cases 20000] [--seed 0]

Each case is a whole file, changed: bits, bytes, numbers and pieces anywhere, or inside a part whose lengths and
checksums are then set right, so that the change gets past them. A reader must give arrays, or one `InputError` of one
line; it may not take long, take memory, write files, import modules, or look up names as unpickling does. What a case
does is determined by reader, seed and number, so that a failure can be run again: `--first N --cases 1`.
"""

from __future__ import annotations

import argparse
import io
import json
import pickle
import signal
import sys
import tempfile
import time
import tracemalloc
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from cli.command import CONFIG, weights
from files import torch_files
from files.damage import VALUES, Random, damaged, within_header, within_legacy, within_pickle, within_zip
from files.dump_damage import DUMPS

from perceiver_ref import InputError
from perceiver_ref.porting.dumps import Printed, read_held
from perceiver_ref.weights.checkpoints import read_checkpoint, read_weights
from perceiver_ref.weights.formats.fit import Fitted
from perceiver_ref.weights.formats.npz import write_npz
from perceiver_ref.weights.formats.own import to_own
from perceiver_ref.weights.formats.read import READERS
from perceiver_ref.weights.formats.safetensors_file import write_safetensors

SECONDS, WAITING, BYTES = 10, 120, 64 << 20  # of computing, and in all: the machine may have other work
FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "pickle.find_class", "shutil.", "socket.")
ARRAYS = {
    "a.weight": np.arange(12.0).reshape(3, 4),
    "a.bias": np.ones(3, np.float32),
    "b.weight": np.arange(6, dtype=np.float16).reshape(2, 3).T,
    "count": np.array(7),
}
SHARD = "model-00001-of-00001.safetensors"
TREE = {"params": {"a/~/b": {"w": np.arange(6.0).reshape(2, 3), "b": np.ones(3, np.float32)}}, "state": {}}


def _pickled(name: str, content: bytes, rng: Random) -> bytes:
    return within_pickle(content, rng) if name.endswith(".pkl") and rng.random() < 0.8 else damaged(content, rng)


def _npz() -> bytes:
    file = io.BytesIO()
    np.savez_compressed(
        file, **{f"param/{name}": array for name, array in ARRAYS.items()}, meta=np.array('{"peer": 1}')
    )
    return file.getvalue()


def _safetensors() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        write_safetensors(Path(folder) / "x.safetensors", ARRAYS)
        return (Path(folder) / "x.safetensors").read_bytes()


def _nested(made: Any) -> Any:
    return {"state_dict": torch_files.ordered(made), "epoch": 3, "optimizer_states": [{"state": {0: {"step": 1}}}]}


def _own() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        write_npz(Path(folder) / "x.npz", weights(CONFIG))
        checkpoint = read_checkpoint("hf", Path(folder) / "x.npz", config=CONFIG)
        fitted = Fitted(
            checkpoint.rebuilt,
            {**checkpoint.arrays, "num_batches_tracked": np.array(3)},
            {"tied": next(iter(checkpoint.arrays))},
        )
        write_npz(Path(folder) / "y.npz", to_own(fitted, "hf", checkpoint.cls, CONFIG, "here"))
        return (Path(folder) / "y.npz").read_bytes()


def _within_own(data: bytes, rng: Random) -> bytes:
    """Our checkpoint with another value anywhere in its meta."""

    def change(name: str, content: bytes, rng: Random) -> bytes:
        if name != "meta.npy":
            return damaged(content, rng)
        meta = json.loads(str(np.load(io.BytesIO(content))))
        if rng.random() < 0.5:
            part = rng.choice([meta, meta["config"], meta["shapes"], meta["tied"]])
            part[rng.choice([*part, "x"])] = rng.choice([*VALUES, {"x": [1, 2]}, list(meta), "meta"])
        else:
            shape = meta["shapes"][rng.choice(list(meta["shapes"]))]
            shape[:] = rng.choice([[], [1 << 62, 4], [0], [-1], [2] * 70, shape[::-1], [*shape, 1], shape[1:]])
        file = io.BytesIO()
        np.save(file, np.array(json.dumps(meta)))
        return file.getvalue()

    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = archive.namelist()
    if rng.random() < 0.3:
        return within_zip(data, rng, change)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in names}
    members["meta.npy"] = change("meta.npy", members["meta.npy"], rng)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def _index() -> bytes:
    return json.dumps({"metadata": {}, "weight_map": dict.fromkeys(ARRAYS, SHARD)}).encode()


def _within_index(data: bytes, rng: Random) -> bytes:
    index = json.loads(data)
    value = rng.choice(
        [*VALUES, "../secret.safetensors", "/etc/passwd", ".", "..", "", "x", SHARD, "\0", "a\nb", "weights.json"]
    )
    if rng.random() < 0.3:
        index["weight_map"] = value
    else:
        index["weight_map"][rng.choice([*ARRAYS, "x", "\n"])] = value
    return json.dumps(index).encode()


def _read_index(path: Path) -> Any:
    """A directory of an index and one shard."""
    return read_weights(path.parent)


def _without_the_package(path: Path) -> Any:
    with mock.patch.dict(sys.modules, {"safetensors": None}):
        return read_weights(path)


def _load_own(path: Path) -> Any:
    checkpoint = read_checkpoint(None, path)
    checkpoint.rebuilt.load(checkpoint.arrays, path)
    return checkpoint.arrays


def _read_dump(path: Path) -> Any:
    """A dump that is a file, or the folder of which it is the index."""
    held = read_held(path.parent if path.name in ("index.json", "meta.json") else path)
    return {name: a.values if isinstance(a, Printed) else a for name, a in held.arrays.items()}


KINDS: dict[str, tuple[str, Callable[[], bytes], Callable[[bytes, Random], bytes]]] = {
    "npz": (".npz", _npz, lambda data, rng: within_zip(data, rng, lambda _, content, rng: damaged(content, rng))),
    "safetensors": (".safetensors", _safetensors, within_header),
    "pytorch": (".pt", lambda: torch_files.save(ARRAYS), lambda data, rng: within_zip(data, rng, _pickled)),
    "lightning": (
        ".ckpt",
        lambda: torch_files.save(ARRAYS, _nested),
        lambda data, rng: within_zip(data, rng, _pickled),
    ),
    "pytorch-legacy": (".bin", lambda: torch_files.save(ARRAYS, old=True), within_legacy),
    "haiku-2": (".pystate", lambda: pickle.dumps(TREE, protocol=2), within_pickle),
    "haiku-4": (".pkl", lambda: pickle.dumps(TREE, protocol=4), within_pickle),
    "haiku-5": (".pickle", lambda: pickle.dumps(TREE, protocol=5), within_pickle),
    "safetensors-alone": (".safetensors", _safetensors, within_header),
    "own": (".npz", cache(_own), _within_own),
    "index": ("model.safetensors.index.json", _index, _within_index),
    "gguf": DUMPS["dump-gguf"][:3],
    **{kind: row[:3] for kind, row in DUMPS.items()},
}
"""By name: the ending of the file or its name, a whole one, and changes that know its structure."""
READ = {
    "own": _load_own,
    "index": _read_index,
    "safetensors-alone": _without_the_package,
    **dict.fromkeys(DUMPS, _read_dump),
}
assert {ending for kind, (ending, _, _) in KINDS.items() if kind not in {*DUMPS, "index"}} | {".pth"} == set(READERS)


def case(kind: str, seed: int, number: int) -> bytes:
    """One file."""
    rng = Random(f"{kind} {seed} {number}")
    _, whole, within = KINDS[kind]
    data = within(whole(), rng) if rng.random() < 0.7 else damaged(whole(), rng)
    return damaged(data, rng) if rng.random() < 0.05 else data


class Watch:
    """What Python reports of itself while a reader works: anything that weights never need is kept."""

    def __init__(self) -> None:
        self.active, self.seen = False, []
        sys.addaudithook(self._event)

    def _event(self, event: str, arguments: Any) -> None:
        if self.active and (event.startswith(FORBIDDEN) or (event == "open" and "w" in str(arguments[1]))):
            self.seen.append(f"{event} {arguments}")


WATCH = Watch()


class LateError(BaseException):
    """Out of time; no `Exception`, so that no reader takes it for damage."""


@contextmanager
def limited(traced: bool) -> Iterator[None]:
    """`AssertionError` for taking more than `BYTES` or doing what only running a file can, `LateError` for `SECONDS`.

    Memory is what Python and NumPy allocate (`traced`, slow), or by how much the process' largest size grows.
    """

    def late(*_: Any) -> None:
        raise LateError(f"takes more than {SECONDS} s, or {WAITING} s of waiting")

    timers = ((signal.SIGPROF, signal.ITIMER_PROF, SECONDS), (signal.SIGALRM, signal.ITIMER_REAL, WAITING))
    previous = [signal.signal(number, late) for number, _, _ in timers]
    for _, timer, seconds in timers:
        signal.setitimer(timer, seconds)
    WATCH.seen.clear()
    before = 0 if traced else _largest()
    if traced:
        tracemalloc.start()
    WATCH.active = True
    try:
        yield
    finally:
        WATCH.active = False
        peak = tracemalloc.get_traced_memory()[1] if traced else _largest()
        tracemalloc.stop()
        for (number, timer, _), handler in zip(timers, previous):
            signal.setitimer(timer, 0)
            signal.signal(number, handler)
    assert peak - before < BYTES, f"takes {peak - before:,} bytes"
    assert not WATCH.seen, WATCH.seen


def _largest() -> int:
    """The largest size that the process has had, in bytes."""
    import resource  # POSIX only

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def run(kind: str, data: bytes, folder: Path, traced: bool = True) -> str:
    """What the reader makes of a file: "read" or the error's kind; `AssertionError` for anything that may not be."""
    name = KINDS[kind][0]
    path = folder / (name if not name.startswith(".") else f"weights{name}")
    path.write_bytes(data)
    for beside, content in DUMPS[kind][3].items() if kind in DUMPS else ():
        (folder / beside).write_bytes(content)
    if kind == "index" and not (folder / SHARD).exists():
        write_safetensors(folder / SHARD, ARRAYS)
    with limited(traced):
        try:
            arrays = READ.get(kind, read_weights)(path)
        except InputError as error:
            text = str(error)
            assert text.isprintable(), repr(text)
            assert len(text) < 3000, text
            assert str(folder) in text or kind == "own", text
            return "refused" if "is refused" in text else "not readable" if "not a readable" in text else "other error"
    for name, array in arrays.items():
        assert isinstance(name, str)
        assert isinstance(array, np.ndarray)
        assert array.dtype.kind in "biufU"
    return "read"


def fuzz(kind: str, cases: int, seed: int = 0, first: int = 0, traced: bool = True) -> Counter[str]:
    """How many cases had which end."""
    ends: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(first, first + cases):
            try:
                ends[run(kind, case(kind, seed, number), Path(folder), traced)] += 1
            except (Exception, LateError) as error:
                raise AssertionError(f"{kind}, seed {seed}, case {number}: {type(error).__name__}: {error}") from error
    return ends


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("readers", nargs="*", metavar="READER", help=f"of {', '.join(KINDS)} (default: all)")
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    options = parser.parse_args()
    for kind in options.readers or KINDS:
        start = time.monotonic()
        ends = fuzz(kind, options.cases, options.seed, options.first, traced=False)
        counts = ", ".join(f"{count:,} {end}" for end, count in sorted(ends.items()))
        print(f"{kind}: {options.cases:,} cases in {time.monotonic() - start:.0f} s: {counts}", flush=True)


if __name__ == "__main__":
    main()
