"""Arrays of a store, mapped: every array one range of addresses, whatever its chunk files.

Spec: "For implementers: reading".
"""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray

from sharkstore.errors import CorruptStoreError
from sharkstore.format.layout import ArraySpec
from sharkstore.kernels import map_chunks


def map_array(root: str, spec: ArraySpec) -> NDArray[np.uint8]:
    """Map an array's chunk files; no data page is touched.

    Returns:
        uint8 (rows, row bytes), read-only; unmapped when the last view of it is gone.

    Raises:
        CorruptStoreError: a chunk file is missing, or has another size than it must have.
    """
    shape = (spec.rows, spec.row_bytes)
    chunks = spec.chunks
    if not chunks:
        return np.empty(shape, np.uint8)
    folder = os.fsencode(root)
    paths = [b"%b/%b" % (folder, spec.chunk_path(index).encode()) for index in range(chunks)]
    try:
        mapped = map_chunks(paths, spec.chunk_bytes, spec.file_bytes)
    except FileNotFoundError as error:
        raise CorruptStoreError(
            "chunk file missing",
            where=relative(error.filename, root),
            remedy="the store was copied in part; copy or convert it again",
        ) from error
    except ValueError as error:
        path, got = error.args
        raise CorruptStoreError(
            "chunk file of wrong size",
            where=relative(os.fsdecode(path), root),
            got=f"{got:,} bytes" if got >= 0 else "something that is no file",
            expected=f"{spec.file_bytes:,}",
            remedy="the store was copied in part; copy or convert it again",
        ) from error
    except OSError as error:
        place = relative(error.filename, root) if error.filename else spec.path
        raise CorruptStoreError(f"can't map: {error.strerror}", where=place) from error
    return mapped[: spec.data_bytes].reshape(shape)


def relative(path: str, root: str) -> str:
    """A chunk file's path as messages show it: the store's name, and the path in it."""
    return os.path.join(os.path.basename(root.rstrip("/")), os.path.relpath(path, root))
