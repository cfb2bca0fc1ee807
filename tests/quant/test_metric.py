"""Factors of metrics: what they come to, their order, and odd metrics."""

import numpy as np
import pytest

from sharkstore import kernels
from sharkstore.encodings import Encoding
from sharkstore.quant.metric import MOST_DIMS, RIDGE, factor

F = np.float32


def metric_of(dim, condition=100.0, seed=0):
    turn, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(dim, dim)))
    return (turn * np.geomspace(1 / condition, 1, dim)) @ turn.T


def ridged(metric):
    return metric + RIDGE * np.diagonal(metric).mean() * np.eye(len(metric))


def whole(found):
    """The metric that a factor is of, in the order of dims."""
    root = found.root.astype(float)
    metric = np.empty((len(root), len(root)))
    metric[np.ix_(found.order, found.order)] = root @ root.T
    return metric


@pytest.mark.parametrize("dim", [1, 2, 7, 16, 64, MOST_DIMS])
@pytest.mark.parametrize("sub", [1, 2, 4, 8])
@pytest.mark.parametrize("condition", [1, 100, 1e12])
@pytest.mark.parametrize("size", [1e-20, 1, 1e20])
def test_a_root_times_itself_is_the_metric_with_its_ridge(size, condition, sub, dim):
    metric = metric_of(dim, condition) * size
    found = factor(metric, sub)
    assert found.root.dtype == F
    np.testing.assert_array_equal(found.root, np.triu(found.root))
    np.testing.assert_allclose(whole(found), ridged(metric), rtol=1e-5, atol=1e-6 * size)


@pytest.mark.parametrize(("sub", "dim"), [(1, 9), (2, 9), (4, 9), (8, 9), (8, 24), (4, 3)])
def test_dims_of_a_code_stand_together(sub, dim):
    order = factor(metric_of(dim), sub).order.tolist()
    assert sorted(order) == list(range(dim))
    firsts = [d for d in order if d % sub == 0]
    assert order == [d for first in firsts for d in range(first, min(first + sub, dim))]


def test_dims_that_matter_least_come_last_and_equal_ones_stay_in_order():
    assert factor(np.diag([3.0, 1.0, 2.0])).order.tolist() == [0, 2, 1]
    assert factor(np.eye(5)).order.tolist() == [0, 1, 2, 3, 4]
    assert factor(np.diag([1.0, 1, 5, 5, 3, 3]), 2).order.tolist() == [2, 3, 4, 5, 0, 1]
    # what is left of dim 0 once the last dim makes up for it is less than dim 1
    metric = np.array([[2.0, 0, 1.38], [0, 1.5, 0], [1.38, 0, 1.0]])
    assert factor(metric).order.tolist() == [1, 0, 2]


def test_the_symmetric_part_is_taken():
    metric = metric_of(5)
    skew = np.triu(np.ones((5, 5)), 1) / 128
    np.testing.assert_allclose(whole(factor(metric + skew - skew.T)), ridged(metric), atol=1e-6)


def test_a_metric_that_samples_did_not_fill_has_a_root():
    drawn = np.random.default_rng(0).normal(size=(16, 3))
    metric = (drawn @ drawn.T).astype(F)
    np.testing.assert_allclose(whole(factor(metric)), ridged(metric), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("metric", "diagonal"),
    [
        (np.diag([4.0, -9.0, 1.0]), [4, 0, 1]),
        (np.array([[1.0, 2.0], [2.0, 1.0]]), [1, 1]),
        (np.eye(MOST_DIMS + 1), np.ones(MOST_DIMS + 1)),
    ],
    ids=["negative", "indefinite", "wide"],
)
def test_where_there_is_no_root_that_of_the_diagonal_stands_in(metric, diagonal):
    diagonal = np.array(diagonal, float)
    found = factor(metric)
    if found.root.ndim == 2:
        np.testing.assert_array_equal(found.root, np.diag(found.root.diagonal()))
    np.testing.assert_array_equal(found.order[np.argsort(-diagonal[found.order])], found.order)
    expected = diagonal + RIDGE * diagonal.mean()
    np.testing.assert_allclose(found.diagonal**2, expected[found.order], rtol=1e-5)


@pytest.mark.parametrize("metric", [np.zeros((6, 6)), -np.eye(6)], ids=["zero", "negative"])
def test_in_a_metric_of_zeros_codes_are_plain_and_errors_weigh_next_to_nothing(metric):
    rows = np.random.default_rng(0).normal(size=(50, 6)).astype(F)
    found = factor(metric)
    for name in ("int4", "int2"):
        encoding = Encoding(name)
        plain = kernels.encode_rows(encoding, rows)
        np.testing.assert_array_equal(kernels.encode_rows(encoding, rows, factor=found), plain)
        assert (kernels.distortions(encoding, rows, found) < 1e-20).all()


@pytest.mark.parametrize("metric", [np.ones((2, 3)), np.ones(4), np.full((2, 2), np.nan)])
def test_what_is_no_metric_is_refused(metric):
    with pytest.raises(ValueError, match="a metric is"):
        factor(metric)
