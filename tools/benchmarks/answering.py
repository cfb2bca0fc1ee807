"""Requests of many tables answered in turns: by a store, by what memory allows, by peers."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

import sharkstore
from benchmarks import peers, traffic_ours
from benchmarks.progress import steps
from benchmarks.report import Result
from benchmarks.timing import Contender, Effort, measure_each
from benchmarks.traffic import Model, Requests, Truth, generate, make_present, make_requests
from benchmarks.traffic_ours import OURS, RequestFloor
from sharkstore.load.store import Store

# rows of all tables together, at most: with all peers they take 7 bytes a value
ROWS = 4_500_000
# of requests of so many ids there are fewer rounds
MANY = ((4_000_000, 3), (1_000_000, 5))
THREADED = 2048  # samples of the requests that peers answer by several threads, too

# contenders on any requests, on a number of threads
Makers = Callable[[Requests, int], list[Contender]]

# group: the module and function that make it, and the import that it needs
GROUPS = {
    "floor": ("", "", ""),
    "nn": ("traffic_torch", "ours", "torch"),
    "float": ("traffic_torch", "floats", "torch"),
    "quantized": ("traffic_torch", "quantised", "torch"),
    "fbgemm": ("traffic_fbgemm", "tables", "fbgemm"),
}


@dataclass(frozen=True, slots=True)
class Options:
    """What is measured.

    Args:
        rows: of each table; as many as `ROWS` allows, 100 000 at most, when left out.
        tiers: as for `sharkstore convert --tiers`.
        groups: of peers.
        effort: its batches are requests in rotation, at most.
    """

    tables: tuple[int, ...]
    rows: int | None
    dim: int
    tiers: str
    batch: tuple[int, ...]
    pooled: tuple[int, ...]
    distributions: tuple[str, ...]
    threads: tuple[int, ...]
    groups: tuple[str, ...]
    effort: Effort
    folder: Path

    def model(self, tables: int) -> Model:
        """Tables of one request."""
        rows = self.rows or min(100_000, ROWS // tables)
        return generate(self.folder, tables, rows, self.dim)


@dataclass(frozen=True, slots=True)
class Answered:
    """Requests of one kind.

    Args:
        result: mean seconds a request, by round.
        seconds: of every single request, by contender.
    """

    requests: Requests
    threads: int
    result: Result
    seconds: dict[str, list[float]]

    def is_one(self, tables: int, batch: int, pooled: int) -> bool:
        """Whether it is of these sizes, by one thread."""
        sizes = (self.requests.model.tables, self.requests.batch, self.requests.pooled)
        return sizes == (tables, batch, pooled) and self.threads == 1


def run(options: Options) -> list[Answered]:
    """Measure requests of all sizes."""
    return [one for tables in options.tables for one in _model(options.model(tables), options)]


def _model(model: Model, options: Options) -> Iterator[Answered]:
    with sharkstore.open(model.store(options.tiers)) as store, _no_gradients():
        note = make_present(store)
        makers = _peers(model, store, note, options)
        truth = Truth(model, store)
        kinds = [
            (distribution, pooled, batch)
            for distribution in options.distributions
            for pooled in options.pooled
            for batch in options.batch
        ]
        for kind in steps(kinds, model.title):
            requests = make_requests(model, kind[0], kind[2], kind[1], options.effort.batches)
            make = _Contenders(store, note, makers, requests, options)
            yield _answered(make.alone(), requests, 1, truth, options)
            more = max(options.threads)
            if model.tables == options.tables[0] and kind[2] == THREADED and more > 1:
                yield _answered(make.threaded(more), requests, more, truth, options)


def _no_gradients() -> AbstractContextManager[Any]:
    """What torch has for serving, if it is there."""
    if "torch" in peers.missing():
        return nullcontext()
    inference: AbstractContextManager[Any] = import_module("torch").inference_mode()
    return inference


def installed(group: str) -> bool:
    """Whether what a group needs is installed."""
    return GROUPS[group][2] not in peers.missing()


def _peers(model: Model, store: Store, note: str, options: Options) -> dict[str, Makers]:
    """What answers requests beside `store.request`, by group; in memory while it is held."""
    groups = [group for group in options.groups if group != "floor" and installed(group)]
    found: dict[str, Makers] = {}
    for group in steps(groups, f"{model.title}: peers"):
        # torch and FBGEMM are imported where they are measured, if they are there
        module, function, _ = GROUPS[group]
        make = getattr(import_module(f"benchmarks.{module}"), function)
        found[group] = make(model, store, note, options.effort)
    return found


@dataclass(frozen=True, slots=True)
class _Contenders:
    store: Store
    note: str
    makers: dict[str, Makers]
    requests: Requests
    options: Options

    def alone(self) -> list[Contender]:
        """Everybody on one thread; ours on several as well."""
        threads = sorted({1, *self.options.threads})
        found = traffic_ours.contenders(self.store, self.requests, self.note, threads)
        if "floor" in self.options.groups:
            effort = effort_of(self.requests, self.options.effort)
            low = RequestFloor(self.store, self.requests, self.options.folder, effort)
            found += low.contenders_of_requests()
        return found + [one for make in self.makers.values() for one in make(self.requests, 1)]

    def threaded(self, threads: int) -> list[Contender]:
        """Ours by one thread, then everybody by several."""
        found = traffic_ours.contenders(self.store, self.requests, self.note, (1, threads))[:2]
        return found + [
            replace(one, name=f"{one.name}, {threads} threads")
            for group, make in self.makers.items()
            if group != "nn"  # which has no threads
            for one in make(self.requests, threads)
        ]


def effort_of(requests: Requests, effort: Effort) -> Effort:
    """Rounds by size, and all requests in rotation."""
    ids = len(requests.ids[0])
    rounds = next((few for least, few in MANY if ids >= least), effort.rounds)
    return replace(effort, rounds=min(rounds, effort.rounds), batches=len(requests.ids))


def _answered(
    contenders: Sequence[Contender],
    requests: Requests,
    threads: int,
    truth: Truth,
    options: Options,
) -> Answered:
    truth.check(contenders, requests)
    turns = measure_each(contenders, effort_of(requests, options.effort))
    notes = {one.name: one.note for one in contenders}
    each = "1 id a bag" if requests.pooled == 1 else f"{requests.pooled} ids a bag"
    by = "one thread" if threads == 1 else f"{threads} threads"
    title = f"{requests.model.title}, {options.tiers}, {requests.distribution} ids, {each}, {by}"
    rounds = {name: [statistics.fmean(turn) for turn in found] for name, found in turns.items()}
    seconds = {name: [one for turn in found for one in turn] for name, found in turns.items()}
    result = Result(title, f"batch {requests.batch:,}", OURS, rounds, notes)
    return Answered(replace(requests, ids=()), threads, result, seconds)


def text(found: Sequence[Answered]) -> str:
    """Times and rates, a table for each title: markdown."""
    titles = list(dict.fromkeys(one.result.title for one in found))
    return "\n\n".join(
        _table(title, [o for o in found if o.result.title == title]) for title in titles
    )


def _table(title: str, found: Sequence[Answered]) -> str:
    columns = [one.result.column for one in found]
    lines = [f"### {title}: p50 / p99, requests a second", "", f"| | {' | '.join(columns)} |"]
    lines.append("|" + "---|" * (len(columns) + 1))
    for name in dict.fromkeys(name for one in found for name in one.seconds):
        cells = [_cell(one.seconds[name]) if name in one.seconds else "–" for one in found]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(seconds: Sequence[float]) -> str:
    half, most = np.quantile(seconds, (0.5, 0.99))
    rate = 1 / statistics.fmean(seconds)
    return f"{spelled(half)} / {spelled(most)}, {rate:,.{0 if rate >= 10 else 1}f}/s"


def spelled(seconds: float) -> str:
    """A time in the unit that suits it, with three digits."""
    for unit, scale in (("s", 1), ("ms", 1e3)):
        if seconds * scale >= 1:
            return f"{seconds * scale:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"


def document(found: Sequence[Answered]) -> list[dict[str, Any]]:
    """The same for machines: seconds."""
    return [
        {
            "tables": one.requests.model.tables,
            "rows": one.requests.model.rows,
            "dim": one.requests.model.dim,
            "distribution": one.requests.distribution,
            "pooled": one.requests.pooled,
            "batch": one.requests.batch,
            "threads": one.threads,
            "contender": name,
            "requests": len(seconds),
            "p50_s": float(np.quantile(seconds, 0.5)),
            "p99_s": float(np.quantile(seconds, 0.99)),
            "requests_per_s": 1 / statistics.fmean(seconds),
            "rounds_s": one.result.rounds[name],
            "ratio": statistics.median(one.result.ratio(name)),
            "note": one.result.notes[name],
        }
        for one in found
        for name, seconds in one.seconds.items()
    ]
