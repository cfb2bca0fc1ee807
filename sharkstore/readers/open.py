"""Find out what kind of checkpoint a path or URL is, and open it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from sharkstore.errors import CheckpointError, CheckpointNotFoundError
from sharkstore.readers.distributed import METADATA, DistributedCheckpoint
from sharkstore.readers.files import is_url, open_files
from sharkstore.readers.model import Checkpoint
from sharkstore.readers.numpy_file import NumpyArchive, NumpyFile
from sharkstore.readers.rank_files import RankFiles
from sharkstore.readers.safetensors import SafetensorsFile, ShardedSafetensors
from sharkstore.readers.torch_file import TorchFile

KINDS: dict[str, Callable[[str], Checkpoint]] = {
    ".safetensors": SafetensorsFile,
    ".safetensors.index.json": ShardedSafetensors,
    ".pt": TorchFile,
    ".pth": TorchFile,
    ".bin": TorchFile,
    ".ckpt": TorchFile,
    ".npz": NumpyArchive,
    ".npy": NumpyFile,
}
IN_FOLDERS = (".safetensors.index.json", ".safetensors")
LOCAL = ("file://", "local://")


@dataclass(frozen=True, slots=True)
class Opening:
    """All that another process needs to open a checkpoint: see `open_checkpoint`."""

    place: str
    rank_files: str | None = None
    sharded: tuple[str, ...] = ()

    def open(self) -> Checkpoint:
        """The checkpoint, opened anew."""
        return open_checkpoint(self.place, self.rank_files, self.sharded)


def open_checkpoint(
    path: str | os.PathLike[str], rank_files: str | None = None, sharded: Sequence[str] = ()
) -> Checkpoint:
    """Open a checkpoint: a file, or a folder with one of a known kind in it.

    Args:
        path: a path, or a URL (`s3://…`) that fsspec knows; one that ends in `/` is a folder.
        rank_files: how the files of ranks in a folder are named: `*_rank_{rank}.pt`.
        sharded: globs over keys of rank files that hold a part of a table's rows each.

    Raises:
        CheckpointNotFoundError: nothing there.
        CheckpointError: of no known kind, or damaged, or more than weights.
    """
    place = _place(os.fsdecode(path))
    kind = _kind(place)
    if kind is None:
        return _checked(_in_folder(_bare(place), rank_files, sharded), place)
    if rank_files is not None:
        raise CheckpointError("files of ranks are looked for in a folder", where=place)
    return _checked(kind(place), place)


def _bare(folder: str) -> str:
    """A folder without the slash at its end; a URL of nothing but a protocol keeps its own."""
    return folder if folder.endswith("://") else folder.rstrip("/") or "/"


def _place(path: str) -> str:
    for scheme in LOCAL:
        if path.startswith(scheme):
            return path.removeprefix(scheme)
    if path.startswith(("http://", "https://")) and "?" in path:
        raise CheckpointError(
            "an address with a query can't be read by name",
            where=path.partition("?")[0],
            remedy="download it first, or give the address of the store behind it",
        )
    return path


def _kind(place: str) -> Callable[[str], Checkpoint] | None:
    """What reads the file that this is; None for a folder."""
    if is_url(place):
        return _by_suffix(place)  # nothing else tells a file from a folder without a request
    if not os.path.exists(place):
        raise CheckpointNotFoundError("no such checkpoint", where=place)
    if os.path.isdir(place):
        return None
    kind = _by_suffix(place)
    if kind is None:
        raise CheckpointError(
            "not a kind of checkpoint that can be read", where=place, expected=", ".join(KINDS)
        )
    return kind


def _by_suffix(place: str) -> Callable[[str], Checkpoint] | None:
    return next((kind for suffix, kind in KINDS.items() if place.endswith(suffix)), None)


def _checked(checkpoint: Checkpoint, place: str) -> Checkpoint:
    """Keys, and the name that provenance has, must be text that JSON and terminals can carry."""
    if not _is_text(checkpoint.name):
        raise CheckpointError(f"its name {checkpoint.name!r} is not Unicode text: rename it")
    for name in (*checkpoint.tensors, *checkpoint.left):
        if not _is_text(name):
            raise CheckpointError(f"key {name!r} is not Unicode text", where=place)
    return checkpoint


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _in_folder(folder: str, rank_files: str | None, sharded: Sequence[str]) -> Checkpoint:
    if rank_files is not None:
        return RankFiles(folder, rank_files, sharded)
    files = open_files(folder)
    names = files.names()
    if METADATA in names:
        return DistributedCheckpoint(folder)
    for suffix in IN_FOLDERS:
        found = [name for name in names if name.endswith(suffix) and not name.startswith(".")]
        if len(found) == 1:
            return KINDS[suffix](f"{folder}/{found[0]}")
        if found:
            several = f"several checkpoints ({', '.join(found[:4])}): name one"
            raise CheckpointError(several, where=files.folder)
    ranked = [name for name in names if fnmatchcase(name, "*_rank_*.pt")]
    if ranked:
        raise CheckpointError(
            f"files of several ranks ({', '.join(ranked[:4])})",
            where=files.folder,
            remedy="say how they are named: --rank-files '*_rank_{rank}.pt'",
        )
    if is_url(folder) and not names:
        raise CheckpointNotFoundError(
            "no such checkpoint", where=files.folder, expected=f"a folder, or {', '.join(KINDS)}"
        )
    raise CheckpointError(
        "no safetensors file in this folder, and no .metadata", where=files.folder
    )
