"""FBGEMM's inference tables on the CPU: int8, int4 and float16 rows."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fbgemm_gpu  # noqa: F401 - its operators, before anything that uses them
import numpy as np
import torch
from fbgemm_gpu.split_embedding_configs import SparseType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import (
    BoundsCheckMode,
    EmbeddingLocation,
    PoolingMode,
)
from fbgemm_gpu.split_table_batched_embeddings_ops_inference import (
    IntNBitTableBatchedEmbeddingBagsCodegen,
)
from fbgemm_gpu.tbe.utils.quantize import quantize_embs

from benchmarks import memory
from benchmarks.data import Part, Source, Work
from benchmarks.peers import Makers
from benchmarks.peers_torch import ALLOCATES, Make, contender, offsets_of
from benchmarks.timing import Claim, Contender, Effort, Lane

# scale and smallest value of a row are float16
KINDS = {
    "int8": (SparseType.INT8, Claim("source", 255, 2**-9)),
    "int4": (SparseType.INT4, Claim("source", 15, 2**-9)),
    "fp16": (SparseType.FP16, Claim("source", 0, 2**-11)),
}


@contextmanager
def tables(source: Source, _folder: Path, effort: Effort) -> Iterator[Makers]:
    """One table of each kind; pooled and, for lookups, also un-pooled."""
    held = {kind: _rows(source, kind) for kind in KINDS}

    pages = {kind: memory.pages(rows.numpy()) for kind, rows in held.items()}

    def makers(work: Work) -> list[Contender]:
        modes = {"SUM": PoolingMode.SUM}
        if work.shape == "lookup":
            modes["NONE"] = PoolingMode.NONE
        return [
            contender(
                f"FBGEMM TBE {kind} {mode}",
                _forward(_table(source, kind, held[kind], pooling)),
                work,
                KINDS[kind][1],
                [pages[kind], ALLOCATES],
                effort,
            )
            for kind in KINDS
            for mode, pooling in modes.items()
        ]

    yield makers


def _table(
    source: Source, kind: str, rows: torch.Tensor, pooling: PoolingMode
) -> IntNBitTableBatchedEmbeddingBagsCodegen:
    """A table over rows that are there already."""
    specs = [("emb", source.rows, source.dim, KINDS[kind][0], EmbeddingLocation.HOST)]
    table = IntNBitTableBatchedEmbeddingBagsCodegen(
        specs,
        device="cpu",
        pooling_mode=pooling,
        bounds_check_mode=BoundsCheckMode.NONE,
        output_dtype=SparseType.FP32,
    )
    assert table.host_size <= rows.numel()
    table.initialize_logical_weights_placements_and_offsets()
    table.weights_host = rows
    table.weight_initialized = True
    return table


def _rows(source: Source, kind: str) -> torch.Tensor:
    """The table quantised by FBGEMM: each row's scale and bias, then its codes; flat."""
    sparse = KINDS[kind][0]
    rows: torch.Tensor | None = None
    for start, block in source.blocks():
        with warnings.catch_warnings(action="ignore"):  # of a tensor made of a tensor
            codes, head = quantize_embs(torch.from_numpy(block.copy()), sparse)
        parts = [codes.view(torch.uint8)] if head is None else [head, codes]
        width = sum(part.shape[1] for part in parts)
        if rows is None:
            # a cache line more: tables are rounded up to whole ones
            rows = torch.from_numpy(memory.huge((source.rows * width + 128,), np.uint8))
        place = rows[start * width : (start + len(block)) * width].view(len(block), width)
        torch.cat(parts, dim=1, out=place)
    assert rows is not None
    return rows


def _forward(table: Any) -> Make:
    def make(part: Part, ids: list[torch.Tensor]) -> Lane:
        offsets = offsets_of(part, ids)
        return lambda i: table(ids[i], offsets)

    return make
