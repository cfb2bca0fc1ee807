"""Storage libraries: zarr-python, TensorStore and LMDB; all of them look single rows up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.data import Part, Source, Work
from benchmarks.peers import Makers
from benchmarks.timing import Claim, Contender, Effort, Lane
from sharkstore.format.layout import ROOT_DOCUMENT

EXACT = Claim("source")
KEY = np.dtype(">u4")  # LMDB keeps keys in the order of their bytes

Make = Callable[[Part], Lane]


@contextmanager
def _group(makes: dict[str, tuple[Make, str]]) -> Iterator[Makers]:
    def makers(work: Work) -> list[Contender]:
        if work.shape == "bag" or work.threads > 1:
            return []
        return [
            Contender(name, (make(work.whole),), work.count, EXACT, note)
            for name, (make, note) in makes.items()
        ]

    yield makers


def array_of(source: Source) -> Path:
    """The one array of a store of the table in float32."""
    store = source.store("f32")
    (document,) = store.glob(f"tables/*/0/{ROOT_DOCUMENT}")
    return document.parent


@contextmanager
def zarr(source: Source, _folder: Path, _effort: Effort) -> Iterator[Makers]:
    """zarr-python, on the chunk files of a store in float32."""
    import zarr as library

    array: Any = library.open_array(str(array_of(source)), mode="r")

    def make(part: Part) -> Lane:
        return lambda i: array.oindex[part.ids[i]]

    with _group({"zarr oindex fp32": (make, "allocates")}) as makers:
        yield makers


@contextmanager
def tensorstore(source: Source, _folder: Path, _effort: Effort) -> Iterator[Makers]:
    """TensorStore on the same files: reading chunks for each call, and out of its cache."""
    import tensorstore as ts

    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{array_of(source)}/"}}

    def opened(limit: int) -> Any:
        context = ts.Context({"cache_pool": {"total_bytes_limit": limit}})
        return ts.open(spec, context=context, read=True, open=True).result()

    def make(array: Any) -> Make:
        return lambda part: lambda i: array[part.ids[i]].read().result()

    size = 4 * source.rows * source.dim
    cached = opened(size + size // 2 + (1 << 30))
    makes = {
        "TensorStore fp32, no cache": (make(opened(0)), "allocates"),
        "TensorStore fp32, all in its cache": (make(cached), "allocates"),
    }
    cached.read().result()
    with _group(makes) as makers:
        yield makers


@contextmanager
def lmdb(source: Source, folder: Path, _effort: Effort) -> Iterator[Makers]:
    """LMDB, a row a key: no read-ahead, one transaction."""
    import lmdb as library

    path = folder / f"{source.rows}x{source.dim}.lmdb"
    room = 2 * source.rows * (4 * source.dim + 64) + (1 << 26)
    with library.open(str(path), map_size=room, subdir=False, sync=False, writemap=True) as env:
        if env.stat()["entries"] != source.rows:
            _fill(env, source)
    how = {"subdir": False, "readonly": True, "readahead": False, "lock": False}
    note = "keys made ahead, allocates"
    with (
        library.open(str(path), map_size=room, **how) as env,
        env.begin() as read,
        _group({"LMDB fp32": (_get(read, source.dim), note)}) as makers,
    ):
        yield makers
    path.unlink()


def _fill(env: Any, source: Source) -> None:
    for start, block in source.blocks():
        keys = np.arange(start, start + len(block), dtype=KEY)
        with env.begin(write=True) as write, write.cursor() as cursor:
            pairs = zip(_each(keys), _each(block), strict=True)
            cursor.putmulti(pairs, append=True)


def _each(rows: np.ndarray[Any, Any]) -> list[bytes]:
    """Every row's bytes."""
    raw = rows.tobytes()
    width = len(raw) // len(rows)
    return [raw[at : at + width] for at in range(0, len(raw), width)]


def _get(read: Any, dim: int) -> Make:
    """A get for each id, joined: faster than getmulti, and than views of the values."""

    def make(part: Part) -> Lane:
        keys = [_each(ids.astype(KEY)) for ids in part.ids]

        def run(index: int) -> Any:
            rows = b"".join(map(read.get, keys[index]))
            return np.frombuffer(rows, np.float32).reshape(-1, dim)

        return run

    return make
