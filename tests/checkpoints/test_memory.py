"""Loading takes hardly more memory than the file has bytes, measured as the largest size of a process that loads."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli.command import CONFIG
from files.torch_files import save

from perceiver_ref.autograd import tree
from perceiver_ref.peers import Given, peer
from perceiver_ref.weights.checkpoints import read_checkpoint
from perceiver_ref.weights.formats.npz import write_npz
from perceiver_ref.weights.formats.own import to_own
from perceiver_ref.weights.formats.safetensors_file import write_safetensors

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
LARGE = {
    **CONFIG,
    "vocab_size": 32_000,
    "d_model": 768,
    "d_latents": 256,
    "v_channels": 256,
    "qk_channels": 256,
}  # 98 MB of embeddings alone
LIMIT = 1.5
LOAD = """
import re, sys
from pathlib import Path
import perceiver_ref as pr
from perceiver_ref.weights.checkpoints import read_weights

def largest():  # not getrusage, which begins with the size of the process that started this one
    return 1024 * int(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1])

def load(path):
    return read_weights(path) if path.endswith(".pystate") else pr.load("hf", path)

load(sys.argv[1])  # imports what there is to import
before = largest()
kept = load(sys.argv[2])
print(largest() - before)
"""


def arrays_of(config: dict[str, Any]) -> dict[str, np.ndarray]:
    """Random float32 weights by transformers' names."""
    rebuilt = peer("hf").rebuild("PerceiverForMaskedLM", Given(config))
    flat = tree.flatten(rebuilt.model.init(0))
    return {b.name: np.ascontiguousarray(b.view(flat[b.path])) for b in rebuilt.bindings}


def own(path: Path, arrays: dict[str, np.ndarray]) -> None:
    write_npz(path, arrays)
    config = json.loads((path.parent / "config.json").read_text())
    checkpoint = read_checkpoint("hf", path, config=config)
    write_npz(path, to_own(checkpoint.fitted, "hf", checkpoint.cls, config, path))


def haiku(path: Path, arrays: dict[str, np.ndarray]) -> None:
    path.write_bytes(pickle.dumps({"module": {n.replace("/", "."): a for n, a in arrays.items()}}, protocol=4))


WRITERS: dict[str, tuple[str, Callable[[Path, dict[str, np.ndarray]], Any]]] = {
    "npz": (".npz", write_npz),
    "own": (".npz", own),
    "safetensors": (".safetensors", write_safetensors),
    "pytorch": (".pt", lambda path, arrays: path.write_bytes(save(arrays))),
    "pytorch-legacy": (".bin", lambda path, arrays: path.write_bytes(save(arrays, old=True))),
    "haiku": (".pystate", haiku),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_memory_of_loading(tmp_path: Path, kind: str, record_property: Callable[[str, object], None]) -> None:
    ending, write = WRITERS[kind]
    paths = []
    for name, config in (("small", CONFIG), ("large", LARGE)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config))
        write(folder / f"weights{ending}", arrays_of(config))
        paths.append(folder / f"weights{ending}")
    done = subprocess.run([sys.executable, "-c", LOAD, *paths], capture_output=True, text=True, timeout=300, check=True)
    ratio = int(done.stdout) / paths[1].stat().st_size
    record_property("memory / file", f"{ratio:.2f}")
    print(f"{kind}: {ratio:.3f} of {paths[1].stat().st_size / 1e6:.0f} MB")
    assert 0.9 < ratio < LIMIT  # below 0.9 nothing was measured
    paths[1].unlink()
