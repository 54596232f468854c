"""`perceiver-ref info`: what results and timings depend on."""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

import numpy as np

from ..autograd.backend import BackendError, module
from ..autograd.modes import products_mode
from ..version import __version__
from .main import OK
from .result import aligned, write_result


def options(command: argparse.ArgumentParser) -> None:
    """The command has none of its own."""


def info(options: argparse.Namespace) -> int:
    """`perceiver-ref info`: a line for each; always 0."""
    rows = dict(_info())
    for line in aligned(list(rows.items()), left=2):
        print("  ".join(line).rstrip())
    write_result(options.json, rows)
    return OK


def _info() -> Iterator[tuple[str, str]]:
    yield "perceiver-ref", __version__
    yield "python", f"{platform.python_version()} on {platform.platform()}"
    for name in ("numpy", "scipy", "safetensors", "matplotlib", "tqdm"):
        yield name, _version(name)
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    yield "blas", f"{blas['name']} {blas['version']}"
    yield "cores", f"{len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()}"
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        if variable in os.environ:
            yield variable, os.environ[variable]
    try:
        cupy = module("cupy")
        properties = cupy.cuda.runtime.getDeviceProperties(0)
        yield "cupy", f"{cupy.__version__}, CUDA {cupy.cuda.runtime.runtimeGetVersion()}"
        yield "gpu", f"{properties['name'].decode()}, {properties['totalGlobalMem'] / 2**30:.0f} GiB"
        yield "tf32", "on" if os.environ.get("CUPY_TF32", "0") not in ("", "0") else "off"
        yield "products", products_mode()
    except BackendError as error:
        yield "gpu", str(error)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
