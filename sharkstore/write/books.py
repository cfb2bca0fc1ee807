"""What codes are made by: codebooks, and the metrics that codes are rounded in."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

import sharkstore.kernels as kernels
from sharkstore.plan.model import Plan, TablePlan
from sharkstore.plan.stats import Stats
from sharkstore.plan.weigh import Weights, best_weigh, weights_of
from sharkstore.quant.codebook import train_codebook
from sharkstore.quant.metric import factor
from sharkstore.write.files import reported, write_document
from sharkstore.write.rows import TableRows
from sharkstore.write.sample import draw

Books = Mapping[int, NDArray[Any]]


def rounded_rows(rows: TableRows, table: TablePlan, stats: Stats, books: Books) -> TableRows:
    """A table's rows with what their codes are made by.

    Args:
        books: stored codebooks of the pq tiers, by index.
    """
    if table.action != "store":
        return rows
    metric = _metric(table, stats)
    subs = {tier.encoding.sub or 1 for tier in table.tiers}
    factors = {} if metric is None else {sub: factor(metric, sub) for sub in subs}
    codebooks = {
        index: kernels.Codebook.of(book, table.dim, factors.get(book.shape[2]))
        for index, book in books.items()
    }
    return replace(rows, codebooks=codebooks, factors=factors)


def is_coded(table: TablePlan) -> bool:
    """Whether a table has tiers with codebooks."""
    return table.action == "store" and any(tier.encoding.name == "pq" for tier in table.tiers)


def train_books(rows: TableRows, table: TablePlan, stats: Stats) -> Books:
    """Codebooks for the pq tiers of a table, by index, as they are stored."""
    weights = replace(_weights(table, stats), metric=_metric(table, stats))
    return {
        index: _train(rows, index, table, weights)
        for index, tier in enumerate(table.tiers)
        if tier.encoding.name == "pq"
    }


def save_books(folder: str, scratch: str, index: int, books: Books) -> str:
    """Leave the codebooks of the plan's table `index` in a folder, durably; the file's path."""
    path = books_path(folder, index)
    made = os.path.join(scratch, uuid.uuid4().hex)
    arrays = {str(tier): np.ascontiguousarray(book) for tier, book in books.items()}
    write_document(made, save(arrays))
    with reported(path):
        os.replace(made, path)
    return path


def load_books(folder: str, plan: Plan) -> dict[str, Books]:
    """The codebooks of all tables that have some, by name."""
    found: dict[str, Books] = {}
    for index, table in enumerate(plan.tables):
        if is_coded(table):
            with open(books_path(folder, index), "rb") as file:
                arrays = load(file.read())
            found[table.name] = {int(tier): book for tier, book in sorted(arrays.items())}
    return found


def books_path(folder: str, index: int) -> str:
    """Where the codebooks of the plan's table `index` lie until they are in the store."""
    return os.path.join(folder, f"codebooks.{index}.safetensors")


def _metric(table: TablePlan, stats: Stats) -> NDArray[np.float32] | None:
    return stats.metric(table.name) if table.rounding == "metric" else None


def _weights(table: TablePlan, stats: Stats) -> Weights:
    weigh = best_weigh(stats, [table])
    return weights_of(stats, [table], weigh)[table.name]


def _train(rows: TableRows, tier: int, table: TablePlan, weights: Weights) -> NDArray[Any]:
    """A codebook for the rows of a tier, by their uses."""
    own = None if rows.rowmap is None else (lambda a, b: rows.tiers(a, b) == tier)
    sample = draw(rows.source, rows.tensor, weights, own=own)
    encoding = table.tiers[tier].encoding
    uses = sample.weights * sample.stands
    return train_codebook(encoding, sample.rows, uses, weights.metric)
