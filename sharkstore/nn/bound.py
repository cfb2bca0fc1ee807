"""The stores of this process by digest: what a compiled or exported program finds its rows by."""

from __future__ import annotations

import itertools
import os
import weakref
from types import TracebackType
from typing import Any, Self

from sharkstore.errors import ArgumentError, ClosedError, StoreNotFoundError
from sharkstore.load.open import open_store
from sharkstore.load.request import Mode, Request
from sharkstore.load.store import Store


class Opened:
    """An open store as modules hold it: copies share it, other processes open it again.

    Args:
        store: open.
        threads: how many may work on a large lookup.

    Attributes:
        taken: grows with each module that takes it.
    """

    def __init__(self, store: Store, threads: int = 1) -> None:
        if type(threads) is not int or threads < 1:
            raise ArgumentError("threads must be an integer, 1 or more", got=repr(threads))
        self.store = store
        self.digest = store.metadata.digest
        self.threads = threads
        self.taken = 0
        self._requests: dict[Any, Request] = {}

    def request(
        self, tables: tuple[str, ...], modes: tuple[Mode, ...], padding: int = -1
    ) -> Request:
        """A request of these tables, made once.

        Args:
            padding: the id that is left out of all bags; -1: none is.
        """
        made = self._requests.get((tables, modes, padding))
        if made is None:
            paddings = None if padding < 0 else [padding] * len(tables)
            made = self.store.request(tables, modes, paddings)
            self._requests[tables, modes, padding] = made
        return made

    def is_open(self) -> bool:
        """Whether nobody closed the store."""
        try:
            return self.store.dense is not None
        except ClosedError:
            return False

    def __deepcopy__(self, memo: dict[int, Any]) -> Opened:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _opened_again, (self.store, self.digest, self.threads)


class Binding:
    """A store bound to its digest: until `unbind`, or the end of a `with` block.

    Args:
        store: open.
        threads: how many may work on a large lookup of a program.
    """

    def __init__(self, store: Store, threads: int = 1) -> None:
        self._opened = Opened(store, threads)
        self.digest = self._opened.digest
        _bound.setdefault(self.digest, []).append(self)

    @property
    def store(self) -> Store:
        """The store that was bound."""
        return self._opened.store

    def unbind(self) -> None:
        """Let go of the store; one that was bound before, to the same digest, is found again."""
        bound = _bound.get(self.digest, [])
        if self in bound:
            bound.remove(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.unbind()

    def __repr__(self) -> str:
        return f"<sharkstore.nn.Binding {self.digest} -> {self.store.path!r}>"


_bound: dict[str, list[Binding]] = {}
# those of modules that are alive: a model that is compiled where it was made needs no `bind`
_held: weakref.WeakValueDictionary[int, Opened] = weakref.WeakValueDictionary()
_numbers = itertools.count()


def bind(store: Store | str | os.PathLike[str], *, threads: int = 1) -> Binding:
    """Let programs that name this store by its digest look rows up in it, in this process.

    Args:
        store: open, or a path; it stays open as long as it is bound.
        threads: how many may work on a large lookup: a matter of this host, so that no program
            names it; results are the same.

    Returns:
        what unbinds it again: `with bind(store): …`, or `.unbind()`. The last one bound counts.

    Raises:
        StoreNotFoundError, FormatError, CorruptStoreError: as `sharkstore.open`.
        ArgumentError: no number of threads.
    """
    return Binding(store if isinstance(store, Store) else open_store(store), threads)


def hold(store: Store, threads: int = 1) -> Opened:
    """An open store, findable by its digest while somebody holds what this returns."""
    for opened in _alive(store.metadata.digest):
        if opened.store is store and opened.threads == threads:
            break
    else:
        opened = Opened(store, threads)
        _held[next(_numbers)] = opened
    opened.taken = next(_numbers)
    return opened


def find(digest: str) -> Opened:
    """The open store of a digest: the last that was bound, else the last that a module took.

    Raises:
        StoreNotFoundError: none.
    """
    if bound := _bound.get(digest, [])[-1:]:
        return bound[0]._opened  # noqa: SLF001 - of this module
    if alive := _alive(digest):
        return max(alive, key=lambda opened: (opened.is_open(), opened.taken))
    others = ", ".join(bound for bound in _bound if _bound[bound])
    raise StoreNotFoundError(
        "no store of this digest is bound in this process",
        where=digest,
        got=f"bound: {others}" if others else None,
        remedy="sharkstore.nn.bind(path) opens a store and binds it to its digest",
    )


def _alive(digest: str) -> list[Opened]:
    # `valuerefs` is one step, whatever other threads do
    found = (one() for one in _held.valuerefs())
    return [opened for opened in found if opened is not None and opened.digest == digest]


def _opened_again(store: Store, digest: str, threads: int) -> Opened:
    if store.metadata.digest != digest:
        raise StoreNotFoundError(
            "another store is at this path than when the module was pickled",
            where=store.path,
            got=store.metadata.digest,
            expected=digest,
            remedy="make the modules again, with this store",
        )
    return hold(store, threads)
