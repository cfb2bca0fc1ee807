"""Write a whole store: survey, ranks, chunks, documents; the root document last."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharkstore.encodings import ROWMAP_BLOCK_BYTES, planes_for
from sharkstore.format import zarr3
from sharkstore.format.digest import store_digest
from sharkstore.format.layout import CHUNK_TARGET, ROOT_DOCUMENT
from sharkstore.format.metadata import StoreMetadata
from sharkstore.format.validate import parse
from sharkstore.plan.model import Plan
from sharkstore.plan.stats import Stats
from sharkstore.tensors import Tensor, TensorSource
from sharkstore.write.allotment import Allotment
from sharkstore.write.books import rounded_rows
from sharkstore.write.chunks import Inputs, chunk_tasks, fill_chunk
from sharkstore.write.files import Destination, reported, write_document
from sharkstore.write.layout import data_bytes, plan_metadata
from sharkstore.write.ranks import passes, write_ranks, write_rowmap
from sharkstore.write.rows import TableRows
from sharkstore.write.survey import Surveys, survey_dense, survey_table
from sharkstore.write.writer import ChunkWriter

# told of a stage ("rank", "read" or "write"), the bytes just done, and the bytes of the whole stage
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Written:
    """A store that was written, what was found in the checkpoint, and the plan as carried out."""

    metadata: StoreMetadata
    surveys: Surveys
    plan: Plan


def write_store(
    source: TensorSource,
    tensors: Mapping[str, Tensor],
    plan: Plan,
    stats: Stats,
    destination: str,
    *,
    provenance: Mapping[str, Any],
    overwrite: bool,
    progress: Progress,
    allotment: Allotment | None = None,
    chunk_target: int = CHUNK_TARGET,
) -> Written:
    """Carry a plan out.

    Args:
        provenance: what the root says of where the store comes from; the source's digest is
            added here, and a plan in it becomes the one that was carried out.
        progress: told of bytes read and written.
        allotment: decides over the rows of tables of order `loss`.
        chunk_target: bytes of a chunk to aim at; smaller in tests that want many chunks.

    Raises:
        DestinationError, NonFiniteError, WriteError: nothing is left at the destination.
    """
    with Destination(destination, overwrite=overwrite) as place:
        ranks = os.path.join(place.partial, "ranks")
        os.mkdir(ranks)
        if allotment is not None:
            plan = allotment.decide(ranks, progress)
        rows = _rank(source, tensors, plan, stats, ranks, progress, allotment)
        surveys = _survey(source, tensors, plan, stats, rows, progress)
        origin = {**provenance["source"], "digest": surveys.source_digest(tensors)}
        told = {**provenance, "source": origin}
        if "plan" in provenance:
            told["plan"] = plan.document()
        metadata = plan_metadata(plan, tensors, told, surveys.tables, chunk_target)
        means = _means(metadata, surveys, stats)
        rows, books = _rounded(metadata, plan, stats, rows, allotment)
        inputs = Inputs(source, metadata, tensors, rows, means, books)
        trailers = _write_chunks(inputs, place.partial, progress)
        _remove(ranks)
        written = _write_documents(metadata, trailers, place.partial)
        place.commit()
    return Written(written, surveys, plan)


def _rank(
    source: TensorSource,
    tensors: Mapping[str, Tensor],
    plan: Plan,
    stats: Stats,
    folder: str,
    progress: Progress,
    allotment: Allotment | None,
) -> dict[str, TableRows]:
    """The tables' rows with their tiers; row maps lie in files of their own for now."""
    priorities = {
        table.name: stats.priority(table.name) if table.order == "priority" else None
        for table in plan.tables
    }
    total = sum(
        values.nbytes * passes(len(table.tiers), values.dtype)
        for table in plan.tables
        if table.action == "store"
        and len(table.tiers) > 1
        and (values := priorities[table.name]) is not None
    )

    def advance(done: int) -> None:
        progress("rank", done, total)

    rows = {}
    for index, table in enumerate(plan.tables):
        rowmap = None
        if table.action == "store" and len(table.tiers) > 1:
            path = os.path.join(folder, str(index))
            counts = [tier.rows for tier in table.tiers]
            with reported(path):
                if table.order == "loss" and allotment is not None:
                    write_rowmap(path, len(counts), allotment.tiers(table.name))
                else:
                    write_ranks(path, table.rows, counts, priorities[table.name], advance)
            width = ROWMAP_BLOCK_BYTES[planes_for(len(table.tiers))]
            rowmap = np.asarray(np.memmap(path, np.uint8, mode="r")).reshape(-1, width)
        zero = plan.nonfinite == "zero"
        rows[table.name] = TableRows(source, tensors[table.name], rowmap, zero)
    return rows


def _survey(
    source: TensorSource,
    tensors: Mapping[str, Tensor],
    plan: Plan,
    stats: Stats,
    rows: Mapping[str, TableRows],
    progress: Progress,
) -> Surveys:
    names = [table.name for table in plan.tables] + list(plan.dense)
    total = sum(tensors[name].nbytes for name in names)

    def advance(done: int) -> None:
        progress("read", done, total)

    found = Surveys()
    for table in plan.tables:
        counts = stats.count(table.name)
        found.tables[table.name] = survey_table(rows[table.name], table, counts, advance)
    for name in plan.dense:
        found.dense[name] = survey_dense(source, tensors[name], advance)
    return found


def _means(
    metadata: StoreMetadata, surveys: Surveys, stats: Stats
) -> dict[str, NDArray[np.float32]]:
    """Mean rows by path of the array that stores them.

    Weighted by counts; without counts, a mean that the stats have of the whole table stands
    before the plain one.
    """
    means = {}
    for table in metadata.tables:
        survey = surveys.tables[table.name]
        measured = stats.mean(table.name) if stats.count(table.name) is None else None
        for index, row in survey.means.items():
            whole = measured if len(table.tiers) == 1 else None
            means[table.tiers[index].array.path] = row if whole is None else _row(whole)
        if table.default is not None and survey.mean is not None:
            means[table.default.path] = survey.mean if measured is None else _row(measured)
    return means


def _row(values: NDArray[Any]) -> NDArray[np.float32]:
    """A mean row out of the stats, in float32."""
    return np.asarray(values, "<f4")


def _rounded(
    metadata: StoreMetadata,
    plan: Plan,
    stats: Stats,
    rows: Mapping[str, TableRows],
    allotment: Allotment | None,
) -> tuple[dict[str, TableRows], dict[str, NDArray[Any]]]:
    """The tables' rows with what codes are made by, and codebooks by path of their array."""
    ready = dict(rows)
    books: dict[str, NDArray[Any]] = {}
    stored = {table.name: table for table in metadata.tables}
    for table in plan.tables:
        decided = None if allotment is None else allotment.codebooks.get(table.name)
        ready[table.name], own = rounded_rows(rows[table.name], table, stats, decided)
        for index, book in own.items():
            array = stored[table.name].tiers[index].codebook
            assert array is not None
            books[array.path] = book
    return ready, books


def _write_chunks(inputs: Inputs, folder: str, progress: Progress) -> dict[str, bytes]:
    """Write all chunks, durably; their trailers by path."""
    total = data_bytes(inputs.metadata)

    def advance(done: int) -> None:
        progress("write", done, total)

    trailers = {}
    largest = max((array.chunk_bytes for array in inputs.metadata.arrays), default=0)
    with ChunkWriter(largest) as writer:
        for task in chunk_tasks(inputs.metadata):
            path = task.array.chunk_path(task.index)
            chunk = writer.chunk(os.path.join(folder, path), task.array.chunk_bytes, advance)
            fill_chunk(task, inputs, chunk)
            trailers[path] = chunk.close().to_bytes(4, "little")
    return trailers


def _write_documents(
    metadata: StoreMetadata, trailers: Mapping[str, bytes], folder: str
) -> StoreMetadata:
    document = metadata.document()
    nodes = document["consolidated_metadata"]["metadata"]
    for path, node in nodes.items():
        write_document(os.path.join(folder, path, ROOT_DOCUMENT), zarr3.dump(node))
    ordered = [
        trailers[array.chunk_path(index)]
        for array in metadata.arrays
        for index in range(array.chunks)
    ]
    digest = store_digest(zarr3.dump(document), ordered)
    written = replace(metadata, digest=digest)
    raw = zarr3.dump(written.document())
    parse(written.document(), folder)  # what is written keeps every rule that a reader checks
    write_document(os.path.join(folder, ROOT_DOCUMENT), raw)
    return written


def _remove(folder: str) -> None:
    for entry in os.scandir(folder):
        os.unlink(entry.path)
    os.rmdir(folder)
