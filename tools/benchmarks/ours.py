"""The project's own contender."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

import sharkstore
from benchmarks import memory
from benchmarks.check import Truth
from benchmarks.data import TABLE, Part, Source, Work
from benchmarks.peers import Makers
from benchmarks.timing import Claim, Contender, Effort, Lane
from sharkstore import kernels
from sharkstore.load.table import Table

NAME = "sharkstore"
STORED = Claim("stored")


def backend() -> str:
    """The kernels in use."""
    ask: Callable[[], str] = getattr(kernels, "backend", lambda: "numpy")
    return str(ask())


def view_of(table: Table) -> kernels.TableView:
    """A table's mapped arrays."""
    view = table._view  # noqa: SLF001 - the floor reads the very pages that lookups read
    assert view is not None
    return view


class Ours:
    """An open store."""

    def __init__(self, path: Path, name: str = NAME, claim: Claim = STORED) -> None:
        self.name, self.claim = name, claim
        self.table = sharkstore.open(path)[TABLE]
        self.view = view_of(self.table)

    def make_present(self) -> None:
        """Bring the mapped rows in."""
        for array in self.arrays():
            memory.make_present(array)

    def arrays(self) -> list[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]:
        """The mapped arrays."""
        maps = [] if self.view.rowmap is None else [self.view.rowmap]
        return [tier.data for tier in self.view.tiers] + maps

    def contenders(self, work: Work) -> list[Contender]:
        """Ours on a workload."""
        make = self._lookup if work.shape == "lookup" else self._bag
        lanes = tuple(make(part) for part in work.parts)
        return [Contender(self.name, lanes, work.count, self.claim, self._pages())]

    def _pages(self) -> str:
        """How the largest array is mapped."""
        largest = max(self.arrays(), key=lambda array: array.nbytes)
        return memory.pages(largest)

    def _lookup(self, part: Part) -> Lane:
        lookup, ids, out = self.table.lookup, part.ids, part.out
        return lambda i: lookup(ids[i], out)

    def _bag(self, part: Part) -> Lane:
        embedding_bag, ids, offsets, out = (
            self.table.embedding_bag,
            part.ids,
            part.offsets,
            part.out,
        )
        return lambda i: embedding_bag(ids[i], offsets, include_last_offset=True, out=out)


@contextmanager
def all_int8(source: Source, _folder: Path, _effort: Effort) -> Iterator[Makers]:
    """The same lookups in a store of int8 alone, for stores of other encodings."""
    store = Ours(source.store("int8"), f"{NAME}, int8", Claim("source", relative=1.001 / 254))
    store.make_present()
    yield store.contenders


@contextmanager
def _beside(source: Source, tiers: str) -> Iterator[Makers]:
    """The same lookups in a store of other codes, checked against its own reference."""
    store = Ours(source.store(tiers), f"{NAME}, {tiers}")
    truth = Truth(source, store.view)
    store.make_present()

    def makers(work: Work) -> list[Contender]:
        found = store.contenders(work)
        truth.check(found, work)
        # no more to be checked: what they must be is not what the other stores' answers are
        return [replace(one, claim=Claim("bytes")) for one in found]

    yield makers


def all_int4(source: Source, _folder: Path, _effort: Effort) -> AbstractContextManager[Makers]:
    """Half the bytes of int8."""
    return _beside(source, "int4")


def all_pq2(source: Source, _folder: Path, _effort: Effort) -> AbstractContextManager[Makers]:
    """Half the bytes of int8, by codebooks."""
    return _beside(source, "pq2")


def all_pq4(source: Source, _folder: Path, _effort: Effort) -> AbstractContextManager[Makers]:
    """A quarter of the bytes."""
    return _beside(source, "pq4")


def all_pq8(source: Source, _folder: Path, _effort: Effort) -> AbstractContextManager[Makers]:
    """An eighth of the bytes."""
    return _beside(source, "pq8")
