"""Timing of contenders side by side: round after round, each in its turn.

Absolute times of a shared machine wander by a fifth; contenders of one round wander together,
so what is told are medians of the rounds' ratios.
"""

from __future__ import annotations

import gc
import math
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

Lane = Callable[[int], Any]  # runs batch i and gives its answer

FINALISTS = 4

_POOL = ThreadPoolExecutor(1)


@dataclass(frozen=True, slots=True)
class Claim:
    """What a contender says its answers are.

    Args:
        of: `stored` (what the store's reference computes), `source` (the float32 checkpoint),
            or `bytes` (the floor: no values).
        steps: quantisation steps between a row's smallest and largest value; 0: not quantised.
        relative: error of its numbers in parts of the row's largest value.
    """

    of: str
    steps: int = 0
    relative: float = 0.0


@dataclass(frozen=True, slots=True)
class Contender:
    """Somebody who answers batches.

    Args:
        lanes: one function a thread, each for its part of a batch.
        items: what a batch counts, over all lanes.
        note: what a reader must know: settings, allocations.
        prepare: called before a turn, not timed.
    """

    name: str
    lanes: tuple[Lane, ...]
    items: int
    claim: Claim
    note: str = ""
    prepare: Callable[[], None] = field(default=lambda: None)


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure.

    Args:
        rounds: turns of each contender.
        seconds: least length of a turn; 0: one batch, without warming up.
        batches: distinct batches in rotation.
    """

    rounds: int = 9
    seconds: float = 0.02
    batches: int = 32


def measure(contenders: Sequence[Contender], effort: Effort) -> dict[str, list[float]]:
    """Seconds an item of each contender, by name: one figure a round."""
    counts = [_turn_length(contender, effort) for contender in contenders]
    found: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    # turns start anywhere: nobody shall always get the batches that another left in the caches
    chance = random.Random(0)
    with quiet():
        for _ in range(effort.rounds):
            for contender, count in zip(contenders, counts, strict=True):
                order = _rotation(chance.randrange(effort.batches), count, effort.batches)
                contender.prepare()
                found[contender.name].append(_turn(contender, order) / (count * contender.items))
    return found


def measure_each(contenders: Sequence[Contender], effort: Effort) -> dict[str, list[list[float]]]:
    """Seconds of every single batch of each contender's first lane, by name, turn by turn."""
    counts = [_turn_length(contender, effort) for contender in contenders]
    found: dict[str, list[list[float]]] = {contender.name: [] for contender in contenders}
    chance = random.Random(0)
    with quiet():
        for _ in range(effort.rounds):
            for contender, count in zip(contenders, counts, strict=True):
                order = _rotation(chance.randrange(effort.batches), count, effort.batches)
                contender.prepare()
                found[contender.name].append(each(contender.lanes[0], order))
    return found


def each(lane: Lane, order: Sequence[int]) -> list[float]:
    """Seconds of every batch."""
    seconds, clock = [], time.perf_counter
    for index in order:
        begin = clock()
        lane(index)
        seconds.append(clock() - begin)
    return seconds


def best_of(variants: Sequence[Contender], effort: Effort) -> Contender:
    """The fastest of some settings of one contender: a heat of all, and a final of the best."""
    for rounds, most in ((3, FINALISTS), (7, 1)):
        if len(variants) > most:
            variants = _fastest(variants, replace(effort, rounds=min(rounds, effort.rounds)), most)
    return variants[0]


def _fastest(variants: Sequence[Contender], effort: Effort, most: int) -> list[Contender]:
    """By their least times: what else runs on the machine only ever adds."""
    named = [replace(variant, name=str(index)) for index, variant in enumerate(variants)]
    found = measure(named, replace(effort, seconds=min(effort.seconds, 0.01)))
    order = sorted(range(len(variants)), key=lambda index: min(found[str(index)]))
    return [variants[index] for index in order[:most]]


@contextmanager
def quiet() -> Iterator[None]:
    """No garbage collection inside."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _turn_length(contender: Contender, effort: Effort) -> int:
    """Batches that a turn takes; warms up on the way."""
    if not effort.seconds:
        return 1
    contender.prepare()
    _turn(contender, [0])
    once = max(_turn(contender, [1 % effort.batches]), 1e-9)
    if once > effort.seconds:
        return 1
    count = math.ceil(effort.seconds / once)
    seconds = _turn(contender, _rotation(0, count, effort.batches))
    return max(1, math.ceil(count * min(effort.seconds / max(seconds, 1e-9), 4)))


def _rotation(start: int, count: int, batches: int) -> list[int]:
    return [index % batches for index in range(start, start + count)]


def _turn(contender: Contender, order: Sequence[int]) -> float:
    """Seconds for some batches; threads meet at its beginning and end only, as servers' do."""
    first, *others = contender.lanes
    begin = time.perf_counter()
    waiting = [_POOL.submit(_lane, lane, order) for lane in others]
    _lane(first, order)
    for one in waiting:
        one.result()
    return time.perf_counter() - begin


def _lane(lane: Lane, order: Sequence[int]) -> None:
    for index in order:
        lane(index)


@dataclass(frozen=True, slots=True)
class Figure:
    """A median over rounds and how far they lie apart.

    Args:
        spread: from the 10th to the 90th percentile, as a share of the median.
    """

    median: float
    spread: float


def figure(values: Sequence[float]) -> Figure:
    """Median and spread of some rounds."""
    middle = statistics.median(values)
    if len(values) < 2:
        return Figure(middle, 0.0)
    tenths = statistics.quantiles(values, n=10, method="inclusive")
    return Figure(middle, (tenths[-1] - tenths[0]) / middle if middle else 0.0)


def ratios(peer: Sequence[float], ours: Sequence[float]) -> list[float]:
    """Peer's time over ours, round by round: above 1, ours is faster."""
    return [a / b for a, b in zip(peer, ours, strict=True)]
