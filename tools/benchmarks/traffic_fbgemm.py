"""Requests answered by FBGEMM: all tables in one operator, int8 rows."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

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
from benchmarks.peers_fbgemm import KINDS
from benchmarks.timing import Effort, Lane
from benchmarks.traffic import Model, Requests
from benchmarks.traffic_torch import Make, maker
from sharkstore.load.store import Store

FBGEMM = "FBGEMM TBE int8"
KIND, CLAIM = KINDS["int8"]


def tables(model: Model, _store: Store, _note: str, effort: Effort) -> Make:
    """All tables of a model in one operator."""
    specs = [(name, model.rows, model.dim, KIND, EmbeddingLocation.HOST) for name in model.names]
    operator = IntNBitTableBatchedEmbeddingBagsCodegen(
        specs,
        device="cpu",
        pooling_mode=PoolingMode.SUM,
        bounds_check_mode=BoundsCheckMode.NONE,
        output_dtype=SparseType.FP32,
    )
    held = torch.from_numpy(memory.huge((operator.host_size,), np.uint8))
    operator.initialize_logical_weights_placements_and_offsets()
    operator.weights_host = held
    operator.weight_initialized = True
    places = operator.split_embedding_weights(split_scale_shifts=False)
    for (place, _), values in zip(places, model.values, strict=True):
        with warnings.catch_warnings(action="ignore"):  # of a tensor made of a tensor
            codes, head = quantize_embs(torch.from_numpy(values.copy()), KIND)
        torch.cat([head, codes], dim=1, out=place)

    def lanes(_requests: Requests, ids: Sequence[torch.Tensor], offsets: torch.Tensor) -> Lane:
        return lambda i: operator(ids[i], offsets)

    return maker(FBGEMM, lanes, CLAIM, memory.pages(held.numpy()), effort)
