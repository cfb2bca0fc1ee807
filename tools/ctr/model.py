"""The model: an embedding table per field, and over their vectors an FM term and an MLP."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

INITIAL_SPREAD = 0.05


class Head(nn.Module):
    """What lies behind the embedding tables.

    Args:
        fields: number of fields.
        dim: values a vector.
        hidden: widths of the hidden layers.
    """

    def __init__(self, fields: int, dim: int, hidden: Sequence[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise([fields * dim, *hidden]):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        self.mlp = nn.Sequential(*layers, nn.Linear(hidden[-1], 1))

    def forward(self, vectors: Tensor) -> Tensor:
        """Logits, float32 (n,), of vectors, float32 (n, fields, dim)."""
        squares = vectors.square().sum(dim=(1, 2))
        pairs = (vectors.sum(dim=1).square().sum(dim=1) - squares) / 2
        deep: Tensor = self.mlp(vectors.flatten(1))
        return pairs + deep[:, 0]


class Ctr(nn.Module):
    """A click-through model; its tables are `emb.<field>.weight` in the state dict.

    Args:
        fields: names of the fields.
        cardinalities: rows of each field's table.
        dim: values a row.
        hidden: widths of the MLP's hidden layers.
        spread: standard deviation of the tables' first values.
    """

    def __init__(
        self,
        fields: Sequence[str],
        cardinalities: Sequence[int],
        dim: int = 16,
        hidden: Sequence[int] = (400, 400),
        spread: float = INITIAL_SPREAD,
    ) -> None:
        super().__init__()
        self.fields = tuple(fields)
        self.emb = nn.Module()  # a ModuleDict would refuse fields named as its methods: "type"
        for field, rows in zip(fields, cardinalities, strict=True):
            table = nn.Embedding(rows, dim, sparse=True)
            nn.init.normal_(table.weight, std=spread)
            setattr(self.emb, field, table)
        self.head = Head(len(fields), dim, hidden)

    def table(self, field: str) -> Tensor:
        """A field's table without gradient, float32 (rows, dim)."""
        table: Tensor = self.state_dict()[table_name(field)]
        return table

    def embed(self, ids: NDArray[np.integer]) -> Tensor:
        """Vectors, float32 (n, fields, dim), of ids (n, fields)."""
        columns = torch.from_numpy(ids.astype(np.int64)).unbind(1)
        tables = self.emb.children()
        return torch.stack([table(one) for table, one in zip(tables, columns, strict=True)], 1)

    def forward(self, ids: NDArray[np.integer]) -> Tensor:
        """Logits, float32 (n,), of ids (n, fields)."""
        logits: Tensor = self.head(self.embed(ids))
        return logits


def table_name(field: str) -> str:
    """The key of a field's table in a checkpoint."""
    return f"emb.{field}.weight"
