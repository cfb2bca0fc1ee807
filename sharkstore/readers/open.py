"""Find out what kind of checkpoint a path is, and open it."""

from __future__ import annotations

import os
from collections.abc import Callable
from glob import escape, glob

from sharkstore.errors import CheckpointError, CheckpointNotFoundError
from sharkstore.readers.model import Checkpoint
from sharkstore.readers.numpy_file import NumpyArchive, NumpyFile
from sharkstore.readers.safetensors import SafetensorsFile, ShardedSafetensors
from sharkstore.readers.torch_file import TorchFile

KINDS: dict[str, Callable[[str], Checkpoint]] = {
    ".safetensors": SafetensorsFile,
    ".safetensors.index.json": ShardedSafetensors,
    ".pt": TorchFile,
    ".pth": TorchFile,
    ".bin": TorchFile,
    ".npz": NumpyArchive,
    ".npy": NumpyFile,
}


def open_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Open a checkpoint: a file, or a folder with one safetensors file or index in it.

    Raises:
        CheckpointNotFoundError: nothing there.
        CheckpointError: of no known kind, or damaged, or more than weights.
    """
    place = os.fsdecode(path)
    if not os.path.exists(place):
        raise CheckpointNotFoundError("no such checkpoint", where=place)
    if os.path.isdir(place):
        place = _in_folder(place)
    for suffix, kind in KINDS.items():
        if place.endswith(suffix):
            return _checked(kind(place), place)
    raise CheckpointError(
        "not a kind of checkpoint that can be read", where=place, expected=", ".join(KINDS)
    )


def _checked(checkpoint: Checkpoint, place: str) -> Checkpoint:
    """Keys must be text that JSON and terminals can carry."""
    for name in (*checkpoint.tensors, *checkpoint.left):
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise CheckpointError(f"key {name!r} is not Unicode text", where=place) from error
    return checkpoint


def _in_folder(folder: str) -> str:
    for pattern in ("*.safetensors.index.json", "*.safetensors"):
        found = sorted(glob(os.path.join(escape(folder), pattern)))
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(os.path.basename(one) for one in found[:4])
            raise CheckpointError(f"several checkpoints ({names}): name one", where=folder)
    raise CheckpointError("no safetensors file in this folder", where=folder)
