"""How results look: tables for people, CSV, Markdown and JSON; sizes, rates, progress."""

from __future__ import annotations

import csv
import io
import json
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import click
from tqdm import tqdm

FORMATS = ("human", "json", "csv", "markdown")
UNITS = ("B", "KB", "MB", "GB", "TB", "PB")
EIGHTHS = " ▏▎▍▌▋▊▉█"


@dataclass(frozen=True, slots=True)
class Grid:
    """Rows under headers; columns after the first `left` are aligned right."""

    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int = 1

    def text(self, style: str) -> str:
        """As `human`, `csv` or `markdown`."""
        if style == "csv":
            out = io.StringIO()
            csv.writer(out, lineterminator="\n").writerows([self.headers, *self.rows])
            return out.getvalue().rstrip("\n")
        shown = [[printable(cell) for cell in row] for row in [self.headers, *self.rows]]
        widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
        lines = [self._line(row, widths, style) for row in [self.headers, *self.rows]]
        if style == "markdown":
            marks = [
                "-" * w if i < self.left else "-" * (w - 1) + ":" for i, w in enumerate(widths)
            ]
            lines.insert(1, "| " + " | ".join(marks) + " |")
        return "\n".join(lines)

    def _line(self, row: Sequence[str], widths: Sequence[int], style: str) -> str:
        row = [printable(cell) for cell in row]
        if style == "markdown":
            row = [cell.replace("|", "\\|") for cell in row]
        cells = [
            cell.ljust(width) if index < self.left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        if style == "markdown":
            return "| " + " | ".join(cells) + " |"
        return "  ".join(cells).rstrip()


def show_json(document: Any) -> None:
    """Print JSON on stdout."""
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))


def printable(text: str) -> str:
    """Names come out of checkpoints: control characters must not reach the terminal."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def counted(count: int, noun: str) -> str:
    """A number with its noun: 1 file, 2 files."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def size(nbytes: float) -> str:
    """Bytes for people, in powers of 1 000: 1.5 GB."""
    value, unit = float(nbytes), 0
    while value >= 999.5 and unit < len(UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.0f} B" if unit == 0 else f"{value:.3g} {UNITS[unit]}"


def percent(share: float) -> str:
    """A share for people: 27.4 %."""
    return f"{share * 100:.3g} %"


def amount(value: float | None) -> str:
    """A count or a measured value for people: 1,250 or 0.0312; empty for None."""
    if value is None:
        return ""
    whole = abs(value) >= 1e4 or value == int(value)
    return f"{value:,.0f}" if whole and abs(value) < 1e15 else f"{value:.4g}"


def bar(share: float, width: int) -> str:
    """A share as a bar of up to `width` characters; `#` where the terminal has no blocks."""
    share = min(max(share, 0.0), 1.0)
    if not _can_print("█"):
        return "#" * round(share * width)
    whole, part = divmod(round(share * width * 8), 8)
    return "█" * whole + EIGHTHS[part].strip()


def room_beside(text: str) -> int:
    """Characters that the terminal has left beside the longest line."""
    longest = max(map(len, text.splitlines()), default=0)
    return shutil.get_terminal_size().columns - longest


def _can_print(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def note(text: str, *, quiet: bool = False) -> None:
    """A message on stderr."""
    if not quiet:
        click.echo(printable(text), err=True)


class Bars:
    """A progress bar for each stage, on a terminal only: bytes, rate, time left.

    Args:
        quiet: no bars.
        units: stage -> what it counts, if not bytes.
    """

    def __init__(self, *, quiet: bool, units: Mapping[str, str] | None = None) -> None:
        self._quiet = quiet
        self._units = units or {}
        self._bar: Any = None
        self._stage = ""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Go on with a stage by so much."""
        if stage != self._stage:
            self.close()
            self._stage = stage
            hidden = True if self._quiet or not sys.stderr.isatty() else None
            unit = self._units.get(stage, "B")
            self._bar = tqdm(
                total=total, desc=stage, unit=unit, unit_scale=True, leave=False, disable=hidden
            )
        self._bar.update(done)

    def close(self) -> None:
        """Take the bar off the screen."""
        if self._bar is not None:
            self._bar.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def format_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--format human|json|csv|markdown`, and `--json` short for one of them."""
    command = click.option("--json", "style", flag_value="json", help="Short for --format json.")(
        command
    )
    return click.option(
        "--format",
        "style",
        type=click.Choice(FORMATS),
        default="human",
        show_default=True,
        help="How to print the result.",
    )(command)


def message_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`-q`: no messages, no progress, though errors are still told; `-v`: more messages."""
    command = click.option("-v", "--verbose", is_flag=True, help="Tell more.")(command)
    return click.option("-q", "--quiet", is_flag=True, help="No messages and no progress.")(command)
