"""Tasks ahead of encoding, a table each: rank its rows, train its codebooks."""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass

from sharkstore.plan.model import Plan
from sharkstore.plan.stats import Stats
from sharkstore.write.books import save_books, train_books
from sharkstore.write.files import reported
from sharkstore.write.ranks import write_ranks
from sharkstore.write.tables import Tables, rowmap_path


@dataclass(frozen=True, slots=True)
class Prepared:
    """What these tasks read, and where they leave what they make.

    Args:
        folder: for what is needed until the store is whole.
        scratch: where files are made, in the same file system.
    """

    plan: Plan
    stats: Stats
    tables: Tables
    folder: str
    scratch: str


def rank_table(inputs: Prepared, index: int) -> None:
    """A task: write the row map of a table of the plan, durably."""
    table = inputs.plan.tables[index]
    priority = inputs.stats.priority(table.name) if table.order == "priority" else None
    path = rowmap_path(inputs.folder, index)
    made = os.path.join(inputs.scratch, uuid.uuid4().hex)
    with reported(path):
        write_ranks(made, table.rows, [tier.rows for tier in table.tiers], priority)
        os.replace(made, path)


def train_table(inputs: Prepared, index: int) -> None:
    """A task: train the codebooks of a table of the plan, and leave them in a file, durably."""
    table = inputs.plan.tables[index]
    books = train_books(inputs.tables[table.name], table, inputs.stats)
    save_books(inputs.folder, inputs.scratch, index, books)
