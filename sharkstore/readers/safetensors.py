"""`.safetensors` files, and sharded ones by their `*.safetensors.index.json`."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from sharkstore.errors import CheckpointError, CheckpointNotFoundError
from sharkstore.readers.files import File, Files, is_url, open_files, split_place
from sharkstore.tensors import Tensor, raw_dtype

DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}
# what torch.distributed.checkpoint adds to the texts of files of ranks
SHARDING = "DCP_SHARDING_INFO"
# the longest header that safetensors takes
MOST_HEADER = 100_000_000


class SafetensorsFile:
    """One `.safetensors` file, mapped if it is of this machine.

    Args:
        path: path or URL of the file.
        files: of its folder; opened here when left out.

    Attributes:
        metadata: the texts that the file carries beside its tensors.
    """

    def __init__(self, path: str, files: Files | None = None) -> None:
        folder, self.name = split_place(path)
        self._files = files or open_files(folder)
        self.tensors: dict[str, Tensor] = {}
        self.left: dict[str, str] = {}
        self.metadata: Mapping[str, str]
        self._starts: dict[str, int] = {}
        if is_url(path):
            header, start = _remote_header(self._files.open(self.name))
        else:
            _opened(self._files, self.name, path)  # safetensors would wait for a pipe
            header, start = _checked_header(path, path)
        self.stamp = f"{self.name} {self._files.stamp(self.name)}"
        self.metadata = header.pop("__metadata__", {})
        _refuse_parts(self.metadata, header, path)
        for name, entry in header.items():
            dtype = DTYPES.get(entry["dtype"])
            if dtype is None:
                self.left[name] = f"dtype {entry['dtype']} has no place in a store"
                continue
            self.tensors[name] = Tensor(name, tuple(entry["shape"]), dtype)
            self._starts[name] = start + entry["data_offsets"][0]

    def read(self, name: str, start: int, stop: int) -> NDArray[Any]:
        """Rows of a tensor: a view of the mapped file, if it is of this machine."""
        tensor = self.tensors[name]
        first = self._starts[name] + start * tensor.row_bytes
        last = self._starts[name] + stop * tensor.row_bytes
        block = self._files.open(self.name).read(first, last).view(raw_dtype(tensor.dtype))
        return block.reshape((stop - start, *tensor.shape[1:]) if tensor.shape else ())


def _opened(files: Files, name: str, path: str) -> File:
    try:
        return files.open(name)
    except CheckpointNotFoundError as error:
        raise CheckpointNotFoundError("no such checkpoint", where=path) from error


def _refuse_parts(metadata: Mapping[str, str], header: Mapping[str, Any], place: str) -> None:
    """Files of ranks look like whole ones: torch's HuggingFaceStorageWriter tells their offsets."""
    try:
        sharding = json.loads(metadata.get(SHARDING, "{}"))
        parts = [name for name in header if any(sharding.get(name, {}).get("saved_offsets", ()))]
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{SHARDING} that can't be read", where=place) from error
    numbers = re.match(r"shard-[0-9]+-model-", os.path.basename(place))
    if parts or (sharding and numbers):
        which = f"tensor {parts[0]!r:.80} starts" if parts else "its tensors may start or end"
        raise CheckpointError(
            f"one rank's part of a checkpoint: {which} in another file",
            where=place,
            remedy="join them: by torch's consolidate_safetensors_files, or when they are saved",
        )


def _remote_header(file: File) -> tuple[dict[str, Any], int]:
    """The same of a file elsewhere: its header is put into a file of its size, all else a hole."""
    known = file.read(0, min(8, file.size)).tobytes()
    stop = min(8 + int.from_bytes(known, "little"), file.size, 8 + MOST_HEADER)
    with tempfile.NamedTemporaryFile(suffix=".safetensors") as likeness:
        likeness.write(file.read(0, stop).tobytes())
        likeness.truncate(file.size)
        likeness.flush()
        return _checked_header(likeness.name, file.place)


def _checked_header(path: str, place: str) -> tuple[dict[str, Any], int]:
    """The header and where the data starts; safetensors itself checks both against the file.

    Args:
        path: where the file is.
        place: what it is called in messages.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy"):
            pass
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header: dict[str, Any] = json.loads(file.read(length))
    except FileNotFoundError as error:
        raise CheckpointNotFoundError("no such checkpoint", where=place) from error
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"not a whole safetensors file: {error}",
            where=place,
            remedy="was it copied to the end? Compare its size with the original's",
        ) from error
    return header, 8 + length


class ShardedSafetensors:
    """Several `.safetensors` files under one `*.safetensors.index.json`."""

    def __init__(self, path: str) -> None:
        folder, self.name = split_place(path)
        files = open_files(folder)
        self.tensors: dict[str, Tensor] = {}
        self._shards: dict[str, SafetensorsFile] = {}
        index = files.open(self.name)
        self._shard_of = _weight_map(index)
        for shard in sorted(set(self._shard_of.values())):
            self._shards[shard] = SafetensorsFile(os.path.join(folder, shard), files)
        stamps = [one.stamp for one in self._shards.values()]
        self.stamp = "\n".join([f"{self.name} {files.stamp(self.name)}", *stamps])
        self.left = {name: why for one in self._shards.values() for name, why in one.left.items()}
        for name, shard in self._shard_of.items():
            if name in self._shards[shard].tensors:
                self.tensors[name] = self._shards[shard].tensors[name]
            elif name not in self.left:
                raise CheckpointError(
                    f"{shard} has no tensor {name!r}, which the index puts there", where=index.place
                )

    def read(self, name: str, start: int, stop: int) -> NDArray[Any]:
        """Rows of a tensor: a view of its shard, if that is mapped."""
        return self._shards[self._shard_of[name]].read(name, start, stop)


def _weight_map(index: File) -> dict[str, str]:
    """Tensor → shard, out of the index; shards lie beside it."""
    place = index.place
    raw = index.read(0, index.size).tobytes()
    try:
        entries = json.loads(raw)["weight_map"].items()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError("not an index with a weight_map", where=place) from error
    for name, shard in entries:
        if not isinstance(shard, str) or os.path.basename(shard) != shard or not shard:
            raise CheckpointError(
                f"tensor {name!r} is in {shard!r:.80}", where=place, expected="a file beside it"
            )
    return dict(entries)
