"""Import time: a fresh Python that runs one line and ends."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import numpy as np

from .base import Built, MissingError, Spec
from .case import IMPORT

LINES: dict[str, tuple[str, str]] = {
    "ours": ("perceiver_ref", "import perceiver_ref"),
    "ours model": ("perceiver_ref", "import perceiver_ref as pr; pr.preset('perceiver-io/imagenet-fourier')"),
    "python": ("sys", "pass"),
    "torch": ("torch", "import torch"),
    "transformers": ("transformers", "from transformers import PerceiverForImageClassificationFourier"),
    "flamingo-pytorch": ("flamingo_pytorch", "import flamingo_pytorch"),
    "jax": ("jax", "import jax.numpy"),
}
"""Implementation -> the module that it needs, and the line. "python" is what all the others include."""


def build(spec: Spec) -> Built:
    """The line, run by the Python that runs this."""
    module, line = LINES[spec.implementation]
    if find_spec(module) is None:
        raise MissingError(f"{module} is not installed")

    def run() -> None:
        subprocess.run([sys.executable, "-c", line], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    return Built({IMPORT: run}, {IMPORT: lambda _: np.zeros(1)})
