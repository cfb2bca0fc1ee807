"""Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from reproduce.noise import Spread


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; its first column is text, the others are figures."""
    lines = [_row(heads), "|---|" + "---:|" * (len(heads) - 1)]
    return "\n".join([*lines, *(_row(cells) for cells in rows)])


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def level(one: Spread, digits: int = 5) -> str:
    """A mean and its spread."""
    return f"{one.mean:.{digits}f} ± {one.std:.{digits}f}"


def difference(one: Spread, digits: int = 5) -> str:
    """A signed mean and its spread, bold beyond noise."""
    if one.mean == one.std == 0:
        return "same"
    text = f"{one.mean:+.{digits}f} ± {one.std:.{digits}f}"
    return f"**{text}**" if one.beyond_noise else text
