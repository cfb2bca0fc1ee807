"""Serve embedding tables from a sharkstore: open it, look rows up.

    import sharkstore

    with sharkstore.open("model.shark") as store:
        rows = store["emb.user.weight"].lookup([3, 14, 15])

Conversion is `sharkstore.convert`, imported by name: it is not paid for here.
"""

from sharkstore.errors import (
    ArgumentError,
    ClosedError,
    CorruptStoreError,
    DtypeError,
    FormatError,
    IdError,
    OpenFilesError,
    SharkstoreError,
    StoreNotFoundError,
    UnknownTableError,
    VersionError,
)
from sharkstore.load.open import open_store as open  # noqa: A004 - as in zarr.open, safe_open
from sharkstore.load.store import Store
from sharkstore.load.table import Table

__version__ = "0.1.0"

__all__ = [
    "ArgumentError",
    "ClosedError",
    "CorruptStoreError",
    "DtypeError",
    "FormatError",
    "IdError",
    "OpenFilesError",
    "SharkstoreError",
    "Store",
    "StoreNotFoundError",
    "Table",
    "UnknownTableError",
    "VersionError",
    "open",
]
