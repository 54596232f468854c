"""Learning rates as functions of the number of updates already made: 0 for the first update.

Python numbers in and out, computed on the host: nothing waits for a device, and no dtype of a parameter changes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

Schedule = Callable[[int], float]


def constant(value: float) -> Schedule:
    """`value` at every update."""
    return lambda count: value


def polynomial(start: float, end: float, steps: int, *, power: float = 1.0, begin: int = 0) -> Schedule:
    """From `start` to `end` in `steps` updates after the first `begin`, and `end` from then on.

        value = end + (start - end) (1 - t / steps)^power          t = count - begin, kept within [0, steps]

    Without steps (0 or fewer) it stays at `start`, as in optax.
    """
    if steps <= 0:
        return constant(start)

    def schedule(count: int) -> float:
        done = min(max(count - max(begin, 0), 0), steps) / steps
        return (start - end) * math.pow(1 - done, power) + end

    return schedule


def linear(start: float, end: float, steps: int, *, begin: int = 0) -> Schedule:
    """`polynomial` of power 1: linear warm-up when `start` is less than `end`."""
    return polynomial(start, end, steps, begin=begin)


def cosine(start: float, end: float, steps: int, *, power: float = 1.0) -> Schedule:
    """Half a cosine from `start` to `end`, and `end` from then on.

        value = end + (start - end) ((1 + cos(pi count / steps)) / 2)^power

    With power 1 it is Loshchilov and Hutter's (2017, arXiv 1608.03983, eq. 5). Raises `ValueError` unless `steps` is
    positive.
    """
    if steps <= 0:
        raise ValueError(f"a cosine schedule needs a positive number of steps, got {steps}")

    def schedule(count: int) -> float:
        wave = 0.5 * (1 + math.cos(math.pi * min(count, steps) / steps))
        return (start - end) * math.pow(wave, power) + end

    return schedule


def exponential(
    start: float, rate: float, steps: int, *, begin: int = 0, staircase: bool = False, bound: float | None = None
) -> Schedule:
    """start rate^(t / steps), t = count - begin, and `start` before; with `staircase` t / steps is rounded down.

    `bound` is the last value, below it when the rate is less than 1 and above it otherwise. Without steps (0 or fewer)
    or with a rate of 0 it stays at `start`, as in optax.
    """
    if steps <= 0 or rate == 0:
        return constant(start)
    limit = max if rate < 1 else min

    def schedule(count: int) -> float:
        done = max(count - max(begin, 0), 0) / steps
        value = start * rate ** (math.floor(done) if staircase else done)
        return value if bound is None else limit(value, bound)

    return schedule


def piecewise(start: float, factors: Mapping[int, float]) -> Schedule:
    """`start` times the factor of every count that has been reached: {84: 0.1} divides by ten from count 84 on."""
    steps = sorted(factors.items())
    return lambda count: math.prod([start, *(factor for at, factor in steps if count >= at)])


def join(schedules: Sequence[Schedule], boundaries: Sequence[int]) -> Schedule:
    """One schedule after another; each counts from its boundary. `boundaries` is one shorter than `schedules`.

    Raises `ValueError` when it is not.
    """
    if len(boundaries) != len(schedules) - 1:
        raise ValueError(f"{len(schedules)} schedules need {len(schedules) - 1} boundaries, got {len(boundaries)}")

    def schedule(count: int) -> float:
        begun = [(0, schedules[0]), *(pair for pair in zip(boundaries, schedules[1:]) if count >= pair[0])]
        start, current = begun[-1]
        return current(count - start)

    return schedule


def warm_up(schedule: Schedule, steps: int, *, start: float = 0.0) -> Schedule:
    """Linear from `start` to the schedule's first value in `steps` updates, then the schedule from its beginning."""
    return join([linear(start, schedule(0), steps), schedule], [max(steps, 0)])


def warmup_cosine(
    peak: float, warmup: int, total: int, *, start: float = 0.0, end: float = 0.0, power: float = 1.0
) -> Schedule:
    """Linear from `start` to `peak` in `warmup` updates, then a cosine to `end` at count `total`.

    `total` includes the warm-up, as optax's `decay_steps` does.
    """
    return warm_up(cosine(peak, end, total - warmup, power=power), warmup, start=start)


def flat_cosine(value: float, flat: int, total: int, *, end: float = 0.0) -> Schedule:
    """`value` for `flat` updates, then a cosine to `end` at count `total` (Perceiver IO's ImageNet, 2107.14795)."""
    return join([constant(value), cosine(value, end, total - flat)], [flat])
