"""Roots of metrics, and metrics as codes are chosen in."""

import numpy as np
import pytest

from sharkstore.quant.metric import RIDGE, WIDEST, cholesky, encoding_metric

F = np.float32


def metric_of(dim, condition=100.0, seed=0):
    turn, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(dim, dim)))
    return (turn * np.geomspace(1 / condition, 1, dim)) @ turn.T


def ridged(metric):
    return metric + RIDGE * np.diagonal(metric).mean() * np.eye(len(metric))


@pytest.mark.parametrize("dim", [1, 2, 7, 16, 64, WIDEST])
@pytest.mark.parametrize("condition", [1, 100, 1e12])
@pytest.mark.parametrize("size", [1e-30, 1, 1e30])
def test_a_root_times_itself_is_the_metric_with_its_ridge(size, condition, dim):
    metric = metric_of(dim, condition) * size
    root = cholesky(metric)
    assert root.dtype == F
    np.testing.assert_array_equal(root, np.tril(root))
    wide = root.astype(float)
    np.testing.assert_allclose(wide @ wide.T, ridged(metric), rtol=1e-5, atol=1e-6 * size)
    np.testing.assert_allclose(root, np.linalg.cholesky(ridged(metric)), rtol=1e-4, atol=1e-4)


def test_a_metric_that_samples_did_not_fill_has_a_root():
    factor = np.random.default_rng(0).normal(size=(16, 3))
    root = cholesky((factor @ factor.T).astype(F)).astype(float)
    np.testing.assert_allclose(root @ root.T, ridged(factor @ factor.T), rtol=1e-4, atol=1e-4)


def test_the_symmetric_part_is_taken():
    metric = metric_of(5)
    skew = np.triu(np.ones((5, 5)), 1) / 100
    np.testing.assert_allclose(cholesky(metric + skew - skew.T), cholesky(metric), atol=1e-6)


@pytest.mark.parametrize(
    ("metric", "diagonal"),
    [
        (np.zeros((3, 3)), [0, 0, 0]),
        (np.diag([4.0, -1.0, 1.0]), [4, 0, 1]),
        (np.array([[1.0, 2.0], [2.0, 1.0]]), [1, 1]),
        (np.array([[np.nan, 0.0], [0.0, 9.0]]), [0, 9]),
        (np.array([[np.inf, 0.0], [0.0, 9.0]]), [0, 9]),
        (np.array([[1.0, np.nan], [0.0, 9.0]]), [1, 9]),
        (np.full((2, 2), -1.0), [0, 0]),
        (np.eye(WIDEST + 1), np.ones(WIDEST + 1)),
    ],
    ids=["zero", "negative", "indefinite", "nan", "infinite", "nan aside", "all negative", "wide"],
)
def test_where_there_is_no_root_that_of_the_diagonal_stands_in(metric, diagonal):
    diagonal = np.array(diagonal, float)
    root = cholesky(metric)
    assert root.shape == diagonal.shape
    assert root.dtype == F
    np.testing.assert_allclose(root**2, diagonal, atol=2 * RIDGE * diagonal.mean(), rtol=1e-5)


@pytest.mark.parametrize("size", [2.0**-140, 1e-20, 1, 3.0, 1e20])
def test_codes_are_chosen_in_a_metric_of_middling_size(size):
    metric = metric_of(8)
    taken = encoding_metric(metric * size)
    assert taken.dtype == F
    assert 1 <= np.diagonal(taken).mean() < 2
    np.testing.assert_allclose(taken / taken[0, 0], ridged(metric) / ridged(metric)[0, 0], 1e-5)


@pytest.mark.parametrize(
    "metric",
    [np.zeros((3, 3)), -np.eye(3), np.full((3, 3), np.nan), np.array([[1, 1e300], [1e300, 1]])],
    ids=["zero", "negative", "nan", "of very different sizes"],
)
def test_without_a_metric_to_choose_in_there_is_none(metric):
    assert encoding_metric(metric) is None
