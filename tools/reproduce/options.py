"""Kinds of arguments: lists of numbers, sets, pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from ctr import longtail

from reproduce import frontier_plot

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


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


class Percents(click.ParamType[tuple[Any, ...]]):
    """Percentages with commas between them, above 0 and at most 100."""

    name = "a,b,…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        try:
            percents = tuple(float(word) for word in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of numbers", param, ctx)
        for percent in percents:
            if not 0 < percent <= 100:
                self.fail(f"{percent:g} is not above 0 and at most 100", param, ctx)
        return percents


class Set(click.ParamType[Any]):
    """A folder, or the name of the generated set."""

    name = "set"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if value == longtail.NAME else FOLDER.convert(value, param, ctx)


class Picture(click.ParamType[Path]):
    """A file for a picture, in a folder that is there."""

    name = "file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = Path(value)
        if path.suffix not in frontier_plot.SUFFIXES:
            self.fail(f"{value!r} ends neither in .svg nor in .png", param, ctx)
        if not path.absolute().parent.is_dir():
            self.fail(f"{value!r}: there is no such folder", param, ctx)
        return path
