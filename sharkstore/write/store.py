"""Write a whole store: ranks, survey, codebooks, chunks, documents; the root document last.

Every stage is a list of tasks, so that threads, processes and clusters do the same work, and a run
that was killed goes on where it was.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from sharkstore.format import zarr3
from sharkstore.format.digest import store_digest
from sharkstore.format.layout import CHUNK_TARGET, ROOT_DOCUMENT, TRAILER_BYTES
from sharkstore.format.metadata import StoreMetadata
from sharkstore.format.validate import parse
from sharkstore.plan.model import Plan, parse_plan
from sharkstore.plan.stats import Stats
from sharkstore.tensors import Tensor, TensorSource
from sharkstore.write import chunks, elsewhere, prepare, scan
from sharkstore.write.allotment import Allotment
from sharkstore.write.books import is_coded, load_books, save_books
from sharkstore.write.chunks import ChunkTask, chunk_tasks
from sharkstore.write.crew import Crew
from sharkstore.write.files import Destination, reported, write_document
from sharkstore.write.journal import Journal
from sharkstore.write.layout import plan_metadata
from sharkstore.write.prepare import Prepared
from sharkstore.write.ranks import passes, write_rowmap
from sharkstore.write.scan import Scan, Scanned, Span
from sharkstore.write.site import Inputs, Progress, Site, batches
from sharkstore.write.survey import Surveys, survey_of
from sharkstore.write.tables import Tables, has_rowmap, rowmap_path

# bytes that one task reads or writes: few enough for many workers and a steady progress
BATCH_BYTES = 64 << 20
DECIDED = "decided"


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
    chunk_target: int = CHUNK_TARGET,
) -> Written:
    """Carry a plan out, from the start, in this process.

    Args:
        provenance: see `fill_store`.
        progress: told of bytes read and written.
        chunk_target: bytes of a chunk to aim at; smaller in tests that want many chunks.

    Raises:
        DestinationError, NonFiniteError, WriteError: nothing is left at the destination.
    """
    with (
        Destination(destination, overwrite=overwrite) as place,
        Journal(place, None) as journal,
        Crew.of_threads() as crew,
    ):
        site = Site(Inputs(source, tensors, stats), journal, crew, progress, lambda *_: None)
        written = fill_store(plan, site, provenance, chunk_target=chunk_target)
        place.commit()
    return written


def fill_store(
    plan: Plan,
    site: Site,
    provenance: Mapping[str, Any],
    *,
    allotment: Allotment | None = None,
    chunk_target: int = CHUNK_TARGET,
) -> Written:
    """Carry a plan out, as far as it is not done yet.

    Args:
        provenance: what the root says of where the store comes from; the source's digest is
            added here, and a plan in it becomes the one that was carried out.
        allotment: decides over the rows of tables of order `loss`; not asked again once it has.

    Raises:
        NonFiniteError, WriteError, WorkerError: the store is not whole.
    """
    inputs = site.inputs
    work = _Work(_decided(plan, site, allotment), site)
    work.rank()
    surveys = work.survey()
    work.train()
    told = {**provenance, "source": _origin(provenance, surveys, inputs.tensors)}
    if "plan" in provenance:
        told["plan"] = work.plan.document()
    metadata = plan_metadata(work.plan, inputs.tensors, told, surveys.tables, chunk_target)
    trailers = work.write(metadata, _means(metadata, surveys, inputs.stats))
    written = _write_documents(metadata, trailers, site.journal.store)
    return Written(written, surveys, work.plan)


def _origin(
    provenance: Mapping[str, Any], surveys: Surveys, tensors: Mapping[str, Tensor]
) -> dict[str, Any]:
    return {**provenance["source"], "digest": surveys.source_digest(tensors)}


def _decided(plan: Plan, site: Site, allotment: Allotment | None) -> Plan:
    """The plan with all rows decided over; row maps and codebooks that came out lie in files."""
    journal = site.journal
    if DECIDED in journal:
        return parse_plan(journal[DECIDED], DECIDED)
    if allotment is not None:
        plan = allotment.decide(site)
        for index, table in enumerate(plan.tables):
            path = rowmap_path(journal.folder, index)
            if table.order == "loss" and has_rowmap(table):
                with reported(path):
                    write_rowmap(path, len(table.tiers), allotment.tiers(table.name))
            if table.order == "loss" and is_coded(table):
                books = allotment.codebooks[table.name]
                save_books(journal.folder, journal.scratch, index, books)
    text = plan.text()
    write_document(os.path.join(journal.folder, elsewhere.PLAN), text.encode())
    journal.add(DECIDED, text)
    return plan


class _Work:
    """The stages of a store."""

    def __init__(self, plan: Plan, site: Site) -> None:
        self.inputs, self.plan, self.site = site.inputs, plan, site
        inputs = site.inputs
        source, tensors, stats = inputs.source, inputs.tensors, inputs.stats
        self.tables = Tables(source, tensors, plan, stats, site.journal.folder)
        self.names = frozenset(self.tables)

    def rank(self) -> None:
        """Row maps of the tables that priorities or ids decide over."""
        plan = self.plan
        own = [
            index
            for index, table in enumerate(plan.tables)
            if has_rowmap(table) and table.order != "loss"
        ]
        submit = self.site.submit(prepare.rank_table, elsewhere.rank_there, self._prepared())
        for _ in self.site.carry_out("rank", own, [self._rank_bytes(i) for i in own], submit):
            pass

    def survey(self) -> Surveys:
        """Look at all that will be stored.

        Raises:
            NonFiniteError: by the first table that can't be.
        """
        inputs, plan = self.inputs, self.plan
        names = [table.name for table in plan.tables] + list(plan.dense)
        whole = [span for name in names for span in self._spans(name)]
        groups = batches(whole, lambda span: span.nbytes, BATCH_BYTES)
        scanned = Scanned(inputs.source, inputs.tensors, plan, inputs.stats, self.tables)
        submit = self.site.submit(scan.scan_spans, elsewhere.scan_there, scanned)
        costs = [sum(span.nbytes for span in group) for group in groups]
        results = self.site.carry_out("read", groups, costs, submit)
        found = Surveys()
        documents = (document for group in results for document in group)
        for table in plan.tables:
            total = Scan.empty(table)
            for _ in self._spans(table.name):
                total.join(Scan.parse(next(documents)))
            found.tables[table.name] = survey_of(table, total)
        for name in plan.dense:
            found.dense[name] = [next(documents)["crcs"][0] for _ in self._spans(name)]
        return found

    def train(self) -> None:
        """Codebooks of the tables that no allotment decided over."""
        tables = enumerate(self.plan.tables)
        own = [index for index, table in tables if is_coded(table) and table.order != "loss"]
        submit = self.site.submit(prepare.train_table, elsewhere.train_there, self._prepared())
        for _ in self.site.carry_out("train", own, [1] * len(own), submit):
            pass

    def write(
        self, metadata: StoreMetadata, means: Mapping[str, NDArray[np.float32]]
    ) -> dict[str, bytes]:
        """All chunks, durably; their trailers by path."""
        journal = self.site.journal
        books = load_books(journal.folder, self.plan)
        if not self.site.crew.near:
            self._leave(metadata, means)
        inputs = chunks.Inputs.of(
            self.tables.coded(books),
            metadata,
            means,
            books,
            store=journal.store,
            scratch=journal.scratch,
        )
        groups = batches(chunk_tasks(metadata), lambda task: task.array.file_bytes, BATCH_BYTES)
        submit = self.site.submit(chunks.write_chunks, elsewhere.write_there, inputs)
        costs = [sum(task.array.file_bytes for task in group) for group in groups]

        def holds(number: int, crcs: list[int]) -> bool:
            pairs = zip(groups[number], crcs, strict=True)
            return all(_is_there(journal.store, task, crc) for task, crc in pairs)

        results = self.site.carry_out("write", groups, costs, submit, holds)
        return {
            task.array.chunk_path(task.index): crc.to_bytes(TRAILER_BYTES, "little")
            for group, crcs in zip(groups, results, strict=True)
            for task, crc in zip(group, crcs, strict=True)
        }

    def _prepared(self) -> Prepared:
        journal = self.site.journal
        stats = self.inputs.stats
        return Prepared(self.plan, stats, self.tables, journal.folder, journal.scratch)

    def _rank_bytes(self, index: int) -> int:
        """Bytes of priorities that are read to rank a table's rows."""
        table = self.plan.tables[index]
        values = self.inputs.stats.priority(table.name) if table.order == "priority" else None
        return 0 if values is None else values.nbytes * passes(len(table.tiers), values.dtype)

    def _spans(self, name: str) -> list[Span]:
        block_rows = self.tables[name].block_rows if name in self.names else 1
        return list(scan.spans(self.inputs.tensors[name], block_rows))

    def _leave(self, metadata: StoreMetadata, means: Mapping[str, NDArray[np.float32]]) -> None:
        """Leave what other processes need to know in files."""
        folder = self.site.journal.folder
        write_document(os.path.join(folder, elsewhere.MEANS), save(dict(means)))
        document = zarr3.dump(metadata.document())
        write_document(os.path.join(folder, elsewhere.METADATA), document)


def _is_there(store: str, task: ChunkTask, crc: int) -> bool:
    """Whether a chunk file that an earlier run wrote is whole."""
    try:
        with open(os.path.join(store, task.array.chunk_path(task.index)), "rb") as file:
            size = file.seek(-TRAILER_BYTES, os.SEEK_END) + TRAILER_BYTES
            return size == task.array.file_bytes and file.read() == crc.to_bytes(4, "little")
    except OSError:
        return False


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
