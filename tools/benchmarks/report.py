"""What was measured, as markdown and as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.timing import figure, ratios

# of our own figures, from seconds an item; an item of a rate is a byte
UNITS: dict[str, Callable[[float], float]] = {
    "ns": lambda seconds: seconds * 1e9,
    "µs": lambda seconds: seconds * 1e6,
    "ms": lambda seconds: seconds * 1e3,
    "GB/s": lambda seconds: 1e-9 / seconds,
}


@dataclass(frozen=True, slots=True)
class Result:
    """Rounds of contenders that ran in turns, on one workload.

    Args:
        title: of the table that the rounds go to.
        column: of that table.
        ours: whose times the others' are divided by.
        rounds: seconds an item, by contender.
    """

    title: str
    column: str
    ours: str
    rounds: dict[str, list[float]]
    notes: dict[str, str]

    def ratio(self, name: str) -> list[float]:
        """Round by round, how many times as long as ours a contender takes."""
        return ratios(self.rounds[name], self.rounds[self.ours])


def markdown(results: Sequence[Result], floors: Sequence[str], unit: str = "ns") -> str:
    """One table a title: a row a contender, a column a workload.

    Args:
        floors: contenders that ours is divided by, instead of the other way round.
        unit: of our own figures, one of `UNITS`.
    """
    titles = list(dict.fromkeys(result.title for result in results))
    return "\n\n".join(
        _table(title, [r for r in results if r.title == title], floors, unit) for title in titles
    )


def _table(title: str, results: Sequence[Result], floors: Sequence[str], unit: str) -> str:
    columns = list(dict.fromkeys(result.column for result in results))
    ours = results[0].ours
    names = [name for result in results for name in result.rounds if name != ours]
    names = sorted(dict.fromkeys(names), key=lambda name: name not in floors)
    lines = [f"### {title}", "", "| | " + " | ".join(columns) + " | notes |"]
    lines.append("|" + "---|" * (len(columns) + 2))
    cells = [_own([r for r in results if r.column == column], unit) for column in columns]
    lines.append(_row(f"**{ours}**, {unit}", cells, _notes(results, ours)))
    for name in names:
        cells = [_cell(results, column, name, inverse=name in floors) for column in columns]
        label = f"{ours} / {name}" if name in floors else f"{name} / {ours}"
        lines.append(_row(label, cells, _notes(results, name)))
    return "\n".join(lines)


def _row(label: str, cells: Sequence[str], notes: str) -> str:
    return f"| {label} | {' | '.join(cells)} | {notes} |"


def _own(results: Sequence[Result], unit: str) -> str:
    """Our own time: of all groups that ran in this column."""
    times = [value for result in results for value in result.rounds[result.ours]]
    found = figure([UNITS[unit](value) for value in times])
    return f"{_three(found.median)} ±{found.spread / 2:.0%}"


def _cell(results: Sequence[Result], column: str, name: str, *, inverse: bool) -> str:
    for result in results:
        if result.column == column and name in result.rounds:
            values = result.ratio(name)
            found = figure([1 / value for value in values] if inverse else values)
            return f"{_three(found.median)} ±{found.spread / 2:.0%}"
    return "–"


def _three(value: float) -> str:
    """Three digits that count."""
    return f"{value:.0f}" if value >= 100 else f"{value:#.3g}"


def _notes(results: Sequence[Result], name: str) -> str:
    """Notes of a contender; told by column where they differ."""
    found = {r.column: r.notes[name] for r in results if r.notes.get(name)}
    if len(set(found.values())) <= 1:
        return next(iter(found.values()), "")
    common = set.intersection(*(set(note.split(", ")) for note in found.values()))
    first = [part for part in next(iter(found.values())).split(", ") if part in common]
    return ", ".join([*first, "rest differs by column (--json)"])


def document(results: Sequence[Result]) -> list[dict[str, Any]]:
    """The same for machines, and the rounds themselves: seconds an item."""
    return [
        {
            "title": result.title,
            "column": result.column,
            "contender": name,
            "note": result.notes.get(name, ""),
            "median_s": statistics.median(values),
            "ratio": figure(result.ratio(name)).median,
            "ratio_spread": figure(result.ratio(name)).spread,
            "rounds_s": values,
        }
        for result in results
        for name, values in result.rounds.items()
    ]
