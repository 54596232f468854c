"""One run: every case's implementations side by side, compared, then timed in turns."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .base import Spec, difference
from .busy import beside
from .case import IMPORT, PASSES, STEP, BenchCase
from .figures import calls, ratios, rounds, spread
from .implementations import measured
from .machine import describe
from .memory import available
from .process import LostError, Worker
from .scaling import exponents

TOLERANCE = {False: 2e-3, True: 5e-2}
"""By TF32: the largest difference from ours, as a share of the largest value. float32 rounding, 6e-8, grows by two to
three orders through 48 layers and sums over 50,000 pixels; that of TF32 is 5e-4. A wrong result differs by order 1."""
TURN, PAUSE = 1.0, 0.05
"""Seconds of a turn at least, so that its first calls, with cold caches and sleeping threads, weigh little; and between
turns: threads of the last one stop spinning."""
LATER = 3
"""What a pass takes longer than the one before it: gradients, than the forward pass."""
VERSION = 1

Say = Callable[[str], None]


@dataclass(frozen=True)
class Measuring:
    """How a run is made. `budget` is the seconds that the turns of one case and pass may take together, `limit` those
    that a case may take in all, `beside` the number of busy processes that run meanwhile."""

    backend: str = "numpy"
    threads: int = 1
    tf32: bool = False
    quick: bool = False
    only: Sequence[str] | None = None
    rounds: int = 9
    fewest: int = 3
    budget: float = 60.0
    passes: Sequence[str] = PASSES
    limit: float = 180.0
    beside: int = 0


def measure(
    cases: Sequence[BenchCase],
    options: Measuring,
    say: Say,
    keep: Callable[[dict[str, Any]], None] = lambda result: None,
) -> dict[str, Any]:
    """The result of a run, as JSON holds it; `keep` is given what there is after every case.

    When the run is interrupted, `keep` is given what was measured until then before the interruption goes on.
    """
    result: dict[str, Any] = {
        "version": VERSION,
        "backend": options.backend,
        "tf32": options.tf32,
        "beside": options.beside,
        "machine": describe(options.backend, options.threads, options.tf32, options.beside),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "rows": [],
        "exponents": [],
    }
    for case in cases:
        try:
            with beside(options.beside):
                measure_case(case, options, say, result["rows"])
        finally:
            result["exponents"] = exponents(result["rows"])
            keep(result)
    return result


def measure_case(
    case: BenchCase, options: Measuring, say: Say, rows: list[dict[str, Any]] | None = None
) -> list[dict[str, Any]]:
    """The rows of one case: all passes, all implementations. They are added to `rows` as they are made, if given.

    What a case's `limit` leaves no time for is missing, with that reason; each pass has its share of the time. For a
    GPU the implementations start side by side, which takes the time of the slowest; on a CPU one after the other, as
    memory may not hold what all of them need to start.
    """
    rows = [] if rows is None else rows
    workers: dict[str, Worker] = {}
    missing: dict[str, str] = {}
    names = measured(case, options.backend, list(options.only) if options.only is not None else None, options.quick)
    wanted = [name for name in case.passes if name in options.passes]
    until = time.monotonic() + options.limit
    with_product = case.kind not in ("import", "engine", "perceiver_io", "command") and STEP not in case.passes
    try:
        starting = [*names, *(["product"] if with_product else [])]
        for group in [starting] if options.backend == "cupy" else [[name] for name in starting]:
            say(f"{case.name}: starting {', '.join(group)}")
            for name in group:
                spec = Spec(case.name, name, options.quick, options.backend, options.tf32)
                workers[name] = Worker(spec, options.threads, until, wait=False)
            for name in group:
                try:
                    workers[name].begin()
                except LostError as error:
                    missing[name] = str(error)
                    del workers[name]
        for i, pass_name in enumerate(wanted):
            rows += [_row(case, pass_name, name, options, missing=reason) for name, reason in missing.items()]
            later = len(wanted) - i - 1
            _measure_pass(case, pass_name, workers, options, say, rows, until, later)
        return rows
    except BaseException:
        for worker in workers.values():
            worker.kill()  # what was measured is to be written now, not when they have done what they are doing
        raise
    finally:
        for worker in workers.values():
            worker.stop()


def _measure_pass(
    case: BenchCase,
    name: str,
    workers: dict[str, Worker],
    options: Measuring,
    say: Say,
    done: list[dict[str, Any]],
    until: float = math.inf,
    later: int = 0,
) -> None:
    """Add the rows of a pass to `done`; those of one that is interrupted are of the rounds that all took part in.

    No round begins, but for the first, that would not end before `until`, or that would leave less to each `later` pass
    than its share, or than `LATER` times what comes here before the second round.
    """
    started = time.monotonic()
    share = (until - started) / (later + 1)
    rows: dict[str, dict[str, Any]] = {}
    turns: dict[str, int] = {}
    seconds: dict[str, list[float]] = {}
    busy: dict[str, list[float]] = {}
    reference: np.ndarray | None = None
    for who, worker in workers.items():
        if name not in worker.ready["passes"]:
            continue
        row = rows[who] = _row(case, name, who, options, versions=worker.ready["versions"])
        needed = case.gib.get((who, name), 0)
        if not options.quick and options.backend == "numpy" and needed * 2**30 > available():
            row["missing"] = f"needs about {needed:g} GiB, {available() / 2**30:.0f} GiB are free"
            continue
        say(f"{case.name}, {name}: checking {who}")
        try:
            checked = worker.ask("check", name)
            vector = np.array(checked["vector"])
            reference = vector if who == "ours" else reference
            if reference is not None and who != "product":
                row["difference"] = difference(vector, reference)
                if not row["difference"] <= TOLERANCE[options.tf32]:
                    row["missing"] = f"its result differs from ours by {row['difference']:.1e} of the largest value"
                    row["difference"] = None
                    continue
            first = worker.ask("peak", name)
        except LostError as error:
            row["missing"] = str(error)
            continue
        row["flops"], row["peak"] = checked["flops"], first["peak"]
        row["total"] = None if first["peak"] is None else first["peak"] + worker.ready["held"]
        turns[who] = 1 if options.quick or name == IMPORT else calls(first["seconds"], TURN)
        seconds[who] = []
        row["first"] = first["seconds"]
    fewest = 1 if options.quick else options.fewest
    whole = sum(rows[who]["first"] * count + PAUSE for who, count in turns.items())
    number = 1 if options.quick else rounds(whole, options.budget, fewest, options.rounds)
    until -= later * max(share, LATER * (time.monotonic() - started + whole))
    try:
        for turn in range(number):
            if turn and time.monotonic() + whole > until:
                break
            say(f"{case.name}, {name}: round {turn + 1} of {number}")
            for who in list(seconds):
                time.sleep(0 if options.quick else PAUSE)
                try:
                    took = workers[who].ask("time", name, calls=turns[who])
                    seconds[who].append(took["seconds"])
                    busy.setdefault(who, []).append(took["cpu"])
                except LostError as error:
                    rows[who]["missing"] = str(error)
                    del seconds[who]
    finally:
        whole_rounds = min(map(len, seconds.values()), default=0)
        _fill(rows, *({who: of[who][:whole_rounds] for who in seconds if whole_rounds} for of in (seconds, busy)))
        done += rows.values()


def _row(case: BenchCase, name: str, who: str, options: Measuring, **more: Any) -> dict[str, Any]:
    return {"case": case.name, "pass": name, "implementation": who, "quick": options.quick, **more}


def _fill(rows: dict[str, dict[str, Any]], seconds: dict[str, list[float]], busy: dict[str, list[float]]) -> None:
    """Medians, ratios to ours, and shares of the machine's product; `busy`: seconds of the processor, which other work
    on the machine adds less to."""
    flops = rows.get("ours", {}).get("flops")
    for who, values in seconds.items():
        row, middle = rows[who], spread(values)
        row |= {"seconds": middle.median, "low": middle.low, "high": middle.high, "rounds": len(values)}
        row["cpu"] = spread(busy[who]).median
        if who != "product":
            row["flops"] = flops  # every implementation computes the same: ours is what the ledger counts
        if who != "ours" and "ours" in seconds and who != "product":
            ratio = ratios(seconds["ours"], values)
            row |= {"ratio": ratio.median, "ratio_low": ratio.low, "ratio_high": ratio.high}
            row["cpu_ratio"] = ratios(busy["ours"], busy[who]).median if all(busy[who]) else None
            if row.get("peak") and rows["ours"].get("peak") is not None:
                row["memory_ratio"] = rows["ours"]["peak"] / row["peak"]
    if "product" in seconds:
        rate = rows["product"]["flops"] / rows["product"]["seconds"]
        for who in seconds:
            if rows[who]["flops"]:
                rows[who]["share"] = rows[who]["flops"] / rows[who]["seconds"] / rate
