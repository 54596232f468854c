"""What the figures depend on: machine, versions, threads, BLAS, TF32."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from perceiver_ref.autograd import backend as backends
from perceiver_ref.version import __version__

PACKAGES = (
    "numpy",
    "scipy",
    "torch",
    "transformers",
    "perceiver-pytorch",
    "flamingo-pytorch",
    "jax",
    "autograd",
    "mygrad",
)


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe(backend: str, threads: int, tf32: bool) -> dict[str, str]:
    """Name -> text, for the page and the JSON."""
    rows = {"machine": _machine(backend), "threads": str(threads), "tf32": "on" if tf32 else "off"}
    if backend == "numpy":
        rows["tf32"] = "does not apply"
    blas: Any = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    rows["blas"] = f"{blas['name']} {blas['version']}"
    rows["python"] = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    rows["perceiver-ref"] = __version__
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            rows[name] = version(name)
    if backend == "cupy":
        cupy = backends.module("cupy")
        rows["cupy"] = f"{cupy.__version__}, CUDA {cupy.cuda.runtime.runtimeGetVersion()}"
    return rows


def _machine(backend: str) -> str:
    if backend == "cupy":
        name: str = backends.module("cupy").cuda.runtime.getDeviceProperties(0)["name"].decode()
        return name
    return f"{_processor()}, {cores()} cores"


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
