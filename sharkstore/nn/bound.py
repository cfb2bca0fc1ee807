"""The stores of this process by digest: what a compiled or exported program finds its rows by."""

from __future__ import annotations

import os
import weakref
from types import TracebackType
from typing import Any, Self

from sharkstore.errors import StoreNotFoundError
from sharkstore.load.open import open_store
from sharkstore.load.request import Mode, Request
from sharkstore.load.store import Store


class Opened:
    """An open store as modules hold it: copies share it, other processes open it again.

    Args:
        store: open.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.digest = store.metadata.digest
        self._requests: dict[tuple[tuple[str, ...], tuple[Mode, ...]], Request] = {}

    def request(self, tables: tuple[str, ...], modes: tuple[Mode, ...]) -> Request:
        """A request of these tables, made once."""
        made = self._requests.get((tables, modes))
        if made is None:
            made = self._requests[tables, modes] = self.store.request(tables, modes)
        return made

    def __deepcopy__(self, memo: dict[int, Any]) -> Opened:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _opened_again, (self.store, self.digest)


class Binding:
    """A store bound to its digest: until `unbind`, or the end of a `with` block.

    Args:
        store: open.
    """

    def __init__(self, store: Store) -> None:
        self._opened = hold(store)
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
_held: weakref.WeakValueDictionary[str, Opened] = weakref.WeakValueDictionary()


def bind(store: Store | str | os.PathLike[str]) -> Binding:
    """Let programs that name this store by its digest look rows up in it, in this process.

    Args:
        store: open, or a path; it stays open as long as it is bound.

    Returns:
        what unbinds it again: `with bind(store): …`, or `.unbind()`. The last one bound counts.

    Raises:
        StoreNotFoundError, FormatError, CorruptStoreError: as `sharkstore.open`.
    """
    return Binding(store if isinstance(store, Store) else open_store(store))


def hold(store: Store) -> Opened:
    """An open store, findable by its digest while somebody holds what this returns."""
    held = _held.get(store.metadata.digest)
    if held is None or held.store is not store:
        held = Opened(store)
        _held[held.digest] = held
    return held


def find(digest: str) -> Opened:
    """The open store of a digest: the last that was bound, else the last that a module took.

    Raises:
        StoreNotFoundError: none.
    """
    bound = _bound.get(digest)
    found = bound[-1]._opened if bound else _held.get(digest)  # noqa: SLF001 - of this module
    if found is None:
        raise StoreNotFoundError(
            "no store of this digest is bound in this process",
            where=digest,
            remedy="sharkstore.nn.bind(path) opens a store and binds it to its digest",
        )
    return found


def _opened_again(store: Store, digest: str) -> Opened:
    if store.metadata.digest != digest:
        raise StoreNotFoundError(
            "another store is at this path than when the module was pickled",
            where=store.path,
            got=store.metadata.digest,
            expected=digest,
            remedy="make the modules again, with this store",
        )
    return hold(store)
