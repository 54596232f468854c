"""What each command does, from parsed options to an exit code."""

from __future__ import annotations

import argparse
import importlib.resources
import math
import platform
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from ..autograd.backend import BackendError, module
from ..checkpoints import read_checkpoint
from ..crosscheck import Result, check_file
from ..crosscheck import run as execute
from ..errors import InputError
from ..files import check_writable, write_json
from ..formats.read import dtype_of
from ..vectors import TOLERANCES
from ..vectors.npz import write_npz
from ..version import __version__
from .compare import compare as compare
from .convert import convert as convert
from .convert import read_inputs, say_notes
from .diagnose import diagnose as diagnose
from .explain import explain as explain
from .export import export as export
from .main import BAD_INPUT, MISMATCH, OK
from .train import train as train

PACKAGED = "vectors/packaged"


def check(options: argparse.Namespace) -> int:
    """`perceiver-ref check`: 1 when a case does not agree, else 2 when one could not be run, else 0."""
    if options.json:
        check_writable(options.json)
    module(options.backend)
    files = list(_case_files(options.paths))
    width = max(len(name) for _, name in files)
    print(f"{'case':<{width}}  result  outputs   gradients")
    results: list[Result] = []
    for path, name in files:
        result = check_file(path, backend=options.backend, dtype=options.dtype)
        results.append(result)
        outputs, gradients = result.error("output", "trace", "state"), result.error("grad_param", "grad_input")
        print(f"{name:<{width}}  {result.status:<6}  {_error(outputs):<8}  {_error(gradients)}", flush=True)
        if result.status == "error":
            print(f"perceiver-ref check: error: {' '.join(result.message.split())}", file=sys.stderr)
        for a in result.agreements:
            if not a.passed:
                print(f"    {a.kind} {a.name}: error {_error(a.error)}, tolerance {a.tolerance:.0e}")
    passed = sum(result.status == "pass" for result in results)
    print(f"\n{passed} passed, {len(results) - passed} failed")
    _explain_columns()
    if options.json:
        write_json(options.json, _check_json(results))
    statuses = {result.status for result in results}
    return MISMATCH if "fail" in statuses else BAD_INPUT if "error" in statuses else OK


def run(options: argparse.Namespace) -> int:
    """`perceiver-ref run`: outputs (and gradients and traces) of a checkpoint, as an .npz in the vector format."""
    check_writable(options.output)
    if options.json:
        check_writable(options.json)
    module(options.backend)
    inputs = read_inputs(options.inputs)
    arguments = {name: array for name, array in inputs.items() if not name.startswith("cotangent/")}
    cotangents = {n.removeprefix("cotangent/"): a for n, a in inputs.items() if n.startswith("cotangent/")}
    if options.grad and not cotangents:
        raise InputError(f"{options.inputs}: --grad needs cotangent/<output>, an array of the shape of that output")
    checkpoint = read_checkpoint(
        options.peer,
        options.weights,
        options.cls,
        config=options.config,
        dtype=options.dtype,
        inputs=arguments,
    )
    say_notes("run", checkpoint)
    dtype = options.dtype or dtype_of(checkpoint.arrays)
    result = execute(
        checkpoint.rebuilt,
        checkpoint.arrays,
        arguments,
        {},
        cotangents=cotangents if options.grad else None,
        points=(lambda name: True) if options.trace else None,
        backend=options.backend,
        dtype=dtype,
        where=options.weights,
    )
    groups = {
        "output": result.outputs,
        "cotangent": cotangents if options.grad else {},
        "grad_param": result.grad_params,
        "grad_input": result.grad_inputs,
        "trace": result.trace,
    }
    write_npz(options.output, {f"{group}/{name}": a for group, arrays in groups.items() for name, a in arrays.items()})
    print(
        f"{options.output}: computed in {dtype} on {options.backend}, {checkpoint.rebuilt.model.count():,} parameters"
    )
    shapes = {name: list(array.shape) for name, array in result.outputs.items()}
    for name, shape in shapes.items():
        print(f"  output/{name}  {shape}")
    for group in ("grad_param", "grad_input", "trace"):
        if groups[group]:
            print(f"  {group}/...  {len(groups[group])} arrays")
    if options.json:
        write_json(options.json, {"output": options.output, "dtype": str(dtype), "shapes": shapes})
    return OK


def info(options: argparse.Namespace) -> int:
    """`perceiver-ref info`: what results and timings depend on."""
    rows = dict(_info())
    width = max(map(len, rows))
    for key, value in rows.items():
        print(f"{key:<{width}}  {value}")
    if options.json:
        write_json(options.json, rows)
    return OK


def _case_files(paths: list[str]) -> Iterator[tuple[Path, str]]:
    """Each case file with the name to show for it."""
    if not paths:
        packaged = Path(str(importlib.resources.files("perceiver_ref"))) / PACKAGED
        for path in sorted(packaged.rglob("*.npz")):
            yield path, path.relative_to(packaged).with_suffix("").as_posix()
    for given in paths:
        root = Path(given)
        if not root.is_dir():
            yield root, root.name.removesuffix(".npz")
            continue
        found = sorted(root.rglob("*.npz"))
        if not found:
            raise InputError(f"{root} holds no .npz files; give case files or folders of them")
        for path in found:
            yield path, path.relative_to(root).with_suffix("").as_posix()


def _error(error: float | None) -> str:
    return "-" if error is None else f"{error:.1e}"


def _explain_columns() -> None:
    print("errors: max |reference - case| / max(max |case|, 1) over a case's arrays; outputs include traced values")
    limits = [f"{k['output']:.0e} and {k['gradient']:.0e} in {dtype}" for dtype, k in TOLERANCES.items()]
    print(f"tolerances for outputs and gradients: {', '.join(limits)}")


def _check_json(results: list[Result]) -> dict[str, Any]:
    def number(error: float | None) -> float | None:
        return error if error is not None and math.isfinite(error) else None

    def row(result: Result) -> dict[str, Any]:
        worst = result.worst
        return {
            "path": result.path,
            "status": result.status,
            "output_error": number(result.error("output", "trace", "state")),
            "gradient_error": number(result.error("grad_param", "grad_input")),
            "worst": f"{worst.kind}/{worst.name}" if worst else None,
            "message": result.message,
        }

    passed = sum(result.status == "pass" for result in results)
    return {"version": 1, "cases": [row(r) for r in results], "passed": passed, "failed": len(results) - passed}


def _info() -> Iterator[tuple[str, str]]:
    import os

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
    except BackendError as error:
        yield "gpu", str(error)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
