"""TorchRec's collections: features are fields, jagged values belong to their samples."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from sharkstore.errors import StatsError
from sharkstore.importance import Importance

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its own, on import
    from torchrec import (
        EmbeddingBagCollection,
        EmbeddingBagConfig,
        EmbeddingCollection,
        EmbeddingConfig,
        KeyedJaggedTensor,
    )
    from torchrec.modules.embedding_configs import PoolingType

SAMPLES = 9
ROWS = 20
DIM = 4


class Collections(nn.Module):
    """Bags of two tables, one of them shared; rows of a third, pooled by the model."""

    def __init__(self):
        super().__init__()
        mean = PoolingType.MEAN
        self.bags = EmbeddingBagCollection(
            tables=[
                EmbeddingBagConfig(
                    name="shared",
                    num_embeddings=ROWS,
                    embedding_dim=DIM,
                    feature_names=["seen", "bought"],
                    pooling=mean,
                ),
                EmbeddingBagConfig(
                    name="words", num_embeddings=ROWS, embedding_dim=DIM, feature_names=["query"]
                ),
            ]
        )
        self.rows = EmbeddingCollection(
            tables=[
                EmbeddingConfig(
                    name="late",
                    num_embeddings=ROWS,
                    embedding_dim=DIM,
                    feature_names=["clicked", "query"],
                )
            ]
        )
        self.head = nn.Sequential(nn.Linear(5 * DIM, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, features):
        late = [
            torch.stack([rows.sum(dim=0) for rows in one.values().split(one.lengths().tolist())])
            for one in self.rows(features).values()
        ]
        return self.head(torch.cat([self.bags(features).values(), *late], dim=1))[:, 0]


class Plain(nn.Module):
    """The same with torch's own modules."""

    def __init__(self, of):
        super().__init__()
        tables = of.state_dict()

        def bag(name, mode):
            return nn.EmbeddingBag.from_pretrained(
                tables[name], mode=mode, include_last_offset=True
            )

        self.shared = bag("bags.embedding_bags.shared.weight", "mean")
        self.words = bag("bags.embedding_bags.words.weight", "sum")
        self.late = bag("rows.embeddings.late.weight", "sum")
        self.head = of.head

    def forward(self, features):
        def look(module, name):
            return module(features[name].values(), features[name].offsets())

        vectors = [
            look(self.shared, "seen"),
            look(self.shared, "bought"),
            look(self.words, "query"),
            look(self.late, "clicked"),
            look(self.late, "query"),
        ]
        return self.head(torch.cat(vectors, dim=1))[:, 0]


def features(seed):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 4, 4 * SAMPLES)
    return KeyedJaggedTensor(
        keys=["query", "seen", "clicked", "bought"],  # not in the order of the tables
        values=torch.from_numpy(rng.integers(0, ROWS, lengths.sum())),
        lengths=torch.from_numpy(lengths.astype(np.int32)),
    )


def measure(model, loader, fields=None):
    importance = Importance(model, fields)
    with importance.counting():
        for x, _ in loader:
            model(x)
    with importance:
        for x, y in loader:
            importance.step(model(x), y)
    return importance


def test_a_table_takes_as_many_fields_as_it_has_features():
    with pytest.raises(StatsError, match=r"shared: fields seen.*got 1, expected 2: seen, bought"):
        Importance(Collections(), {"seen": "bags.embedding_bags.shared"})


def test_collections_are_measured_as_the_modules_they_stand_for():
    torch.manual_seed(0)
    model = Collections()  # TorchRec looks up in float32
    rng = np.random.default_rng(1)
    labels = torch.from_numpy((rng.random((3, SAMPLES)) < 0.5).astype(np.float32))
    loader = [(features(seed), labels[seed]) for seed in range(3)]
    found = measure(model, loader)
    assert found.fields == {
        "seen": "bags.embedding_bags.shared.weight",
        "bought": "bags.embedding_bags.shared.weight",
        "query@words": "bags.embedding_bags.words.weight",
        "clicked": "rows.embeddings.late.weight",
        "query@late": "rows.embeddings.late.weight",
    }
    assert set(found.fields.values()) <= set(model.state_dict())
    modules = ["shared", "shared", "words", "late", "late"]
    expected = measure(Plain(model), loader, dict(zip(found.fields, modules, strict=True)))
    for field, scores in expected.scores().items():
        assert found.scores()[field] == pytest.approx(scores, rel=1e-5), field
        assert scores["score"] > 0
