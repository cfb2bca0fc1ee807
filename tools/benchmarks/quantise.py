"""Rows to their encodings, in memory: ours against FBGEMM, torch and memcpy."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import memory
from benchmarks.check import WrongAnswerError
from benchmarks.report import Result
from benchmarks.timing import Claim, Contender, Effort, Lane, measure
from sharkstore import kernels
from sharkstore.encodings import Encoding, parse_encoding
from sharkstore.kernels import reference
from sharkstore.quant.encode import fitted

F32 = NDArray[np.float32]

OURS = ("int8", "int8.affine", "int4", "int4.affine", "int2", "int2.affine", "f16")
SLICE_BYTES = 16 << 20  # of float32 a call
CHECKED = 1000


def run(dim: int, total_bytes: int, effort: Effort) -> Result:
    """Measure all encoders on rows that are larger than the caches.

    Args:
        total_bytes: of float32 rows, gone through slice by slice.
    """
    step = min(SLICE_BYTES, total_bytes) // (4 * dim)
    count = max(1, total_bytes // (4 * dim * step))
    rows = _rows(count * step, dim)
    slices = [rows[i * step : (i + 1) * step] for i in range(count)]
    contenders = [*_ours(slices), *_memcpy(slices)]
    if find_spec("torch"):
        contenders += _torch(slices)
    if find_spec("torch") and find_spec("fbgemm_gpu"):
        contenders += _fbgemm(slices)
    turns = Effort(effort.rounds, effort.seconds, count)
    found = measure(contenders, turns)
    notes = {one.name: one.note for one in contenders}
    return Result("Quantise in memory, one thread", f"dim {dim}", "ours int8", found, notes)


def _rows(count: int, dim: int) -> F32:
    rows: F32 = memory.huge((count, dim), np.float32)
    rng = np.random.default_rng(dim)
    rng.random(out=rows, dtype=np.float32)
    rows -= np.float32(0.5)
    return rows


def _contender(name: str, slices: list[F32], lane: Lane, note: str = "") -> Contender:
    return Contender(name, (lane,), slices[0].nbytes, Claim("bytes"), note)


def _ours(slices: list[F32]) -> Iterator[Contender]:
    for name in OURS:
        encoding = fitted(parse_encoding(name), 0.5)
        encode, note = _encoder(encoding, slices[0])
        wanted = reference.encode_rows(encoding, slices[0][:CHECKED])
        _check(f"ours {name}", encode(slices[0])[:CHECKED], wanted, 0)
        yield _contender(f"ours {name}", slices, _over(encode, slices), note)


def _encoder(encoding: Encoding, rows: F32) -> tuple[Callable[[F32], NDArray[np.uint8]], str]:
    encode: Any = kernels.encode_rows
    if "out" not in inspect.signature(encode).parameters:
        return lambda rows: encode(encoding, rows), "allocates"
    out = memory.huge((len(rows), encoding.row_bytes(rows.shape[1])), np.uint8)
    return lambda rows: encode(encoding, rows, out=out), ""


def _over(function: Callable[[Any], Any], slices: list[Any]) -> Lane:
    return lambda i: function(slices[i])


def _memcpy(slices: list[F32]) -> Iterator[Contender]:
    out = memory.huge(slices[0].shape, np.float32)
    yield _contender("memcpy", slices, lambda i: np.copyto(out, slices[i]))


def _torch(slices: list[F32]) -> Iterator[Contender]:
    import torch

    torch.set_num_threads(1)
    tensors = [torch.from_numpy(one) for one in slices]
    half = torch.from_numpy(memory.huge(slices[0].shape, np.float16))
    _check("torch half", half.copy_(tensors[0]).numpy(), slices[0].astype(np.float16), 0)
    yield _contender("torch half, copy_", slices, _over(half.copy_, tensors))
    pack = torch.ops.quantized.embedding_bag_byte_prepack
    unpacked = torch.ops.quantized.embedding_bag_byte_unpack(pack(tensors[0]))
    _check("torch prepack", unpacked.numpy(), slices[0], 0.5 / 255)
    name = "torch embedding_bag_byte_prepack"
    yield _contender(name, slices, _over(pack, tensors), "allocates, float32 scale and bias")


def _fbgemm(slices: list[F32]) -> Iterator[Contender]:
    import fbgemm_gpu  # noqa: F401 - its operators
    import torch

    tensors = [torch.from_numpy(one) for one in slices]
    fbgemm = torch.ops.fbgemm
    first = fbgemm.FloatToFused8BitRowwiseQuantized(tensors[0])
    _check("FBGEMM", fbgemm.Fused8BitRowwiseQuantizedToFloat(first).numpy(), slices[0], 0.5 / 255)
    out = torch.from_numpy(memory.huge(tuple(first.shape), np.uint8))

    def run(rows: torch.Tensor) -> torch.Tensor:
        return fbgemm.FloatToFused8BitRowwiseQuantizedOut(out, rows)  # type: ignore[no-any-return]

    _check("FBGEMM out", run(tensors[0]).numpy(), first.numpy(), 0)
    name = "FBGEMM FloatToFused8BitRowwiseQuantized"
    fresh = _over(fbgemm.FloatToFused8BitRowwiseQuantized, tensors)
    yield _contender(name, slices, fresh, "allocates, float32 scale and bias")
    yield _contender(f"{name}Out", slices, _over(run, tensors), "float32 scale and bias")


def _check(name: str, got: NDArray[Any], wanted: NDArray[Any], bound: float) -> None:
    """Refuse an encoder whose rows, of values below 0.5, are further off than a bound."""
    same = got.shape == wanted.shape and got.dtype == wanted.dtype
    if not same or np.abs(got.astype(np.float64) - wanted).max() > bound * 1.001:
        raise WrongAnswerError(f"{name}: its rows are not what it was given")
