"""The two passes: what they need, what they refuse, and what they leave behind."""

import contextlib
import json

import numpy as np
import pytest
import torch
from clickmodels import FIELDS, Everything, batches
from safetensors.numpy import save_file
from torch import nn
from torch.utils.checkpoint import checkpoint

from sharkstore.errors import DestinationError, StatsError
from sharkstore.importance import Importance
from sharkstore.stats.file import open_stats

ROWS = 12


class Small(nn.Module):
    """Two fields and a linear head."""

    def __init__(self):
        super().__init__()
        self.user, self.item = nn.Embedding(ROWS, 3), nn.Embedding(ROWS, 3)
        self.head = nn.Linear(6, 1)

    def forward(self, ids):
        return self.head(torch.cat([self.user(ids[:, 0]), self.item(ids[:, 1])], 1))[:, 0]


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Small().eval()


IDS = torch.tensor([[1, 2], [1, 3], [4, 2], [5, 5]])
LABELS = torch.tensor([1.0, 0, 0, 1])


def counted(model, **options):
    importance = Importance(model, **options)
    with importance.counting():
        model(IDS)
    return importance


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


# --- what a pass needs -------------------------------------------------------------------------


def test_measuring_needs_counts(model):
    with pytest.raises(StatsError, match=r"user.weight: no row.*importance.counting\(\).*counts="):
        Importance(model).__enter__()
    assert hooks(model) == 0


def test_a_step_belongs_into_the_context(model):
    importance = counted(model)
    with pytest.raises(StatsError, match="steps belong into"):
        importance.step(model(IDS), LABELS)
    with importance.counting(), pytest.raises(StatsError, match="steps belong into"):
        importance.step(model(IDS), LABELS)


def test_passes_do_not_nest(model):
    importance = counted(model)
    with importance, pytest.raises(StatsError, match="one pass at a time"):
        importance.__enter__()
    with importance, pytest.raises(StatsError, match="one pass"), importance.counting():
        pass
    assert hooks(model) == 0


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_a_loop_without_gradients_is_told(model, off):
    importance = counted(model)
    with importance, off():
        logits = model(IDS)
        with pytest.raises(StatsError, match=r"logits carry no gradient.*no_grad"):
            importance.step(logits, LABELS)


def test_a_batch_without_lookups_is_told(model):
    importance = counted(model)
    with importance:
        with torch.no_grad():
            model(IDS)
        logits = torch.zeros(4, requires_grad=True)
        with pytest.raises(StatsError, match="no lookup was seen"):
            importance.step(logits, LABELS)


def test_logits_from_elsewhere_are_told(model):
    importance = counted(model)
    with importance, pytest.raises(StatsError, match="do not come from the rows looked up"):
        importance.step(model(IDS).detach().requires_grad_(), LABELS)


def test_an_empty_batch_changes_nothing(model):
    importance, other = counted(model), counted(model)
    with importance, other:
        logits = model(IDS)
        importance.step(logits, LABELS, retain_graph=True)
        other.step(logits, LABELS)
    with importance:
        importance.step(model(IDS[:0]), LABELS[:0])
    assert importance.scores() == other.scores()


def test_batch_norm_must_not_mix_samples():
    everything = Everything()
    importance = Importance(everything, FIELDS)
    ((x, y),) = batches(0, count=1)
    with importance.counting():
        everything(x)
    everything.train()
    with importance, pytest.raises(StatsError, match=r"batch norm in training mode.*model.eval"):
        importance.step(everything(x), y)
    everything.norm = nn.BatchNorm1d(28, track_running_stats=False).double()
    importance = Importance(everything, FIELDS)
    with pytest.raises(StatsError, match="without running statistics"):
        importance.__enter__()


@pytest.mark.parametrize(
    ("logits", "labels", "loss", "message"),
    [
        ((4,), (3,), "binary", r"logits \(4,\), labels \(3,\)"),
        ((4, 2), (4,), "binary", "don't fit loss 'binary'"),
        ((4, 2), (2, 4), "squared", "don't fit loss 'squared'"),
        ((4,), (4,), "cross_entropy", "don't fit"),
        ((4, 3), (3,), "cross_entropy", "don't fit"),
        ((4, 2, 2), (4, 2, 2), "binary", "don't fit"),
        ((4,), (4,), "hinge", r"loss 'hinge'.*binary.*importance.backward"),
    ],
)
def test_shapes_that_do_not_fit_are_told(model, logits, labels, loss, message):
    importance = counted(model)
    with importance:
        model(IDS)
        with pytest.raises(StatsError, match=message):
            importance.step(torch.zeros(logits, requires_grad=True), torch.zeros(labels), loss)


def test_labels_must_be_labels(model):
    importance = counted(model)
    with importance:
        logits = model(IDS)
        with pytest.raises(StatsError, match=r"labels of a binary loss .got 2.0, expected 0 to 1"):
            importance.step(logits, LABELS * 2)
        with pytest.raises(StatsError, match=r"labels of a binary loss .got nan"):
            importance.step(logits, LABELS * float("nan"))
        with pytest.raises(StatsError, match=r"labels must be a tensor .got int"):
            importance.step([logits], [3])
        with pytest.raises(StatsError, match=r"labels must be a tensor .got ndarray"):
            importance.step(logits, LABELS.numpy())
        with pytest.raises(StatsError, match=r"logits must be a tensor .got float"):
            importance.step([0.5], [LABELS])
        with pytest.raises(StatsError, match="1 logits, 2 labels"):
            importance.step([logits], [LABELS, LABELS])
        classes = logits[:, None].expand(4, 3)
        with pytest.raises(StatsError, match=r"class numbers .expected 0 to 2"):
            importance.step(classes, torch.tensor([0, 1, 2, 3]), "cross_entropy")
        with pytest.raises(StatsError, match="one label a sample"):
            importance.step(logits, LABELS, positive=LABELS[:3])


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda z: z.mean(), {}, r"losses of samples .got \(\), expected \(n,\).*reduced"),
        (lambda z: z, {"reduction": "mean"}, r"got \(4,\)"),
        (lambda z: z.detach(), {}, "no gradient"),
        (lambda z: z.mean(), {"reduction": "max"}, "reduction 'max'.*none or sum or mean"),
    ],
)
def test_losses_that_are_not_one_a_sample_are_told(model, make, options, message):
    importance = counted(model)
    with importance, pytest.raises(StatsError, match=message):
        importance.backward(make(model(IDS)), **options)


def test_lookups_of_another_batch_are_told(model):
    model.position = nn.Embedding(6, 1)
    importance = Importance(model)
    with importance.counting():
        model(IDS)
        model.position(torch.arange(6))
    with importance:
        logits = model(IDS) + model.position(torch.arange(6)).sum()
        with pytest.raises(StatsError, match=r"position: looked up for 6 samples in a batch of 4"):
            importance.step(logits, LABELS)


def test_vectors_written_over_are_told():
    class InPlace(Small):
        def forward(self, ids):
            user = self.user(ids[:, 0])
            user += 1
            return self.head(torch.cat([user, self.item(ids[:, 1])], 1))[:, 0]

    model = InPlace()
    importance = counted(model)
    with importance:
        logits = model(IDS)
        with pytest.raises(StatsError, match="user: the vectors were changed in place"):
            importance.step(logits, LABELS)


def test_fields_of_one_module_must_be_told_apart(model):
    importance = Importance(model, {"a": "user", "b": "user", "c": "item"})
    with importance.counting():
        model(IDS)
    with importance:
        logits = model(IDS)
        with pytest.raises(StatsError, match=r"user: fields a, b.*got 1 calls, expected 2 calls"):
            importance.step(logits, LABELS)


def test_a_field_that_is_never_seen_is_told(model, tmp_path):
    model.dead = nn.Embedding(5, 2)
    importance = counted(model)
    with pytest.raises(StatsError, match=r"dead.weight: no row was looked up"):
        importance.__enter__()
    with importance.counting():
        model.dead(torch.tensor([1, 2, 3, 4]))
    with importance:
        importance.step(model(IDS), LABELS)
    with pytest.raises(StatsError, match=r"never looked up: dead; leave it out by skip"):
        importance.save(tmp_path / "s")
    assert not list(tmp_path.iterdir())


# --- what a pass leaves ------------------------------------------------------------------------


def test_hooks_go_when_the_loop_ends_or_fails(model):
    importance = counted(model)
    assert hooks(model) == 0
    seen = []

    def fail():
        seen.append(hooks(model))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), importance:
        fail()
    with pytest.raises(ZeroDivisionError), importance.counting():
        fail()
    assert (seen, hooks(model)) == ([2, 4], 0)


def test_a_failed_loop_can_go_on(model):
    broken, whole = counted(model), counted(model)
    with whole:
        for _ in range(2):
            whole.step(model(IDS), LABELS)
    with broken:
        broken.step(model(IDS), LABELS)
    with pytest.raises(IndexError), broken:
        model(IDS + ROWS)
    with broken:
        broken.step(model(IDS), LABELS)
    assert broken.scores() == whole.scores()


def test_a_batch_that_is_not_finite_is_kept_out(model, tmp_path):
    clean, dirty = counted(model), counted(model)
    with clean:
        clean.step(model(IDS), LABELS)
    with dirty:
        dirty.step(model(IDS), LABELS)
        for bad in (float("nan"), float("inf")):
            with pytest.warns(RuntimeWarning, match=r"batch \d .from 0. is kept out.*user, item"):
                dirty.step(model(IDS) * bad, LABELS)
    assert dirty.left_out == [1, 2]
    assert dirty.scores() == clean.scores()
    dirty.save(tmp_path / "dirty")
    clean.save(tmp_path / "clean")
    assert (tmp_path / "dirty").read_bytes() == (tmp_path / "clean").read_bytes()


def test_a_file_of_something_else_is_not_replaced(model, tmp_path):
    save_file({"user.weight": np.ones((3, 3))}, tmp_path / "model.safetensors")
    before = (tmp_path / "model.safetensors").read_bytes()
    importance = counted(model)
    with pytest.raises(DestinationError, match="not a stats file"):
        importance.save(tmp_path / "model.safetensors")
    assert (tmp_path / "model.safetensors").read_bytes() == before
    importance.save(tmp_path / "s")
    importance.save(tmp_path / "s")


def test_batches_that_are_all_kept_out_are_no_measurement(model, tmp_path):
    importance = counted(model)
    with importance, pytest.warns(RuntimeWarning, match="kept out"):
        importance.step(model(IDS) * float("nan"), LABELS)
    with pytest.raises(StatsError, match="all 1 batches were kept out"):
        importance.save(tmp_path / "s")


class Frail(Small):
    """Fails on one user, after the lookups."""

    def forward(self, ids):
        logits = super().forward(ids)
        if (ids == 5).any():
            raise MemoryError
        return logits


@pytest.mark.parametrize("labelled", [False, True])
def test_forward_passes_that_fail_leave_nothing(tmp_path, labelled):
    torch.manual_seed(0)
    frail, found = Frail().eval(), []
    for loader in ([IDS[:3], IDS, IDS[:2]], [IDS[:3], IDS[:2]]):
        importance = Importance(frail)
        with importance.counting(labelled=labelled):
            for ids in loader:
                with contextlib.suppress(MemoryError):
                    frail(ids)
                    if labelled:
                        importance.positives(LABELS[: len(ids)])
        with importance:
            for ids in loader:
                with contextlib.suppress(MemoryError):
                    importance.step(frail(ids), LABELS[: len(ids)])
        importance.save(tmp_path / "s")
        found.append((tmp_path / "s").read_bytes())
    assert found[0] == found[1]


def test_a_pass_without_a_step_is_not_taken_for_the_next(model):
    clean, loose = counted(model), counted(model)
    with clean:
        clean.step(model(IDS), LABELS)
    with loose:
        model(IDS[:2])
        loose.step(model(IDS), LABELS)
    assert loose.scores() == clean.scores()
    tables = [one.state_dict()["tables"]["user.weight"]["used"] for one in (clean, loose)]
    assert tables[0]["times"].tolist() == tables[1]["times"].tolist()


def test_a_checkpointed_forward_pass_is_looked_up_once(model):
    class Checkpointed(Small):
        def forward(self, ids):
            return checkpoint(super().forward, ids, use_reentrant=False)

    other = Checkpointed()
    other.load_state_dict(model.state_dict())
    other.eval()
    found = []
    for one in (model, other):
        importance = counted(one)
        with importance:
            for ids, labels in ((IDS, LABELS), (IDS[:3], LABELS[:3])):
                importance.step(one(ids), labels)
        state = importance.state_dict()["tables"]["user.weight"]
        found.append((importance.scores(), state["used"]["times"].tolist(), state["metric"]))
    assert found[0][:2] == found[1][:2]
    torch.testing.assert_close(found[0][2], found[1][2])


@pytest.mark.parametrize(
    "end",
    [
        torch.sigmoid,
        lambda z: z[:, None].sigmoid().squeeze(1),
        lambda z: torch.stack([z, -z], 1).softmax(1)[:, 0],
    ],
)
def test_probabilities_are_not_logits(model, end):
    importance = counted(model)
    with importance:
        with pytest.raises(StatsError, match="come out of a sigmoid or softmax; pass them as"):
            importance.step(end(model(IDS)), LABELS)
        importance.step(end(model(IDS)), LABELS, loss="squared")


def test_counts_come_with_samples_from_whole_forward_passes(model, tmp_path):
    importance = Importance(model)
    with importance.counting():
        for start in range(0, 4, 3):
            model(IDS[start : start + 3])
    importance.save(tmp_path / "s")
    stats = open_stats(tmp_path / "s")
    assert stats.metadata["samples"] == "4"
    assert stats.count("user.weight").tolist() == [0, 2, 0, 0, 1, 1] + [0] * 6
    assert not [key for key in stats.arrays if key.startswith("fields")]


def test_counts_come_with_samples_from_parts_of_the_model(model, tmp_path):
    importance = Importance(model)
    with importance.counting():
        for ids in IDS.split(2):
            model.user(ids[:, 0])
            model.item(ids[:, 1])
    importance.save(tmp_path / "s")
    assert open_stats(tmp_path / "s").metadata["samples"] == "4"


def test_an_earlier_file_stands_in_for_the_counting_pass(model, tmp_path):
    first = counted(model)
    with first:
        first.step(model(IDS), LABELS)
    first.save(tmp_path / "first")
    second = Importance(model, counts=tmp_path / "first")
    with second:
        second.step(model(IDS), LABELS)
    second.save(tmp_path / "second")
    one, two = open_stats(tmp_path / "first"), open_stats(tmp_path / "second")
    assert two.metadata == one.metadata | {"counts": two.metadata["counts"]}
    assert two.arrays.keys() == one.arrays.keys()
    assert all((two.arrays[key] == values).all() for key, values in one.arrays.items())


def test_weights_go_with_the_priorities_of_an_earlier_file(model, tmp_path):
    first = Importance(model, alpha_positive=3)
    with first.counting(labelled=True):
        model(IDS)
        first.positives(LABELS)
    first.save(tmp_path / "first")
    with pytest.raises(StatsError, match=r"alpha_positive .got 2, expected 3.*; leave it out"):
        Importance(model, counts=tmp_path / "first", alpha_positive=2)
    second = Importance(model, counts=tmp_path / "first")
    with second:
        second.step(model(IDS), LABELS)
    second.save(tmp_path / "second")
    one, two = open_stats(tmp_path / "first"), open_stats(tmp_path / "second")
    assert float(two.metadata["alpha_positive"]) == 3
    assert two.priority("user.weight").tolist() == one.priority("user.weight").tolist()


@pytest.mark.parametrize(
    ("changes", "metadata", "message"),
    [
        ({"tables/user.weight/count": np.full(ROWS, np.nan)}, {}, "row 0 is nan"),
        ({"tables/user.weight/count": np.full(ROWS, -1)}, {}, "row 0 is -1"),
        ({"tables/user.weight/count": np.ones((ROWS, 2))}, {}, "wrong shape"),
        ({"tables/user.weight/positive": np.ones(3)}, {}, "rows of table 'user.weight' differs"),
        ({}, {"version": "7"}, "another version"),
    ],
)
def test_an_earlier_file_that_makes_no_sense_is_refused(
    model, tmp_path, changes, metadata, message
):
    arrays = {f"tables/{name}.weight/count": np.ones(ROWS) for name in ("user", "item")}
    save_file(arrays | changes, tmp_path / "s", metadata)
    with pytest.raises(StatsError, match=message):
        Importance(model, counts=tmp_path / "s")


def test_an_earlier_file_needs_no_metadata(model, tmp_path):
    arrays = {f"tables/{name}.weight/count": np.ones(ROWS) for name in ("user", "item")}
    save_file(arrays, tmp_path / "s", {"samples": "many"})
    importance = Importance(model, counts=tmp_path / "s")
    with importance:
        importance.step(model(IDS), LABELS)
    importance.save(tmp_path / "t")
    assert "samples" not in open_stats(tmp_path / "t").metadata


def test_shards_with_the_counts_of_one_file_count_them_once(model, tmp_path):
    counted(model).save(tmp_path / "counts")
    whole = Importance(model, counts=tmp_path / "counts")
    parts = [Importance(model, counts=tmp_path / "counts") for _ in range(2)]
    with whole:
        for ids, labels in zip(IDS.split(2), LABELS.split(2), strict=True):
            whole.step(model(ids), labels)
    for place, part in enumerate(parts):
        with part:
            part.step(model(IDS.split(2)[place]), LABELS.split(2)[place])
        part.save(tmp_path / f"part{place}")
    whole.save(tmp_path / "whole")
    merged = Importance.merge([tmp_path / "part0", tmp_path / "part1"], tmp_path / "merged")
    assert any("taken once" in note for note in merged.notes)
    one, two = open_stats(tmp_path / "whole"), open_stats(tmp_path / "merged")
    for name in ("samples", "measured", "counts"):
        assert two.metadata[name] == one.metadata[name], name
    assert json.loads(two.metadata["uses"]) == json.loads(one.metadata["uses"])
    for kind in ("count", "mean", "metric", "sensitivity"):
        key = f"tables/user.weight/{kind}"
        np.testing.assert_allclose(two.arrays[key], one.arrays[key], rtol=1e-6)
    assert two.score("user") == pytest.approx(one.score("user"), rel=1e-9)


def test_counts_out_of_a_file_are_not_added_to(model, tmp_path):
    counted(model).save(tmp_path / "s")
    importance = Importance(model, counts=tmp_path / "s")
    with pytest.raises(StatsError, match="counted samples are complete"), importance.counting():
        pass


def test_a_step_that_fails_takes_its_batch_with_it(model):
    clean, bumpy = counted(model), counted(model)
    with clean:
        clean.step(model(IDS), LABELS)
    with bumpy:
        with pytest.raises(StatsError, match="labels"):
            bumpy.step(model(IDS), LABELS[:3])
        with pytest.raises(StatsError, match="losses of samples"):
            bumpy.backward(model(IDS).mean())
        bumpy.step(model(IDS), LABELS)
    assert bumpy.scores() == clean.scores()
    assert bumpy.state_dict()["tables"]["user.weight"]["used"]["times"].sum() == len(IDS)


def test_counts_of_another_model_are_refused(model, tmp_path):
    counted(model).save(tmp_path / "s")
    other = Small()
    other.item = nn.Embedding(ROWS + 1, 3)
    with pytest.raises(StatsError, match=r"item.weight/count: wrong length .got 12, expected 13"):
        Importance(other, counts=tmp_path / "s")
    other.extra = nn.Embedding(3, 3)
    with pytest.raises(StatsError, match=r"no counts of table 'extra.weight'"):
        Importance(other, skip=["item"], counts=tmp_path / "s")


def test_labels_in_the_counting_pass_make_priorities(model, tmp_path):
    importance = Importance(model, alpha_positive=3, alpha_negative=0.5)
    with importance.counting(labelled=True):
        for ids, labels in zip(IDS.split(2), LABELS.split(2), strict=True):
            model(ids)
            importance.positives(labels)
    importance.save(tmp_path / "s")
    stats = open_stats(tmp_path / "s")
    assert stats.arrays["tables/user.weight/positive"].tolist() == [0, 1, 0, 0, 0, 1] + [0] * 6
    assert stats.priority("user.weight")[:6].tolist() == [0, 3.5, 0, 0, 0.5, 3]


def test_priorities_of_few_samples_do_not_stand_in_for_counts_of_many(model, tmp_path):
    importance = Importance(model, alpha_positive=2)
    with importance.counting():
        model(IDS)
    with importance:
        importance.step(model(IDS[:3]), LABELS[:3])
    with pytest.warns(
        RuntimeWarning, match=r"no row priorities: 3 of the 4 samples.*labelled=True"
    ):
        importance.save(tmp_path / "s")
    stats = open_stats(tmp_path / "s")
    assert stats.arrays["tables/user.weight/positive"].sum() == 1
    assert stats.metadata["labelled"] == "3"
    assert stats.priority("user.weight").tolist() == stats.count("user.weight").tolist()


def test_labels_in_the_counting_pass_must_follow_forward_passes(model):
    importance = Importance(model)
    with pytest.raises(StatsError, match="positives belong into"):
        importance.positives(LABELS)
    with importance.counting(), pytest.raises(StatsError, match=r"labels need.*labelled=True"):
        importance.positives(LABELS)
    with importance.counting(labelled=True):
        with pytest.raises(StatsError, match="no lookup was seen"):
            importance.positives(LABELS)
        model(IDS)
        with pytest.raises(StatsError, match="one label a sample"):
            importance.positives(LABELS[:2])
        importance.positives(LABELS)
    with (
        pytest.raises(StatsError, match=r"was not followed by importance.positives"),
        importance.counting(labelled=True),
    ):
        model(IDS)


def test_periods_fade(model, tmp_path):
    importance = Importance(model, alpha_positive=2, beta=0.25)
    with importance.counting(labelled=True):
        for labels in (LABELS, 1 - LABELS):
            model(IDS)
            importance.positives(labels)
            importance.end_period()
    importance.save(tmp_path / "s")
    stats = open_stats(tmp_path / "s")
    first, second = np.array([3.0, 1, 2]), np.array([3.0, 2, 1])
    got = stats.priority("user.weight")[[1, 4, 5]]
    np.testing.assert_allclose(got, 0.75 * first + 0.25 * second)
    assert stats.count("user.weight")[1] == 4


@pytest.mark.parametrize(
    "options", [{"alpha_positive": -1}, {"alpha_negative": np.inf}, {"beta": 0}, {"beta": 1.5}]
)
def test_weights_out_of_range_are_refused(model, options):
    with pytest.raises(StatsError, match=next(iter(options))):
        Importance(model, **options)


# --- stopping and going on ---------------------------------------------------------------------


def test_a_pass_can_be_saved_and_gone_on_with(tmp_path):
    torch.manual_seed(0)
    everything, loader = Everything(), batches(5, count=4)
    whole, first = Importance(everything, FIELDS), Importance(everything, FIELDS)

    def resumed(importance):
        torch.save(importance.state_dict(), tmp_path / "state.pt")
        fresh = Importance(everything, FIELDS)
        fresh.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
        return fresh

    with whole.counting():
        for x, _ in loader:
            everything(x)
    with whole:
        for x, y in loader:
            whole.step(everything(x), y)
    whole.save(tmp_path / "whole")
    for x, _ in loader:
        with first.counting():
            everything(x)
        first = resumed(first)
    for x, y in loader:
        with first:
            first.step(everything(x), y)
        first = resumed(first)
    first.save(tmp_path / "first")
    assert (tmp_path / "first").read_bytes() == (tmp_path / "whole").read_bytes()


def test_the_state_of_another_model_is_refused(model):
    state = counted(model).state_dict()
    for bad in (None, {}, {**state, "version": 0}):
        with pytest.raises(StatsError, match="a state of another model"):
            Importance(model).load_state_dict(bad)
    with pytest.raises(StatsError, match="measured otherwise: weights"):
        Importance(model, alpha_positive=2).load_state_dict(state)
    with pytest.raises(StatsError, match="a state of another model"):
        Importance(model, {"u": "user"}).load_state_dict(state)
    smaller = Small()
    smaller.user = nn.Embedding(3, 3)
    with pytest.raises(StatsError, match=r"user.weight: a state of another table"):
        Importance(smaller).load_state_dict(state)


def test_memory_follows_the_rows_touched():
    """A table of 2³¹ rows: its counts take what its few rows take."""

    class Huge(nn.Module):
        def __init__(self):
            super().__init__()
            self.emb = nn.Embedding(1 << 31, 4, _weight=torch.zeros(1, 4).expand(1 << 31, 4))

        def forward(self, ids):
            return self.emb(ids).sum(dim=1)

    model = Huge()
    importance = Importance(model)
    ids = torch.tensor([0, (1 << 31) - 1, 5, 5])
    with importance.counting():
        model(ids)
    with importance:
        importance.step(model(ids), LABELS)
    state = importance.state_dict()["tables"]["emb.weight"]
    held = sum(t.nbytes for part in ("counted", "used") for t in state[part].values())
    assert held < 1000
    assert importance.scores()["emb"]["score"] == 0


def test_counts_that_fade_stay_what_they_are(model, tmp_path):
    for name in "ab":
        counted(model).save(tmp_path / name)
    Importance.merge([tmp_path / "a", tmp_path / "b"], tmp_path / "c", decay=0.25)
    importance = Importance(model, counts=tmp_path / "c")
    with importance:
        importance.step(model(IDS), LABELS)
    importance.save(tmp_path / "s")
    stats = open_stats(tmp_path / "s")
    assert (
        stats.count("user.weight").tolist()
        == open_stats(tmp_path / "c").count("user.weight").tolist()
    )
    assert stats.count("user.weight").dtype == np.float32
