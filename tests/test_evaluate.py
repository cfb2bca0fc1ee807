"""`evaluate` against AUC by hand, and a model that is afterwards what it was."""

import copy
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

import sharkstore
from sharkstore import metrics
from sharkstore.convert import convert_checkpoint
from sharkstore.errors import ArgumentError, StoreNotFoundError
from sharkstore.evaluate import evaluate


class Clicks(nn.Module):
    """Two tables and a layer; dropout and batch norm differ between modes."""

    def __init__(self, rows=50, dtype=torch.float32):
        super().__init__()
        self.user = nn.Embedding(rows, 6, dtype=dtype)
        self.item = nn.EmbeddingBag(30, 6, mode="mean", dtype=dtype)
        self.norm = nn.BatchNorm1d(12, dtype=dtype)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(12, 1, dtype=dtype)

    def forward(self, x):
        vectors = torch.cat([self.user(x[:, 0]), self.item(x[:, 1:])], dim=1)
        return self.head(self.drop(self.norm(vectors)))[:, 0]


def samples(batches=4, size=64, seed=0):
    drawn = torch.Generator().manual_seed(seed)
    ids = torch.randint(30, (batches, size, 3), generator=drawn)
    labels = torch.randint(2, (batches, size), generator=drawn)
    return list(zip(ids, labels, strict=True))


@pytest.fixture
def clicks():
    torch.manual_seed(0)
    return Clicks()


def store_of(model, folder, **options):
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    convert_checkpoint(folder / "model.safetensors", folder / "m.shark", **options)
    return folder / "m.shark"


def by_hand(labels, scores):
    """Share of pairs of a positive and a negative sample that are in the right order."""
    pairs = itertools.product(scores[labels == 1], scores[labels == 0])
    won = [1.0 if p > n else 0.5 if p == n else 0.0 for p, n in pairs]
    return sum(won) / len(won)


def run(model, loader):
    with torch.no_grad():
        return torch.cat([model(x) for x, _ in loader]).double().numpy()


def with_rows_of(model, path):
    """A copy of the model with the store's rows."""
    other = copy.deepcopy(model).eval()
    with sharkstore.open(path) as store, torch.no_grad():
        for name, table in store.items():
            rows = torch.from_numpy(table.lookup(np.arange(table.rows)))
            other.get_parameter(name).copy_(rows)
    return other


def bits(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_untouched(model, before):
    for name, value in model.state_dict().items():
        now, then = (one.reshape(-1).view(torch.uint8) for one in (value, before[name]))
        assert torch.equal(now, then), name


# --- figures ---------------------------------------------------------------------------------


@pytest.mark.parametrize("tiers", ["int8", "f16=50%,constant=rest"])
def test_auc_and_log_loss_are_those_of_both_models_run_by_hand(clicks, tmp_path, tiers):
    path, loader = store_of(clicks, tmp_path, tiers=tiers), samples()
    found = evaluate(clicks, path, loader, resamples=20)
    labels = torch.cat([y for _, y in loader]).numpy()
    before = run(copy.deepcopy(clicks).eval(), loader)
    after = run(with_rows_of(clicks, path), loader)
    assert (before != after).any()
    assert found.auc.before == pytest.approx(by_hand(labels, before), rel=1e-12)
    assert found.auc.after == pytest.approx(by_hand(labels, after), rel=1e-12)
    for got, logits in ((found.log_loss.before, before), (found.log_loss.after, after)):
        both = torch.from_numpy(logits), torch.from_numpy(labels).double()
        loss = nn.functional.binary_cross_entropy_with_logits(*both)
        assert got == pytest.approx(float(loss), rel=1e-12)
    assert found.auc.change == found.auc.after - found.auc.before
    assert (found.samples, found.positives) == (len(labels), labels.sum())


def test_a_float32_store_changes_nothing_at_all(clicks, tmp_path):
    found = evaluate(clicks, store_of(clicks, tmp_path, tiers="f32"), samples(), resamples=50)
    for one in (found.auc, found.log_loss):
        assert one.before == one.after
        assert one.change == one.low == one.high == 0


def test_intervals_repeat_and_hold_the_change(clicks, tmp_path):
    path = store_of(clicks, tmp_path, tiers="constant")
    found = evaluate(clicks, path, samples())
    assert evaluate(clicks, path, samples()) == found
    assert evaluate(clicks, path, samples(), seed=1) != found
    for one in (found.auc, found.log_loss):
        assert one.low < one.change < one.high
    narrow = evaluate(clicks, path, samples(), confidence=0.5)
    assert found.auc.low < narrow.auc.low < narrow.auc.high < found.auc.high


def test_it_prints_what_it_found(clicks, tmp_path):
    found = evaluate(clicks, store_of(clicks, tmp_path), samples(), resamples=20)
    head, names, auc, loss = str(found).splitlines()
    assert head.startswith(f"256 samples, {found.positives} positive; in brackets: 95 % of 20 ")
    assert names.split() == ["model", "store", "change"]
    assert auc.split()[:3] == ["AUC", f"{found.auc.before:.6f}", f"{found.auc.after:.6f}"]
    assert f"[{found.log_loss.low:+.6f}, {found.log_loss.high:+.6f}]" in loss


def test_an_open_store_stays_open(clicks, tmp_path):
    with sharkstore.open(store_of(clicks, tmp_path)) as store:
        evaluate(clicks, store, samples(), resamples=5)
        assert len(store["user.weight"].lookup([0])) == 1


def test_logits_and_labels_may_be_columns_or_arrays(clicks, tmp_path):
    path, loader = store_of(clicks, tmp_path), samples()
    expected = evaluate(clicks, path, loader, resamples=5)
    columns = [(x, y[:, None].float()) for x, y in loader]
    assert evaluate(clicks, path, columns, forward=lambda x: clicks(x)[:, None], resamples=5) == (
        expected
    )
    arrays = [(x, y.numpy() == 1) for x, y in loader]
    assert evaluate(clicks, path, arrays, resamples=5) == expected


def test_forward_takes_what_the_model_does_not(clicks, tmp_path):
    path, loader = store_of(clicks, tmp_path), samples()
    named = [({"ids": x}, y) for x, y in loader]
    found = evaluate(clicks, path, named, forward=lambda x: clicks(x["ids"]), resamples=5)
    assert found == evaluate(clicks, path, loader, resamples=5)


# --- the model afterwards --------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_weights_and_modes_are_restored_bit_for_bit(tmp_path, dtype):
    model = Clicks(dtype=dtype)
    with torch.no_grad():
        model.user.weight[0, 0] = -0.0
    model.drop.eval()
    before = bits(model)
    evaluate(model, store_of(model, tmp_path, tiers="constant"), samples(), resamples=5)
    assert_untouched(model, before)
    assert model.training
    assert model.norm.training
    assert not model.drop.training
    assert model.user.weight.requires_grad


@pytest.mark.parametrize("passes", [0, 1])
def test_weights_are_restored_after_an_error_in_the_loader(clicks, tmp_path, passes):
    class Loader:
        def __init__(self):
            self.passes = 0

        def __iter__(self):
            yield from samples(2)
            if self.passes == passes:
                raise OSError("the disk is gone")
            self.passes += 1

    before = bits(clicks)
    with pytest.raises(OSError, match="the disk is gone"):
        evaluate(clicks, store_of(clicks, tmp_path, tiers="constant"), Loader())
    assert_untouched(clicks, before)
    assert clicks.training


def test_weights_are_restored_after_an_error_in_the_store(clicks, tmp_path):
    before = bits(clicks)
    with sharkstore.open(store_of(clicks, tmp_path, tiers="constant")) as store:

        def forward(x):
            store["user.weight"].close()
            return clicks(x)

        with pytest.raises(sharkstore.ClosedError):
            evaluate(clicks, store, samples(), forward=forward)
    assert_untouched(clicks, before)


def test_names_that_share_a_tensor_are_restored(tmp_path):
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.emb_a = nn.Embedding(30, 2)
            self.emb_b = nn.Embedding(30, 2)
            self.head = nn.Linear(2, 1)

        def forward(self, x):
            return self.head(self.emb_a(x[:, 0]) * self.emb_b(x[:, 1]))

    model = Shared()
    path = store_of(model, tmp_path, tiers="constant")
    model.emb_b.weight = model.emb_a.weight
    before = bits(model)
    evaluate(model, path, samples(), resamples=5)
    assert_untouched(model, before)


def test_the_model_sees_the_stores_rows_in_the_second_pass_only(clicks, tmp_path):
    seen = []

    def forward(x):
        seen.append(float(clicks.user.weight.std(dim=0).sum()))
        return clicks(x)

    evaluate(clicks, store_of(clicks, tmp_path, tiers="constant"), samples(2), forward=forward)
    assert [one == 0 for one in seen] == [False, False, True, True]


# --- what can't be evaluated -----------------------------------------------------------------


def test_another_model_is_refused(clicks, tmp_path):
    path = store_of(clicks, tmp_path)
    before = bits(clicks)
    with pytest.raises(ArgumentError, match=r"the model has no .*user\.weight.*inner module"):
        evaluate(nn.Sequential(clicks), path, samples())
    with pytest.raises(ArgumentError, match=r"'user\.weight' \(got \(51, 6\), expected \(50, 6\)"):
        evaluate(Clicks(rows=51), path, samples())
    assert_untouched(clicks, before)


def test_a_table_that_was_dropped_is_refused(clicks, tmp_path):
    path = store_of(clicks, tmp_path, prune=["user.weight"], drop=True)
    with pytest.raises(ArgumentError, match=r"'user\.weight' was dropped .*--drop"):
        evaluate(clicks, path, samples())


def test_a_missing_store_is_said_before_the_model_runs(clicks, tmp_path):
    with pytest.raises(StoreNotFoundError):
        evaluate(clicks, tmp_path / "none", iter([]))


X = samples(1)[0][0]


@pytest.mark.parametrize(
    ("loader", "match"),
    [
        ([], "no samples"),
        ((batch for batch in samples()), "other samples the second time"),
        ([(X, torch.zeros(64))], "all labels are 0"),
        ([(X, torch.full((64,), 0.5))], "labels .got 0.5"),
        ([(X, torch.arange(64) % 2 * 2 - 1)], "labels .got -1"),
        ([(X, torch.arange(63) % 2)], "64 logits, expected 63"),
        ([(X, torch.ones(64, 2))], r"labels .got shape \(64, 2\)"),
        ([(X, "click")], "labels .got str"),
        ([X], "a batch of the loader .got Tensor"),
        ([None], "a batch of the loader .got NoneType"),
    ],
)
def test_loaders_that_do_not_serve_are_refused(clicks, tmp_path, loader, match):
    before = bits(clicks)
    with pytest.raises(ArgumentError, match=match):
        evaluate(clicks, store_of(clicks, tmp_path, tiers="constant"), loader)
    assert_untouched(clicks, before)


def test_shuffled_loaders_are_refused(clicks, tmp_path):
    data = torch.utils.data.TensorDataset(*map(torch.cat, zip(*samples(), strict=True)))
    loader = torch.utils.data.DataLoader(data, 64, shuffle=True)
    with pytest.raises(ArgumentError, match="shuffle=False"):
        evaluate(clicks, store_of(clicks, tmp_path), loader)


def test_logits_that_are_not_finite_are_refused(clicks, tmp_path):
    with pytest.raises(ArgumentError, match="infinite logits in batch 0"):
        evaluate(clicks, store_of(clicks, tmp_path), samples(), forward=lambda x: clicks(x) / 0)


@pytest.mark.parametrize("options", [{"resamples": 0}, {"confidence": 1}, {"confidence": np.nan}])
def test_intervals_of_nothing_are_refused(clicks, tmp_path, options):
    with pytest.raises(ArgumentError, match="no interval of that"):
        evaluate(clicks, tmp_path / "none", samples(), **options)


# --- metrics ---------------------------------------------------------------------------------

SCORED = st.lists(st.tuples(st.booleans(), st.integers(-3, 3)), min_size=2, max_size=40)


@given(SCORED.filter(lambda pairs: len({label for label, _ in pairs}) == 2))
def test_auc_is_the_share_of_pairs_in_order_ties_half(pairs):
    labels, scores = (np.array(one, np.float64) for one in zip(*pairs, strict=True))
    assert metrics.auc(labels, scores) == pytest.approx(by_hand(labels, scores), rel=1e-12)


def test_log_losses_do_not_overflow():
    labels, logits = np.array([0, 1, 1, 0]), np.array([1000.0, 1000.0, -1000.0, 0.0])
    assert metrics.log_losses(labels, logits).tolist() == [1000, 0, 1000, np.log(2)]


def test_resamples_are_those_of_repeated_samples():
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 2, 200)
    before = np.round(rng.normal(size=200) + labels, 1)
    after = np.round(before + rng.normal(size=200) * 0.5, 1)
    got = metrics.paired_bootstrap(labels, before, after, resamples=100, seed=5)
    drawing, changes = np.random.default_rng(5), []
    for _ in range(100):
        rows = drawing.integers(200, size=200)
        y, a, b = labels[rows], before[rows], after[rows]
        loss = metrics.log_losses(y, b).mean() - metrics.log_losses(y, a).mean()
        changes.append((metrics.auc(y, b) - metrics.auc(y, a), loss))
    expected = np.quantile(np.array(changes), [0.025, 0.975], axis=0)
    for one, (low, high) in zip(got, expected.T, strict=True):
        assert (one.low, one.high) == (pytest.approx(low), pytest.approx(high))


def test_intervals_cover_no_change_as_often_as_they_say():
    covered = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, 2, 300)
        before, after = rng.normal(size=(2, 300)) + labels
        auc, _ = metrics.paired_bootstrap(labels, before, after, resamples=200, seed=seed)
        covered += auc.low <= 0 <= auc.high
    assert 88 <= covered <= 100


def test_resamples_without_both_labels_have_no_auc():
    labels, scores = np.array([1, 0]), np.array([1.0, 0.0])
    auc, _ = metrics.paired_bootstrap(labels, scores, -scores, resamples=50)
    assert (auc.low, auc.high) == (-1, -1)
