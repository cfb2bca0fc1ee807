"""Small and hot: the same few ids again and again, a call's time."""

from __future__ import annotations

from dataclasses import replace

from benchmarks import lookup
from benchmarks.check import Truth
from benchmarks.data import generate, make_work
from benchmarks.lookup import Case, Options
from benchmarks.ours import NAME, Ours
from benchmarks.report import Result
from benchmarks.timing import Effort, measure

COUNTS = (1, 64, 2048)


def run(case: Case, options: Options) -> list[Result]:
    """Lookups of few ids against float32 in memory and in a mapped file."""
    source = generate(options.folder, case.rows, case.dim)
    store = Ours(source.store(case.tiers))
    store.make_present()
    effort = Effort(options.effort.rounds, options.effort.seconds, 1)
    groups = [group for group in ("float",) if lookup.installed(group)]
    found = []
    with lookup.hold(groups, source, replace(options, effort=effort)) as makers:
        for count in COUNTS:
            work = make_work("zipf", "lookup", source, count=count, batches=1)
            contenders = [one for make in (store.contenders, *makers) for one in make(work)]
            Truth(source, store.view).check(contenders, work)
            calls = [replace(one, items=1) for one in contenders]
            notes = {one.name: one.note for one in calls}
            title = f"{case.title}, the same ids again and again: a call"
            rounds = measure(calls, effort)
            found.append(Result(title, f"n = {count:,}", NAME, rounds, notes))
    return found
