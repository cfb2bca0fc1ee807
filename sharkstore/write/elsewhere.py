"""Tasks in another process: it opens what they read by itself, once for each run."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from safetensors.numpy import load

from sharkstore.format.validate import parse
from sharkstore.plan.model import parse_plan
from sharkstore.plan.stats import Stats
from sharkstore.write.books import load_books
from sharkstore.write.chunks import ChunkTask, Inputs, write_chunks
from sharkstore.write.prepare import Prepared, rank_table, train_table
from sharkstore.write.scan import Scanned, Span, scan_spans
from sharkstore.write.site import Job, Opened
from sharkstore.write.tables import Tables

PLAN, METADATA, MEANS = "plan.json", "store.json", "means.safetensors"


def rank_there(job: Job, index: int) -> None:
    """See `rank_table`."""
    rank_table(_prepared(job), index)


def scan_there(job: Job, batch: Sequence[Span]) -> list[dict[str, Any]]:
    """See `scan_spans`."""
    return scan_spans(_scanned(job), batch)


def train_there(job: Job, index: int) -> None:
    """See `train_table`."""
    train_table(_prepared(job), index)


def write_there(job: Job, batch: Sequence[ChunkTask]) -> list[int]:
    """See `write_chunks`."""
    return write_chunks(_inputs(job), batch)


# the last run's: processes of a cluster see many
@lru_cache(maxsize=1)
def opened(job: Job) -> tuple[Opened, Stats]:
    """The checkpoint and the stats of a run."""
    return job.reopen(), job.restat()


@lru_cache(maxsize=1)
def _prepared(job: Job) -> Prepared:
    source, stats = opened(job)
    with open(os.path.join(job.folder, PLAN), encoding="utf-8") as file:
        plan = parse_plan(file.read(), PLAN)
    tables = Tables(source, source.tensors, plan, stats, job.folder, threads=1)
    return Prepared(plan, stats, tables, job.folder, job.scratch)


@lru_cache(maxsize=1)
def _scanned(job: Job) -> Scanned:
    prepared = _prepared(job)
    tables = prepared.tables
    return Scanned(tables.source, tables.tensors, prepared.plan, prepared.stats, tables)


@lru_cache(maxsize=1)
def _inputs(job: Job) -> Inputs:
    prepared = _prepared(job)
    with open(os.path.join(job.folder, METADATA), encoding="utf-8") as file:
        metadata = parse(json.load(file), METADATA)
    with open(os.path.join(job.folder, MEANS), "rb") as means_file:
        means = load(means_file.read())
    books = load_books(job.folder, prepared.plan)
    tables = prepared.tables.coded(books)
    return Inputs.of(tables, metadata, means, books, store=job.store, scratch=job.scratch)
