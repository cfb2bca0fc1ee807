"""Progress of long work, on a terminal only."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sized
from typing import Protocol, TypeVar

from tqdm import tqdm

T_co = TypeVar("T_co", covariant=True)


class Countable(Sized, Iterable[T_co], Protocol[T_co]):
    """What can be gone through and says how long it is."""


def steps(items: Countable[T_co], what: str) -> Iterator[T_co]:
    """Go through some items; a bar shows how far."""
    yield from tqdm(items, what, leave=False, disable=not sys.stderr.isatty())
