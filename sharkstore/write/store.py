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

from sharkstore.format import zarr3
from sharkstore.format.digest import store_digest
from sharkstore.format.layout import CHUNK_TARGET, ROOT_DOCUMENT
from sharkstore.format.metadata import StoreMetadata
from sharkstore.format.validate import parse
from sharkstore.plan.model import Plan, parse_plan
from sharkstore.plan.stats import Stats
from sharkstore.tensors import Tensor, TensorSource
from sharkstore.write import elsewhere
from sharkstore.write.allotment import Allotment
from sharkstore.write.books import is_coded, save_books
from sharkstore.write.crew import Crew
from sharkstore.write.files import Destination, reported, write_document
from sharkstore.write.journal import Journal
from sharkstore.write.layout import plan_metadata
from sharkstore.write.ranks import write_rowmap
from sharkstore.write.site import Inputs, Progress, Site
from sharkstore.write.stages import Stages
from sharkstore.write.survey import Surveys
from sharkstore.write.tables import has_rowmap, rowmap_path

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
    work = Stages(_decided(plan, site, allotment), site)
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
                journal.keep(path)
            if table.order == "loss" and is_coded(table):
                books = allotment.codebooks[table.name]
                journal.keep(save_books(journal.folder, journal.scratch, index, books))
    text = plan.text()
    path = os.path.join(journal.folder, elsewhere.PLAN)
    write_document(path, text.encode())
    journal.keep(path)
    journal.add(DECIDED, text)
    return plan


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
