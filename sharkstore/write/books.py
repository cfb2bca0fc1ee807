"""What codes are made by: codebooks, and the metrics that codes are rounded in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

import sharkstore.kernels as kernels
from sharkstore.plan.model import TablePlan
from sharkstore.plan.stats import Stats
from sharkstore.plan.weigh import Weights, best_weigh, weights_of
from sharkstore.quant.codebook import train_codebook
from sharkstore.quant.metric import factor
from sharkstore.write.rows import TableRows
from sharkstore.write.sample import draw

Books = Mapping[int, NDArray[Any]]


def rounded_rows(
    rows: TableRows, table: TablePlan, stats: Stats, books: Books | None
) -> tuple[TableRows, Books]:
    """A table's rows with what their codes are made by.

    Args:
        books: stored codebooks of the pq tiers by index; trained here when None.

    Returns:
        The rows, and the stored codebooks.
    """
    if table.action != "store":
        return rows, {}
    metric = stats.metric(table.name) if table.rounding == "metric" else None
    subs = {tier.encoding.sub or 1 for tier in table.tiers}
    factors = {} if metric is None else {sub: factor(metric, sub) for sub in subs}
    if books is None:
        weights = replace(_weights(table, stats), metric=metric)
        books = {
            index: _train(rows, index, table, weights)
            for index, tier in enumerate(table.tiers)
            if tier.encoding.name == "pq"
        }
    codebooks = {
        index: kernels.Codebook.of(book, table.dim, factors.get(book.shape[2]))
        for index, book in books.items()
    }
    return replace(rows, codebooks=codebooks, factors=factors), books


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
