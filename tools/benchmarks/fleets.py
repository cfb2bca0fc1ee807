"""Processes that serve from one store at the same time, and from tables of their own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import peers
from benchmarks.answering import Options, spelled
from benchmarks.progress import steps
from benchmarks.timing import figure

BATCH = 512
TURN, ROUNDS = 0.5, 3
WAYS = {"sharkstore": "", "nn.EmbeddingBag": "torch"}
FIELDS = ("Rss", "Pss", "Private_Dirty")
MB = 1e6


@dataclass(frozen=True, slots=True)
class Fleet:
    """Processes of one kind, at work at the same time.

    Args:
        stored: bytes of the tables.
        rates: requests a second of all processes together, by round.
        p99: seconds of a request, the worst process's, by round.
        memory: of each process, bytes beyond what it had before it opened the tables, by field
            of /proc/PID/smaps_rollup; empty where there is none.
    """

    way: str
    batch: int
    processes: int
    stored: int
    rates: list[float]
    p99: list[float]
    memory: list[dict[str, int]]


class Worker:
    """One process of `serving.py`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._before: dict[str, int] = {}

    def ask(self, what: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        """What it says next.

        Raises:
            CalledProcessError: it ended instead.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise subprocess.CalledProcessError(self._process.wait(), self._process.args)
        return json.loads(line)

    def note_memory(self) -> None:
        """What it has from here on counts."""
        self._before = rollup(self._process.pid)

    def memory(self) -> dict[str, int]:
        now = rollup(self._process.pid)
        return {name: now[name] - self._before[name] for name in now}


def rollup(pid: int) -> dict[str, int]:
    """Resident bytes of a process; nothing where the system does not tell."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return {}
    found = dict(re.findall(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE))
    return {name: int(found[name]) << 10 for name in FIELDS if name in found}


def run(options: Options, processes: Sequence[int]) -> list[Fleet]:
    """Serve from the first number of tables, by so many processes; both kinds in turns."""
    ways = [way for way, needs in WAYS.items() if needs not in peers.missing()]
    model = options.model(options.tables[0])
    places = {"sharkstore": str(model.store(options.tiers)), "nn.EmbeddingBag": str(model.folder)}
    how = {"tables": model.tables, "rows": model.rows, "dim": model.dim}
    how["batch"] = min(BATCH, max(options.batch))
    return [
        fleet
        for count in steps(processes, "processes")
        for fleet in _together({way: places[way] for way in ways}, how, count, options)
    ]


def _together(
    places: dict[str, str], how: dict[str, int], count: int, options: Options
) -> Iterator[Fleet]:
    with ExitStack() as stack:
        workers: dict[str, list[Worker]] = {}
        stored = {}
        for way, place in places.items():
            mine = [stack.enter_context(_worker(way, place, how, seed)) for seed in range(count)]
            for one in mine:
                one.answer()
            for one in mine:
                one.note_memory()
                one.ask("open")
            stored[way] = max(one.answer() for one in mine)
            workers[way] = mine
        turn = min(TURN, 10 * options.effort.seconds)
        turns: dict[str, list[list[Any]]] = {way: [] for way in places}
        for _ in range(min(ROUNDS, options.effort.rounds)):
            for way, mine in workers.items():
                for one in mine:
                    one.ask(turn)
                turns[way].append([one.answer() for one in mine])
        for way, mine in workers.items():
            rates = [sum(one["rate"] for one in turn) for turn in turns[way]]
            p99 = [max(one["p99"] for one in turn) for turn in turns[way]]
            memory = [found for one in mine if (found := one.memory())]
            yield Fleet(way, how["batch"], count, stored[way], rates, p99, memory)


@contextmanager
def _worker(way: str, place: str, how: dict[str, int], seed: int) -> Iterator[Worker]:
    how = {**how, "seed": seed}
    command = [sys.executable, "-m", "benchmarks.serving", way, place, json.dumps(how)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            yield Worker(process)
        finally:
            process.kill()


def text(fleets: Sequence[Fleet]) -> str:
    """The table as markdown."""
    columns = ["", "processes", "requests/s, all", "p99", "tables, MB", "RSS each, MB"]
    columns += ["PSS each, MB", "PSS all, MB"]
    batch = fleets[0].batch
    lines = [
        f"### Processes: uniform ids, batch {batch:,}, 1 id a bag, one thread each",
        "",
        (
            "Medians of turns; memory beyond what a process had before it opened the tables, after "
            "it read every row, from smaps_rollup. PSS shares each page out among those who map "
            "it: where its sum stays that of one process, all have the same pages. Processes of "
            "torch have tables in float32, each its own."
        ),
        "",
        f"| {' | '.join(columns)} |",
        "|" + "---|" * len(columns),
    ]
    for one in fleets:
        cells = [one.way, str(one.processes), f"{figure(one.rates).median:,.0f}"]
        cells += [spelled(figure(one.p99).median), f"{one.stored / MB:,.0f}", *_sizes(one)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _sizes(fleet: Fleet) -> list[str]:
    if not fleet.memory:
        return ["–"] * 3
    rss, pss = (sum(one[name] for one in fleet.memory) for name in FIELDS[:2])
    count = len(fleet.memory)
    return [f"{size / MB:,.0f}" for size in (rss / count, pss / count, pss)]


def document(fleets: Sequence[Fleet]) -> list[dict[str, Any]]:
    """The same for machines: seconds and bytes."""
    return [
        {
            "way": one.way,
            "batch": one.batch,
            "processes": one.processes,
            "stored": one.stored,
            "requests_per_s": figure(one.rates).median,
            "rates": one.rates,
            "p99_s": one.p99,
            "memory": one.memory,
        }
        for one in fleets
    ]
