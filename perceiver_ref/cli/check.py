"""`perceiver-ref check`: cases rebuilt in the reference, and how closely it agrees with each."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..autograd.backend import module
from ..errors import InputError, printable
from ..porting import Result, check_file
from ..porting.cases import PACKAGED, TOLERANCES, Agreement
from ..porting.dumps import case_files, is_case
from .main import BAD_INPUT, MISMATCH, OK, complain, computing
from .result import write_result
from .words import verdict


def options(command: argparse.ArgumentParser) -> None:
    """The command's options."""
    command.add_argument("paths", nargs="*", metavar="PATH", help="case files or folders (default: the packaged ones)")
    command.add_argument(
        "--outputs",
        metavar="MINE",
        help="what a port answered to the one case PATH, in any format, in place of its own",
    )
    computing(command, "the case's own")


def check(options: argparse.Namespace) -> int:
    """`perceiver-ref check`: 1 when a case does not agree, else 2 when one could not be run, else 0."""
    module(options.backend)
    files = [(path, printable(name)) for path, name in _case_files(options.paths)]
    if options.outputs and len(files) != 1:
        raise InputError(f"--outputs is what answers one case, {len(files)} are given; name one")
    width = max(len(name) for _, name in files)
    print(f"{'case':<{width}}  result  outputs   gradients")
    results: list[Result] = []
    for path, name in files:
        result = check_file(path, options.outputs, backend=options.backend, dtype=options.dtype)
        results.append(result)
        outputs, gradients = result.error("output", "trace", "state"), result.error("grad_param", "grad_input")
        print(f"{name:<{width}}  {verdict(result.status, 6)}  {_error(outputs):<8}  {_error(gradients)}", flush=True)
        for note in result.notes:
            print(f"    note: {note}")
        if result.status == "error":
            complain("check", result.message)
        for a in result.agreements:
            if not a.passed:
                print(f"    {a.kind} {a.name}: {_failed(a)}")
    passed = sum(result.status == "pass" for result in results)
    print(f"\n{passed} passed, {len(results) - passed} failed")
    _explain_columns()
    write_result(options.json, _json(results))
    statuses = {result.status for result in results}
    return MISMATCH if "fail" in statuses else BAD_INPUT if "error" in statuses else OK


def _case_files(paths: list[str]) -> Iterator[tuple[Path, str]]:
    """Each case with the name to show for it."""
    if not paths:
        for path in sorted(PACKAGED.rglob("*.npz")):
            yield path, path.relative_to(PACKAGED).with_suffix("").as_posix()
    for given in paths:
        root = Path(given)
        if not root.is_dir():
            yield root, root.name.removesuffix(".npz")
            continue
        if is_case(root):
            yield root, root.name or str(root)
            continue
        found = case_files(root)
        if not found:
            raise InputError(f"{root} holds no .npz files and no other cases; give case files or folders of them")
        for path in found:
            yield path, path.relative_to(root).with_suffix("").as_posix()


def _failed(a: Agreement) -> str:
    """Why an array does not agree: both shapes, or the error and what is not finite in one of the two."""
    if a.note.startswith("shape"):
        return a.note
    return f"error {_error(a.error)}, tolerance {a.tolerance:.0e}" + (f"; {a.note}" if a.note else "")


def _error(error: float | None) -> str:
    return "-" if error is None else f"{error:.1e}"


def _explain_columns() -> None:
    print("errors: max |case - reference| / max(max |reference|, 1) of an array; outputs include traced values")
    limits = [f"{k['output']:.0e} and {k['gradient']:.0e} in {dtype}" for dtype, k in TOLERANCES.items()]
    print(f"tolerances for outputs and gradients: {', '.join(limits)}")


def _json(results: list[Result]) -> dict[str, Any]:
    def row(result: Result) -> dict[str, Any]:
        worst = result.worst
        return {
            "path": result.path,
            "status": result.status,
            "output_error": result.error("output", "trace", "state"),
            "gradient_error": result.error("grad_param", "grad_input"),
            "worst": f"{worst.kind}/{worst.name}" if worst else None,
            "reason": worst.note if worst else "",
            "message": result.message,
            "notes": result.notes,
        }

    passed = sum(result.status == "pass" for result in results)
    return {"cases": [row(r) for r in results], "passed": passed, "failed": len(results) - passed}
