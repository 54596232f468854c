"""`python -m bench`: measure, print the tables, write JSON and docs/PERFORMANCE.md."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from perceiver_ref.autograd.backend import BACKENDS, BackendError, module
from perceiver_ref.cli.streams import patient_streams
from perceiver_ref.errors import InputError, one_of
from perceiver_ref.host.files import check_apart, check_writable, remove_temporaries, write_json, write_text
from perceiver_ref.host.signals import exit_code, settle, stopping

from .busy import MOST
from .case import PASSES
from .cases import chosen
from .implementations import IMPLEMENTATIONS
from .machine import cores
from .page import kept, merged, page, read_result
from .session import Measuring, measure
from .table import EXPONENT_HEAD, HEAD, as_text, exponent_table, main_table


def main(arguments: Sequence[str] | None = None) -> int:
    """0; 2 for bad input, in one line; 128 and its number for a signal: what was measured until then is written."""
    given = _parser().parse_args(arguments)
    with patient_streams(), stopping():
        try:
            return _run(given)
        except (InputError, BackendError) as error:
            print(f"bench: error: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt as error:
            settle()
            print(f"bench: error: {error}", file=sys.stderr)
            return exit_code(error)
        finally:
            remove_temporaries()


def _run(given: argparse.Namespace) -> int:
    cases = chosen(given.case, given.backend)
    if given.list:
        for row in cases:
            print(f"{row.name:<24} {row.what} ({', '.join(row.implementations)})")
        return 0
    for name in given.only or ():
        if name not in IMPLEMENTATIONS:
            raise one_of("implementation", name, IMPLEMENTATIONS)
    for path in (given.json, given.write):
        if path:
            check_writable(path)
    check_apart({"--json": given.json, "--write": given.write}, given.results or ())
    stopped: KeyboardInterrupt | None = None
    results: list[dict[str, Any]] = []
    if given.results:
        results = merged([read_result(path) for path in given.results])
    else:
        try:
            _measure(given, cases, lambda result: results.__setitem__(slice(None), [result]))
        except KeyboardInterrupt as error:
            stopped = error
            if not results or not results[0]["rows"]:
                raise
    for result in results:
        _show(result)
    if given.json:
        if len(results) > 1:
            raise InputError("these are results of several machines; --json holds those of one")
        write_json(given.json, results[0])
    if given.write:
        write_text(given.write, page(results) + kept(given.write))
    if stopped is not None:
        raise stopped
    return 0


def _measure(given: argparse.Namespace, cases: Any, take: Callable[[dict[str, Any]], None]) -> None:
    """Measure; `take` is given the result so far, again and again."""
    module(given.backend)
    if given.tf32 and given.backend != "cupy":
        raise InputError("--tf32 is a mode of GPUs; it goes with --backend cupy")
    if not 1 <= given.threads <= cores():
        raise InputError(f"--threads must be 1 to {cores()}, the cores that there are; got {given.threads}")
    if not 0 <= given.beside <= MOST:
        raise InputError(f"--beside must be 0 to {MOST}, got {given.beside}")
    if not given.limit > 0:
        raise InputError(f"--limit must be above 0 seconds, got {given.limit:g}")
    if given.rounds < 1:
        raise InputError(f"--rounds must be at least 1, got {given.rounds}")
    options = Measuring(
        given.backend,
        given.threads,
        given.tf32,
        given.quick,
        given.only,
        rounds=given.rounds,
        fewest=min(3, given.rounds),
        budget=given.budget,
        limit=given.limit,
        passes=given.passes or PASSES,
        beside=given.beside,
    )

    def keep(result: dict[str, Any]) -> None:
        take(result)
        if given.json:
            write_json(given.json, result)

    measure(cases, options, lambda text: print(text, file=sys.stderr, flush=True), keep)


def _show(result: dict[str, Any]) -> None:
    for key, text in result["machine"].items():
        print(f"{key:<20} {text}")
    print()
    print(as_text(HEAD, main_table(result)))
    if result["exponents"]:
        print("\nexponents: time, FLOPs and memory grow as size^e\n")
        print(as_text(EXPONENT_HEAD, exponent_table(result)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench", description="Time and memory of Perceivers, side by side.")
    several: dict[str, Any] = {"nargs": "+", "action": "extend"}  # --case A B as well as --case A --case B
    parser.add_argument("--case", **several, metavar="CASE", help="only these (see --list); scaling for all its points")
    parser.add_argument("--backend", choices=BACKENDS, default="numpy", help="default: numpy")
    parser.add_argument("--only", **several, metavar="NAME", help="only these implementations beside ours")
    parser.add_argument("--pass", dest="passes", **several, choices=PASSES, help="only these passes")
    parser.add_argument("--tf32", action="store_true", help="let GPUs multiply in TF32")
    parser.add_argument("--threads", type=int, default=cores(), metavar="N", help="default: all cores")
    parser.add_argument("--beside", type=int, default=0, metavar="N", help="beside so many busy processes (default: 0)")
    parser.add_argument("--rounds", type=int, default=9, metavar="N", help="turns at most, at least 3 (default: 9)")
    parser.add_argument("--budget", type=float, default=60, metavar="S", help="seconds of a case's turns (default: 60)")
    parser.add_argument("--limit", type=float, default=180, metavar="S", help="seconds of a case in all (default: 180)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one turn: does it run?")
    parser.add_argument("--json", type=Path, metavar="F", help="also write the result as JSON")
    parser.add_argument("--write", type=Path, metavar="F", help="also write the page, such as docs/PERFORMANCE.md")
    parser.add_argument(
        "--from",
        dest="results",
        type=Path,
        nargs="+",
        action="extend",
        metavar="F",
        help="read results, measure nothing",
    )
    parser.add_argument("--list", action="store_true", help="print the cases and stop")
    return parser


if __name__ == "__main__":
    sys.exit(main())
