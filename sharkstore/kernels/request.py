"""Lookups in many tables by one call: what they compute, and the native kernel's binding.

All tables' results are those of `reference.embedding_bag` and `reference.lookup`, each in its
columns or behind one another; the native kernel equals them bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sharkstore.kernels import _native, reference
from sharkstore.kernels.native import POOLS
from sharkstore.kernels.reference import I64, Pool, TableView
from sharkstore.kernels.scales import F32


@dataclass(frozen=True, slots=True)
class Feature:
    """A table of a request, and how its rows are pooled.

    Args:
        padding: id that is left out of bags; -1 for none.
    """

    table: TableView
    mode: Pool = "sum"
    padding: int = -1


def embedding_bags(
    features: Sequence[Feature], ids: I64, offsets: I64, weights: F32 | None, out: F32
) -> None:
    """Look rows of many tables up and pool them: the reference.

    Args:
        ids: int64 (n,), those of the first feature first; ids outside a table give its default
            row, which counts.
        offsets: int64 (features * bags + 1,), rising from 0 to n, all bags of a feature together.
        weights: float32 (n,), of mode sum only.
        out: float32 (bags, sum of dims).

    Raises:
        SlotError: a slot lies past its tier.
    """
    column = 0
    for i, one in enumerate(features):
        starts = offsets[i * len(out) : (i + 1) * len(out) + 1]
        part = slice(starts[0], starts[-1])
        keep = ids[part] != one.padding if one.padding >= 0 else np.ones(len(ids[part]), bool)
        kept = np.concatenate([[0], np.cumsum(keep)])[starts - starts[0]]
        chosen = None if weights is None else weights[part][keep]
        bags = np.empty((len(out), one.table.dim), np.float32)
        reference.embedding_bag(one.table, ids[part][keep], kept, chosen, one.mode, bags)
        out[:, column : column + one.table.dim] = bags
        column += one.table.dim


def lookups(features: Sequence[Feature], ids: I64, starts: I64, out: F32) -> None:
    """Write rows of many tables, one behind the other: the reference.

    Args:
        ids: as of `embedding_bags`.
        starts: int64 (features + 1,), where the ids of each start, rising from 0 to n.
        out: float32 (values of all rows,).

    Raises:
        SlotError: a slot lies past its tier.
    """
    begin = 0
    for one, start, stop in zip(features, starts, starts[1:], strict=False):
        count = int(stop - start) * one.table.dim
        rows = out[begin : begin + count].reshape(-1, one.table.dim)
        reference.lookup(one.table, ids[start:stop], rows)
        begin += count


def bind_request(features: Sequence[tuple[Any, Pool, int]]) -> _native.Request:
    """Tables for lookups by one call.

    Args:
        features: of each key the table, bound; how its rows are pooled; the id that is left out
            of bags, -1 for none.
    """
    return _native.Request([(table, POOLS[mode], padding) for table, mode, padding in features])
