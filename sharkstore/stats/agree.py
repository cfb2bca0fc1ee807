"""Whether stats files can be merged: one model, measured in one way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sharkstore.errors import StatsError
from sharkstore.plan.stats import FIELD_KINDS, PER_ROW, Stats
from sharkstore.stats.file import VERSION
from sharkstore.stats.inputs import column

# texts of the metadata that must be the same wherever they are; a beta may differ, as it does
# nothing within one period
SAME = ("loss", "curvature", "alpha_positive", "alpha_negative")


def check_agreement(files: Sequence[Stats]) -> None:
    """Refuse files that aren't of one model, or weren't measured in one way.

    Raises:
        StatsError: naming the two files that differ, or the one that makes no sense.
    """
    for stats in files:
        version = stats.metadata.get("version", VERSION)
        if version != VERSION:
            remedy = "upgrade sharkstore"
            raise StatsError(
                "stats of another version",
                where=stats.where,
                got=version,
                expected=VERSION,
                remedy=remedy,
            )
    said: dict[tuple[str, str], tuple[object, str]] = {}
    for stats in files:
        for what, value in _facts(stats):
            known, where = said.setdefault(what, (value, stats.where))
            if known != value:
                message = f"{' '.join(what)} differs from that of {where}"
                raise StatsError(message, where=stats.where, got=value, expected=known)


def _facts(stats: Stats) -> Iterator[tuple[tuple[str, str], object]]:
    """What must be the same in every file that says it."""
    for name in SAME:
        if name in stats.metadata:
            yield ("the", name), _number_or_text(stats.metadata[name])
    for field, table in stats.fields.items():
        yield ("the table of field", repr(field)), table
    for table in sorted(stats.tables):
        for kind in (*PER_ROW, "mean", "metric"):
            found = column(stats, f"tables/{table}/{kind}")
            if found is not None:
                length = "rows" if kind in PER_ROW else "dim"
                yield (f"{length} of table", repr(table)), len(found)
    for key in stats.arrays:
        if key.startswith("fields/") and key.rpartition("/")[2] in FIELD_KINDS:
            column(stats, key)


def _number_or_text(text: str) -> object:
    try:
        return float(text)
    except ValueError:
        return text
