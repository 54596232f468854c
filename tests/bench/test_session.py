"""Turns, comparing and reasons, with workers that answer from a script; and one run of real ones."""

from __future__ import annotations

import time
from typing import Any

import pytest

from bench import session
from bench.base import Spec
from bench.case import BOTH, FORWARD
from bench.cases import CASES
from bench.process import LostError, Worker
from bench.session import Measuring, measure_case

SCRIPT: dict[str, dict[str, Any]] = {
    "ours": {"vector": [1.0, 2.0], "seconds": [0.2, 0.4, 0.2], "peak": 100},
    "plain": {"vector": [1.0, 2.00001], "seconds": [0.4, 0.8, 0.4], "peak": 400},
    "flamingo-pytorch": {"vector": [1.0, 2.5], "seconds": [0.1, 0.1, 0.1], "peak": 100},
    "product": {"vector": [0.0], "seconds": [0.1, 0.1, 0.1], "peak": None},
}
FLOPS = {"ours": 3000, "plain": 3000, "flamingo-pytorch": None, "product": 1000}


class Scripted:
    """A worker whose answers are in SCRIPT; it notes whose turn it is."""

    turns: list[str]
    killed: list[str]
    begun: list[str]

    def __init__(self, spec: Spec, threads: int, until: float, *, wait: bool) -> None:
        self.name, self.round = spec.implementation, 0
        Scripted.begun.append(f"{self.name}?")

    def begin(self) -> None:
        Scripted.begun.append(self.name)
        if self.name not in SCRIPT:
            raise LostError(f"{self.name} is not installed")
        self.ready = {"passes": [FORWARD], "held": 1000, "versions": {}}

    def ask(self, do: str, name: str, **more: Any) -> dict[str, Any]:
        given = SCRIPT[self.name]
        if do == "check":
            return {"vector": given["vector"], "flops": FLOPS[self.name]}
        if do == "peak":
            return {"peak": given["peak"], "seconds": given["seconds"][0]}
        Scripted.turns.append(self.name)
        self.round += 1
        if given["seconds"][self.round - 1] is None:
            raise LostError("killed by signal 9, perhaps for memory")
        seconds = given["seconds"][self.round - 1]
        return {"seconds": seconds, "cpu": seconds**2}

    def kill(self) -> None:
        Scripted.killed.append(self.name)

    def stop(self) -> None:
        pass


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    Scripted.turns, Scripted.killed, Scripted.begun = [], [], []
    monkeypatch.setattr(session, "Worker", Scripted)
    monkeypatch.setattr(session, "PAUSE", 0.0)


def rows(**options: Any) -> dict[str, dict[str, Any]]:
    made = measure_case(CASES["resampler"], Measuring(passes=(FORWARD,), rounds=3, **options), lambda text: None)
    return {row["implementation"]: row for row in made}


@pytest.mark.usefixtures("scripted")
def test_medians_ratios_and_shares() -> None:
    found = rows()
    assert found["ours"]["seconds"] == 0.2
    assert found["ours"]["cpu"] == pytest.approx(0.04)
    assert found["plain"]["cpu_ratio"] == pytest.approx(0.25)  # turn by turn, of what the processor was busy for
    assert found["plain"]["ratio"] == pytest.approx(0.5)
    assert found["plain"]["memory_ratio"] == pytest.approx(0.25)
    assert found["ours"]["total"] == 1100
    assert "ratio" not in found["ours"]
    # 3000 FLOPs in 0.2 s of a machine that does 1000 in 0.1 s
    assert found["ours"]["share"] == pytest.approx(1.5)
    assert found["plain"]["share"] == pytest.approx(0.75)


@pytest.mark.usefixtures("scripted")
def test_what_is_measured_is_kept_after_every_case() -> None:
    kept: list[set[str]] = []
    rows = [CASES["resampler"], CASES["gated"]]
    options = Measuring(passes=(FORWARD,), rounds=3)
    made = session.measure(rows, options, lambda text: None, lambda r: kept.append({x["case"] for x in r["rows"]}))
    assert kept == [{"resampler"}, {"resampler", "gated"}]
    assert {row["case"] for row in made["rows"]} == kept[-1]


@pytest.mark.usefixtures("scripted")
def test_a_wrong_result_is_not_timed() -> None:
    found = rows()["flamingo-pytorch"]
    assert "differs from ours by 2.5e-01" in found["missing"]
    assert "seconds" not in found
    assert "flamingo-pytorch" not in Scripted.turns


@pytest.mark.usefixtures("scripted")
def test_implementations_take_turns() -> None:
    rows()
    assert Scripted.turns == ["ours", "plain", "product"] * 3


@pytest.mark.usefixtures("scripted")
def test_what_is_not_installed_is_a_line_with_its_reason() -> None:
    found = rows(only=("flamingo-pytorch compiled",))
    assert found["flamingo-pytorch compiled"]["missing"] == "flamingo-pytorch compiled is not installed"
    assert "seconds" in found["ours"]


@pytest.mark.usefixtures("scripted")
def test_a_worker_that_dies_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SCRIPT, "plain", {**SCRIPT["plain"], "seconds": [0.4, None, 0.4]})
    found = rows()
    assert found["plain"]["missing"].startswith("killed by signal 9")
    assert found["ours"]["rounds"] == 3
    assert "ratio" not in found["plain"]


@pytest.mark.usefixtures("scripted")
def test_what_needs_more_memory_than_there_is_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "available", lambda: 2 << 30)
    monkeypatch.setitem(
        CASES, "resampler", CASES["resampler"].__class__(**{**vars(CASES["resampler"]), "gib": {("plain", FORWARD): 3}})
    )
    assert rows()["plain"]["missing"] == "needs about 3 GiB, 2 GiB are free"


def test_real_workers_measure_a_case() -> None:
    options = Measuring(quick=True, only=("plain",))
    made = measure_case(CASES["gated"], options, lambda text: None)
    assert [(row["pass"], row["implementation"]) for row in made] == [
        (name, who) for name in (FORWARD, BOTH) for who in ("ours", "plain", "product")
    ]
    for row in made:
        assert row["seconds"] > 0
        assert row["implementation"] == "product" or row["peak"] >= 0


def test_a_worker_says_what_is_wrong_in_one_line() -> None:
    with pytest.raises(LostError, match="unknown implementation 'theirs'"):
        Worker(Spec("gated", "theirs", quick=True), 1)


def test_a_killed_worker_is_a_reason() -> None:
    worker = Worker(Spec("gated", "ours", quick=True), 1)
    try:
        worker._process.kill()
        worker._process.wait()
        with pytest.raises(LostError, match="killed by signal 9, perhaps for memory"):
            worker.ask("check", FORWARD)
    finally:
        worker.stop()


def test_a_worker_that_is_out_of_time_is_ended() -> None:
    worker = Worker(Spec("gated", "ours", quick=True), 1)
    try:
        worker.until = time.monotonic() + 0.2
        with pytest.raises(LostError, match=r"^out of time$"):
            worker.ask("time", FORWARD, calls=10**9)
        worker._process.wait(10)
    finally:
        worker.stop()
    with pytest.raises(LostError, match=r"^out of time$"):
        Worker(Spec("gated", "ours", quick=True), 1, time.monotonic())


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time of a clock of which every answer takes a second."""
    now = [0.0]
    ask = Scripted.ask

    def slow(self: Scripted, do: str, name: str, **more: Any) -> dict[str, Any]:
        now[0] += 1
        return ask(self, do, name, **more)

    monkeypatch.setattr(Scripted, "ask", slow)
    monkeypatch.setattr(session.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.usefixtures("scripted")
def test_rounds_end_with_the_time_of_a_case(now: list[float]) -> None:
    """By a clock of which every answer takes a second: seven before the first round, three a round, which is thought to
    take 3.2 s and pauses."""
    for limit, rounds in ((1.0, 1), (14.0, 2), (100.0, 3)):
        now[0] = 0.0
        Scripted.turns = []
        found = rows(limit=limit)
        assert found["ours"]["rounds"] == found["plain"]["rounds"] == rounds, limit


@pytest.mark.usefixtures("scripted")
def test_a_pass_leaves_time_for_the_next(now: list[float]) -> None:
    """By the same clock. After seven answers and with rounds of 3.2 s, the second pass is left 30.6 s: of 26 s there is
    but the first round here, of 46 s there are two; of 100 s it is left half, which is more."""
    for limit, rounds in ((26.0, 1), (46.0, 2), (100.0, 3)):
        now[0] = 0.0
        done: list[dict[str, Any]] = []
        workers = {name: Scripted(Spec("resampler", name), 1, 0.0, wait=True) for name in SCRIPT}
        for worker in workers.values():
            worker.begin()
        options = Measuring(passes=(FORWARD,), rounds=3)
        session._measure_pass(CASES["resampler"], FORWARD, workers, options, lambda text: None, done, limit, 1)
        assert {row["rounds"] for row in done if "seconds" in row} == {rounds}, limit


@pytest.mark.usefixtures("scripted")
@pytest.mark.parametrize("backend", ["numpy", "cupy"])
def test_a_gpus_implementations_start_side_by_side(backend: str) -> None:
    rows(backend=backend, only=("plain",))
    names = ["ours", "plain", "product"]
    each = [word for name in names for word in (f"{name}?", name)]
    assert Scripted.begun == (each if backend == "numpy" else [f"{name}?" for name in names] + names)


def test_a_failing_request_leaves_the_worker_alive() -> None:
    worker = Worker(Spec("gated", "ours", quick=True), 1)
    try:
        with pytest.raises(LostError, match="KeyError"):
            worker.ask("check", "sideways")
        assert worker.ask("check", FORWARD)["vector"]
    finally:
        worker.stop()


@pytest.mark.parametrize(("turn", "rounds"), [(0, None), (2, None), (3, 1), (5, 1), (7, 2)])
@pytest.mark.usefixtures("scripted")
def test_an_interrupted_run_keeps_the_rounds_that_all_took_part_in(
    monkeypatch: pytest.MonkeyPatch, turn: int, rounds: int | None
) -> None:
    """Three implementations take their turns; Ctrl-C comes in one of them."""
    ask = Scripted.ask

    def interrupted(self: Scripted, do: str, name: str, **more: Any) -> dict[str, Any]:
        if do == "time" and len(Scripted.turns) == turn + 9:
            raise KeyboardInterrupt
        return ask(self, do, name, **more)

    monkeypatch.setattr(Scripted, "ask", interrupted)
    kept: list[dict[str, Any]] = []
    with pytest.raises(KeyboardInterrupt):
        session.measure(
            [CASES["resampler"], CASES["gated"]],
            Measuring(passes=(FORWARD,), rounds=3),
            lambda text: None,
            kept.append,
        )
    rows = {(row["case"], row["implementation"]): row for row in kept[-1]["rows"]}
    assert Scripted.killed == [
        "ours",
        "plain",
        "flamingo-pytorch",
        "product",
    ]  # of the case under way: none is waited for
    assert rows["resampler", "ours"]["rounds"] == 3
    assert rows["gated", "ours"].get("rounds") == rounds
    assert rows["gated", "plain"].get("rounds") == rounds
    assert ("ratio" in rows["gated", "plain"]) == (rounds is not None)
