"""Forward passes at the papers' sizes, with random weights, within stated memory. Each runs in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.heavy

RUNS = {
    # 224 x 224 pixels, one class query
    "perceiver-io/imagenet-fourier": ("normal(1, 224, 224, 3)", "", "(1, 1000)", 2.0),
    # 182,528 inputs and outputs
    "perceiver-io/optical-flow": ("flow_patches(normal(1, 2, 368, 496, 3))", "chunk=16384", "(1, 368, 496, 2)", 4.0),
    # 52,097 inputs and 804,737 outputs
    "perceiver-io/multimodal": (
        "{'image': normal(1, 16, 224, 224, 3), 'audio': normal(1, 30720, 1), 'label': np.zeros((1, 700), np.float32)}",
        "chunk=16384",
        "{'audio': (1, 30720), 'image': (1, 802816, 3), 'label': (1, 700)}",
        6.0,
    ),
}
"""Preset -> inputs, options, shape of the outputs, and the most memory in GiB."""

SCRIPT = """
import sys, time
import numpy as np
import perceiver_ref as pr
from perceiver_ref.models.inputs import flow_patches

def normal(*shape):
    return np.random.default_rng(0).standard_normal(shape, np.float32)

model = pr.preset({name!r})
params, inputs, start = model.init(), {inputs}, time.perf_counter()

def progress(done, total):
    print(f"{{done:,}} of {{total:,}} outputs, {{time.perf_counter() - start:.0f}} s", file=sys.stderr, flush=True)

options = dict({options})
out = model.apply(params, inputs, **(options | ({{"progress": progress}} if options else {{}})))
arrays = out if isinstance(out, dict) else {{"": out}}
assert all(np.isfinite(a).all() for a in arrays.values())
print({{k: v.shape for k, v in out.items()}} if isinstance(out, dict) else out.shape)
seconds = time.perf_counter() - start
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(seconds, peak / 2**20)  # of this program alone: getrusage counts what the process was before it
"""


@pytest.mark.parametrize("name", RUNS)
def test_forward_at_the_papers_size(name: str, tmp_path: object) -> None:
    inputs, options, shape, most = RUNS[name]
    script = SCRIPT.format(name=name, inputs=inputs, options=options)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=3600, cwd=str(tmp_path)
    )
    assert done.returncode == 0, done.stderr
    shapes, figures = done.stdout.splitlines()
    seconds, gib = map(float, figures.split())
    print(f"\n{name}: {seconds:.1f} s, peak {gib:.2f} GiB")
    assert shapes == shape
    assert gib <= most
    if options:
        assert "of " in done.stderr  # progress was shown
