"""`perceiver-ref check`: cases rebuilt in the reference, and how closely it agrees with each."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from ..autograd.backend import module
from ..errors import InputError, printable
from ..host.progress import clear, steps
from ..porting import Result, check_file
from ..porting.cases import PACKAGED, TOLERANCES, Agreement
from ..porting.dumps import case_files, is_case
from ..porting.measures import MEASURES, Threshold
from . import jobs, measured
from .main import BAD_INPUT, MISMATCH, OK, complain, computing
from .mapping import mapping, reader
from .result import write_result
from .words import verdict

_OUTPUTS, _GRADIENTS = ("output", "trace", "state"), ("grad_param", "grad_input")
_MEASURED = 6
"""Arrays of a case whose measures are printed where they do not agree"""


def options(command: argparse.ArgumentParser) -> None:
    """The command's options."""
    command.add_argument("paths", nargs="*", metavar="PATH", help="case files or folders (default: the packaged ones)")
    command.add_argument(
        "--outputs",
        metavar="MINE",
        help="what a port answered to the one case PATH, in any format, in place of its own",
    )
    command.add_argument("--weights", metavar="F", help="the checkpoint that probes among them are of")
    mapping(command)
    command.add_argument(
        "--jobs", metavar="N", type=jobs.number, default=1, help="check so many cases at a time (default: 1)"
    )
    computing(command, "the case's own")
    measured.options(command)


def check(options: argparse.Namespace) -> int:
    """`perceiver-ref check`: 1 when a case does not agree, else 2 when one could not be run, else 0."""
    module(options.backend)
    files = [(path, printable(name)) for path, name in _case_files(options.paths)]
    if options.outputs and len(files) != 1:
        raise InputError(f"--outputs is what answers one case, {len(files)} are given; name one")
    width = max(len(name) for _, name in files)
    held = measured.limits(options)
    print(f"{'case':<{width}}  result  outputs   gradients     NMSE")
    results: list[Result] = []
    together = 1 if options.peer_file else options.jobs  # a peer of one's own is known in this process alone
    checked = partial(
        check_file,
        mine=options.outputs,
        backend=options.backend,
        dtype=options.dtype,
        weights=options.weights,
        measured=True,
        limits=held,
        read=reader(options.map),
    )
    paths = [path for path, _ in files]
    made: Iterator[Result]
    if together == 1:
        made = (checked(path) for path in steps(paths, "case"))
    else:
        made = steps(jobs.results(checked, paths, together, options.kernels), "case", len(paths))
    for result, (_, name) in zip(made, files):
        results.append(result)
        _print(result, f"{name:<{width}}", every=options.measures)
    passed = sum(result.status == "pass" for result in results)
    print(f"\n{passed} passed, {len(results) - passed} failed")
    if any(result.status != "error" for result in results):
        _explain_columns(held)
    write_result(options.json, _json(results, held))
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


def _print(result: Result, name: str, *, every: bool) -> None:
    """A row of the table, and below it what does not agree; with `every` all arrays, with all measures."""
    clear()
    outputs, gradients = _error(result.error(*_OUTPUTS)), _error(result.error(*_GRADIENTS))
    nmse = measured.text("nmse", result.extreme("nmse", *_OUTPUTS), unit=False)
    print(f"{name}  {verdict(result.status, 6)}  {outputs:<8}  {gradients:<9}  {nmse:>7}".rstrip(), flush=True)
    for note in result.notes:
        print(f"    note: {note}")
    if result.status == "error":
        complain("check", result.message)
    failed = 0
    for a in result.agreements:
        failed += not a.passed
        if not a.passed or every:
            print(f"    {printable(f'{a.kind} {a.name}')}: {_said(a)}")
        if every or (not a.passed and failed <= _MEASURED):
            print("\n".join(measured.lines(a.measures, " " * 8, every=every)) or f"{' ' * 8}no measures")
        for line in measured.looks_like(a.found, " " * 8):
            print(line)


def _said(a: Agreement) -> str:
    """How close an array is: both shapes, or the error and what is not finite in one of the two."""
    if a.note.startswith("shape"):
        return a.note
    misses = f"; misses {', '.join(a.missed)}" if a.missed else ""
    return f"error {_error(a.error)}, tolerance {a.tolerance:.0e}" + (f"; {a.note}" if a.note else "") + misses


def _error(error: float | None) -> str:
    return "-" if error is None else f"{error:.1e}"


def _explain_columns(held: list[Threshold]) -> None:
    print("errors: max |case - reference| / max(max |reference|, 1) of an array; outputs include traced values")
    print("NMSE: 10 log10(sum (case - reference)^2 / sum reference^2) in dB, the worst of the outputs")
    limits = [f"{k['output']:.0e} and {k['gradient']:.0e} in {dtype}" for dtype, k in TOLERANCES.items()]
    print(measured.held_to(held) if held else f"tolerances for outputs and gradients: {', '.join(limits)}")


def _json(results: list[Result], held: list[Threshold]) -> dict[str, Any]:
    def row(result: Result) -> dict[str, Any]:
        worst = result.worst
        return {
            "path": result.path,
            "status": result.status,
            "output_error": result.error(*_OUTPUTS),
            "gradient_error": result.error(*_GRADIENTS),
            "worst": f"{worst.kind}/{worst.name}" if worst else None,
            "reason": worst.note if worst else "",
            "message": result.message,
            "notes": result.notes,
            "measures": {name: result.extreme(name, *_OUTPUTS) for name in MEASURES},
            "arrays": [_array(a) for a in result.agreements],
        }

    passed = sum(result.status == "pass" for result in results)
    return {
        "cases": [row(r) for r in results],
        "passed": passed,
        "failed": len(results) - passed,
        "thresholds": measured.limits_json(held),
    }


def _array(a: Agreement) -> dict[str, Any]:
    return {
        "name": f"{a.kind}/{a.name}",
        "shape": a.shape,
        "error": a.error,
        "tolerance": a.tolerance,
        "passed": a.passed,
        "note": a.note,
        "measures": a.measures,
        "found": measured.found_json(a.found),
        "missed": a.missed or (),
    }
