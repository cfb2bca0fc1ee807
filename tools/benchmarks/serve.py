"""`tools/bench serve`: whole requests in the serving process, beside peers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from benchmarks import answering, cold, fleets, floor, machine, peers, report
from benchmarks.answering import Answered, Options
from benchmarks.bars import Bar
from benchmarks.cold import Cold
from benchmarks.data import EXPONENT
from benchmarks.fleets import Fleet
from benchmarks.report import Result
from benchmarks.timing import figure
from benchmarks.traffic import CHECKED, WATCHED
from benchmarks.traffic_ours import OURS

USUAL = ("requests", "processes", "dlrm")
SECTIONS = (*USUAL, "cold")
COLD_ROUNDS = 3
MOST = 26  # tables that the bars of requests are meant for


@dataclass(slots=True)
class Found:
    """What was measured, by section."""

    options: Options
    requests: list[Answered] = field(default_factory=list)
    processes: list[Fleet] = field(default_factory=list)
    dlrm: list[Result] = field(default_factory=list)
    cold: Cold | None = None

    def bars(self) -> list[Bar]:
        """What has to be reached, and was measured."""
        tables = self.options.tables[0]
        found = [bar for one in self.requests if tables <= MOST for bar in _bars(one, tables)]
        found += [bar for one in self.dlrm for bar in _dlrm().bars(one)]
        return found + (cold.bars(self.cold) if self.cold else [])


def run(
    options: Options, sections: Sequence[str], processes: Sequence[int], cold_size: int
) -> Found:
    """Measure some sections.

    Args:
        cold_size: bytes of the store that is read cold.
    """
    found = Found(options)
    if "requests" in sections:
        found.requests = answering.run(options)
    if "processes" in sections:
        found.processes = fleets.run(options, processes)
    if "dlrm" in sections and "torch" not in peers.missing():
        found.dlrm = _dlrm().run(options)
    if "cold" in sections:
        rounds = min(COLD_ROUNDS, options.effort.rounds)
        found.cold = cold.run(cold_size, rounds, options.folder / "cold")
    return found


def _dlrm() -> Any:
    return import_module("benchmarks.dlrm")  # torch is imported where it is there


def _bars(one: Answered, tables: int) -> list[Bar]:
    """Of requests of the first number of tables, one id a bag."""
    ratios = {name: figure(one.result.ratio(name)).median for name in one.result.rounds}
    what = f"{one.requests.model.title}, {one.requests.distribution} ids, {one.result.column}"
    found = []
    if one.is_one(tables, 1, 1):
        found.append(Bar(f"{what}: {OURS}", figure(one.seconds[OURS]).median * 1e6, 15, "µs"))
        if (name := "nn.EmbeddingBag fp32") in ratios:
            found.append(Bar(f"{what}: {name}, a call a table / ours", ratios[name], 5))
    if one.is_one(tables, 2048, 1) and (name := "FBGEMM TBE int8") in ratios:
        found.append(Bar(f"{what}: {name} / ours", ratios[name], 2))
    return found


def text(found: Found) -> str:
    """The report as markdown."""
    parts = ["# Serving", f"Machine: {machine.machine()}.", f"Versions: {machine.versions()}."]
    if found.requests:
        results = [one.result for one in found.requests]
        parts += [_method(found.options), report.markdown(results, (floor.NAME,), "µs")]
        parts.append(answering.text(found.requests))
    if found.processes:
        parts.append(fleets.text(found.processes))
    if found.dlrm:
        parts.append(_dlrm().text(found.dlrm))
    if found.cold:
        parts.append(cold.text(found.cold))
    if bars := found.bars():
        parts.append("\n".join(["### Bars", "", *map(str, bars)]))
    absent = [peer for peer in peers.missing() if peer in ("torch", "fbgemm")]
    if absent:
        parts.append(f"Not installed, so left out: {', '.join(absent)}.")
    return "\n\n".join(parts)


def _method(options: Options) -> str:
    effort = options.effort
    return (
        f"Answers of the {CHECKED} first and last samples of two requests were checked before "
        "anybody was timed: ours bit for bit against the numpy reference, float32 peers against "
        "the checkpoint, quantised ones within half a step. All have the same ids, which are in "
        f"memory, as are all tables, ours warmed and {WATCHED:,} ids looked up in each. Requests "
        f"of many tables have {answering.ROWS:,} rows in all, so that all peers fit into 5 GB. "
        f"Zipf ids have exponent {EXPONENT}. Contenders take turns of "
        f"{effort.seconds * 1e3:g} ms or more, {effort.rounds} rounds, fewer where a request has "
        f"{answering.MANY[-1][0]:,} ids; a figure is the median of the rounds' ratios ± half the "
        "distance from their 10th to their 90th percentile. Peers that are called table by table "
        "give a list of bags, not joined; the better of int64 and int32 ids counts. Floor: the "
        "same bytes, every address known. **Above 1, ours is faster; over the floor, 1 is as fast "
        "as the memory.** p50 and p99 are of single requests; of fewer than 100, p99 is about the "
        "slowest."
    )


def as_json(found: Found) -> str:
    """The report as JSON."""
    document: dict[str, Any] = {
        "machine": machine.machine(),
        "versions": machine.versions(),
        "missing": peers.missing(),
        "requests": answering.document(found.requests),
        "processes": fleets.document(found.processes),
        "dlrm": report.document(found.dlrm),
        "cold": cold.document(found.cold) if found.cold else None,
        "bars": [bar.document() for bar in found.bars()],
    }
    return json.dumps(document, indent=2)
