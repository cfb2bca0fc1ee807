"""Folders of torch files, one a rank, such as `model_rank_0.pt`, …: joined into whole tensors.

Which tensors of the files are parts of one is told by what they are:

- a ShardedTensor or DTensor knows where its parts belong;
- a tensor of one file only is whole: tables that were dealt out to ranks;
- a tensor named by `sharded` is cut by rows, in the order of the ranks;
- any other must be the same in all files that have it, which is compared when they are opened.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharkstore.errors import CheckpointError, CheckpointNotFoundError
from sharkstore.readers.files import Files, open_files
from sharkstore.readers.shards import Shard, Sharded
from sharkstore.readers.torch_file import TorchFile
from sharkstore.tensors import Tensor

RANK = "{rank}"
COMPARED_BYTES = 1 << 20  # at a time
Read = Callable[[int, int], NDArray[Any]]
Parts = dict[str, list["_Part"]]


@dataclass(frozen=True, slots=True)
class _Part:
    """A box of a tensor in a rank's file.

    Args:
        tensor: the box.
        whole: shape of the whole tensor; None where the file doesn't know.
        offsets: of the box in the whole.
        file: its name.
        read: rows of the box.
    """

    tensor: Tensor
    whole: tuple[int, ...] | None
    offsets: tuple[int, ...]
    file: str
    read: Read


class RankFiles:
    """The files of a folder whose names have a rank, read as one checkpoint.

    Args:
        folder: path or URL.
        pattern: of the files' names: `{rank}` stands for the number, `*` for any text.
        sharded: globs of keys whose tensors are cut by rows.

    Raises:
        CheckpointNotFoundError: no such folder.
        CheckpointError: files are missing or damaged, or don't fit together.
    """

    def __init__(
        self, folder: str, pattern: str = f"*_rank_{RANK}.pt", sharded: Sequence[str] = ()
    ) -> None:
        self.name = os.path.basename(folder.rstrip("/"))
        self._folder = folder
        files = open_files(folder)
        ranks = _opened(files, _by_rank(files.names(), pattern, folder))
        self.tensors: dict[str, Tensor] = {}
        self.left: dict[str, str] = {}
        self._reads: dict[str, Read] = {}
        parts = _parts(ranks)
        for name in dict.fromkeys(key for one in ranks for key in (*one.keys, *one.left)):
            why = _why_left(name, ranks) if name in parts else _left_by_all(name, ranks)
            if why:
                self.left[name] = why
            else:
                self._join(name, parts[name], any(fnmatchcase(name, glob) for glob in sharded))
        for glob in sharded:
            if not any(fnmatchcase(name, glob) for name in self.tensors):
                raise CheckpointError(f"no tensor is named like {glob!r}", where=folder)
        self.stamp = "\n".join([*(one.stamp for one in ranks), *map(repr, sharded)])

    def read(self, name: str, start: int, stop: int) -> NDArray[Any]:
        """Rows of a tensor: a view of a mapped file where one has them whole."""
        return self._reads[name](start, stop)

    def _join(self, name: str, parts: list[_Part], by_rows: bool) -> None:
        first = parts[0]
        if first.whole is None and len(parts) == 1:
            self.tensors[name], self._reads[name] = first.tensor, first.read
        elif first.whole is None and not by_rows:
            self._check_same(parts, "name it with --sharded if its rows lie on several ranks")
            self.tensors[name], self._reads[name] = first.tensor, first.read
        else:
            boxes = parts if first.whole is not None else self._stacked(parts)
            self._join_boxes(name, boxes)

    def _stacked(self, parts: list[_Part]) -> list[_Part]:
        """Parts with their places: one behind the other."""
        first, rows = parts[0].tensor, 0
        places = []
        for part in parts:
            shape = part.tensor.shape
            if not shape or shape[1:] != first.shape[1:] or part.tensor.dtype != first.dtype:
                raise self._differ(parts[0], part, "their rows can't be joined")
            places.append((rows, *(0 for _ in shape[1:])))
            rows += part.tensor.rows
        whole = (rows, *first.shape[1:])
        return [
            _Part(part.tensor, whole, offsets, part.file, part.read)
            for part, offsets in zip(parts, places, strict=True)
        ]

    def _join_boxes(self, name: str, parts: list[_Part]) -> None:
        first = parts[0]
        for part in parts:
            if part.whole != first.whole or part.tensor.dtype != first.tensor.dtype:
                raise self._differ(first, part, "parts of different tensors")
        same: dict[tuple[tuple[int, ...], tuple[int, ...]], list[_Part]] = {}
        for part in parts:
            same.setdefault((part.offsets, part.tensor.shape), []).append(part)
        for copies in same.values():
            self._check_same(copies, "they are copies of one shard")
        shards = _shards(copies[0] for copies in same.values())
        tensor = Tensor(name, first.whole or (), first.tensor.dtype)
        self.tensors[name] = tensor
        self._reads[name] = Sharded(tensor, shards, self._folder).read

    def _check_same(self, parts: list[_Part], remedy: str) -> None:
        first = parts[0]
        for part in parts[1:]:
            if part.tensor != first.tensor:
                raise self._differ(first, part, remedy)
            row = _first_difference(first, part)
            if row is not None:
                raise CheckpointError(
                    f"tensor {first.tensor.name!r} differs in {first.file} and {part.file}, "
                    f"first in row {row}",
                    where=self._folder,
                    remedy=remedy,
                )

    def _differ(self, first: _Part, other: _Part, remedy: str) -> CheckpointError:
        told = [
            f"{one.tensor.dtype} of shape {one.whole or one.tensor.shape} in {one.file}"
            for one in (first, other)
        ]
        what = f"tensor {first.tensor.name!r} is {' and '.join(told)}"
        return CheckpointError(what, where=self._folder, remedy=remedy)


def _parts(ranks: list[TorchFile]) -> Parts:
    """Parts of each tensor, by rank; if any knows its place, those that are whole have one too."""
    found: Parts = {}
    for file in ranks:
        for name, tensor in file.tensors.items():
            part = _Part(tensor, None, (), file.name, partial(file.read, name))
            found.setdefault(name, []).append(part)
        for name, value in file.parts.items():
            for piece in value.pieces:
                tensor = Tensor(name, piece.stored.shape, value.dtype)
                read = partial(file.read_stored, piece.stored)
                part = _Part(tensor, value.shape, piece.offsets, file.name, read)
                found.setdefault(name, []).append(part)
    for name, parts in found.items():
        if any(part.whole is not None for part in parts):
            found[name] = [_placed(part) for part in parts]
    return found


def _placed(part: _Part) -> _Part:
    if part.whole is not None:
        return part
    shape = part.tensor.shape
    return _Part(part.tensor, shape, (0,) * len(shape), part.file, part.read)


def _shards(parts: Iterable[_Part]) -> list[Shard]:
    return [Shard(one.offsets, one.tensor.shape, one.file, one.read) for one in parts]


def _left_by_all(name: str, ranks: list[TorchFile]) -> str:
    """Why no rank has a tensor of that name that can be stored."""
    if any(name in one.parts for one in ranks):
        return "no rank has a part of it"
    return next(one.left[name] for one in ranks if name in one.left)


def _why_left(name: str, ranks: list[TorchFile]) -> str:
    """What some ranks have instead of the tensor; empty if none does."""
    for one in ranks:
        if name in one.left and name not in one.parts:
            return f"a tensor in other files, and in {one.name} {one.left[name]}"
    return ""


def _first_difference(first: _Part, other: _Part) -> int | None:
    """The first row that two tensors of one shape and dtype have other bytes in."""
    rows = first.tensor.rows
    step = max(1, COMPARED_BYTES // max(1, first.tensor.row_bytes))
    for start in range(0, rows if first.tensor.nbytes else 0, step):
        stop = min(start + step, rows)
        one, two = (
            np.ascontiguousarray(part.read(start, stop)).reshape(stop - start, -1).view(np.uint8)
            for part in (first, other)
        )
        if not np.array_equal(one, two):
            return start + int((one != two).any(axis=1).argmax())
    return None


def _by_rank(names: list[str], pattern: str, folder: str) -> list[str]:
    """The files' names in order of their ranks, which count from 0 without gaps."""
    if pattern.count(RANK) != 1 or "/" in pattern:
        raise CheckpointError(
            "not a pattern of file names", where=folder, got=pattern, expected=f"one {RANK} in it"
        )
    before, after = (re.escape(half).replace(r"\*", ".*?") for half in pattern.split(RANK))
    matches = [re.fullmatch(f"(?s:{before}([0-9]+){after})", name) for name in names]
    found: dict[int, str] = {}
    for match in filter(None, matches):
        rank = int(match[1])
        if rank in found:
            what = f"{found[rank]} and {match[0]} are both of rank {rank}"
            raise CheckpointError(what, where=folder, remedy="give a closer pattern")
        found[rank] = match[0]
    if not found:
        error = CheckpointError if names else CheckpointNotFoundError
        raise error("no file here is named so", where=folder, expected=pattern)
    missing = next(rank for rank in range(len(found) + 1) if rank not in found)
    if missing < len(found):
        raise CheckpointError(
            f"the file of rank {missing} is missing",
            where=folder,
            got=f"{len(found)} files, ranks {min(found)} to {max(found)}",
            expected=_sibling(next(filter(None, matches)), missing, [m[1] for m in matches if m]),
        )
    return [found[rank] for rank in range(len(found))]


def _sibling(match: re.Match[str], rank: int, numbers: list[str]) -> str:
    """The name that the file of another rank would have."""
    width = min(map(len, numbers))
    return f"{match[0][: match.start(1)]}{rank:0{width}}{match[0][match.end(1) :]}"


def _opened(files: Files, names: list[str]) -> list[TorchFile]:
    """The ranks' files; if one can't be read, it is told which rows are lost with it."""
    opened: list[TorchFile] = []
    broken: CheckpointError | None = None
    for name in names:
        try:
            opened.append(TorchFile(os.path.join(files.folder, name), files))
        except CheckpointError as error:
            broken = broken or error
    if broken is None:
        return opened
    lost = _lost(opened)
    raise CheckpointError(f"{broken}{f'; without it {lost}' if lost else ''}") from broken


def _lost(ranks: list[TorchFile]) -> str:
    """What the files that can be read say of the others: a part of a tensor that none has."""
    for name, parts in _parts(ranks).items():
        whole = parts[0].whole
        if whole is None:
            continue
        boxes = {(one.offsets, one.tensor.shape): one for one in parts}
        shards = [
            Shard(one.offsets, one.tensor.shape, one.file, one.read) for one in boxes.values()
        ]
        try:
            Sharded(Tensor(name, whole, parts[0].tensor.dtype), shards)
        except CheckpointError as error:
            return str(error)
    return ""
