"""Options and pictures of a budget: what it leads to, and what others would."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from sharkstore.allocate.allocate import Point
from sharkstore.allocate.request import DEFAULT, parse_encodings, parse_floor
from sharkstore.cli.render import Grid, percent, size
from sharkstore.convert import Conversion
from sharkstore.errors import PlanError, WriteError
from sharkstore.plan.amounts import parse_amount
from sharkstore.plan.policy import METHODS, ROUNDINGS, Policy, check_above_zero
from sharkstore.plan.weigh import WEIGHS

PICTURES = (".svg", ".png", ".pdf")


def checked(check: Callable[[Any], object]) -> Callable[..., Any]:
    """A callback that refuses an option's value, or one of its values, as bad usage."""

    def callback(_context: click.Context, _parameter: click.Parameter, value: Any) -> Any:
        try:
            for one in value if isinstance(value, tuple) else (value,):
                if one is not None:
                    check(one)
        except PlanError as error:
            raise click.BadParameter(str(error)) from error
        return value

    return callback


def _listed(_context: click.Context, _parameter: click.Parameter, value: str | None) -> Any:
    texts = [] if value is None else [part.strip() for part in value.split(",")]
    try:
        if value is not None:
            parse_encodings(texts)
    except PlanError as error:
        raise click.BadParameter(str(error)) from error
    return texts


def _picture(_context: click.Context, _parameter: click.Parameter, value: str | None) -> Any:
    if value is not None and not value.endswith(PICTURES):
        raise click.BadParameter(f"{value!r} ends with none of {', '.join(PICTURES)}")
    return value


def budget_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--budget`, `--max-loss` and what goes with them."""
    options = (
        click.option(
            "--budget",
            metavar="AMOUNT",
            callback=checked(parse_amount),
            help="Bytes of all tables, row maps and codebooks counted: a share of their float32 "
            "bytes ('10%') or a size ('8GiB'). Every row gets the encoding that makes the "
            "predicted loss least.",
        ),
        click.option(
            "--max-loss",
            type=float,
            metavar="LOSS",
            callback=checked(lambda value: check_above_zero("max-loss", value)),
            help="As few bytes as keep the predicted increase of the loss below this.",
        ),
        click.option(
            "--encodings",
            metavar="LIST",
            callback=_listed,
            help=f"What a budget may use ('int8,int4,constant'); all when left out: "
            f"{', '.join(DEFAULT)}.",
        ),
        click.option(
            "--floor",
            "floors",
            multiple=True,
            metavar="ENCODING:GLOB",
            callback=checked(parse_floor),
            help="The least precise encoding for some tables ('int8:emb.user_id*').",
        ),
        click.option(
            "--method",
            type=click.Choice(METHODS),
            default="loss",
            show_default=True,
            help="How a budget is divided: least predicted loss, or SHARK's thresholds on row "
            "priorities.",
        ),
        click.option(
            "--weigh",
            type=click.Choice(WEIGHS),
            help="What an error in a row costs; the best that the stats have when left out.",
        ),
        click.option(
            "--rounding",
            type=click.Choice(ROUNDINGS),
            default="auto",
            show_default=True,
            help="With --tiers, codes: the nearest ones, or rounded in the table's metric, which "
            "costs the loss less; auto: the latter for few bits where the stats have it.",
        ),
        click.option(
            "--plot",
            type=click.Path(),
            metavar="FILE",
            callback=_picture,
            help="Draw predicted loss against size (.svg, .png, .pdf; needs sharkstore[plot]).",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def check_usage(options: Mapping[str, Any], plot: str | None) -> None:
    """Refuse options that don't go together."""
    names = ("budget", "max_loss", "encodings", "floors", "method", "weigh", "rounding", "tiers")
    try:
        policy = Policy(**{name: options[name] for name in names})
    except PlanError as error:
        raise click.UsageError(str(error)) from error
    if plot is not None and not policy.limited:
        raise click.UsageError("--plot draws what --budget or --max-loss lead to")


def curve_grid(curve: Sequence[Point]) -> Grid:
    """Budgets and what they cost."""
    rows = [
        [
            percent(one.share),
            size(one.nbytes),
            "too small" if one.loss is None else f"{one.loss:.2e}",
        ]
        for one in curve
    ]
    return Grid(["budget", "bytes", "predicted loss"], rows, left=0)


def curve_document(curve: Sequence[Point]) -> list[dict[str, Any]]:
    """The same for JSON."""
    return [{"share": p.share, "nbytes": int(p.nbytes), "predicted_loss": p.loss} for p in curve]


def check_picture(path: str | None) -> None:
    """Refuse a picture that can't be drawn, before hours of work.

    Raises:
        WriteError: no matplotlib, or no such folder.
    """
    if path is None:
        return
    _figure()
    folder = os.path.dirname(os.path.abspath(path))
    if not os.access(folder, os.W_OK) or os.path.isdir(path):
        raise WriteError("the picture can't be written there", where=path)


def _figure() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        remedy = "pip install 'sharkstore[plot]'"
        raise WriteError("matplotlib is needed to draw", remedy=remedy) from error
    return Figure


def draw_curve(done: Conversion, path: str) -> None:
    """Draw predicted loss against size, with the plan as a point on it.

    Raises:
        WriteError: the file can't be written.
    """
    figure = _figure()(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.add_subplot()
    known = [(100 * p.share, p.loss) for p in done.curve if p.loss is not None and p.loss > 0]
    if known:
        axes.plot(*zip(*known, strict=True), marker="o", label="budget curve")
    metadata = done.metadata
    share = 100 * metadata.nbytes / max(metadata.source_nbytes, 1)
    if loss := done.predicted_loss:
        axes.plot([share], [loss], marker="*", markersize=14, linestyle="", label="this plan")
    axes.set(xscale="log", yscale="log", xlabel="bytes, % of float32", ylabel="predicted loss")
    sizes = [100 * point.share for point in done.curve]
    axes.set_xticks(sizes, labels=[f"{one:g}" for one in sizes])
    axes.set_xticks([], minor=True)
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    try:
        figure.savefig(path)
    except OSError as error:
        raise WriteError(f"can't write: {error.strerror}", where=path) from error
