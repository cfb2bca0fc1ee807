"""Bars: figures that have to be reached, beside what was measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Bar:
    """A figure and its bar.

    Args:
        unit: `×`, of which the bar is the least; or another, of which it is the most.
    """

    what: str
    measured: float
    bar: float
    unit: str = "×"

    @property
    def met(self) -> bool:
        return self.measured >= self.bar if self.unit == "×" else self.measured <= self.bar

    def __str__(self) -> str:
        measured = f"{self.measured:.3g} {self.unit} (bar {self.bar:g})"
        return f"- {self.what}: {measured if self.met else f'**{measured}: missed**'}"

    def document(self) -> dict[str, Any]:
        """The same for machines."""
        return {
            "what": self.what,
            "measured": self.measured,
            "bar": self.bar,
            "unit": self.unit,
            "met": self.met,
        }
