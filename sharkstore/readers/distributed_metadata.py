"""`.metadata` of torch.distributed.checkpoint folders: which tensors, and which file has what."""

from __future__ import annotations

import posixpath
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from sharkstore.errors import CheckpointError
from sharkstore.readers.pickled import Global, Record, constants, records, unpickle
from sharkstore.readers.torch_names import DTYPES

T = TypeVar("T")
Size = tuple[int, ...]

HERE = "torch.distributed.checkpoint.metadata"
BEFORE = "torch.distributed._shard.sharded_tensor.metadata"  # home of properties until torch 2.2
METADATA = f"{HERE}.Metadata"
TENSOR, BYTES = f"{HERE}.TensorStorageMetadata", f"{HERE}.BytesStorageMetadata"
CHUNK, INDEX = f"{HERE}.ChunkStorageMetadata", f"{HERE}.MetadataIndex"
PROPERTIES = (f"{HERE}.TensorProperties", f"{BEFORE}.TensorProperties")
STORED = "torch.distributed.checkpoint.filesystem._StorageInfo"
# enums: what of a memory's format is told does not change what is saved
FORMATS = (
    f"{HERE}._MEM_FORMAT_ENCODING",
    f"{BEFORE}.MEM_FORMAT_ENCODING",
)
# of the path that was saved to, which nobody needs
PATHS = [
    f"{module}.{name}"
    for module in ("pathlib", "pathlib._local")  # Python 3.13
    for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
]
# axes of a tensor, keys of a path
MOST_AXES = 64


class Chunk(NamedTuple):
    """A box of a tensor, and the bytes of a file that have it."""

    offsets: Size
    sizes: Size
    file: str
    start: int
    stop: int


class Chunks:
    """The chunks of a tensor, of which there may be very many: some bytes for each.

    Args:
        files: of the checkpoint.
        rows: int64 (chunks, 2 x axes + 3): offsets, sizes, index of the file, start, stop.
    """

    def __init__(self, files: list[str], rows: NDArray[np.int64]) -> None:
        self._files = files
        self._rows = rows
        self._axes = (rows.shape[1] - 3) // 2

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Chunk:
        row = self._rows[index].tolist()
        box, (file, start, stop) = row[:-3], row[-3:]
        sizes = tuple(box[self._axes :])
        return Chunk(tuple(box[: self._axes]), sizes, self._files[file], start, stop)

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Lengths of the boxes, (chunks, axes)."""
        return self._rows[:, self._axes : -3]

    @property
    def places(self) -> NDArray[np.int64]:
        """Index of the file, start and stop, (chunks, 3)."""
        return self._rows[:, -3:]


@dataclass(frozen=True, slots=True)
class Entry:
    """What the state dict has under one name.

    Args:
        path: keys from the top of the state dict down to it.
        dtype: torch's name; empty if it is no tensor.
        layout: torch's name of it.
        shape: of the whole tensor.
        chunks: that it was saved in, without empty ones.
    """

    path: tuple[str, ...]
    dtype: str
    layout: str
    shape: Size
    chunks: Chunks


class Metadata(NamedTuple):
    """A checkpoint's files, and its entries by name, in its order."""

    files: list[str]
    entries: dict[str, Entry]


def read_metadata(data: bytes, where: str) -> Metadata:
    """What a `.metadata` file says.

    Args:
        data: of the file.
        where: its path, for messages.

    Raises:
        CheckpointError: it is no such pickle, or contradicts itself.
    """
    metadata = unpickle(data, where, ADMITTED)
    try:
        root = _fields(metadata, METADATA)
        items = _of(dict, root.get("state_dict_metadata"))
        _refuse_shared(items, len(data))
        places = _Places(_of(dict, root.get("storage_data")))
        paths = root.get("planner_data")
        # what was read is dropped: it takes ten times the memory of what is made of it
        entries = {name: _entry(name, items.pop(name), paths, places) for name in list(items)}
    except (TypeError, ValueError) as error:
        why = f"not metadata of a checkpoint: {error!s:.300}"
        raise CheckpointError(why, where=where) from error
    return Metadata(places.files, entries)


def _refuse_shared(items: dict[Any, Any], nbytes: int) -> None:
    """Lists that a forger lets many tensors share would take quadratic time."""
    fields = [value.state for value in items.values() if isinstance(value, Record)]
    lists = [one["chunks"] for one in fields if isinstance(one, dict) and "chunks" in one]
    if sum(len(_of(list, chunks)) for chunks in lists) > nbytes:
        raise ValueError("more shards than bytes")


def _entry(name: Any, value: Any, paths: object, places: _Places) -> Entry:
    path = _path(_of(str, name), paths)
    if isinstance(value, Record) and value.name == BYTES:
        return Entry(path, "", "", (), places.chunks(name, (), None))
    fields = _fields(value, TENSOR)
    shape, (dtype, layout) = _size(fields.get("size")), _properties(fields.get("properties"))
    chunks = places.chunks(name, shape, _of(list, fields.get("chunks")))
    return Entry(path, dtype, layout, shape, chunks)


class _Places:
    """Where in which file each chunk of each entry is."""

    def __init__(self, items: dict[Any, Any]) -> None:
        self.files: list[str] = []
        self._indices: dict[str, int] = {}
        # offsets as text, since hashes of integers can be forged
        self._found: dict[tuple[str, str], tuple[int, int, int]] = {}
        while items:
            index, item = items.popitem()
            self._add(_fields(index, INDEX), _fields(item, STORED))

    def _add(self, index: dict[str, Any], item: dict[str, Any]) -> None:
        name, offsets = _of(str, index.get("fqn")), index.get("offset")
        key = name, str(() if offsets is None else _size(offsets))
        if key in self._found:
            raise ValueError(f"{name!r} has two places for its shard at {key[1]}")
        if item.get("transform_descriptors"):
            how = _of(str, _of(list, item["transform_descriptors"])[0])
            raise ValueError(f"{name!r} was saved through {how!r:.80}, which can't be undone here")
        start, length = _of(int, item.get("offset")), _of(int, item.get("length"))
        if not 0 <= start <= start + length < 2**63:
            raise ValueError(f"{name!r} is at byte {start}, of {length} bytes")
        self._found[key] = self._index(_of(str, item.get("relative_path"))), start, start + length

    def _index(self, file: str) -> int:
        if file not in self._indices:
            self._indices[_inside(file)] = len(self.files)
            self.files.append(file)
        return self._indices[file]

    def chunks(self, name: str, shape: Size, boxes: list[Any] | None) -> Chunks:
        """Chunks of an entry; one that is no tensor has no boxes, and one place or none."""
        rows = array("q")
        if boxes is None:
            rows.extend(self._found.get((name, "()"), ()))
        for box in boxes or ():
            fields = _fields(box, CHUNK)
            offsets, sizes = _size(fields.get("offsets")), _size(fields.get("sizes"))
            if len(offsets) != len(shape) or len(sizes) != len(shape):
                got = f"a shard at {offsets} of {sizes}"
                raise ValueError(f"tensor {name!r} of shape {shape} has {got}")
            if 0 in sizes:
                continue
            place = self._found.get((name, str(offsets)))
            if place is None:
                got = f"no file for its shard at {offsets} of {sizes}"
                raise ValueError(f"tensor {name!r} has {got}")
            rows.extend((*offsets, *sizes, *place))
        return Chunks(self.files, np.frombuffer(rows, np.int64).reshape(-1, 2 * len(shape) + 3))


def _inside(file: str) -> str:
    """A path that stays in the checkpoint's folder."""
    parts = file.split("/")
    if posixpath.isabs(file) or not file.isprintable() or {"", ".", ".."} & {*parts}:
        raise ValueError(f"file {file!r:.80} is not one in this folder")
    return file


def _path(name: str, paths: object) -> tuple[str, ...]:
    """Keys down to an entry of a state dict that was flattened when it was saved."""
    keys = paths.get(name) if isinstance(paths, dict) else None
    if not isinstance(keys, tuple):
        return (name,)
    if len(keys) > MOST_AXES or not all(isinstance(key, str | int) for key in keys):
        raise ValueError(f"{name!r} has no short path")
    path = tuple(str(key) for key in keys)
    if sum(len(key) + 1 for key in path) != len(name) + 1 or ".".join(path) != name:
        raise ValueError(f"{name!r} has a path that is not its own")
    return path


def _properties(value: Any) -> tuple[str, str]:
    """Names of a tensor's dtype and layout."""
    if not isinstance(value, Record) or value.name not in PROPERTIES:
        raise TypeError(f"{_kind(value)} for a tensor's properties")
    state = _of(tuple, value.state)
    if len(state) < 2:
        raise TypeError("properties without dtype or layout")
    return _of(Global, state[0]).name.removeprefix("torch."), _of(str, state[1])


def _fields(value: Any, kind: str) -> dict[str, Any]:
    if not isinstance(value, Record) or value.name != kind or not isinstance(value.state, dict):
        raise TypeError(f"{_kind(value)} where a {kind} belongs")
    return value.state


def _of(kind: type[T], value: Any) -> T:
    if type(value) is not kind:
        raise TypeError(f"{_kind(value)} where a {kind.__name__} belongs")
    return value


def _kind(value: Any) -> str:
    return f"a {value.name if isinstance(value, Record) else type(value).__name__}"


def _size(sizes: object = ()) -> Size:
    if type(sizes) is not tuple or len(sizes) > MOST_AXES:
        raise TypeError("sizes that are no short tuple")
    for size in sizes:
        if type(size) is not int or not -(2**63) < size < 2**63:
            raise TypeError("sizes that are no integers of 64 bits")
    return sizes


def _layout(name: object) -> str:
    return _of(str, name).removeprefix("torch.")


def _attribute(owner: object, *_: object) -> None:
    """Python 3.11.0 to 3.11.3 write the value of an enum as a call of getattr."""
    if not isinstance(owner, Global) or owner.name not in FORMATS:
        raise TypeError(f"an attribute of {_kind(owner)}")


def _forget(*_: object) -> None:
    """What is read over."""


ADMITTED: dict[str, Callable[..., Any]] = {
    **records(METADATA, TENSOR, BYTES, CHUNK, INDEX, STORED, *PROPERTIES),
    **records(f"{HERE}.StorageMeta"),
    **constants(*(f"torch.{dtype}" for dtype in DTYPES)),
    **dict.fromkeys((*FORMATS, *PATHS), _forget),
    "torch.Size": _size,
    "torch.serialization._get_layout": _layout,
    "builtins.getattr": _attribute,
}
