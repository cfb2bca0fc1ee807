"""Every error that sharkstore raises on purpose.

    SharkstoreError
    ├── StoreNotFoundError      (FileNotFoundError)  no store at this path
    ├── FormatError             (ValueError)         documents break the format: see `.problems`
    │   └── VersionError                             of a newer format than this reader knows
    ├── CorruptStoreError       (OSError)            chunk files missing, or of wrong size or bytes
    ├── OpenFilesError          (OSError)            more files than a process may have open
    ├── UnknownTableError       (KeyError)           no such table in the store
    ├── IdError                 (IndexError)         a row id outside the table
    ├── ArgumentError           (ValueError)         shapes, offsets or options that don't fit
    ├── DtypeError              (TypeError)          an array of a dtype that isn't accepted
    ├── ClosedError             (ValueError)         the store was closed
    ├── CheckpointNotFoundError (FileNotFoundError)  no checkpoint at this path
    ├── CheckpointError         (ValueError)         a checkpoint that can't be read
    ├── NonFiniteError          (ValueError)         NaN, infinity or overflow in a table
    ├── StatsError              (ValueError)         stats that don't fit the checkpoint
    ├── PlanError               (ValueError)         tiers, pruning or a plan that can't be done
    ├── DestinationError        (FileExistsError)    the destination exists, or is being written
    ├── WriteError              (OSError)            the disk is full, or refused a write
    └── WorkerError             (RuntimeError)       no workers, or workers that are lost

Each is also the built-in that a caller would catch, and has a stable `.code`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar


class SharkstoreError(Exception):
    """Base of all errors; its text says where, what, got, expected and the remedy."""

    code: ClassVar[str] = "error"

    def __init__(
        self,
        what: str,
        *,
        where: str = "",
        got: object = None,
        expected: object = None,
        remedy: str = "",
    ) -> None:
        compared = ", ".join(
            f"{label} {value}"
            for label, value in (("got", got), ("expected", expected))
            if value is not None
        )
        text = f"{where}: {what}" if where else what
        if compared:
            text += f" ({compared})"
        if remedy:
            text += f"; {remedy}"
        super().__init__(text)

    def __str__(self) -> str:
        return str(self.args[0])


class StoreNotFoundError(SharkstoreError, FileNotFoundError):
    code = "store-not-found"


class FormatError(SharkstoreError, ValueError):
    """Documents that break the format.

    Attributes:
        problems: one line for each broken rule, `code where: message`.
    """

    code = "format"
    problems: Sequence[str] = ()


class VersionError(FormatError):
    code = "version"


class CorruptStoreError(SharkstoreError, OSError):
    code = "corrupt-store"


class OpenFilesError(SharkstoreError, OSError):
    code = "open-files"


class UnknownTableError(SharkstoreError, KeyError):
    code = "unknown-table"


class IdError(SharkstoreError, IndexError):
    code = "id"


class ArgumentError(SharkstoreError, ValueError):
    code = "argument"


class DtypeError(SharkstoreError, TypeError):
    code = "dtype"


class ClosedError(SharkstoreError, ValueError):
    code = "closed"


class CheckpointNotFoundError(SharkstoreError, FileNotFoundError):
    code = "checkpoint-not-found"


class CheckpointError(SharkstoreError, ValueError):
    code = "checkpoint"


class NonFiniteError(SharkstoreError, ValueError):
    code = "non-finite"


class StatsError(SharkstoreError, ValueError):
    code = "stats"


class PlanError(SharkstoreError, ValueError):
    code = "plan"


class DestinationError(SharkstoreError, FileExistsError):
    code = "destination"


class WriteError(SharkstoreError, OSError):
    code = "write"


class WorkerError(SharkstoreError, RuntimeError):
    code = "worker"
