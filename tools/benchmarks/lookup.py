"""`tools/bench lookup`: lookups and bags of a store against the floor and against peers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path

from benchmarks import floor, machine, peers, report
from benchmarks.check import CHECKED, Truth
from benchmarks.data import BAG, EXPONENT, Shape, Source, Work, generate, make_work
from benchmarks.ours import NAME, Ours
from benchmarks.peers import Group, Makers
from benchmarks.report import Result
from benchmarks.timing import Contender, Effort, measure

MIX = "f32=2%,f16=8%,int8=rest"
SAME = "int8"  # our rows in the precision of quantised peers

COUNTS: dict[Shape, int] = {"lookup": 65_536, "bag": 4_096 * BAG}
# ids a batch, and rounds, of storage libraries, which take a thousand times as long
FEW = 4_096
SLOW_ROUNDS = 5

# group: the module and function that make it, and the import that it needs
GROUPS = {
    "floor": ("", "", ""),
    "int8": ("benchmarks.ours", "all_int8", ""),
    "int4": ("benchmarks.ours", "all_int4", ""),
    "pq2": ("benchmarks.ours", "all_pq2", ""),
    "pq4": ("benchmarks.ours", "all_pq4", ""),
    "pq8": ("benchmarks.ours", "all_pq8", ""),
    "float": ("benchmarks.peers_torch", "floats", "torch"),
    "quantized": ("benchmarks.peers_torch", "quantised", "torch"),
    "fbgemm": ("benchmarks.peers_fbgemm", "tables", "fbgemm"),
    "zarr": ("benchmarks.peers_storage", "zarr", "zarr"),
    "tensorstore": ("benchmarks.peers_storage", "tensorstore", "tensorstore"),
    "lmdb": ("benchmarks.peers_storage", "lmdb", "lmdb"),
}
# our own rows in other codes, beside those of int8
CODES = ("int4", "pq2", "pq4", "pq8")
TABLES = ("floor", "int8", *CODES, "float")
STORAGE = ("zarr", "tensorstore", "lmdb")
ALL = tuple(GROUPS)
USUAL = tuple(group for group in GROUPS if group not in ("int8", *CODES))
QUANTISED = ("floor", "quantized", "fbgemm")


@dataclass(frozen=True, slots=True)
class Case:
    """One store and whom to measure on it.

    Args:
        tiers: as for `sharkstore convert --tiers`.
        groups: of peers.
    """

    rows: int
    dim: int
    tiers: str
    threads: int = 1
    groups: tuple[str, ...] = ALL

    @property
    def title(self) -> str:
        """Heading of the case's table."""
        threads = "one thread" if self.threads == 1 else f"{self.threads} threads"
        return f"{self.rows:,} × {self.dim}, {self.tiers}, {threads}"


@dataclass(frozen=True, slots=True)
class Options:
    """What a run does with every case."""

    distributions: tuple[str, ...]
    shapes: tuple[Shape, ...]
    effort: Effort
    folder: Path
    count: int | None = None

    def ids(self, shape: Shape, groups: Sequence[str]) -> int:
        """Ids a batch."""
        usual = self.count or COUNTS[shape]
        return min(usual, FEW) if set(groups) <= set(STORAGE) else usual


def run(cases: Sequence[Case], options: Options) -> list[Result]:
    """Measure all cases."""
    return [result for case in cases for result in _case(case, options)]


def _case(case: Case, options: Options) -> Iterator[Result]:
    source = generate(options.folder, case.rows, case.dim)
    store = Ours(source.store(case.tiers))
    truth = Truth(source, store.view)
    for groups in _together(case.groups):
        with hold(groups, source, options) as makers:
            for work in _works(case, source, options, groups):
                makers_here = [store.contenders, *makers]
                if "floor" in groups and floor.supports(store.view):
                    low = floor.Floor(store.view, options.folder, options.effort)
                    makers_here.insert(1, low.contenders)
                store.make_present()
                contenders = [one for maker in makers_here for one in maker(work)]
                truth.check(contenders, work)
                yield _result(case, work, contenders, options)


def _together(groups: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Groups that are held in memory at the same time; each storage library alone."""
    usable = [group for group in groups if installed(group)]
    yield from [
        tuple(group for group in usable if group in some)
        for some in (TABLES, ("quantized", "fbgemm"), *((one,) for one in STORAGE))
        if any(group in some for group in usable)
    ]


def installed(group: str) -> bool:
    """Whether a group of peers is installed."""
    return GROUPS[group][2] not in peers.missing()


@contextmanager
def hold(groups: Sequence[str], source: Source, options: Options) -> Iterator[list[Makers]]:
    """Peers of some groups, in memory for a while."""
    with ExitStack() as stack:
        makers = []
        for name in groups:
            module, function, _ = GROUPS[name]
            if module:
                group: Group = getattr(import_module(module), function)
                makers.append(stack.enter_context(group(source, options.folder, options.effort)))
        yield makers


def _works(case: Case, source: Source, options: Options, groups: Sequence[str]) -> Iterator[Work]:
    storage = set(groups) <= set(STORAGE)
    if storage and case.threads > 1:
        return
    for shape in options.shapes:
        if storage and shape == "bag":
            continue
        for distribution in options.distributions:
            yield make_work(
                distribution,
                shape,
                source,
                count=options.ids(shape, groups),
                batches=options.effort.batches,
                threads=case.threads,
            )


def _result(case: Case, work: Work, contenders: Sequence[Contender], options: Options) -> Result:
    effort, title = options.effort, case.title
    if work.count != options.ids(work.shape, ["float"]):
        effort = replace(effort, rounds=min(effort.rounds, SLOW_ROUNDS))
        title += f", {work.count:,} ids a call"
    rounds = measure(contenders, effort)
    notes = {contender.name: contender.note for contender in contenders}
    return Result(title, f"{work.shape} {work.distribution}", NAME, rounds, notes)


def text(results: Sequence[Result], options: Options) -> str:
    """The report as markdown."""
    effort = options.effort
    checked = (
        "Every contender's answers were checked before it was timed, on "
        f"{CHECKED:,} ids or bags of two batches: ours bit for bit against the numpy reference, "
        "float32 peers against the checkpoint, quantised ones within half a step."
    )
    method = (
        f"A lookup is {options.ids('lookup', ['float']):,} ids a call, un-pooled; a bag call is "
        f"{options.ids('bag', ['float']) // BAG:,} bags of {BAG}. {effort.batches} batches in "
        f"rotation; Zipf ids have exponent {EXPONENT}, scattered over the table. Contenders take "
        f"turns of {effort.seconds * 1e3:g} ms or more, {effort.rounds} rounds; a figure is the "
        "median of the rounds' ratios ± half the distance from their 10th to their 90th "
        "percentile. **Above 1, ours is faster; over a floor, 1 is as fast as the memory.**"
    )
    lines = [
        "# Lookups",
        f"Machine: {machine.machine()}.",
        f"Versions: {machine.versions()}.",
        checked,
        method,
        report.markdown(results, (floor.NAME, floor.WITH_MAP)),
    ]
    absent = peers.missing()
    if absent:
        lines.append(f"Not installed, so left out: {', '.join(absent)}.")
    return "\n\n".join(lines)


def text_of_calls(results: Sequence[Result]) -> str:
    """The report of small calls as markdown."""
    lines = [
        "# Small lookups",
        f"Machine: {machine.machine()}.",
        f"Versions: {machine.versions()}.",
        "The same ids in every call, so that their rows are in cache. **Above 1, ours is faster.**",
        report.markdown(results, (), "µs"),
    ]
    return "\n\n".join(lines)


def as_json(results: Sequence[Result]) -> str:
    """The report as JSON."""
    return json.dumps(
        {
            "machine": machine.machine(),
            "versions": machine.versions(),
            "missing": peers.missing(),
            "results": report.document(results),
        },
        indent=2,
    )
