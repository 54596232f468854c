"""The folder of kernels can be taken away: what is below it imports nothing of it, and computes the same."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in f"{finder!r}"]  # it knows the clone's
import numpy as np
import perceiver_ref as pr
from perceiver_ref.autograd import keep_memory, kernels, ops, recorded, registry, threads, value_and_grad
from perceiver_ref.models.decoder import classification_decoder
from perceiver_ref.models.encoder import Encoder

print(int(any(op.kernels for op in registry.values())))
model = pr.PerceiverIO(Encoder(inputs=8, latents=4, channels=16, self_heads=2), decoder=classification_decoder(16, 3))
params, inputs = model.init(seed=0), np.random.default_rng(0).normal(size=(2, 5, 8)).astype(np.float32)
step = value_and_grad(lambda p: ops.sum(model.apply(p, inputs)))
with threads(1), kernels("fast"):
    loss, gradients = recorded(step)(params)
keep_memory()
print(float(loss), float(gradients["decoder"]["queries"]["table"].sum()))
"""


def run(folder: Path) -> list[float]:
    command = [sys.executable, "-c", PROGRAM, folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 0, done.stderr
    return [float(number) for number in done.stdout.split()]


def test_all_works_without_them(root: Path, tmp_path: Path) -> None:
    for name in ("whole", "without"):
        shutil.copytree(root / "perceiver_ref", tmp_path / name / "perceiver_ref")
        shutil.copytree(root / "autograd", tmp_path / name / "perceiver_ref" / "autograd")
    shutil.rmtree(tmp_path / "without" / "perceiver_ref" / "autograd" / "kernels")
    (there, *with_them), (not_there, *without) = run(tmp_path / "whole"), run(tmp_path / "without")
    assert (there, not_there) == (1, 0)
    for a, b in zip(with_them, without, strict=True):
        assert abs(a - b) < 1e-4 * max(abs(a), 1)  # float32 in another order


def test_nothing_below_imports_them(root: Path) -> None:
    for path in (root / "autograd").rglob("*.py"):
        if "kernels" not in path.relative_to(root).parts and path.name != "__init__.py":
            assert not re.search(r"^\s*(from|import) .*\bkernels\b(?!, *mode)", path.read_text(), re.MULTILINE) or (
                path.name == "modes.py"
            ), path
