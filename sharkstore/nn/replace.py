"""Exchange a model's embedding modules for those of a store, and back."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from torch import nn

from sharkstore.errors import ArgumentError
from sharkstore.load.open import open_store
from sharkstore.load.store import Store
from sharkstore.nn.collection import EmbeddingBagCollection, EmbeddingCollection, TableFeatures
from sharkstore.nn.find import COLLECTIONS, Found, Names, check_plain, collection, find_modules
from sharkstore.nn.modules import Embedding, EmbeddingBag


@dataclass(frozen=True, slots=True)
class Replacement:
    """A module that was replaced.

    Args:
        path: where it is in the model.
        tables: of the store, that it looks rows up in.
        before: the model's own.
        after: the store's.
    """

    path: str
    tables: tuple[str, ...]
    before: nn.Module
    after: nn.Module

    def __str__(self) -> str:
        tables = ", ".join(self.tables[:4]) + (", …" if len(self.tables) > 4 else "")
        return f"{self.path} ({type(self.before).__name__}) <- {tables}"


class Replaced:
    """What was replaced: prints as a few lines, iterates over `Replacement`s.

    It holds the model's own modules, and their tables with them, until it is restored or let go
    of. In a `with` block they are back behind it.

    Args:
        kept: paths of modules that stayed the model's: asked for by the mapping, or their weight
            is no table of the store but kept in it as it was.
        unused: tables of the store that no module looks rows up in.
    """

    def __init__(
        self,
        model: nn.Module,
        store: Store,
        replacements: Sequence[Replacement],
        kept: Sequence[str],
        unused: Sequence[str],
    ) -> None:
        self.store = store
        self.kept = tuple(kept)
        self.unused = tuple(unused)
        self._model: nn.Module | None = model
        self._replacements = tuple(replacements)

    def restore(self, model: nn.Module | None = None) -> None:
        """Put the model's own modules back, the very same.

        Args:
            model: the one they were taken from, or a copy of it; that one when left out.

        Raises:
            ArgumentError: restored before, or the model has other modules there.
        """
        target = self._model if model is None else model
        if target is None:
            raise ArgumentError("the model has its own modules already")
        for one in self._replacements:
            found = dict(target.named_modules(remove_duplicate=False)).get(one.path)
            if type(found) is not type(one.after):
                got, expected = type(found).__name__, type(one.after).__name__
                raise ArgumentError(f"module {one.path!r}", got=got, expected=expected)
        for one in self._replacements:
            _put(target, one.path, one.before)
        if target is self._model:
            self._model = None

    def __iter__(self) -> Iterator[Replacement]:
        return iter(self._replacements)

    def __len__(self) -> int:
        return len(self._replacements)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._model is not None:
            self.restore()

    def __str__(self) -> str:
        lines = [f"{len(self)} modules look rows up in {self.store.path}"]
        lines += [f"  {one}" for one in self]
        if self.kept:
            lines.append(f"as they were: {', '.join(self.kept)}")
        if self.unused:
            lines.append(f"tables that no module uses: {', '.join(self.unused)}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<sharkstore.nn.Replaced: {len(self)} modules, {self.store.path!r}>"


def replace_embeddings(
    model: nn.Module,
    store: Store | str | os.PathLike[str],
    mapping: Mapping[str, str | None] | None = None,
    *,
    threads: int = 1,
) -> Replaced:
    """Let a model's embedding modules look their rows up in a store.

    `nn.Embedding`, `nn.EmbeddingBag` and TorchRec's unsharded collections are exchanged in place.
    A module's table is that of its key in the model's state dict, `<path>.weight`, whatever
    `module.` or `model.` before it; modules whose weight is no table, but kept in the store as
    it was, stay. A model on the meta device does as well: its tables never take memory.

    Args:
        model: its modules are named as those of the model that was converted.
        store: open, or a path.
        mapping: from a module's path to the name of its table; or to None: it stays as it is. A
            table of a collection is `<path>.embedding_bags.<name>` or `<path>.embeddings.<name>`.
        threads: how many may work on a large lookup; results are the same.

    Returns:
        what was replaced, and the way back.

    Raises:
        StoreNotFoundError, FormatError, CorruptStoreError: as `sharkstore.open`.
        UnknownTableError: the store lacks a module's table, or dropped it.
        ArgumentError: a table of another shape, a module that can't be replaced (computed
            weights, max_norm, hooks, a forward of its own, scripted, sharded), or a mapping of
            modules that there are not. Nothing is replaced then.
    """
    opened = store if isinstance(store, Store) else open_store(store)
    found = find_modules(model)
    chosen = _by_path(mapping or {}, found)
    names = Names(opened)
    shared = _keys_by_weight(found)
    kept: list[str] = []
    replacements: list[Replacement] = []
    for one in found:
        tables = _tables(one, chosen, names, shared, opened)
        if tables is None:
            kept += one.paths
            continue
        one.refuse_hooks()
        after = _made(one, opened, tables, threads)
        after.training = one.module.training
        used = tuple(dict.fromkeys(tables.values()))
        replacements += [Replacement(path, used, one.module, after) for path in one.paths]
    for replacement in replacements:
        _put(model, replacement.path, replacement.after)
    busy = {table for replacement in replacements for table in replacement.tables}
    return Replaced(
        model, opened, replacements, kept, [name for name in opened if name not in busy]
    )


def _by_path(mapping: Mapping[str, str | None], found: Sequence[Found]) -> dict[str, str | None]:
    """The mapping by paths of modules.

    Raises:
        ArgumentError: no such module.
    """
    known = {
        key.removesuffix("weight").removesuffix(".")
        for one in found
        for inner in one.weights
        for key in one.keys(inner)
    }
    known |= {path for one in found for path in one.paths}
    chosen = {}
    for given, table in mapping.items():
        path = given if given in known else given.removesuffix(".weight")
        if path not in known:
            some = ", ".join(sorted(known)[:8]) + (", …" if len(known) > 8 else "")
            raise ArgumentError(f"mapping: no module {given!r} to replace", expected=some)
        chosen[path] = table
    return chosen


def _keys_by_weight(found: Sequence[Found]) -> dict[int, list[str]]:
    """Keys in the state dict of each weight: several where modules share one."""
    keys: dict[int, list[str]] = {}
    for one in found:
        for inner, module in one.weights.items():
            if "weight" in module._parameters:  # noqa: SLF001 - a parametrization takes it away
                keys.setdefault(id(module.weight), []).extend(one.keys(inner))
    return keys


def _tables(
    found: Found,
    chosen: Mapping[str, str | None],
    names: Names,
    shared: Mapping[int, list[str]],
    store: Store,
) -> dict[str, str] | None:
    """The table of each weight of a module, by the weight's path below it; None: leave it."""
    if any(path in chosen and chosen[path] is None for path in found.paths):
        return None
    tables: dict[str, str] = {}
    for inner, module in found.weights.items():
        own = found.keys(inner)
        path = own[0].removesuffix(".weight")
        asked = [chosen[key] for key in (k.removesuffix(".weight") for k in own) if key in chosen]
        if None in asked:
            remedy = f"mapping={{{found.paths[0]!r}: None}} leaves all of the collection"
            raise ArgumentError("part of a collection", where=f"module {path!r}", remedy=remedy)
        table = asked[0] if asked else names.table(own)
        if table is None and "weight" in module._parameters:  # noqa: SLF001 - as above
            table = names.table(shared[id(module.weight)])
        if table is None and names.dense(own) and not inner:
            return None
        if table is None:
            names.refuse(path, own[0])
        check_plain(path, module)
        _check_shape(path, module, store, table)
        tables[inner] = table
    return tables


def _check_shape(path: str, module: Any, store: Store, table: str) -> None:
    got = (store[table].rows, store[table].dim)
    expected = tuple(module.weight.shape)
    if got != expected:
        where = f"module {path!r}"
        what = f"table {table!r} of {store.path} has another shape"
        raise ArgumentError(what, where=where, got=got, expected=expected)


def _made(found: Found, store: Store, tables: Mapping[str, str], threads: int) -> nn.Module:
    """The store's module in the stead of a model's."""
    module: Any = found.module
    name = collection(module)
    if name == "EmbeddingBagCollection":
        configs = module.embedding_bag_configs()
        used = _features(name, configs, tables)
        return EmbeddingBagCollection(
            store, used, module.is_weighted(), configs=configs, threads=threads
        )
    if name == "EmbeddingCollection":
        configs = module.embedding_configs()
        used = _features(name, configs, tables)
        return EmbeddingCollection(
            store, used, module.need_indices(), configs=configs, threads=threads
        )
    weight = module.weight
    if isinstance(module, nn.EmbeddingBag):
        last, padding = module.include_last_offset, module.padding_idx
        return EmbeddingBag(
            store, tables[""], module.mode, last, padding, dtype=weight.dtype, threads=threads
        )
    zeros = None
    if module.padding_idx is not None and not weight.is_meta:
        zeros = not weight[module.padding_idx].any().item()
    return Embedding(
        store,
        tables[""],
        module.padding_idx,
        padding_zeros=zeros,
        dtype=weight.dtype,
        threads=threads,
    )


def _features(name: str, configs: Any, tables: Mapping[str, str]) -> list[TableFeatures]:
    return [
        TableFeatures(
            tables[f"{COLLECTIONS[name]}.{config.name}"],
            tuple(config.feature_names),
            "mean" if getattr(getattr(config, "pooling", None), "name", "") == "MEAN" else "sum",
            config.name,
        )
        for config in configs
    ]


def _put(model: nn.Module, path: str, module: nn.Module) -> None:
    outer, _, name = path.rpartition(".")
    # as `setattr`, but for names that a ModuleDict has and Python would not set
    model.get_submodule(outer)._modules[name] = module  # noqa: SLF001 - torch has no other way
