"""Options of the commands: lists, tiers, and the folder that they work in."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from sharkstore.errors import PlanError
from sharkstore.plan.tiers import parse_tiers


class Words(click.ParamType[tuple[Any, ...]]):
    """Words, or numbers, with commas between them."""

    name = "a,b,…"

    def __init__(self, kind: type, known: tuple[str, ...] = ()) -> None:
        self._kind = kind
        self._known = known

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        words = value.split(",")
        for word in words:
            if self._known and word not in self._known:
                self.fail(f"{word!r} is not known; {', '.join(self._known)} are", param, ctx)
        try:
            return tuple(self._kind(word.replace("_", "")) for word in words)
        except ValueError:
            self.fail(f"{value!r} is not a list of numbers", param, ctx)


def check_tiers(
    _context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]
) -> tuple[str, ...]:
    """Refused before minutes go into a table."""
    try:
        for value in values:
            parse_tiers(value)
    except PlanError as error:
        raise click.BadParameter(str(error)) from error
    return values


def check_one_tiers(context: click.Context, parameter: click.Parameter, value: str) -> str:
    return check_tiers(context, parameter, (value,))[0]


@contextmanager
def work_folder(path: Path | None, *, keep: bool) -> Iterator[Path]:
    """A folder for what is generated; removed at the end unless kept."""
    if path is not None:
        path.mkdir(parents=True, exist_ok=True)
    if keep and path is not None:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="sharkstore-bench-", dir=path or "/var/tmp") as made:
        yield Path(made)
