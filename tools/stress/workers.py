"""Threads that serve from the same stores at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import sharkstore
from stress.calls import Caller
from stress.served import WAYS, Model

COMPARED = 16  # one in so many answers
TOGETHER = 50_000  # calls of a store until it is opened anew


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is asked.

    Args:
        requests: of each thread, unless there are `seconds`.
    """

    threads: int
    requests: int
    seconds: float | None
    seed: int


@dataclass(slots=True)
class Done:
    """What was asked and answered."""

    requests: int = 0
    checked: int = 0
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)


def run_threads(model: Model, plan: Plan, sample: Callable[[], None]) -> Done:
    """Serve until enough is asked: stores are opened one way after the other.

    Args:
        sample: called between them, and now and then.
    """
    all_done, start, ways = Done(), time.monotonic(), list(WAYS)
    rounds = 0
    while _left(all_done, plan, start):
        calls = min(TOGETHER, -(-plan.requests // len(ways)))
        with sharkstore.open(model.path, **WAYS[ways[rounds % len(ways)]]) as store:
            _round(model, store, plan, (rounds, calls), all_done)
        rounds += 1
        sample()
    all_done.seconds = time.monotonic() - start
    return all_done


def _left(done: Done, plan: Plan, start: float) -> bool:
    if plan.seconds is not None:
        return time.monotonic() - start < plan.seconds
    return done.requests < plan.requests * plan.threads


def _round(
    model: Model, store: sharkstore.Store, plan: Plan, which: tuple[int, int], done: Done
) -> None:
    rounds, calls = which
    request = store.request(list(model.rows))
    each = [Done() for _ in range(plan.threads)]

    def serve(thread: int) -> None:
        caller, mine = Caller(model, store, request, [plan.seed, rounds, thread]), each[thread]
        for number in range(calls):
            compare = number % COMPARED == 0
            try:
                wrong = caller(number, compare=compare)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is told
                wrong = repr(error)
            mine.requests += 1
            mine.checked += compare
            if wrong:
                mine.wrong.append(f"{store!r}, thread {thread}, call {number}: {wrong}")
                return

    threads = [threading.Thread(target=serve, args=(i,)) for i in range(plan.threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in each:
        done.requests += one.requests
        done.checked += one.checked
        done.wrong += one.wrong
