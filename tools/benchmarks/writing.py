"""One array to disk: our chunk writer against zarr-python, TensorStore and cp."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import memory
from benchmarks.check import WrongAnswerError
from benchmarks.report import Result
from benchmarks.timing import Claim, Contender, Effort, measure
from sharkstore.format.layout import CHUNK_TARGET
from sharkstore.write.writer import ChunkWriter

DIM = 64
CHUNK_ROWS = CHUNK_TARGET // (4 * DIM)
OURS = "our chunk writer"

F32 = NDArray[np.float32]
Write = Callable[[Path], object]


def run(size: int, rounds: int, folder: Path) -> list[Result]:
    """Write an array of float32 in chunks of 32 MiB, each with its crc32c, and sync it."""
    chunks = max(1, size // CHUNK_TARGET)
    array: F32 = memory.huge((chunks * CHUNK_ROWS, DIM), np.float32)
    np.random.default_rng(0).random(out=array, dtype=np.float32)
    place = folder / "written"
    contenders = [
        Contender(name, (_lane(write, place),), array.nbytes, Claim("bytes"), note, _clean(place))
        for name, write, note in _writers(array, folder)
    ]
    for contender in contenders:
        _check(contender, place, array)
    found = measure(contenders, Effort(rounds, 0, 1))
    shutil.rmtree(place)
    notes = {one.name: one.note for one in contenders}
    title = f"Write {array.nbytes / 1e9:.2g} GB in chunks of 32 MiB with crc32c, and sync"
    return [Result(title, "GB/s", OURS, found, notes)]


def _writers(array: F32, folder: Path) -> Iterator[tuple[str, Write, str]]:
    yield OURS, lambda place: _ours(array, place), ""
    source = folder / "to-copy"
    array.tofile(source)
    yield "cp", lambda place: subprocess.run(["cp", source, place / "0"], check=True), "no crc32c"
    if find_spec("zarr"):
        yield "zarr-python", lambda place: _zarr(array, place), ""
    if find_spec("tensorstore"):
        yield "TensorStore", lambda place: _tensorstore(array, place), ""


def _ours(array: F32, place: Path) -> None:
    raw = array.view(np.uint8)
    with ChunkWriter(4 * DIM * CHUNK_ROWS) as writer:
        for index, start in enumerate(range(0, len(array), CHUNK_ROWS)):
            block = raw[start : start + CHUNK_ROWS]
            (place / f"c/{index}").mkdir(parents=True)
            chunk = writer.chunk(str(place / f"c/{index}/0"), block.nbytes)
            chunk.put(block)
            chunk.close()


def _zarr(array: F32, place: Path) -> None:
    import zarr
    from zarr.codecs import BytesCodec, Crc32cCodec

    made = zarr.create_array(
        str(place / "array"),
        shape=array.shape,
        chunks=(CHUNK_ROWS, DIM),
        dtype="float32",
        serializer=BytesCodec(),
        compressors=[Crc32cCodec()],
    )
    made[:] = array


def _tensorstore(array: F32, place: Path) -> None:
    import tensorstore as ts

    grid = {"name": "regular", "configuration": {"chunk_shape": [CHUNK_ROWS, DIM]}}
    spec = {
        "driver": "zarr3",
        "kvstore": {"driver": "file", "path": f"{place}/"},
        "metadata": {
            "shape": list(array.shape),
            "data_type": "float32",
            "chunk_grid": grid,
            "codecs": [{"name": "bytes"}, {"name": "crc32c"}],
        },
    }
    ts.open(spec, create=True).result().write(array).result()


def _lane(write: Write, place: Path) -> Callable[[int], None]:
    def run(_index: int) -> None:
        write(place)
        _sync(place)

    return run


def _sync(place: Path) -> None:
    for folder, _, files in os.walk(place):
        for name in files:
            descriptor = os.open(os.path.join(folder, name), os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)


def _clean(place: Path) -> Callable[[], None]:
    def clean() -> None:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        os.sync()

    return clean


def _check(contender: Contender, place: Path, array: F32) -> None:
    """Refuse a writer whose files don't have the array's bytes."""
    contender.prepare()
    contender.lanes[0](0)
    parts = [one for one in place.rglob("*") if one.is_file() and one.name != "zarr.json"]
    size = sum(part.stat().st_size for part in parts)
    trailers = 0 if contender.name == "cp" else 4 * len(parts)
    first = min(parts, key=_order)
    same = np.fromfile(first, np.float32, 1000).tobytes() == array.reshape(-1)[:1000].tobytes()
    if size != array.nbytes + trailers or not same:
        raise WrongAnswerError(f"{contender.name}: its files don't have the array's bytes")


def _order(path: Path) -> list[Any]:
    return [int(part) if part.isdigit() else 0 for part in path.parts]
