"""`.npy` files, one tensor each, and `.npz` archives of them, read by byte range."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from sharkstore.errors import CheckpointError
from sharkstore.readers.files import File, Files, open_files, split_place
from sharkstore.tensors import FLOATS, INTEGERS, Tensor, raw_dtype

SUFFIX = ".npy"
# magic, version, length, and the longest header that numpy takes in without trust
MOST_HEADER = 12 + 10_000
LOCAL_HEADER = 30
WHOLE = "was it copied to the end? Compare its size with the original's"


class NumpyFile:
    """One `.npy` file: a tensor, named as the file without its ending.

    Args:
        path: path or URL of the file.
        files: of its folder; opened here when left out.

    Raises:
        CheckpointNotFoundError: there is none.
        CheckpointError: it is damaged, or holds no numbers that a store has a dtype for.
    """

    def __init__(self, path: str, files: Files | None = None) -> None:
        folder, self.name = split_place(path)
        files = files or open_files(folder)
        self._file = files.open(self.name)
        self.stamp = f"{self.name} {files.stamp(self.name)}"
        name = self.name.removesuffix(SUFFIX)
        found = _array(self._file, name, 0, self._file.size)
        if isinstance(found, str):
            raise CheckpointError(found, where=self._file.place)
        self._arrays = {name: found}
        self.tensors: Mapping[str, Tensor] = {name: found.tensor}
        self.left: Mapping[str, str] = {}

    def read(self, name: str, start: int, stop: int) -> NDArray[Any]:
        """Rows of the tensor: a view of the mapped file where its layout allows."""
        return _rows(self._file, self._arrays[name], start, stop)


class NumpyArchive:
    """An `.npz` archive, not compressed: a tensor for each of its arrays.

    Args:
        path: path or URL of the file.
        files: of its folder; opened here when left out.

    Raises:
        CheckpointNotFoundError: there is none.
        CheckpointError: it is damaged or compressed.
    """

    def __init__(self, path: str, files: Files | None = None) -> None:
        folder, self.name = split_place(path)
        files = files or open_files(folder)
        self._file = files.open(self.name)
        self.stamp = f"{self.name} {files.stamp(self.name)}"
        self.tensors: dict[str, Tensor] = {}
        self.left: dict[str, str] = {}
        self._arrays: dict[str, _Array] = {}
        for member in _members(self._file):
            self._take(member)

    def _take(self, member: zipfile.ZipInfo) -> None:
        if not member.filename.endswith(SUFFIX):
            self.left[member.filename] = f"no {SUFFIX} array"
            return
        name = member.filename.removesuffix(SUFFIX)
        if name in self.tensors or name in self.left:
            raise CheckpointError(f"two arrays are named {name!r}", where=self._file.place)
        start = _data_start(self._file, member)
        found = _array(self._file, name, start, start + member.file_size)
        if isinstance(found, str):
            self.left[name] = found
        else:
            self.tensors[name], self._arrays[name] = found.tensor, found

    def read(self, name: str, start: int, stop: int) -> NDArray[Any]:
        """Rows of a tensor: a view of the mapped file where its layout allows."""
        return _rows(self._file, self._arrays[name], start, stop)


@dataclass(frozen=True, slots=True)
class _Array:
    """Where the values of a tensor are: from `start` on, of `dtype`, in C or Fortran order."""

    tensor: Tensor
    dtype: np.dtype[Any]
    start: int
    fortran: bool


def _array(file: File, name: str, start: int, stop: int) -> _Array | str:
    """The array whose header and values lie between two offsets, or why it can't be stored."""
    header = io.BytesIO(file.read(start, min(stop, start + MOST_HEADER)).tobytes())
    try:
        shape, fortran, dtype = _header(header)
    except Exception as error:  # a header is evaluated and tokenized, which raises anything
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise _broken(file, f"{name!r} has no header of an array: {said}") from error
    why = _why_left(dtype)
    if why:
        return why
    if any(not 0 <= length < 2**63 for length in shape):
        raise _broken(file, f"{name!r} has an impossible shape")
    tensor = Tensor(name, shape, dtype.newbyteorder("=").name)
    first = start + header.tell()
    if tensor.nbytes != stop - first:
        raise CheckpointError(
            f"the values of {name!r} are not as many as its shape says",
            where=file.place,
            got=f"{stop - first:,} bytes",
            expected=f"{tensor.nbytes:,}",
            remedy=WHOLE,
        )
    return _Array(tensor, dtype, first, fortran)


def _header(file: io.BytesIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy.read_magic(file)
    if version == (1, 0):
        return npy.read_array_header_1_0(file)
    # version 3 differs in the names of fields alone, and arrays of fields are left
    return npy.read_array_header_2_0(file)


def _why_left(dtype: np.dtype[Any]) -> str:
    """Why an array can't be stored; empty if it can."""
    if dtype.hasobject:
        return "Python objects, which are pickled: they are not read"
    if dtype.kind == "V" and dtype.names is None:
        return "bytes of a type that numpy did not name (bfloat16?): save it as .safetensors"
    if dtype.newbyteorder("=").name not in (*FLOATS, *INTEGERS):
        return f"dtype {dtype.name} has no place in a store"
    return ""


def _rows(file: File, array: _Array, start: int, stop: int) -> NDArray[Any]:
    tensor = array.tensor
    shape = (stop - start, *tensor.shape[1:]) if tensor.shape else ()
    if array.fortran:
        block = _gathered(file, array, start, stop)
    else:
        first = array.start + start * tensor.row_bytes
        last = array.start + stop * tensor.row_bytes
        block = file.read(first, last).view(array.dtype)
    return block.reshape(shape).astype(raw_dtype(tensor.dtype), copy=False)


def _gathered(file: File, array: _Array, start: int, stop: int) -> NDArray[Any]:
    """Rows of an array in Fortran order, where the values of a column lie together."""
    rows, width, size = array.tensor.rows, math.prod(array.tensor.shape[1:]), array.dtype.itemsize
    columns = np.empty((width, stop - start), array.dtype)
    for column in range(width):
        first = array.start + (column * rows + start) * size
        columns[column] = file.read(first, first + (stop - start) * size).view(array.dtype)
    inner = array.tensor.shape[:0:-1]
    return np.ascontiguousarray(columns.reshape((*inner, stop - start)).T)


def _members(file: File) -> list[zipfile.ZipInfo]:
    """What is in an archive, all of it plain."""
    try:
        with zipfile.ZipFile(_Seekable(file)) as archive:
            members = [one for one in archive.infolist() if not one.is_dir()]
    except CheckpointError:
        raise
    except Exception as error:  # whatever a damaged directory makes the parser do
        raise _broken(file, f"not a whole .npz archive: {error}") from error
    if any(one.compress_type != zipfile.ZIP_STORED for one in members):
        raise CheckpointError(
            "its arrays are compressed, so rows can't be found in it",
            where=file.place,
            remedy="save it again by numpy.savez",
        )
    # members that share bytes would make a small file grow without bound
    if sum(one.file_size for one in members) > file.size:
        raise _broken(file, "its members are larger than the file")
    return members


def _data_start(file: File, member: zipfile.ZipInfo) -> int:
    """Where the bytes of a plain member start, by the header before them."""
    start = member.header_offset + LOCAL_HEADER
    if not LOCAL_HEADER <= start <= file.size:
        raise _broken(file, f"{member.filename!r} starts outside of the file")
    header = file.read(member.header_offset, start).tobytes()
    if header[:4] != b"PK\3\4" or member.flag_bits & 1:
        raise _broken(file, f"{member.filename!r} is not where it should be, or encrypted")
    lengths = int.from_bytes(header[26:28], "little"), int.from_bytes(header[28:30], "little")
    start += sum(lengths)
    if start + member.file_size > file.size:
        raise _broken(file, f"{member.filename!r} ends behind the end")
    return start


def _broken(file: File, what: str) -> CheckpointError:
    return CheckpointError(what, where=file.place, remedy=WHOLE)


class _Seekable(io.RawIOBase):
    """A file as `zipfile` wants it: with a position."""

    def __init__(self, file: File) -> None:
        self._file = file
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._file.size}[whence]
        if base + offset < 0:
            raise OSError("before the start")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        stop = min(self._at + len(buffer), self._file.size)
        count = max(0, stop - self._at)
        buffer[:count] = self._file.read(self._at, stop).tobytes() if count else b""
        self._at += count
        return count
