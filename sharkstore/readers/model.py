"""What every reader gives: named tensors, readable by range of their first axis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from sharkstore.tensors import Tensor, TensorSource


class Checkpoint(TensorSource, Protocol):
    """A checkpoint: tensors by name, and what in it is no tensor that can be stored, with why."""

    @property
    def name(self) -> str:
        """Name of the file or folder, without its path."""

    @property
    def stamp(self) -> str:
        """A text that is another one once any of its files was changed."""

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """All tensors that can be stored, in the checkpoint's order."""

    @property
    def left(self) -> Mapping[str, str]:
        """Entries that can't be stored, with the reason."""
