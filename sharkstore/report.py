"""What a store is, and whether it is sound: inspect and verify."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

import sharkstore.kernels as kernels
from sharkstore.checksum import crc32c
from sharkstore.encodings import ROWS_PER_BLOCK, planes_for
from sharkstore.errors import CorruptStoreError, FormatError
from sharkstore.format.digest import store_digest
from sharkstore.format.layout import (
    ROOT_DOCUMENT,
    TRAILER_BYTES,
    ArraySpec,
)
from sharkstore.format.metadata import StoreMetadata, TableMetadata
from sharkstore.format.validate import parse
from sharkstore.format.version import FORMATS
from sharkstore.load.files import is_current, open_regular, read_current, read_document
from sharkstore.load.mapping import map_array

# told of a stage, the bytes just done, and the bytes of the whole stage
Progress = Callable[[str, int, int], None]
READ_BYTES = 8 << 20
BLOCKS = 1 << 16


def describe(path: str) -> dict[str, Any]:
    """A store by its documents, as JSON values: tables, totals, provenance.

    Bytes are bytes; `ratio` is bytes stored over bytes in float32, row maps and scales
    included. `disk_bytes` is the sum of the sizes of all files.

    Raises:
        StoreNotFoundError, FormatError, VersionError: as `sharkstore.open`.
    """
    return read_current(path, lambda folder: _describe(folder, path))


def _describe(folder: int, path: str) -> dict[str, Any]:
    metadata = parse(read_document(folder, path)[1], path)
    return {
        "path": path,
        "format": metadata.format,
        "digest": metadata.digest,
        "tables": [describe_table(table, metadata) for table in metadata.tables],
        "dropped": {n: {"rows": r, "dim": d} for n, (r, d) in metadata.dropped.items()},
        "fields": {name: one.attributes() for name, one in metadata.fields.items()},
        "dense": [
            {"name": e.name, "shape": list(e.array.shape), "dtype": e.array.dtype.name}
            for e in metadata.dense
        ],
        "nbytes": metadata.nbytes,
        "source_nbytes": metadata.source_nbytes,
        "ratio": ratio(metadata.nbytes, metadata.source_nbytes),
        "dense_nbytes": sum(entry.array.data_bytes for entry in metadata.dense),
        "disk_bytes": disk_bytes(folder),
        "provenance": {k: v for k, v in metadata.provenance.items() if k != "plan"},
    }


def describe_table(table: TableMetadata, metadata: StoreMetadata) -> dict[str, Any]:
    """One table as JSON values."""
    fields = {n: one.score for n, one in metadata.fields.items() if one.table == table.name}
    scores = [score for score in fields.values() if score is not None]
    return {
        "name": table.name,
        "rows": table.rows,
        "dim": table.dim,
        "source_dtype": table.source_dtype,
        "tiers": [
            {
                "encoding": str(tier.encoding),
                "rows": tier.rows,
                "nbytes": tier.array.data_bytes,
                "codebook_nbytes": tier.codebook.data_bytes if tier.codebook else 0,
                "scale_exponent": tier.encoding.scale_exponent,
            }
            for tier in table.tiers
        ],
        "rowmap_nbytes": table.rowmap.data_bytes if table.rowmap else 0,
        "nbytes": table.nbytes,
        "ratio": ratio(table.nbytes, table.source_nbytes),
        "fields": list(fields),
        "score": max(scores, default=None),
        "pruned": table.pruned,
    }


def ratio(stored: int, source: int) -> float:
    """Bytes stored over bytes in float32; 1 for a store without rows."""
    return stored / source if source else 1.0


def disk_bytes(folder: int) -> int:
    """Sum of the sizes of all files below a folder, given by a descriptor."""
    return sum(
        os.stat(name, dir_fd=below, follow_symlinks=False).st_size
        for _, _, names, below in os.fwalk(".", dir_fd=folder)
        for name in names
    )


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that verify found wrong: a place in the store, and what."""

    where: str
    message: str


def verify(
    path: str, *, quick: bool = False, progress: Progress | None = None
) -> tuple[StoreMetadata, list[Finding]]:
    """Check a store against everything it says of itself.

    Quick: sizes of all chunk files, the digest over their trailers, and the documents of
    groups and arrays. Full: also every chunk's bytes against its crc32c, and row maps against
    tiers.

    Args:
        progress: called with "verify", the bytes just read, and the bytes in all.

    Returns:
        The store's metadata, and what is wrong; nothing if it is sound.

    Raises:
        StoreNotFoundError, FormatError, VersionError: as `sharkstore.open`.
    """
    return read_current(path, lambda folder: _verify(folder, path, progress, quick=quick))


def _verify(
    folder: int, path: str, progress: Progress | None, *, quick: bool
) -> tuple[StoreMetadata, list[Finding]]:
    raw, document = read_document(folder, path)
    metadata = parse(document, path)
    assert isinstance(document, dict)
    found = list(_check_documents(folder, path, document))
    damaged, trailers = _check_chunks(folder, metadata, progress, quick=quick)
    found += damaged
    if not damaged:
        found += _check_digest(raw, metadata, trailers)
    if not quick and not damaged:
        for table in metadata.tables:
            found += _check_rowmap(folder, table)
    if found and not is_current(path, folder):
        raise CorruptStoreError("exchanged for another store meanwhile", where=path)
    return metadata, found


def _check_documents(folder: int, path: str, document: dict[str, Any]) -> Iterator[Finding]:
    """Each group's and array's own document must be the one that the root has of it."""
    for node, expected in document["consolidated_metadata"]["metadata"].items():
        where = f"{node}/{ROOT_DOCUMENT}"
        try:
            _, own = read_document(folder, path, where)
        except FormatError as error:
            yield Finding(where, f"can't be read: {error}")
            continue
        if own != expected:
            yield Finding(where, "differs from the root's consolidated metadata")


def _check_chunks(
    folder: int, metadata: StoreMetadata, progress: Progress | None, *, quick: bool
) -> tuple[list[Finding], list[bytes]]:
    """What is wrong with chunk files, and their trailers."""
    damaged, trailers = [], []
    total = sum(array.chunks * array.file_bytes for array in metadata.arrays)
    for array in metadata.arrays:
        for index in range(array.chunks):
            trailer, finding = _check_chunk(folder, array, index, quick=quick)
            trailers.append(trailer)
            damaged += [finding] if finding else []
            if progress is not None and not quick:
                progress("verify", array.file_bytes, total)
    return damaged, trailers


def _check_digest(
    raw: bytes, metadata: StoreMetadata, trailers: Sequence[bytes]
) -> Iterator[Finding]:
    """A newer minor version may have arrays in its digest that this one doesn't know."""
    digest = store_digest(raw, trailers, metadata.digest)
    if digest != metadata.digest and metadata.format in FORMATS:
        message = f"is {digest}, the root document says {metadata.digest}"
        yield Finding("digest", message)


def _check_chunk(
    folder: int, array: ArraySpec, index: int, *, quick: bool
) -> tuple[bytes, Finding | None]:
    """A chunk's trailer, and what is wrong with the chunk."""
    where = array.chunk_path(index)
    try:
        with open_regular(folder, where) as file:
            size = os.fstat(file.fileno()).st_size
            if size != array.file_bytes:
                message = f"{size:,} bytes, expected {array.file_bytes:,}"
                return b"", Finding(where, message)
            crc = 0 if quick else _crc(file, array.chunk_bytes)
            file.seek(array.chunk_bytes)
            trailer = file.read(TRAILER_BYTES)
    except OSError as error:
        return b"", Finding(where, f"can't be read: {error.strerror}")
    if not quick and crc.to_bytes(TRAILER_BYTES, "little") != trailer:
        return trailer, Finding(where, "bytes don't match their crc32c")
    return trailer, None


def _crc(file: IO[bytes], length: int) -> int:
    crc = 0
    while length:
        block = np.frombuffer(file.read(min(READ_BYTES, length)), np.uint8)
        if not len(block):
            raise OSError(0, "cut while it was read")
        crc = crc32c(block, crc)
        length -= len(block)
    return crc


def _check_rowmap(folder: int, table: TableMetadata) -> Iterator[Finding]:
    """Counters must count the rows before each block, and end with the tiers' lengths."""
    if table.rowmap is None:
        return
    try:
        rowmap = map_array(folder, table.rowmap)
    except CorruptStoreError as error:
        yield Finding(table.rowmap.path, str(error))
        return
    planes = planes_for(len(table.tiers))
    counts = np.zeros(2**planes, np.int64)
    for start in range(0, len(rowmap), BLOCKS):
        blocks = rowmap[start : start + BLOCKS]
        present = min(table.rows - start * ROWS_PER_BLOCK, len(blocks) * ROWS_PER_BLOCK)
        tiers = kernels.rowmap_tiers(blocks)[:present]
        wrong = _first_difference(blocks, kernels.build_rowmap(tiers, planes, counts.tolist()))
        if wrong is not None:
            message = f"block {start + wrong} (rows from {(start + wrong) * 64:,}) is wrong"
            yield Finding(table.rowmap.path, message)
            return
        counts += np.bincount(tiers, minlength=2**planes)
    told = [tier.rows for tier in table.tiers]
    if counts.tolist() != told + [0] * (2**planes - len(told)):
        message = f"maps {counts.tolist()} rows to the tiers, which have {told}"
        yield Finding(table.rowmap.path, message)


def _first_difference(got: NDArray[np.uint8], expected: NDArray[np.uint8]) -> int | None:
    differ = np.flatnonzero((got != expected).any(axis=1))
    return int(differ[0]) if len(differ) else None
