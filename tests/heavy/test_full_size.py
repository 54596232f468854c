"""The published configurations at full size, with random weights, through the command line against transformers.

Prints error, time and peak memory of each run (`pytest -m heavy -s`).
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from heavy.peer import float64_throughout, randomise, torch, transformers

from perceiver_ref.weights.formats.npz import read_npz, write_npz

pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("default")]
TOLERANCE = {"float32": 1e-4, "float64": 1e-9}
"""Relative to the largest logit: two orders of summation through 26 or 48 layers, each rounding by 6e-8 or 1e-16 and
passing on what it is given."""


class Published(NamedTuple):
    """A saved checkpoint, the inputs in a file, and transformers' logits by dtype."""

    folder: Path
    inputs: Path
    logits: dict[str, np.ndarray]
    parameters: int


def language(folder: Path) -> Published:
    """deepmind/language-perceiver: 2048 byte tokens, of which the last 500 are padding."""
    config = transformers.PerceiverConfig(qk_channels=256, v_channels=1280)
    model = transformers.PerceiverForMaskedLM(config).eval()
    rng = np.random.default_rng(0)
    ids = rng.integers(6, 262, (1, 2048))
    mask = (np.arange(2048) < 1548)[None].astype(np.int64)
    return save(folder, model, {"inputs": ids, "attention_mask": mask})


def images(folder: Path) -> Published:
    """deepmind/vision-perceiver-fourier: one image of 224 x 224 pixels."""
    config = transformers.PerceiverConfig(
        num_latents=512,
        d_latents=1024,
        d_model=261,
        num_blocks=8,
        num_self_attends_per_block=6,
        num_cross_attention_heads=1,
        num_self_attention_heads=8,
        num_labels=1000,
    )
    model = transformers.PerceiverForImageClassificationFourier(config).eval()
    return save(folder, model, {"inputs": np.random.default_rng(0).standard_normal((1, 3, 224, 224))})


def save(folder: Path, model: Any, inputs: dict[str, np.ndarray]) -> Published:
    randomise(model, seed=0)
    model.save_pretrained(folder)
    write_npz(folder / "inputs.npz", inputs)
    logits = {}
    for dtype in ("float32", "float64"):
        model = model.to(getattr(torch, dtype))
        arguments = {
            name: torch.from_numpy(a).to(model.dtype) if a.dtype.kind == "f" else torch.from_numpy(a)
            for name, a in inputs.items()
        }
        with torch.no_grad(), float64_throughout() if dtype == "float64" else nullcontext():
            logits[dtype] = model(**arguments).logits.numpy()
    return Published(folder, folder / "inputs.npz", logits, sum(p.numel() for p in model.parameters()))


PARAMETERS = {"language": 201_108_230, "images": 48_440_627}


@pytest.fixture(scope="module", params=PARAMETERS)
def published(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Published]:
    folder = tmp_path_factory.mktemp(request.param)
    made = {"language": language, "images": images}[request.param](folder)
    assert made.parameters == PARAMETERS[request.param]
    yield made
    for path in folder.iterdir():  # up to 1.6 GB that nobody needs afterwards
        path.unlink()


def run(arguments: list[object]) -> tuple[float, float]:
    """Run `perceiver-ref` in a process of its own: (seconds, peak memory in GiB)."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "perceiver_ref", *map(str, arguments)])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    unit = 1 if sys.platform == "darwin" else 1024
    return time.perf_counter() - started, usage.ru_maxrss * unit / 2**30


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_logits_are_transformers(published: Published, dtype: str, tmp_path: Path, backend: str) -> None:
    output = tmp_path / "out.npz"
    arguments = ["run", "--peer", "hf", "--weights", published.folder, "--inputs", published.inputs, "--output", output]
    seconds, memory = run([*arguments, "--dtype", dtype, "--backend", backend])
    ours, theirs = read_npz(output)["output/logits"], published.logits[dtype]
    assert ours.shape == theirs.shape
    assert ours.dtype == dtype
    largest = np.abs(theirs).max()
    error = np.abs(ours - theirs).max() / largest
    print(
        f"\n{published.parameters:,} parameters in {dtype}: error {error:.1e} of the largest logit {largest:.1f}, "
        f"deviation {theirs.std():.2f}; {seconds:.1f} s, {memory:.1f} GiB"
    )
    assert theirs.std() > 0.1  # not a comparison of zeros
    assert error <= TOLERANCE[dtype]


def test_the_default_precision_is_the_checkpoints(published: Published, tmp_path: Path, backend: str) -> None:
    output = tmp_path / "out.npz"
    arguments = ["run", "--peer", "hf", "--weights", published.folder, "--inputs", published.inputs, "--output", output]
    run([*arguments, "--backend", backend])
    assert read_npz(output)["output/logits"].dtype == np.float32
