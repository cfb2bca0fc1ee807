"""Scores, counts and curvature against a loop over single samples in float64."""

import numpy as np
import pytest
import torch
from clickmodels import DIM, FIELDS, Everything, batches, measure_plainly
from torch import nn

from sharkstore.importance import Importance
from sharkstore.stats.file import open_stats

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Everything()


@pytest.fixture(scope="module")
def loader():
    return batches(0)


@pytest.fixture(scope="module")
def plain(model, loader):
    return measure_plainly(model, loader)


def counted(model, loader, **options):
    importance = Importance(model, FIELDS, **options)
    with importance.counting(), torch.inference_mode():
        for x, _ in loader:
            model(x)
    return importance


def measured(model, loader, step):
    importance = counted(model, loader)
    with importance:
        for x, y in loader:
            step(importance, model(x), y)
    return importance


def assert_scores(importance, plain, rtol=1e-9, kinds=4):
    """The first kinds, in their order: score, signed, mask, curved."""
    for field, found in importance.scores().items():
        got, expected = list(found.values())[:kinds], plain.scores[field][:kinds]
        np.testing.assert_allclose(got, expected, rtol=rtol, err_msg=field)


def by_logits(importance, logits, y):
    importance.step(logits, y)


def by_column(importance, logits, y):
    importance.step(logits[:, None], y[:, None])


def by_loss(importance, logits, y):
    importance.backward(
        nn.functional.binary_cross_entropy_with_logits(logits, y, reduction="none"),
        positive=y > 0.5,
    )


def by_mean(importance, logits, y):
    importance.backward(nn.functional.binary_cross_entropy_with_logits(logits, y), reduction="mean")


def by_sum(importance, logits, y):
    loss = nn.functional.binary_cross_entropy_with_logits(logits, y, reduction="sum")
    importance.backward(loss, reduction="sum")


def by_two_classes(importance, logits, y):
    two = torch.stack([torch.zeros_like(logits), logits], dim=1)
    importance.step(two, y.long(), loss="cross_entropy")


def by_halves(importance, logits, y):
    """Two heads that each get half of the loss: log p of 2 z' with z' = z / 2 twice."""
    importance.step([logits, logits * 0], [y, torch.full_like(y, 0.5)])


@pytest.mark.parametrize(
    "step", [by_logits, by_column, by_loss, by_mean, by_sum, by_two_classes, by_halves]
)
def test_scores_equal_a_loop_over_single_samples(model, loader, plain, step):
    curved = step in (by_logits, by_column, by_halves)  # others draw it, or take it for g²
    assert_scores(measured(model, loader, step), plain, kinds=3 + curved)


def test_counts_positives_means_and_metrics_equal_the_loop(model, loader, plain, tmp_path):
    importance = measured(model, loader, by_logits)
    importance.save(tmp_path / "s")
    stats = open_stats(tmp_path / "s")
    for name, counts in plain.counts.items():
        table = f"{name}.weight"
        assert (stats.count(table) == counts).all()
        assert (stats.arrays[f"tables/{table}/positive"] == plain.positives[name]).all()
        assert (stats.arrays[f"tables/{table}/priority"] == counts).all()
        np.testing.assert_allclose(stats.mean(table), plain.means[name], rtol=1e-6)
        metric = stats.arrays[f"tables/{table}/metric"]
        np.testing.assert_allclose(metric, plain.metrics[name], rtol=1e-5, atol=1e-12)
        curve = np.trace(plain.metrics[name]) / DIM
        sensitivity = stats.arrays[f"tables/{table}/sensitivity"]
        np.testing.assert_allclose(sensitivity, (counts + 0.5) * curve, rtol=1e-6)


def test_the_file_says_how_it_was_measured(model, loader, tmp_path):
    measured(model, loader, by_logits).save(tmp_path / "s")
    metadata = open_stats(tmp_path / "s").metadata
    assert metadata["samples"] == metadata["measured"] == metadata["labelled"] == "72"
    assert (metadata["loss"], metadata["curvature"]) == ("binary", "gauss-newton")
    measured(model, loader, by_loss).save(tmp_path / "s")
    metadata = open_stats(tmp_path / "s").metadata
    assert (metadata["loss"], metadata["curvature"]) == ("per_sample", "empirical")


def test_one_batch_of_another_kind_marks_the_whole(model, loader, tmp_path):
    importance = counted(model, loader)
    (x, y), (other, _) = loader[:2]
    with importance:
        importance.step(model(x), y)
        importance.backward(model(other).square())
        importance.step(model(x), y)
    importance.save(tmp_path / "s")
    metadata = open_stats(tmp_path / "s").metadata
    assert metadata["loss"] == "binary+per_sample"
    assert metadata["curvature"] == "empirical"
    assert "labelled" not in metadata


def test_a_loss_without_labels_saves_no_positives(model, loader, tmp_path):
    measured(model, loader, by_sum).save(tmp_path / "s")
    stats = open_stats(tmp_path / "s")
    assert "labelled" not in stats.metadata
    assert not [key for key in stats.arrays if key.endswith(("positive", "priority"))]


def test_squared_error_and_its_curvature(model, loader, plain, tmp_path):
    importance = counted(model, loader)
    other = counted(model, loader)
    with importance, other:
        for x, y in loader:
            logits = model(x)
            importance.step(logits, y, loss="squared", retain_graph=True)
            other.backward((logits - y).square())
    for field, found in importance.scores().items():
        expected = other.scores()[field]
        for kind in ("score", "score_signed", "sfs"):
            assert found[kind] == pytest.approx(expected[kind], rel=1e-9)
    importance.save(tmp_path / "s")
    metric = open_stats(tmp_path / "s").arrays["tables/user.weight/metric"]
    expected = np.zeros((DIM, DIM))
    uses = 0
    for x, _ in loader:  # one-hot calls and a pair: every vector is one row, coefficient 1
        vectors = {k: v.detach().requires_grad_() for k, v in model.vectors(x).items()}
        names = ("viewer", "author", "pair")
        for pull in torch.autograd.grad(model.logits(vectors).sum(), [vectors[n] for n in names]):
            flat = pull.reshape(-1, DIM)
            expected += 2 * (flat.T @ flat).numpy()
            uses += len(flat)
    np.testing.assert_allclose(metric, expected / uses, rtol=1e-5)


def test_the_curvature_of_classes_is_drawn_without_bias(model, tmp_path):
    """With two classes, z and 0, the expectation is the binary one."""
    loader = batches(3, count=2, samples=2000)
    two, one = counted(model, loader), counted(model, loader)
    with two, one:
        for x, y in loader:
            logits = model(x)
            one.step(logits, y, retain_graph=True)
            both = torch.stack([torch.zeros_like(logits), logits], dim=1)
            two.step(both, y.long(), loss="cross_entropy")
    traces = []
    for importance in (one, two):
        importance.save(tmp_path / "s")
        metric = open_stats(tmp_path / "s").arrays["tables/user.weight/metric"]
        traces.append(float(metric.trace()))
    assert traces[1] == pytest.approx(traces[0], rel=0.05)


def test_the_curvature_of_several_heads_adds_up(model, loader, plain, tmp_path):
    importance = counted(model, loader)
    with importance:
        for x, y in loader:
            logits = model(x)
            importance.step(torch.stack([logits, logits], 1), torch.stack([y, y], 1))
    for field, found in importance.scores().items():
        np.testing.assert_allclose(list(found.values()), 2 * plain.scores[field], rtol=1e-9)
    importance.save(tmp_path / "s")
    metric = open_stats(tmp_path / "s").arrays["tables/user.weight/metric"]
    np.testing.assert_allclose(metric, 2 * plain.metrics["user"], rtol=1e-5)


def in_float32(model, loader, device):
    """The same model and batches in float32, on a device; labels stay where loaders have them."""
    narrow = Everything(torch.float32)
    narrow.load_state_dict(model.state_dict())

    def moved(values):
        return values.to(device, torch.float32 if values.is_floating_point() else None)

    batches = [({name: moved(v) for name, v in x.items()}, y.float()) for x, y in loader]
    return narrow.to(device), batches


@pytest.mark.parametrize("device", DEVICES)
def test_float32_agrees_with_float64(loader, plain, model, device):
    assert_scores(measured(*in_float32(model, loader, device), by_logits), plain, rtol=1e-4)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_comes_close(loader, plain, model, device, dtype):
    narrow, batches = in_float32(model, loader, device)
    importance = counted(narrow, batches)
    with importance, torch.autocast(device, dtype):
        for x, y in batches:
            importance.step(narrow(x), y)
    for field, found in importance.scores().items():
        assert found["score"] == pytest.approx(plain.scores[field][0], rel=0.05), field


def test_a_frozen_table_is_measured_too(model, loader, plain):
    frozen = Everything()
    frozen.load_state_dict(model.state_dict())
    frozen.requires_grad_(requires_grad=False)
    assert_scores(measured(frozen, loader, by_logits), plain)


def test_training_goes_on_beside_the_measurement(model, loader, plain):
    trained = Everything()
    trained.load_state_dict(model.state_dict())
    importance = counted(trained, loader)
    with importance:
        for x, y in loader:
            logits = trained(x)
            importance.step(logits, y, retain_graph=True)
            nn.functional.binary_cross_entropy_with_logits(logits, y).backward()
    assert_scores(importance, plain)
    assert trained.user.weight.grad.abs().sum() > 0
    assert trained.head[0].weight.grad.abs().sum() > 0


def test_measuring_leaves_no_gradients_behind(model, loader):
    measured(model, loader, by_logits)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_fields_may_be_the_columns_of_one_call(model, loader):
    """The tables of all fields in one, ids offset: as torchfm and others have it."""

    class Columns(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Embedding(30, DIM)
            self.head = nn.Linear(3 * DIM, 1)

        def forward(self, ids):
            return self.head(self.one(ids).flatten(1))[:, 0]

    class Apart(nn.Module):
        def __init__(self, of):
            super().__init__()
            self.of = of

        def forward(self, ids):
            vectors = [self.of.one(ids[:, column]) for column in range(3)]
            return self.of.head(torch.cat(vectors, dim=1))[:, 0]

    torch.manual_seed(1)
    together = Columns().double()
    ids = torch.randint(0, 30, (50, 3))
    labels = (torch.rand(50) < 0.5).double()
    found = []
    for net, path in ((together, "one"), (Apart(together), "of.one")):
        importance = Importance(net, dict.fromkeys("abc", path))
        with importance.counting():
            net(ids)
        with importance:
            importance.step(net(ids), labels)
        found.append(importance.scores())
    for field in "abc":
        assert found[0][field] == pytest.approx(found[1][field], rel=1e-12)
