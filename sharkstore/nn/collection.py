"""TorchRec's collections over a store: jagged tensors in, keyed tensors out."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import sharkstore.kernels as kernels
from sharkstore.errors import ArgumentError
from sharkstore.load import arguments
from sharkstore.load.request import Mode, Request
from sharkstore.load.store import Store
from sharkstore.nn import calls, gradients, ops
from sharkstore.nn.base import StoreModule


@dataclass(frozen=True, slots=True)
class TableFeatures:
    """A table of a collection, and the features that are looked up in it.

    Args:
        table: its name in the store.
        features: names of them.
        mode: how their bags are pooled: `sum`, `mean` or `max`.
        name: the collection's name for the table; its name in the store when left out.
    """

    table: str
    features: tuple[str, ...]
    mode: Mode = "sum"
    name: str = ""


class _Collection(StoreModule):
    """Features of several tables.

    Args:
        store: open, or a path.
        tables: in the order of the output.
        configs: TorchRec's, of the collection that this one stands for.
    """

    def __init__(
        self,
        store: Store | str | os.PathLike[str],
        tables: Sequence[TableFeatures],
        configs: Sequence[Any] | None,
        threads: int,
    ) -> None:
        super().__init__(store, threads)
        if not tables or not all(one.features for one in tables):
            raise ArgumentError("a collection needs tables, and each table features")
        for one in tables:
            if isinstance(one.features, str):
                got = repr(one.features)
                raise ArgumentError("features must be names", got=got, expected=f"({got},)")
        self._configs = list(configs) if configs is not None else list(tables)
        lookups = [(one, feature) for one in tables for feature in one.features]
        times = Counter(feature for _, feature in lookups)
        self.features = [feature for _, feature in lookups]
        # TorchRec's names: a feature of several tables is told apart by theirs
        self.names = [
            f"{feature}@{one.name or one.table}" if times[feature] > 1 else feature
            for one, feature in lookups
        ]
        self.tables = tuple(one.table for one, _ in lookups)
        self.modes: tuple[Mode, ...] = tuple(one.mode for one, _ in lookups)
        for mode in self.modes:
            arguments.check_choice("mode", mode, tuple(kernels.POOLS))
        self.dims = [self.store[table].dim for table in self.tables]

    @property
    def device(self) -> torch.device:
        """The CPU."""
        return torch.device("cpu")

    def extra_repr(self) -> str:
        """Tables, features and store, in brackets behind the module's name."""
        counted = f"{len(set(self.tables))} tables, {len(self.features)} features"
        return f"{counted}, {self._told()}"

    def _request(self) -> tuple[Request, int]:
        return self._opened.request(self.tables, self.modes), self._opened.threads

    def _positions(self, keys: Sequence[str]) -> list[int]:
        """Where each feature's bags are among some keys; none if that is one after another."""
        if keys == self.features:
            return []
        places = {key: at for at, key in enumerate(keys)}
        missing = [feature for feature in self.features if feature not in places]
        if missing:
            some = ", ".join(list(keys)[:8]) + (", …" if len(keys) > 8 else "")
            raise ArgumentError(f"no feature {missing[0]!r} in the input", got=some or "none")
        return [places[feature] for feature in self.features]


class EmbeddingBagCollection(_Collection):
    """TorchRec's `EmbeddingBagCollection` over tables of a store: one native call a batch.

    Args:
        store: open, or a path.
        tables: in the order of the output.
        is_weighted: whether a jagged tensor's weights count.
        configs: TorchRec's, of the collection that this one stands for.
        threads: how many may work on a large batch.

    Raises:
        UnknownTableError: no such table.
        ArgumentError: no tables, or tables without features.
    """

    def __init__(
        self,
        store: Store | str | os.PathLike[str],
        tables: Sequence[TableFeatures],
        is_weighted: bool = False,
        *,
        configs: Sequence[Any] | None = None,
        threads: int = 1,
    ) -> None:
        super().__init__(store, tables, configs, threads)
        self._is_weighted = is_weighted

    def is_weighted(self) -> bool:
        """Whether a jagged tensor's weights count."""
        return self._is_weighted

    def embedding_bag_configs(self) -> list[Any]:
        """TorchRec's, if it stands for a collection of TorchRec, else the tables."""
        return self._configs

    def forward(
        self,
        features: Any,
        values: Tensor | None = None,
        offsets: Tensor | None = None,
        per_sample_weights: Tensor | None = None,
        batch: int | None = None,
    ) -> Any:
        """Pooled rows of all features.

        Args:
            features: a KeyedJaggedTensor, alone; or the names that the offsets are of, in
                their order (the collection's own `features` may come in any order, with others).
            values: int32 or int64 (n,), the ids: all of the first feature, then the second's, …
            offsets: int32 or int64 (features * batch + 1,), from 0 to n.
            per_sample_weights: float32 (n,), with mode `sum` only.
            batch: the size of another input, say `dense.shape[0]`, that this one must have: give
                it where a model is exported, as torch can't tell that both are the same, and
                refuses batches of 1 for a size that is computed.

        Returns:
            a KeyedTensor for a KeyedJaggedTensor, else float32 (batch, sum of dims).

        Raises:
            ArgumentError: a feature is missing, or shapes that don't fit.
        """
        if isinstance(features, (list, tuple)):
            if values is None or offsets is None:
                raise ArgumentError("names of features go with values and offsets")
            if self._is_weighted and per_sample_weights is None:
                raise ArgumentError("a weighted collection needs per_sample_weights")
            return self._pooled(features, values, offsets, per_sample_weights, batch)
        _check_jagged(features)
        if features.variable_stride_per_key() or features.inverse_indices_or_none() is not None:
            what = "jagged tensors with a batch size of each key, or inverse indices"
            raise ArgumentError(what, expected="one batch size")
        weights = features.weights() if self._is_weighted else None
        pooled = self._pooled(
            features.keys(), features.values(), features.offsets(), weights, batch
        )
        return _torchrec().KeyedTensor(self.names, self.dims, pooled)

    def _pooled(
        self,
        keys: Sequence[str],
        values: Tensor,
        offsets: Tensor,
        weights: Tensor | None,
        batch: int | None,
    ) -> Tensor:
        positions, given = self._positions(keys), (values, offsets, weights)
        learnt = gradients.wanted(weights)
        if calls.at_hand(values) and not learnt:
            request, threads = self._request()
            return calls.request_bags(request, threads, *given, positions, len(keys), batch)
        _refuse_tracing()
        if batch is None:
            batch = (offsets.shape[0] - 1) // len(keys)
        tables, modes = list(self.tables), list(self.modes)
        named = self.digest, tables, self.dims, modes, positions, len(keys), batch
        if weights is None or not learnt:
            return ops.embedding_bags(*given, *named)
        layout: gradients.Layout = (self.digest, tables, positions, len(keys), True, -1)
        return gradients.weighted_bags(ops.embedding_bags, values, offsets, weights, named, layout)


class EmbeddingCollection(_Collection):
    """TorchRec's `EmbeddingCollection` over tables of a store: rows, not pooled.

    Args:
        store: open, or a path.
        tables: in the order of the output, of one dim.
        need_indices: whether the output's weights are the ids, as TorchRec has it.
        configs: TorchRec's, of the collection that this one stands for.
        threads: how many may work on a large batch.

    Raises:
        UnknownTableError: no such table.
        ArgumentError: no tables, tables without features, or of several dims.
    """

    def __init__(
        self,
        store: Store | str | os.PathLike[str],
        tables: Sequence[TableFeatures],
        need_indices: bool = False,
        *,
        configs: Sequence[Any] | None = None,
        threads: int = 1,
    ) -> None:
        super().__init__(store, tables, configs, threads)
        if len(set(self.dims)) > 1:
            raise ArgumentError("tables of several dims", got=sorted(set(self.dims)))
        self._need_indices = need_indices

    def need_indices(self) -> bool:
        """Whether the output's weights are the ids."""
        return self._need_indices

    def embedding_dim(self) -> int:
        """Values a row."""
        return self.dims[0]

    def embedding_configs(self) -> list[Any]:
        """TorchRec's, if it stands for a collection of TorchRec, else the tables."""
        return self._configs

    def forward(self, features: Any) -> dict[str, Any]:
        """Rows of all features, by name.

        Args:
            features: a KeyedJaggedTensor; each key may have a batch size of its own.

        Returns:
            a JaggedTensor for each feature: views of one float32 (n, dim).

        Raises:
            ArgumentError: a feature is missing.
        """
        _check_jagged(features)
        counts, values = features.length_per_key(), features.values()
        lengths = list(torch.split(features.lengths(), features.stride_per_key()))
        ids = list(torch.split(values, counts))
        if positions := self._positions(features.keys()):
            counts, lengths, ids = ([of[at] for at in positions] for of in (counts, lengths, ids))
            values = torch.cat(ids)
        rows = torch.split(self._rows(values, counts), counts)
        weights = ids if self._need_indices else [None] * len(ids)
        jagged = _torchrec().JaggedTensor
        return {
            name: jagged(rows[at], lengths=lengths[at], weights=weights[at])
            for at, name in enumerate(self.names)
        }

    def _rows(self, values: Tensor, counts: list[int]) -> Tensor:
        if calls.at_hand(values):
            return calls.request_rows(*self._request(), values, counts)
        _refuse_tracing()
        named = self.digest, list(self.tables), self.dims[0]
        return ops.embeddings(values, counts, *named)


def _torchrec() -> Any:
    import torchrec.sparse.jagged_tensor  # type: ignore[import-untyped]

    return torchrec.sparse.jagged_tensor


def _refuse_tracing() -> None:
    if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        remedy = "torch.export takes them"
        raise ArgumentError("torch.jit.trace knows no lists of names", remedy=remedy)


def _check_jagged(features: Any) -> None:
    """Refuse what is no jagged tensor."""
    if not hasattr(features, "offsets") or not hasattr(features, "keys"):
        expected = "a KeyedJaggedTensor, or a list of names"
        raise ArgumentError("features", got=type(features).__name__, expected=expected)
