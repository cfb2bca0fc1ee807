"""Torch files of version 1.6 and later: zip archives of a pickle, and of storages beside it."""

from __future__ import annotations

import io
import struct
import zipfile
from typing import Any

from sharkstore.errors import CheckpointError
from sharkstore.readers.files import File
from sharkstore.readers.pickled import unpickle
from sharkstore.readers.torch_names import NAMES, storage_of
from sharkstore.readers.torch_values import LOCAL_HEADER, Storage, behind_header

# remote files answer few large reads faster than many small ones
AHEAD_BYTES = 64 << 10
WHOLE = "was it copied to the end? Compare its size with the original's"
# what torch before 1.6 writes first, and _use_new_zipfile_serialization=False: a pickled number
OLD = bytes.fromhex("8002 8a0a 6cfc9c46f9206aa85019 2e")
AGAIN = "it must be saved again by a newer torch, without _use_new_zipfile_serialization=False"
# what zipfile raises on bytes that are no archive
BROKEN = (zipfile.BadZipFile, NotImplementedError, ValueError, OSError, struct.error)


class TorchArchive:
    """What `torch.save` wrote, as inert data; torch is not needed.

    The directory and the pickle are read, and checked, when it is opened; tensors by row range.

    Args:
        file: that it is in.
        start: where it starts in the file.
        stop: where it ends; the file's end when left out.

    Attributes:
        value: what was saved: plain values, `Stored` for tensors, `Unstorable` for those of kinds
            that a store has no place for, `Distributed` for parts of tensors, and `Record`.

    Raises:
        NotAdmittedError: the pickle names what weights don't need; nothing of it was run.
        CheckpointError: cut off, damaged, compressed, of the wrong byte order, or of old torch.
    """

    def __init__(self, file: File, start: int = 0, stop: int | None = None) -> None:
        self._file = file
        self._start = start
        self._stop = file.size if stop is None else stop
        if not 0 <= start <= self._stop <= file.size:
            what = f"not a whole torch file: bytes {start} to {self._stop} of {file.size}"
            raise CheckpointError(what, where=file.place, remedy=WHOLE)
        self._members = self._directory()
        self._root = self._found_root()
        self._check_byte_order()
        where = f"{file.place}: {self._root}data.pkl"
        pickled = self._bytes(self._members[f"{self._root}data.pkl"])
        self.value: Any = unpickle(pickled, where, NAMES, self._storage)

    def _directory(self) -> dict[str, zipfile.ZipInfo]:
        if self._file.read(self._start, min(self._start + len(OLD), self._stop)).tobytes() == OLD:
            what = "in torch's old format, no archive that rows can be found in"
            raise CheckpointError(what, where=self._file.place, remedy=AGAIN)
        part = io.BufferedReader(_Part(self._file, self._start, self._stop), AHEAD_BYTES)
        try:
            with zipfile.ZipFile(part) as archive:
                entries = archive.infolist()
        except BROKEN as error:
            raise self._damaged(str(error)) from error
        members = {entry.filename: entry for entry in entries}
        if len(members) < len(entries):
            raise self._damaged("two members of one name")
        if any(name.endswith("/constants.pkl") for name in members):
            raise CheckpointError(
                "a TorchScript program, not a state dict; it was not run",
                where=self._file.place,
                remedy="torch.save(torch.jit.load(PATH).state_dict(), …)",
            )
        for entry in entries:
            self._check_member(entry)
        return members

    def _check_member(self, entry: zipfile.ZipInfo) -> None:
        if entry.compress_type != zipfile.ZIP_STORED:
            raise CheckpointError(
                "its tensors are compressed",
                where=self._file.place,
                remedy="torch writes them plain: save it again by torch.save",
            )
        end = self._start + entry.header_offset + LOCAL_HEADER + entry.file_size
        whole = entry.header_offset >= 0 and end <= self._stop
        if not whole or entry.file_size != entry.compress_size or entry.flag_bits & 1:
            raise self._damaged(f"{entry.filename!r:.80} is not all there")

    def _found_root(self) -> str:
        """Folder of the archive that everything is in."""
        roots = [
            name.removesuffix("data.pkl")
            for name in self._members
            if name.endswith("/data.pkl") and name.count("/") == 1
        ]
        if len(roots) != 1:
            raise self._damaged("no data.pkl in it")
        return roots[0]

    def _check_byte_order(self) -> None:
        entry = self._members.get(f"{self._root}byteorder")
        if entry is None:
            return
        order = self._bytes(entry)[:16]
        if order != b"little":
            raise CheckpointError(
                "of another byte order",
                where=self._file.place,
                got=ascii(order),
                expected="little",
                remedy="save it again by torch on a machine of today",
            )

    def _storage(self, pid: object) -> Storage:
        dtype, key, nbytes = storage_of(pid)
        entry = self._members.get(f"{self._root}data/{key}")
        if entry is None:
            raise self._damaged(f"no storage {key!r:.80} in it")
        if entry.file_size != nbytes:
            why = f"storage {key!r:.80} has {entry.file_size} bytes, not {nbytes}"
            raise self._damaged(why)
        return Storage(dtype, self._start + entry.header_offset, nbytes, self._stop)

    def _bytes(self, entry: zipfile.ZipInfo) -> bytes:
        at = self._start + entry.header_offset
        ahead = self._file.read(at, min(at + AHEAD_BYTES, self._stop)).tobytes()
        first = behind_header(
            ahead[:LOCAL_HEADER], at, entry.file_size, self._stop, self._file.place
        )
        if first + entry.file_size <= at + len(ahead):
            return ahead[first - at :][: entry.file_size]
        return self._file.read(first, first + entry.file_size).tobytes()

    def _damaged(self, why: str) -> CheckpointError:
        what = f"not a whole torch file: {why:.200}"
        return CheckpointError(what, where=self._file.place, remedy=WHOLE)


class _Part(io.RawIOBase):
    """Bytes of a file as a stream, for `zipfile`, which looks at the end of it."""

    def __init__(self, file: File, start: int, stop: int) -> None:
        super().__init__()
        self._file, self._start, self._stop = file, start, stop
        self._at = start
        self._tail_at = max(start, stop - AHEAD_BYTES)
        self._tail = file.read(self._tail_at, stop)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: self._start, io.SEEK_CUR: self._at, io.SEEK_END: self._stop}[whence]
        if base + offset < self._start:
            raise ValueError("a place before the file's start")
        self._at = base + offset
        return self._at - self._start

    def readinto(self, buffer: Any) -> int:
        stop = max(self._at, min(self._at + len(buffer), self._stop))
        if self._at >= self._tail_at:
            block = self._tail[self._at - self._tail_at : stop - self._tail_at]
        else:
            block = self._file.read(self._at, stop)
        buffer[: len(block)] = block.tobytes()
        self._at = stop
        return len(block)
