"""The stages of a store: each a list of tasks, whose results come in the tasks' order."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from sharkstore.format import zarr3
from sharkstore.format.layout import TRAILER_BYTES
from sharkstore.format.metadata import StoreMetadata
from sharkstore.plan.model import Plan
from sharkstore.write import chunks, elsewhere, prepare, scan
from sharkstore.write.books import books_path, is_coded, load_books
from sharkstore.write.chunks import ChunkTask, chunk_tasks
from sharkstore.write.files import write_document
from sharkstore.write.prepare import Prepared
from sharkstore.write.ranks import passes
from sharkstore.write.scan import Scan, Scanned, Span
from sharkstore.write.site import Site, batches
from sharkstore.write.survey import Surveys, survey_of
from sharkstore.write.tables import Tables, has_rowmap, rowmap_path

# bytes that one task encodes, and four times as many as one looks at: few enough for many workers
# and a steady progress
BATCH_BYTES = 256 << 20
# that a file counts at least: to make a small one durable takes as long
FILE_BYTES = 1 << 20


class Stages:
    """What is done of a store, one stage after the other, each a list of tasks."""

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
        costs = [self._rank_bytes(index) for index in own]
        for index, _ in zip(own, self.site.carry_out("rank", own, costs, submit), strict=True):
            self.site.journal.keep(rowmap_path(self.site.journal.folder, index))

    def survey(self) -> Surveys:
        """Look at all that will be stored.

        Raises:
            NonFiniteError: by the first table that can't be.
        """
        inputs, plan = self.inputs, self.plan
        names = [table.name for table in plan.tables] + list(plan.dense)
        whole = [span for name in names for span in self._spans(name)]
        groups = batches(whole, lambda span: span.nbytes, BATCH_BYTES // 4)
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
        costs = [1] * len(own)
        for index, _ in zip(own, self.site.carry_out("train", own, costs, submit), strict=True):
            self.site.journal.keep(books_path(self.site.journal.folder, index))

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
        groups = batches(chunk_tasks(metadata), self._read_bytes, BATCH_BYTES)
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

    def _read_bytes(self, task: ChunkTask) -> int:
        """Bytes that a chunk is made of: those of its rows in float32, where it has some."""
        first, last = task.slots
        dim = 0 if task.tier is None else self.inputs.tensors[task.owner].shape[1]
        return max(FILE_BYTES, task.array.file_bytes, 4 * dim * (last - first))

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
