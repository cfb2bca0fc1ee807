"""The command line of `tools/bench`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from benchmarks import answering, measuring, opening
from benchmarks import convert as conversions
from benchmarks import lookup as lookups
from benchmarks import serve as serving
from benchmarks import small as calls
from benchmarks.check import WrongAnswerError
from benchmarks.data import Shape
from benchmarks.lookup import ALL, CODES, MIX, QUANTISED, SAME, USUAL, Case, Options
from benchmarks.measuring import Loop
from benchmarks.options import Words, check_one_tiers, check_tiers, work_folder
from benchmarks.timing import Effort

MILLION = 1_000_000


@click.group()
def main() -> None:
    """Measure sharkstore beside its peers."""


@main.command()
@click.option("--rows", type=Words(int), help="Rows of the tables.")
@click.option("--dim", type=Words(int), help="Values a row.")
@click.option(
    "--tiers",
    multiple=True,
    callback=check_tiers,
    help=f"As for sharkstore convert; {MIX} when left out.",
)
@click.option(
    "--distribution", type=Words(str, ("zipf", "uniform")), default="zipf,uniform", help="Of ids."
)
@click.option("--shape", type=Words(str, ("lookup", "bag")), default="lookup,bag")
@click.option("--threads", type=Words(int), default="1", show_default=True)
@click.option("--only", type=Words(str, ALL), default=",".join(USUAL), help="Groups of peers.")
@click.option("--batch", type=int, help="Ids a batch.")
@click.option("--repeats", type=click.IntRange(1), help="Rounds.")
@click.option("--quick", is_flag=True, help="A small table and short turns: is all in order?")
@click.option("--small", is_flag=True, help="Few ids, the same in every call, instead.")
@click.option("--full", is_flag=True, help="More sizes, encodings and threads; hours.")
@click.option("--dir", "folder", type=click.Path(path_type=Path), help="For tables and stores.")
@click.option("--keep", is_flag=True, help="Leave them there, for a quick next run.")
@click.option("--json", "as_json", is_flag=True, help="All figures, as JSON.")
def lookup(
    *,
    distribution: tuple[str, ...],
    shape: tuple[Shape, ...],
    batch: int | None,
    repeats: int | None,
    quick: bool,
    small: bool,
    folder: Path | None,
    keep: bool,
    as_json: bool,
    **which: Any,
) -> None:
    """Lookups and bags, against the floor and against peers."""
    usual = Effort(3, 0.004, 8) if quick else Effort()
    effort = Effort(repeats or usual.rounds, usual.seconds, usual.batches)
    with work_folder(folder, keep=keep) as made:
        options = Options(distribution, shape, effort, made, batch)
        cases = _cases(quick=quick, **which)
        if small:
            mixed = [case for case in cases if case.tiers != SAME or which["tiers"]]
            results = [one for case in mixed for one in calls.run(case, options)]
            click.echo(lookups.as_json(results) if as_json else lookups.text_of_calls(results))
        else:
            results = lookups.run(cases, options)
            click.echo(lookups.as_json(results) if as_json else lookups.text(results, options))


@main.command()
@click.option("--gb", type=click.FloatRange(min=0, min_open=True), help="Size of the checkpoint.")
@click.option("--pairs", type=click.IntRange(1), default=3, show_default=True, help="At least.")
@click.option("--quick", is_flag=True, help="1 GB instead of 5, and short turns.")
@click.option("--dir", "folder", type=click.Path(path_type=Path), help="On the disk to measure.")
@click.option("--keep", is_flag=True, help="Leave the checkpoint there, for a quick next run.")
@click.option("--json", "as_json", is_flag=True, help="All figures, as JSON.")
def convert(
    *, gb: float | None, pairs: int, quick: bool, folder: Path | None, keep: bool, as_json: bool
) -> None:
    """Quantising and writing beside libraries, whole conversions beside cp."""
    size = int((gb or (1 if quick else 5)) * 1e9)
    effort = Effort(3, 0.02) if quick else Effort(9, 0.1)
    with work_folder(folder, keep=keep) as made:
        found = conversions.run(size, pairs, effort, made, quick=quick)
    click.echo(conversions.as_json(found) if as_json else conversions.text(found))


@main.command("open")
@click.option("--tables", type=Words(int), default="1,26,200,1000", show_default=True)
@click.option("--quick", is_flag=True, help="Short turns.")
@click.option("--json", "as_json", is_flag=True, help="All figures, as JSON.")
def open_(*, tables: tuple[int, ...], quick: bool, as_json: bool) -> None:
    """Opening of stores of many tables."""
    with work_folder(None, keep=False) as made:
        results = opening.run(tables, Effort(3, 0.005) if quick else Effort(), made)
    click.echo(opening.as_json(results) if as_json else opening.text(results))


@main.command()
@click.option("--repeats", type=click.IntRange(1), default=9, show_default=True, help="Rounds.")
@click.option("--quick", is_flag=True, help="Small tables and few batches: is all in order?")
@click.option("--json", "as_json", is_flag=True, help="All figures, as JSON.")
def importance(*, repeats: int, quick: bool, as_json: bool) -> None:
    """Scores of fields and rows, beside the loop that they are measured in."""
    loops = [Loop((16,), sparse=True, fields=3, rows=1000, batch=64)] if quick else measuring.LOOPS
    results = measuring.run(loops, Effort(2 if quick else repeats, 0.005))
    click.echo(measuring.as_json(results) if as_json else measuring.text(results))


@main.command()
@click.option("--tables", type=Words(int), help="Of a request; 26,300 when left out.")
@click.option("--rows", type=click.IntRange(1), help="Of each table.")
@click.option("--dim", type=click.IntRange(1), default=64, show_default=True, help="Values a row.")
@click.option(
    "--tiers", callback=check_one_tiers, default=SAME, show_default=True, help="As for convert."
)
@click.option("--batch", type=Words(int), help="Samples; 1,64,512,2048,4096 when left out.")
@click.option("--pooled", type=Words(int), default="1,20", show_default=True, help="Ids a bag.")
@click.option(
    "--distribution",
    type=Words(str, ("zipf", "uniform")),
    default="uniform",
    show_default=True,
    help="Of ids.",
)
@click.option(
    "--threads", type=Words(int), default="1,2", show_default=True, help="Of store.request."
)
@click.option("--processes", type=Words(int), help="At a time; 1,2,4 when left out.")
@click.option(
    "--only",
    type=Words(str, tuple(answering.GROUPS)),
    default=",".join(answering.GROUPS),
    help="Groups of peers.",
)
@click.option(
    "--section",
    type=Words(str, serving.SECTIONS),
    default=",".join(serving.USUAL),
    show_default=True,
)
@click.option("--cold", is_flag=True, help="Cold data, instead of the other sections.")
@click.option("--cold-size", type=click.FloatRange(min=0, min_open=True), help="GB; 2 if left out.")
@click.option("--repeats", type=click.IntRange(1), help="Rounds.")
@click.option("--quick", is_flag=True, help="Small tables and short turns: is all in order?")
@click.option("--dir", "folder", type=click.Path(path_type=Path), help="For tables and stores.")
@click.option("--keep", is_flag=True, help="Leave them there, for a quick next run.")
@click.option("--json", "as_json", is_flag=True, help="All figures, as JSON.")
def serve(
    *,
    tables: tuple[int, ...] | None,
    rows: int | None,
    batch: tuple[int, ...] | None,
    distribution: tuple[str, ...],
    processes: tuple[int, ...] | None,
    only: tuple[str, ...],
    section: tuple[str, ...],
    cold: bool,
    cold_size: float | None,
    repeats: int | None,
    quick: bool,
    folder: Path | None,
    keep: bool,
    as_json: bool,
    **which: Any,
) -> None:
    """Requests of many tables, one process and several, and a DLRM, beside peers."""
    usual = Effort(3, 0.004, 64) if quick else Effort(9, 0.05, 4096)
    with work_folder(folder, keep=keep) as made:
        options = answering.Options(
            tables=tables or ((3, 5) if quick else (26, 300)),
            rows=rows or (2000 if quick else None),
            batch=batch or ((1, 64) if quick else (1, 64, 512, 2048, 4096)),
            distributions=distribution,
            groups=only,
            effort=Effort(repeats or usual.rounds, usual.seconds, usual.batches),
            folder=made,
            **which,
        )
        fleets = processes or ((1, 2) if quick else (1, 2, 4))
        size = int((cold_size or (0.2 if quick else 2)) * 1e9)
        found = serving.run(options, ("cold",) if cold else section, fleets, size)
    click.echo(serving.as_json(found) if as_json else serving.text(found))


def _cases(
    *,
    rows: tuple[int, ...] | None,
    dim: tuple[int, ...] | None,
    tiers: tuple[str, ...],
    threads: tuple[int, ...],
    only: tuple[str, ...],
    quick: bool,
    full: bool,
) -> list[Case]:
    if rows or dim or tiers or quick:
        chosen_rows = rows or ((200_000,) if quick else (5 * MILLION,))
        return [
            Case(one_rows, one_dim, one_tiers, one_threads, only)
            for one_rows in chosen_rows
            for one_dim in dim or (16,)
            for one_tiers in tiers or (MIX,)
            for one_threads in threads
        ]
    cases = []
    for one_rows, one_dim in [(5 * MILLION, 16), (20 * MILLION, 64)]:
        for one_threads in threads:
            cases.append(Case(one_rows, one_dim, MIX, one_threads, only))
            same = tuple(group for group in QUANTISED if group in only)
            cases.append(Case(one_rows, one_dim, SAME, one_threads, same))
            codes = CODES if only == USUAL else tuple(group for group in CODES if group in only)
            cases += [Case(one_rows, one_dim, SAME, one_threads, codes)] if codes else []
    return cases + (_more_cases(only) if full else [])


def _more_cases(only: tuple[str, ...]) -> list[Case]:
    """Sizes from a cache's to a memory's, widths, threads, stores of one encoding."""
    groups = tuple(group for group in only if group not in lookups.STORAGE)
    few = tuple(group for group in ("floor", "float") if group in only)
    sizes = [(20_000, 16), (20_000, 64), (20_000, 128), (500_000, 64), (5 * MILLION, 128)]
    cases = [Case(rows, dim, MIX, 1, groups) for rows, dim in sizes]
    for rows, dim in [(5 * MILLION, 16), (20 * MILLION, 64)]:
        cases.append(Case(rows, dim, MIX, 2, groups))
        alone = ("f32", "f16", "int8", "int4", "int2")
        cases += [Case(rows, dim, tiers, 1, few) for tiers in alone]
    return cases


def cli() -> None:
    """Run a command; exit 1 where a contender is wrong."""
    try:
        main()
    except WrongAnswerError as error:
        sys.exit(f"wrong answer: {error}")


if __name__ == "__main__":
    cli()
