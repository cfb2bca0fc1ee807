"""The command line of `tools/reproduce/run`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar
from zipfile import BadZipFile

import click
import numpy as np
from ctr import datasets, longtail
from ctr.datasets import Dataset
from numpy.typing import NDArray

from reproduce import cost as costs
from reproduce import fields as selections
from reproduce import frontier as frontiers
from reproduce import frontier_plot, frontier_text
from reproduce import rows as tiers
from reproduce.noise import MOST_SEEDS
from reproduce.options import FOLDER, Numbers, Percents, Picture, Set
from reproduce.training import Sizes

QUICK = 300  # as many times less of longtail

Command = TypeVar("Command", bound=Callable[..., Any])
Found = TypeVar("Found", selections.Selection, costs.Cost, tiers.Kept, frontiers.Frontier)


def common(sizes: Sizes, sets: click.ParamType[Any] = FOLDER) -> Callable[[Command], Command]:
    """The arguments of all commands, with a command's own defaults."""
    arguments = [
        click.argument("folders", type=sets, nargs=-1, required=True),
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
    """Measurements on data sets: folders with encoded.npz and meta.json."""


@main.command()
@common(Sizes())
@seeds
@click.option("--keep", type=Numbers(1, 99), default=selections.KEEP, help="Percent of the fields.")
@click.option("--shuffles", type=click.IntRange(1), default=5, help="Of each field.")
def fields(
    *,
    folders: Sequence[Path],
    seeds: int,
    keep: Sequence[int],
    shuffles: int,
    as_json: bool,
    **rest: Any,
) -> None:
    """Test AUC when the best fields are kept, by what scores them."""
    loaded, sizes = [_load(one) for one in folders], Sizes(**rest)
    found = (selections.run(one, seeds, sizes, keep, shuffles) for one in loaded)
    _print(found, selections.text, as_json=as_json)


@main.command()
@common(costs.SIZES)
@click.option("--rounds", type=click.IntRange(1), default=7, help="Of all methods in turns.")
def cost(*, folders: Sequence[Path], rounds: int, as_json: bool, **rest: Any) -> None:
    """Seconds and passes over the data of each scorer."""
    loaded, sizes = [_load(one) for one in folders], Sizes(**rest)
    _print((costs.run(one, sizes, rounds) for one in loaded), costs.text, as_json=as_json)


@main.command()
@common(Sizes())
@seeds
@click.option("--levels", type=Numbers(1, 99), default=tiers.LEVELS, help="Percent of the rows.")
@click.option("--encoding", type=click.Choice(["f32", "f16", "int8"]), default="int8")
def rows(
    *,
    folders: Sequence[Path],
    seeds: int,
    levels: Sequence[int],
    encoding: str,
    as_json: bool,
    **rest: Any,
) -> None:
    """Test AUC at equal bytes, by what a row's priority is."""
    loaded, sizes = [_load(one) for one in folders], Sizes(**rest)
    found = (tiers.run(one, seeds, sizes, levels, encoding) for one in loaded)
    _print(found, tiers.text, as_json=as_json)


@main.command()
@common(frontiers.SIZES, Set())
@seeds
@click.option("--sizes", "shares", type=Percents(), default=frontiers.SHARES, help="Percent.")
@click.option("--resamples", type=click.IntRange(1), default=200, help="Of each bootstrap.")
@click.option("--plot", type=Picture(), help="Draw it too: .svg or .png.")
@click.option("--quick", is_flag=True, help="A trial: a small longtail, one epoch.")
def frontier(
    *,
    folders: Sequence[Path | str],
    seeds: int,
    shares: Sequence[float],
    resamples: int,
    plot: Path | None,
    quick: bool,
    as_json: bool,
    **rest: Any,
) -> None:
    """Change of quality against size, by what decides how rows are stored.

    A set is a folder, or `longtail`, which is generated.
    """
    if plot and find_spec("matplotlib") is None:
        sys.exit("error: --plot needs matplotlib: pip install '.[plot]'")
    sizes = replace(frontiers.SIZES, **rest | ({"epochs": 1} if quick else {}))
    loaded = [load_known(one, quick=quick) for one in folders]
    found = (
        frontiers.run(dataset, known, seeds, sizes, shares, resamples) for dataset, known in loaded
    )
    printed = _print(found, frontier_text.text, as_json=as_json)
    if plot:
        frontier_plot.plot(printed, plot)


def _print(found: Iterable[Found], text: Callable[[Found], str], *, as_json: bool) -> list[Found]:
    """Tell what was found on each set; a table is out before the next set begins."""
    told = []
    for one in found:
        told.append(one)
        if not as_json:
            click.echo(text(one) + "\n")
    if as_json:
        click.echo(json.dumps([asdict(one) for one in told], indent=2))
    return told


def load_known(one: Path | str, *, quick: bool) -> tuple[Dataset, NDArray[np.float32] | None]:
    """A set, and the logits behind its labels where they are known: `longtail`, or a folder."""
    if isinstance(one, Path):
        return _load(one), None
    return longtail.generate(QUICK if quick else 1)


def _load(folder: Path) -> Dataset:
    try:
        return datasets.load(folder)
    except (OSError, ValueError, BadZipFile) as error:
        sys.exit(f"error: {folder}: {error}")


if __name__ == "__main__":
    main(prog_name="tools/reproduce/run")
