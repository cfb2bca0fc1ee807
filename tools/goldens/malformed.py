"""Stores with one defect each, and where a reader must notice it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c

from goldens.stores import table, values, write
from sharkstore.format.digest import store_digest
from sharkstore.format.validate import parse
from sharkstore.plan.model import Plan

TABLE = "t"
F32 = "tables/t/0/c/0/0"
INT8 = "tables/t/1/c/0/0"
ROWMAP = "tables/t/rowmap/c/0/0"
BOOK = "tables/t/0.codebook/c/0/0/0"


def make(top: Path) -> None:
    """Make all malformed stores."""
    for name, (damage, told) in CASES.items():
        folder = top / name
        array = values(40, 70, 4)
        tiers = "pq4.9 40, int8 rest" if name.startswith("codebook") else "f32 7, int8 rest"
        write(folder, {TABLE: array}, Plan((table(array, TABLE, tiers),)))
        damage(folder)
        (folder.parent / f"{folder.name}.json").write_text(json.dumps(told, indent=1) + "\n")


def _edit(path: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        file = folder / path
        file.write_bytes(change(file.read_bytes()))

    return damage


def _remove(path: str) -> Callable[[Path], None]:
    return lambda folder: (folder / path).unlink()


def _swap(folder: Path) -> None:
    """The store of other rows: same sizes, sound checksums, another digest."""
    other = folder.with_name("other")
    array = values(41, 70, 4)
    write(other, {TABLE: array}, Plan((table(array, TABLE, "f32 7, int8 rest"),)))
    shutil.copy(other / F32, folder / F32)
    shutil.rmtree(other)


def _forge_rowmap(folder: Path) -> None:
    """A counter past its tier, with a sound checksum and digest: only slots are wrong."""
    file = folder / ROWMAP
    rows = bytearray(file.read_bytes()[:-4])
    rows[8:12] = (2**32 - 8).to_bytes(4, "little")
    file.write_bytes(bytes(rows) + google_crc32c.value(bytes(rows)).to_bytes(4, "little"))
    root = folder / "zarr.json"
    metadata = parse(json.loads(root.read_bytes()), "")
    trailers = [
        (folder / array.chunk_path(index)).read_bytes()[-4:]
        for array in metadata.arrays
        for index in range(array.chunks)
    ]
    digest = store_digest(root.read_bytes(), trailers, metadata.digest)
    root.write_bytes(root.read_bytes().replace(metadata.digest.encode(), digest.encode()))


def _told(found: str, at: str, *, open_: bool = True, lookup: bool = True, quick: bool) -> Any:
    return {"defect": found, "where": at, "opens": open_, "looks_up": lookup, "quick_finds": quick}


CASES: dict[str, tuple[Callable[[Path], None], Any]] = {
    "chunk-missing": (
        _remove(INT8),
        _told("a chunk file is missing", INT8, open_=False, quick=True),
    ),
    "chunk-truncated": (
        _edit(INT8, lambda raw: raw[:-1]),
        _told("a chunk file is a byte too short", INT8, open_=False, quick=True),
    ),
    "chunk-longer": (
        _edit(F32, lambda raw: raw + b"\0"),
        _told("a chunk file is a byte too long", F32, open_=False, quick=True),
    ),
    "codebook-missing": (
        _remove(BOOK),
        _told("the chunk file of a codebook is missing", BOOK, open_=False, quick=True),
    ),
    "codebook-truncated": (
        _edit(BOOK, lambda raw: raw[:-1]),
        _told("a codebook is a byte too short", BOOK, open_=False, quick=True),
    ),
    "codebook-flipped": (
        _edit(BOOK, lambda raw: bytes([raw[0] ^ 1]) + raw[1:]),
        _told("a bit of a codebook is flipped", BOOK, quick=False),
    ),
    "byte-flipped": (
        _edit(INT8, lambda raw: bytes([raw[0] ^ 1]) + raw[1:]),
        _told("a bit of a chunk is flipped", INT8, quick=False),
    ),
    "trailer-flipped": (
        _edit(INT8, lambda raw: raw[:-1] + bytes([raw[-1] ^ 128])),
        _told("a bit of a checksum is flipped", INT8, quick=True),
    ),
    "chunk-of-another-store": (
        _swap,
        _told("a chunk file is another store's", "digest", quick=True),
    ),
    "rowmap-past-tier": (
        _forge_rowmap,
        _told("the row map points past its tier", "tables/t/rowmap", lookup=False, quick=False),
    ),
    "document-differs": (
        _edit("tables/t/0/zarr.json", lambda raw: raw.replace(b'"float32"', b'"float64"')),
        _told("an array's own document is not the root's", "tables/t/0/zarr.json", quick=True),
    ),
    "root-edited": (
        _edit("zarr.json", lambda raw: raw.replace(b'"golden"', b'"forged"')),
        _told("the root document was edited", "digest", quick=True),
    ),
    "root-cut": (
        _edit("zarr.json", lambda raw: raw[: len(raw) // 2]),
        _told("the root document is cut", "zarr.json", open_=False, quick=True),
    ),
    "root-missing": (
        _remove("zarr.json"),
        _told("there is no root document", "zarr.json", open_=False, quick=True),
    ),
}
