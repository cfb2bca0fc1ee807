"""A conversion that was killed near its end: what the rerun takes, beside one from the start."""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.check import WrongAnswerError
from benchmarks.progress import steps
from benchmarks.timing import figure, ratios
from benchmarks.workers import Input, Way, converted

# tasks that write chunks, as a checkpoint of tens of gigabytes has; killed after so many of them
TASKS, SHARE = 40, 0.9


@dataclass(frozen=True, slots=True)
class Resumed:
    """Conversions from the start, and reruns of killed ones.

    Args:
        start: seconds of a conversion of next to nothing.
        found: tasks that the reruns found written, at least.
        tasks: that there are.
    """

    way: Way
    size: int
    whole: list[float]
    rerun: list[float]
    start: float
    found: int
    tasks: int


def run(inputs: Sequence[tuple[Input, Way]], rounds: int, start: float) -> list[Resumed]:
    """Convert, convert until SIGKILL, and again."""
    return [_one(source, way, rounds, start) for source, way in inputs]


def _one(source: Input, way: Way, rounds: int, start: float) -> Resumed:
    source.warm()
    first = json.loads(converted(source, way).out)
    small = {"task_bytes": max(1, first["stored"] // TASKS)}
    whole, rerun, found, tasks = [], [], [], 0
    for _ in steps(range(rounds), f"resume {way.name}"):
        ran = converted(source, way, **small)
        whole.append(ran.seconds)
        tasks = json.loads(ran.out)["tasks"]
        killed = converted(source, way, keep=True, die_after=max(1, int(SHARE * tasks)), **small)
        if killed.code != -signal.SIGKILL:
            raise WrongAnswerError(f"{way.name}: exit {killed.code} instead of a kill")
        again = converted(source, way, **small)
        rerun.append(again.seconds)
        found.append((json.loads(again.out)["resumed"] or (0,))[0])
    if min(found) < int(SHARE * tasks):
        raise WrongAnswerError(f"{way.name}: only {min(found)} of {tasks} tasks were taken up")
    return Resumed(way, first["source"], whole, rerun, start, min(found), tasks)


def text(found: Sequence[Resumed]) -> str:
    """The table as markdown."""
    columns = (
        "options|GB|undisturbed, s|rerun, s|rerun / undisturbed by pair|median|without start|"
        "found written"
    )
    lines = [
        f"### A rerun after SIGKILL, {SHARE:.0%} of the chunks written",
        "",
        (
            f"Bar: **< 0.25**. Tasks are so small that there are about {TASKS} that write. "
            "Start: of a process that converts next to nothing."
        ),
        "",
        f"| {columns.replace('|', ' | ')} |",
        "|" + "---|" * 8,
    ]
    for one in found:
        by_pair = ratios(one.rerun, one.whole)
        rest = [[seconds - one.start for seconds in some] for some in (one.rerun, one.whole)]
        middle, growing = figure(by_pair), figure(ratios(*rest))
        cells = [
            f"`{one.way.name}`",
            f"{one.size / 1e9:.2g}",
            f"{figure(one.whole).median:.2f}",
            f"{figure(one.rerun).median:.2f}",
            ", ".join(f"{ratio:.2f}" for ratio in by_pair),
            f"**{middle.median:.2f}** ±{middle.spread / 2:.0%}",
            f"{growing.median:.2f} ±{growing.spread / 2:.0%}",
            f"{one.found} of {one.tasks}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
