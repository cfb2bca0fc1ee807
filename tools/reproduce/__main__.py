"""The command line of `tools/reproduce/run`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar
from zipfile import BadZipFile

import click
from ctr import datasets
from ctr.datasets import Dataset

from reproduce import cost as costs
from reproduce import fields as selections
from reproduce import rows as tiers
from reproduce.noise import MOST_SEEDS
from reproduce.training import Sizes

Command = TypeVar("Command", bound=Callable[..., Any])


class Numbers(click.ParamType[tuple[Any, ...]]):
    """Numbers with commas between them, each within bounds."""

    name = "a,b,…"

    def __init__(self, least: int, most: int) -> None:
        self._bounds = range(least, most + 1)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(int(word) for word in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of whole numbers", param, ctx)
        for number in numbers:
            if number not in self._bounds:
                least, most = self._bounds[0], self._bounds[-1]
                self.fail(f"{number} is not from {least} to {most}", param, ctx)
        return numbers


def common(sizes: Sizes) -> Callable[[Command], Command]:
    """The arguments of all commands, with a command's own defaults."""
    folder = click.Path(exists=True, file_okay=False, path_type=Path)
    arguments = [
        click.argument("folders", type=folder, nargs=-1, required=True),
        click.option("--dim", type=click.IntRange(1, 4096), default=sizes.dim, help="Of tables."),
        click.option("--hidden", type=Numbers(1, 1 << 16), default=sizes.hidden, help="Widths."),
        click.option("--batch", type=click.IntRange(1), default=sizes.batch, help="Samples."),
        click.option("--rate", type=click.FloatRange(0, min_open=True), default=sizes.rate),
        click.option("--epochs", type=click.IntRange(1), default=sizes.epochs, help="At most."),
        click.option("--json", "as_json", is_flag=True, help="All figures, as JSON."),
    ]

    def add(command: Command) -> Command:
        for argument in reversed(arguments):
            command = argument(command)
        return command

    return add


seeds = click.option(
    "--seeds", type=click.IntRange(2, MOST_SEEDS), default=3, help="Models of each kind."
)


@click.group(context_settings={"show_default": True})
def main() -> None:
    """SHARK's measurements on data sets: folders with encoded.npz and meta.json."""


@main.command()
@common(Sizes())
@seeds
@click.option("--keep", type=Numbers(1, 99), default=selections.KEEP, help="Percent of the fields.")
@click.option("--shuffles", type=click.IntRange(1), default=5, help="Of each field.")
def fields(
    *, folders: Sequence[Path], seeds: int, keep: Sequence[int], shuffles: int, **rest: Any
) -> None:
    """Test AUC when the best fields are kept, by what scores them."""

    def run(dataset: Dataset, sizes: Sizes) -> selections.Selection:
        return selections.run(dataset, seeds, sizes, keep, shuffles)

    _print(folders, run, selections.text, **rest)


@main.command()
@common(costs.SIZES)
@click.option("--rounds", type=click.IntRange(1), default=7, help="Of all methods in turns.")
def cost(*, folders: Sequence[Path], rounds: int, **rest: Any) -> None:
    """Seconds and passes over the data of each scorer."""

    def run(dataset: Dataset, sizes: Sizes) -> costs.Cost:
        return costs.run(dataset, sizes, rounds)

    _print(folders, run, costs.text, **rest)


@main.command()
@common(Sizes())
@seeds
@click.option("--levels", type=Numbers(1, 99), default=tiers.LEVELS, help="Percent of the rows.")
@click.option("--encoding", type=click.Choice(["f32", "f16", "int8"]), default="int8")
def rows(
    *, folders: Sequence[Path], seeds: int, levels: Sequence[int], encoding: str, **rest: Any
) -> None:
    """Test AUC at equal bytes, by what a row's priority is."""

    def run(dataset: Dataset, sizes: Sizes) -> tiers.Kept:
        return tiers.run(dataset, seeds, sizes, levels, encoding)

    _print(folders, run, tiers.text, **rest)


def _print(
    folders: Sequence[Path],
    run: Callable[[Dataset, Sizes], Any],
    text: Callable[[Any], str],
    *,
    as_json: bool,
    **sizes: Any,
) -> None:
    """Run an experiment on each set; a table is out before the next set begins."""
    loaded = [_load(folder) for folder in folders]
    documents = []
    for dataset in loaded:
        found = run(dataset, Sizes(**sizes))
        documents.append(asdict(found))
        if not as_json:
            click.echo(text(found) + "\n")
    if as_json:
        click.echo(json.dumps(documents, indent=2))


def _load(folder: Path) -> Dataset:
    try:
        return datasets.load(folder)
    except (OSError, ValueError, BadZipFile) as error:
        sys.exit(f"error: {folder}: {error}")


if __name__ == "__main__":
    main(prog_name="tools/reproduce/run")
