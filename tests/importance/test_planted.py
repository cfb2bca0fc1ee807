"""Fields planted in a click log rank where they should, at once and in rounds."""

import dataclasses

import numpy as np
import pytest
import torch
from ctr import clicklog
from ctr.clicklog import Field
from ctr.datasets import TEST, TRAIN, VALIDATION
from ctr.model import table_name
from ctr.train import auc, predict, train

from sharkstore.errors import PlanError, StatsError
from sharkstore.importance import Importance, prune_gradually
from sharkstore.importance.prune import _weakest

STRONG = ("user", "item", "query", "place")
BATCH = 2000


@pytest.fixture(scope="module")
def dataset():
    """Four fields with signal, one of noise, one constant, one that repeats `item`."""
    fields = [Field(name, 50) for name in STRONG] + [Field("noise", 50, signal=0)]
    made = clicklog.generate(3, 40_000, fields)
    columns = [made.ids, np.zeros_like(made.ids[:, :1]), made.ids[:, 1:2]]
    return dataclasses.replace(
        made,
        fields=(*made.fields, "constant", "twin"),
        cardinalities=(*made.cardinalities, 3, 50),
        ids=np.concatenate(columns, axis=1),
    )


def fitted(dataset):
    return train(dataset, seed=0, dim=8, hidden=(16,), epochs=3, batch=1000, rate=1e-2)


@pytest.fixture
def model(dataset, fitted_state):
    made = train(dataset, seed=0, dim=8, hidden=(16,), epochs=0)
    made.load_state_dict(fitted_state)
    return made


@pytest.fixture(scope="module")
def fitted_state(dataset):
    return fitted(dataset).state_dict()


def measure(model, dataset):
    importance = Importance(model, {field: f"emb.{field}" for field in dataset.fields})
    ids, _ = dataset.part(TRAIN)
    with importance.counting(), torch.no_grad():
        model(ids)
    ids, labels = dataset.part(VALIDATION)
    with importance:
        for start in range(0, len(ids), BATCH):
            logits = model(ids[start : start + BATCH])
            importance.step(logits, torch.from_numpy(labels[start : start + BATCH]))
    return importance


def test_planted_fields_rank_where_they_should(model, dataset):
    scores = {name: one["score"] for name, one in measure(model, dataset).scores().items()}
    ranked = sorted(scores, key=scores.__getitem__)
    assert ranked[:2] == ["constant", "noise"]
    assert scores["constant"] < 1e-6
    for name in (*STRONG, "twin"):
        assert scores[name] > 2 * scores["noise"], name


def test_twins_share_what_one_of_them_is_worth(model, dataset):
    """Until one is pruned: then the other is worth more than it was."""
    before = measure(model, dataset).scores()
    rounds = prune_gradually(lambda: measure(model, dataset), lambda: tune(model, dataset), keep=4)
    assert rounds[0].pruned == ("constant",)
    assert rounds[1].pruned == ("noise",)
    assert rounds[2].pruned in (("item",), ("twin",))
    other = {"item": "twin", "twin": "item"}[rounds[2].pruned[0]]
    assert measure(model, dataset).scores()[other]["score"] > 1.3 * before[other]["score"]


def tune(model, dataset):
    ids, labels = dataset.part(TRAIN)
    steps = [
        torch.optim.SparseAdam([p for p in model.emb.parameters() if p.requires_grad], 1e-2),
        torch.optim.Adam(model.head.parameters(), 1e-2),
    ]
    for start in range(0, len(ids), BATCH):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            model(ids[start : start + BATCH]),
            torch.from_numpy(labels[start : start + BATCH]).float(),
        )
        for step in steps:
            step.zero_grad()
        loss.backward()
        for step in steps:
            step.step()


def test_a_pruned_table_is_one_row_and_stays_it(model, dataset):
    ids, labels = dataset.part(TEST)
    whole = auc(labels, predict(model, ids))
    importance = measure(model, dataset)
    mean = importance.mean_row(table_name("noise"))
    importance.prune(["noise", "constant"])
    tune(model, dataset)
    table = model.table("noise").numpy()
    assert (table == np.float32(mean)).all()
    assert not model.emb.noise.weight.requires_grad
    assert auc(labels, predict(model, ids)) == pytest.approx(whole, abs=0.01)
    again = measure(model, dataset).scores()
    assert again["noise"]["score"] < 1e-6


def test_rounds_take_as_many_fields_as_told(model, dataset):
    seen = []
    rounds = prune_gradually(
        lambda: measure(model, dataset), lambda: None, keep=4, per_round=2, after=seen.append
    )
    assert [len(one.pruned) for one in rounds] == [2, 1]
    assert seen == list(rounds)
    assert list(rounds[0].scores)[:2] == ["constant", "noise"]
    assert len(rounds[1].scores) == 5


def test_a_weak_shared_table_that_does_not_fit_stops_the_rounds():
    """Never a stronger field in its place."""
    fields = {"s1": "shared", "s2": "shared", "a": "alone"}
    assert _weakest(fields, {"s1": 0.001, "s2": 0.001, "a": 9.0}, 1, 1) == []
    assert _weakest(fields, {"s1": 0.001, "s2": 0.001, "a": 9.0}, 1, 2) == ["s1", "s2"]
    assert _weakest(fields, {"s1": 5.0, "s2": 5.0, "a": 9.0}, 1, 1) == ["a"]


def test_padding_stays_padding_and_other_users_of_a_weight_are_told():
    net = torch.nn.Module()
    net.item = torch.nn.Embedding(5, 3, padding_idx=0)
    net.out = torch.nn.Linear(3, 5, bias=False)
    importance = Importance(net)
    with importance.counting():
        net.item(torch.tensor([1, 2, 0]))
    expected = net.item.weight.detach()[1:3].mean(dim=0)
    importance.prune(["item"])
    assert (net.item.weight[0] == 0).all()
    torch.testing.assert_close(net.item.weight.detach()[1:], expected.expand(4, 3))
    net.out.weight = net.item.weight
    with pytest.raises(StatsError, match="module 'out' uses this weight too"):
        importance.prune(["item"])


def test_fields_of_a_shared_table_go_together():
    class Shared(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = torch.nn.Embedding(9, 4), torch.nn.Embedding(9, 4)
            self.head = torch.nn.Linear(12, 1)

        def forward(self, ids):
            vectors = [self.one(ids[:, 0]), self.one(ids[:, 1]), self.two(ids[:, 2])]
            return self.head(torch.cat(vectors, 1))[:, 0]

    torch.manual_seed(0)
    net, ids, labels = Shared(), torch.randint(0, 9, (64, 3)), torch.ones(64)

    def run():
        importance = Importance(net, {"a": "one", "b": "one", "c": "two"})
        with importance.counting():
            net(ids)
        with importance:
            importance.step(net(ids), labels)
        return importance

    with pytest.raises(PlanError, match="field 'a' shares this table with b"):
        run().prune(["a"])
    scores = {name: one["score_curved"] for name, one in run().scores().items()}
    rounds = prune_gradually(run, lambda: None, keep=1)
    gone = {name for one in rounds for name in one.pruned}
    assert gone == ({"c"} if scores["c"] < scores["a"] + scores["b"] else {"a", "b"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": 3, "rank_by": "sfs"}, "rank_by 'sfs'.*score or score_curved"),
        ({"keep": 0}, "got 0, expected 1 to 7"),
        ({"keep": 8}, "got 8"),
        ({"keep": 3, "per_round": 0}, "per_round"),
    ],
)
def test_rounds_out_of_range_are_refused(model, dataset, options, message):
    with pytest.raises(StatsError, match=message):
        prune_gradually(lambda: measure(model, dataset), lambda: None, **options)
