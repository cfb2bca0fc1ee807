"""The metadata of merged stats: totals over all files, and what all files agree on."""

from __future__ import annotations

import json

from sharkstore.plan.stats import FIELD_KINDS
from sharkstore.stats.agree import SAME
from sharkstore.stats.file import VERSION
from sharkstore.stats.inputs import Inputs, number, table_numbers

# totals of the metadata, and the kinds of arrays that they go with
TOTALS = {
    "samples": ("count",),
    "labelled": ("positive",),
    "measured": (*FIELD_KINDS, "sensitivity", "metric"),
}


def merged_metadata(merge: Inputs) -> dict[str, str]:
    """The texts: totals added up, the others where all files that have them agree."""
    texts: dict[str, str] = {}
    for name in sorted({name for stats in merge.files for name in stats.metadata}):
        said = {stats.metadata[name] for stats in merge.files if name in stats.metadata}
        if len(said) == 1 or name in SAME:
            texts[name] = min(said)
    for name in ("uses", *TOTALS):
        texts.pop(name, None)
    fields = {name: table for stats in merge.files for name, table in stats.fields.items()}
    texts["fields"] = json.dumps(fields, sort_keys=True, ensure_ascii=False)
    texts["version"] = VERSION
    for name, kinds in TOTALS.items():
        total = _total(merge, name, kinds)
        if total is not None:
            texts[name] = _text(total)
    uses = _uses(merge)
    if uses:
        texts["uses"] = json.dumps(uses, sort_keys=True, ensure_ascii=False)
    _note_curvature(merge)
    return texts


def _total(merge: Inputs, name: str, kinds: tuple[str, ...]) -> float | None:
    """A total over all files; None if one that has such arrays doesn't say its own."""
    files = list(merge.pairs(name))
    said = [(number(stats, name), share) for stats, share in files]
    known = [share * value for value, share in said if value is not None]
    silent = [
        stats.where
        for (stats, _), (value, _) in zip(files, said, strict=True)
        if value is None and any(key.rpartition("/")[2] in kinds for key in stats.arrays)
    ]
    for where in silent if known else ():
        merge.note(f"{name!r} is left out, as not every file says it", where)
    return sum(known) if known and not silent else None


def _uses(merge: Inputs) -> dict[str, float]:
    totals: dict[str, float] = {}
    silent = set()
    for stats, share in merge.pairs():
        uses = table_numbers(stats, "uses")
        for table, value in uses.items():
            totals[table] = totals.get(table, 0.0) + share * value
        silent |= {t for t in stats.tables if f"tables/{t}/metric" in stats.arrays} - set(uses)
    whole = {t: int(v) if v == int(v) else v for t, v in totals.items()}
    return {table: value for table, value in whole.items() if table not in silent}


def _note_curvature(merge: Inputs) -> None:
    """A file that doesn't say how it measured is believed to have measured as the others."""
    said = {stats.metadata.get("curvature") for stats in merge.files} - {None}
    for stats in merge.files:
        kinds = {key.rpartition("/")[2] for key in stats.arrays}
        if said and "curvature" not in stats.metadata and kinds & {"metric", "sensitivity"}:
            merge.note(f"without its curvature, taken for {said.pop()}", stats.where)
            return


def _text(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
