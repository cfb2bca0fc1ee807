"""torch and numpy on float32, torch on quantised rows."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - as everybody

from benchmarks import memory
from benchmarks.data import F32, Part, Source, Work
from benchmarks.peers import Makers
from benchmarks.timing import Claim, Contender, Effort, Lane, best_of

EXACT = Claim("source")
# scales of a row in float16 take a bit in 2**11 of its range, and its smallest value another
BYTE, NIBBLE = Claim("source", 255, 2**-20), Claim("source", 15, 2**-9)
ALLOCATES = "allocates"

# a lane for a thread's part, given its ids as tensors
Make = Callable[[Part, list[torch.Tensor]], Lane]
DTYPES = {"int64": torch.int64, "int32": torch.int32}


def contender(
    name: str, make: Make, work: Work, claim: Claim, notes: Sequence[str], effort: Effort
) -> Contender:
    """A torch function on a workload, at its best settings.

    Tried are ids of 64 and of 32 bits, and threads of ours and of torch.
    """
    ways: list[tuple[tuple[Part, ...], int, list[str]]] = [(work.parts, 1, [])]
    if work.threads > 1:
        ways.append(((work.whole,), work.threads, ["torch's threads"]))
    variants = [
        Contender(
            name,
            tuple(make(part, tensors(part, dtype)) for part in parts),
            work.count,
            claim,
            ", ".join([*notes, f"{spelled} ids", *said]),
            partial(set_threads, threads),
        )
        for parts, threads, said in ways
        for spelled, dtype in DTYPES.items()
    ]
    return best_of(variants, effort)


def set_threads(count: int) -> None:
    if torch.get_num_threads() != count:
        torch.set_num_threads(count)


def tensors(part: Part, dtype: torch.dtype) -> list[torch.Tensor]:
    """A part's ids as tensors."""
    return [torch.from_numpy(ids).to(dtype) for ids in part.ids]


def offsets_of(part: Part, ids: Sequence[torch.Tensor]) -> torch.Tensor:
    """Offsets of bags, of the ids' dtype; without bags, one id each."""
    if part.offsets is None:
        return torch.arange(len(ids[0]) + 1, dtype=ids[0].dtype)
    return torch.from_numpy(part.offsets).to(ids[0].dtype)


@contextmanager
def floats(source: Source, _folder: Path, effort: Effort) -> Iterator[Makers]:
    """float32 in memory on huge pages, and float32 in a mapped file."""
    held = memory.huge((source.rows, source.dim), np.float32)
    for start, block in source.blocks():
        held[start : start + len(block)] = block
    weights = torch.from_numpy(held)
    mapped = source.values()
    memory.make_present(mapped)
    here, there = memory.pages(held), memory.pages(mapped)

    def makers(work: Work) -> list[Contender]:
        def torch_one(name: str, make: Make, *notes: str) -> Contender:
            return contender(name, make, work, EXACT, [here, *notes], effort)

        def numpy_one(name: str, make: Callable[[Part], Lane], *notes: str) -> Contender:
            lanes = tuple(map(make, work.parts))
            return Contender(name, lanes, work.count, EXACT, ", ".join([there, *notes]))

        if work.shape == "bag":
            return [torch_one("F.embedding_bag fp32", _embedding_bag(weights), ALLOCATES)]
        return [
            torch_one("F.embedding fp32", _embedding(weights), ALLOCATES),
            torch_one("torch.index_select(out=) fp32", _index_select(weights)),
            numpy_one("numpy memmap fp32 [ids]", _fancy(mapped), ALLOCATES),
            numpy_one("numpy memmap fp32 take(out=)", _take(mapped)),
        ]

    yield makers


def _embedding(weights: torch.Tensor) -> Make:
    return lambda _part, ids: lambda i: F.embedding(ids[i], weights)


def _index_select(weights: torch.Tensor) -> Make:
    def make(part: Part, ids: list[torch.Tensor]) -> Lane:
        out = torch.from_numpy(part.out)
        return lambda i: torch.index_select(weights, 0, ids[i], out=out)

    return make


def _embedding_bag(weights: torch.Tensor) -> Make:
    def make(part: Part, ids: list[torch.Tensor]) -> Lane:
        offsets = offsets_of(part, ids)
        return lambda i: F.embedding_bag(
            ids[i], weights, offsets, mode="sum", include_last_offset=True
        )

    return make


def _fancy(mapped: F32) -> Callable[[Part], Lane]:
    return lambda part: lambda i: mapped[part.ids[i]]


def _take(mapped: F32) -> Callable[[Part], Lane]:
    # mode raise, the default, would gather into a buffer first
    return lambda part: lambda i: mapped.take(part.ids[i], axis=0, out=part.out, mode="clip")


@contextmanager
def quantised(source: Source, _folder: Path, effort: Effort) -> Iterator[Makers]:
    """torch.ops.quantized on rows of 8 and of 4 bits."""
    ops = torch.ops.quantized
    eight = _packed(source, ops.embedding_bag_byte_prepack)
    four = _packed(source, ops.embedding_bag_4bit_prepack)
    byte = ops.embedding_bag_prepack(_per_channel(source))

    pages = [memory.pages(packed.numpy()) for packed in (eight, four)]

    def makers(work: Work) -> list[Contender]:
        def one(name: str, make: Make, claim: Claim, *notes: str) -> Contender:
            said = [*notes, ALLOCATES]
            return contender(f"quantized.{name}", make, work, claim, said, effort)

        if work.shape == "lookup":
            return [one("embedding_byte", _byte(byte), BYTE)]
        bytes_, nibbles = (
            _bags(ops.embedding_bag_byte_rowwise_offsets, eight),
            _bags(ops.embedding_bag_4bit_rowwise_offsets, four),
        )
        return [
            one("embedding_bag_byte", bytes_, BYTE, pages[0]),
            one("embedding_bag_4bit", nibbles, NIBBLE, pages[1]),
        ]

    yield makers


def _packed(source: Source, prepack: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Rows packed by torch, on huge pages."""
    first = prepack(torch.from_numpy(source.values()[:1].copy()))
    held = memory.huge((source.rows, first.shape[1]), np.uint8)
    for start, block in source.blocks():
        held[start : start + len(block)] = prepack(torch.from_numpy(block.copy())).numpy()
    return torch.from_numpy(held)


def _per_channel(source: Source) -> torch.Tensor:
    """The table as a tensor quantised by row, which is what embedding_byte packs."""
    codes = torch.empty((source.rows, source.dim), dtype=torch.uint8)
    scales = torch.empty(source.rows)
    zeros = torch.empty(source.rows)
    for start, block in source.blocks():
        rows = slice(start, start + len(block))
        low = torch.from_numpy(block.min(axis=1))
        scales[rows] = (torch.from_numpy(block.max(axis=1)) - low) / 255
        zeros[rows] = -low / scales[rows]
        shifted = torch.from_numpy(block.copy()).div_(scales[rows, None]).add_(zeros[rows, None])
        codes[rows] = shifted.round_().clamp_(0, 255).to(torch.uint8)
    with warnings.catch_warnings(action="ignore"):  # such tensors are to go, one day
        return torch._make_per_channel_quantized_tensor(codes, scales, zeros, 0)  # noqa: SLF001


def _byte(packed: Any) -> Make:
    return lambda _part, ids: lambda i: torch.ops.quantized.embedding_byte(packed, ids[i])


def _bags(function: Any, packed: torch.Tensor) -> Make:
    def make(part: Part, ids: list[torch.Tensor]) -> Lane:
        offsets = offsets_of(part, ids)
        return lambda i: function(packed, ids[i], offsets, mode=0, include_last_offset=True)

    return make
