"""What modules over a store have in common."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import Any, NoReturn, Self

import torch
from torch import Tensor, nn

from sharkstore.errors import ArgumentError, DtypeError
from sharkstore.load import arguments
from sharkstore.load.open import open_store
from sharkstore.load.store import Store
from sharkstore.nn.bound import hold

FIXED = "embeddings whose rows are in a store get no gradients: training leaves them as they are"


class StoreModule(nn.Module):
    """A module whose rows are a store's: a path and a digest, no parameters, no state dict.

    Copies share the store. In another process, after pickling, it is opened again by its path,
    and must be the same by its digest. Rows come on the CPU, wherever the model is moved to.

    Args:
        store: open, or a path.
        threads: how many may work on a large lookup. A program that is compiled in this process
            has those of the last module over the store, or what `sharkstore.nn.bind` says.
    """

    def __init__(self, store: Store | str | os.PathLike[str], threads: int = 1) -> None:
        super().__init__()
        self._opened = hold(store if isinstance(store, Store) else open_store(store), threads)

    @property
    def store(self) -> Store:
        """The store that rows come from."""
        return self._opened.store

    @property
    def digest(self) -> str:
        """The store's, by which compiled and exported programs name it."""
        return self._opened.digest

    @property
    def threads(self) -> int:
        """How many may work on a large lookup."""
        return self._opened.threads

    def __prepare_scriptable__(self) -> NoReturn:
        """What torch.jit.script asks for: refused.

        Raises:
            ArgumentError: always.
        """
        what = f"a store's {type(self).__name__} can't be scripted"
        raise ArgumentError(what, remedy="torch.compile and torch.export take it")

    def train(self, mode: bool = True) -> Self:
        """As of any module; warns that rows don't train."""
        if mode:
            warnings.warn(FIXED, UserWarning, stacklevel=2)
        return super().train(mode)

    def _told(self) -> str:
        return f"store={os.path.basename(self.store.path)!r}, digest={self.digest[:15]!r}"


class TableModule(StoreModule):
    """A module over one table.

    Args:
        store: open, or a path.
        table: its name in the store.
        dtype: of what a forward pass gives; `.to(dtype)`, `.half()`, … change it.
    """

    def __init__(
        self,
        store: Store | str | os.PathLike[str],
        table: str,
        padding_idx: int | None,
        dtype: torch.dtype,
        threads: int,
    ) -> None:
        if not isinstance(dtype, torch.dtype) or not (dtype.is_floating_point or dtype.is_complex):
            raise DtypeError("dtype of rows", got=dtype, expected="a torch.dtype of floats")
        super().__init__(store, threads)
        found = self.store[table]
        self.table = table
        self.num_embeddings = found.rows
        self.embedding_dim = found.dim
        self.dtype = dtype
        self.padding_idx = padding_idx
        if padding_idx is not None:
            self.padding_idx = arguments.padding_id(padding_idx, found.rows)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # there is no tensor that `.half()` or `.to()` could change: an empty one shows what it does
        self.dtype = fn(torch.empty(0, dtype=self.dtype)).dtype
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def __getattr__(self, name: str) -> Any:
        if name == "weight":
            what = f"no weight: rows of {self.table!r} are in the store {self.store.path!r}"
            raise AttributeError(what)
        return super().__getattr__(name)

    def extra_repr(self) -> str:
        """Size, table and store, in brackets behind the module's name."""
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        size = f"{self.num_embeddings}, {self.embedding_dim}{padding}"
        return f"{size}, table={self.table!r}, {self._told()}"
