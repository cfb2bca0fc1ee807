"""Folders of torch.distributed.checkpoint: `.metadata`, and the shards in `.distcp` files."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharkstore.errors import CheckpointError, CheckpointNotFoundError
from sharkstore.readers.distributed_metadata import (
    Chunk,
    Chunks,
    Entry,
    Metadata,
    read_metadata,
)
from sharkstore.readers.files import Files, open_files
from sharkstore.readers.shards import Shard, Sharded
from sharkstore.readers.torch_archive import TorchArchive
from sharkstore.readers.torch_file import ALONE, NESTED
from sharkstore.readers.torch_values import Stored
from sharkstore.tensors import FLOATS, INTEGERS, Tensor, raw_dtype

METADATA = ".metadata"
# keys of dicts whose tensors are shaped like tables, and are none
OPTIMIZERS = {
    *("optim", "optims", "optimizer", "optimizers", "optim_state", "optimizer_state"),
    *("optim_state_dict", "optimizer_state_dict", "optimizer_states", "fused_optimizer"),
}
# shards whose place within their file is kept
MOST_OPEN = 4096
ARCHIVE = b"PK\x03\x04"
PLAIN = "one of safetensors must be saved again in torch's own serialization format"
COPIED = "was the save finished, and the folder copied to the end?"


class DistributedCheckpoint:
    """A folder that `torch.distributed.checkpoint.save` wrote, from any number of ranks.

    Nothing of it is run, and neither torch nor a process group is needed. Names are those of the
    state dict that was saved; where it has one of `NESTED`, at its top or in one dict there, those
    below that. What lies in a dict that is named as an optimizer's is left.

    Args:
        folder: path or URL.

    Raises:
        CheckpointNotFoundError: it has no `.metadata`.
        CheckpointError: files are missing or cut off, shards overlap or leave gaps, or `.metadata`
            is anything else than data.
    """

    def __init__(self, folder: str) -> None:
        self.name = os.path.basename(folder.rstrip("/"))
        self.tensors: dict[str, Tensor] = {}
        self.left: dict[str, str] = {}
        self._folder = folder
        self._files = open_files(folder)
        self._sharded: dict[str, Sharded] = {}
        self._item = lru_cache(MOST_OPEN)(self._open_item)
        file = self._files.open(METADATA)
        metadata = read_metadata(file.read(0, file.size).tobytes(), file.place)
        _check_files(metadata, self._files)
        for name, entry in _state_dict(metadata.entries, self.left, folder).items():
            self._take(name, entry)
        names = (METADATA, *sorted(metadata.files))
        self.stamp = "\n".join(f"{one} {self._files.stamp(one)}" for one in names)

    def _take(self, name: str, entry: Entry) -> None:
        if name in self.left:
            raise CheckpointError(f"two entries are named {name!r}", where=self._folder)
        if why := _why_left(entry):
            self.left[name] = why
            return
        self.tensors[name] = tensor = Tensor(name, entry.shape, entry.dtype)
        _check_lengths(tensor, entry.chunks, self._folder)
        shards = _Shards(entry.chunks, partial(self._rows, tensor))
        self._sharded[name] = Sharded(tensor, shards, self._folder)

    def read(self, name: str, start: int, stop: int) -> NDArray[Any]:
        """Rows of a tensor: a view of the mapped shard, if there is one that has them whole."""
        return self._sharded[name].read(start, stop)

    def _rows(self, tensor: Tensor, chunk: Chunk, start: int, stop: int) -> NDArray[Any]:
        """Rows of a shard, counted from its own first."""
        try:
            stored = self._item(chunk)
            found = stored.dtype, stored.shape
            if found != (tensor.dtype, chunk.sizes):
                what = f"bytes {chunk.start} to {chunk.stop} are another tensor"
                expected = tensor.dtype, chunk.sizes
                raise CheckpointError(what, where=chunk.file, got=found, expected=expected)
            return stored.read(self._files.open(chunk.file), start, stop)
        except CheckpointError as error:
            what = f"{_rows(chunk)} of tensor {tensor.name!r} can't be read: {error}"
            raise CheckpointError(what, where=self._folder) from error

    def _open_item(self, chunk: Chunk) -> Stored:
        file = self._files.open(chunk.file)
        if file.read(chunk.start, min(chunk.start + 4, chunk.stop)).tobytes() != ARCHIVE:
            what = f"no torch archive at byte {chunk.start}"
            raise CheckpointError(what, where=chunk.file, remedy=PLAIN)
        value = TorchArchive(file, chunk.start, chunk.stop).value
        if not isinstance(value, Stored):
            got = type(value).__name__
            raise CheckpointError("no tensor", where=chunk.file, got=got)
        return value


class _Shards:
    """Chunks as shards, each made when it is asked for."""

    def __init__(self, chunks: Chunks, read: Callable[[Chunk, int, int], NDArray[Any]]) -> None:
        self._chunks, self._read = chunks, read

    def __len__(self) -> int:
        return len(self._chunks)

    def __getitem__(self, index: int, /) -> Shard:
        chunk = self._chunks[index]
        return Shard(chunk.offsets, chunk.sizes, chunk.file, partial(self._read, chunk))


def _check_files(metadata: Metadata, files: Files) -> None:
    """All files that the entries are in are there, and none is shorter than its entries say."""
    sizes = np.array([_size(files, name) for name in metadata.files], np.int64)
    for name, entry in metadata.entries.items():
        file, _, stop = entry.chunks.places.T
        for index in np.flatnonzero(stop > sizes[file])[:1]:
            chunk, size = entry.chunks[int(index)], int(sizes[file[index]])
            what = f"{_rows(chunk)} of tensor {name!r}" if entry.dtype else f"entry {name!r}"
            if size < 0:
                lost = f"{chunk.file}, which has {what}, is missing"
                raise CheckpointError(lost, where=files.folder, remedy=COPIED)
            raise CheckpointError(
                f"{chunk.file} ends before {what}",
                where=files.folder,
                got=f"{size} bytes",
                expected=f"{chunk.stop} or more",
                remedy=COPIED,
            )
    for name in [metadata.files[one] for one in np.flatnonzero(sizes < 0).tolist()]:
        raise CheckpointError(f"{name} is missing", where=files.folder, remedy=COPIED)


def _size(files: Files, name: str) -> int:
    """Bytes of a file; -1 if there is none."""
    try:
        return files.open(name).size
    except CheckpointNotFoundError:
        return -1


def _check_lengths(tensor: Tensor, chunks: Chunks, where: str) -> None:
    """No chunk is larger than its bytes."""
    _, start, stop = chunks.places.T
    # floats don't overflow; what they round away is found when the chunk is read
    least = chunks.sizes.prod(axis=1, dtype=np.float64) * raw_dtype(tensor.dtype).itemsize
    for index in np.flatnonzero(least * (1 - 1e-9) > stop - start)[:1]:
        chunk = chunks[int(index)]
        got = f"{chunk.stop - chunk.start} bytes for {_rows(chunk)} of tensor {tensor.name!r}"
        raise CheckpointError(f"{chunk.file} has too few", where=where, got=got)


def _state_dict(entries: Mapping[str, Entry], left: dict[str, str], where: str) -> dict[str, Entry]:
    """The entries that are the model's, by name: all, or those under a known key."""
    state = {entry.path: entry for entry in entries.values()}
    while key := _holder(state):
        why = f"beside {key!r:.80}"
        left.update({path[0]: why for path in state if not _below(path, key)})
        state = {path[1:]: entry for path, entry in state.items() if _below(path, key)}
    for path in list(state):
        if outer := _optimizer(path):
            left[".".join(outer)] = "of an optimizer"
            del state[path]
    if not any(entry.dtype for entry in state.values()):
        keys = ", ".join([".".join(path) for path in state][:8]) or "none"
        expected = f"tensors, or one of {', '.join(NESTED)}"
        raise CheckpointError(
            "no state dict in it", where=where, got=f"keys {keys}", expected=expected, remedy=ALONE
        )
    return {".".join(path): entry for path, entry in state.items()}


def _holder(state: Mapping[tuple[str, ...], Entry]) -> str | None:
    """The key below which the model is: one of `NESTED`, or the one dict that has one of them.

    A dict beside tensors, other than scalars, is no such: modules may have extra state.
    """
    known = next((one for one in NESTED if any(_below(path, one) for path in state)), None)
    if known or any(len(path) == 1 and entry.shape for path, entry in state.items()):
        return known
    outer = {path[0] for path in state if len(path) > 2 and path[1] in NESTED}
    return outer.pop() if len(outer) == 1 else None


def _optimizer(path: tuple[str, ...]) -> tuple[str, ...]:
    """The keys down to the optimizer that an entry is of; none if it is of no such."""
    found = next((at for at, key in enumerate(path[:-1], 1) if key in OPTIMIZERS), 0)
    return path[:found]


def _below(path: tuple[str, ...], key: str) -> bool:
    return len(path) > 1 and path[0] == key


def _why_left(entry: Entry) -> str:
    """Why an entry can't be stored; empty if it can."""
    if not entry.dtype:
        return "an object, no tensor"
    if entry.layout != "strided":
        return "sparse or quantised"
    if entry.dtype not in (*FLOATS, *INTEGERS):
        return f"dtype {entry.dtype} has no place in a store"
    return ""


def _rows(chunk: Chunk) -> str:
    """What a shard has of its tensor, in words."""
    if not chunk.sizes:
        return "the value"
    rows = f"rows {chunk.offsets[0]} to {chunk.offsets[0] + chunk.sizes[0] - 1}"
    if len(chunk.sizes) == 1:
        return rows
    return f"{rows} of columns {chunk.offsets[1]} to {chunk.offsets[1] + chunk.sizes[1] - 1}"
