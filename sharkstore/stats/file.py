"""Stats files read and written; layout in formats/sharkstore-1.md, "Stats files"."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from sharkstore.errors import (
    CheckpointError,
    CheckpointNotFoundError,
    DestinationError,
    StatsError,
    WriteError,
)
from sharkstore.plan.stats import Stats, parse_stats
from sharkstore.readers.safetensors import DTYPES, SafetensorsFile

Path = str | os.PathLike[str]
# told of a stage, how much was just done, and how much there is in all
Progress = Callable[[str, int, int], None]

VERSION = "1"

CODES = {name: code for code, name in DTYPES.items()}
BLOCK = 1 << 20  # rows


@dataclass(frozen=True, slots=True)
class Column:
    """An array of a stats file that need not be in memory as a whole.

    Args:
        dtype: of the array; blocks are cast to it.
        shape: of the array.
        blocks: the array in consecutive pieces along its first axis.
    """

    dtype: str
    shape: tuple[int, ...]
    blocks: Iterable[NDArray[Any]]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


def spans(rows: int) -> list[tuple[int, int]]:
    """The rows of a table in blocks, as start and stop."""
    return [(start, min(start + BLOCK, rows)) for start in range(0, rows, BLOCK)]


def open_stats(path: Path) -> Stats:
    """Read a stats file; arrays are mapped, nothing is read yet.

    Raises:
        StatsError: no file, or not a stats file.
    """
    where = os.fsdecode(path)
    try:
        file = SafetensorsFile(where)
    except CheckpointNotFoundError as error:
        raise StatsError("no such stats file", where=where) from error
    except CheckpointError as error:
        raise StatsError(f"not a stats file: {error}") from error
    strange = [t.name for t in file.tensors.values() if t.dtype == "bfloat16"] + list(file.left)
    if strange:
        raise StatsError(f"{strange[0]}: a dtype that numpy lacks", where=where)
    arrays = {name: file.read(name, 0, tensor.rows) for name, tensor in file.tensors.items()}
    return parse_stats(arrays, file.metadata, where)


def check_destination(path: Path, *, overwrite: bool) -> None:
    """Refuse, before the work, what can't be written or isn't ours to replace.

    Raises:
        DestinationError: a file is there; with `overwrite`, one that is no stats file.
        WriteError: no such folder, or no right to write there.
    """
    where = os.fsdecode(path)
    folder = os.path.dirname(os.path.abspath(where))
    if not os.path.isdir(folder):
        raise WriteError("no such folder", where=folder)
    if not os.access(folder, os.W_OK):
        raise WriteError("can't write there", where=folder)
    if not os.path.lexists(where):
        return
    if not overwrite:
        raise DestinationError("exists", where=where, remedy="--overwrite replaces a stats file")
    try:
        open_stats(where)
    except (StatsError, OSError) as error:
        raise DestinationError("exists, and is not a stats file", where=where) from error


def write_stats(
    path: Path,
    columns: Mapping[str, Column],
    metadata: Mapping[str, str],
    progress: Progress | None = None,
) -> None:
    """Write a stats file, block by block: safetensors' own writer holds all of it in memory.

    Equal stats are equal bytes. The file appears whole or not at all,
    and replaces one that is there.

    Args:
        path: the file.
        columns: the arrays, by key.
        metadata: texts; keys and texts are Unicode.
        progress: called with `write`, the bytes just written, and the bytes in all.

    Raises:
        StatsError: a name is no Unicode text, or a column's blocks don't make its shape.
        WriteError: the disk is full or refuses.
    """
    where = os.path.abspath(os.fsdecode(path))
    _check_texts([*columns, *metadata, *metadata.values()], where)
    folder, name = os.path.split(where)
    partial = os.path.join(folder, f".{name}.{os.getpid()}.partial")
    try:
        with open(partial, "wb") as file:
            _write(file, columns, metadata, progress)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, where)
    except OSError as error:
        raise WriteError(f"can't write: {error.strerror}", where=where) from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(partial)


def _check_texts(texts: Iterable[str], where: str) -> None:
    """Bytes of the command line that are no UTF-8 would make a file that nobody can open."""
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise StatsError(f"{text!r:.200} is not Unicode text", where=where) from error


def _write(
    file: BinaryIO,
    columns: Mapping[str, Column],
    metadata: Mapping[str, str],
    progress: Progress | None,
) -> None:
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    at = 0
    # widest values first, as safetensors does: each array then starts aligned
    order = sorted(columns, key=lambda key: (-np.dtype(columns[key].dtype).itemsize, key))
    for key in order:
        column = columns[key]
        header[key] = {
            "dtype": CODES[column.dtype],
            "shape": column.shape,
            "data_offsets": [at, at + column.nbytes],
        }
        at += column.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data starts aligned
    file.write(len(text).to_bytes(8, "little") + text)
    for key in order:
        start = file.tell()
        for block in columns[key].blocks:
            data = np.ascontiguousarray(block, np.dtype(columns[key].dtype)).data
            file.write(data)
            if progress is not None:
                progress("write", data.nbytes, at)
        written, expected = file.tell() - start, columns[key].nbytes
        if written != expected:
            raise StatsError(f"{key}: blocks don't add up", got=written, expected=expected)
